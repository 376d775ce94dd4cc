"""What users of OpenAI's API rely on beside its fields: seeds, limits, closing, keep-alive, local habits."""

import json
import math
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from api import chat_templates
from api.core import Core
from api.paths import Paths
from api.protocol import MAX_TEMPLATE_CHARS
from tests.api.harness import ENDLESS, HI, TOKEN, app, client, eventually, run

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter" / "starter.gguf")
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ASKED: dict[str, Any] = {"model": "x", "messages": HI}
TEMPLATE = """{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}
{%- if enable_thinking is defined %} thinking={{ enable_thinking }}{% endif %}
{%- if reasoning_effort is defined %} effort={{ reasoning_effort }}{% endif %}
{%- if user_name is defined %} for {{ user_name }}{% endif %}[assistant]"""


def user(core: Core, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=core.base_url, api_key=TOKEN, **options)


async def streamed(api: AsyncOpenAI, **asked: Any) -> dict[int, str]:
    """The texts of a stream's choices."""
    texts: dict[int, str] = {}
    stream: Any = await api.chat.completions.create(**{**ASKED, "stream": True, **asked})
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_a_real_model_says_the_same_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, STARTER) as core, user(core) as api:
            create: Any = api.chat.completions.create
            for sampling in ({"temperature": 0}, {"temperature": 1.2, "seed": 4711}):
                asked = {**ASKED, **sampling, "max_tokens": 24}
                first = (await create(**asked)).choices[0].message.content
                assert (await create(**asked)).choices[0].message.content == first
                assert await streamed(api, **asked) == {0: first}
            wild = await create(**ASKED, temperature=2.0, max_tokens=24, n=4)
            texts = {choice.message.content for choice in wild.choices}
            assert len(texts) > 1, "without a seed it may differ"
            several = {**ASKED, "temperature": 1.2, "seed": 5, "n": 3, "max_tokens": 24}
            whole = await create(**several)
            assert await streamed(api, **several) == {
                choice.index: choice.message.content for choice in whole.choices
            }

    run(test())


def test_logprobs_are_those_of_a_distribution(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, STARTER) as core, user(core) as api:
            answer = await api.chat.completions.create(
                **ASKED, logprobs=True, top_logprobs=20, max_tokens=12, temperature=0
            )
            told = answer.choices[0].logprobs
            assert told is not None
            assert told.content
            for token in told.content:
                tops = [top.logprob for top in token.top_logprobs]
                assert tops == sorted(tops, reverse=True)
                assert sum(map(math.exp, tops)) <= 1 + 1e-4
                assert token.logprob == pytest.approx(tops[0]), "greedy takes the likeliest"
                assert token.top_logprobs[0].token == token.token

    run(test())


def test_limits_stops_and_nothing_at_all(tmp_path: Path) -> None:
    said = "The naïve café — 東京タワー, 👩‍👩‍👧‍👦 and \u202ertl. " * 40
    asked: dict[str, Any] = {"model": "x", "messages": [{"role": "user", "content": said}]}

    async def test() -> None:
        async with app(tmp_path, "fake:echo=1,bytes=1,ctx=16384") as core, user(core) as api:
            create: Any = api.chat.completions.create
            # characters that are split between tokens come whole
            assert (await create(**asked)).choices[0].message.content == said
            assert await streamed(api, **asked) == {0: said}
            for stop in ("東京", ["nowhere", "東京"], ["👧", "東京", "never"]):
                assert await streamed(api, **asked, stop=stop) == {0: said[: said.index("東")]}
            one = await create(**asked, max_tokens=1)
            assert (one.choices[0].finish_reason, one.usage.completion_tokens) == ("length", 1)
            assert await streamed(api, **asked, max_tokens=1) == {0: "T"}
            # a token that ends in the middle of a character is shown as one that can't be read
            cut = (await create(**asked, max_tokens=7)).choices[0].message.content
            assert cut.startswith("The na")
            contents: tuple[Any, ...] = ("", [], None)
            for content in contents:
                empty = [{"role": "system", "content": "x"}, {"role": "user", "content": content}]
                assert (await create(model="x", messages=empty)).choices[0].finish_reason
        async with app(tmp_path / "none", "fake:tokens=0") as core, user(core) as api:
            nothing = await api.chat.completions.create(**ASKED)
            assert nothing.choices[0].message.content == ""
            assert nothing.choices[0].finish_reason == "stop"
            assert (await streamed(api)) == {0: ""}

    run(test())


