"""OpenAI's HTTP API, driven by the `openai` package as its users would."""

import asyncio
import base64
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from api import backpressure
from api.core import Core
from tests.api.harness import ENDLESS, HI, TOKEN, Wire, app, client, eventually, run

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter" / "starter.gguf")
MESSAGES: Any = HI
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time of day",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
        "strict": True,
    },
}
CALL = '<tool_call>{"name": "clock"%2C "arguments": {"zone": "UTC"}}</tool_call>'


@contextlib.asynccontextmanager
async def user(core: Core, key: str = TOKEN, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=core.base_url, api_key=key, **options) as made:
        yield made


@contextlib.asynccontextmanager
async def watched(core: Core) -> AsyncIterator[Wire]:
    async with client(core) as wire:
        await wire.command("subscribe")
        yield wire


def test_chat_whole_and_streamed(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=20") as core, user(core) as api, watched(core) as wire:
            whole = await api.chat.completions.create(model="any", messages=MESSAGES, temperature=0)
            text = whole.choices[0].message.content
            assert text
            assert whole.model == "fake"
            assert whole.choices[0].finish_reason == "stop"
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 20
            assert whole.usage.total_tokens == whole.usage.prompt_tokens + 20
            timings = whole.model_extra["timings"]  # type: ignore[index]  # an extra field
            assert (timings["predicted_n"], timings["cache_n"] + timings["prompt_n"]) == (
                20,
                whole.usage.prompt_tokens,
            )
            # what others see of it, live
            queued = await wire.event("generation.queued")
            assert queued["origin"] == "chat_completions"
            assert queued["client_name"].startswith("AsyncOpenAI/Python")
            assert queued["generation_id"].removeprefix("gen_") == whole.id.removeprefix("chatcmpl-")
            assert (await wire.finished(queued["generation_id"]))["text"] == text

            stream = await api.chat.completions.create(
                model="any",
                messages=[{"role": "developer", "content": "Be brief."}, *MESSAGES],
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["stop"]
            assert chunks[-1].choices == []
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 20
            assert all(chunk.usage is None for chunk in chunks[:-1])
            without = await api.chat.completions.create(model="", messages=MESSAGES, stream=True)
            async for chunk in without:
                assert chunk.choices
                assert "usage" not in chunk.model_fields_set

    run(test())


def test_choices_seeds_stops_and_logprobs(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=30") as core, user(core) as api:
            create = api.chat.completions.create
            first = await create(model="x", messages=MESSAGES, n=3, seed=-7, temperature=1.0)
            again = await create(model="x", messages=MESSAGES, n=3, seed=-7, temperature=1.0)
            texts = [choice.message.content for choice in first.choices]
            assert [choice.message.content for choice in again.choices] == texts
            assert len(set(texts)) == 3
            assert first.usage is not None
            assert first.usage.completion_tokens == 90

            whole = texts[0] or ""
            words = whole.split()
            cut = await create(model="x", messages=MESSAGES, seed=-7, temperature=1.0, stop=words[10])
            assert cut.choices[0].message.content == whole[: whole.index(words[10])]
            assert cut.choices[0].finish_reason == "stop"
            for limit in ({"max_tokens": 4}, {"max_completion_tokens": 4}):
                short = await create(model="x", messages=MESSAGES, **limit)  # type: ignore[call-overload]
                assert short.choices[0].finish_reason == "length"
                assert short.usage.completion_tokens == 4

            told = await create(model="x", messages=MESSAGES, logprobs=True, top_logprobs=2)
            logprobs = told.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert "".join(token.token for token in logprobs.content) == told.choices[0].message.content
            assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in logprobs.content)
            assert bytes(logprobs.content[0].bytes or ()).decode() == logprobs.content[0].token
            stream = await create(model="x", messages=MESSAGES, logprobs=True, stream=True, n=2)
            seen: dict[int, int] = {0: 0, 1: 0}
            async for chunk in stream:
                choice = chunk.choices[0]
                if choice.logprobs is not None:
                    seen[choice.index] += len(choice.logprobs.content or ())
            assert seen == {0: 30, 1: 30}

    run(test())


def test_tools(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, f"fake:script={CALL}") as core, user(core) as api:
            create = api.chat.completions.create
            whole = await create(model="x", messages=MESSAGES, tools=[CLOCK], parallel_tool_calls=True)
            choice = whole.choices[0]
            assert choice.finish_reason == "tool_calls"
            assert choice.message.tool_calls is not None
            (call,) = choice.message.tool_calls
            assert call.type == "function"
            assert (call.function.name, json.loads(call.function.arguments)) == ("clock", {"zone": "UTC"})
            # the answer goes back into the conversation, as SDKs write it
            answer: Any = [
                *MESSAGES,
                choice.message,
                {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "12:00"}]},
            ]
            assert (await create(model="x", messages=answer, tools=[CLOCK])).choices

            async with api.chat.completions.stream(model="x", messages=MESSAGES, tools=[CLOCK]) as stream:
                final = await stream.get_final_completion()
            assert final.choices[0].message.tool_calls
            (streamed,) = final.choices[0].message.tool_calls
            assert json.loads(streamed.function.arguments) == {"zone": "UTC"}
            assert final.choices[0].finish_reason == "tool_calls"
            none = await create(model="x", messages=MESSAGES, tools=[CLOCK], tool_choice="none")
            assert none.choices[0].message.tool_calls is None

    run(test())


