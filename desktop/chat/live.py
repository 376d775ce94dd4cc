"""What the stream has said of each generation: text so far, phase, figures. Pure; no Qt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from desktop.chat.model import Phase, Status, Turn
from engine.events import (
    BaseEvent,
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationForked,
    GenerationPaused,
    GenerationQueued,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    PromptProgress,
    ReasoningDelta,
    TokenEvent,
    ToolCallDelta,
    ToolCallDone,
)
from engine.types import OpenCall, Token, ToolCall

KEPT = 200
"""Finished generations that are remembered, the latest ones."""
KEPT_TOKENS = 16
"""Of these, how many keep their tokens one by one."""


@dataclass(slots=True)
class Generation:
    """One generation, folded from its events."""

    id: str
    queued: GenerationQueued | None = None
    phase: Phase = "queued"
    text: str = ""
    reasoning: str = ""
    calls: dict[str, ToolCall] = field(default_factory=dict)
    """Tool calls that are being written, by id: as the model writes them as long as nothing is known."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    done: int = 0
    total: int = 0
    trimmed: int = 0
    finished: GenerationFinished | None = None
    tokens: int = 0
    """Index of the next token that isn't in the text yet."""
    written: list[Token] = field(default_factory=list)
    """The tokens of the text, one by one."""
    whole: bool = True
    """All tokens of the text are known."""
    paused: bool = False
    partial: bool = False
    """Its beginning was missed, so the text is known only when it is finished."""

    @staticmethod
    def from_snapshot(data: Mapping[str, Any]) -> Generation:
        """One of a snapshot's `generations`."""
        running = data["state"] != "queued"
        return Generation(
            id=str(data["generation_id"]),
            queued=GenerationQueued.model_validate(data),
            phase="queued" if not running else "decoding" if data["completion_tokens"] else "prompt",
            text=data["text"],
            reasoning=data["reasoning"],
            calls=_being_written(OpenCall.model_validate(call) if (call := data.get("open_call")) else None),
            tool_calls=[ToolCall.model_validate(call) for call in data["tool_calls"]],
            done=data["prompt_done"],
            total=data["prompt_total"],
            trimmed=data.get("trimmed_messages", 0),
            tokens=data["completion_tokens"],
            paused=data["state"] == "paused",
            whole=not data["completion_tokens"],
        )

    @property
    def conversation_id(self) -> str | None:
        return self.queued.conversation_id if self.queued else None

    @property
    def status(self) -> Status:
        if self.finished is None:
            return "streaming"
        match self.finished.finish_reason:
            case "cancelled":
                return "cancelled"
            case "error":
                return "error"
            case _:
                return "complete"

    def fold(self, event: GenerationEvent) -> None:
        match event:
            case GenerationDelta():
                self._give_back(event.text)
                self.written += [token for token in event.tokens if token["index"] >= self.tokens]
                self.text += self._take(event)
            case ReasoningDelta():
                self._give_back(event.text)
                self.reasoning += self._take(event)
            case ToolCallDelta():
                self._write_call(event)
            case ToolCallDone():
                self.calls.pop(event.call.id, None)
                self.tool_calls.append(event.call)
            case GenerationQueued():
                self.queued = event
            case GenerationStarted():
                self.phase = "prompt"
                self.total = event.prompt_tokens
                self.done = event.cached_tokens
                self.trimmed = event.trimmed_messages
            case PromptProgress():
                self.done, self.total = event.done, event.total
            case GenerationPaused():
                self.paused = True
            case GenerationResumed():
                self.paused = False
            case GenerationRewound():
                self._stand(event)
            case GenerationFinished():
                self.finished = event
                self.paused = False
                self.partial = False
                self.phase = ""
                self.text = event.text
                self.reasoning = event.reasoning or self.reasoning
                self.tool_calls = list(event.tool_calls) or self.tool_calls
                self.calls.clear()
            case _:
                pass

    def branch(self, event: GenerationForked) -> Generation:
        """The generation that starts with this one's first tokens."""
        found = Generation(event.branch_id, written=list(self.written), whole=self.whole)
        found._stand(event)
        return found

    def _stand(self, event: GenerationRewound | GenerationForked) -> None:
        """Stand where the event says, whatever was written before."""
        self.text, self.reasoning = event.text, event.reasoning
        self.tool_calls = list(event.tool_calls)
        self.calls = _being_written(event.open_call)
        self.tokens = event.at_token
        self.written = [token for token in self.written if token["index"] < event.at_token]

    def _write_call(self, event: ToolCallDelta) -> None:
        had = self.calls.get(event.call_id) or ToolCall(id=event.call_id, name="", arguments="")
        known = bool(event.tokens) and event.tokens[0]["index"] < self.tokens
        arguments = self._take(event)
        if event.name:
            arguments = "" if known else event.arguments
        before = had.arguments if had.name or not event.name else ""
        self.calls[event.call_id] = ToolCall(
            id=had.id, name=event.name or had.name, arguments=before + arguments
        )

    def _give_back(self, text: str) -> None:
        """A call that other text follows was none."""
        if text and self.calls:
            self.calls.clear()

    def _take(self, event: TokenEvent) -> str:
        """The text of a delta that isn't known yet: after a snapshot, the stream may begin before it."""
        self.phase = "decoding"
        before = self.tokens
        if not event.tokens:
            return event.text
        self.tokens = max(before, event.tokens[-1]["index"] + 1)
        if event.tokens[0]["index"] >= before:
            return event.text
        return "".join(token["text"] for token in event.tokens if token["index"] >= before)

    def fields(self) -> dict[str, Any]:
        """The fields of `Turn` that the stream knows better than anybody."""
        calls = [*self.tool_calls, *self.calls.values()]
        known: dict[str, Any] = {
            "text": self.text,
            "status": self.status,
            "generation_id": self.id,
            "phase": self.phase,
            "reasoning": self.reasoning,
            "tool_calls": tuple(calls),
            "done": self.done,
            "total": self.total,
            "trimmed": self.trimmed,
            "paused": self.paused,
            "tokens": tuple(self.written) if self.whole else (),
        }
        if self.queued is not None:
            known["model"] = self.queued.model
            known["origin"] = self.queued.origin
        if self.finished is not None:
            known["usage"] = self.finished.usage
            known["timings"] = self.finished.timings
            known["error"] = self.finished.error
            known["finish_reason"] = self.finished.finish_reason
        return known

    def turns(self) -> tuple[Turn, Turn]:
        """As two turns of the live view: what was asked, headed by who asked, and the answer."""
        queued = self.queued
        name = (queued.client_name or "a client") if queued else "a client"
        asked = Turn(
            id=f"{self.id}/input",
            role="user",
            text=queued.input if queued else "",
            client_name=name,
            origin=queued.origin if queued else "live",
            loose=True,
        )
        return asked, Turn(id=self.id, role="assistant", client_name=name, loose=True, **self.fields())


