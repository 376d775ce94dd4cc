"""Finding markers in text that comes in pieces: what is there, what may still become one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

NO = -1
"""The marker isn't there."""
MORE = -2
"""What is there may become the marker; more text decides."""

_BORDER = re.compile(r"(?<=[>\]}])\s*(?=[<\[{`])|(?<=[>\]}])\s+|\s+(?=[<\[])")
_SPACE = re.compile(r"\s*")


def skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


class Marker:
    """A literal. White space at its ends and between its tags is optional, as models are careless with it."""

    __slots__ = ("pieces",)

    def __init__(self, literal: str) -> None:
        self.pieces = tuple(piece for piece in _BORDER.split(literal.strip()) if piece)

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def match(self, text: str, start: int, ended: bool) -> int:
        """Where the marker that begins at `start` ends; NO; or MORE, unless the text has `ended`."""
        at = start
        for i, piece in enumerate(self.pieces):
            if i:
                at = skip_space(text, at)
            if text.startswith(piece, at):
                at += len(piece)
            else:
                return NO if ended or not piece.startswith(text[at : at + len(piece)]) else MORE
        return at

    def search(self, text: str, start: int, ended: bool) -> tuple[int, int] | None:
        """Beginning and end of the first one; the end is MORE where it may only be one."""
        first = self.pieces[0]
        at = text.find(first, start)
        while at >= 0:
            end = self.match(text, at, ended)
            if end != NO:
                return at, end
            at = text.find(first, at + 1)
        if not ended:
            for length in range(min(len(text) - start, len(first) - 1), 0, -1):
                if text.endswith(first[:length]):
                    return len(text) - length, MORE
        return None


class Hit(NamedTuple):
    start: int
    end: int
    """MORE: it isn't sure yet."""
    role: str


class MarkerSet:
    """Several markers, each with a role. The earliest counts; of those, the longest."""

    __slots__ = ("_markers", "first_characters")

    def __init__(self, markers: Iterable[tuple[str, str]]) -> None:
        """Pairs of literal and role; blank literals are left out."""
        self._markers = [(marker, role) for literal, role in markers if (marker := Marker(literal))]
        self.first_characters = frozenset(marker.pieces[0][0] for marker, _ in self._markers)

    def __bool__(self) -> bool:
        return bool(self._markers)

    def match(self, text: str, start: int, ended: bool) -> tuple[int, str]:
        """The end (or NO, or MORE) and the role of the marker that begins at `start`."""
        best, best_role = NO, ""
        for marker, role in self._markers:
            end = marker.match(text, start, ended)
            if end == MORE:
                return MORE, role
            if end > best:
                best, best_role = end, role
        return best, best_role

    def search(self, text: str, start: int, ended: bool) -> Hit | None:
        best: Hit | None = None
        for marker, role in self._markers:
            found = marker.search(text, start, ended)
            if found is None or (best is not None and found[0] > best.start):
                continue
            if best is None or found[0] < best.start or MORE in (found[1], best.end):
                end = found[1] if best is None or found[0] < best.start else MORE
            elif found[1] <= best.end:
                continue
            else:
                end = found[1]
            best = Hit(found[0], end, role)
        return best
