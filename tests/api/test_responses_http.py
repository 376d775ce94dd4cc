"""OpenAI's Responses API over HTTP, driven by the `openai` package as its users would."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from api.core import Core
from api.responses import table
from api.responses.story import Story
from tests.api.harness import ENDLESS, TOKEN, app, client, eventually, run
from tests.api.test_responses_ws import CALL, CLOCK, bare, running

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter" / "starter.gguf")


@contextlib.asynccontextmanager
async def user(core: Core, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=core.base_url, api_key=TOKEN, **({"max_retries": 0} | options)) as made:
        yield made


def test_whole_and_streamed(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=20") as core, user(core) as api, client(core) as wire:
            await wire.command("subscribe")
            whole = await api.responses.create(model="any", input="hi", temperature=0)
            assert whole.status == "completed"
            assert whole.output_text
            assert whole.usage is not None
            assert whole.usage.total_tokens == whole.usage.input_tokens + 20
            assert whole.model_extra["timings"]["predicted_n"] == 20  # type: ignore[index]  # an extra field
            queued = await wire.event("generation.queued")
            assert queued["origin"] == "responses"
            assert queued["client_name"].startswith("AsyncOpenAI/Python")

            stream = await api.responses.create(model="any", input="hi", temperature=0, stream=True)
            events: list[Any] = [event async for event in stream]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[0].type == "response.created"
            assert events[-1].type == "response.completed"
            assert events[-1].response.output_text == whole.output_text

            async with api.responses.stream(model="any", input="hi", temperature=0) as helper:
                text = ""
                async for event in helper:
                    if event.type == "response.output_text.delta":
                        text += event.delta
                        assert event.snapshot == text
                final = await helper.get_final_response()
            assert final.output_text == text == whole.output_text
            probabilities = await api.responses.create(
                model="any", input="hi", include=["message.output_text.logprobs"], top_logprobs=2
            )
            message: Any = probabilities.output[0]
            part = message.content[0]
            assert len(part.logprobs) == 20
            assert all(len(one.top_logprobs) == 2 for one in part.logprobs)

    run(test())


def test_the_sync_package_in_a_loop_of_tools(tmp_path: Path) -> None:
    def loop(core: Core) -> list[str]:
        kinds: list[str] = []
        with OpenAI(base_url=core.base_url, api_key=TOKEN) as api:
            response = api.responses.create(model="x", input="What time is it?", tools=[CLOCK])
            for choice in ("auto", "none"):
                kinds += [item.type for item in response.output]
                results: Any = [
                    {"type": "function_call_output", "call_id": item.call_id, "output": "12:00"}
                    for item in response.output
                    if item.type == "function_call"
                ]
                response = api.responses.create(
                    model="x",
                    input=results,
                    previous_response_id=response.id,
                    tools=[CLOCK],
                    tool_choice=choice,
                )
            kinds += [item.type for item in response.output]
            with api.responses.stream(model="x", input="hi", tools=[CLOCK]) as stream:
                pieces = [
                    event.delta for event in stream if event.type == "response.function_call_arguments.delta"
                ]
                streamed = stream.get_final_response()
            (call,) = streamed.output
            assert call.type == "function_call"
            assert json.loads(call.arguments) == {"zone": "UTC"}
            assert "".join(pieces) == call.arguments
        return kinds

    async def test() -> None:
        async with app(tmp_path, f"fake:script={CALL}") as core:
            assert await asyncio.to_thread(loop, core) == ["function_call", "function_call", "message"]

    run(test())


class Person(BaseModel):
    name: Literal["Ada", "Bo"]
    grown: bool


def test_structured_output_of_a_real_model(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, STARTER) as core, user(core) as api:
            parsed = await api.responses.parse(
                model="x", input="Name a person.", text_format=Person, max_output_tokens=400
            )
            assert parsed.status == "completed", parsed.output_text
            assert isinstance(parsed.output_parsed, Person)
            async with api.responses.stream(
                model="x", input="Name a person.", text_format=Person, max_output_tokens=400
            ) as stream:
                final = await stream.get_final_response()
            assert isinstance(final.output_parsed, Person)
            answer = await api.responses.create(
                model="x",
                input="Name a person.",
                text={"format": {"type": "json_object"}},
                max_output_tokens=400,
            )
            if answer.status == "completed":
                assert isinstance(json.loads(answer.output_text), dict)
            forced = await api.responses.create(
                model="x", input="hi", tools=[CLOCK], tool_choice="required", max_output_tokens=400
            )
            assert forced.output[-1].type == "function_call"

    run(test())


def test_responses_that_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:echo=1") as core, user(core) as api:
            first = await api.responses.create(model="x", input="one")
            second = await api.responses.create(
                model="x", input=[{"role": "user", "content": "two"}], previous_response_id=first.id
            )
            assert await api.responses.retrieve(first.id) == first
            page = await api.responses.input_items.list(second.id)
            items: list[Any] = page.data
            shown = [item.content[0].text for item in items]
            assert shown == ["two", "one", "one"]  # the question, the answer before, and its question
            few = await api.responses.input_items.list(second.id, limit=1, order="asc")
            rest = await api.responses.input_items.list(second.id, order="asc", after=few.data[0].id)
            assert [item.id for item in (*few.data, *rest.data)] == [item.id for item in page.data][::-1]
            reference: Any = {"type": "item_reference", "id": first.output[0].id}
            third = await api.responses.create(
                model="x", input=[reference, {"role": "user", "content": "on"}]
            )
            assert third.usage is not None
            assert third.usage.input_tokens > second.usage.input_tokens - 20  # type: ignore[union-attr]
            unstored = await api.responses.create(model="x", input="x", store=False)
            for wrong in (unstored.id, "resp_x"):
                with pytest.raises(openai.NotFoundError):
                    await api.responses.retrieve(wrong)
            await api.responses.delete(first.id)
            with pytest.raises(openai.NotFoundError):
                await api.responses.retrieve(first.id)
            with pytest.raises(openai.NotFoundError):
                await api.responses.delete(first.id)
            for gone in (first.id, second.id):  # and what goes on from it
                with pytest.raises(openai.BadRequestError) as caught:
                    await api.responses.create(model="x", input="x", previous_response_id=gone)
                assert caught.value.code == "previous_response_not_found"
            # what has ended stays as it is
            assert (await api.responses.cancel(third.id)).status == "completed"

    run(test())


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_RESPONSES", 6)

    async def test() -> None:
        async with app(tmp_path, "fake:echo=1,ctx=200000") as core, user(core) as api:

            async def on(previous: str | None = None) -> str:
                fields: Any = {} if previous is None else {"previous_response_id": previous}
                response: Any = await api.responses.create(model="x", input="on", **fields)
                return str(response.id)

            root = await on()
            second = await on(root)
            others = [await on() for _ in range(4)]
            last = await on(await on(second))  # eight
            # the chain that was used last is whole, what was used longest ago is gone
            assert (await api.responses.retrieve(root)).status == "completed"
            for gone in others[:2]:
                with pytest.raises(openai.NotFoundError):
                    await api.responses.retrieve(gone)
            assert (await api.responses.retrieve(others[-1])).status == "completed"
            assert await on(last)
            monkeypatch.setattr(table, "MAX_BYTES", 100_000)
            big = await api.responses.create(model="x", input="x" * 90_000, max_output_tokens=1)
            assert (await api.responses.retrieve(big.id)).id == big.id
            with pytest.raises(openai.NotFoundError):
                await api.responses.retrieve(others[-1])

    run(test())


def test_errors_are_400_and_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:ctx=256") as core, user(core) as api:
            cases: list[tuple[dict[str, Any], str, str]] = [
                ({"input": 7}, "input", "invalid_type"),
                ({"temperature": 99}, "temperature", "invalid_value"),
                ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
                ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
                ({"text": {"format": {"type": "xml"}}}, "text.format", "invalid_value"),
                ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
                ({"background": True}, "background", "unsupported_parameter"),
            ]
            create: Any = api.responses.create
            for stream in (False, True):
                for fields, param, code in cases:
                    with pytest.raises(openai.BadRequestError) as caught:
                        await create(**({"model": "x", "input": "hi", "stream": stream} | fields))
                    assert str(caught.value.param).startswith(param)
                    assert caught.value.code == code
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(model="x", input="far too long " * 200, stream=stream)
                assert caught.value.code == "context_length_exceeded"
            with pytest.raises(openai.NotFoundError) as lost:
                await create(model="starter", input="x")
            assert lost.value.code == "model_not_found"
            for method, path, status in (
                ("PUT", "/responses", 405),
                ("GET", "/responses", 426),
                ("POST", "/responses/resp_x", 405),
                ("GET", "/responses/resp_x/nothing", 404),
                ("GET", "/responses/resp_x?stream=true", 400),
                ("GET", "/responses/resp_x/input_items?limit=0", 404),
            ):
                answer = await api._client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
                assert answer.status_code == status, (method, path, answer.text)
                assert answer.json()["error"]["message"]

    run(test())


def test_a_stream_as_it_stands_on_the_wire(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:script=Hi.") as core, user(core) as api:
            answer = await api._client.post(
                "/responses",
                json={"input": "hi", "stream": True},
                headers={"Authorization": f"Bearer {TOKEN}"},
            )
            assert answer.headers["content-type"].startswith("text/event-stream")
            blocks = answer.text.strip().split("\n\n")
            assert blocks[-1] == "data: [DONE]"
            for block in blocks[:-1]:
                name, data = block.split("\n")
                assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")

    run(test())


def test_closing_cancels_and_so_does_cancel(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, user(core) as api:
            stream = await api.responses.create(model="x", input="hi", stream=True)
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            await stream.close()
            await eventually(lambda: running(core) == 0)
            assert not core.state.generations

            task = asyncio.create_task(api.responses.create(model="x", input="hi"))
            await eventually(lambda: running(core) == 1)
            (generation_id,) = core.state.generations
            response_id = f"resp_{generation_id.removeprefix('gen_')}"
            await eventually(lambda: core.state.generations[generation_id].n_tokens > 3)
            so_far = await api.responses.retrieve(response_id)
            assert so_far.status == "in_progress"
            cancelled = await api.responses.cancel(response_id)
            assert cancelled.status == "cancelled"
            assert cancelled.output_text
            assert (await task).status == "cancelled"
            assert (await api.responses.retrieve(response_id)).status == "cancelled"
            async with bare(core) as one:
                await one.create()
                created = await one.until("response.created")
                assert (await api.responses.cancel(created["response"]["id"])).status == "cancelled"
                assert (await one.end())["response"]["status"] == "cancelled"

    run(test())


def test_a_rewind_is_followed_where_nothing_is_streamed(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, user(core) as api, client(core) as wire:
            await wire.command("subscribe")
            task = asyncio.create_task(api.responses.create(model="x", input="hi"))
            generation_id = (await wire.event("generation.queued"))["generation_id"]
            await wire.event("generation.delta", generation_id=generation_id)
            await wire.command("rewind", generation_id=generation_id, tokens=1)
            await wire.command("inject", generation_id=generation_id, text="Injected. ")
            await wire.command("cancel", generation_id=generation_id)
            response = await task
            assert response.output_text == (await wire.finished(generation_id))["text"]
            assert "Injected. " in response.output_text

    run(test())


def test_a_bug_in_mid_stream_is_told_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Story.take

    def broken(self: Story, event: Any) -> Any:
        if self.next_number > 8:
            raise RuntimeError("a bug")
        return take(self, event)

    monkeypatch.setattr(Story, "take", broken)

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, user(core) as api:
            stream = await api.responses.create(model="x", input="hi", stream=True)
            events: list[Any] = [event async for event in stream]
            last = events[-1]
            assert (last.type, last.code, last.param) == ("error", "internal", None)
            assert last.sequence_number == len(events) - 1
            assert "bug" in last.message
            await eventually(lambda: running(core) == 0)

    run(test())
