"""Calls of functions in a stream: arguments come as the model writes them, and are the whole call's."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from api.openai.calls import MAX_HEAD, Arguments, CallStream
from engine.events import GenerationFinished, ToolCallDelta, ToolCallDone
from engine.formats.values import body_of_object
from engine.types import Timings, ToolCall, Usage
from tests.api.harness import HI, TOKEN, app, client, run

NAMES = ("clock", "weather")
TOOL: Any = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {}}}},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def chunked(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


def delta(text: str, call_id: str = "c") -> ToolCallDelta:
    return ToolCallDelta(generation_id="g", call_id=call_id, text=text, tokens=[])


def done(name: str, arguments: str, call_id: str = "c") -> ToolCallDone:
    return ToolCallDone(generation_id="g", call=ToolCall(id=call_id, name=name, arguments=arguments))


def finished(reason: Any = "stop") -> GenerationFinished:
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    return GenerationFinished(
        generation_id="g", finish_reason=reason, text="", usage=usage, timings=Timings()
    )


@given(
    arguments=st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from((None, 0, 2)),
    key=st.sampled_from(("arguments", "parameters")),
    line_breaks=st.booleans(),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_pieces_join_to_the_whole(
    arguments: dict[str, Any],
    ascii_only: bool,
    indent: int | None,
    key: str,
    line_breaks: bool,
    cuts: list[int],
) -> None:
    said = {"name": "clock", key: arguments}
    text = json.dumps(said, ensure_ascii=ascii_only, indent=indent) + "\n"
    if line_breaks:  # as models leave them in strings
        text = text.replace("\\n", "\n").replace("\\t", "\t")
    body = body_of_object(text)
    stream = CallStream(NAMES)
    told = [one for part in chunked(text, cuts) for one in stream.delta(delta(part))]
    before = "".join(one["function"]["arguments"] for one in told)
    if body is None:  # a backslash before what was replaced
        return
    told += stream.done(done(body.name, body.arguments))
    stream.end(finished())
    assert stream.failure is None
    assert told[0]["function"]["name"] == "clock"
    assert [one["index"] for one in told] == [0] * len(told)
    assert json.loads("".join(one["function"]["arguments"] for one in told)) == json.loads(body.arguments)
    assert json.loads(before) == json.loads(body.arguments), "all of it had come before the call was whole"


@given(st.text(alphabet='{}[]":,\\ nameclockrgut\n', max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_whatever_stands_there_ends_well_or_is_told(text: str, cuts: list[int]) -> None:
    stream = CallStream(NAMES)
    for part in chunked(text, cuts):
        list(stream.delta(delta(part)))
    told = list(stream.done(done("weather", '{"a": 1}')))
    if stream.failure is None:
        assert json.loads("".join(one["function"]["arguments"] for one in told)) == {"a": 1}


def test_what_can_not_be_told_early_comes_at_once() -> None:
    for text in (
        'clock[ARGS]{"zone": 1}',
        '{"zone": 1}',
        '{"name": "nobody", "arguments": {"zone": 1}}',
        '{"arguments": {"zone": 1}, "name": "clock"}',
        '{"name": "clock", "arguments": "{\\"zone\\": 1}"}',
        '{"function": {"name": "clock", "arguments": {"zone": 1}}}',
        " " * MAX_HEAD + '{"name": "clock", "arguments": {"zone": 1}}',
    ):
        stream = CallStream(NAMES)
        assert not [
            one for part in chunked(text, [3, 9, 20, MAX_HEAD + 1]) for one in stream.delta(delta(part))
        ], text
        begin, rest = stream.done(done("clock", '{"zone": 1}'))
        assert (begin["id"], begin["function"]["name"]) == ("c", "clock")
        assert rest["function"]["arguments"] == '{"zone": 1}'


def test_several_calls_have_places_of_their_own() -> None:
    stream = CallStream(NAMES)
    told: list[dict[str, Any]] = []
    for number in range(3):
        arguments = json.dumps({"n": number})
        told += stream.delta(delta(f'{{"name": "clock", "arguments": {arguments}}}', f"c{number}"))
        told += stream.done(done("clock", arguments, f"c{number}"))
    assert [one["index"] for one in told] == [0, 0, 1, 1, 2, 2]
    assert [one["id"] for one in told if "id" in one] == ["c0", "c1", "c2"]


def test_a_call_that_was_none_is_an_error() -> None:
    begun = '{"name": "clock", "arguments": {"zone": "U'
    stream = CallStream(NAMES)
    assert list(stream.delta(delta(begun)))
    stream.end(finished("length"))
    told = [stream.failure]
    stream.end(finished())
    told.append(stream.failure)
    assert told[0] is None, "cut short is told by the reason"
    assert told[1] is not None
    for other in (done("weather", '{"zone": "UTC"}'), done("clock", '{"zone": "CET"}')):
        stream = CallStream(NAMES)
        list(stream.delta(delta(begun + 'TC"}}')))
        assert not list(stream.done(other))
        assert stream.failure is not None
    arguments = Arguments(NAMES)
    arguments.push(begun)
    assert (arguments.name, arguments.sent) == ("clock", '{"zone": "U')


CALLS = "".join(
    f'<tool_call>\n{{"name": "clock", "arguments": {{"zone": "{zone}"}}}}\n</tool_call>\n'
    for zone in ("UTC", "CET")
)


def test_one_call_is_all_where_only_one_is_wanted(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, f"fake:delay_ms=2,script={quote('Well. ' + CALLS + 'That was it.')}") as core,
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
            assert len(parts) > 3
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
