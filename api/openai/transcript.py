"""What the choices of a request have said so far, gathered from their events."""

from __future__ import annotations

from dataclasses import dataclass, field

from api.openai.feed import Feed
from engine.errors import TokenglassError
from engine.events import (
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationRewound,
    ReasoningDelta,
)
from engine.types import Token


@dataclass(slots=True)
class Transcript:
    """Of one choice."""

    tokens: list[Token] = field(default_factory=list)
    """Those of the answer's text, where somebody wants them."""
    reasoning_tokens: int = 0
    finished: GenerationFinished | None = None

    @property
    def end(self) -> GenerationFinished:
        assert self.finished is not None
        return self.finished

    def take(self, event: GenerationEvent, keep_tokens: bool) -> None:
        match event:
            case GenerationDelta() if keep_tokens:
                self.tokens += event.tokens
            case ReasoningDelta():
                self.reasoning_tokens += len(event.tokens)
            case GenerationRewound():
                self.tokens = [token for token in self.tokens if token["index"] < event.at_token]
            case GenerationFinished():
                self.finished = event
            case _:
                pass


async def whole(feed: Feed, keep_tokens: bool) -> list[Transcript]:
    """Wait for all answers. Raises TokenglassError where one fails."""
    transcripts = [Transcript() for _ in feed.choices]
    async for batch in feed.batches():
        for choice, event in batch:
            transcripts[choice].take(event, keep_tokens)
            if isinstance(event, GenerationFinished) and event.error is not None:
                raise TokenglassError.of(event.error)
    return transcripts
