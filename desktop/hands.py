"""Hands on the answer that runs: pause or resume, a token at a time, back by some tokens."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QWidget

from desktop.theme import TEXT, ui_font

BACK = 8
"""Tokens that one press of Rewind removes."""


class Hands(QWidget):
    """Buttons for the generation that is shown; hidden while none runs."""

    pauseRequested = Signal()
    resumeRequested = Signal()
    stepRequested = Signal()
    rewindRequested = Signal(int)
    """How many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self._compact = False
        self.pause_button, self.step_button, self.rewind_button = (QPushButton() for _ in range(3))
        self.step_button.setToolTip("Write one token and hold again (Ctrl+])")
        self.rewind_button.setToolTip(f"Take the last {BACK} tokens back (Ctrl+[)")
        self.pause_button.clicked.connect(self._pause)
        self.step_button.clicked.connect(self.stepRequested)
        self.rewind_button.clicked.connect(lambda: self.rewindRequested.emit(BACK))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        for button in (self.pause_button, self.step_button, self.rewind_button):
            button.setFont(ui_font(TEXT))
            layout.addWidget(button)
        self._label()
        self.show_state(running=False, paused=False, written=False)

    def show_state(self, *, running: bool, paused: bool, written: bool) -> None:
        """What the shown generation does; `written`: there is something to take back."""
        if paused != self._paused:
            self._paused = paused
            self._label()
        self.setVisible(running)
        self.step_button.setEnabled(paused)
        self.rewind_button.setEnabled(written)

    def set_compact(self, compact: bool) -> None:
        """Signs without words, where the bar is narrow."""
        if compact != self._compact:
            self._compact = compact
            self._label()

    def _label(self) -> None:
        pause = ("▶", "Resume") if self._paused else ("❚❚", "Pause")
        for button, (sign, word), keys in (
            (self.pause_button, pause, "Ctrl+P"),
            (self.step_button, ("▸", "Step"), "Ctrl+]"),
            (self.rewind_button, ("⟲", "Rewind"), "Ctrl+["),
        ):
            button.setText(sign if self._compact else f"{sign} {word}")
            button.setAccessibleName(word)
            button.setShortcut(keys)  # Qt drops it with every new text
        what = "Go on writing" if self._paused else "Hold this answer before its next token"
        self.pause_button.setToolTip(f"{what} (Ctrl+P)")

    def _pause(self) -> None:
        (self.resumeRequested if self._paused else self.pauseRequested).emit()
