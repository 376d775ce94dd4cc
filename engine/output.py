"""One generation's tokens to delta events: bytes, characters, stop strings, tool calls, in this order."""

from __future__ import annotations

from engine.backend import Sampled
from engine.commands import Generate
from engine.detokenize import Detokenizer, PieceCache
from engine.events import Event, GenerationDelta
from engine.stops import StopMatcher
from engine.types import Token, ToolCall


class Output:
    """What a generation has said so far.

    Every token is delivered exactly once, in order. Text that is withheld comes with a later token, or at
    the end in a delta without tokens; so the texts of all deltas joined are always `text`.
    """

    def __init__(self, command: Generate, pieces: PieceCache) -> None:
        self.stopped = False
        """A stop string has been reached."""
        self.tool_calls: list[ToolCall] = []
        self.n_tokens = 0
        self._generation_id = command.generation_id
        self._pieces = pieces
        self._detokenizer = Detokenizer(pieces)
        self._stops = StopMatcher(command.stop) if command.stop else None
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def push(self, sampled: Sampled, t: float, events: list[Event]) -> None:
        """Deliver one token, sampled at `t`."""
        text = self._detokenizer.push(sampled.token)
        if self._stops is not None:
            text = self._stops.push(text)
            self.stopped = self._stops.stopped
        token: Token = {"id": sampled.token, "index": self.n_tokens, "text": text, "t": t}
        if sampled.logprob is not None:
            token["logprob"] = sampled.logprob
            token["top"] = [
                {"id": other, "text": self._pieces.text(other), "logprob": logprob}
                for other, logprob in sampled.top
            ]
        self.n_tokens += 1
        self._deliver(text, [token], t, events)

    def finish(self, t: float, events: list[Event]) -> None:
        """Deliver what was withheld."""
        text = self._detokenizer.finish()
        if self._stops is not None:
            text = self._stops.push(text) + self._stops.finish()
        if text:
            self._deliver(text, [], t, events)

    def _deliver(self, text: str, tokens: list[Token], t: float, events: list[Event]) -> None:
        self._parts.append(text)
        events.append(
            GenerationDelta.model_construct(
                t=t, generation_id=self._generation_id, type="generation.delta", text=text, tokens=tokens
            )
        )
