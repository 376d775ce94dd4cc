"""Calls of functions in a stream: arguments come as the model writes them, and are the whole call's."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from api.openai.calls import BROKEN_OFF, REWOUND, CallStream
from engine.events import Event, GenerationEvent
from engine.types import FinishReason
from tests.api.harness import HI, TOKEN, app, client, run
from tests.engine.spoken import Speaker
from tests.engine.test_formats_any import FORMATS, TOOLS
from tests.engine.test_formats_streamed import said

TOOL: Any = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {}}}},
}
HERMES = "hermes"
LOOK_UP = '<tool_call>\n{"name": "look_up", "arguments": {"text": "a \\"b\\"", "count": 12}}\n</tool_call>'
ARGUMENTS = '{"text": "a \\"b\\"", "count": 12}'


class Client:
    """What a client has heard of calls, put together as clients do."""

    def __init__(self, form: str = HERMES) -> None:
        self.speaker = Speaker(FORMATS[form], TOOLS)
        self.stream = CallStream()
        self.ids: list[str] = []
        self.names: list[str] = []
        self.arguments: list[str] = []
        self.n_pieces = 0

    def hear(self, events: list[Event]) -> None:
        for event in events:
            assert isinstance(event, GenerationEvent)
            if self.stream.failure is None:  # nobody is told more
                for told in self.stream.take(event):
                    self._add(told)

    def _add(self, told: dict[str, Any]) -> None:
        function = told["function"]
        if "id" in told:
            assert told["index"] == len(self.ids)
            assert told["type"] == "function"
            assert function["arguments"] == ""
            self.ids.append(told["id"])
            self.names.append(function["name"])
            self.arguments.append("")
        else:
            assert function["arguments"]
            self.arguments[told["index"]] += function["arguments"]
            self.n_pieces += 1

    def say(self, *texts: str) -> None:
        for text in texts:
            self.hear(self.speaker.say(text))

    def finish(self, reason: FinishReason = "stop") -> None:
        self.hear(self.speaker.finish(reason))

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        return list(zip(self.ids, self.names, self.arguments, strict=True))

    @property
    def made(self) -> list[tuple[str, str, str]]:
        return [(call.id, call.name, call.arguments) for call in self.speaker.output.tool_calls]


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=20)
def test_what_is_told_is_the_calls_or_a_failure(name: str, data: st.DataObject) -> None:
    """Whatever the model writes, and wherever it is rewound."""
    text = data.draw(said(name))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    reason: FinishReason = data.draw(st.sampled_from(("stop", "length", "cancelled")))
    rewinds = data.draw(st.dictionaries(st.integers(0, 30), st.integers(1, 9), max_size=2))
    heard = Client(name)
    for i, (a, b) in enumerate(pairwise([0, *cuts, len(text)])):
        heard.say(text[a:b])
        if i in rewinds:
            heard.hear(heard.speaker.rewind(rewinds[i]))
    heard.finish(reason)
    if heard.stream.failure is not None:
        assert heard.stream.failure == BROKEN_OFF or (rewinds and heard.stream.failure == REWOUND)
        assert heard.calls
    elif reason == "stop":
        assert heard.calls == heard.made
    else:
        assert heard.calls[: len(heard.made)] == heard.made
        assert len(heard.calls) <= len(heard.made) + 1, "one may be cut short"


def test_arguments_come_as_they_are_written() -> None:
    heard = Client()
    heard.say(*LOOK_UP[: LOOK_UP.index(": 12")])
    assert heard.names == ["look_up"]
    assert heard.arguments == ['{"text": "a \\"b\\"", "count"']
    heard.say(*LOOK_UP[LOOK_UP.index(": 12") :])
    heard.finish()
    assert heard.arguments == [ARGUMENTS]
    assert heard.n_pieces == len(ARGUMENTS) - 2, "an escape comes whole"


def test_several_calls_have_places_of_their_own() -> None:
    heard = Client()
    for number in range(3):
        heard.say(*f'<tool_call>{{"name": "look_up", "arguments": {{"n": {number}}}}}</tool_call>')
    heard.finish()
    assert heard.arguments == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert heard.calls == heard.made


def test_a_call_that_was_none_is_a_failure_and_one_cut_short_is_told_by_the_reason() -> None:
    begun = LOOK_UP[:60]
    reasons: tuple[tuple[FinishReason, bool], ...] = (("stop", True), ("length", False), ("cancelled", False))
    for reason, fails in reasons:
        heard = Client()
        heard.say(*begun)
        heard.finish(reason)
        assert (heard.stream.failure == BROKEN_OFF) == fails
        assert heard.stream.given_back, "its text isn't told a second time"
    heard = Client()
    heard.say(*LOOK_UP[: LOOK_UP.index("12")], *"}}")  # no JSON
    assert heard.stream.failure == BROKEN_OFF


def test_what_is_rewound_may_come_again_but_nothing_else() -> None:
    heard = Client()
    heard.say(*LOOK_UP[:70])
    heard.hear(heard.speaker.rewind(30))
    heard.say(*LOOK_UP[40:])
    heard.finish()
    assert heard.stream.failure is None
    assert heard.arguments == [ARGUMENTS]
    for again in (LOOK_UP[40:].replace("a ", "b "), "Well, no."):
        heard = Client()
        heard.say(*LOOK_UP[:70])
        heard.hear(heard.speaker.rewind(30))
        heard.say(*again)
        heard.finish()
        assert heard.stream.failure == REWOUND


def test_a_response_whose_call_breaks_off_fails_and_is_stopped(tmp_path: Path) -> None:
    text = '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC", }}\n</tool_call>' + "word " * 4000

    async def test() -> None:
        async with (
            app(tmp_path, f"fake:delay_ms=5,ctx=32768,script={quote(text)}") as core,
            AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
            client(core) as wire,
        ):
            await wire.command("subscribe", events=["generation.*"])
            flat: Any = [{"type": "function", "strict": False, **TOOL["function"]}]
            stream = await api.responses.create(model="x", input="hi", tools=flat, stream=True)
            events: list[Any] = [event async for event in stream]
            assert events[-1].type == "response.failed"
            assert events[-1].response.error.message == BROKEN_OFF.message
            assert events[-1].response.output[0].status == "incomplete"
            finished = await wire.event("generation.finished")
            assert finished["finish_reason"] == "cancelled"
            assert finished["tool_calls"] == []
            assert '"zone": "UTC"' in finished["text"]

    run(test())


CALLS = "".join(
    f'<tool_call>\n{{"name": "clock", "arguments": {{"zone": "{zone}"}}}}\n</tool_call>\n'
    for zone in ("UTC", "CET")
)


def test_one_call_is_all_where_only_one_is_wanted(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, f"fake:delay_ms=30,script={quote('Well. ' + CALLS + 'That was it.')}") as core,
            AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
            client(core) as wire,
        ):
            create: Any = api.chat.completions.create
            asked: dict[str, Any] = {"model": "x", "messages": HI, "tools": [TOOL]}
            both = await create(**asked)
            assert len(both.choices[0].message.tool_calls) == 2
            assert both.choices[0].message.content.strip().endswith("That was it.")
            for several in (True, None):
                same = await create(**asked, parallel_tool_calls=several)
                assert len(same.choices[0].message.tool_calls) == 2
            one = await create(**asked, parallel_tool_calls=False)
            (call,) = one.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) == {"zone": "UTC"}
            assert one.choices[0].message.content.strip() == "Well."
            assert one.choices[0].finish_reason == "tool_calls"
            assert one.usage.completion_tokens < both.usage.completion_tokens
            stream = await create(**asked, parallel_tool_calls=False, stream=True)
            choices = [chunk.choices[0] async for chunk in stream]
            parts = [call for choice in choices for call in choice.delta.tool_calls or ()]
            assert {part.index for part in parts} == {0}
            assert len(parts) > 2, "not in one piece"
            assert json.loads("".join(part.function.arguments for part in parts)) == {"zone": "UTC"}
            with pytest.raises(openai.BadRequestError):
                await create(**asked, parallel_tool_calls="no")
            # the same of the Responses API
            flat: Any = [{"type": "function", "strict": False, **TOOL["function"]}]
            response = await api.responses.create(
                model="x", input="hi", tools=flat, parallel_tool_calls=False
            )
            assert [item.type for item in response.output].count("function_call") == 1
            # the same on the stream: every token once, and nothing behind the call
            generation = await wire.generate(tools=[TOOL], parallel_tool_calls=False)
            end = await wire.finished(generation)
            assert len(end["tool_calls"]) == 1
            assert wire.indices(generation) == list(range(end["usage"]["completion_tokens"]))

    run(test())


def test_a_call_that_breaks_off_is_an_error_in_the_stream_and_text_in_a_whole_answer(tmp_path: Path) -> None:
    broken = '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC", '

    async def test() -> None:
        async with (
            app(tmp_path, f"fake:script={quote(broken)}") as core,
            AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
        ):
            asked: dict[str, Any] = {"model": "x", "messages": HI, "tools": [TOOL]}
            create: Any = api.chat.completions.create
            whole = await create(**asked)
            assert whole.choices[0].message.tool_calls is None
            assert '"zone": "UTC"' in whole.choices[0].message.content
            with pytest.raises(openai.APIError) as caught:
                async for _ in await create(**asked, stream=True):
                    pass
            assert caught.value.code == "invalid_output"

    run(test())


async def arguments_by_chat(api: AsyncOpenAI) -> str:
    create: Any = api.chat.completions.create
    stream = await create(model="x", messages=HI, tools=[TOOL], stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    parts = [part for choice in choices for part in choice.delta.tool_calls or ()]
    assert choices[-1].finish_reason == "tool_calls"
    return "".join(part.function.arguments for part in parts)


async def arguments_by_responses(api: AsyncOpenAI) -> str:
    flat: Any = [{"type": "function", "strict": False, **TOOL["function"]}]
    stream = await api.responses.create(model="x", input="hi", tools=flat, stream=True)
    events: list[Any] = [event async for event in stream]
    assert events[-1].type == "response.completed"
    return "".join(event.delta for event in events if event.type.endswith("arguments.delta"))


WAYS = pytest.mark.parametrize("way", (arguments_by_chat, arguments_by_responses))
Way = Callable[[AsyncOpenAI], Coroutine[Any, Any, str]]


@WAYS
def test_no_piece_is_lost_or_doubled_over_a_workers_death(way: Way, tmp_path: Path) -> None:
    arguments = '{"zone": "Europe/Oslo", "n": [1, 2]}'
    text = f'<tool_call>\n{{"name": "clock", "arguments": {arguments}}}\n</tool_call>'
    dies_at = text.index("Oslo") + 2

    async def test() -> None:
        model = f"fake:bytes=1,delay_ms=2,abort_after={dies_at},script={quote(text)}"
        async with (
            app(tmp_path, model) as core,
            AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
            client(core) as wire,
        ):
            await wire.command("subscribe", events=["generation.*"])
            assert await way(api) == arguments
            finished = await wire.event("generation.finished")
            (recovered,) = (frame for frame in wire.frames if frame["type"] == "generation.recovered")
            assert recovered["at_token"] == dies_at
            deltas = [frame for frame in wire.frames if frame["type"] == "generation.tool_call.delta"]
            assert "".join(frame["arguments"] for frame in deltas) == arguments
            assert finished["tool_calls"][0]["arguments"] == arguments

    run(test())


@WAYS
def test_a_rewind_into_a_call_that_comes_again_is_not_noticed(way: Way, tmp_path: Path) -> None:
    arguments = json.dumps({"zone": "Europe/Oslo " * 30})
    text = f'<tool_call>\n{{"name": "clock", "arguments": {arguments}}}\n</tool_call>'

    async def test() -> None:
        async with (
            app(tmp_path, f"fake:bytes=1,delay_ms=12,script={quote(text)}") as core,
            AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
            client(core) as wire,
        ):
            await wire.command("subscribe", events=["generation.*"])
            asked = asyncio.create_task(way(api))
            enough = text.index("Oslo")
            begun = await wire.until(
                lambda frame: any(token["index"] == enough for token in frame.get("tokens", ()))
            )
            key = begun["generation_id"]
            await wire.command("pause", generation_id=key)
            await wire.command("rewind", generation_id=key, tokens=4)
            rewound = await wire.event("generation.rewound")
            await wire.command("resume", generation_id=key)
            assert await asked == arguments
            left = rewound["open_call"]
            assert left["name"] == "clock"
            assert arguments.startswith(left["arguments"])
            after = [
                frame["arguments"]
                for frame in wire.frames
                if frame["type"] == "generation.tool_call.delta" and frame["seq"] > rewound["seq"]
            ]
            assert left["arguments"] + "".join(after) == arguments

    run(test())
