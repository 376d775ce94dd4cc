"""The popup over a token: what else the model could have written there, and a branch for each."""

from __future__ import annotations

import math

from PySide6.QtCore import QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QEnterEvent, QFontMetrics, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractButton, QFrame, QLabel, QVBoxLayout, QWidget

from desktop.theme import SMALL, Theme, mono_font, ui_font
from engine.types import Token

WIDTH = 260
_BAR = 72
_ROW = 24


class _Alternative(QAbstractButton):
    """One token with its probability as a bar."""

    def __init__(self, theme: Theme, text: str, probability: float | None, chosen: bool) -> None:
        super().__init__()
        self._theme = theme
        self._probability = probability
        self._chosen = chosen
        self._hovered = False
        self._shown = visible(text)
        percent = "" if probability is None else f", {_percent(probability)}"
        self.setAccessibleName(f"{self._shown}{percent}")
        self.setToolTip("Branch here with this token")
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:
        return QSize(WIDTH - 2, _ROW)

    def enterEvent(self, event: QEnterEvent) -> None:
        self._hovered = True
        super().enterEvent(event)
        self.update()

    def leaveEvent(self, event: object) -> None:
        self._hovered = False
        super().leaveEvent(event)  # type: ignore[arg-type]  # the stub wants QEvent
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        theme = self._theme
        if self._hovered or self.hasFocus():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.card))
            painter.drawRoundedRect(self.rect().toRectF().adjusted(4, 0, -4, 0), 6, 6)
        middle = Qt.AlignmentFlag.AlignVCenter
        font = mono_font(12)
        font.setBold(self._chosen)
        painter.setFont(font)
        painter.setPen(QColor(theme.text if self.isEnabled() else theme.muted))
        room = self.width() - 24 - (0 if self._probability is None else _BAR + 48)
        text = QFontMetrics(font).elidedText(self._shown, Qt.TextElideMode.ElideRight, room)
        painter.drawText(QRectF(12, 0, room, self.height()), middle, text)
        if self._probability is None:
            return
        left = self.width() - 12 - 40 - _BAR
        bar = QRectF(left, self.height() / 2 - 2.5, _BAR, 5)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.border))
        painter.drawRoundedRect(bar, 2.5, 2.5)
        bar.setWidth(max(3.0, _BAR * self._probability))
        painter.setBrush(QColor(theme.accent))
        painter.drawRoundedRect(bar, 2.5, 2.5)
        painter.setFont(ui_font(SMALL, tabular=True))
        painter.setPen(QColor(theme.text))
        percent = QRectF(self.width() - 52, 0, 40, self.height())
        painter.drawText(percent, middle | Qt.AlignmentFlag.AlignRight, _percent(self._probability))


class Alternatives(QFrame):
    """A popup for one token of one generation; a press on a row asks for a branch."""

    chosen = Signal(int, object)
    """The index to branch at, and the token id to take there; None draws anew."""

    def __init__(
        self, parent: QWidget, theme: Theme, token: Token, before: Token | None, can_branch: bool
    ) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setObjectName("alternatives")
        self.setStyleSheet(
            f"QFrame#alternatives {{ background: {theme.panel}; border: 1px solid {theme.border}; }}"
        )
        self.rows: list[_Alternative] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(1, 8, 1, 8)
        layout.setSpacing(0)
        layout.addWidget(self._note(_about(token, before)))
        tops = token.get("top") or []
        shown: list[tuple[int, str, float | None]] = [
            (top["id"], top["text"], math.exp(top["logprob"])) for top in tops
        ]
        if token["id"] not in {top["id"] for top in tops}:
            logprob = token.get("logprob")
            shown.insert(0, (token["id"], token["text"], None if logprob is None else math.exp(logprob)))
        for token_id, text, probability in shown:
            row = _Alternative(theme, text, probability, token_id == token["id"])
            row.setEnabled(can_branch)
            row.clicked.connect(lambda _=False, token_id=token_id: self._choose(token["index"], token_id))
            layout.addWidget(row)
            self.rows.append(row)
        if not tops:
            layout.addWidget(self._note("Probabilities are recorded while Tokens is on"))
        hint = "Press one to branch" if can_branch else "Branches begin while it is written or held"
        layout.addWidget(self._note(hint))
        self.setFixedWidth(WIDTH)

    def _note(self, text: str) -> QLabel:
        label = QLabel(text)
        label.setProperty("look", "muted")
        label.setWordWrap(True)
        label.setContentsMargins(11, 2, 11, 4)
        return label

    def _choose(self, index: int, token_id: int) -> None:
        self.close()
        self.chosen.emit(index, token_id)

    def open_at(self, where: QPoint) -> None:
        """Show it below a point, within the screen."""
        self.adjustSize()
        area = self.screen().availableGeometry()
        x = max(area.left(), min(where.x() - 24, area.right() - self.width()))
        y = where.y() + 16
        if y + self.height() > area.bottom():
            y = where.y() - 16 - self.height()
        self.move(x, max(area.top(), y))
        self.show()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if self.rect().contains(event.position().toPoint()):
            event.accept()
        else:
            super().mousePressEvent(event)


def visible(text: str) -> str:
    """A token's text with its white space to be seen."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥") or "(no text)"


def _percent(probability: float) -> str:
    return "< 1 %" if probability < 0.005 else f"{probability * 100:.0f} %"


def _about(token: Token, before: Token | None) -> str:
    parts = [f"token {token['index']}"]
    if before is not None and not token.get("injected"):
        parts.append(f"{(token['t'] - before['t']) * 1000:.1f} ms")
    if token.get("injected"):
        parts.append("put in by hand")
    return " · ".join(parts)