def test_usage_and_timings_in_streams(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=15") as core:
            for path, asked in (
                ("/chat/completions", {"messages": HI}),
                ("/completions", {"prompt": "Once upon"}),
            ):
                more = {"n": 2, "max_tokens": 9}
                whole = (await post(core, path, {**asked, **more})).json()
                options = {"stream": True, "stream_options": {"include_usage": True}}
                text = (await post(core, path, {**asked, **more, **options})).text
                frames = text.split("\n\n")
                assert frames[-2:] == ["data: [DONE]", ""]
                chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
                assert len({chunk["id"] for chunk in chunks}) == 1
                assert all(chunk["usage"] is None for chunk in chunks[:-1])
                last = chunks[-1]
                assert last["choices"] == []
                for told in (whole, last):
                    assert told["usage"]["completion_tokens"] == 18
                    timings = told["timings"]
                    assert set(timings) >= {
                        f"{phase}_{what}"
                        for phase in ("prompt", "predicted")
                        for what in ("n", "ms", "per_token_ms", "per_second")
                    }
                    assert timings["predicted_n"] == 9
                ends = [chunk for chunk in chunks[:-1] if chunk["choices"][0]["finish_reason"]]
                assert len(ends) == 2
                assert all(chunk["timings"]["predicted_n"] == 9 for chunk in ends)

    run(test())


async def post(core: Core, path: str, body: dict[str, Any]) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=60) as plain:
        return await plain.post(core.base_url + path, json=body, headers=BEARER)


def test_tool_choice_of_a_real_model(tmp_path: Path) -> None:
    def tool(name: str) -> dict[str, Any]:
        where = {"type": "object", "properties": {"at": {"enum": ["home", "work"]}}, "required": ["at"]}
        return {"type": "function", "function": {"name": name, "description": "x", "parameters": where}}

    tools = [tool("lamp"), tool("heater")]

    async def test() -> None:
        async with app(tmp_path, STARTER) as core, user(core) as api:
            create: Any = api.chat.completions.create
            asked = {**ASKED, "tools": tools, "max_tokens": 400}
            named = await create(**asked, tool_choice={"type": "function", "function": {"name": "heater"}})
            (call,) = named.choices[0].message.tool_calls
            assert call.function.name == "heater"
            assert json.loads(call.function.arguments)["at"] in ("home", "work")
            needed = await create(**asked, tool_choice="required", parallel_tool_calls=False)
            (call,) = needed.choices[0].message.tool_calls
            assert call.function.name in ("lamp", "heater")
            assert (await create(**asked, tool_choice="none")).choices[0].message.tool_calls is None
            assert (await create(**{**asked, "max_tokens": 20}, tool_choice="auto")).choices
            oven = {"type": "function", "function": {"name": "oven"}}
            for wrong in ("lamp", oven, {"type": "allowed_tools"}):
                with pytest.raises(openai.BadRequestError):
                    await create(**asked, tool_choice=wrong)
            stream = await create(**asked, tool_choice="required", parallel_tool_calls=False, stream=True)
            choices = [chunk.choices[0] async for chunk in stream]
            parts = [call for choice in choices for call in choice.delta.tool_calls or ()]
            assert json.loads("".join(part.function.arguments for part in parts))["at"] in ("home", "work")
            assert choices[-1].finish_reason == "tool_calls"

    run(test())


def test_a_closed_stream_gives_its_slot_back_at_once(tmp_path: Path) -> None:
    """Prints how long it takes from closing until the next one has the only slot."""

    async def test() -> None:
        async with app(tmp_path, f"{ENDLESS},slots=1") as core, user(core) as api, client(core) as wire:
            await wire.command("subscribe", events=["generation.*"])
            took = []
            for number in range(8):
                stream: Any = await api.chat.completions.create(**ASKED, stream=True)
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break
                await eventually(lambda: len(wire.events("generation.queued")) == number + 1)  # noqa: B023
                seen = wire.events("generation.queued")
                closed = time.monotonic()
                await stream.close()
                end = await wire.finished(seen[-1]["generation_id"])
                assert end["finish_reason"] == "cancelled"
                took.append(1000 * (time.monotonic() - closed))
            print(f"slot free {min(took):.1f} to {max(took):.1f} ms after closing")
            # a client's own time limit closes too
            with pytest.raises(openai.APITimeoutError):
                await api.with_options(timeout=0.3, max_retries=0).chat.completions.create(**ASKED)
            await eventually(lambda: not core.state.generations)

    run(test())