def _being_written(call: OpenCall | None) -> dict[str, ToolCall]:
    if call is None:
        return {}
    arguments = call.text if call.name is None else call.arguments
    return {call.id: ToolCall(id=call.id, name=call.name or "", arguments=arguments)}


class Generations:
    """All generations that run, and the latest finished ones, whatever is on screen.

    So a conversation that is opened while it is being answered shows the answer in full: what the
    database holds may lag behind the stream.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Generation] = OrderedDict()

    def __iter__(self) -> Iterator[Generation]:
        """In the order in which they were first heard of."""
        return iter(self._known.values())

    def get(self, generation_id: str) -> Generation | None:
        return self._known.get(generation_id)

    def fold(self, event: BaseEvent) -> Generation | None:
        """Take in an event; answers the generation it was about."""
        if not isinstance(event, GenerationEvent):
            return None
        found = self._known.get(event.generation_id)
        if found is None:
            partial = not isinstance(event, GenerationQueued)
            found = self._known[event.generation_id] = Generation(event.generation_id, partial=partial)
        found.fold(event)
        if isinstance(event, GenerationForked):
            branch = found.branch(event)
            queued = self._known.get(event.branch_id)
            self._known[branch.id] = branch if queued is None else replace(branch, queued=queued.queued)
        if found.finished is not None:
            self._forget()
        return found

    def restore(self, snapshot: Mapping[str, Any] | None) -> None:
        """Start again from a snapshot, after events were missed. What ended meanwhile is forgotten."""
        self._known.clear()
        for data in snapshot["generations"] if snapshot is not None else ():
            generation = Generation.from_snapshot(data)
            self._known[generation.id] = generation

    def _forget(self) -> None:
        ended = [key for key, generation in self._known.items() if generation.finished is not None]
        if len(ended) > KEPT_TOKENS:
            self._known[ended[-KEPT_TOKENS - 1]].written.clear()
        for key in ended[: max(0, len(self._known) - KEPT)]:
            del self._known[key]
