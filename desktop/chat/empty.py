"""What an empty conversation shows: one line on what this is, and four things to ask."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from desktop.theme import BODY, LARGE, TEXT, Theme, mix

SUGGESTIONS = (
    "What is Tokenglass?",
    "What does first-token time mean?",
    "Tell me a tiny story",
    "What is 12 + 30?",
)
TWO_COLUMNS = 560
"""Width from which the suggestions stand in two columns."""


class EmptyState(QWidget):
    """Shown in place of the transcript while it has no turns."""

    chosen = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = QLabel("Ask the model on this machine")
        self._line = QLabel("Every token is measured as it comes. Nothing leaves this computer.")
        self._buttons = [QPushButton(text) for text in SUGGESTIONS]
        self._grid = QGridLayout()
        self._grid.setSpacing(8)
        self._across = 0
        for text, button in zip(SUGGESTIONS, self._buttons, strict=True):
            button.setMinimumHeight(44)
            button.setCursor(Qt.CursorShape.PointingHandCursor)
            button.setAccessibleName(f"Ask: {text}")
            button.clicked.connect(lambda _checked=False, text=text: self.chosen.emit(text))
        column = QWidget()
        column.setMaximumWidth(560)
        inner = QVBoxLayout(column)
        inner.setContentsMargins(24, 0, 24, 0)
        inner.setSpacing(8)
        for label in (self._title, self._line):
            label.setWordWrap(True)
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            inner.addWidget(label)
        inner.addSpacing(16)
        inner.addLayout(self._grid)
        middle = QHBoxLayout()
        middle.addStretch(1)
        middle.addWidget(column, 100)
        middle.addStretch(1)
        outer = QVBoxLayout(self)
        outer.addStretch(2)
        outer.addLayout(middle)
        outer.addStretch(3)
        # Two columns must not keep the window from becoming narrower.
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.set_theme(theme)
        self._arrange(1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange(2 if event.size().width() >= TWO_COLUMNS else 1)

    def _arrange(self, across: int) -> None:
        """Put the suggestions side by side or below each other."""
        if across == self._across:
            return
        self._across = across
        for number, button in enumerate(self._buttons):
            self._grid.addWidget(button, number // across, number % across)

    def set_enabled(self, enabled: bool) -> None:
        """Whether a suggestion can be sent now."""
        for button in self._buttons:
            button.setEnabled(enabled)

    def set_theme(self, theme: Theme) -> None:
        self._title.setStyleSheet(f"color: {theme.text}; font-size: {LARGE}px; font-weight: 600;")
        self._line.setStyleSheet(f"color: {theme.muted}; font-size: {BODY}px;")
        hover = mix(theme.text, theme.window, 0.05)
        for button in self._buttons:
            button.setStyleSheet(
                f"QPushButton {{ background: transparent; color: {theme.text};"
                f"border: 1px solid {theme.border};"
                f"border-radius: 10px; padding: 4px 16px; font-size: {TEXT + 1}px; text-align: left; }}"
                f"QPushButton:hover {{ background: {hover}; border-color: {theme.muted}; }}"
                f"QPushButton:focus {{ border-color: {theme.accent}; }}"
                f"QPushButton:disabled {{ color: {theme.muted}; }}"
            )
