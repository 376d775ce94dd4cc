"""The left side: new chat, search, the live entry, the conversations, and undo after a delete."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPoint, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QKeySequence, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListView,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from desktop.conversations import PAGE, Conversation, ConversationDelegate, ConversationModel
from desktop.theme import BODY, RADIUS, TEXT, Theme, ui_font

UNDO_MS = 8000
_SEARCH_MS = 200


class LiveEntry(QWidget):
    """Stands for what other clients generate; shown from the first such generation on."""

    clicked = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._words = ""
        self._running = False
        self._selected = False
        self.setFixedHeight(56)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName("Live: generations of other clients")
        self.hide()

    @property
    def words(self) -> str:
        return self._words

    def show_state(self, words: str, *, running: bool) -> None:
        """Who generates, and whether it goes on."""
        if (words, running) != (self._words, self._running):
            self._words, self._running = words, running
            self.setAccessibleDescription(words)
            self.update()
        self.show()

    def set_selected(self, selected: bool) -> None:
        self._selected = selected
        self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.clicked.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.clicked.emit()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        theme = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = self.rect().adjusted(8, 2, -8, -2)
        if self._selected or self.hasFocus():
            painter.setPen(QColor(theme.accent) if self.hasFocus() else Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.card) if self._selected else Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(area).adjusted(0.5, 0.5, -0.5, -0.5), RADIUS, RADIUS)
        left = area.left() + 10
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.good if self._running else theme.muted))
        painter.drawEllipse(QRectF(left, area.top() + 14, 8, 8))
        painter.setPen(QColor(theme.text))
        painter.setFont(ui_font(BODY))
        painter.drawText(left + 16, area.top() + 22, "Live")
        small = ui_font(TEXT)
        painter.setFont(small)
        painter.setPen(QColor(theme.muted))
        words = QFontMetrics(small).elidedText(
            self._words, Qt.TextElideMode.ElideRight, area.right() - left - 10
        )
        painter.drawText(left, area.top() + 41, words)


class _List(QListView):
    """Says so when it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.empty_words = ""

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self.empty_words and self.model().rowCount() == 0:
            painter = QPainter(self.viewport())
            painter.setPen(self.palette().placeholderText().color())
            painter.setFont(ui_font(TEXT))
            area = self.viewport().rect().adjusted(16, 12, -16, 0)
            painter.drawText(
                area, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop, self.empty_words
            )


class _Elided(QLabel):
    """A label that ends in an ellipsis where it has no room."""

    def __init__(self) -> None:
        super().__init__()
        self.setFont(ui_font(TEXT))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        painter = QPainter(self)
        painter.setFont(self.font())
        text = QFontMetrics(self.font()).elidedText(self.text(), Qt.TextElideMode.ElideRight, self.width())
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, text)


