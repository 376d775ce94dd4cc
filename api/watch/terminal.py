"""The terminal of a live picture: another screen while it lasts, keys, its size; left as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

if sys.platform != "win32":
    import termios
    import tty

from api.watch.cells import clip, columns

Span = tuple[str, str]
"""A harmless text, and its style: a name of STYLES, or several with spaces between."""
Line = Sequence[Span]

STYLES = {
    "bold": "1",
    "dim": "2",
    "accent": "36",
    "good": "32",
    "attention": "33",
    "error": "31",
    "tool": "35",
}
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other screen, no cursor, and no wrapping: what is wider than we think is cut and disturbs nothing."""
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
"""Around a frame, so that it is shown as a whole where the terminal knows how."""


def can_draw(out: TextIO) -> bool:
    """Whether this is a terminal on which a picture can be drawn."""
    return (
        sys.platform != "win32"
        and out.isatty()
        and os.environ.get("TERM", "dumb") not in ("dumb", "")
        and (out.encoding or "").lower().replace("-", "").startswith("utf")
    )


def colours_wanted() -> bool:
    """Not where NO_COLOR is set (and not empty)."""
    return not os.environ.get("NO_COLOR")


def rendered(line: Line, width: int, colours: bool = True) -> str:
    """The line as the terminal gets it, cut to the width."""
    parts = []
    left = width
    for text, style in line:
        if left <= 0:
            break
        text = clip(text, left)
        left -= columns(text)
        codes = ";".join(STYLES[name] for name in style.split()) if colours else ""
        parts.append(f"\x1b[{codes}m{text}\x1b[0m" if codes else text)
    return "".join(parts)


class Terminal:
    """Draws frames, line by line only what has changed. Made by `opened`; for the loop that runs there."""

    def __init__(self, out: TextIO, on_key: Callable[[str], None], on_resize: Callable[[], None]) -> None:
        self._out = out
        self._on_key = on_key
        self._on_resize = on_resize
        self._colours = colours_wanted()
        self._shown: list[str] = []
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._mode: list[Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines; the last column stays free, for clearing a line's rest is only safe there."""
        try:
            size = os.get_terminal_size(self._out.fileno())
        except OSError:
            return 79, 24
        return max(1, (size.columns or 80) - 1), max(1, size.lines or 24)

    def show(self, lines: Sequence[Line]) -> None:
        """Draw a frame of as many lines as the terminal has."""
        width, _ = self.size
        frame = [rendered(line, width, self._colours) for line in lines]
        former = self._shown + [""] * (len(frame) - len(self._shown))
        changed = [
            f"\x1b[{row};1H{line}\x1b[K"
            for row, (line, before) in enumerate(zip(frame, former, strict=False), 1)
            if line != before
        ]
        self._shown = frame
        if changed:
            self._write(BEGIN + "".join(changed) + END)

    def forget(self) -> None:
        """The terminal's size has changed: draw everything next time."""
        self._shown = []
        self._write("\x1b[2J")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    # ---- coming and going

    def enter(self) -> None:
        if self._keys is not None:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSADRAIN)
            asyncio.get_running_loop().add_reader(self._keys, self._read_keys)
        self._shown = []
        self._write(ENTER)

    def leave(self) -> None:
        if self._keys is not None and self._mode is not None:
            asyncio.get_running_loop().remove_reader(self._keys)
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._mode)
            self._mode = None
        with contextlib.suppress(OSError):
            self._write(LEAVE)

    def suspend(self) -> None:
        """Ctrl-Z: give the terminal back until the shell lets us go on."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()
        self._on_resize()

    def _read_keys(self) -> None:
        assert self._keys is not None
        try:
            data = os.read(self._keys, 1024)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._keys)
            return
        if not data.startswith(b"\x1b"):  # arrows and the like are no letters
            for key in data.decode("utf-8", "replace"):
                self._on_key(key)


@contextlib.contextmanager
def opened(
    out: TextIO, on_key: Callable[[str], None], on_resize: Callable[[], None], on_end: Callable[[], None]
) -> Iterator[Terminal]:
    """The terminal while the picture lasts. `on_end`: we are asked to leave (Ctrl-C, SIGTERM, SIGHUP)."""
    terminal = Terminal(out, on_key, on_resize)
    loop = asyncio.get_running_loop()
    handlers = {
        signal.SIGWINCH: on_resize,
        signal.SIGTSTP: terminal.suspend,
        signal.SIGINT: on_end,
        signal.SIGTERM: on_end,
        signal.SIGHUP: on_end,
    }
    terminal.enter()
    try:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        yield terminal
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
        terminal.leave()
