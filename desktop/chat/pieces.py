"""Laid-out blocks: each knows its height for a width, paints itself, and finds characters under the mouse.

Positions within a piece count UTF-16 units, as Qt's text classes do; `u16` and `cut` translate.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFont, QPainter, QTextLayout, QTextOption

from desktop.chat import highlight
from desktop.chat.markdown import Block, Span
from desktop.chat.style import CODE_LINE, INDENT, LINE, QUOTE, Style

CODE_PADDING = 16
CODE_HEADER = 32
CELL_X, CELL_Y = 12, 6

Selection = tuple[int, int]


def u16(text: str) -> int:
    """The length of a text as Qt counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, start: int, end: int) -> str:
    """The part of a text between two positions as Qt counts them."""
    if text.isascii():
        return text[start:end]
    return text.encode("utf-16-le", "surrogatepass")[2 * start : 2 * end].decode("utf-16-le", "replace")


@dataclass(slots=True)
class Run:
    """One `QTextLayout` in a piece: where it stands and which characters of the piece it holds."""

    layout: QTextLayout
    x: float
    y: float
    start: int
    length: int
    height: float = 0

    def line_index(self, y: float) -> int:
        """The line at `y` within the run; the nearest one."""
        count = self.layout.lineCount()
        for index in range(count):
            line = self.layout.lineAt(index)
            following = self.layout.lineAt(index + 1).y() if index + 1 < count else self.height
            if y < (line.y() + line.height() + following) / 2:
                return index
        return count - 1


class Piece:
    """Base of the laid-out blocks. Coordinates are the piece's own."""

    def __init__(self, block: Block, style: Style) -> None:
        self.block = block
        self.style = style
        self.text = ""
        self.width = 0.0
        self.height = 0.0
        self.runs: list[Run] = []

    def update(self, block: Block) -> bool:
        """Take over a block that has grown, if that is cheaper than a new piece. `layout` follows."""
        return block == self.block

    def layout(self, width: float) -> None:
        raise NotImplementedError

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        """Paint what lies between `top` and `bottom` (the piece's coordinates) with the piece at `at`."""
        for run in self.runs[self._first_run(top) :]:
            if run.y > bottom:
                break
            run.layout.draw(painter, at + QPointF(run.x, run.y), self._selected(run, selection))

    def hit(self, x: float, y: float) -> int:
        """The position nearest to a point."""
        run = self._run_at(x, y)
        if run is None:
            return 0
        index = run.line_index(y - run.y)
        line = run.layout.lineAt(index)
        position = int(line.xToCursor(x - run.x))
        return run.start + position

    def exact(self, x: float, y: float) -> int | None:
        """The position of the character that covers a point, if there is one."""
        run = self._run_at(x, y)
        if run is None or not run.y <= y < run.y + run.height:
            return None
        line = run.layout.lineAt(run.line_index(y - run.y))
        if not line.naturalTextRect().left() <= x - run.x < line.naturalTextRect().right():
            return None
        position = int(line.xToCursor(x - run.x, line.CursorPosition.CursorOnCharacter))
        return run.start + position

    def link_at(self, x: float, y: float) -> str:
        """The address under a point, or nothing."""
        return ""

    def copy_rect(self) -> QRectF | None:
        """Where the piece's own copy button is."""
        return None

    def _first_run(self, y: float) -> int:
        return max(0, bisect_right(self.runs, y, key=lambda run: run.y) - 1)

    def _run_at(self, x: float, y: float) -> Run | None:
        return self.runs[self._first_run(y)] if self.runs else None

    def _selected(self, run: Run, selection: Selection | None) -> list[QTextLayout.FormatRange]:
        if selection is None:
            return []
        start = max(selection[0] - run.start, 0)
        end = min(selection[1] - run.start, run.length)
        if end <= start:
            return []
        return [_range(start, end - start, self.style.selection)]


def word_at(piece: Piece, position: int) -> Selection:
    """The word around a position, as a double click selects it."""
    for run in piece.runs:
        if run.start <= position <= run.start + run.length:
            inside = position - run.start
            layout = run.layout
            start = layout.previousCursorPosition(
                min(inside + 1, run.length), QTextLayout.CursorMode.SkipWords
            )
            return run.start + start, run.start + _word_end(layout, start)
    return position, position


def _word_end(layout: QTextLayout, start: int) -> int:
    """Qt's next word begins after the spaces; a selected word doesn't have them."""
    end = layout.nextCursorPosition(start, QTextLayout.CursorMode.SkipWords)
    text = layout.text()
    while end > start + 1 and cut(text, end - 1, end).isspace():
        end -= 1
    return end


