"""The transcript on screen: only visible rows are laid out and painted, however long the conversation is.

Heights of rows that were never seen are estimates. A row is measured when it comes into view, and the
rows in view don't move for it: the scroll position is kept as "this row, so many pixels in".
"""

from __future__ import annotations

import time
from collections import OrderedDict

from PySide6.QtCore import QEvent, QModelIndex, QPoint, QPointF, Qt, QTimer, Signal
from PySide6.QtGui import (
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QPushButton, QWidget

from desktop.chat.heights import Heights
from desktop.chat.model import TranscriptModel
from desktop.chat.rowpaint import Look, paint_row
from desktop.chat.rows import Act, Button, Row
from desktop.chat.selecting import COPIED_MS, Selector
from desktop.chat.style import MARGIN, MEASURE, Style
from desktop.theme import Theme

TOP = 24
"""Space above the first row."""
BOTTOM = 8
KEPT_ROWS = 60
"""Laid-out rows that are kept though out of sight."""
MAX_ESTIMATED = 2000
"""In longer conversations rows out of sight keep their old heights when the width changes."""
PACE = 2.0
"""A frame that took n ms is followed by the next one after n times this at the earliest."""


CHORDS = (
    Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier | Qt.KeyboardModifier.MetaModifier
)


class TranscriptView(QAbstractScrollArea):
    """Paints a `TranscriptModel`; sticks to the newest text unless the user scrolls up."""

    regenerateRequested = Signal(str)
    """The answer's id."""
    variantRequested = Signal(str)
    """The id of the answer to show instead."""
    tokenPressed = Signal(str, dict, QPoint)
    """Of the generation with this id: a token, and where on the screen."""
    typed = Signal(str)
    """Text typed while the transcript has the focus: it is meant for the composer."""

    def __init__(self, model: TranscriptModel, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Conversation")
        self.viewport().setMouseTracking(True)
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.verticalScrollBar().setSingleStep(48)
        self.style_ = Style(theme)
        self.model = model
        self._heights = Heights()
        self._measured: set[int] = set()
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._dirty: set[int] = set()
        self.blocked: frozenset[Act] = frozenset()
        self.waiting = ""
        self._tokens = False
        self._opened: dict[str, set[Act]] = {}
        """What is unfolded, by message."""
        self._follow = True
        self._laid_out_for = 0
        self._anchor = (0, 0)
        """Row at the top of the viewport, and the pixels of it that are above the edge."""
        self._setting = False
        self.frame_ms = 0.0
        """What the last update of changed rows cost."""
        self._noted: tuple[str, str, str] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._refresh)
        self._newest = QPushButton("↓ newest", self)
        self._newest.setAccessibleName("Scroll to the newest message")
        self._newest.setCursor(Qt.CursorShape.PointingHandCursor)
        self._newest.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._newest.setFixedHeight(28)
        self._newest.hide()
        self._newest.clicked.connect(self.scroll_to_newest)
        self.selector = Selector(self)
        model.modelReset.connect(self._reset)
        model.rowsInserted.connect(self._inserted)
        model.rowsRemoved.connect(self._removed)
        model.dataChanged.connect(self._changed)
        self.verticalScrollBar().valueChanged.connect(self._scrolled)
        self.set_theme(theme)
        self._reset()

    # what others use

    def set_theme(self, theme: Theme) -> None:
        self.style_ = Style(theme)
        self._rows.clear()
        self._newest.setStyleSheet(
            f"QPushButton {{ background: {theme.card}; color: {theme.text}; border: 1px solid {theme.border};"
            "border-radius: 14px; padding: 4px 14px; font-size: 12px; }"
            f"QPushButton:hover {{ border-color: {theme.muted}; }}"
        )
        self.viewport().update()

    @property
    def following(self) -> bool:
        """Whether the newest text is kept in view."""
        return self._follow

    def block(self, acts: frozenset[Act], waiting: str) -> None:
        """Hide buttons that can't do anything now, and say why queued generations wait."""
        if (acts, waiting) != (self.blocked, self.waiting):
            self.blocked, self.waiting = acts, waiting
            self.viewport().update()

    def show_tokens(self, shown: bool) -> None:
        """Show answers token by token, where their tokens are known, or as Markdown."""
        if shown != self._tokens:
            self._tokens = shown
            self._rows.clear()
            self.selector.clear()
            self._settle()
            self.viewport().update()

    def scroll_to_newest(self) -> None:
        self._follow = True
        self._settle()

    def row(self, number: int) -> Row:
        """The laid-out row; made where it isn't kept."""
        turn = self.model.turn(number)
        row = self._rows.get(turn.id)
        if row is None or row.width != self.column_width:
            opened = frozenset(self._opened.get(turn.id, ()))
            if self._tokens:
                opened |= {"tokens"}
            row = self._rows[turn.id] = Row(turn, self.style_, self.column_width, opened)
        elif row.turn is not turn:
            row.update(turn)
        self._rows.move_to_end(turn.id)
        self._set_height(number, row.height)
        return row

    @property
    def column_width(self) -> int:
        return max(120, min(MEASURE, self.width() - 2 * MARGIN))

    @property
    def column_left(self) -> int:
        return (self.width() - self.column_width) // 2

    def row_top(self, number: int) -> int:
        """Where the row begins on the viewport."""
        return TOP + self._heights.top(number) - self.verticalScrollBar().value()

    def row_at(self, y: float) -> int:
        """The row at a height of the viewport; -1 where there is none."""
        inside = int(y) + self.verticalScrollBar().value() - TOP
        if inside < 0 or inside >= self._heights.total:
            return -1
        return self._heights.row_at(inside)

    def toggle(self, number: int, act: Act) -> None:
        """Unfold or fold an answer's reasoning or a long message."""
        identifier = self.model.id_at(number)
        self._opened.setdefault(identifier, set()).symmetric_difference_update((act,))
        self._rows.pop(identifier, None)
        self.selector.clear()
        self._follow = False
        self._settle()

    # the model's changes

    def _reset(self) -> None:
        self._rows.clear()
        self._measured.clear()
        self._dirty.clear()
        self._heights.reset(self._estimates())
        self._follow = True
        self.selector.clear()
        self._settle()

    def _inserted(self, _parent: QModelIndex, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self._heights.append(self._estimate(number, self.column_width))
        self._schedule()

    def _removed(self, _parent: QModelIndex, first: int, _last: int) -> None:
        self._heights.truncate(first)
        self._measured = {number for number in self._measured if number < first}
        self._dirty = {number for number in self._dirty if number < first}
        self.selector.clear()
        self._schedule()

    def _changed(self, first: QModelIndex, last: QModelIndex) -> None:
        self._dirty.update(range(first.row(), last.row() + 1))
        self._schedule()

    def _schedule(self) -> None:
        if not self._timer.isActive():
            self._timer.start(int(self.frame_ms * PACE))

    def _refresh(self) -> None:
        """Lay out what changed since the last frame, all at once."""
        begin = time.perf_counter()
        dirty, self._dirty = self._dirty, set()
        for number in dirty:
            if number < len(self.model) and (self.model.id_at(number) in self._rows):
                self.row(number)
        self._settle()
        self.frame_ms = (time.perf_counter() - begin) * 1000

    # scrolling

    def _estimate(self, number: int, width: int) -> int:
        """About how high a row will be. Being wrong only makes the scroll bar's handle inexact."""
        asked, characters, breaks = self.model.size(number)
        return int((characters * 7.5 // width + 1 + breaks) * 24) + (44 if asked else 100)

    def _estimates(self) -> list[int]:
        width = self.column_width
        return [self._estimate(number, width) for number in range(len(self.model))]

    def _set_height(self, number: int, height: int) -> None:
        self._heights.set(number, height)
        self._measured.add(number)

    def _settle(self) -> None:
        """Bring the scroll bar, the anchor and the measured heights in line with each other."""
        page = self.viewport().height()
        count = len(self.model)
        value = 0
        if count and self._follow:
            self._measure_up(count, page)
            value = self._content() - page
        elif count:
            row, offset = self._anchor
            row = min(row, count - 1)
            self._measure_down(row, page + offset)
            value = TOP + self._heights.top(row) + offset
        bar = self.verticalScrollBar()
        self._setting = True
        bar.setRange(0, max(0, self._content() - page))
        bar.setPageStep(page)
        bar.setValue(max(0, value))
        self._setting = False
        self._note_anchor()
        self._trim()
        self._place_newest()
        self.selector.look_again()
        self.viewport().update()

    def _content(self) -> int:
        return TOP + self._heights.total + BOTTOM

    def _measure_down(self, row: int, room: int) -> None:
        """Measure rows from `row` on until they fill `room` pixels."""
        while row < len(self.model) and room > 0:
            room -= self._measure(row)
            row += 1

    def _measure_up(self, row: int, room: int) -> None:
        """Measure rows above `row` until they fill `room` pixels."""
        while row > 0 and room > 0:
            row -= 1
            room -= self._measure(row)

    def _measure(self, number: int) -> int:
        if number not in self._measured or self.model.id_at(number) not in self._rows:
            self.row(number)
        return self._heights[number]

    def _note_anchor(self) -> None:
        inside = self.verticalScrollBar().value() - TOP
        row = max(0, self._heights.row_at(inside))
        self._anchor = (row, inside - self._heights.top(row))

    def _scrolled(self, value: int) -> None:
        if self._setting or not len(self.model):
            return
        row, offset = self._anchor
        delta = value - (TOP + self._heights.top(row) + offset)
        if abs(delta) < 3 * self.viewport().height():
            # Walk over measured rows, so that what was in view moves by exactly `delta`.
            offset += delta
            while offset < 0 and row > 0:
                row -= 1
                offset += self._measure(row)
            while row < len(self.model) - 1 and offset >= self._measure(row):
                offset -= self._heights[row]
                row += 1
            self._anchor = (row, offset)
        else:
            self._note_anchor()
        self._follow = value >= self.verticalScrollBar().maximum() - 4
        self._settle()

    def _trim(self) -> None:
        while len(self._rows) > KEPT_ROWS:
            self._rows.popitem(last=False)

    def _place_newest(self) -> None:
        bar = self.verticalScrollBar()
        far = not self._follow and bar.maximum() - bar.value() > 48
        if far:
            size = self._newest.sizeHint()
            self._newest.setGeometry(
                (self.viewport().width() - size.width()) // 2,
                self.viewport().height() - size.height() - 12,
                size.width(),
                size.height(),
            )
            self._newest.raise_()
        self._newest.setVisible(far)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.TextAntialiasing)
        painter.fillRect(event.rect(), self.style_.window)
        left = self.column_left
        page = self.viewport().height()
        number = self.row_at(max(0, TOP - self.verticalScrollBar().value()))
        if number < 0:
            return
        top = self.row_top(number)
        while number < len(self.model) and top < page:
            row = self._rows.get(self.model.id_at(number))
            if row is None or row.width != self.column_width:
                row = self.row(number)
            paint_row(painter, row, QPointF(left, top), -top, page - top, self._look(number))
            top += row.height
            number += 1

    def _look(self, number: int) -> Look:
        last = number == len(self.model) - 1
        hovered = self.selector.row == number
        return Look(
            selection=self.selector.selection(number),
            active=hovered or last,
            blocked=self.blocked,
            waiting=self.waiting,
            button=self.selector.button if hovered else None,
            noted=self._noted[1:] if self._noted and self._noted[0] == self.model.turn(number).id else None,
        )

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.column_width != self._laid_out_for:
            self._laid_out_for = self.column_width
            self._measured.clear()
            if len(self.model) <= MAX_ESTIMATED:
                self._heights.reset(self._estimates())
        self._settle()

    # the mouse and the keyboard

    def note(self, number: int, button: Button, label: str) -> None:
        """Let a button say for a moment that it did its work."""
        self._noted = (self.model.turn(number).id, button.act, label)
        QTimer.singleShot(COPIED_MS, self, self._unnote)
        self.viewport().update()

    def _unnote(self) -> None:
        self._noted = None
        self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.selector.press(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.selector.move(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self.selector.release(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.selector.double_click(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        if event.reason() == QContextMenuEvent.Reason.Keyboard and len(self.model):
            # The row under the mouse if there is one, else the newest in sight.
            number = self.selector.row if self.selector.row >= 0 else self._last_in_sight()
            at = QPoint(self.column_left, max(0, self.row_top(number)) + 4)
            self.selector.show_menu(at, self.viewport().mapToGlobal(at))
        else:
            self.selector.show_menu(event.pos(), event.globalPos())

    def _last_in_sight(self) -> int:
        number = self.row_at(self.viewport().height() - 1)
        return number if number >= 0 else len(self.model) - 1

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            self.selector.tooltip(event.pos(), event.globalPos())
            return True
        if event.type() == QEvent.Type.Leave:
            self.selector.leave()
        return super().viewportEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        bar = self.verticalScrollBar()
        if event.matches(QKeySequence.StandardKey.Copy):
            self.selector.copy()
        elif event.matches(QKeySequence.StandardKey.SelectAll) and len(self.model):
            self.selector.select_row(max(0, self.selector.row))
        elif event.text().isprintable() and event.text().strip() and not event.modifiers() & CHORDS:
            self.typed.emit(event.text())
        elif event.key() == Qt.Key.Key_End:
            self.scroll_to_newest()
        elif event.key() == Qt.Key.Key_Home:
            bar.setValue(0)
        else:
            super().keyPressEvent(event)
