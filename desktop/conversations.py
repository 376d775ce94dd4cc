"""The list of conversations, model and painting. Made for ten thousand: pages come in while one scrolls."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from PySide6.QtCore import (
    QAbstractItemModel,
    QAbstractListModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QFontMetrics, QPainter
from PySide6.QtWidgets import QLineEdit, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from desktop.theme import BODY, RADIUS, TEXT, Theme, ui_font

PAGE = 200
"""Conversations asked for at once."""
ROW_HEIGHT = 56

Index = QModelIndex | QPersistentModelIndex
Conversation = dict[str, Any]
_ROOT = QModelIndex()

CONVERSATION_ROLE = int(Qt.ItemDataRole.UserRole) + 1


class ConversationModel(QAbstractListModel):
    """Conversations, the one used last first; or the results of a search."""

    moreRequested = Signal(int)
    """The next page is wanted, from this offset on."""
    renamed = Signal(str, str)
    """The user typed another title: id, title."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[Conversation] = []
        self._more = False
        self._asked = False
        self.searching = False

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return row["title"] or "New chat"
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{row['title'] or 'New chat'}\n{row['message_count']} messages"
        if role == CONVERSATION_ROLE:
            return row
        return None

    def setData(self, index: Index, value: Any, role: int = int(Qt.ItemDataRole.EditRole)) -> bool:
        title = str(value).strip()
        row = self._rows[index.row()]
        if role != Qt.ItemDataRole.EditRole or not title or title == row["title"]:
            return False
        row["title"] = title
        self.dataChanged.emit(index, index)
        self.renamed.emit(row["id"], title)
        return True

    def flags(self, index: Index) -> Qt.ItemFlag:  # noqa: ARG002
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemNeverHasChildren
        return flags | Qt.ItemFlag.ItemIsEditable

    def canFetchMore(self, parent: Index) -> bool:
        return self._more and not self._asked and not parent.isValid()

    def fetchMore(self, parent: Index) -> None:  # noqa: ARG002
        self._asked = True
        self.moreRequested.emit(len(self._rows))

    def row_of(self, conversation_id: str) -> int | None:
        return next((n for n, row in enumerate(self._rows) if row["id"] == conversation_id), None)

    def conversation(self, row: int) -> Conversation:
        return self._rows[row]

    def replace(self, rows: Sequence[Conversation], *, more: bool, searching: bool = False) -> None:
        """Show these and nothing else; `more`: there are further pages."""
        self.beginResetModel()
        self._rows = list(rows)
        self._more, self._asked, self.searching = more, False, searching
        self.endResetModel()

    def append(self, rows: Sequence[Conversation], *, more: bool) -> None:
        """The page that was asked for."""
        known = {row["id"] for row in self._rows}
        new = [row for row in rows if row["id"] not in known]
        self._more, self._asked = more, False
        if new:
            first = len(self._rows)
            self.beginInsertRows(_ROOT, first, first + len(new) - 1)
            self._rows.extend(new)
            self.endInsertRows()

    def upsert(self, conversation: Conversation) -> None:
        """A conversation is new, or changed: it moves to where its time of use puts it."""
        present = self.row_of(conversation["id"])
        if present is not None and (
            self.searching or self._rows[present]["updated"] == conversation["updated"]
        ):
            self._rows[present] = {**self._rows[present], **conversation}
            index = self.index(present)
            self.dataChanged.emit(index, index)
            return
        if self.searching:
            return
        place = bisect_left(self._rows, -conversation["updated"], key=lambda row: -row["updated"])
        if present is None:
            if place == len(self._rows) and self._more:
                return  # it belongs to a page that isn't here yet
            self.beginInsertRows(_ROOT, place, place)
            self._rows.insert(place, conversation)
            self.endInsertRows()
            return
        if place not in (present, present + 1):
            self.beginMoveRows(_ROOT, present, present, _ROOT, place)
            self._rows.insert(place, self._rows.pop(present) if place < present else self._rows[present])
            if place > present:
                del self._rows[present]
            self.endMoveRows()
            present = place if place < present else place - 1
        self._rows[present] = conversation
        index = self.index(present)
        self.dataChanged.emit(index, index)

    def remove(self, conversation_id: str) -> None:
        row = self.row_of(conversation_id)
        if row is not None:
            self.beginRemoveRows(_ROOT, row, row)
            del self._rows[row]
            self.endRemoveRows()

    def refresh_times(self) -> None:
        """What stands under the titles is a little older now."""
        if self._rows:
            self.dataChanged.emit(self.index(0), self.index(len(self._rows) - 1))


class ConversationDelegate(QStyledItemDelegate):
    """Two lines: title, then model and time, or what a search found."""

    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self.theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:  # noqa: ARG002
        return QSize(160, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        theme = self.theme
        conversation = index.data(CONVERSATION_ROLE)
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = rect.adjusted(8, 2, -8, -2)
        selected = bool(state & QStyle.StateFlag.State_Selected)
        if selected or state & QStyle.StateFlag.State_MouseOver:
            fill = QColor(theme.card)
            if not selected:
                fill.setAlphaF(0.5)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(fill)
            painter.drawRoundedRect(QRectF(area), RADIUS, RADIUS)
        inner = area.adjusted(10, 0, -10, 0)
        title_font, small = ui_font(BODY), ui_font(TEXT)
        painter.setFont(title_font)
        painter.setPen(QColor(theme.text))
        elide = Qt.TextElideMode.ElideRight
        title = str(index.data())
        painter.drawText(
            inner.left(), area.top() + 22, QFontMetrics(title_font).elidedText(title, elide, inner.width())
        )
        painter.setFont(small)
        painter.setPen(QColor(theme.muted))
        match = conversation.get("match")
        note = match["snippet"] if match else _note(conversation)
        painter.drawText(
            inner.left(), area.top() + 41, QFontMetrics(small).elidedText(note, elide, inner.width())
        )
        painter.restore()

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:  # noqa: ARG002
        editor = QLineEdit(parent)
        editor.setMaxLength(500)
        editor.setFont(ui_font(BODY))
        editor.setStyleSheet(f"background: {self.theme.panel}; padding: 1px 6px;")
        return editor

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        assert isinstance(editor, QLineEdit)
        if not editor.text():
            editor.setText(str(index.data(Qt.ItemDataRole.EditRole)))
            editor.selectAll()

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: Index) -> None:
        assert isinstance(editor, QLineEdit)
        model.setData(index, editor.text())

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:  # noqa: ARG002
        rect: QRect = option.rect
        editor.setGeometry(rect.adjusted(10, 4, -10, -26))


def _note(conversation: Conversation) -> str:
    when = ago(conversation["updated"], time.time())
    model = conversation.get("model")
    return f"{model} · {when}" if model else when


def ago(then: float, now: float) -> str:
    """A time in the past, in words as short as can be; both in unix seconds."""
    seconds = max(0.0, now - then)
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    day, today = datetime.fromtimestamp(then).date(), datetime.fromtimestamp(now).date()  # noqa: DTZ006
    days = (today - day).days
    if days == 0:
        return f"{seconds // 3600:.0f} h ago"
    if days == 1:
        return "yesterday"
    if days < 7:
        return f"{days} days ago"
    return f"{day.day} {day:%b}" if day.year == today.year else f"{day.day} {day:%b %Y}"