def _range(start: int, length: int, fmt: object) -> QTextLayout.FormatRange:
    found = QTextLayout.FormatRange()
    found.start = start
    found.length = length
    found.format = fmt  # type: ignore[assignment]
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


def make_layout(text: str, font: QFont, *, anywhere: bool = False) -> QTextLayout:
    layout = QTextLayout(text.replace("\n", "\u2028"), font)
    option = QTextOption()
    option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
    option.setUseDesignMetrics(False)
    if anywhere:
        option.setTabStopDistance(32)
    layout.setTextOption(option)
    layout.setCacheEnabled(True)
    return layout


def styled_layout(spans: Sequence[Span], font: QFont, style: Style) -> tuple[QTextLayout, str]:
    """A layout of styled runs, and its text."""
    text = "".join(span.text for span in spans)
    layout = make_layout(text, font)
    formats = []
    at = 0
    for span in spans:
        length = u16(span.text)
        if span.bold or span.italic or span.strike or span.code or span.link:
            formats.append(_range(at, length, style.span_format(span, font)))
        at += length
    if formats:
        layout.setFormats(formats)
    return layout, text


class TextPiece(Piece):
    """A paragraph or heading."""

    def __init__(self, block: Block, style: Style) -> None:
        super().__init__(block, style)
        heading = block.kind == "heading"
        font = style.body if not heading else style.heading if block.level <= 2 else style.bold
        layout, self.text = styled_layout(block.spans, font, style)
        self.runs = [Run(layout, 0, 0, 0, u16(self.text))]
        self._line = 28 if heading and block.level <= 2 else LINE
        self._codes: list[QRectF] = []

    @property
    def left(self) -> float:
        return self.block.indent * INDENT + self.block.quote * QUOTE

    def layout(self, width: float) -> None:
        if width == self.width:
            return
        self.width = width
        run = self.runs[0]
        run.x = self.left
        run.height = self.height = flow(run.layout, max(48.0, width - run.x), self._line)
        self._codes = [
            rect.translated(run.x, 0)
            for start, end in self._spans_where(code=True)
            for rect in _line_rects(run.layout, start, end)
        ]

    def _spans_where(self, *, code: bool) -> list[tuple[int, int]]:
        found = []
        at = 0
        for span in self.block.spans:
            end = at + u16(span.text)
            if code and span.code:
                found.append((at, end))
            at = end
        return found

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        if self._codes:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(style.inline_background)
            for rect in self._codes:
                painter.drawRoundedRect(rect.translated(at), 4, 4)
        painter.setPen(style.muted if self.block.quote else style.text)
        if self.block.marker:
            metrics = style.body_metrics
            width = metrics.horizontalAdvance(self.block.marker)
            baseline = (LINE - metrics.height()) / 2 + metrics.ascent()
            painter.save()
            painter.setPen(style.muted)
            painter.setFont(style.body)
            painter.drawText(at + QPointF(self.left - 8 - width, baseline), self.block.marker)
            painter.restore()
        super().paint(painter, at, top, bottom, selection)

    def link_at(self, x: float, y: float) -> str:
        position = self.exact(x, y)
        if position is None:
            return ""
        at = 0
        for span in self.block.spans:
            at += u16(span.text)
            if position < at:
                return span.link
        return ""


def _line_rects(layout: QTextLayout, start: int, end: int) -> list[QRectF]:
    """Where the characters [start, end) stand, one rectangle for each line."""
    rects = []
    for index in range(layout.lineCount()):
        line = layout.lineAt(index)
        first = max(start, line.textStart())
        last = min(end, line.textStart() + line.textLength())
        if first < last:
            left = _x(line, first)
            rects.append(QRectF(left - 3, line.y() - 1, _x(line, last) - left + 6, line.height() + 2))
    return rects


def _x(line: object, position: int) -> float:
    """PySide gives the position back beside the x, as it is an in-out argument in C++."""
    found = line.cursorToX(position)  # type: ignore[attr-defined]
    return float(found[0]) if isinstance(found, tuple) else float(found)


