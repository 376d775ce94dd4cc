"""Answers in the most common form: calls are found, what is none stays text, cuts make no difference."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.formats import HERMES, AnswerParser, CallText, Piece, ReasoningText
from engine.formats.call import Call
from engine.formats.objects import ObjectReader
from engine.formats.reader import Reader
from engine.types import ToolCall
from tests.engine.harness import CLOCK_TOOL

CLOCK = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>'
SUM = '<tool_call>\n{"name":"calculator","arguments":{"expression":"2 + 2"}}\n</tool_call>'


def hermes() -> AnswerParser:
    return AnswerParser(HERMES, generation_id="g", tools=[CLOCK_TOOL])


def feed(chunks: list[str]) -> list[Piece]:
    parser = hermes()
    pieces = [piece for chunk in chunks for piece in parser.push(chunk)]
    return pieces + parser.finish()


def joined(pieces: list[Piece]) -> tuple[str, dict[str, str], list[ToolCall]]:
    """Plain text, each call's text, the whole calls."""
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    call_texts: dict[str, str] = {}
    for piece in pieces:
        if isinstance(piece, CallText):
            call_texts[piece.call_id] = call_texts.get(piece.call_id, "") + piece.text
    return text, call_texts, [piece for piece in pieces if isinstance(piece, ToolCall)]


def test_a_call_is_found_and_its_arguments_stay_as_written() -> None:
    text, call_texts, calls = joined(feed([f"Let me look.\n{CLOCK}"]))
    assert text == "Let me look."
    assert calls == [ToolCall(id="call_g_0", name="clock", arguments='{"zone": "UTC"}')]
    assert call_texts == {"call_g_0": '{"name": "clock", "arguments": {"zone": "UTC"}}'}


def test_several_calls_have_ids_of_their_own_and_no_white_space_between() -> None:
    text, _, calls = joined(feed([f"{CLOCK}\n{SUM}\n"]))
    assert text == ""
    assert [(call.id, call.name) for call in calls] == [("call_g_0", "clock"), ("call_g_1", "calculator")]


def test_text_after_a_call_is_kept() -> None:
    text, _, calls = joined(feed([f"one {CLOCK} two {SUM}three "]))
    assert text == "onetwothree "
    assert len(calls) == 2


def test_plain_text_is_passed_on_at_once_but_for_what_may_begin_a_tag() -> None:
    parser = hermes()
    assert parser.push("1 < 2 and <b") == ["1 < 2 and <b"]
    assert parser.push(" <tool") == []
    assert parser.push("box>") == [" <toolbox>"]
    assert parser.push(" \n") == []
    assert parser.finish() == [" \n"]


def test_reasoning_is_told_apart_at_the_beginning_only() -> None:
    pieces = feed(["<think>\nHm, ", "2 + 2 </think\n</think>\n\nFour. <think>"])
    assert "".join(p.text for p in pieces if isinstance(p, ReasoningText)) == "Hm, 2 + 2 </think"
    assert joined(pieces)[0] == "Four. <think>"


@pytest.mark.parametrize(
    "inside",
    (
        "",
        "no JSON",
        "[1, 2]",
        "42",
        '"clock"',
        "{}",
        '{"name": 5}',
        '{"name": ""}',
        '{"name": "two words"}',
        '{"name": "\\ud800"}',
        '{"name": "clock", "arguments": [1]}',
        '{"name": "clock", "arguments": null}',
        '{"name": "clock", "arguments": "no object"}',
        '{"name": "clock", "arguments": "[]"}',
        '{"name": "clock", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',
        '{"name": "clock", "arguments": {"a": NaN}}',
        '{"name": "clock", "arguments": {"a": 1}} and more',
        '{"name": "clock", "arguments": {"a": ' + "9" * 5000 + "}}",
        '{"name": "clock", "arguments": {"a": ' + "[" * 100_000,
        "{'name': 'clock'}",
    ),
)
def test_what_is_no_call_comes_back_as_text(inside: str) -> None:
    whole = f"so: <tool_call>{inside}</tool_call> ok"
    text, _, calls = joined(feed([whole]))
    assert calls == []
    assert text == whole


@pytest.mark.parametrize(
    ("inside", "arguments"),
    (
        ('{"name": "clock"}', "{}"),
        ('{"arguments": {"b": 1.50, "a": [ ]}, "name": "clock"}', '{"b": 1.50, "a": [ ]}'),
        ('{"x": {"arguments": 1}, "name": "clock", "arguments" : {"é\\n": "\\u00e9}"} }', None),
        ('{"name": "clock", "arguments": "{\\"zone\\": \\"UTC\\"}"}', '{"zone": "UTC"}'),
        ('{"arguments": {"a": 1}, "name": "clock", "arguments": {"a": 2}}', '{"a": 1}'),
        ('{"name": "clock", "arguments": {"a": "x\ny"}}', '{"a": "x\\ny"}'),
        ('{"type": "function", "function": {"name": "clock", "arguments": {"a": 1}}}', '{"a": 1}'),
        ('{"id": [1, {"name": "x"}], "function": "clock", "args": {}, "n": -1.5e3}', "{}"),
    ),
)
def test_forms_of_arguments(inside: str, arguments: str | None) -> None:
    for step in (len(inside), 1):
        call, reader = Call(), Reader()
        reading = ObjectReader("name", "arguments").read(reader, call)
        for i in range(0, len(inside), step):
            next(reading)
            reader.text += inside[i : i + step]
        with pytest.raises(StopIteration) as end:
            next(reading)
        assert end.value.value is True
        assert call.name == "clock"
        assert call.arguments == (arguments or '{"é\\n": "\\u00e9}"}')


@pytest.mark.parametrize("end", ("", "</tool_c"))
def test_a_whole_call_without_its_end_tag_counts(end: str) -> None:
    text, _, calls = joined(feed([f"<tool_call>{json.dumps({'name': 'clock'})}{end}"]))
    assert text == ""
    assert [call.name for call in calls] == ["clock"]


@pytest.mark.parametrize("end", ("", "</tool_c"))
def test_a_call_cut_short_is_text(end: str) -> None:
    whole = f'a <tool_call>{{"name": "clock", "argu{end}'
    assert joined(feed([whole]))[::2] == (whole, [])


_parts = st.sampled_from(
    (
        CLOCK,
        SUM,
        "<tool_call>",
        "</tool_call>",
        "<tool_call>junk</tool_call>",
        "<",
        "<tool",
        " ",
        "\n",
        "ab",
        "é",
    )
)
_texts = st.lists(_parts | st.text(max_size=5), max_size=8).map("".join)


@given(text=_texts, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_cuts_make_no_difference(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    chunks = [text[a:b] for a, b in pairwise(places)]
    assert joined(feed(chunks)) == joined(feed([text])) == joined(feed(list(text)))


@given(text=_texts)
def test_nothing_but_white_space_around_calls_is_left_out(text: str) -> None:
    pieces = feed([text])
    shown, call_texts, calls = joined(pieces)
    if not calls:
        assert shown == text
    rebuilt = "".join(
        f"<tool_call>{call_texts[piece.id]}</tool_call>" if isinstance(piece, ToolCall) else piece
        for piece in pieces
        if not isinstance(piece, CallText | ReasoningText)
    )
    given_, rebuilt = ("".join(whole.split()) for whole in (text, rebuilt))
    # an end tag that never came, or not wholly, is the only thing that may be too much
    assert rebuilt.startswith(given_)
    assert "</tool_call>".endswith(rebuilt.removeprefix(given_))
