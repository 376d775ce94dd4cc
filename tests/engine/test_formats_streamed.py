"""The arguments of calls in pieces: joined they are always those of the whole call, in every format.

However the text is cut, wherever it is rewound and however often another worker takes over.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import GenerationDelta, ToolCallDelta
from engine.formats import Format
from tests.engine.spoken import Listener, Speaker
from tests.engine.test_formats_any import (
    FORMATS,
    GEMMA,
    JSON_FORMATS,
    MINIMAX,
    PARAMETER_FORMATS,
    TOOLS,
    garbage,
    written,
)

ARGUMENTS: dict[str, Any] = {"text": 'Zürich\nand 光, "so" on and on', "count": 3, "any": [1, {"a": None}]}


def as_code(arguments: dict[str, Any], mark: str, colon: str) -> str:
    def value(one: Any) -> str:
        return f"{mark}{one}{mark}" if isinstance(one, str) and mark else repr(one)

    return ", ".join(f"{key}{colon}{value(one)}" for key, one in arguments.items())


def text_of(name: str, form: Format, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as a model of this format writes them."""
    if name == "harmony":
        header = "<|channel|>commentary to=functions.{} json<|message|>"
        texts = [header.format(called) + json.dumps(arguments) for called, arguments in calls]
        return "<|call|><|start|>assistant".join(texts)
    if name == "functionary-v3.2":
        return ">>>".join(f"{called}\n{json.dumps(arguments)}" for called, arguments in calls)
    if name == "lfm2":
        bodies = [f"{called}({as_code(arguments, '', '=')})" for called, arguments in calls]
        return "<|tool_call_start|>[" + ", ".join(bodies) + "]<|tool_call_end|>"
    if form is GEMMA:
        bodies = [called + "{" + as_code(arguments, '<|"|>', ":") + "}" for called, arguments in calls]
        return "".join(f"<|tool_call>call:{body}<tool_call|>" for body in bodies)
    if form is MINIMAX:
        return minimax(calls)
    if name == "llama3":
        return json.dumps({"name": calls[0][0], "parameters": calls[0][1]})
    return written(form, calls)


def minimax(calls: list[tuple[str, dict[str, Any]]]) -> str:
    mark = "]<]minimax[>["

    def element(key: str, value: Any) -> str:
        if isinstance(value, dict):
            inner = "".join(element(name, one) for name, one in value.items())
        elif isinstance(value, list):
            inner = "".join(element("item", one) for one in value)
        else:
            inner = value if isinstance(value, str) else json.dumps(value)
        return f"{mark}<{key}>{inner}{mark}</{key}>"

    bodies = [
        f'\n{mark}<invoke name="{called}">'
        + "".join(element(key, value) for key, value in arguments.items())
        + f"{mark}</invoke>"
        for called, arguments in calls
    ]
    return f"{mark}<tool_call>" + "".join(bodies) + f"\n{mark}</tool_call>"


FEWEST: dict[str, int] = {
    **dict.fromkeys((*JSON_FORMATS, "kimi with control tokens", "llama3", "harmony", "functionary-v3.2"), 60),
    **dict.fromkeys(PARAMETER_FORMATS, 15),
    **dict.fromkeys(("lfm2", "gemma", "minimax"), 3),
}
"""In how many pieces the arguments come where the text comes in single characters: as written; strings
as written and all else argument by argument; argument by argument."""


def test_every_format_is_listed() -> None:
    assert FEWEST.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_arguments_come_in_pieces(name: str) -> None:
    calls = [("get_weather", ARGUMENTS), ("look_up", {"text": "x" * 30, "count": 7})]
    if name == "llama3":
        del calls[1]  # it writes one call, as a bare object
    listener, speaker = Listener(), Speaker(FORMATS[name], TOOLS)
    for character in text_of(name, FORMATS[name], calls):
        listener.take(speaker.say(character))
    listener.take(speaker.finish())
    assert [(call.name, json.loads(call.arguments)) for call in listener.calls] == calls
    first = listener.calls[0].id
    assert listener.n_fragments[first] >= FEWEST[name], listener.n_fragments