def test_a_connection_is_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # of the package, for what comes behind a stream's end: a tenth of a second
    monkeypatch.setattr("openai._streaming_cleanup._DRAIN_TIMEOUT", 60.0)

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=5") as core:
            limits = httpx2.Limits(max_connections=1, keepalive_expiry=None)
            async with (
                httpx2.AsyncClient(limits=limits, timeout=60) as http,
                user(core, http_client=http, max_retries=0) as api,
            ):
                ports = set()

                async def note(response: httpx2.Response) -> None:
                    ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))

                http.event_hooks = {"response": [note]}
                for _ in range(3):
                    assert (await api.chat.completions.create(**ASKED)).choices
                    assert (await streamed(api))[0]
                    assert (await api.models.list()).data
                    with pytest.raises(openai.BadRequestError):
                        await api.chat.completions.create(**ASKED, n=0)
                assert len(ports) == 1

    run(test())


def test_other_methods(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, httpx2.AsyncClient(timeout=60) as plain:
            for method, path, allow in (
                ("HEAD", "/chat/completions", "POST"),
                ("GET", "/chat/completions", "POST"),
                ("PUT", "/chat/completions", "POST"),
                ("OPTIONS", "/models", "GET"),
                ("DELETE", "/models/fake", "GET"),
            ):
                answer = await plain.request(method, core.base_url + path, headers=BEARER)
                assert answer.status_code == 405, (method, path)
                assert answer.headers["allow"] == allow
            for path in ("/models", "/models/fake"):
                got, head = [
                    await plain.request(method, core.base_url + path, headers=BEARER)
                    for method in ("GET", "HEAD")
                ]
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == str(len(got.content))

    run(test())


def test_templates_get_further_variables(tmp_path: Path) -> None:
    async def prompt(core: Core, **more: Any) -> int:
        """How long the prompt was that the template made."""
        answer = await post(core, "/chat/completions", {"messages": HI, "max_tokens": 1, **more})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    async def test() -> None:
        paths = Paths.resolve(tmp_path)
        chat_templates.store(paths, "starter", TEMPLATE)
        async with app(tmp_path, "starter") as core, client(core) as wire:
            plain = await prompt(core)
            off = await prompt(core, chat_template_kwargs={"enable_thinking": False})
            assert off > plain
            assert await prompt(core, enable_thinking=False) == off
            assert await prompt(core, reasoning_effort="low") > plain
            named = {"user_name": "Ada", "enable_thinking": False}
            assert await prompt(core, chat_template_kwargs=named, enable_thinking=True) > off
            assert await prompt(core, chat_template_kwargs={"nobody_knows": [1, {"a": None}]}) == plain
            generation = await wire.generate(chat_template_kwargs={"enable_thinking": False}, max_tokens=1)
            assert (await wire.finished(generation))["usage"]["prompt_tokens"] == off
            wrongs: tuple[Any, ...] = (
                {"messages": []},
                {"tools": []},
                {"bos_token": "x"},
                {"add_generation_prompt": False},
                {"a b": 1},
                {"x": "y" * MAX_TEMPLATE_CHARS},
                {f"n{i}": i for i in range(33)},
                [],
            )
            for wrong in wrongs:
                body = {"messages": HI, "chat_template_kwargs": wrong}
                answer = await post(core, "/chat/completions", body)
                assert answer.status_code == 400, wrong
                assert "chat_template_kwargs" in answer.json()["error"]["param"]

    run(test())


def test_other_servers_words(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}

    async def test() -> None:
        async with app(tmp_path, STARTER) as core, client(core) as wire:
            await wire.command("subscribe", events=["generation.queued"])
            for path, asked in (("/chat/completions", {"messages": HI}), ("/completions", {"prompt": "x"})):
                for name in ("json_schema", "guided_json"):
                    told = (await post(core, path, {**asked, name: schema})).json()["choices"][0]
                    text = told["message"]["content"] if "message" in told else told["text"]
                    assert json.loads(text)["n"] in (1, 2)
                for name in ("guided_regex", "guided_choice", "guided_grammar", "structured_outputs"):
                    error = (await post(core, path, {**asked, name: "a|b"})).json()["error"]
                    assert (error["code"], error["param"]) == ("unsupported_parameter", name)
                # one that is obeyed must be in its range
                for name in ("repeat_penalty", "repetition_penalty", "top_k", "min_p"):
                    error = (await post(core, path, {**asked, name: -1.5})).json()["error"]
                    assert error["param"] in ("repeat_penalty", name)
                    assert (await post(core, path, {**asked, name: 1, "max_tokens": 2})).status_code == 200

    run(test())
