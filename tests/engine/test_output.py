"""From tokens to deltas: nothing lost, nothing twice, whatever the tokens are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.backend import Sampled
from engine.commands import Generate
from engine.detokenize import PieceCache
from engine.events import Event, GenerationDelta, ToolCallDelta, ToolCallDone
from engine.output import Output
from engine.prepared import Prepared
from engine.types import Token, ToolCall
from tests.engine.harness import CLOCK_TOOL

CALL = '<tool_call>{"name": "clock", "arguments": {"a": "é"}}</tool_call>'


def feed(chunks: list[bytes], *, stop: list[str], tools: bool) -> tuple[Output, list[Event]]:
    """Push one token for each chunk until the output has stopped, then finish."""
    command = Generate(
        generation_id="g",
        received_t=0.0,
        client_id="c",
        origin="live",
        prompt="",
        stop=stop,
        tools=[CLOCK_TOOL] if tools else [],
    )
    output = Output(Prepared(command, []), PieceCache(chunks.__getitem__))
    events: list[Event] = []
    for i in range(len(chunks)):
        output.push(Sampled(i), float(i), events)
        if output.stopped:
            break
    output.finish(99.0, events)
    return output, events


def tokens_of(events: list[Event]) -> list[Token]:
    return [
        token
        for event in events
        if isinstance(event, GenerationDelta | ToolCallDelta)
        for token in event.tokens
    ]


def test_a_plain_token_is_one_delta() -> None:
    output, events = feed([b"a", b" b"], stop=[], tools=False)
    first, second = (event for event in events if isinstance(event, GenerationDelta))
    assert (first.text, first.t, first.tokens) == ("a", 0.0, [{"id": 0, "index": 0, "text": "a", "t": 0.0}])
    assert second.tokens[0]["index"] == 1
    assert output.text == "a b"
    assert output.n_tokens == 2


def test_withheld_text_ends_in_a_delta_without_tokens() -> None:
    _, events = feed([b"a#"], stop=["##"], tools=False)
    assert [(e.text, len(e.tokens)) for e in events if isinstance(e, GenerationDelta)] == [("a", 1), ("#", 0)]


def test_a_token_across_a_tag_goes_with_the_last_text_that_it_brings() -> None:
    half = CALL.index("name")
    chunks = [b"so " + CALL[:half].encode(), CALL[half:].encode(), b"then"]
    output, events = feed(chunks, stop=[], tools=True)
    text, begin, rest, done, after = events
    assert isinstance(text, GenerationDelta)
    assert (text.text, text.tokens) == ("so", [])
    assert isinstance(begin, ToolCallDelta)
    assert (begin.text, begin.tokens[0]["text"]) == ('{"', '{"')
    assert isinstance(rest, ToolCallDelta)
    assert rest.tokens[0]["index"] == 1
    assert isinstance(done, ToolCallDone)
    assert isinstance(after, GenerationDelta)
    assert output.text == "sothen"
    assert output.tool_calls == [ToolCall(id="call_g_0", name="clock", arguments='{"a": "é"}')]


def test_tokens_of_the_tags_belong_to_the_call() -> None:
    _, events = feed([b"<tool_call>", b'{"name": "clock"}', b"</tool_call>"], stop=[], tools=True)
    assert [type(event) for event in events] == [ToolCallDelta, ToolCallDelta, ToolCallDelta, ToolCallDone]
    assert [token["text"] for token in tokens_of(events)] == ["", '{"name": "clock"}', ""]


@st.composite
def _chunks(draw: st.DrawFn) -> list[bytes]:
    parts = st.sampled_from(
        (CALL, "<tool_call>x</tool_call>", "<tool_call>", "stop", "st", " \n", "é🌱", "a")
    )
    data = "".join(draw(st.lists(parts, max_size=6))).encode() + draw(st.binary(max_size=3))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=20))
    return [data[a:b] for a, b in pairwise([0, *sorted(cuts), len(data)])]


@given(chunks=_chunks(), stop=st.sampled_from(([], ["stop"], ["op", "a"])), tools=st.booleans())
def test_any_tokens(chunks: list[bytes], stop: list[str], tools: bool) -> None:
    output, events = feed(chunks, stop=stop, tools=tools)
    # each token once, in order
    tokens = tokens_of(events)
    assert [token["index"] for token in tokens] == list(range(output.n_tokens)) == [t["id"] for t in tokens]
    assert output.stopped or output.n_tokens == len(chunks)
    # what the events say is what the output says
    assert "".join(event.text for event in events if isinstance(event, GenerationDelta)) == output.text
    assert [event.call for event in events if isinstance(event, ToolCallDone)] == output.tool_calls
    for event in events:
        if isinstance(event, GenerationDelta | ToolCallDelta) and event.tokens:
            assert "".join(token["text"] for token in event.tokens) == event.text
    # and doesn't depend on the cuts
    whole, _ = feed([b"".join(chunks)], stop=stop, tools=tools)
    assert (output.text, output.tool_calls, output.stopped) == (whole.text, whole.tool_calls, whole.stopped)
    if not tools:
        expected = b"".join(chunks).decode("utf-8", "replace")
        assert expected.startswith(output.text)
        assert output.stopped or output.text == expected
