"""Cards with one figure each, painted by hand: new figures cost one small repaint and never a new layout."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QGridLayout, QSizePolicy, QWidget

from desktop.plots.series import Instruments
from desktop.theme import LARGE, RADIUS, SMALL, Theme, ui_font

DASH = "–"
"""Stands for what isn't measured."""
_LEFT, _RIGHT, _GAP = 10, 4, 5
"""Space in a card: beside its text, and between figure and unit."""
_SIZES = (LARGE, 17, 15, 13)
"""Of a figure, the largest first."""


def number(value: float | None) -> str:
    """Three significant digits or all before the point, with thousands separated; a dash for None."""
    if value is None:
        return DASH
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """As `number`, but whole from 10 up: a tenth of a millisecond says nothing there."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def short_count(value: int) -> str:
    """4096 as `4,096`, 8192 as `8k`-like figures only where they are exact."""
    return f"{value // 1024}k" if value >= 8192 and value % 1024 == 0 else f"{value:,}"


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f}"


def size(value: float) -> str:
    """Bytes with their unit."""
    if value >= 1e9:
        return f"{value / 1e9:.1f} GB"
    return f"{value / 1e6:,.0f} MB"


class Card(QWidget):
    """A caption, a figure, its unit."""

    def __init__(self, caption: str, theme: Theme, tip: str, *, accent: bool = False) -> None:
        super().__init__()
        self._caption = caption
        self._theme = theme
        self._accent = accent
        self._value = DASH
        self._unit = ""
        self.setToolTip(tip)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(caption)

    @property
    def text(self) -> str:
        return f"{self._value} {self._unit}".strip()

    def show_figure(self, value: str, unit: str = "") -> None:
        if (value, unit) != (self._value, self._unit):
            self._value, self._unit = value, unit
            self.setAccessibleDescription(self.text)
            self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(108, 60)

    def minimumSizeHint(self) -> QSize:
        return QSize(76, 60)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        theme = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.card))
        painter.drawRoundedRect(QRectF(self.rect()), RADIUS, RADIUS)
        inner = self.rect().adjusted(_LEFT, 8, -_RIGHT, -8)
        caption, pixels, unit = self.fitted(self.width())
        painter.setFont(ui_font(SMALL, tabular=True))
        painter.setPen(QColor(theme.muted))
        painter.drawText(inner, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop, caption)
        baseline = inner.bottom() - 4
        font = ui_font(pixels, bold=True, tabular=True)
        unknown = self._value == DASH
        painter.setFont(font)
        colour = theme.muted if unknown else theme.accent if self._accent else theme.text
        painter.setPen(QColor(colour))
        painter.drawText(inner.left(), baseline, self._value)
        if unit and not unknown:
            painter.setFont(ui_font(SMALL, tabular=True))
            painter.setPen(QColor(theme.muted))
            left = inner.left() + QFontMetrics(font).horizontalAdvance(self._value) + _GAP
            painter.drawText(left, baseline, unit)

    def fitted(self, width: int) -> tuple[str, int, str]:
        """Caption, size of the figure and unit, as they fit into a card of this width; all in pixels."""
        metrics = QFontMetrics(ui_font(SMALL, tabular=True))
        room = width - _LEFT - _RIGHT
        caption = metrics.elidedText(self._caption, Qt.TextElideMode.ElideRight, room)
        unit_width = metrics.horizontalAdvance(self._unit) + _GAP + 1 if self._unit else 0
        rest = 0
        for pixels in _SIZES:
            figure = QFontMetrics(ui_font(pixels, bold=True, tabular=True))
            rest = room - figure.horizontalAdvance(self._value)
            if unit_width <= rest:
                return caption, pixels, self._unit
        return caption, _SIZES[-1], metrics.elidedText(self._unit, Qt.TextElideMode.ElideRight, rest - _GAP)


class Cards(QWidget):
    """The grid of cards. The last two tell of the GPU where there is one, else of memory and the batch."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.rate = Card(
            "tokens per second",
            theme,
            "Tokens a second of all generations, over the last second",
            accent=True,
        )
        self.first_token = Card(
            "first token", theme, "From the request until its first token (TTFT), of the latest generation"
        )
        self.latency = Card(
            "latency p50 · p99",
            theme,
            "Time from token to token (ITL) of the latest generation: median, 99th percentile",
        )
        self.context = Card(
            "context", theme, "Tokens of the latest generation, prompt and answer, of those that fit"
        )
        self.fifth = Card("worker memory", theme, "Memory of the process that runs the model")
        self.sixth = Card(
            "batch", theme, "Generations computed together in the last step, of the slots there are"
        )
        self.gpu_memory = Card("GPU memory", theme, "Memory in use on the GPU, by all programs")
        self.power = Card("power", theme, "What the GPU draws now")
        self._cards = (
            self.rate,
            self.first_token,
            self.latency,
            self.context,
            self.fifth,
            self.sixth,
            self.gpu_memory,
            self.power,
        )
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(8)
        for place, card in enumerate(self._cards[:6]):
            grid.addWidget(card, place // 3, place % 3)
        grid.addWidget(self.gpu_memory, 1, 1)
        grid.addWidget(self.power, 1, 2)
        for column in range(3):
            grid.setColumnStretch(column, 1)
        self._show_gpu(False)

    def _show_gpu(self, there: bool) -> None:
        self.fifth.setVisible(not there)
        self.sixth.setVisible(not there)
        self.gpu_memory.setVisible(there)
        self.power.setVisible(there)
        self._gpu = there

    def set_theme(self, theme: Theme) -> None:
        for card in self._cards:
            card.set_theme(theme)

    def refresh(self, instruments: Instruments) -> None:
        """Show the present figures."""
        figures, system = instruments.figures, instruments.system
        self.rate.show_figure(number(figures.tokens_per_second), "tok/s")
        self.first_token.show_figure(milliseconds(figures.first_token_ms), "ms")
        if figures.itl_p50_ms is None:
            self.latency.show_figure(DASH)
        else:
            both = f"{milliseconds(figures.itl_p50_ms)} · {milliseconds(figures.itl_p99_ms)}"
            self.latency.show_figure(both, "ms")
        total = figures.context_total
        self.context.show_figure(count(figures.context_used), f"of {short_count(total)}" if total else "")
        gpus = system.gpus if system else []
        if bool(gpus) != self._gpu:
            self._show_gpu(bool(gpus))
        if gpus:
            used = [gpu.memory_used for gpu in gpus if gpu.memory_used is not None]
            room = [gpu.memory_total for gpu in gpus if gpu.memory_total is not None]
            watts = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
            of = f"of {sum(room) / 1e9:.0f} GB" if room else "GB"
            self.gpu_memory.show_figure(gigabytes(sum(used)) if used else DASH, of)
            self.power.show_figure(f"{sum(watts):.0f}" if watts else DASH, "W")
            return
        if system and system.worker_rss:
            value, unit = size(system.worker_rss).split(" ")
            self.fifth.show_figure(value, unit)
        else:
            self.fifth.show_figure(DASH)
        of = f"of {figures.slots}" if figures.slots else ""
        batch = figures.batch_size if instruments.running else 0  # the last step's event comes after the end
        self.sixth.show_figure(count(batch if figures.slots else None), of)