@st.composite
def said(draw: st.DrawFn, name: str) -> str:
    """Something that may be calls, or nearly."""
    form = FORMATS[name]
    keys = st.fixed_dictionaries(
        {},
        optional={
            "text": st.text(max_size=30) | st.sampled_from(("a, b", "<![CDATA[<b>]]>", "</x>", "\n\n")),
            "count": st.integers(),
            "any": st.sampled_from(([], {"a": 1}, [1, [2]], None, 1.5)),
        },
    )
    names = st.sampled_from(("get_weather", "look_up", "nobody"))
    calls = draw(st.lists(st.tuples(names, keys), min_size=1, max_size=3))
    text = text_of(name, form, calls)
    if draw(st.booleans()):  # cut out a part, or put something in
        a, b = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        text = text[:a] + draw(garbage(form) | st.just("")) + text[min(b, a + 5) :]
    return draw(st.sampled_from(("", "Well.\n"))) + text


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    if draw(st.booleans()):
        return list(text)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=40)))
    return [text[a:b] for a, b in pairwise([0, *places, len(text)])]


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=30)
def test_pieces_join_to_the_arguments(name: str, data: st.DataObject) -> None:
    """Rewinds and other workers included; a rewound part is said again."""
    chunks = data.draw(cut(data.draw(said(name))))
    hands = data.draw(st.dictionaries(st.integers(0, 60), st.integers(0, 9), max_size=6))
    plain, disturbed = Listener(), Listener()
    speaker, other = Speaker(FORMATS[name], TOOLS), Speaker(FORMATS[name], TOOLS)
    for i, chunk in enumerate(chunks):
        plain.take(speaker.say(chunk))
        disturbed.take(other.say(chunk))
        n = hands.get(i)
        if n == 0:
            other.recover()
        elif n is not None:
            n = min(n, i + 1)
            disturbed.take(other.rewind(n))
            for again in chunks[i + 1 - n : i + 1]:
                disturbed.take(other.say(again))
        assert disturbed.open_call == plain.open_call == speaker.output.open_call
    plain.take(speaker.finish())
    disturbed.take(other.finish())
    assert disturbed.calls == plain.calls == speaker.output.tool_calls
    for call in plain.calls:
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=20)
def test_where_the_text_is_cut_decides_when_and_not_what(name: str, data: st.DataObject) -> None:
    text = data.draw(said(name))
    ended = []
    for chunks in ([text], list(text), data.draw(cut(text))):
        listener, speaker = Listener(), Speaker(FORMATS[name], TOOLS)
        for chunk in chunks:
            listener.take(speaker.say(chunk))
        listener.take(speaker.finish())
        told = [(call.name, call.arguments) for call in listener.given_back if call.name is not None]
        ended.append((listener.calls, speaker.output.text, told))
    assert ended[0][:2] == ended[1][:2] == ended[2][:2]
    # in one piece a call that is none needn't have been begun; what was begun began the same
    assert ended[2][2] == ended[1][2][: len(ended[2][2])] or len(ended[2][2]) <= len(ended[1][2])


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_breaks_off_is_given_back_whole(name: str) -> None:
    text = text_of(name, FORMATS[name], [("get_weather", ARGUMENTS)])
    text = text[: text.index("any") + 2]  # in the middle of the arguments
    listener, speaker = Listener(), Speaker(FORMATS[name], TOOLS)
    for character in text:
        listener.take(speaker.say(character))
    begun = speaker.output.open_call
    assert begun is not None
    assert begun.name == "get_weather"
    assert begun.arguments.startswith("{")
    listener.take(speaker.finish())
    assert listener.calls == []
    assert [(call.name, call.text) for call in listener.given_back] == [(begun.name, begun.text)]
    assert begun.text in speaker.output.text


def test_a_name_that_no_tool_has_is_told_with_the_whole_call() -> None:
    speaker = Speaker(FORMATS["hermes"], TOOLS)
    events = [
        event
        for character in '<tool_call>{"name": "nobody", "arguments": {"a": 1}}</tool_call>'
        for event in speaker.say(character)
    ]
    told = [event for event in events if isinstance(event, ToolCallDelta) and event.arguments]
    assert [(event.name, event.text, event.arguments) for event in told] == [("nobody", "", '{"a": 1}')]
    assert not any(isinstance(event, GenerationDelta) and event.text for event in events)


def test_arguments_before_the_name_wait_for_it() -> None:
    listener, speaker = Listener(), Speaker(FORMATS["hermes"], TOOLS)
    text = '<tool_call>{"arguments": {"text": "abc"}, "id": 7, "name": "look_up"}</tool_call>'
    for character in text:
        listener.take(speaker.say(character))
    (call,) = listener.calls
    assert (call.name, call.arguments) == ("look_up", '{"text": "abc"}')
    assert listener.n_fragments == {call.id: 1}


@pytest.mark.parametrize("name", PARAMETER_FORMATS)
def test_of_arguments_that_come_twice_the_first_counts(name: str) -> None:
    form = FORMATS[name]
    one, two = (text_of(name, form, [("look_up", {"text": text})]) for text in ("first", "second"))
    start = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert form.calls is not None
    begin = one.rindex(form.calls.parameter_open.strip(), 0, start)
    end = one.index("first") + len("first") + len(form.calls.value_close)
    text = one[:end] + two[begin : end + 1] + one[end:]
    listener, speaker = Listener(), Speaker(form, TOOLS)
    for character in text:
        listener.take(speaker.say(character))
    listener.take(speaker.finish())
    assert [json.loads(call.arguments) for call in listener.calls] == [{"text": "first"}]
