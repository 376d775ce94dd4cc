"""The events of a response are what strict clients of OpenAI's package demand, whatever a generation does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.responses_websocket import ResponsesWebSocketAccumulator
from openai.lib.responses_websocket._session import _Accumulator
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response
from openai.types.responses.responses_server_event import ResponsesServerEvent

from api.openai.calls import BROKEN_OFF, REWOUND
from api.openai.errors import Refused
from api.responses import items
from api.responses.lanes import MAX_BYTES, MAX_IN_FLIGHT, MAX_NAMED, MAX_WAITING, Lanes
from api.responses.story import Story, WireEvent, head_of
from api.responses.wishes import wish
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationPaused,
    GenerationRewound,
    GenerationStarted,
    PromptProgress,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallDone,
)
from engine.types import FinishReason, OpenCall, Timings, Token, ToolCall, Usage

EVENT: Any = ResponsesServerEvent
GEN = "gen_0123456789abcdef"
HEAD = head_of(
    "resp_0123456789abcdef", "fake", 1, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
)


@dataclass
class Said:
    """What tokens have said."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    open_call: OpenCall | None = None
    n_opened: int = 0

    def give_back(self) -> None:
        if self.open_call is not None:
            self.text += self.open_call.text
            self.open_call = None


@dataclass
class Writer:
    """A generation as the engine tells it: tokens of text, reasoning and calls, which can be taken back.

    A `piece` goes on with a call's arguments, an `end` makes it whole; a call that something else follows
    was none.
    """

    tokens: list[tuple[str, str]] = field(default_factory=list)

    @property
    def said(self) -> Said:
        said = Said()
        for kind, text in self.tokens:
            had = said.open_call
            if kind in ("piece", "end"):
                if had is None:
                    had = OpenCall(id=f"call_{said.n_opened}", name="f", text="", arguments="")
                    said.n_opened += 1
                whole = had.arguments + text
                said.open_call = OpenCall(id=had.id, name="f", text=whole, arguments=whole)
                if kind == "end":
                    said.calls.append(ToolCall(id=had.id, name="f", arguments=whole))
                    said.open_call = None
                continue
            said.give_back()
            if kind == "text":
                said.text += text
            else:
                said.reasoning += text
        return said

    def write(self, kind: str, text: str) -> list[GenerationEvent]:
        if kind == "call":
            return [event for part in ("piece", "piece", "end") for event in self.write(part, text)]
        before = self.said.open_call
        if kind in ("piece", "end"):
            text = ("{" if before is None else "") + text + ("}" if kind == "end" else " ")
        token: Token = {
            "id": 1,
            "index": len(self.tokens),
            "text": text,
            "t": 0.0,
            "logprob": -0.5,
            "top": [],
        }
        self.tokens.append((kind, text))
        if kind not in ("piece", "end"):
            delta = GenerationDelta if kind == "text" else ReasoningDelta
            return [*self._given_back(before), delta(generation_id=GEN, text=text, tokens=[token])]
        said = self.said
        call_id = said.calls[-1].id if kind == "end" else said.open_call.id if said.open_call else ""
        part = ToolCallDelta(
            generation_id=GEN, call_id=call_id, text=text, tokens=[token], name="f", arguments=text
        )
        return [part] if kind == "piece" else [part, ToolCallDone(generation_id=GEN, call=said.calls[-1])]

    def _given_back(self, call: OpenCall | None) -> list[GenerationEvent]:
        return [] if call is None else [GenerationDelta(generation_id=GEN, text=call.text, tokens=[])]

    def rewind(self, n: int) -> list[GenerationEvent]:
        n = min(n, len(self.tokens))
        del self.tokens[len(self.tokens) - n :]
        said = self.said
        return [
            GenerationRewound(
                generation_id=GEN,
                at_token=len(self.tokens),
                removed=n,
                text=said.text,
                reasoning=said.reasoning,
                tool_calls=said.calls,
                open_call=said.open_call,
            )
        ]

    def finish(self, reason: FinishReason) -> list[GenerationEvent]:
        error = ErrorInfo(code="invalid_output", message="NaN") if reason == "error" else None
        said = self.said
        given_back = self._given_back(said.open_call)
        said.give_back()
        return [
            *given_back,
            GenerationFinished(
                generation_id=GEN,
                finish_reason=reason,
                text=said.text,
                reasoning=said.reasoning,
                tool_calls=said.calls,
                usage=Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=len(self.tokens)),
                timings=Timings(queue_ms=1.0),
                error=error,
            ),
        ]