class LinesPiece(Piece):
    """Plain text line by line: the user's messages, thoughts. Only the last line is laid out again when it grows."""

    line_height = LINE
    anywhere = False
    top = 0.0
    left = 0.0
    muted = False

    def __init__(self, block: Block, style: Style, font: QFont | None = None) -> None:
        super().__init__(block, style)
        self._font = font or style.body
        self._lines: list[str] = []
        self._widest = 0.0
        self._fill()

    @property
    def natural_width(self) -> float:
        """The width of the widest line as laid out."""
        return self._widest

    def update(self, block: Block) -> bool:
        old = self.block
        if block.kind != old.kind or block.indent != old.indent or block.quote != old.quote:
            return False
        if (
            block.language != old.language
            or block.marker != old.marker
            or not block.text.startswith(old.text)
        ):
            return False
        self.block = block
        self._fill()
        return True

    def _fill(self) -> None:
        lines = self.block.text.split("\n")
        keep = max(0, len(self._lines) - 1)
        if keep and lines[keep] == self._lines[keep] and len(lines) > keep:
            keep += 1
        del self.runs[keep:]
        at = self.runs[-1].start + self.runs[-1].length + 1 if self.runs else 0
        for index in range(keep, len(lines)):
            line = lines[index]
            layout = make_layout(line, self._font, anywhere=self.anywhere)
            self._decorate(index, line, layout)
            length = u16(line)
            self.runs.append(Run(layout, 0, -1, at, length))
            at += length + 1
        self._lines = lines
        self.text = self.block.text

    def _decorate(self, index: int, line: str, layout: QTextLayout) -> None:
        """Give a new line its colours."""

    def layout(self, width: float) -> None:
        fresh = width != self.width
        self.width = width
        y = self.top
        widest = 0.0
        for run in self.runs:
            if fresh or run.height == 0:
                run.height = flow(run.layout, max(48.0, width - 2 * self.left), self.line_height)
            run.x, run.y = self.left, y
            y += run.height
            if run.layout.maximumWidth() > widest:
                widest = max(
                    widest, *(run.layout.lineAt(i).naturalTextWidth() for i in range(run.layout.lineCount()))
                )
        self._widest = widest
        self.height = y

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        painter.setPen(self.style.muted if self.muted else self.style.text)
        super().paint(painter, at, top, bottom, selection)


class CodePiece(LinesPiece):
    """A code block: a quiet card with its language and a copy button above the code."""

    line_height = CODE_LINE
    anywhere = True

    def __init__(self, block: Block, style: Style) -> None:
        self._inside: list[str] = []
        self._indent = block.indent * INDENT + block.quote * QUOTE
        self.left = self._indent + CODE_PADDING
        self.top = float(CODE_HEADER)
        self.copy_hovered = False
        self.copied = False
        super().__init__(block, style, style.code)

    def _decorate(self, index: int, line: str, layout: QTextLayout) -> None:
        del self._inside[index:]
        before = self._inside[-1] if self._inside else ""
        found, after = highlight.marks(self.block.language, line, before)
        self._inside.append(after)
        if found:
            layout.setFormats(
                [
                    _range(u16(line[:start]), u16(line[start : start + length]), self.style.kind_format(kind))
                    for start, length, kind in found
                ]
            )

    def layout(self, width: float) -> None:
        super().layout(width)
        self.height += 12

    def copy_rect(self) -> QRectF | None:
        width = self.style.small_metrics.horizontalAdvance("Copied") + 16
        return QRectF(self.width - width - 8, 5, width, 24)

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        painter.setPen(style.line)
        painter.setBrush(style.code_background)
        card = QRectF(self._indent, 0, self.width - self._indent, self.height).translated(at)
        painter.drawRoundedRect(card.adjusted(0.5, 0.5, -0.5, -0.5), 10, 10)
        if top < CODE_HEADER:
            self._paint_header(painter, at)
        super().paint(painter, at, top, bottom, selection)

    def _paint_header(self, painter: QPainter, at: QPointF) -> None:
        style = self.style
        painter.setFont(style.small)
        painter.setPen(style.muted)
        line = QRectF(self.left, 5, self.width - 2 * self.left, 24).translated(at)
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(line, Qt.AlignmentFlag.AlignLeft | middle, self.block.language or "text")
        button = self.copy_rect()
        assert button is not None
        button = button.translated(at)
        if self.copy_hovered:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(style.hover)
            painter.drawRoundedRect(button, 6, 6)
            painter.setPen(style.text)
        painter.drawText(button, Qt.AlignmentFlag.AlignCenter, "Copied" if self.copied else "Copy")


class RulePiece(Piece):
    """A horizontal line."""

    def layout(self, width: float) -> None:
        self.width = width
        self.height = 9

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        painter.setPen(self.style.line)
        painter.drawLine(at + QPointF(0, 4.5), at + QPointF(self.width, 4.5))


def make_piece(block: Block, style: Style) -> Piece:
    from desktop.chat.table import TablePiece

    if block.kind == "code":
        return CodePiece(block, style)
    if block.kind == "table":
        return TablePiece(block, style)
    if block.kind == "rule":
        return RulePiece(block, style)
    return TextPiece(block, style)
