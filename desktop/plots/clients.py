"""The list of those who are connected, and what each of them is doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QEvent, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from api.bus import Envelope
from desktop.theme import SMALL, TEXT, Theme, ui_font
from engine.events import (
    BaseEvent,
    ClientConnected,
    ClientDisconnected,
    ClientLagging,
    ClientMetrics,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
)

_ROW = 24
_HEADING = 24
_MOST_ROWS = 6
_SHOWN_RATE = 50.0
"""Bytes per second below which nothing is said."""
_LAGGING_BYTES = 1 << 16
"""What waits without being worth a word."""


@dataclass(slots=True)
class Row:
    """One client. A cut one stays in the list until the next client event, so that one sees why."""

    name: str
    waiting: int = 0
    running: int = 0
    lagging: int = 0
    """Bytes that wait for it, since `client.lagging` said so."""
    cut: bool = False
    rate: float = 0.0
    """Bytes per second."""
    events_rate: float = 0.0
    behind: int = 0
    merged: int = 0
    cuts: int = 0

    @property
    def words(self) -> str:
        if self.cut:
            return "cut, did not read"
        if self.lagging:
            return f"{self.lagging / 1e3:,.0f} kB behind"
        words = []
        if self.running:
            words.append(f"{self.running} running")
        elif self.waiting:
            words.append(f"{self.waiting} waiting")
        if self.rate >= _SHOWN_RATE:
            words.append(f"{self.rate / 1e3:,.1f} kB/s")
        return " · ".join(words)

    @property
    def details(self) -> str:
        """All figures, for whoever points at the row."""
        lines = [f"{self.rate / 1e3:,.1f} kB/s, {self.events_rate:,.0f} events/s"]
        if self.lagging or self.behind:
            lines.append(f"{self.behind:,} events behind")
        if self.merged:
            lines.append(f"{self.merged:,} events merged into others")
        if self.cuts:
            times = "once" if self.cuts == 1 else f"{self.cuts} times"
            lines.append(f"cut {times}, did not read")
        return "\n".join(lines)

    def show_traffic(self, traffic: Mapping[str, Any]) -> None:
        """Take a row of `metrics.clients`, or of a snapshot's clients."""
        self.rate, self.events_rate = traffic["bytes_per_s"], traffic["events_per_s"]
        self.behind, self.merged, self.cuts = traffic["behind"], traffic["merged"], traffic["cuts"]
        self.lagging = traffic["backlog_bytes"] if traffic["backlog_bytes"] >= _LAGGING_BYTES else 0

    def show_idle(self) -> None:
        """Nothing goes to it, and nothing waits."""
        self.rate = self.events_rate = 0.0
        self.lagging = self.behind = 0

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

    def restore(self, clients: Sequence[Mapping[str, Any]], generations: Iterable[Mapping[str, Any]]) -> None:
        """Begin with a snapshot's clients and generations."""
        self._rows = {
            str(client["client_id"]): Row(str(client.get("name") or "client")) for client in clients
        }
        for client in clients:
            if "bytes_per_s" in client:
                self._rows[str(client["client_id"])].show_traffic(client)
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
            case ClientMetrics():
                told = {traffic.client_id: traffic.model_dump() for traffic in event.clients}
                for key, row in self._rows.items():
                    if key in told:
                        row.show_traffic(told[key])
                    else:
                        row.show_idle()
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

    def event(self, event: QEvent) -> bool:
        """Show a row's figures to whoever points at it."""
        if isinstance(event, QHelpEvent):
            place = (event.pos().y() - _HEADING) // _ROW
            details = self.details(place)
            QToolTip.showText(event.globalPos(), details, self) if details else QToolTip.hideText()
            return True
        return super().event(event)

    def details(self, place: int) -> str:
        """The figures of a row, by its place from the top; empty where there are none."""
        shown = list(self._rows.items())[: self._shown()]
        if not 0 <= place < len(shown) or shown[place][0] == self._own:
            return ""
        return shown[place][1].details

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
