"""One generation's tokens to delta events: bytes, characters, stop strings, tool calls, in this order."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.backend import Sampled
from engine.detokenize import Detokenizer, PieceCache
from engine.events import Event, GenerationDelta, ToolCallDelta, ToolCallDone
from engine.scheduler import Prepared
from engine.stops import StopMatcher
from engine.toolcalls import CallText, Piece, ToolCallParser
from engine.types import Token, ToolCall


class Output:
    """What a generation has said so far.

    Every token is delivered exactly once, in order. Text that is withheld comes with a later token, or at
    the end in a delta without tokens; so the texts of all deltas joined are always `text`.
    """

    def __init__(self, prepared: Prepared, pieces: PieceCache) -> None:
        command = prepared.command
        self.stopped = False
        """A stop string has been reached."""
        self.tool_calls: list[ToolCall] = []
        self.n_tokens = 0
        self._generation_id = command.generation_id
        self._pieces = pieces
        self._detokenizer = Detokenizer(pieces)
        self._stops = StopMatcher(command.stop) if command.stop else None
        self._calls = ToolCallParser(command.generation_id) if command.tools else None
        self._parts: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """The answer without reasoning and calls, as delivered so far."""
        return "".join(self._parts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def replay(self, tokens: Sequence[int], injected: Collection[int] = ()) -> None:
        """Take tokens that were delivered before, with the indices of the injected ones; tells nobody."""
        unheard: list[Event] = []
        for token in tokens:
            self.push(Sampled(token), 0.0, unheard, injected=self.n_tokens in injected)
            unheard.clear()

    def push(self, sampled: Sampled, t: float, events: list[Event], *, injected: bool = False) -> None:
        """Deliver one token, sampled (or `injected`) at `t`."""
        text = self._detokenizer.push(sampled.token)
        if self._stops is not None:
            text = self._stops.push(text)
            self.stopped = self._stops.stopped
        token: Token = {"id": sampled.token, "index": self.n_tokens, "text": text, "t": t}
        if injected:
            token["injected"] = True
        if sampled.logprob is not None:
            token["logprob"] = sampled.logprob
            token["top"] = [
                {"id": other, "text": self._pieces.text(other), "logprob": logprob}
                for other, logprob in sampled.top
            ]
        self.n_tokens += 1
        if self._calls is None:
            self._say(text, [token], t, events)
            return
        before = self._calls.call_id
        pieces = self._calls.push(text)
        self._route(pieces, token, before or self._calls.call_id, t, events)

    def finish(self, t: float, events: list[Event]) -> None:
        """Deliver what was withheld."""
        text = self._detokenizer.finish()
        if self._stops is not None:
            text = self._stops.push(text) + self._stops.finish()
        if self._calls is not None:
            self._route(self._calls.push(text) + self._calls.finish(), None, None, t, events)
        elif text:
            self._say(text, [], t, events)

    def _say(self, text: str, tokens: list[Token], t: float, events: list[Event]) -> None:
        self._parts.append(text)
        events.append(GenerationDelta(t=t, generation_id=self._generation_id, text=text, tokens=tokens))

    def _route(
        self, pieces: list[Piece], token: Token | None, call_id: str | None, t: float, events: list[Event]
    ) -> None:
        """Deliver text and calls. The token goes with the last text that it brought, or else without text
        to the call `call_id` that it is part of.
        """
        carrier = max((i for i, piece in enumerate(pieces) if not isinstance(piece, ToolCall)), default=None)
        if carrier is None and token is not None:
            carrier = 0
            pieces = ["" if call_id is None else CallText(call_id, ""), *pieces]
        for i, piece in enumerate(pieces):
            tokens: list[Token] = []
            if i == carrier and token is not None:
                tokens = [token]
            if isinstance(piece, ToolCall):
                self.tool_calls.append(piece)
                events.append(ToolCallDone(t=t, generation_id=self._generation_id, call=piece))
            elif isinstance(piece, CallText):
                for held in tokens:
                    held["text"] = piece.text
                events.append(
                    ToolCallDelta(
                        t=t,
                        generation_id=self._generation_id,
                        call_id=piece.call_id,
                        text=piece.text,
                        tokens=tokens,
                    )
                )
            else:
                for held in tokens:
                    held["text"] = piece
                self._say(piece, tokens, t, events)
