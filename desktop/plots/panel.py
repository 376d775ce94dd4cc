"""The right panel: model, cards, live plots, clients. Fed with events; a timer draws while it is visible."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from api.bus import Envelope
from desktop.plots.cards import Cards, milliseconds, number, size
from desktop.plots.clients import ClientList
from desktop.plots.plot import Heading, LivePlot
from desktop.plots.series import SPAN_S, Instruments, Steps
from desktop.theme import Theme
from engine.events import EngineExited, ModelLoaded, ModelUnloaded, SystemMetrics
from engine.types import ModelInfo

LIVE_MS = 200
"""Between drawings while tokens come: one bin of the series."""
IDLE_MS = 1000
"""Between drawings while nothing but the system's load is new."""


class Panel(QScrollArea):
    """Everything at the right. Hidden, it keeps the series but draws nothing."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.instruments = Instruments()
        self.draws = 0
        """How often the plots were drawn."""
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setProperty("look", "panel")
        self.viewport().setAutoFillBackground(False)
        inside = QWidget()
        inside.setProperty("look", "panel")
        inside.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._model_name = Heading("No model", "", theme)
        self._model_detail = Heading("", "", theme)
        self.cards = Cards(theme)
        self.rate = LivePlot("Tokens per second", "last 60 s", Steps(10), theme)
        self.rate.add_curve("accent", fill=True)
        self.latency = LivePlot("Inter-token latency", "one dot a token", Steps(1), theme)
        self.latency.add_dots()
        self.context = LivePlot("Context and KV cache", "", Steps(100, most=100), theme)
        self.context.add_curve("tool", fill=True)
        self.context.add_curve("accent", fill=False)
        self.context.heading.show_note(("KV", "tool"), ("context", "accent"))
        self.load = LivePlot("CPU and memory", "", Steps(100, most=100), theme)
        self.load.add_curve("good", fill=True)
        self.load.add_curve("muted", fill=False)
        self.load.add_curve("accent", fill=False)
        self.load.heading.show_note(("CPU", "good"), ("memory", "muted"))
        self.plots = (self.rate, self.latency, self.context, self.load)
        self._processes = Heading("", "", theme)
        self.clients = ClientList(theme)
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        about = QVBoxLayout()
        about.setSpacing(0)
        about.addWidget(self._model_name)
        about.addWidget(self._model_detail)
        layout.addLayout(about)
        layout.addWidget(self.cards)
        for plot in self.plots:
            plot.setMaximumHeight(180)
            layout.addWidget(plot, 1)
        layout.addWidget(self._processes)
        layout.addWidget(self.clients)
        layout.addStretch()
        self.setWidget(inside)
        self.setMinimumWidth(300)
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.CoarseTimer)
        self._timer.timeout.connect(self.draw)
        self._drawn_system: SystemMetrics | None = None
        self._settled = False
        self._draw_live(time.monotonic())
        self._draw_load(time.monotonic())

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, after events were missed."""
        self.instruments.restore(snapshot)
        self._show_model(self.instruments.model)
        self.clients.restore(snapshot.get("clients", ()), snapshot.get("generations", ()))

    def set_theme(self, theme: Theme) -> None:
        for widget in (self._model_name, self._model_detail, self._processes):
            widget.set_theme(theme)
        self.cards.set_theme(theme)
        for plot in self.plots:
            plot.set_theme(theme)
        self.clients.set_theme(theme)

    def consume(self, envelopes: Sequence[Envelope]) -> None:
        """Take a frame's events in. Drawing is the timer's business."""
        self.instruments.consume(envelopes)
        self.clients.consume(envelopes)
        for envelope in envelopes:
            event = envelope.event
            if isinstance(event, ModelLoaded):
                self._show_model(event.info)
            elif isinstance(event, ModelUnloaded) or (isinstance(event, EngineExited) and event.error):
                self._show_model(None)
        self._schedule()

    def _show_model(self, info: ModelInfo | None) -> None:
        if info is None:
            self._model_name.show_title("No model")
            self._model_name.show_value("")
            self._model_detail.show_note(("", ""))
            return
        where = ", ".join(info.devices) or "CPU"
        threads = "1 thread" if info.n_threads == 1 else f"{info.n_threads} threads"
        layers = f"{info.n_gpu_layers} layers on {where}" if info.n_gpu_layers > 0 else where
        self._model_name.show_title(info.name)
        self._model_name.show_value(_parameters(info.n_params))
        detail = f"{info.architecture} · {info.n_slots} × {info.n_ctx:,} tokens · {layers} · {threads}"
        self._model_detail.show_note((detail, ""))
        self._model_detail.setToolTip(
            f"{detail} · {size(info.size_bytes)} · loaded in {info.load_ms:,.0f} ms"
        )

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._schedule()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._timer.stop()

    def _schedule(self) -> None:
        if not self.isVisible():
            return
        wanted = LIVE_MS if self.instruments.running else IDLE_MS
        if not self._timer.isActive() or self._timer.interval() != wanted:
            self._timer.start(wanted)

    def draw(self) -> None:
        """One drawing: the moving plots while they hold something that moves, the load when it is new."""
        now = time.monotonic()
        instruments = self.instruments
        moving = instruments.running > 0 or now - instruments.last_token_t < SPAN_S + 1
        if moving or not self._settled:
            self._draw_live(now)
            self._settled = not moving
        news = instruments.system is not self._drawn_system
        if news:
            self._draw_load(now)
        if not moving and not news:
            self._timer.stop()
        else:
            self._schedule()
        self.draws += 1

    def _draw_live(self, now: float) -> None:
        instruments = self.instruments
        instruments.refresh_figures(now)
        self.cards.refresh(instruments)
        still = instruments.running == 0
        values = instruments.rate.values(now)
        self.rate.show_curves(values, antialias=still)
        self.rate.heading.show_value(
            number(float(values[-1])) if instruments.running and values[-1] > 0 else ""
        )
        median = self.latency.show_dots(instruments.dots, now)
        self.latency.heading.show_value("" if median is None else f"{milliseconds(median)} ms")
        self.context.show_curves(instruments.kv.values(now), instruments.context.values(now), antialias=still)
        kv = instruments.kv.last
        self.context.heading.show_value("" if math.isnan(kv) else f"{kv:.0f} %")

    def _draw_load(self, now: float) -> None:
        instruments = self.instruments
        system = instruments.system
        self._drawn_system = system
        self.cards.refresh(instruments)
        self.load.show_curves(
            instruments.cpu.values(now),
            instruments.memory.values(now),
            instruments.gpu.values(now),
        )
        if system is None:
            return
        gpu = instruments.gpu.last
        if not math.isnan(gpu):
            self.load.heading.show_note(("CPU", "good"), ("memory", "muted"), ("GPU", "accent"))
        self.load.heading.show_value(f"{system.cpu_percent:.0f} %")
        worker = (
            f"worker {system.worker_cpu_percent:.0f} %, {size(system.worker_rss)}"
            if system.worker_rss
            else ""
        )
        app = f"app {system.app_cpu_percent:.0f} %, {size(system.app_rss)}"
        self._processes.show_note((f"{app} · {worker}" if worker else app, ""))


def _parameters(n: int) -> str:
    if not n:
        return ""
    if n >= 1e9:
        return f"{n / 1e9:.1f} B parameters"
    return f"{n / 1e6:.1f} M parameters"