def test_structured_output_of_a_real_model(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bo"]}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }

    async def test() -> None:
        async with app(tmp_path, STARTER) as core, user(core) as api:
            create: Any = api.chat.completions.create
            form = {"type": "json_schema", "json_schema": {"name": "who", "schema": schema, "strict": True}}
            answer = await create(model="x", messages=MESSAGES, response_format=form)
            told = json.loads(answer.choices[0].message.content)
            assert told["name"] in ("Ada", "Bo")
            assert isinstance(told["age"], int)
            answer = await create(model="x", messages=MESSAGES, tools=[CLOCK], tool_choice="required")
            assert answer.choices[0].finish_reason == "tool_calls"
            wrong = {**form, "json_schema": {"name": "who", "schema": {"not": {}}}}
            with pytest.raises(openai.BadRequestError) as caught:
                await create(model="x", messages=MESSAGES, response_format=wrong)
            assert "not" in str(caught.value.param)

    run(test())


def test_completions(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=12") as core, user(core) as api, watched(core) as wire:
            create = api.completions.create
            several = await create(model="x", prompt=["one", "two"], n=2, echo=True, max_tokens=5)
            assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
            assert [choice.text[:3] for choice in several.choices] == ["one", "one", "two", "two"]
            assert several.usage is not None
            assert several.usage.completion_tokens == 20
            assert (await wire.event("generation.queued"))["origin"] == "completions"

            ids = await create(model="x", prompt=[65, 66, 67], logprobs=2)
            assert ids.usage is not None
            assert ids.usage.prompt_tokens == 3
            told = ids.choices[0].logprobs
            assert told is not None
            assert told.tokens is not None
            assert told.text_offset is not None
            for token, offset in zip(told.tokens, told.text_offset, strict=True):
                assert ids.choices[0].text[offset:].startswith(token)
            assert all(len(top) == 2 for top in told.top_logprobs or ())

            stream = await create(model="x", prompt="one", stream=True, echo=True, seed=3)
            whole = await create(model="x", prompt="one", echo=True, seed=3)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text
            for wrong in ({"suffix": "x"}, {"best_of": 3}, {"prompt": [[1], "x"]}, {"prompt": [10**9]}):
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(**({"model": "x", "prompt": "x"} | wrong))
                assert caught.value.param in wrong

    run(test())


def test_embeddings(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:embedding=1") as core, user(core) as api:
            create = api.embeddings.create
            both = await create(model="x", input=["one", "two"])  # the package asks for base64
            plain = await create(model="x", input=["one", "two"], encoding_format="float")
            raw = await api.post(
                "/embeddings",
                body={"input": "one", "encoding_format": "base64"},
                cast_to=object,
            )
            text = raw["data"][0]["embedding"]  # type: ignore[index]  # plain JSON
            packed = base64.b64decode(text)
            numbers = struct.unpack(f"<{len(packed) // 4}f", packed)
            assert list(numbers) == both.data[0].embedding
            assert plain.data[0].embedding == pytest.approx(both.data[0].embedding, abs=1e-6)
            assert both.data[0].embedding != both.data[1].embedding
            assert both.usage.prompt_tokens == plain.usage.total_tokens > 0
            ids = await create(model="x", input=[[1, 2, 3], [4]])
            assert ids.usage.prompt_tokens == 4
            assert len((await create(model="x", input=[1, 2, 3])).data) == 1
            cases: tuple[dict[str, Any], ...] = (
                {"input": []},
                {"input": [[-1]]},
                {"input": "x", "dimensions": 1},
            )
            for wrong in cases:
                with pytest.raises(openai.BadRequestError):
                    await create(model="x", **wrong)

    run(test())


def test_models_and_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:ctx=64") as core, user(core, max_retries=0) as api:
            await eventually(lambda: core.supervisor.phase == "ready")
            (model,) = (await api.models.list()).data
            assert (model.id, model.object) == ("fake", "model")
            assert (await api.models.retrieve("fake")).id == "fake"
            with pytest.raises(openai.NotFoundError) as lost:
                await api.models.retrieve("no/such model")
            assert lost.value.code == "model_not_found"
            # any name is answered by the loaded model, but not that of another one in the library
            with pytest.raises(openai.NotFoundError) as lost:
                await api.chat.completions.create(model="starter", messages=MESSAGES)
            assert (lost.value.code, lost.value.param) == ("model_not_found", "model")
            with pytest.raises(openai.NotFoundError):
                await api.get("/lost", cast_to=object)
            async with user(core, "wrong") as other:
                with pytest.raises(openai.AuthenticationError):
                    await other.models.list()
            part = [{"type": "image_url", "image_url": {"url": "data:,"}}]
            wrong: list[tuple[dict[str, Any], str]] = [
                ({"messages": [{"role": "user", "content": part}]}, "messages[0].content[0]"),
                ({"messages": []}, "messages"),
                ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
                ({"temperature": 99}, "temperature"),
                ({"temperature": "hot"}, "temperature"),
                ({"n": 1000}, "n"),
                ({"n": 0}, "n"),
                ({"stream": "yes"}, "stream"),
                ({"top_logprobs": 3}, "top_logprobs"),
                ({"logprobs": True, "top_logprobs": 50}, "logprobs"),
                ({"functions": [{"name": "f"}]}, "functions"),
                ({"tools": [{"type": "web_search"}]}, "tools[0]"),
                ({"modalities": ["text", "audio"]}, "modalities"),
                ({"response_format": {"type": "json_schema"}}, "response_format"),
                ({"max_tokens": 0}, "max_tokens"),
                ({"model": 7}, "model"),
            ]
            create: Any = api.chat.completions.create
            for fields, param in wrong:
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(**({"model": "x", "messages": MESSAGES} | fields))
                assert caught.value.param == param
                assert caught.value.type == "invalid_request_error"
            for stream in (False, True):
                long = [{"role": "user", "content": "far too long " * 100}]
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(model="x", messages=long, stream=stream)
                assert caught.value.code == "context_length_exceeded"
            # null is as good as nothing, and what changes nothing is ignored
            ignored: dict[str, Any] = dict.fromkeys(("stop", "seed", "tools", "n", "temperature"))
            ignored |= {"user": "me", "store": True, "reasoning_effort": "low", "something_new": 1}
            assert await create(model="x", messages=MESSAGES, max_tokens=3, extra_body=ignored)
            for body in (b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b'{"a":1e999}'):
                answer = await api._client.post(
                    "/chat/completions", content=body, headers={"Authorization": f"Bearer {TOKEN}"}
                )
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")

    run(test())


def test_the_sync_package_and_twenty_at_once(tmp_path: Path) -> None:
    def ask(core: Core) -> tuple[str, str]:
        with OpenAI(base_url=core.base_url, api_key=TOKEN) as api:
            whole = api.chat.completions.create(model="x", messages=MESSAGES, temperature=0)
            with api.chat.completions.create(
                model="x", messages=MESSAGES, temperature=0, stream=True
            ) as stream:
                parts = [chunk.choices[0].delta.content or "" for chunk in stream]
            return whole.choices[0].message.content or "", "".join(parts)

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=40") as core:
            text, streamed = await asyncio.to_thread(ask, core)
            assert text
            assert streamed == text
            async with user(core) as api:

                async def one(number: int) -> str:
                    said = [{"role": "user", "content": f"question {number}"}]
                    kinds: Any = {"model": "x", "messages": said, "temperature": 0}
                    whole = (await api.chat.completions.create(**kinds)).choices[0].message.content
                    parts = [
                        chunk.choices[0].delta.content or ""
                        async for chunk in await api.chat.completions.create(**kinds, stream=True)
                    ]
                    assert "".join(parts) == whole
                    return whole or ""

                assert len(set(await asyncio.gather(*(one(n) for n in range(20))))) == 20
            await eventually(lambda: not core._server._open)
            assert core.clients._by_key == {}

    run(test())


def test_closing_a_stream_ends_the_generation(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, user(core) as api, watched(core) as wire:
            stream = await api.chat.completions.create(model="x", messages=MESSAGES, stream=True, n=2)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            await stream.close()
            await eventually(lambda: len(wire.events("generation.queued")) == 2)
            for queued in wire.events("generation.queued"):
                end = await wire.finished(queued["generation_id"])
                assert end["finish_reason"] == "cancelled"
            gone = await wire.event("client.disconnected")
            assert gone["reason"] == "lost"

    run(test())


def test_a_full_queue_is_a_rate_limit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, f"{ENDLESS},slots=1") as core, user(core, max_retries=0) as api:
            await eventually(lambda: core.supervisor.phase == "ready")
            ask: Any = api.chat.completions.create
            held = [asyncio.create_task(ask(model="x", messages=MESSAGES, n=32)) for _ in range(8)]
            await eventually(lambda: len(core.state.generations) == 256)
            with pytest.raises(openai.RateLimitError):
                await ask(model="x", messages=MESSAGES, n=32)
            await eventually(lambda: len(core.state.generations) == 256)
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await eventually(lambda: not core.state.generations)
            assert (await ask(model="x", messages=MESSAGES, max_tokens=2)).usage.completion_tokens == 2

    run(test())


def request(core: Core, **fields: Any) -> bytes:
    body = json.dumps({"messages": HI, **fields}).encode()
    place = core.base_url.removeprefix("http://").removesuffix("/v1")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {TOKEN}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize("how", ("close", "half", "reset"))
def test_who_leaves_is_not_written_for(tmp_path: Path, how: str, stream: bool) -> None:
    """Whether it waits for a slot, is in its prompt or in its answer."""

    async def test() -> None:
        async with app(tmp_path, f"{ENDLESS},prefill_ms=2,slots=1") as core, watched(core) as wire:
            await eventually(lambda: core.supervisor.phase == "ready")
            port = int(core.base_url.split(":")[2].split("/")[0])
            long = [{"role": "user", "content": "word " * 300}]
            for state, messages in (("generation.queued", HI), ("generation.started", long), (None, HI)):
                other = await wire.generate() if state == "generation.queued" else None
                if other is not None:
                    await wire.event("generation.delta", generation_id=other)
                start = len(wire.frames)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(core, stream=stream, messages=messages))
                name = state or "generation.delta"
                seen = await wire.until(
                    lambda f, name=name, other=other: f["type"] == name and f["generation_id"] != other,  # type: ignore[misc]
                    start,
                )
                if how == "half":
                    writer.write_eof()
                elif how == "reset":
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                else:
                    writer.close()
                end = await wire.finished(seen["generation_id"])
                assert end["finish_reason"] == "cancelled"
                if how == "half":
                    await reader.read()  # the connection ends
                    writer.close()
                if other is not None:
                    await wire.command("cancel", generation_id=other)
                    await wire.finished(other)
            await eventually(lambda: len(core._server._open) == 1)

    run(test())


def test_who_does_not_read_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "STALL_S", 0.5)

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=100000,ctx=200000,delay_ms=1") as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*", "generation.queued", "generation.finished"])
            await eventually(lambda: core.supervisor.phase == "ready")
            port = int(core.base_url.split(":")[2].split("/")[0])
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", port))
            raw.sendall(request(core, stream=True, logprobs=True, top_logprobs=20))
            gone = await wire.event("client.disconnected")
            assert gone["reason"] == "slow"
            queued = await wire.event("generation.queued")
            assert (await wire.finished(queued["generation_id"]))["finish_reason"] == "cancelled"
            raw.close()

    run(test())


def test_an_engine_that_dies_is_no_matter_and_one_that_fails_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=40,abort_after=25,delay_ms=2") as core, user(core) as api:
            parts = []
            async for chunk in await api.chat.completions.create(model="x", messages=MESSAGES, stream=True):
                parts.append(chunk)  # noqa: PERF401 - as a user writes it
            assert parts[-1].choices[0].finish_reason == "stop"
        async with app(tmp_path / "b", "fake:nan_after=5,delay_ms=2") as core, user(core) as api:
            with pytest.raises(openai.InternalServerError):
                await api.with_options(max_retries=0).chat.completions.create(model="x", messages=MESSAGES)
            with pytest.raises(openai.APIError) as caught:
                async for _ in await api.chat.completions.create(model="x", messages=MESSAGES, stream=True):
                    pass
            assert caught.value.code == "invalid_output"

    run(test())
