"""From tokens to deltas: nothing lost, nothing twice, whatever the tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.backend import Sampled
from engine.commands import Generate
from engine.detokenize import PieceCache
from engine.events import Event, GenerationDelta, ReasoningDelta, TokenEvent, ToolCallDelta, ToolCallDone
from engine.formats import HERMES, Format
from engine.output import Output
from engine.prepared import Prepared
from engine.types import Token, ToolCall, ToolChoice
from tests.engine.harness import CLOCK_TOOL

CALL = '<tool_call>{"name": "clock", "arguments": {"a": "é"}}</tool_call>'


def _command(
    *, tools: bool, stop: Sequence[str] = (), tool_choice: ToolChoice = "auto", one_call: bool = False
) -> Generate:
    return Generate(
        generation_id="g",
        received_t=0.0,
        client_id="c",
        origin="live",
        prompt="",
        stop=list(stop),
        tools=[CLOCK_TOOL] if tools else [],
        tool_choice=tool_choice,
        parallel_tool_calls=not one_call,
    )


def feed(
    chunks: list[bytes],
    *,
    stop: list[str],
    tools: bool,
    form: Format | None = None,
    reasoning_open: bool = False,
    one_call: bool = False,
) -> tuple[Output, list[Event]]:
    """Push one token for each chunk until the output has stopped, then finish."""
    command = _command(stop=stop, tools=tools, one_call=one_call)
    prepared = Prepared(command, [], format=form, reasoning_open=reasoning_open)
    output = Output(prepared, PieceCache(chunks.__getitem__))
    events: list[Event] = []
    for i in range(len(chunks)):
        output.push(Sampled(i), float(i), events)
        if output.stopped:
            break
    output.finish(99.0, events)
    return output, events


def tokens_of(events: list[Event]) -> list[Token]:
    return [token for event in events if isinstance(event, TokenEvent) for token in event.tokens]


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


def test_reasoning_has_deltas_and_a_text_of_its_own() -> None:
    chunks = [b"<think>", b"\nHm", b", so.\n", b"</think>", b"\n\n", b"Hi.", b"\n"]
    output, events = feed(chunks, stop=[], tools=False, form=HERMES)
    assert (output.reasoning, output.text) == ("Hm, so.", "Hi.\n")
    kinds = [type(event) for event in events]
    assert kinds == [ReasoningDelta] * 4 + [GenerationDelta] * 3
    assert [token["text"] for token in tokens_of(events)] == ["", "Hm", ", so.", "", "", "Hi.", "\n"]
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Hm, so."


def test_calls_are_looked_for_even_where_the_template_tells_of_none() -> None:
    output, _ = feed([b"[T]Hm.[/T]" + CALL.encode()], stop=[], tools=True, form=Format("x", "[T]", "[/T]"))
    assert (output.reasoning, output.text, len(output.tool_calls)) == ("Hm.", "", 1)


def test_tools_that_may_not_be_called_are_not_looked_for() -> None:
    command = _command(tools=True, tool_choice="none")
    output = Output(Prepared(command, [], format=HERMES), PieceCache([CALL.encode()].__getitem__))
    output.push(Sampled(0), 0.0, [])
    output.finish(1.0, [])
    assert (output.text, output.tool_calls) == (CALL, [])


def test_where_one_call_is_wanted_the_first_one_ends_the_answer() -> None:
    for chunks in ([b"so ", CALL.encode(), b" and ", CALL.encode()], [f"so {CALL} and {CALL}".encode()]):
        output, events = feed(chunks, stop=[], tools=True, one_call=True)
        assert output.stopped
        assert output.text == "so"
        assert output.tool_calls == [ToolCall(id="call_g_0", name="clock", arguments='{"a": "é"}')]
        assert isinstance(events[-1], ToolCallDone)
        assert [token["index"] for token in tokens_of(events)] == list(range(output.n_tokens))
    output, _ = feed([b"no ", b"call"], stop=[], tools=True, one_call=True)
    assert (output.text, output.stopped) == ("no call", False)


def test_replay_brings_a_new_output_to_where_the_old_one_was() -> None:
    chunks = [b"<think>", b"Hm.", b"</think>", b"So ", CALL[:20].encode(), CALL[20:].encode(), b"ok"]
    for n in range(len(chunks) + 1):
        events: list[Event] = []
        output = Output(Prepared(_command(tools=True), [], format=HERMES), PieceCache(chunks.__getitem__))
        output.replay(range(n))
        for i in range(n, len(chunks)):
            output.push(Sampled(i), 0.0, events)
        output.finish(1.0, events)
        assert (output.reasoning, output.text, len(output.tool_calls)) == ("Hm.", "Sook", 1)
        assert [token["index"] for token in tokens_of(events)] == list(range(n, len(chunks)))


@st.composite
def _chunks(draw: st.DrawFn) -> list[bytes]:
    parts = st.sampled_from(
        (
            CALL,
            "<tool_call>x</tool_call>",
            "<tool_call>",
            "<think>",
            "</think>",
            "stop",
            "st",
            " \n",
            "é🌱",
            "a",
        )
    )
    data = "".join(draw(st.lists(parts, max_size=6))).encode() + draw(st.binary(max_size=3))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=20))
    return [data[a:b] for a, b in pairwise([0, *sorted(cuts), len(data)])]


@given(
    chunks=_chunks(),
    stop=st.sampled_from(([], ["stop"], ["op", "a"])),
    tools=st.booleans(),
    form=st.sampled_from((None, HERMES)),
    reasoning_open=st.booleans(),
    one_call=st.booleans(),
)
def test_any_tokens(
    chunks: list[bytes],
    stop: list[str],
    tools: bool,
    form: Format | None,
    reasoning_open: bool,
    one_call: bool,
) -> None:
    def said(chunks: list[bytes], one_call: bool) -> tuple[Output, list[Event]]:
        return feed(
            chunks, stop=stop, tools=tools, form=form, reasoning_open=reasoning_open, one_call=one_call
        )

    output, events = said(chunks, one_call)
    # each token once, in order
    tokens = tokens_of(events)
    assert [token["index"] for token in tokens] == list(range(output.n_tokens)) == [t["id"] for t in tokens]
    assert output.stopped or output.n_tokens == len(chunks)
    # what the events say is what the output says
    assert "".join(event.text for event in events if isinstance(event, GenerationDelta)) == output.text
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert reasoning == output.reasoning
    assert [event.call for event in events if isinstance(event, ToolCallDone)] == output.tool_calls
    for event in events:
        if isinstance(event, TokenEvent) and event.tokens:
            assert "".join(token["text"] for token in event.tokens) == event.text
    # and doesn't depend on the cuts
    whole, _ = said([b"".join(chunks)], one_call)
    assert (output.text, output.reasoning) == (whole.text, whole.reasoning)
    assert (output.tool_calls, output.stopped) == (whole.tool_calls, whole.stopped)
    if one_call:
        several, _ = said(chunks, False)
        assert output.tool_calls == several.tool_calls[:1]
        assert several.text.startswith(output.text.rstrip())
    if not tools and form is None:
        expected = b"".join(chunks).decode("utf-8", "replace")
        assert expected.startswith(output.text)
        assert output.stopped or output.text == expected
