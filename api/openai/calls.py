"""Calls of functions as a stream tells them: who is called, then the arguments piece by piece.

What has been told stays told. So where somebody rewinds the generation, the arguments go on only if they come
again as they were; else the stream has failed, as it has where a call that had begun turns out to be none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import ErrorInfo
from engine.events import (
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationRewound,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallDone,
)

BROKEN_OFF = ErrorInfo(code="invalid_output", message="the model broke off a call that had begun")
REWOUND = ErrorInfo(
    code="bad_state",
    message="another client rewound this answer into a part that was told, and it goes on without",
)


@dataclass(slots=True)
class ToldCall:
    """A call whose arguments only ever grow where they are told."""

    name: str
    arguments: str = ""
    """As they stand."""
    told: str = ""

    def stand(self, name: str, arguments: str) -> str | None:
        """This is the call by now: what is to be told of the arguments; None where others were told."""
        if name != self.name:
            return None
        self.arguments = arguments
        if self.told.startswith(arguments):
            return ""
        if not arguments.startswith(self.told):
            return None
        rest = arguments[len(self.told) :]
        self.told = arguments
        return rest


class CallStream:
    """The calls of one choice, as the `tool_calls` of its deltas."""

    def __init__(self) -> None:
        self.failure: ErrorInfo | None = None
        """Why the answer can't be told to its end."""
        self.given_back = False
        """The open call was none: what comes now is its text, which isn't told a second time."""
        self._calls: dict[str, ToldCall] = {}
        """By call id, in the order in which they were told."""
        self._open: str | None = None
        """Id of the one that has begun and isn't whole."""
        self._rewound = False

    def take(self, event: GenerationEvent) -> Iterator[dict[str, Any]]:
        """What an event of the generation adds."""
        texts = isinstance(event, GenerationDelta | ReasoningDelta)
        if self.given_back and not texts and not isinstance(event, GenerationFinished):
            self._fail()
        match event:
            case ToolCallDelta() if event.name and event.arguments:
                had = self._calls.get(event.call_id)
                yield from self._stand(
                    event.call_id, event.name, (had.arguments if had else "") + event.arguments
                )
                self._open = event.call_id
            case ToolCallDone():
                yield from self._stand(event.call.id, event.call.name, event.call.arguments)
                self._open = None
            case GenerationDelta() | ReasoningDelta():
                self.given_back |= bool(event.text) and self._open is not None
                if self.given_back and event.tokens:  # it isn't the end that cuts it short
                    self._fail()
            case GenerationRewound():
                self._rewind(event)
            case GenerationFinished():
                self._finish(event)
            case _:
                pass

    def _stand(self, call_id: str, name: str, arguments: str) -> Iterator[dict[str, Any]]:
        """First who is called, then with what, as clients put it together."""
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = ToldCall(name)
            function = {"name": name, "arguments": ""}
            yield {"index": len(self._calls) - 1, "id": call_id, "type": "function", "function": function}
        rest = call.stand(name, arguments)
        if rest is None:
            self._fail()
        elif rest:
            yield {"index": list(self._calls).index(call_id), "function": {"arguments": rest}}

    def _rewind(self, event: GenerationRewound) -> None:
        self._rewound = True
        left = {call.id: call.arguments for call in event.tool_calls}
        self._open = None
        if event.open_call is not None and event.open_call.id in self._calls:
            self._open = event.open_call.id
            left[event.open_call.id] = event.open_call.arguments
        for call_id, call in self._calls.items():
            call.arguments = left.get(call_id, "")

    def _finish(self, event: GenerationFinished) -> None:
        """The answer has the calls that were told; one may be cut short."""
        whole = {call.id: call.arguments for call in event.tool_calls}
        cut_short = event.finish_reason not in ("stop", "tool_calls")
        for call_id, call in self._calls.items():
            if whole.get(call_id) != call.told and not (cut_short and call_id == self._open):
                self._fail()

    def _fail(self) -> None:
        self.failure = REWOUND if self._rewound else BROKEN_OFF
