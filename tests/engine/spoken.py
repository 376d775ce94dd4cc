"""A generation that says what a test lets it say, told as the engine tells it; and a client that listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.backend import Sampled
from engine.commands import Generate
from engine.detokenize import PieceCache
from engine.events import (
    BaseEvent,
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationRewound,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallDone,
)
from engine.formats import Format
from engine.output import Output
from engine.prepared import Prepared
from engine.types import FinishReason, OpenCall, Timings, Tool, ToolCall, Usage

GEN = "gen_0123456789abcdef"


class Speaker:
    """One generation; each text that it says is a token."""

    def __init__(self, form: Format, tools: Sequence[Tool]) -> None:
        command = Generate(
            generation_id=GEN, received_t=0.0, client_id="c", origin="live", prompt="", tools=list(tools)
        )
        self._prepared = Prepared(command, [], format=form)
        self._said: list[bytes] = []
        self._pieces = PieceCache(lambda token, special=False: self._said[token])
        self._tokens: list[int] = []
        self.output = self._new_output()

    def _new_output(self) -> Output:
        output = Output(self._prepared, self._pieces)
        output.replay(self._tokens)
        return output

    def say(self, text: str) -> list[Event]:
        events: list[Event] = []
        self._said.append(text.encode())
        self._tokens.append(len(self._said) - 1)
        self.output.push(Sampled(self._tokens[-1]), 0.0, events)
        return events

    def recover(self) -> None:
        """Another worker goes on with it."""
        self.output = self._new_output()

    def rewind(self, n: int) -> list[Event]:
        removed = min(n, len(self._tokens))
        del self._tokens[len(self._tokens) - removed :]
        output = self.output = self._new_output()
        return [
            GenerationRewound(
                generation_id=GEN,
                at_token=output.n_tokens,
                removed=removed,
                text=output.text,
                reasoning=output.reasoning,
                tool_calls=list(output.tool_calls),
                open_call=output.open_call,
            )
        ]

    def finish(self, reason: FinishReason = "stop") -> list[Event]:
        events: list[Event] = []
        output = self.output
        output.finish(1.0, events)
        if reason == "stop" and output.tool_calls:
            reason = "tool_calls"
        usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=output.n_tokens)
        finished = GenerationFinished(
            generation_id=GEN,
            finish_reason=reason,
            text=output.text,
            reasoning=output.reasoning,
            tool_calls=list(output.tool_calls),
            usage=usage,
            timings=Timings(),
        )
        return [*events, finished]


@dataclass
class Listener:
    """Puts calls together from their deltas, and checks each call against what came of it."""

    calls: list[ToolCall] = field(default_factory=list)
    open_call: OpenCall | None = None
    n_fragments: dict[str, int] = field(default_factory=dict)
    """By call id."""
    given_back: list[OpenCall] = field(default_factory=list)
    """Calls that were none."""

    def take(self, events: Iterable[BaseEvent]) -> None:
        for event in events:
            match event:
                case ToolCallDelta():
                    self._add(event)
                case ToolCallDone():
                    had, call = self.open_call, event.call
                    assert had is not None, "a call that nothing has announced"
                    assert (had.id, had.name, had.arguments) == (call.id, call.name, call.arguments)
                    self.calls.append(call)
                    self.open_call = None
                case GenerationDelta() | ReasoningDelta() if event.text and self.open_call is not None:
                    self.given_back.append(self.open_call)
                    self.open_call = None
                case GenerationRewound():
                    self.calls, self.open_call = [*event.tool_calls], event.open_call
                case GenerationFinished() if self.open_call is not None:
                    assert not self.open_call.text, "a call that nothing has ended"
                case _:
                    pass

    def _add(self, event: ToolCallDelta) -> None:
        if not event.text and not event.arguments:
            return
        had = self.open_call
        if had is None or had.id != event.call_id:
            had = OpenCall(id=event.call_id, name=None, text="", arguments="")
        assert event.name is not None or (not event.arguments and had.name is None)
        assert had.name in (None, event.name)
        if event.arguments:
            self.n_fragments[event.call_id] = self.n_fragments.get(event.call_id, 0) + 1
        self.open_call = OpenCall(
            id=had.id,
            name=event.name or had.name,
            text=had.text + event.text,
            arguments=had.arguments + event.arguments,
        )