STARTED = GenerationStarted(
    generation_id=GEN,
    client_id="c",
    origin="responses",
    model="fake",
    prompt_tokens=9,
    cached_tokens=4,
    slot=0,
    seed=1,
)
OTHERS: tuple[GenerationEvent, ...] = (
    PromptProgress(generation_id=GEN, done=1, total=9),
    GenerationPaused(generation_id=GEN, at_token=0),
)
WRITES = st.one_of(
    st.tuples(st.just("text"), st.text(max_size=5)),
    st.tuples(st.just("reasoning"), st.text(max_size=5)),
    st.tuples(st.just("call"), st.text(max_size=5)),
    st.tuples(st.just("other"), st.sampled_from((0, 1))),
)
REWINDS = st.tuples(st.just("rewind"), st.integers(1, 6))
PIECES = st.tuples(st.sampled_from(("piece", "piece", "end")), st.sampled_from(("", "a", "b")))
ANYTHING = st.one_of(WRITES, REWINDS, PIECES)
REASONS: Sequence[FinishReason] = ("stop", "length", "context_full", "tool_calls", "cancelled", "error")


def told(story: Story, acts: list[tuple[str, Any]], reason: FinishReason) -> tuple[list[WireEvent], Writer]:
    """All events of a response whose generation does these things, and the generation."""
    writer = Writer()
    events = [story.created(), *story.take(STARTED)]
    for kind, value in acts:
        if kind == "rewind":
            made = writer.rewind(value)
        elif kind == "other":
            made = [OTHERS[value]]
        else:
            made = writer.write(kind, value)
        for event in made:
            events += story.take(event)
    for event in writer.finish(reason):
        events += story.take(event)
    assert story.ended
    return [*events, story.terminal()], writer


def hold_to_strict_clients(events: list[WireEvent], lane: str | None) -> Response:
    """Feed them to the package's three accumulators; answers the final response."""
    websocket, session = ResponsesWebSocketAccumulator(), _Accumulator(None)
    helper: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        parsed: Any = construct_type_unchecked(value=event, type_=EVENT)
        assert type(parsed).model_validate(event).type == event["type"]  # complete, and of the right types
        websocket.add_event(parsed)
        session.add(parsed, 1)
        helper.handle_event(parsed)
    assert websocket.snapshot().stream_id == lane
    final = websocket.get_final_response()
    assert session.final is not None
    assert session.final.id == final.id
    if events[-1]["type"] == "response.completed":
        assert helper._completed_response is not None
        assert helper._completed_response.output_text == final.output_text
    return final


