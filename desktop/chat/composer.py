"""The input box: grows from one line to eight, Enter sends, Esc stops what runs."""

from __future__ import annotations

from PySide6.QtCore import QMimeData, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QPushButton, QSizePolicy, QSpacerItem, QWidget

from desktop.chat.style import MARGIN, MEASURE
from desktop.theme import BODY, TEXT, Theme, ui_font

MAX_LINES = 8
PLACEHOLDER = "Write a message…"
PLACEHOLDER_PAUSED = "Paused. What you write here goes into the answer…"


class _Input(QPlainTextEdit):
    """The text itself."""

    entered = Signal()
    focused = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setFrameShape(QPlainTextEdit.Shape.NoFrame)
        self.setAccessibleName("Message")
        self.setTabChangesFocus(True)
        self.setFont(ui_font(BODY))
        self.document().setDocumentMargin(4)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.textChanged.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        # QPlainTextEdit's document size counts lines, not pixels.
        lines = max(1, min(MAX_LINES, int(self.document().size().height())))
        line = self.fontMetrics().lineSpacing()
        self.setVerticalScrollBarPolicy(
            Qt.ScrollBarPolicy.ScrollBarAsNeeded
            if self.document().size().height() > MAX_LINES
            else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        )
        self.setFixedHeight(lines * line + 8)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.entered.emit()
        else:
            super().keyPressEvent(event)

    def insertFromMimeData(self, source: QMimeData) -> None:
        """Only text is pasted, whatever else the clipboard offers."""
        if source.hasText():
            self.insertPlainText(source.text())

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.focused.emit()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.focused.emit()


class _Box(QWidget):
    """The rounded frame around input and button, as wide as the text column."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.theme = theme
        self.focused = False

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(self.theme.accent if self.focused else self.theme.border), 1))
        painter.setBrush(QColor(self.theme.card if self.theme.is_dark else self.theme.window))
        area = self.rect().toRectF().adjusted(0.5, 0.5, -0.5, -0.5)
        painter.drawRoundedRect(area, 12, 12)


class Composer(QWidget):
    """Input and Send or Stop. Keeps no history: `text` is the draft."""

    sendRequested = Signal(str)
    stopRequested = Signal()
    injectRequested = Signal(str)
    """Text for the paused answer, as it was typed."""
    textChanged = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._running = False
        self._reason = ""
        self._held = False
        self._paused = False
        self._theme = theme
        self._box = _Box(theme, self)
        self.input = _Input(self._box)
        self.button = QPushButton(self._box)
        self.button.setCursor(Qt.CursorShape.PointingHandCursor)
        self.button.setFixedHeight(32)
        self.button.clicked.connect(self._clicked)
        inner = QHBoxLayout(self._box)
        inner.setContentsMargins(12, 8, 8, 8)
        inner.setSpacing(8)
        inner.addWidget(self.input, 1, Qt.AlignmentFlag.AlignVCenter)
        inner.addWidget(self.button, 0, Qt.AlignmentFlag.AlignBottom)
        # The box grows to its widest before the spaces beside it grow at all.
        self._box.setMaximumWidth(MEASURE)
        outer = QHBoxLayout(self)
        outer.setContentsMargins(MARGIN, 12, MARGIN, 16)
        outer.setSpacing(0)
        expanding, minimum = QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum
        outer.addSpacerItem(QSpacerItem(0, 0, expanding, minimum))
        outer.addWidget(self._box, 1)
        outer.addSpacerItem(QSpacerItem(0, 0, expanding, minimum))
        self.input.entered.connect(self._enter)
        self.input.textChanged.connect(self._text_changed)
        self.input.focused.connect(self._focus_changed)
        self.set_theme(theme)

    @property
    def text(self) -> str:
        return self.input.toPlainText()

    def set_text(self, text: str) -> None:
        self.input.setPlainText(text)
        cursor = self.input.textCursor()
        cursor.movePosition(cursor.MoveOperation.End)
        self.input.setTextCursor(cursor)

    def take(self, text: str) -> None:
        """Write on with text that was typed elsewhere."""
        self.input.setFocus()
        self.input.insertPlainText(text)

    def set_state(self, *, running: bool, reason: str, held: bool = False, paused: bool = False) -> None:
        """Stop in place of Send while an answer runs; `reason` says why nothing can be sent, if so.

        `held`: nothing is sent for the moment, which isn't worth a word. `paused`: what is written goes
        into the answer that is held.
        """
        state = (running, reason, held, paused)
        if state != (self._running, self._reason, self._held, self._paused):
            self._running, self._reason, self._held, self._paused = state
            self._show()

    @property
    def _injects(self) -> bool:
        """Whether the text would go into a paused answer."""
        return self._paused and bool(self.text.strip())

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self._box.theme = theme
        self.input.setStyleSheet(
            f"QPlainTextEdit {{ background: transparent; color: {theme.text}; border: none;"
            f"selection-background-color: {theme.accent}; selection-color: {theme.window}; }}"
        )
        palette = self.input.palette()
        palette.setColor(palette.ColorRole.PlaceholderText, QColor(theme.muted))
        self.input.setPalette(palette)
        self._show()
        self.update()

    def _show(self) -> None:
        theme = self._theme
        self.input.setPlaceholderText(self._reason or (PLACEHOLDER_PAUSED if self._paused else PLACEHOLDER))
        self.input.viewport().update()  # Qt repaints only when a placeholder comes or goes
        ready = self._running or (not self._reason and not self._held and bool(self.text.strip()))
        stops = self._running and not self._injects
        self.button.setText("■  Stop" if stops else "Insert" if self._running else "Send")
        tip = "Stop this answer (Esc)" if stops else "Put this into the answer (Enter)"
        self.button.setToolTip(tip if self._running else "Send (Enter)")
        self.button.setAccessibleName("Stop" if stops else "Insert" if self._running else "Send")
        self.button.setEnabled(ready)
        if stops:
            back, front = theme.stop, "#ffffff"
        elif ready:
            back, front = theme.accent, theme.window
        else:
            back, front = theme.border, theme.muted
        self.button.setStyleSheet(
            f"QPushButton {{ background: {back}; color: {front}; border: 1px solid {back};"
            "border-radius: 8px;"
            f"padding: 0 14px; font-size: {TEXT + 1}px; font-weight: 600; min-width: 36px; }}"
            f"QPushButton:focus {{ border-color: {theme.text}; }}"
        )

    def _text_changed(self) -> None:
        self._show()
        self.textChanged.emit()

    def _focus_changed(self) -> None:
        self._box.focused = self.input.hasFocus()
        self._box.update()

    def _clicked(self) -> None:
        if self._running and not self._injects:
            self.stopRequested.emit()
        else:
            self._enter()

    def _enter(self) -> None:
        if self._injects:
            text = self.text
            self.input.clear()
            self.injectRequested.emit(text)
            return
        text = self.text.strip()
        if text and not self._running and not self._reason and not self._held:
            self.input.clear()
            self.sendRequested.emit(text)
