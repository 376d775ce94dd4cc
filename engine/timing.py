"""Marks of one generation on the one clock, and the times derived from them."""

from __future__ import annotations

from collections.abc import Sequence

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

    __slots__ = ("_last", "computed", "first", "gaps", "received", "started")

    def __init__(self, received: float) -> None:
        self.received = received
        self.started: float | None = None
        """A slot took it."""
        self.computed: float | None = None
        """Its last prompt token was computed."""
        self.first: float | None = None
        """Its first token was sampled."""
        self.gaps: list[float] = []
        """From each token to the next."""
        self._last = 0.0

    def token(self, t: float) -> None:
        """A token was sampled."""
        if self.first is None:
            self.first = t
        else:
            self.gaps.append(t - self._last)
        self._last = t

    def timings(self) -> Timings:
        started, first = self.started, self.first
        decode = None if first is None else self._last - first
        gaps = sorted(self.gaps)
        return Timings(
            queue_ms=_span(self.received, started),
            prefill_ms=_span(started, self.computed),
            ttft_ms=_span(self.received, first),
            decode_ms=None if decode is None else decode * 1000,
            tokens_per_second=len(gaps) / decode if decode else None,
            itl_p50_ms=percentile(gaps, 0.5) * 1000 if gaps else None,
            itl_p99_ms=percentile(gaps, 0.99) * 1000 if gaps else None,
        )


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000
