"""Calls of functions as a stream tells them: who is called, then the arguments piece by piece.

The bus has a call's text as the model writes it. Where that is a JSON object with the name first, as most
models write it, the arguments are passed on as they come; else they come at once when the call is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from engine.errors import ErrorInfo
from engine.events import GenerationFinished, ToolCallDelta, ToolCallDone

MAX_HEAD = 512
"""Characters before the arguments."""
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([A-Za-z0-9_.-]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_SPECIAL = re.compile(r'[{}"\[\]]')
_SPECIAL_IN_TEXT = re.compile(r'["\\\x00-\x1f]')


class Arguments:
    """Finds the arguments in a call's text as it comes."""

    def __init__(self, names: Collection[str]) -> None:
        self.name = ""
        """Who is called, once that is certain; one of `names`."""
        self.sent = ""
        self._names = names
        self._head: str | None = ""
        """Text so far; None: the arguments have begun, or can't be told before the call is whole."""
        self._depth = 0
        self._in_text = False
        self._escaped = False

    def push(self, text: str) -> str:
        """What the text adds to the arguments."""
        if self._head is not None:
            self._head += text
            found = _HEAD.match(self._head)
            if found is None or found[1] not in self._names:
                if len(self._head) > MAX_HEAD:
                    self._head = None
                return ""
            self.name, text, self._head = found[1], self._head[found.end() :], None
        elif self._depth == 0:
            return ""
        piece = self._up_to_the_end(text)
        self.sent += piece
        return piece

    def _up_to_the_end(self, text: str) -> str:
        """The part that belongs to the object; line breaks that a model leaves in strings become escapes."""
        parts = []
        at = 0
        while at < len(text):
            if self._escaped:
                parts.append(text[at])
                self._escaped, at = False, at + 1
                continue
            found = (_SPECIAL_IN_TEXT if self._in_text else _SPECIAL).search(text, at)
            if found is None:
                parts.append(text[at:])
                break
            parts.append(text[at : found.start()])
            at, mark = found.end(), found[0]
            if self._in_text and mark not in '"\\':
                parts.append(json.dumps(mark)[1:-1])
                continue
            parts.append(mark)
            if mark == '"':
                self._in_text = not self._in_text
            elif mark == "\\":
                self._escaped = True
            else:
                self._depth += 1 if mark in "{[" else -1
                if self._depth == 0:
                    break
        return "".join(parts)

    def rest(self, arguments: str) -> str | None:
        """What is still to be sent of the whole arguments; None where something else was sent."""
        if arguments.startswith(self.sent):
            return arguments[len(self.sent) :]
        try:
            return "" if json.loads(self.sent) == json.loads(arguments) else None
        except (ValueError, RecursionError):
            return None


class CallStream:
    """The calls of one choice, as the `tool_calls` of its deltas."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._open: dict[str, Arguments] = {}
        """By call id."""
        self._places: dict[str, int] = {}
        """Of those that have been told."""
        self.failure: ErrorInfo | None = None
        """What was told turned out to be no call, or another one."""

    def delta(self, event: ToolCallDelta) -> Iterator[dict[str, Any]]:
        call = self._open.setdefault(event.call_id, Arguments(self._names))
        if piece := call.push(event.text):
            yield from self._begin(event.call_id, call.name)
            yield self._more(event.call_id, piece)

    def done(self, event: ToolCallDone) -> Iterator[dict[str, Any]]:
        call_id = event.call.id
        call = self._open.pop(call_id, None) or Arguments(self._names)
        rest = call.rest(event.call.arguments)
        if rest is None or call.name not in ("", event.call.name):
            self._fail()
            return
        yield from self._begin(call_id, event.call.name)
        if rest:
            yield self._more(call_id, rest)

    def end(self, event: GenerationFinished) -> None:
        """Nothing more comes: what was begun and isn't whole was no call."""
        if event.finish_reason in ("stop", "tool_calls") and any(call.sent for call in self._open.values()):
            self._fail()

    def _fail(self) -> None:
        self.failure = ErrorInfo(code="invalid_output", message="the model broke off a call that had begun")

    def _begin(self, call_id: str, name: str) -> Iterator[dict[str, Any]]:
        """First who is called, then with what, as clients put it together."""
        if call_id not in self._places:
            place = self._places[call_id] = len(self._places)
            function = {"name": name, "arguments": ""}
            yield {"index": place, "id": call_id, "type": "function", "function": function}

    def _more(self, call_id: str, arguments: str) -> dict[str, Any]:
        return {"index": self._places[call_id], "function": {"arguments": arguments}}
