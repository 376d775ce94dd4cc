"""A laid-out table: columns as wide as their text, narrowed where there is no room, thin lines between."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter

from desktop.chat.markdown import Block
from desktop.chat.pieces import Piece
from desktop.chat.style import LINE, Style
from desktop.chat.textlayout import Run, Selection, flow, styled_layout, u16

CELL_X, CELL_Y = 12, 6
MIN_COLUMN = 48.0
UNBOUNDED = 100_000.0


class TablePiece(Piece):
    """Cells are runs, row by row; in the text they are divided by tabs, rows by line breaks."""

    def __init__(self, block: Block, style: Style) -> None:
        super().__init__(block, style)
        self._columns = len(block.aligns)
        self._lines: list[float] = [0.0]
        """Upper edges of the rows, and the last one's lower edge."""
        self._edges: list[float] = [self.left]
        """Left edges of the columns, and the last one's right edge."""
        self._natural: list[float] = []
        """The width of each cell's text, where it isn't broken."""
        self._widths: list[float] = []
        self._placed = 0
        """Cells that stand where they belong."""
        self._fill()

    def update(self, block: Block) -> bool:
        whole = len(self.block.rows) - 1
        placed = (self.block.aligns, self.block.indent, self.block.quote, self.block.rows[:whole])
        if (block.aligns, block.indent, block.quote, block.rows[:whole]) != placed:
            return False
        if block.rows != self.block.rows or block.marker != self.block.marker:
            self.block = block
            self.text = block.plain()
            cells = whole * self._columns
            del self.runs[cells:], self._natural[cells:], self._codes[:], self._links[:]
            self._placed = min(self._placed, cells)
            self.width = 0.0
            self._fill()
        return True

    def _fill(self) -> None:
        """Make the cells that aren't there yet."""
        at = 0
        for number, row in enumerate(self.block.rows):
            font = self.style.bold if number == 0 else self.style.body
            for column, cell in enumerate(row):
                length = sum(u16(span.text) for span in cell)
                if number * self._columns + column >= len(self.runs):
                    self.runs.append(Run(partial(styled_layout, cell, font, self.style), at, length))
                self._note_spans(cell, at)
                at += length + 1

    def layout(self, width: float) -> None:
        if width == self.width:
            return
        self.width = width
        widths = self._column_widths(width - self.left)
        if widths != self._widths:
            self._widths = widths
            self._placed = 0
        self._edges = [self.left]
        for column in widths:
            self._edges.append(self._edges[-1] + column)
        first = self._placed // self._columns
        del self._lines[first + 1 :]
        y = self._lines[first]
        for start in range(first * self._columns, len(self.runs), self._columns):
            row = self.runs[start : start + self._columns]
            for column, run in enumerate(row):
                inner = widths[column] - 2 * CELL_X
                run.height = flow(run.layout, inner, LINE)
                share = {"left": 0.0, "center": 0.5, "right": 1.0}[self.block.aligns[column]]
                run.x = self._edges[column] + CELL_X + max(0.0, inner - run.natural_width) * share
                run.y = y + CELL_Y
            y += max(run.height for run in row) + 2 * CELL_Y
            self._lines.append(y)
        self._placed = len(self.runs)
        self.height = y + 1
        self._place_codes()

    def _column_widths(self, room: float) -> list[float]:
        wanted = [MIN_COLUMN] * self._columns
        for run in self.runs[len(self._natural) :]:
            flow(run.layout, UNBOUNDED, LINE)
            self._natural.append(run.natural_width)
        for index, natural in enumerate(self._natural):
            column = index % self._columns
            wanted[column] = max(wanted[column], natural + 2 * CELL_X + 1)
        if sum(wanted) <= room:
            return wanted
        # The widest columns give way first, down to a common width.
        low, high = MIN_COLUMN, max(wanted)
        for _ in range(20):
            limit = (low + high) / 2
            if sum(min(column, limit) for column in wanted) > room:
                high = limit
            else:
                low = limit
        return [min(column, low) for column in wanted]

    def _row_at(self, y: float) -> int:
        return max(0, min(bisect_right(self._lines, y) - 1, len(self._lines) - 2))

    def _run_at(self, x: float, y: float) -> Run | None:
        if not self.runs:
            return None
        column = sum(1 for edge in self._edges[1:-1] if x >= edge)
        return self.runs[min(self._row_at(y) * self._columns + column, len(self.runs) - 1)]

    def _first_run(self, y: float) -> int:
        return self._row_at(y) * self._columns

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        painter.setPen(style.line)
        right = self._edges[-1]
        for line in self._lines[1:-1]:
            y = round(line) + 0.5
            painter.drawLine(at + QPointF(self.left, y), at + QPointF(right, y))
        frame = QRectF(self.left, 0, right - self.left, self.height).translated(at)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(frame.adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)
        painter.setPen(style.text)
        super().paint(painter, at, top, bottom, selection)
