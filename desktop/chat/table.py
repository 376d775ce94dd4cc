"""A laid-out table: columns as wide as their text, narrowed where the measure is short, thin lines between rows."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter

from desktop.chat.markdown import Block
from desktop.chat.pieces import CELL_X, CELL_Y, Piece, Run, Selection, flow, styled_layout, u16
from desktop.chat.style import INDENT, LINE, QUOTE, Style

MIN_COLUMN = 48.0


class TablePiece(Piece):
    """Cells are runs, row by row; in the text they are divided by tabs, rows by line breaks."""

    def __init__(self, block: Block, style: Style) -> None:
        super().__init__(block, style)
        self._columns = len(block.aligns)
        self._left = block.indent * INDENT + block.quote * QUOTE
        self._lines: list[float] = []
        self._edges: list[float] = []
        at = 0
        for number, row in enumerate(block.rows):
            for cell in row:
                layout, text = styled_layout(cell, style.bold if number == 0 else style.body, style)
                length = u16(text)
                self.runs.append(Run(layout, 0, 0, at, length))
                at += length + 1
        self.text = block.plain()

    def layout(self, width: float) -> None:
        if width == self.width or not self._columns:
            return
        self.width = width
        widths = self._column_widths(width - self._left)
        self._edges = [self._left]
        for column in widths:
            self._edges.append(self._edges[-1] + column)
        y = 0.0
        self._lines = [y]
        for start in range(0, len(self.runs), self._columns):
            row = self.runs[start : start + self._columns]
            for column, run in enumerate(row):
                inner = widths[column] - 2 * CELL_X
                run.height = flow(run.layout, inner, LINE)
                rest = inner - max(
                    (run.layout.lineAt(i).naturalTextWidth() for i in range(run.layout.lineCount())),
                    default=0,
                )
                share = {"left": 0.0, "center": 0.5, "right": 1.0}[self.block.aligns[column]]
                run.x = self._edges[column] + CELL_X + max(0.0, rest) * share
                run.y = y + CELL_Y
            y += max((run.height for run in row), default=LINE) + 2 * CELL_Y
            self._lines.append(y)
        self.height = y + 1

    def _column_widths(self, room: float) -> list[float]:
        wanted = [MIN_COLUMN] * self._columns
        for index, run in enumerate(self.runs):
            flow(run.layout, 10_000, LINE)
            lines = range(run.layout.lineCount())
            natural = max((run.layout.lineAt(i).naturalTextWidth() for i in lines), default=0)
            column = index % self._columns
            wanted[column] = max(wanted[column], natural + 2 * CELL_X + 1)
        # The widest columns give way first, down to a common width.
        low, high = MIN_COLUMN, max(wanted)
        if sum(wanted) <= room:
            return wanted
        for _ in range(20):
            limit = (low + high) / 2
            if sum(min(column, limit) for column in wanted) > room:
                high = limit
            else:
                low = limit
        return [min(column, low) for column in wanted]

    def _run_at(self, x: float, y: float) -> Run | None:
        if not self.runs or not self._columns:
            return None
        row = sum(1 for line in self._lines[1:-1] if y >= line)
        column = sum(1 for edge in self._edges[1:-1] if x >= edge)
        return self.runs[min(row * self._columns + column, len(self.runs) - 1)]

    def _first_run(self, y: float) -> int:
        row = sum(1 for line in self._lines[1:-1] if y >= line)
        return row * self._columns

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        painter.setPen(style.line)
        right = self._edges[-1] if self._edges else 0
        for line in self._lines[1:-1]:
            y = round(line) + 0.5
            painter.drawLine(at + QPointF(self._left, y), at + QPointF(right, y))
        frame = QRectF(self._left, 0, right - self._left, self.height).translated(at)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(frame.adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)
        painter.setPen(style.text)
        super().paint(painter, at, top, bottom, selection)
