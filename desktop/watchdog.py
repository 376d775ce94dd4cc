"""What the window costs: how late its loop comes to a timer, and how long a frame takes."""

from __future__ import annotations

import time
from collections import deque

from PySide6.QtCore import QObject, Qt, QTimer

WINDOW_S = 2.0
_BUSY_MS = 50
_IDLE_MS = 500


class Worst:
    """The highest of the values of the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()

    def add(self, value: float) -> None:
        now = time.monotonic()
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))

    def value(self) -> float | None:
        """None: nothing was measured in that time."""
        border = time.monotonic() - WINDOW_S
        while self._values and self._values[0][0] < border:
            self._values.popleft()
        return self._values[0][1] if self._values else None


class FrameMeter:
    """Work and painting of each frame, in milliseconds."""

    def __init__(self) -> None:
        self._worst = Worst()
        self._open: float | None = None
        self.frames = 0
        self.longest = 0.0
        """Since the start."""

    def frame(self, work_ms: float) -> None:
        """A frame's events were handed to the widgets; what they paint next belongs to it."""
        self._close()
        self._open = work_ms
        self.frames += 1

    def paint(self, ms: float) -> None:
        """The window painted what was due."""
        self._open = (self._open or 0.0) + ms

    def _close(self) -> None:
        if self._open is not None:
            self._worst.add(self._open)
            self.longest = max(self.longest, self._open)
            self._open = None

    def worst(self) -> float | None:
        """The longest frame of the last seconds; None: there was none."""
        self._close()
        return self._worst.value()


class LoopWatch(QObject):
    """Measures how late the event loop comes to a timer, often while events come and rarely while not."""

    def __init__(self) -> None:
        super().__init__()
        self._worst = Worst()
        self.longest = 0.0
        """Since the start, in ms."""
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._came)
        self._due = 0.0

    def start(self) -> None:
        self.set_busy(False)

    def stop(self) -> None:
        self._timer.stop()

    def set_busy(self, busy: bool) -> None:
        wanted = _BUSY_MS if busy else _IDLE_MS
        if not self._timer.isActive() or self._timer.interval() != wanted:
            self._timer.start(wanted)
            self._due = time.monotonic() + wanted / 1000.0

    def _came(self) -> None:
        now = time.monotonic()
        late = max(0.0, now - self._due) * 1000.0
        self._worst.add(late)
        self.longest = max(self.longest, late)
        self._timer.start()
        self._due = now + self._timer.interval() / 1000.0

    def worst(self) -> float | None:
        """The latest that the loop came in the last seconds, in ms."""
        return self._worst.value()