def check_order(events: list[WireEvent], lane: str | None) -> None:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert all(event.get("stream_id") == lane for event in events)
    names = [event["type"] for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    terminals = {"response.completed", "response.incomplete", "response.failed"}
    assert [name for name in names if name in terminals] == [names[-1]]
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert added == done
    assert len(set(added)) == len(added)


def deltas(events: list[WireEvent], part: str) -> str:
    return "".join(event["delta"] for event in events if event["type"] == f"response.{part}.delta")


@given(st.lists(WRITES, max_size=12), st.sampled_from(REASONS), st.sampled_from((None, "a.b")), st.booleans())
def test_strict_clients_take_any_answer(
    acts: list[tuple[str, Any]], reason: FinishReason, lane: str | None, logprobs: bool
) -> None:
    story = Story(HEAD, lane, logprobs=logprobs)
    events, writer = told(story, acts, reason)
    check_order(events, lane)
    final = hold_to_strict_clients(events, lane)
    said = writer.said
    assert final.output_text == deltas(events, "output_text") == said.text
    assert deltas(events, "reasoning_text") == said.reasoning
    assert calls_of(final) == said.calls
    assert deltas(events, "function_call_arguments") == "".join(call.arguments for call in said.calls)
    assert final.usage is not None
    assert final.usage.output_tokens == len(writer.tokens)
    assert final.usage.output_tokens_details.reasoning_tokens == sum(
        kind == "reasoning" for kind, _ in writer.tokens
    )
    statuses = {
        "cancelled": "cancelled",
        "error": "failed",
        "length": "incomplete",
        "context_full": "incomplete",
    }
    assert final.status == statuses.get(reason, "completed")
    for item in final.output:
        assert item.model_dump()["status"] in ("completed", "incomplete")


@given(st.lists(ANYTHING, max_size=12), st.sampled_from(REASONS))
def test_strict_clients_survive_any_rewind_and_any_broken_call(
    acts: list[tuple[str, Any]], reason: FinishReason
) -> None:
    events, writer = told(Story(HEAD), acts, reason)
    check_order(events, None)
    final = hold_to_strict_clients(events, None)
    said = writer.said
    for item, arguments in zip(calls_of(final), streamed_arguments(events), strict=True):
        assert item.arguments == arguments
    if final.error is not None and final.error.message in (REWOUND.message, BROKEN_OFF.message):
        assert final.status == "failed"
        return
    assert (final.status == "failed") == (reason == "error")
    # what holds is what the generation has, whatever was streamed
    assert final.output_text == said.text
    done = [event["text"] for event in events if event["type"] == "response.output_text.done"]
    assert "".join(done) == said.text
    calls = calls_of(final)
    if len(calls) > len(said.calls):  # cut short
        assert reason not in ("stop", "tool_calls")
        assert calls.pop().arguments.startswith(said.open_call.arguments if said.open_call else "")
        assert final.output[-1].model_dump()["status"] == "incomplete"
    assert calls == said.calls


@given(st.lists(ANYTHING, max_size=12), st.sampled_from(REASONS))
def test_nobody_told_follows_every_rewind(acts: list[tuple[str, Any]], reason: FinishReason) -> None:
    _, writer = told(story := Story(HEAD, told=False), acts, reason)
    final = Response.model_validate(story.close())
    said = writer.said
    said.give_back()
    assert final.output_text == said.text
    assert (story.error is None) == (reason != "error")
    assert calls_of(final) == said.calls


def calls_of(response: Response) -> list[ToolCall]:
    return [
        ToolCall(id=item.call_id, name=item.name, arguments=item.arguments)
        for item in response.output
        if item.type == "function_call"
    ]


def streamed_arguments(events: list[WireEvent]) -> list[str]:
    """The deltas of each call's arguments, joined."""
    told: dict[str, str] = {
        event["item"]["id"]: ""
        for event in events
        if event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call"
    }
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            told[event["item_id"]] += event["delta"]
    return list(told.values())


def test_arguments_come_in_pieces_and_what_breaks_off_fails() -> None:
    acts = [("text", "Well."), ("piece", "1"), ("piece", "2"), ("end", "3"), ("call", "4")]
    events, _ = told(Story(HEAD), acts, "tool_calls")
    names = [event["type"].removeprefix("response.") for event in events]
    first = names.index("function_call_arguments.delta")
    assert names[first - 1 : first + 5] == [
        "output_item.added",
        *["function_call_arguments.delta"] * 3,
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert events[first - 1]["item"]["name"] == "f"
    assert streamed_arguments(events) == ["{1 2 3}", "{4 4 4}"]
    ends: tuple[tuple[list[tuple[str, Any]], FinishReason, str], ...] = (
        ([("text", "nope!")], "stop", "failed"),
        ([], "stop", "failed"),
        ([], "length", "incomplete"),
        ([("text", "nope!")], "length", "failed"),
        ([("rewind", 1), ("text", "nope!")], "stop", "failed"),
        ([("rewind", 1), ("piece", "2"), ("end", "")], "stop", "completed"),
        ([("rewind", 1), ("piece", "x"), ("end", "")], "stop", "failed"),
    )
    for rest, reason, status in ends:
        events, _ = told(Story(HEAD), [("piece", "1"), ("piece", "2"), *rest], reason)
        assert events[-1]["response"]["status"] == status, rest
        (item,) = events[-1]["response"]["output"]
        assert item["status"] == ("completed" if status == "completed" else "incomplete")
        assert "nope!" not in str(events)
        assert item["arguments"].startswith("{1 2 ")


def test_a_rewind_within_the_open_item_and_beyond() -> None:
    acts = [("text", "Hello "), ("text", "world"), ("rewind", 1), ("text", "there")]
    events, _ = told(Story(HEAD), acts, "stop")
    assert deltas(events, "output_text") == "Hello worldthere"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello there"
    assert events[-1]["type"] == "response.completed"

    acts = [("reasoning", "hm"), ("text", "Hello"), ("rewind", 2), ("reasoning", "well"), ("text", "Bye")]
    events, _ = told(Story(HEAD), acts, "stop")
    assert events[-1]["type"] == "response.failed"
    assert "rewound" in events[-1]["response"]["error"]["message"]
    assert "Bye" not in str(events)


def test_an_empty_answer_and_a_prewarmed_prompt() -> None:
    events, _ = told(Story(HEAD), [], "stop")
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""
    events, _ = told(Story(HEAD, prewarm=True), [("text", "x")], "length")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "completed",
    ]
    response = events[-1]["response"]
    assert (response["output"], response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (
        [],
        9,
        0,
    )
    hold_to_strict_clients(events, None)


# ---- items and wishes


def test_items_become_the_messages_of_a_template() -> None:
    given_items: list[Any] = [
        {"role": "developer", "content": "Be brief.", "id": None},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "What"}, {"type": "input_text", "text": "time?"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "a clock"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me look."}],
        },
        {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "c2", "name": "zone", "arguments": "{}"},
        {"type": "function_call", "call_id": "c3", "name": "z", "arguments": "{", "status": "incomplete"},
        {"type": "function_call_output", "call_id": "c1", "output": "12:00"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "UTC"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "…"},
        {"role": "user", "content": "Thanks"},
    ]
    read = items.read(given_items)
    assert items.messages(read, "You are a clock.") == [
        {"role": "system", "content": "You are a clock.\n\nBe brief."},
        {"role": "user", "content": "What\ntime?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning": "a clock",
            "tool_calls": [
                {"id": "c1", "name": "clock", "arguments": "{}"},
                {"id": "c2", "name": "zone", "arguments": "{}"},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "clock", "content": "12:00"},
        {"role": "tool", "tool_call_id": "c2", "name": "zone", "content": "UTC"},
        {"role": "user", "content": "Thanks"},
    ]
    ids = [item["id"] for item in items.numbered(read, "0123456789abcdef")]
    assert len(set(ids)) == len(ids)
    assert items.response_of(ids[0]) == "resp_0123456789abcdef"
    assert items.response_of("msg_1") is None


WORDS = (
    *("type", "role", "content", "name", "text", "format", "message", "function", "call_id", "output"),
    *("id", "mode", "effort", "arguments", "summary"),
)
FIELDS = (
    *("input", "instructions", "previous_response_id", "tools", "tool_choice", "text", "max_output_tokens"),
    *("temperature", "top_p", "store", "metadata", "include", "top_logprobs", "reasoning", "generate"),
    *("parallel_tool_calls", "prompt_cache_options", "seed", "stop", "logit_bias", "chat_template_kwargs"),
)
CASES: list[tuple[dict[str, Any], str | None, str]] = [
    ({"input": 7}, "input", "invalid_type"),
    ({"input": [7]}, "input[0]", "invalid_type"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "invalid_type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0]",
        "unsupported_content",
    ),
    ({"input": [{"type": "function_call", "call_id": "x"}]}, "input[0].name", "invalid_type"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": ["x"]}]}, "input[0].type", "unsupported_value"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_parameter"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
    ({"text": 1}, "text", "invalid_type"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "x"}}, "prompt", "unsupported_parameter"),
    ({"instructions": ["x"]}, "instructions", "invalid_type"),
    ({"previous_response_id": 1}, "previous_response_id", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata", "invalid_value"),
    ({"store": "yes"}, "store", "invalid_type"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input", "invalid_value"),
    ({"input": []}, "input", "missing_required_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), CASES, ids=lambda value: str(value)[:50])
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    def ask() -> None:
        asked = wish({"input": "hi", **fields})
        asked.command(asked.items)

    with pytest.raises(Refused) as caught:
        ask()
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 99}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
    ],
    ids=str,
)
def test_wrong_values_are_named_as_the_client_knows_them(fields: dict[str, Any], path: str) -> None:
    asked = wish({"input": "hi", **fields})
    with pytest.raises(TokenglassError) as caught:
        asked.command(asked.items)
    assert str(caught.value.info.path).startswith(path)
    assert caught.value.info.message.startswith(path)


def test_null_counts_as_left_out() -> None:
    names = ("instructions", "tools", "tool_choice", "text", "temperature", "store", "generate", "stream_id")
    asked = wish({"input": "hi", **dict.fromkeys(names)})
    plain = wish({"input": "hi"})
    assert asked.command(asked.items) == plain.command(plain.items)
    assert asked.told == plain.told
    assert asked.store
    assert asked.generate


def test_allowed_tools_and_a_named_one() -> None:
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("a", "b")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    asked = wish({"input": "hi", "tools": tools, "tool_choice": choice})
    command = asked.command(asked.items)
    assert command is not None
    assert [tool.function.name for tool in command.tools] == ["b"]
    assert command.tool_choice == "required"
    assert asked.told["tool_choice"] == choice
    asked = wish({"input": "hi", "tools": tools, "tool_choice": {"type": "function", "name": "a"}})
    command = asked.command(asked.items)
    assert command is not None
    assert getattr(command.tool_choice, "function").name == "a"  # noqa: B009 - a union's member


NUMBERS = st.integers() | st.floats(-9, 9)
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(WORDS)
JSON: Any = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner)
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_a_request_has_it_is_understood_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(Refused, TokenglassError):
        asked = wish({"input": "hi", **fields})
        asked.command(asked.items)


# ---- lanes


@given(st.lists(st.tuples(st.sampled_from((None, "a", "b", "c")), st.booleans()), max_size=60))
def test_lanes_keep_their_order_and_never_overlap(steps: list[tuple[str | None, bool]]) -> None:
    lanes: Lanes[int] = Lanes()
    pushed: dict[str | None, list[int]] = {}
    begun: dict[str | None, list[int]] = {}
    running: list[str | None] = []
    for number, (name, push) in enumerate(steps):
        if push:
            lane = lanes.name(name)
            lanes.push(lane, number, 1)
            pushed.setdefault(lane, []).append(number)
        elif running:
            lanes.done(running.pop(0))
        while (found := lanes.next()) is not None:
            assert found[0] not in running
            running.append(found[0])
            begun.setdefault(found[0], []).append(found[1])
        waiting = set(pushed) - set(running)
        assert all(pushed[lane] == begun[lane] for lane in waiting)  # a free lane has nothing waiting
    assert all(pushed[lane][: len(order)] == order for lane, order in begun.items())


def test_limits_of_lanes() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(MAX_NAMED):
        lanes.push(lanes.name(f"s{number}"), number, 1)
    for wrong in ("", "ä", "a b", "x" * 257, 7, ["a"]):
        with pytest.raises(Refused) as caught:
            lanes.name(wrong)
        assert caught.value.code == "invalid_stream_id"
    with pytest.raises(Refused) as caught:
        lanes.name("one-more")
    assert caught.value.code == "websocket_stream_limit_reached"
    assert lanes.name("s0") == "s0"
    started = []
    while (found := lanes.next()) is not None:
        started.append(found)
    assert len(started) == MAX_IN_FLIGHT
    lanes.done(started[0][0])
    assert lanes.next() == (f"s{MAX_IN_FLIGHT}", MAX_IN_FLIGHT)
    with pytest.raises(Refused) as caught:
        lanes.push(None, 0, MAX_BYTES)
    assert caught.value.status == 429
    full: Lanes[int] = Lanes()
    for number in range(MAX_WAITING):
        full.push(None, number, 1)
    with pytest.raises(Refused) as caught:
        full.push(None, 0, 1)
    assert caught.value.code == "rate_limit_exceeded"
