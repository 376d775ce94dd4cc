"""Qt's text layouts: styled runs, broken into lines of one height, and where their characters stand.

Positions count UTF-16 units, as Qt's text classes do; `u16` and `cut` translate from Python's strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import QFont, QTextCharFormat, QTextLayout, QTextLine, QTextOption

from desktop.chat.markdown import Span
from desktop.chat.style import Style

Selection = tuple[int, int]
"""First position, and the one after the last."""


def u16(text: str) -> int:
    """The length of a text as Qt counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, start: int, end: int) -> str:
    """The part of a text between two positions as Qt counts them."""
    if text.isascii():
        return text[start:end]
    return text.encode("utf-16-le", "surrogatepass")[2 * start : 2 * end].decode("utf-16-le", "replace")


class Run:
    """One `QTextLayout` of a piece: where it stands and which of the piece's characters it holds.

    The layout is made when it is first needed, so that a long code block costs what is seen of it.
    """

    __slots__ = ("_layout", "_make", "height", "length", "start", "x", "y")

    def __init__(self, make: Callable[[], QTextLayout], start: int, length: int) -> None:
        self._make = make
        self._layout: QTextLayout | None = None
        self.x = 0.0
        self.y = 0.0
        self.start = start
        self.length = length
        self.height = 0.0

    @property
    def layout(self) -> QTextLayout:
        self.ensure()
        assert self._layout is not None
        return self._layout

    def ensure(self) -> None:
        """Make the layout now."""
        if self._layout is None:
            self._layout = self._make()

    def forget(self) -> None:
        """Make the layout anew when it is next needed."""
        self._layout = None

    @property
    def lines(self) -> list[QTextLine]:
        return [self.layout.lineAt(index) for index in range(self.layout.lineCount())]

    @property
    def natural_width(self) -> float:
        """The width of the widest line."""
        return max((line.naturalTextWidth() for line in self.lines), default=0.0)

    def line_at(self, y: float) -> QTextLine | None:
        """The line at `y` of the run, else the nearest one."""
        found = None
        for line in self.lines:
            if found is not None and y < line.y():
                break
            found = line
        return found

    def rects(self, start: int, end: int) -> list[QRectF]:
        """Where the piece's characters [start, end) stand, one rectangle for each line."""
        found = []
        for line in self.lines:
            first = max(start - self.start, line.textStart())
            last = min(end - self.start, line.textStart() + line.textLength())
            if first < last:
                left = x_of(line, first)
                width = x_of(line, last) - left
                found.append(QRectF(self.x + left, self.y + line.y(), width, line.height()))
        return found


def x_of(line: QTextLine, position: int) -> float:
    """Where a character of a line begins. PySide gives the position back beside the x."""
    found: object = line.cursorToX(position)
    return float(found[0] if isinstance(found, tuple) else found)  # type: ignore[arg-type]  # the stub says object


def format_range(start: int, length: int, style: QTextCharFormat) -> QTextLayout.FormatRange:
    found = QTextLayout.FormatRange()
    found.start = start
    found.length = length
    found.format = style
    return found


def flow(layout: QTextLayout, width: float, line_height: float) -> float:
    """Break a layout into lines of at most `width`; answers its height."""
    y = 0.0
    layout.beginLayout()
    while (line := layout.createLine()).isValid():
        line.setLineWidth(width)
        height = line.height()
        step = max(line_height, height)
        line.setPosition(QPointF(0, y + (step - height) / 2))
        y += step
    layout.endLayout()
    return y


def plain_layout(text: str, font: QFont) -> QTextLayout:
    layout = QTextLayout(text.replace("\n", "\u2028"), font)
    option = QTextOption()
    option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
    option.setTabStopDistance(32)
    layout.setTextOption(option)
    layout.setCacheEnabled(True)
    return layout


def styled_layout(spans: Sequence[Span], font: QFont, style: Style) -> QTextLayout:
    """A layout of styled runs of text."""
    layout = plain_layout("".join(span.text for span in spans), font)
    formats = []
    at = 0
    for span in spans:
        length = u16(span.text)
        if span.bold or span.italic or span.strike or span.code or span.link:
            formats.append(format_range(at, length, style.span_format(span, font)))
        at += length
    if formats:
        layout.setFormats(formats)
    return layout


def word_around(layout: QTextLayout, position: int) -> Selection:
    """The word at a position, without the spaces behind it."""
    words = QTextLayout.CursorMode.SkipWords
    text = layout.text()
    length = u16(text)
    start = layout.previousCursorPosition(min(position + 1, length), words)
    end = layout.nextCursorPosition(start, words)
    while end > start + 1 and cut(text, end - 1, end).isspace():
        end -= 1
    return start, end
