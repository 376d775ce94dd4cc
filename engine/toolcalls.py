"""Tool calls in a model's text, in the Hermes form: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

What a call's tags enclose is passed on as it comes, and once more as a whole call at the end tag. What turns
out to be no call is given back as plain text, never as an error. Where the text is cut makes no difference.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

from engine.types import ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SPACE = re.compile(r"[ \t\n\r]*")


class CallText(NamedTuple):
    """A piece of a call's text."""

    call_id: str
    text: str


Piece = str | CallText | ToolCall
"""Plain text, a piece of a call's text, or a whole call."""


class ToolCallParser:
    """Follows the text of one generation."""

    def __init__(self, generation_id: str) -> None:
        self._generation_id = generation_id
        self._n_opened = 0
        self._withheld = ""
        """The end of the text so far that may begin a tag, with the white space before an opening one."""
        self._before = ""
        """White space before the call that is open."""
        self._call: list[str] = []
        """The text of the call that is open."""
        self._after_call = False
        """Nothing but white space has come since the last whole call."""
        self.call_id: str | None = None
        """Of the call that is open."""

    def push(self, text: str) -> list[Piece]:
        """What the text adds. White space around calls is left out."""
        pieces: list[Piece] = []
        rest = self._withheld + text
        self._withheld = ""
        while rest:
            rest = self._in_text(rest, pieces) if self.call_id is None else self._in_call(rest, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """What was withheld; a call without its end tag counts where it is whole."""
        pieces: list[Piece] = []
        withheld, self._withheld = self._withheld, ""
        if self.call_id is None:
            if withheld:
                pieces.append(withheld)
        else:
            self._close(pieces, withheld)
        return pieces

    def _in_text(self, rest: str, pieces: list[Piece]) -> str:
        if self._after_call:
            rest = rest.lstrip()
        start = rest.find(OPEN)
        end = start if start >= 0 else len(rest) - _length_of_beginning(rest, OPEN)
        shown = rest[:end].rstrip()
        if shown:
            pieces.append(shown)
            self._after_call = False
        if start < 0:
            self._withheld = rest[len(shown) :]
            return ""
        self._before = rest[len(shown) : start]
        self.call_id = f"call_{self._generation_id}_{self._n_opened}"
        self._n_opened += 1
        return rest[start + len(OPEN) :]

    def _in_call(self, rest: str, pieces: list[Piece]) -> str:
        assert self.call_id is not None
        start = rest.find(CLOSE)
        end = start if start >= 0 else len(rest) - _length_of_beginning(rest, CLOSE)
        if end:
            self._call.append(rest[:end])
            pieces.append(CallText(self.call_id, rest[:end]))
        if start < 0:
            self._withheld = rest[end:]
            return ""
        self._close(pieces, CLOSE)
        return rest[start + len(CLOSE) :]

    def _close(self, pieces: list[Piece], end: str) -> None:
        assert self.call_id is not None
        text = "".join(self._call)
        call = parse_call(self.call_id, text)
        if call is not None:
            pieces.append(call)
            self._after_call = True
        else:
            pieces.append(self._before + OPEN + text + end)
            self._after_call = False
        self.call_id = None
        self._call.clear()


def _length_of_beginning(text: str, tag: str) -> int:
    """Length of the text's longest ending that `tag` begins with."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def parse_call(call_id: str, text: str) -> ToolCall | None:
    """The call that a JSON object describes, or None. Its arguments stay as they are written."""
    try:
        data = _decoder.decode(text)
        if not isinstance(data, dict):
            return None
        name = data.get("name")
        arguments = data.get("arguments", {})
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return None
        if isinstance(arguments, str):  # some models write the object as a string
            written = arguments
            written.encode()
            arguments = _decoder.decode(written)
        else:
            written = _value_as_written(text, "arguments") if "arguments" in data else "{}"
    except (ValueError, RecursionError):
        return None
    return ToolCall(id=call_id, name=name, arguments=written) if isinstance(arguments, dict) else None


def _value_as_written(text: str, wanted: str) -> str:
    """The JSON text of one field (the last of that name) of a valid JSON object that has it."""
    place = _skip(text, text.index("{") + 1)
    written = ""
    while text[place] != "}":
        key, place = _decoder.raw_decode(text, place)
        start = _skip(text, _skip(text, place) + 1)  # past the colon
        _, end = _decoder.raw_decode(text, start)
        if key == wanted:
            written = text[start:end]
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return written


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder: Any = json.JSONDecoder(parse_constant=_refuse)
