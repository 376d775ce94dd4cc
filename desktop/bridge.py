"""Client zero's frames: what the window's subscription has, drained once per frame for all widgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from PySide6.QtCore import QObject, Qt, QTimer, Signal

from api.bus import Envelope, Subscription
from desktop.watchdog import FrameMeter

logger = logging.getLogger(__name__)

FRAME_MS = 33

Consumer = Callable[[list[Envelope]], None]


class Bridge(QObject):
    """Hands each frame's events to the consumers, in the order in which they were added.

    The first event after a pause is handed on at once; while events keep coming there is one frame
    every `FRAME_MS`, however many events it holds. Without events no timer runs.
    """

    overrun = Signal()
    """Events were lost to the ring: only a snapshot helps."""

    def __init__(self, meter: FrameMeter) -> None:
        super().__init__()
        self._meter = meter
        self._subscription: Subscription | None = None
        self._consumers: list[Consumer] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setTimerType(Qt.TimerType.CoarseTimer)
        self._timer.timeout.connect(self._frame)
        self._last_frame = 0.0
        self.frames = 0
        """Frames since the start."""
        self.events = 0
        """Events handed on since the start, merged ones counted once."""

    def add_consumer(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)

    def attach(self, subscription: Subscription) -> None:
        """Read from this subscription, whose `on_ready` is this bridge's."""
        self._subscription = subscription
        self.on_ready()

    def detach(self) -> None:
        self._subscription = None
        self._timer.stop()

    def on_ready(self) -> None:
        """There is something to drain."""
        if self._subscription is not None and not self._timer.isActive():
            since = (time.monotonic() - self._last_frame) * 1000.0
            self._timer.start(max(0, round(FRAME_MS - since)))

    def _frame(self) -> None:
        subscription = self._subscription
        if subscription is None:
            return
        self._last_frame = time.monotonic()
        if subscription.overrun:
            subscription.skip_to_now()
            self.overrun.emit()
        envelopes = subscription.drain()
        if envelopes:
            self.frames += 1
            self.events += len(envelopes)
            started = time.perf_counter()
            for consumer in self._consumers:
                try:
                    consumer(envelopes)
                except Exception:
                    logger.exception("a part of the window failed on a frame")
            self._meter.frame((time.perf_counter() - started) * 1000.0)
        if subscription.pending:
            self._timer.start(FRAME_MS)
