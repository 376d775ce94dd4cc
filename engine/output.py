"""One generation's tokens to delta events: bytes, characters, stop strings, then reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from engine.backend import Sampled
from engine.detokenize import Detokenizer, PieceCache
from engine.events import Event, GenerationDelta, ReasoningDelta, ToolCallDelta, ToolCallDone
from engine.formats import HERMES, AnswerParser, CallText, Piece
from engine.prepared import Prepared
from engine.stops import StopMatcher
from engine.types import OpenCall, Token, ToolCall


class Output:
    """What a generation has said so far.

    Every token is delivered exactly once, in order. Text that is withheld comes with a later token, or at
    the end in a delta without tokens; so the texts of all deltas joined are always `text`.
    """

    def __init__(self, prepared: Prepared, pieces: PieceCache) -> None:
        command = prepared.command
        self.stopped = False
        """A stop string has been reached, or the only call made that was wanted."""
        self.tool_calls: list[ToolCall] = []
        self.n_tokens = 0
        self._generation_id = command.generation_id
        self._one_call = not command.parallel_tool_calls
        self._pieces = pieces
        tools = command.tools if command.tool_choice != "none" else []
        fmt = prepared.format
        if tools and (fmt is None or not fmt.has_calls):
            # tools that a template knows nothing of are often called in the most common form all the same
            fmt = HERMES if fmt is None else replace(fmt, calls=HERMES.calls)
        self._detokenizer = Detokenizer(pieces, fmt.shown_tokens(bool(tools)) if fmt else ())
        self._stops = StopMatcher(command.stop) if command.stop else None
        self._parser: AnswerParser | None = None
        if fmt is not None:
            self._parser = AnswerParser(
                fmt,
                generation_id=command.generation_id,
                tools=tools,
                reasoning_open=prepared.reasoning_open,
            )
        self._parts: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """The answer without reasoning and calls, as delivered so far."""
        return "".join(self._parts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def open_call(self) -> OpenCall | None:
        """What has been delivered of a call that isn't whole yet."""
        return self._parser.open_call if self._parser is not None else None

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
        if self._parser is None:
            self._say(text, [token], t, events)
            return
        before = self._parser.place
        pieces = self._parser.push(text)
        if len(pieces) == 1 and isinstance(pieces[0], str):  # nearly always
            token["text"] = pieces[0]
            self._say(pieces[0], [token], t, events)
            return
        self._route(pieces, token, before or self._parser.place, t, events)

    def finish(self, t: float, events: list[Event]) -> None:
        """Deliver what was withheld."""
        if self._one_call and self.tool_calls:
            return  # what stands behind the call belongs to nothing
        text = self._detokenizer.finish()
        if self._stops is not None:
            text = self._stops.push(text) + self._stops.finish()
        if self._parser is not None:
            self._route(self._parser.push(text) + self._parser.finish(), None, "", t, events)
        elif text:
            self._say(text, [], t, events)

    def _say(self, text: str, tokens: list[Token], t: float, events: list[Event]) -> None:
        self._parts.append(text)
        events.append(GenerationDelta(t=t, generation_id=self._generation_id, text=text, tokens=tokens))

    def _route(
        self, pieces: list[Piece], token: Token | None, place: Piece, t: float, events: list[Event]
    ) -> None:
        """Deliver text, reasoning and calls. The token goes with the last text that it brought, or else
        without text to the `place` that it belongs to.
        """
        if self._one_call:
            first = next((i for i, piece in enumerate(pieces) if isinstance(piece, ToolCall)), None)
            if first is not None:
                pieces = pieces[: first + 1]
                self.stopped = True
        carrier = max((i for i, piece in enumerate(pieces) if not isinstance(piece, ToolCall)), default=None)
        if carrier is None and token is not None:
            carrier = 0
            pieces = [place, *pieces]
        for i, piece in enumerate(pieces):
            if isinstance(piece, ToolCall):
                self.tool_calls.append(piece)
                events.append(ToolCallDone(t=t, generation_id=self._generation_id, call=piece))
                continue
            text = piece if isinstance(piece, str) else piece.text
            tokens: list[Token] = []
            if i == carrier and token is not None:
                token["text"] = text
                tokens = [token]
            if isinstance(piece, str):
                self._say(text, tokens, t, events)
            elif isinstance(piece, CallText):
                events.append(
                    ToolCallDelta(
                        t=t,
                        generation_id=self._generation_id,
                        call_id=piece.call_id,
                        text=text,
                        tokens=tokens,
                        name=piece.name or None,
                        arguments=piece.arguments,
                    )
                )
            else:
                self._reasoning.append(text)
                events.append(
                    ReasoningDelta(t=t, generation_id=self._generation_id, text=text, tokens=tokens)
                )
