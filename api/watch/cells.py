"""Text for a terminal's cells: harmless whatever it holds, measured in columns, wrapped as it comes."""

from __future__ import annotations

import unicodedata
from collections import deque

MAX_MARKS = 3
"""Combining marks on one character; more would be drawn over the lines around."""
KEPT_CHARS = 20_000
"""Of a text's end: what can be wrapped anew for another width."""
KEPT_LINES = 400
TAB = "    "

_shown: dict[str, str] = {"\n": "\n", "\t": TAB, "\u2028": "\n", "\u2029": "\n", "\x7f": "␡"}
_widths: dict[str, int] = {}


def harmless(text: str) -> str:
    """The text with nothing in it that steers a terminal: control characters become pictures (`␛`).

    What is invisible or turns the direction of writing is left out; newlines stay, tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    found = []
    marks = 0
    for char in text.replace("\r\n", "\n"):
        shown = _shown.get(char)
        if shown is None:
            shown = _shown[char] = _harmless(char)
        if len(shown) == 1 and _width(shown) == 0:
            marks += 1
            if marks > MAX_MARKS:
                continue
        elif shown:
            marks = 0
        found.append(shown)
    return "".join(found)


def _harmless(char: str) -> str:
    match unicodedata.category(char):
        case "Cc":
            return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "\ufffd"
        case "Cf":
            return ""
        case "Cs" | "Cn" | "Co":  # nobody knows how wide these are
            return "\ufffd"
        case "Mn" if 0xFE00 <= ord(char) <= 0xFE0F or ord(char) >= 0xE0100:
            return ""  # variation selectors: the same character, wider in some terminals
        case _:
            return char


def columns(text: str) -> int:
    """How many columns a harmless text without newlines takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    width = _widths.get(char)
    if width is None:
        if unicodedata.category(char) in ("Mn", "Me") or 0x1160 <= ord(char) <= 0x11FF:
            width = 0
        else:
            width = 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
        _widths[char] = width
    return width


def clip(text: str, width: int) -> str:
    """The beginning of the text that fits, with an ellipsis where something is cut."""
    if columns(text) <= width:
        return text
    if width < 1:
        return ""
    return text[: _fitting(text, width - 1)] + "…"


def one_line(text: str) -> str:
    """Harmless, and on one line."""
    return " ".join(harmless(text).split())


def _fitting(text: str, width: int) -> int:
    """How many characters fit into so many columns; marks go with the character they are on."""
    used = 0
    for place, char in enumerate(text):
        used += _width(char)
        if used > width:
            return place
    return len(text)


class Flow:
    """A text wrapped to a width while it is still being written. Only its end is kept.

    Each line has a kind, which its pieces came with: `text`, `reasoning` or `tool`.
    """

    def __init__(self, width: int = 80) -> None:
        self._width = width
        self._pieces: deque[tuple[str, str]] = deque()
        self._chars = 0
        """Of all pieces."""
        self._lines: deque[tuple[str, str]] = deque(maxlen=KEPT_LINES)
        self._open = ""
        """The line where the writing goes on."""
        self._kind = "text"

    def feed(self, text: str, kind: str = "text") -> None:
        """Go on with this."""
        text = harmless(text[-KEPT_CHARS:])
        self._pieces.append((text, kind))
        self._chars += len(text)
        while self._chars - len(self._pieces[0][0]) >= KEPT_CHARS:
            self._chars -= len(self._pieces.popleft()[0])
        self._wrap(text, kind)

    def replace(self, *pieces: tuple[str, str]) -> None:
        """Start anew with these texts and kinds."""
        self._pieces.clear()
        self._chars = 0
        self._restart()
        for text, kind in pieces:
            self.feed(text, kind)

    def tail(self, lines: int, width: int) -> list[tuple[str, str]]:
        """The last lines (text, kind) at this width; the last of them is where the writing goes on."""
        if width != self._width:
            self._width = max(1, width)
            self._restart()
            for text, kind in self._pieces:
                self._wrap(text, kind)
        if lines <= 1:
            return [(self._open, self._kind)][:lines]
        return [*list(self._lines)[1 - lines :], (self._open, self._kind)]

    def _restart(self) -> None:
        self._lines.clear()
        self._open, self._kind = "", "text"

    def _wrap(self, text: str, kind: str) -> None:
        if kind != self._kind:
            if self._open.strip():
                self._close(self._open)
            self._open, self._kind = "", kind
        first, *others = text.split("\n")
        self._extend(first)
        for other in others:
            self._close(self._open)
            self._open = ""
            self._extend(other)

    def _extend(self, text: str) -> None:
        line = self._open + text
        while columns(line) > self._width:
            end = _fitting(line, self._width)
            space = line.rfind(" ", 0, end + 1)
            if space > 0 and not _breaks_anywhere(line[end]):
                self._close(line[:space])
                line = line[space + 1 :]
            else:
                end = max(1, end)
                self._close(line[:end])
                line = line[end:].removeprefix(" ")
        self._open = line

    def _close(self, line: str) -> None:
        self._lines.append((line.rstrip(), self._kind))


def _breaks_anywhere(char: str) -> bool:
    """Chinese and the like are wrapped between any two characters."""
    return _width(char) == 2
