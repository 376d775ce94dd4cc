"""Text that comes in pieces, read as if it were there: generators that yield where they need more of it."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

from engine.formats.markers import MORE, NO, MarkerSet, skip_space

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Yields while it waits for text; what it answers doesn't depend on where the text is cut."""

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


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

    def json_value(self) -> Reading[bool]:
        """Move over a JSON object or array; False where it doesn't end."""
        depth = 0
        quoted = False
        while True:
            found = (_INSIDE if quoted else _OUTSIDE).search(self.text, self.at)
            if found is None:
                self.at = len(self.text)
                if not (yield from self.more()):
                    return False
                continue
            character = found.group()
            if character == "\\":
                if found.end() == len(self.text):
                    self.at = found.start()
                    if not (yield from self.more()):
                        return False
                    continue
                self.at = found.end() + 1
                continue
            self.at = found.end()
            if character == '"':
                quoted = not quoted
            elif character in "{[":
                depth += 1
            else:
                depth -= 1
            if depth == 0 and not quoted:
                return True
