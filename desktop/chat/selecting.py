"""The mouse and the keyboard over the transcript: selecting text within a row, links, buttons, the menu."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QAction, QDesktopServices, QGuiApplication, QKeySequence, QMouseEvent
from PySide6.QtWidgets import QMenu, QToolTip

from desktop.chat import figures
from desktop.chat.lines import CodePiece
from desktop.chat.rows import Button, Place, Row

if TYPE_CHECKING:
    from desktop.chat.view import TranscriptView

SCROLL_MS = 33
COPIED_MS = 1500
"""How long a copy button says that it did."""


class Selector(QObject):
    """What the mouse does over a `TranscriptView`; the view hands its events on."""

    def __init__(self, view: TranscriptView) -> None:
        super().__init__(view)
        self._view = view
        self.row = -1
        """The row under the mouse."""
        self.button: Button | None = None
        """The button under the mouse."""
        self._selected_id = ""
        self._ends: tuple[Place, Place] | None = None
        """Where the selection began, and where it is now."""
        self._pressed: Button | None = None
        self._link = ""
        self._selecting = False
        self._menu: QMenu | None = None
        self._mouse = QPointF()
        self._inside = False
        """Whether the mouse is over the transcript."""
        self._scroll = QTimer(self)
        self._scroll.setInterval(SCROLL_MS)
        self._scroll.timeout.connect(self._scroll_on)

    # selection

    def clear(self) -> None:
        if self._ends is not None:
            self._ends = None
            self._selected_id = ""
            self._view.viewport().update()
        self._selecting = False

    def selection(self, number: int) -> tuple[Place, Place] | None:
        """What is selected in a row, first place first."""
        if self._ends is None or self._view.model.turn(number).id != self._selected_id:
            return None
        return min(self._ends), max(self._ends)

    @property
    def text(self) -> str:
        """The selected text."""
        number = self._view.model.row_of(self._selected_id)
        if number is None:
            return ""
        row = self._view.row(number)
        selection = self.selection(number)
        if selection is None or selection[1].piece >= len(row.pieces):
            return ""
        return row.selected_text(*selection)

    def select(self, number: int, first: Place, last: Place) -> None:
        self._selected_id = self._view.model.turn(number).id
        self._ends = (first, last)
        self._view.viewport().update()

    def select_row(self, number: int) -> None:
        """Select all text of a row."""
        whole = self._view.row(number).whole()
        if whole is not None:
            self.select(number, *whole)

    def copy(self) -> None:
        """Put the selected text on the clipboard, if there is any."""
        text = self.text
        if text:
            QGuiApplication.clipboard().setText(text)

    # the mouse

    def press(self, event: QMouseEvent) -> None:
        number, row, at = self._under(event.position())
        self._pressed = None
        self._link = ""
        if event.button() != Qt.MouseButton.LeftButton:
            return
        self.clear()
        if row is None:
            return
        self._pressed = self._reach(row, at)
        if self._pressed is not None:
            return
        self._link = row.link(at.x(), at.y())
        place = row.place(at.x(), at.y()) if row.over_text(at.x(), at.y()) else None
        if place is not None:
            self.select(number, place, place)
            self._selecting = True

    def move(self, event: QMouseEvent) -> None:
        if self._selecting:
            self._mouse = event.position()
            self._drag()
            return
        self._mouse = event.position()
        self._inside = True
        number, row, at = self._under(self._mouse)
        button = self._reach(row, at) if row is not None else None
        self._hover(number, button)
        shape = Qt.CursorShape.ArrowCursor
        if row is not None:
            if button is not None or row.link(at.x(), at.y()) or row.token(at.x(), at.y()) is not None:
                shape = Qt.CursorShape.PointingHandCursor
            elif row.over_text(at.x(), at.y()):
                shape = Qt.CursorShape.IBeamCursor
        self._view.viewport().setCursor(shape)

    def look_again(self) -> None:
        """The rows have moved under the mouse."""
        if self._inside and not self._selecting:
            number, row, at = self._under(self._mouse)
            self._hover(number, self._reach(row, at) if row is not None else None)

    def _hover(self, number: int, button: Button | None) -> None:
        if number != self.row or button != self.button:
            self.row, self.button = number, button
            self._view.viewport().update()

    def _drag(self) -> None:
        """Select up to the mouse; beyond the edge the text scrolls by."""
        position = self._mouse
        outside = not 0 <= position.y() < self._view.viewport().height()
        if outside != self._scroll.isActive():
            (self._scroll.start if outside else self._scroll.stop)()
        number = self._view.model.row_of(self._selected_id)
        if number is None or self._ends is None:
            return
        row = self._view.row(number)
        x = position.x() - self._view.column_left
        place = row.place(x, position.y() - self._view.row_top(number))
        if place is not None:
            self.select(number, self._ends[0], place)

    def _scroll_on(self) -> None:
        if not self._selecting:
            self._scroll.stop()
            return
        y = self._mouse.y()
        beyond = y if y < 0 else y - self._view.viewport().height()
        bar = self._view.verticalScrollBar()
        bar.setValue(bar.value() + round(beyond / 3))
        self._drag()

    def release(self, event: QMouseEvent) -> None:
        self._selecting = False
        self._scroll.stop()
        number, row, at = self._under(event.position())
        pressed, self._pressed = self._pressed, None
        link, self._link = self._link, ""
        if row is None or event.button() != Qt.MouseButton.LeftButton:
            return
        if pressed is not None:
            if self._reach(row, at) == pressed:
                self.act(number, pressed)
        elif not self.text and (token := row.token(at.x(), at.y())) is not None:
            where = self._view.viewport().mapToGlobal(event.position().toPoint())
            self._view.tokenPressed.emit(row.turn.generation_id, token, where)
        elif link and not self.text and row.link(at.x(), at.y()) == link:
            QDesktopServices.openUrl(QUrl(link))

    def double_click(self, event: QMouseEvent) -> None:
        number, row, at = self._under(event.position())
        if row is None or event.button() != Qt.MouseButton.LeftButton:
            return
        if self._reach(row, at) is not None:
            self.press(event)
            return
        place = row.place(at.x(), at.y()) if row.over_text(at.x(), at.y()) else None
        if place is not None:
            start, end = row.pieces[place.piece].word_at(place.position)
            self.select(number, Place(place.piece, start), Place(place.piece, end))

    def leave(self) -> None:
        self._inside = False
        self._hover(-1, None)

    def tooltip(self, at: QPoint, where: QPoint) -> None:
        _, row, inside = self._under(QPointF(at))
        text = ""
        if row is not None:
            text = row.link(inside.x(), inside.y())
            if not text and row.figures_rect.contains(inside):
                text = figures.explanation(row.turn)
        QToolTip.showText(where, text, self._view.viewport())

    def _under(self, position: QPointF) -> tuple[int, Row | None, QPointF]:
        """The row under a point of the viewport, and the point in the row's coordinates."""
        view = self._view
        number = view.row_at(position.y())
        if number < 0:
            return -1, None, QPointF()
        return number, view.row(number), position - QPointF(view.column_left, view.row_top(number))

    def _reach(self, row: Row, at: QPointF) -> Button | None:
        """The button under a point, if it can do anything now."""
        button = row.button(at.x(), at.y())
        return button if button is not None and button.act not in self._view.blocked else None

    # actions

    def act(self, number: int, button: Button) -> None:
        """Do what a button of a row says."""
        view = self._view
        turn = view.model.turn(number)
        match button.act:
            case "copy":
                QGuiApplication.clipboard().setText(turn.text)
                view.note(number, button, "Copied")
            case "code":
                piece = view.row(number).pieces[int(button.argument)]
                QGuiApplication.clipboard().setText(piece.text)
                if isinstance(piece, CodePiece):
                    piece.copied = True
                    QTimer.singleShot(COPIED_MS, self, lambda: self._uncopy(piece))
                view.viewport().update()
            case "regenerate":
                view.regenerateRequested.emit(turn.id)
            case "variant":
                view.variantRequested.emit(button.argument)
            case "thought" | "more":
                view.toggle(number, button.act)

    def _uncopy(self, piece: CodePiece) -> None:
        piece.copied = False
        self._view.viewport().update()

    def show_menu(self, at: QPoint, where: QPoint) -> None:
        """The context menu of the row under a point; `popup`, never a nested loop."""
        _, row, inside = self._under(QPointF(at))
        if row is None:
            return
        if self._menu is not None:
            self._menu.deleteLater()
        menu = self._menu = QMenu(self._view)
        if self.text:
            self._add(menu, "Copy selection", self.copy).setShortcut(QKeySequence.StandardKey.Copy)
        link = row.link(inside.x(), inside.y())
        if link:
            self._add(menu, "Copy link", lambda: QGuiApplication.clipboard().setText(link))
        identifier = row.turn.id
        self._add(menu, "Select all of this message", partial(self._on_row, identifier, self.select_row))
        code = row.code_button(inside.y())
        if code is not None:
            text = row.pieces[int(code.argument)].text
            self._add(menu, "Copy code", lambda: QGuiApplication.clipboard().setText(text))
        for button in row.buttons:
            if button.act in ("copy", "regenerate", "variant") and button.act not in self._view.blocked:
                name = _MENU_NAMES.get(button.label, button.label)
                act = partial(self.act, button=button)
                self._add(menu, name, partial(self._on_row, identifier, act))
        menu.popup(where)

    def _on_row(self, identifier: str, act: Callable[[int], None]) -> None:
        """Do something with a message's row, if it is still there when the menu's entry is chosen."""
        number = self._view.model.row_of(identifier)
        if number is not None:
            act(number)

    def _add(self, menu: QMenu, label: str, act: Callable[[], None]) -> QAction:
        action = menu.addAction(label)
        action.triggered.connect(lambda _checked: act())
        return action


_MENU_NAMES = {"Copy": "Copy message", "Copied": "Copy message", "‹": "Previous answer", "›": "Next answer"}
