"""The list of those who are connected, and what each of them is doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from api.bus import Envelope
from desktop.theme import SMALL, TEXT, Theme, ui_font
from engine.events import (
    BaseEvent,
    ClientConnected,
    ClientDisconnected,
    ClientLagging,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
)

_ROW = 24
_HEADING = 24
_MOST_ROWS = 6


@dataclass(slots=True)
class Row:
    """One client. A cut one stays in the list until the next client event, so that one sees why."""

    name: str
    waiting: int = 0
    running: int = 0
    lagging: int = 0
    cut: bool = False

    @property
    def words(self) -> str:
        if self.cut:
            return "cut, did not read"
        if self.lagging:
            return f"{self.lagging / 1e3:,.0f} kB behind"
        if self.running:
            return f"{self.running} running"
        if self.waiting:
            return f"{self.waiting} waiting"
        return ""

    @property
    def colour(self) -> str:
        if self.cut:
            return "error"
        return "warn" if self.lagging or self.waiting else "good"


class ClientList(QWidget):
    """Painted by hand, one line a client; this window is the first."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._rows: dict[str, Row] = {}
        self._own = ""
        self._own_words = ""
        self._owner: dict[str, tuple[str, bool]] = {}
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    @property
    def count(self) -> int:
        """Clients connected now, this window included."""
        return sum(not row.cut for row in self._rows.values())

    def lines(self) -> list[tuple[str, str]]:
        """Name and words of each row, as shown."""
        return [
            ("this window" if key == self._own else row.name, self._words(key, row))
            for key, row in self._rows.items()
        ]

    def _words(self, key: str, row: Row) -> str:
        return row.words or (self._own_words if key == self._own else "connected")

    def restore(self, clients: Iterable[Mapping[str, Any]], generations: Iterable[Mapping[str, Any]]) -> None:
        """Begin with a snapshot's clients and generations."""
        self._rows = {
            str(client["client_id"]): Row(str(client.get("name") or "client")) for client in clients
        }
        self._owner.clear()
        for generation in generations:
            key = str(generation.get("client_id", ""))
            if key in self._rows:
                started = generation.get("state") not in (None, "queued")
                self._owner[str(generation["generation_id"])] = (key, started)
                self._rows[key].running += started
                self._rows[key].waiting += not started
        self._resized()

    def set_own(self, client_id: str) -> None:
        """Which client is this window."""
        self._own = client_id
        self._rows.setdefault(client_id, Row("this window"))
        self._resized()

    def show_own(self, words: str) -> None:
        """What this window's row says while it generates nothing."""
        if words != self._own_words:
            self._own_words = words
            self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def consume(self, envelopes: Iterable[Envelope]) -> None:
        changed = False
        for envelope in envelopes:
            changed |= self.feed(envelope.event)
        if changed:
            self._resized()

    def feed(self, event: BaseEvent) -> bool:
        """Take one event in; answers whether something shown changed."""
        match event:
            case ClientConnected():
                self._rows = {key: row for key, row in self._rows.items() if not row.cut}
                self._rows[event.client_id] = Row(event.name)
            case ClientDisconnected():
                row = self._rows.get(event.client_id)
                if row is not None and event.reason == "slow":
                    row.cut = True
                else:
                    self._rows.pop(event.client_id, None)
            case ClientLagging() if event.client_id in self._rows:
                self._rows[event.client_id].lagging = event.backlog_bytes
            case GenerationQueued() if event.client_id in self._rows:
                self._owner[event.generation_id] = (event.client_id, False)
                self._rows[event.client_id].waiting += 1
            case GenerationStarted() if event.generation_id in self._owner:
                key, started = self._owner[event.generation_id]
                if started:
                    return False
                self._owner[event.generation_id] = (key, True)
                if key in self._rows:
                    self._rows[key].waiting -= 1
                    self._rows[key].running += 1
            case GenerationFinished() if event.generation_id in self._owner:
                key, started = self._owner.pop(event.generation_id)
                if key in self._rows:
                    self._rows[key].running -= started
                    self._rows[key].waiting -= not started
            case _:
                return False
        return True

    def _resized(self) -> None:
        self.updateGeometry()
        self.update()

    def _shown(self) -> int:
        return min(len(self._rows), _MOST_ROWS)

    def sizeHint(self) -> QSize:
        more = 1 if len(self._rows) > _MOST_ROWS else 0
        return QSize(320, _HEADING + _ROW * (self._shown() + more) + 4)

    def minimumSizeHint(self) -> QSize:
        return QSize(120, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        theme = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        bold, plain, small = ui_font(TEXT, bold=True), ui_font(TEXT), ui_font(SMALL, tabular=True)
        painter.setFont(bold)
        painter.setPen(QColor(theme.text))
        painter.drawText(0, 14, "Clients")
        left = QFontMetrics(bold).horizontalAdvance("Clients") + 8
        painter.setFont(small)
        painter.setPen(QColor(theme.muted))
        painter.drawText(left, 14, f"{self.count} connected")
        right_metrics, left_metrics = QFontMetrics(small), QFontMetrics(plain)
        top = _HEADING
        for key, row in list(self._rows.items())[:_MOST_ROWS]:
            painter.setPen(QColor(theme.border))
            painter.drawLine(0, top, self.width(), top)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(getattr(theme, row.colour)))
            painter.drawEllipse(QRectF(0, top + 9, 7, 7))
            words = self._words(key, row)
            painter.setFont(small)
            painter.setPen(QColor(theme.muted))
            width = right_metrics.horizontalAdvance(words)
            painter.drawText(self.width() - width, top + 16, words)
            painter.setFont(plain)
            painter.setPen(QColor(theme.text))
            name = "this window" if key == self._own else row.name
            room = self.width() - width - 14 - 12
            painter.drawText(14, top + 16, left_metrics.elidedText(name, Qt.TextElideMode.ElideRight, room))
            top += _ROW
        if len(self._rows) > _MOST_ROWS:
            painter.setFont(small)
            painter.setPen(QColor(theme.muted))
            painter.drawText(14, top + 16, f"and {len(self._rows) - _MOST_ROWS} more")
