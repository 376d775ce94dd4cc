"""Laid-out blocks: each knows its height for a width, paints itself, and finds characters under the mouse."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QTextLayout, QTextLine

from desktop.chat.markdown import Block, Span
from desktop.chat.style import INDENT, LINE, QUOTE, Style
from desktop.chat.textlayout import Run, Selection, cut, flow, format_range, styled_layout, u16, word_around

MAX_LEFT = 12 * INDENT
"""Deeper lists and quotations are not indented further."""


class Piece:
    """Base of the laid-out blocks: runs of text in a column. Coordinates are the piece's own."""

    def __init__(self, block: Block, style: Style) -> None:
        self.block = block
        self.style = style
        self.text = block.plain()
        self.width = 0.0
        self.height = 0.0
        self.runs: list[Run] = []
        """From top to bottom, and in the text's order."""
        self.left = float(min(block.indent * INDENT + block.quote * QUOTE, MAX_LEFT))
        """Where the piece's text or card begins."""
        self._codes: list[Selection] = []
        self._links: list[tuple[int, int, str]] = []
        self._code_rects: list[QRectF] = []

    @property
    def length(self) -> int:
        """Of the text, as Qt counts it."""
        return self.runs[-1].start + self.runs[-1].length if self.runs else 0

    def update(self, block: Block) -> bool:
        """Take over a block that has grown, if that is cheaper than a new piece. `layout` follows."""
        return block == self.block

    def layout(self, width: float) -> None:
        """Place everything for a column of that width; cheap where nothing has changed."""
        raise NotImplementedError

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        """Paint what lies between `top` and `bottom` (the piece's coordinates) with the piece at `at`."""
        if self._code_rects:
            pen = painter.pen()
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self.style.inline_background)
            for rect in self._code_rects:
                painter.drawRoundedRect(rect.translated(at), 4, 4)
            painter.setPen(pen)
        for run in self.runs[self._first_run(top) :]:
            if run.y > bottom:
                break
            run.layout.draw(painter, at + QPointF(run.x, run.y), self._selected(run, selection))

    def hit(self, x: float, y: float) -> int:
        """The position between characters that is nearest to a point."""
        run = self._run_at(x, y)
        line = run.line_at(y - run.y) if run is not None else None
        if run is None or line is None:
            return 0
        return run.start + int(line.xToCursor(x - run.x))

    def link_at(self, x: float, y: float) -> str:
        """The address under a point, or nothing."""
        if not self._links:
            return ""
        position = self._character_at(x, y)
        return next((link for start, end, link in self._links if start <= position < end), "")

    def word_at(self, position: int) -> Selection:
        """The word around a position."""
        for run in self.runs:
            if run.start <= position <= run.start + run.length:
                start, end = word_around(run.layout, position - run.start)
                return run.start + start, run.start + end
        return position, position

    def selected(self, start: int, end: int) -> str:
        """The text between two positions."""
        return cut(self.text, start, end)

    def copy_rect(self) -> QRectF | None:
        """Where the piece's own copy button is."""
        return None

    def _note_spans(self, spans: Iterable[Span], at: int) -> None:
        """Remember where links and inline code are, `at` being the first span's position."""
        for span in spans:
            end = at + u16(span.text)
            if span.code:
                self._codes.append((at, end))
            if span.link:
                self._links.append((at, end, span.link))
            at = end

    def _place_codes(self) -> None:
        self._code_rects = [
            rect.adjusted(-2, -1, 2, 1)
            for start, end in self._codes
            for run in self.runs
            if run.start <= start < run.start + run.length
            for rect in run.rects(start, end)
        ]

    def _character_at(self, x: float, y: float) -> int:
        """The character that covers a point; -1 where none does."""
        run = self._run_at(x, y)
        if run is None or not run.y <= y < run.y + run.height:
            return -1
        line = run.line_at(y - run.y)
        if line is None:
            return -1
        area = line.naturalTextRect()
        if not area.left() <= x - run.x < area.right():
            return -1
        on = QTextLine.CursorPosition.CursorOnCharacter
        return run.start + int(line.xToCursor(x - run.x, on))

    def _first_run(self, y: float) -> int:
        return max(0, bisect_right(self.runs, y, key=lambda run: run.y) - 1)

    def _run_at(self, x: float, y: float) -> Run | None:  # noqa: ARG002  # tables have runs side by side
        return self.runs[self._first_run(y)] if self.runs else None

    def _selected(self, run: Run, selection: Selection | None) -> list[QTextLayout.FormatRange]:
        if selection is None:
            return []
        start = max(selection[0] - run.start, 0)
        end = min(selection[1] - run.start, run.length)
        return [format_range(start, end - start, self.style.selection)] if end > start else []


class TextPiece(Piece):
    """A paragraph or heading, with its list marker where an item begins."""

    def __init__(self, block: Block, style: Style) -> None:
        super().__init__(block, style)
        heading = block.kind == "heading"
        large = heading and block.level <= 2
        font = style.heading if large else style.bold if heading else style.body
        self._line = 28 if large else LINE
        run = Run(lambda: styled_layout(block.spans, font, style), 0, u16(self.text))
        run.x = self.left
        self.runs = [run]
        self._note_spans(block.spans, 0)

    def layout(self, width: float) -> None:
        if width == self.width:
            return
        self.width = width
        run = self.runs[0]
        run.height = self.height = flow(run.layout, max(48.0, width - self.left), self._line)
        self._place_codes()

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        style = self.style
        if self.block.marker:
            width = style.body_metrics.horizontalAdvance(self.block.marker)
            line = self.runs[0].layout.lineAt(0)
            baseline = line.y() + line.ascent()
            painter.setPen(style.muted)
            painter.setFont(style.body)
            painter.drawText(at + QPointF(self.left - 8 - width, baseline), self.block.marker)
        painter.setPen(style.muted if self.block.quote else style.text)
        super().paint(painter, at, top, bottom, selection)


class RulePiece(Piece):
    """A horizontal line."""

    def layout(self, width: float) -> None:
        self.width = width
        self.height = 9

    def paint(
        self, painter: QPainter, at: QPointF, top: float, bottom: float, selection: Selection | None
    ) -> None:
        if top < self.height and bottom > 0 and selection is None:
            painter.setPen(self.style.line)
            painter.drawLine(at + QPointF(self.left, 4.5), at + QPointF(self.width, 4.5))
