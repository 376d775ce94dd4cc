"""A terminal for tests: a program runs on a pty, and what it writes becomes the screen a person would see.

It knows just what `tokenglass` may send, and fails at anything else, so that hostile text that gets through
as an escape sequence is found.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

LIMIT_S = 200.0
SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")
MODES = {"25": "cursor", "7": "wraps", "2026": "whole", "1049": "other"}


class UnknownSequenceError(Exception):
    """The program has sent what it never should."""


@dataclass(frozen=True)
class Cell:
    char: str = " "
    style: tuple[int, ...] = ()


@dataclass
class Screen:
    """What a terminal of this size shows."""

    width: int
    height: int
    modes: dict[str, bool] = field(
        default_factory=lambda: {"cursor": True, "wraps": True, "whole": False, "other": False}
    )
    frames: int = 0
    _style: tuple[int, ...] = ()
    _row: int = 0
    _column: int = 0
    _rest: str = ""

    def __post_init__(self) -> None:
        self.cells = self._empty()
        self._main = self.cells
        self._saved = 0, 0

    def _empty(self) -> list[list[Cell]]:
        return [[Cell() for _ in range(self.width)] for _ in range(self.height)]

    def resize(self, width: int, height: int) -> None:
        """As terminals do: what fits stays, the rest is gone until it is drawn again."""
        self.width, self.height = width, height
        self.cells = self._fitted(self.cells)
        self._main = self._fitted(self._main)
        self._row, self._column = min(self._row, height - 1), min(self._column, width - 1)

    def _fitted(self, former: list[list[Cell]]) -> list[list[Cell]]:
        cells = self._empty()
        for row, line in enumerate(former[: self.height]):
            cells[row][: min(self.width, len(line))] = line[: self.width]
        return cells

    @property
    def lines(self) -> list[str]:
        return ["".join(cell.char for cell in line).rstrip() for line in self.cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def feed(self, text: str) -> None:
        text = self._rest + text
        self._rest = ""
        place = 0
        while place < len(text):
            char = text[place]
            if char == "\x1b":
                match = SEQUENCE.match(text, place)
                if match is None:
                    if len(text) - place < 12:  # the rest of it comes with the next piece
                        self._rest = text[place:]
                        return
                    raise UnknownSequenceError(repr(text[place : place + 20]))
                self._sequence(match)
                place = match.end()
                continue
            place += 1
            if char == "\r":
                self._column = 0
            elif char == "\n":
                self._line_feed()
            elif unicodedata.category(char) in ("Cc", "Cf", "Cs"):
                raise UnknownSequenceError(repr(char))
            else:
                self._put(char)

    def _sequence(self, match: re.Match[str]) -> None:
        private, numbers, final = match.groups()
        given = [int(number) for number in numbers.split(";") if number]
        match private, final:
            case "?", "h" | "l" if numbers in MODES:
                self._mode(MODES[numbers], final == "h")
            case "", "H":
                row, column = given or [1, 1]
                self._row, self._column = min(row, self.height) - 1, min(column, self.width) - 1
            case "", "K" if not given:
                self.cells[self._row][self._column :] = [Cell()] * (self.width - self._column)
            case "", "J" if given == [2]:
                self.cells[:] = self._empty()
            case "", "m":
                self._style = () if given in ([], [0]) else tuple(given)
            case _:
                raise UnknownSequenceError(match[0])

    def _mode(self, name: str, on: bool) -> None:
        if name == "other" and on != self.modes["other"]:
            if on:
                self._main, self.cells = self.cells, self._empty()
                self._saved = self._row, self._column
            else:
                self.cells = self._main
                self._row, self._column = self._saved
        if name == "whole" and on:
            self.frames += 1
        self.modes[name] = on

    def _put(self, char: str) -> None:
        width = 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
        if unicodedata.category(char) in ("Mn", "Me"):
            before = max(0, self._column - 1)
            cell = self.cells[self._row][before]
            self.cells[self._row][before] = Cell(cell.char + char, cell.style)
            return
        if self._column + width > self.width:
            if self.modes["wraps"]:
                self._column = 0
                self._line_feed()
            else:
                self._column = max(0, self.width - width)
        line = self.cells[self._row]
        line[self._column] = Cell(char, self._style)
        if width == 2 and self._column + 1 < self.width:
            line[self._column + 1] = Cell("", self._style)
        self._column += width

    def _line_feed(self) -> None:
        if self._row + 1 < self.height:
            self._row += 1
        else:
            self.cells.append([Cell() for _ in range(self.width)])
            del self.cells[0]


# where the tests run in a shell's background, SIGINT is ignored, and a child would inherit that
_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class OnTerminal:
    """A program on a terminal of its own."""

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str], width: int = 80, height: int = 24
    ) -> None:
        self.screen = Screen(width, height)
        self._file, self._other = pty.openpty()
        self._set_size(width, height)
        self.mode_before = termios.tcgetattr(self._other)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            start_new_session=True,
            env=env,
        )
        self.raw = b""
        self._pending = b""

    @property
    def mode(self) -> list[Any]:
        """The terminal's settings now, to compare with `mode_before`."""
        return termios.tcgetattr(self._other)

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        """Make the window another size; the kernel tells the program."""
        self.read(0.0)
        self.screen.resize(width, height)
        self._set_size(width, height)

    def type(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._file, text.encode())

    def read(self, wait_s: float) -> bool:
        """Take in what it wrote; False where nothing came in time."""
        if not select.select([self._file], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self._file, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        self._pending += data
        text = self._pending.decode("utf-8", "ignore")
        whole = text.encode()
        if self._pending.startswith(whole):
            self._pending = self._pending[len(whole) :]
        self.screen.feed(text)
        return bool(data)

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until it holds."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"it didn't come true; on the screen:\n{self.screen.text}"
            if not self.read(0.2):
                assert self.process.poll() is None, f"it has ended:\n{self.screen.text}"

    def shows(self, *texts: str) -> None:
        """Read until all of them are on the screen."""
        self.until(lambda: all(text in self.screen.text for text in texts))

    def end(self) -> int:
        """Wait for its end; answers the exit code."""
        end = time.monotonic() + LIMIT_S
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.1)
        while self.read(0.05):
            pass
        return self.process.wait(10)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._file)
        os.close(self._other)
