"""What one side did in one run, and the figures of many of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

Figures = dict[str, float | None]

MESSAGES = 8
"""Tokens that come in fewer messages tell no rate by when they come."""


@dataclass(slots=True)
class Run:
    """One generation as seen from outside; seconds of one clock."""

    start: float
    times: list[float]
    """When each token came."""
    delivery_s: list[float] = field(default_factory=list)
    """From each token's sampling in the worker to its arrival at the client."""
    n_tokens: int = 0
    """Where more came than times are known of (one message with several)."""
    cached_tokens: int | None = None
    draft_tokens: int = 0
    accepted_tokens: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        self.n_tokens = max(self.n_tokens, len(self.times))

    @property
    def sampled(self) -> list[float]:
        """When each token was sampled in the worker; nothing where that isn't known."""
        return [t - delay for t, delay in zip(self.times, self.delivery_s, strict=False)]

    @property
    def n_messages(self) -> int:
        """In how many messages the tokens came."""
        return len(set(self.times))


@dataclass(slots=True)
class Sample:
    """One side's part of a pair: one generation, or several at once."""

    runs: list[Run]
    app_cpu_s: float | None = None
    """CPU time of the app's process, all its threads."""
    own_tokens_per_second: float | None = None
    """What the side says of itself (llama-server's timings)."""

    @property
    def tokens_per_second(self) -> float:
        """From first to last token; of several, their tokens while all of them were running.

        Where that was less than half of the time, all tokens over the whole time. By when they come; where
        that says nothing, since all of a run came in a few messages, by when they were sampled or by what
        the side says of itself.
        """
        if min(run.n_messages for run in self.runs) < MESSAGES:
            if all(run.delivery_s for run in self.runs):
                return self._rate([run.sampled for run in self.runs])
            if self.own_tokens_per_second is not None:
                return self.own_tokens_per_second
        return self._rate([run.times for run in self.runs])

    def _rate(self, runs: list[list[float]]) -> float:
        begin, end = min(times[0] for times in runs), max(times[-1] for times in runs)
        if len(runs) > 1:
            first, last = max(times[0] for times in runs), min(times[-1] for times in runs)
            if last - first > (end - begin) / 2:
                return sum(first < t <= last for times in runs for t in times) / (last - first)
        return (self.n_tokens - len(runs)) / max(end - begin, 1e-9)

    @property
    def first_token_s(self) -> float:
        """Of several, the mean."""
        return statistics.mean(run.times[0] - run.start for run in self.runs)

    @property
    def gaps_s(self) -> list[float]:
        """From each token to the next of its generation."""
        return [after - before for run in self.runs for before, after in pairwise(run.times)]

    @property
    def delivery_s(self) -> list[float]:
        return [delay for run in self.runs for delay in run.delivery_s]

    @property
    def n_tokens(self) -> int:
        return sum(run.n_tokens for run in self.runs)

    def figures(self) -> Figures:
        """For the JSON of each pair."""
        out: Figures = {
            "tokens_per_second": self.tokens_per_second,
            "first_token_ms": self.first_token_s * 1000,
        }
        out |= {f"itl_{name}": value for name, value in percentiles(self.gaps_s).items()}
        if self.delivery_s:
            out |= {f"delivery_{name}": value for name, value in percentiles(self.delivery_s).items()}
        if self.app_cpu_s is not None:
            out["app_cpu_us_per_token"] = self.app_cpu_s * 1e6 / self.n_tokens
        if self.own_tokens_per_second is not None:
            out["own_tokens_per_second"] = self.own_tokens_per_second
        if self.runs[0].cached_tokens is not None:
            out["cached_tokens"] = self.runs[0].cached_tokens
        return out


Pair = dict[str, Sample]
"""The samples of one round by side."""


class Interval(NamedTuple):
    """A median, and where the true one lies."""

    median: float
    low: float
    high: float

    def apart(self, digits: int = 3) -> str:
        """For people: `0.973 (0.969 to 0.981)`."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def interval(values: Sequence[float]) -> Interval:
    """Median with its interval of at least 95 % by order statistics, which assumes nothing of the values.

    The interval lies between the k-th smallest and the k-th largest value with the largest k for which
    that holds (15 values: the 4th and the 12th, 96.5 %). Fewer than 6 values can't reach 95 %: all of them.
    """
    ordered, n = sorted(values), len(values)
    outside = 0.0
    k = 0
    while (outside := outside + 2 * math.comb(n, k) / 2**n) <= 0.05:
        k += 1
    k = max(k, 1)
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[n - k])


def percentiles(seconds: Sequence[float]) -> Figures:
    """50th and 99th, in milliseconds; None of nothing."""
    ordered, last = sorted(seconds), len(seconds) - 1
    return {
        f"p{p}_ms": ordered[min(last, p * len(ordered) // 100)] * 1000 if ordered else None for p in (50, 99)
    }


def both(pairs: Sequence[Pair], a: str, b: str) -> list[tuple[Sample, Sample]]:
    """The samples of two sides, from the pairs that have both."""
    return [(pair[a], pair[b]) for pair in pairs if a in pair and b in pair]


def compared(
    pairs: Sequence[Pair], a: str, b: str, value: Callable[[Sample, Sample], float]
) -> dict[str, float] | None:
    """Interval of `value(a, b)` over the pairs; None where there are none."""
    values = [value(one, other) for one, other in both(pairs, a, b)]
    return interval(values)._asdict() if values else None


def ratio(pairs: Sequence[Pair], a: str, b: str) -> dict[str, float] | None:
    """How many times faster `a` generates than `b`, pair by pair."""
    return compared(pairs, a, b, lambda one, other: one.tokens_per_second / other.tokens_per_second)


def first_token_over(pairs: Sequence[Pair], a: str, b: str) -> dict[str, float] | None:
    """Milliseconds by which the first token of `a` comes after that of `b`, pair by pair."""
    return compared(pairs, a, b, lambda one, other: (one.first_token_s - other.first_token_s) * 1000)
