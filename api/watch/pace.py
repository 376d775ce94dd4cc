"""How fast tokens come, as far as the last minute tells: rate, distance, and both over time."""

from __future__ import annotations

import math
from collections import deque

TICK_S = 0.5
"""One column of a sparkline."""
KEPT_TICKS = 240
RECENT_S = 2.0
LAST_GAPS = 4096
GAPS_S = 10.0
"""What quantiles of the latency are taken from."""


class Rate:
    """Tokens per second of one generation, over its last two seconds. Times: monotonic seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=1024)

    def add(self, t: float) -> float | None:
        """A token; answers the seconds since the one before."""
        gap = t - self._times[-1] if self._times else None
        self._times.append(t)
        return gap

    def break_off(self) -> None:
        """A pause or a loss: the next token's distance says nothing about the speed."""
        self._times.clear()

    def value(self, now: float) -> float | None:
        """None before the second token, and when there was none for two seconds."""
        if len(self._times) < 2 or now - self._times[-1] > RECENT_S:
            return None
        last = self._times[-1]
        times = [t for t in self._times if last - t <= RECENT_S]
        span = last - times[0]
        return (len(times) - 1) / span if span > 0 else None


class Pace:
    """All tokens of everybody, by half seconds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._worst: dict[int, float] = {}
        self._gaps: deque[tuple[float, float]] = deque(maxlen=LAST_GAPS)

    def add(self, t: float, gap: float | None) -> None:
        """A token at `t`, and its distance from the one before, in seconds."""
        tick = math.floor(t / TICK_S)
        self._counts[tick] = self._counts.get(tick, 0) + 1
        if gap is not None:
            self._worst[tick] = max(self._worst.get(tick, 0.0), gap)
            self._gaps.append((t, gap))
        if len(self._counts) > 2 * KEPT_TICKS:
            self._counts = {each: n for each, n in self._counts.items() if each >= tick - KEPT_TICKS}
            self._worst = {each: gap for each, gap in self._worst.items() if each >= tick - KEPT_TICKS}

    def rates(self, now: float, columns: int) -> list[float]:
        """Tokens per second in each half second, up to the last whole one."""
        return [self._counts.get(tick, 0) / TICK_S for tick in self._ticks(now, columns)]

    def gaps(self, now: float, columns: int) -> list[float | None]:
        """The longest wait for a token in each half second; None where none came."""
        return [self._worst.get(tick) for tick in self._ticks(now, columns)]

    def quantiles(self, now: float) -> tuple[float, float] | None:
        """Median and 99th percentile of the last ten seconds' distances."""
        found = sorted(gap for t, gap in self._gaps if now - t <= GAPS_S)
        if not found:
            return None
        return found[len(found) // 2], found[min(len(found) - 1, math.ceil(len(found) * 0.99) - 1)]

    @staticmethod
    def _ticks(now: float, columns: int) -> range:
        end = math.floor(now / TICK_S)
        return range(end - columns, end)
