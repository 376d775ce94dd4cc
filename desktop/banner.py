"""A calm notice under the top bar: what happened, what to do about it, and a way to dismiss it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget

from desktop.theme import BODY, TEXT, Theme, mix, ui_font
from engine.errors import ErrorInfo


class Banner(QFrame):
    """One notice at a time; a later one replaces it."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._level = "error"
        self._theme = theme
        self.setObjectName("banner")
        self._bar = QWidget()
        self._bar.setFixedWidth(3)
        self._message = QLabel()
        self._message.setFont(ui_font(BODY - 1))
        self._message.setTextFormat(Qt.TextFormat.PlainText)
        self._hint = QLabel()
        self._hint.setFont(ui_font(TEXT))
        self._hint.setTextFormat(Qt.TextFormat.PlainText)
        self._hint.setProperty("look", "muted")
        for label in (self._message, self._hint):
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            label.setMinimumWidth(40)
            label.setWordWrap(True)
        self.action_button = QPushButton()
        self.dismiss_button = QPushButton("✕")
        self.dismiss_button.setProperty("look", "flat")
        self.dismiss_button.setToolTip("Dismiss")
        self.dismiss_button.setAccessibleName("Dismiss")
        self.dismiss_button.setFixedWidth(32)
        self.dismiss_button.setStyleSheet("padding: 4px;")
        self.dismiss_button.clicked.connect(self.hide)
        self.action_button.clicked.connect(self._run_action)
        self._action: Callable[[], object] | None = None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 12, 0)
        layout.setSpacing(12)
        layout.addWidget(self._bar)
        texts = QHBoxLayout()
        texts.setContentsMargins(4, 8, 0, 8)
        texts.setSpacing(16)
        texts.addWidget(self._message, 3)
        texts.addWidget(self._hint, 2)
        layout.addLayout(texts, 1)
        layout.addWidget(self.action_button)
        layout.addWidget(self.dismiss_button)
        self.hide()

    @property
    def text(self) -> str:
        """Message and hint, as shown; empty when hidden."""
        if self.isHidden():
            return ""
        return f"{self._message.text()} {self._hint.text()}".strip()

    def show_error(self, error: ErrorInfo, action: tuple[str, Callable[[], object]] | None = None) -> None:
        self.show_notice(error.message, error.hint or "", level="error", action=action)

    def show_notice(
        self,
        message: str,
        hint: str = "",
        *,
        level: str = "warn",
        action: tuple[str, Callable[[], object]] | None = None,
    ) -> None:
        """`level`: name of the theme's colour, `warn`, `error` or `accent`."""
        self._level = level
        self._message.setText(message[:1].upper() + message[1:])
        self._hint.setText(hint[:1].upper() + hint[1:])
        self._hint.setVisible(bool(hint))
        self._action = action[1] if action else None
        self.action_button.setVisible(action is not None)
        if action:
            self.action_button.setText(action[0])
        self.set_theme(self._theme)
        self.show()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        colour = getattr(theme, self._level)
        fill = mix(colour, theme.panel, 0.10)
        self.setStyleSheet(
            f"QFrame#banner {{ background: {fill}; border: none; border-bottom: 1px solid {theme.border}; }}"
        )
        self._bar.setStyleSheet(f"background: {colour};")

    def _run_action(self) -> None:
        action, self._action = self._action, None
        self.hide()
        if action is not None:
            action()
