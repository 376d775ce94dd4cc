"""Hand-made events and stored conversations."""

from __future__ import annotations

from typing import Any, Literal

from api.bus import Envelope
from engine.errors import ErrorInfo
from engine.events import (
    ConversationMessage,
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
    PromptProgress,
)
from engine.types import FinishReason, Origin, Timings, Token, Usage

WAIT_MS = 100_000
"""Only keeps a test from hanging."""
USAGE = {"prompt_tokens": 4334, "cached_tokens": 3310, "completion_tokens": 212}
TIMINGS = {
    "queue_ms": 2.0,
    "prefill_ms": 180.0,
    "ttft_ms": 184.2,
    "decode_ms": 3400.0,
    "tokens_per_second": 62.4,
    "itl_p50_ms": 16.0,
    "itl_p99_ms": 41.0,
}


def message(
    identifier: str,
    role: Literal["user", "assistant", "tool"],
    content: str,
    parent: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A message as `conversations.get` answers it."""
    stored = {
        "id": identifier,
        "conversation_id": "c1",
        "parent_id": parent,
        "role": role,
        "content": content,
        "status": "complete",
        "model": "starter" if role == "assistant" else None,
        "origin": "window",
        "generation_id": None,
        "variants": [identifier],
        "variant": 0,
    }
    return {**stored, **more}


def conversation(*messages: dict[str, Any], identifier: str = "c1") -> dict[str, Any]:
    return {"conversation": {"id": identifier, "title": "A chat"}, "messages": list(messages)}


def turns(count: int, *, answer: str = "An answer with **some** words.") -> dict[str, Any]:
    """A conversation of `count` messages."""
    found = []
    for number in range(count):
        parent = f"m{number - 1}" if number else None
        if number % 2:
            found.append(message(f"m{number}", "assistant", answer, parent, usage=USAGE, timings=TIMINGS))
        else:
            found.append(message(f"m{number}", "user", f"Question {number}?", parent))
    return conversation(*found)


class Stream:
    """Numbers events as the bus does."""

    def __init__(self) -> None:
        self.seq = 0
        self._tokens: dict[str, int] = {}

    def __call__(self, *events: Event) -> list[Envelope]:
        envelopes = []
        for event in events:
            self.seq += 1
            if isinstance(event, GenerationDelta):
                index = self._tokens.get(event.generation_id, 0)
                self._tokens[event.generation_id] = index + 1
                token: Token = {"id": 1, "index": index, "text": event.text, "t": 0.0}
                event = event.model_copy(update={"tokens": [token]})
            envelopes.append(Envelope(self.seq, event, self.seq))
        return envelopes


def queued(
    generation: str = "g1",
    *,
    conversation_id: str | None = "c1",
    message_id: str | None = None,
    name: str = "window",
    client: str = "w",
    origin: Origin = "window",
    text: str = "",
) -> GenerationQueued:
    return GenerationQueued(
        generation_id=generation,
        client_id=client,
        client_name=name,
        origin=origin,
        model="starter",
        conversation_id=conversation_id,
        message_id=message_id,
        input=text,
    )


def started(
    generation: str = "g1", *, prompt: int = 20, cached: int = 0, trimmed: int = 0
) -> GenerationStarted:
    return GenerationStarted(
        generation_id=generation,
        client_id="w",
        origin="window",
        model="starter",
        prompt_tokens=prompt,
        cached_tokens=cached,
        slot=0,
        seed=1,
        trimmed_messages=trimmed,
    )


def progress(done: int, total: int, generation: str = "g1") -> PromptProgress:
    return PromptProgress(generation_id=generation, done=done, total=total)


def delta(text: str, generation: str = "g1") -> GenerationDelta:
    """One token; `Stream` gives it its index."""
    return GenerationDelta(generation_id=generation, text=text, tokens=[])


def finished(
    text: str, generation: str = "g1", *, reason: FinishReason = "stop", error: ErrorInfo | None = None
) -> GenerationFinished:
    return GenerationFinished(
        generation_id=generation,
        finish_reason=reason,
        text=text,
        usage=Usage.model_validate(USAGE),
        timings=Timings.model_validate(TIMINGS),
        error=error,
    )


def stored(data: dict[str, Any]) -> ConversationMessage:
    return ConversationMessage(
        type="conversation.message", conversation_id=data["conversation_id"], message=data
    )


def asked(
    text: str = "Hello?",
    generation: str = "g1",
    *,
    user: str = "u1",
    answer: str = "a1",
    parent: str | None = None,
) -> list[Event]:
    """What the bus carries when the window's user asks something, up to the slot."""
    streaming = message(answer, "assistant", "", user, status="streaming", generation_id=generation)
    return [
        stored(message(user, "user", text, parent)),
        stored(streaming),
        queued(generation, message_id=answer, text=text),
        started(generation),
    ]
