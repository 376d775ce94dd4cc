"""Text that keeps its lines: code, the user's messages, reasoning. What has grown isn't laid out again."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFont, QFontMetricsF, QPainter, QTextLayout

from desktop.chat import highlight
from desktop.chat.markdown import Block
from desktop.chat.pieces import Piece
from desktop.chat.style import CODE_LINE, LINE, Style
from desktop.chat.textlayout import Run, Selection, flow, format_range, plain_layout, u16

CODE_PADDING = 16
CODE_HEADER = 32
CODE_BOTTOM = 12
MEASURED_LINES = 60
"""A text of more lines than this takes the whole width, without asking how wide they are."""


class LinesPiece(Piece):
    """Plain text, one run for each of its lines."""

    line_height = LINE
    inset = 0.0
    """Space at either side of the text."""
    head = 0.0
    """Space above the text."""
    muted = False

    def __init__(self, block: Block, style: Style, font: QFont | None = None) -> None:
        super().__init__(block, style)
        self._font = font or style.body
        metrics = QFontMetricsF(self._font)
        self._widest_letter = max(metrics.horizontalAdvance(letter) for letter in "MW@%")
        self._lines: list[str] = []
        self._fill()

    def natural_width(self, most: float) -> float:
        """The width that the text needs, at most `most`, once it is laid out."""
        if len(self.runs) > MEASURED_LINES:
            return most
        return min(most, max((run.natural_width for run in self.runs), default=0.0))

    def update(self, block: Block) -> bool:
        old = self.block
        same = (block.kind, block.indent, block.quote, block.language, block.marker) == (
            (old.kind, old.indent, old.quote, old.language, old.marker)
        )
        if not same or not block.text.startswith(old.text):
            return False
        if block.text != old.text:
            self.block = block
            self._fill()
        return True

    def _fill(self) -> None:
        lines = self.block.text.split("\n")
        keep = max(0, len(self._lines) - 1)
        if self._lines and lines[keep] == self._lines[keep]:
            keep += 1
        del self.runs[keep:]
        self._changed_from(keep)
        at = self.length + 1 if self.runs else 0
        for index in range(keep, len(lines)):
            length = u16(lines[index])
            self.runs.append(Run(partial(self._make, index), at, length))
            at += length + 1
        self._lines = lines
        self.text = self.block.text

    def _changed_from(self, index: int) -> None:
        """Lines from `index` on are new."""

    def _decorate(self, index: int, layout: QTextLayout) -> None:
        """Give a line its colours."""

    def _make(self, index: int) -> QTextLayout:
        layout = plain_layout(self._lines[index], self._font)
        self._decorate(index, layout)
        self.runs[index].height = flow(layout, self._room, self.line_height)
        return layout

    @property
    def _room(self) -> float:
        return max(48.0, self.width - self.left - 2 * self.inset)

    def layout(self, width: float) -> None:
        fresh = width != self.width
        self.width = width
        room = self._room
        y = self.head
        for run, line in zip(self.runs, self._lines, strict=True):
            if fresh or not run.height:
                run.forget()
                if line.isascii() and len(line) * self._widest_letter <= room and "\t" not in line:
                    run.height = self.line_height
                else:
                    run.ensure()
            run.x, run.y = self.left + self.inset, y
            y += run.height
        self.height = y

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        painter.setPen(self.style.muted if self.muted else self.style.text)
        super().paint(painter, at, top, bottom, selection)


class CodePiece(LinesPiece):
    """A code block: a quiet card with its language and a copy button above the code."""

    line_height = CODE_LINE
    inset = CODE_PADDING
    head = CODE_HEADER

    def __init__(self, block: Block, style: Style) -> None:
        self._marks: list[list[highlight.Mark]] = []
        self._open: list[str] = []
        """What each line leaves open for the next."""
        self.copy_hovered = False
        self.copied = False
        super().__init__(block, style, style.code)

    def _changed_from(self, index: int) -> None:
        del self._marks[index:]
        del self._open[index:]

    def _decorate(self, index: int, layout: QTextLayout) -> None:
        while len(self._marks) <= index:
            before = self._open[-1] if self._open else ""
            found, after = highlight.marks(self.block.language, self._lines[len(self._marks)], before)
            self._marks.append(found)
            self._open.append(after)
        line = self._lines[index]
        formats = [
            format_range(u16(line[:start]), u16(line[start : start + length]), self.style.kind_format(kind))
            for start, length, kind in self._marks[index]
        ]
        if formats:
            layout.setFormats(formats)

    def layout(self, width: float) -> None:
        super().layout(width)
        self.height += CODE_BOTTOM

    def copy_rect(self) -> QRectF | None:
        width = self.style.small_metrics.horizontalAdvance("Copied") + 16
        return QRectF(self.width - width - 8, 5, width, 24)

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        painter.setPen(style.line)
        painter.setBrush(style.code_background)
        card = QRectF(self.left, 0, self.width - self.left, self.height).translated(at)
        painter.drawRoundedRect(card.adjusted(0.5, 0.5, -0.5, -0.5), 10, 10)
        if top < CODE_HEADER:
            self._paint_header(painter, at)
        super().paint(painter, at, top, bottom, selection)

    def _paint_header(self, painter: QPainter, at: QPointF) -> None:
        style = self.style
        painter.setFont(style.small)
        painter.setPen(style.muted)
        line = QRectF(self.left + CODE_PADDING, 5, self._room, 24).translated(at)
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
