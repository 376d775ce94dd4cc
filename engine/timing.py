"""Marks of one generation on the one clock, and the times derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from engine.types import Timings


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The value below which `fraction` of the ordered values lie, interpolated between neighbours."""
    place = (len(ordered) - 1) * fraction
    low = int(place)
    if low + 1 == len(ordered):
        return ordered[low]
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)


class Marks:
    """When things happened to one generation (seconds); `timings` derives the rest."""

    __slots__ = ("computed", "received", "started", "times")

    def __init__(self, received: float) -> None:
        self.received = received
        self.started: float | None = None
        """A slot took it."""
        self.computed: float | None = None
        """Its last prompt token was computed."""
        self.times: list[float] = []
        """When each of its sampled tokens came; injected ones tell nothing of the model's pace."""

    def timings(self) -> Timings:
        times, started = self.times, self.started
        decode = times[-1] - times[0] if times else None
        gaps = sorted(after - before for before, after in pairwise(times))
        return Timings(
            queue_ms=_span(self.received, started),
            prefill_ms=_span(started, self.computed),
            ttft_ms=_span(self.received, times[0] if times else None),
            decode_ms=None if decode is None else decode * 1000,
            tokens_per_second=len(gaps) / decode if decode else None,
            itl_p50_ms=percentile(gaps, 0.5) * 1000 if gaps else None,
            itl_p99_ms=percentile(gaps, 0.99) * 1000 if gaps else None,
        )


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000