class Sidebar(QWidget):
    """Emits what the user wants; shows what it is given."""

    newChat = Signal()
    selected = Signal(str)
    liveSelected = Signal()
    searched = Signal(str)
    """Text to search for; empty: the whole list again."""
    deleteRequested = Signal(str)
    restoreRequested = Signal(str)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.setProperty("look", "panel")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.model = ConversationModel(self)
        self._current: str | None = None
        self._quiet = False
        self.new_button = QPushButton("New chat")
        self.new_button.setStyleSheet("text-align: left; padding: 7px 12px;")
        self.new_button.setShortcut(QKeySequence("Ctrl+N"))
        self.new_button.setToolTip("New chat (Ctrl+N)")
        self.new_button.clicked.connect(self.newChat)
        hint = QLabel("Ctrl+N")
        hint.setProperty("look", "muted")
        hint.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        inside = QHBoxLayout(self.new_button)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addStretch()
        inside.addWidget(hint)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search all chats  Ctrl+F")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search all chats")
        self._search_timer = QTimer(self)
        self._search_timer.setSingleShot(True)
        self._search_timer.setInterval(_SEARCH_MS)
        self._search_timer.timeout.connect(lambda: self.searched.emit(self.search.text().strip()))
        self.search.textChanged.connect(self._search_timer.start)
        self.live = LiveEntry(theme)
        self.live.clicked.connect(self.liveSelected)
        self.list = _List()
        self.list.setModel(self.model)
        self.delegate = ConversationDelegate(theme, self)
        self.list.setItemDelegate(self.delegate)
        self.list.setFrameShape(QFrame.Shape.NoFrame)
        self.list.setUniformItemSizes(True)
        self.list.setMouseTracking(True)
        self.list.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.customContextMenuRequested.connect(self._context_menu)
        self.list.setStyleSheet("background: transparent;")
        self.list.setAccessibleName("Conversations")
        self.list.selectionModel().currentChanged.connect(self._current_changed)
        self._undo = QFrame()
        self._undo.setProperty("look", "undo")
        self._undo_words = _Elided()
        self.undo_button = QPushButton("Undo")
        self.undo_button.setProperty("look", "link")
        self.undo_button.setFont(ui_font(TEXT))
        self.undo_button.clicked.connect(self._restore)
        undo_layout = QHBoxLayout(self._undo)
        undo_layout.setContentsMargins(12, 8, 8, 8)
        undo_layout.addWidget(self._undo_words, 1)
        undo_layout.addWidget(self.undo_button)
        self._undo.hide()
        self._deleted: str | None = None
        self._undo_timer = QTimer(self)
        self._undo_timer.setSingleShot(True)
        self._undo_timer.setInterval(UNDO_MS)
        self._undo_timer.timeout.connect(self._undo.hide)
        head = QVBoxLayout()
        head.setContentsMargins(12, 12, 12, 8)
        head.setSpacing(8)
        head.addWidget(self.new_button)
        head.addWidget(self.search)
        foot = QHBoxLayout()
        foot.setContentsMargins(12, 0, 12, 12)
        foot.addWidget(self._undo)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(self.live)
        layout.addWidget(self.list, 1)
        layout.addLayout(foot)
        self.setMinimumWidth(180)
        self._minute = QTimer(self)
        self._minute.setTimerType(Qt.TimerType.VeryCoarseTimer)
        self._minute.setInterval(60_000)
        self._minute.timeout.connect(self.model.refresh_times)
        self._minute.start()
        self.set_theme(theme)

    def sizeHint(self) -> QSize:
        return QSize(236, 400)

    def set_theme(self, theme: Theme) -> None:
        self.delegate.theme = theme
        self.live.set_theme(theme)
        self._undo.setStyleSheet(
            f'QFrame[look="undo"] {{ background: {theme.card}; border-radius: {RADIUS}px; }}'
        )
        self.list.viewport().update()

    # ---- what it is given

    def show_page(self, rows: Sequence[Conversation], *, first: bool) -> None:
        """A page of the list; `first` begins it anew."""
        more = len(rows) == PAGE
        if first:
            self.list.empty_words = "No chats yet"
            self._quiet = True
            self.model.replace(rows, more=more)
            self._quiet = False
            self.select(self._current)
        else:
            self.model.append(rows, more=more)

    def show_results(self, rows: Sequence[Conversation]) -> None:
        """What a search found."""
        self.list.empty_words = "Nothing found"
        self._quiet = True
        self.model.replace(rows, more=False, searching=True)
        self._quiet = False
        self.select(self._current)

    def select(self, conversation_id: str | None) -> None:
        """Mark a conversation as the one shown; None marks none. Emits nothing."""
        self._current = conversation_id
        self._quiet = True
        row = self.model.row_of(conversation_id) if conversation_id else None
        if row is None:
            self.list.selectionModel().clear()
        else:
            index = self.model.index(row)
            self.list.selectionModel().setCurrentIndex(
                index, QItemSelectionModel.SelectionFlag.ClearAndSelect
            )
        self._quiet = False
        self.live.set_selected(False)

    def select_live(self) -> None:
        self.select(None)
        self.live.set_selected(True)

    def offer_undo(self, conversation_id: str, title: str) -> None:
        """Show for some seconds that a conversation was deleted, with a way back."""
        self._deleted = conversation_id
        self._undo_words.setText(f"Deleted “{title}”")
        self._undo_words.setToolTip(title)
        self._undo.show()
        self._undo_timer.start()

    @property
    def undo_offered(self) -> bool:
        return not self._undo.isHidden()

    def focus_search(self) -> None:
        self.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.search.selectAll()

    # ---- what the user does

    def _current_changed(self, current: QModelIndex, previous: QModelIndex) -> None:  # noqa: ARG002
        if self._quiet or not current.isValid():
            return
        conversation_id = self.model.conversation(current.row())["id"]
        self.live.set_selected(False)
        if conversation_id != self._current:
            self._current = conversation_id
            self.selected.emit(conversation_id)

    def _context_menu(self, position: QPoint) -> None:
        index = self.list.indexAt(position)
        if not index.isValid():
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        rename = menu.addAction("Rename")
        rename.setShortcut(QKeySequence("F2"))
        rename.triggered.connect(lambda: self.list.edit(index))
        delete = menu.addAction("Delete")
        delete.setShortcut(QKeySequence("Del"))
        conversation_id = self.model.conversation(index.row())["id"]
        delete.triggered.connect(lambda: self.deleteRequested.emit(conversation_id))
        menu.popup(self.list.viewport().mapToGlobal(position))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        index = self.list.currentIndex()
        if event.key() == Qt.Key.Key_Delete and self.list.hasFocus() and index.isValid():
            self.deleteRequested.emit(self.model.conversation(index.row())["id"])
        elif event.key() == Qt.Key.Key_Escape and self.search.hasFocus():
            self.search.clear()
        else:
            super().keyPressEvent(event)

    def _restore(self) -> None:
        self._undo.hide()
        if self._deleted is not None:
            self.restoreRequested.emit(self._deleted)
            self._deleted = None
