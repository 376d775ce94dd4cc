"""Text that comes in pieces, read as if it were there: generators that yield where they need more of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

from engine.formats.markers import MORE, NO, MarkerSet, skip_space

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Yields while it waits for text; what it answers doesn't depend on where the text is cut."""

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\\x00-\x1f]')


def _nobody(_text: str) -> None:
    """Hears nothing."""


class Reader:
    """The text from the first character on that may still be given back, and a place in it."""

    __slots__ = ("at", "ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        """How far it has been read."""
        self.ended = False
        """No more text comes."""

    def more(self) -> Reading[bool]:
        """Wait; False where no more comes."""
        if self.ended:
            return False
        yield
        return not self.ended

    def space(self) -> Reading[bool]:
        """Pass white space; False at the text's end."""
        while True:
            self.at = skip_space(self.text, self.at)
            if self.at < len(self.text):
                return True
            if not (yield from self.more()):
                return False

    def peek(self, markers: MarkerSet) -> Reading[tuple[int, int, str]]:
        """Beginning, end (or NO) and role of the marker that comes next, after white space. Stays."""
        while True:
            start = skip_space(self.text, self.at)
            end, role = NO, ""
            if start < len(self.text):
                end, role = markers.match(self.text, start, self.ended)
            if end >= 0 or self.ended or (end == NO and start < len(self.text)):
                return start, end, role
            yield

    def find(self, markers: MarkerSet, limit: int | None = None) -> Reading[tuple[int, int, str]]:
        """Move to the next of these markers, but not past `limit`.

        Answers its beginning, its end and its role; as end NO where there is none.
        """
        while True:
            hit = markers.search(self.text, self.at, self.ended)
            at = hit.start if hit else len(self.text)
            if limit is not None and at > limit:
                self.at = limit
                return limit, NO, ""
            self.at = at
            if hit and hit.end != MORE:
                return hit
            if not (yield from self.more()) and hit is None:
                return at, NO, ""

    def next(self) -> Reading[str]:
        """The next character that is no white space; stays before it. Empty at the text's end."""
        return self.text[self.at] if (yield from self.space()) else ""

    def json_value(self, tell: Callable[[str], None] = _nobody) -> Reading[bool]:
        """Move over a JSON object, array or string; False where it doesn't end.

        Its text is told as it comes. Line breaks that a model leaves in strings are told as escapes.
        """
        depth = 0
        quoted = False
        while True:
            found = (_INSIDE if quoted else _OUTSIDE).search(self.text, self.at)
            end = found.start() if found else len(self.text)
            if end > self.at:
                tell(self.text[self.at : end])
                self.at = end
            if found is None or (found.group() == "\\" and found.end() == len(self.text)):
                if not (yield from self.more()):
                    return False
                continue
            character = found.group()
            self.at += 2 if character == "\\" else 1
            if character < " ":
                tell(json.dumps(character)[1:-1])
                continue
            tell(self.text[end : self.at])
            if character == '"':
                quoted = not quoted
            elif character in "{[":
                depth += 1
            elif character != "\\":
                depth -= 1
            if depth == 0 and not quoted:
                return True
