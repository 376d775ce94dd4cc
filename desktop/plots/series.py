"""What the plots and cards show, kept from the stream's events. No Qt and no drawing here.

Times are the stream's monotonic seconds. Everything is bounded: a ring of bins for each curve, a
ring of points for the dots, and one record for each generation that runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from api.bus import Envelope
from engine.events import (
    BaseEvent,
    GenerationDelta,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
    ModelLoaded,
    ModelUnloaded,
    ReasoningDelta,
    StepMetrics,
    SystemMetrics,
    ToolCallDelta,
)
from engine.types import ModelInfo, Token

Array = npt.NDArray[np.float64]

SPAN_S = 60.0
"""How far back the plots look."""
BIN_S = 0.2
BINS = round(SPAN_S / BIN_S)
MAX_DOTS = 1000
"""Most dots that are drawn at once."""
_RATE_WINDOW_S = 1.0


class RateRing:
    """Tokens per second over time, while tokens were made.

    Each token is spread evenly over the time since the one before it; a bin's rate is its tokens by
    the part of it in which any generation decoded. So short answers show their true speed, slow
    models no spikes, and generations that run together add up.
    """

    def __init__(self) -> None:
        self._tokens = np.zeros(BINS + 2)
        self._active = np.zeros(BINS + 2)
        self._head = 0
        self._covered = -math.inf

    def _advance(self, head: int) -> None:
        if head <= self._head:
            return
        size = len(self._tokens)
        for index in range(max(self._head + 1, head - size + 1), head + 1):
            self._tokens[index % size] = 0.0
            self._active[index % size] = 0.0
        self._head = head

    def add(self, start: float, end: float) -> None:
        """One token that took from `start` to `end`."""
        self._advance(math.floor(end / BIN_S))
        if end > start:
            self._spread(self._tokens, start, end, 1.0 / (end - start))
        else:
            self._spread(self._tokens, end, end + 1e-9, 1e9)
        self._spread(self._active, max(start, self._covered), end, 1.0)
        self._covered = max(self._covered, end)

    def _spread(self, bins: Array, start: float, end: float, density: float) -> None:
        size = len(bins)
        last = math.floor(end / BIN_S)
        for index in range(max(math.floor(start / BIN_S), self._head - size + 1), last + 1):
            overlap = min(end, (index + 1) * BIN_S) - max(start, index * BIN_S)
            if overlap > 0:
                bins[index % size] += overlap * density

    def values(self, now: float) -> Array:
        """Tokens per second in the last `BINS` bins that are over, oldest first; 0 where none was made."""
        self._advance(math.floor(now / BIN_S))
        order = np.arange(self._head - BINS, self._head) % len(self._tokens)
        active = self._active[order]
        result: Array = np.where(active > 1e-6, self._tokens[order] / np.maximum(active, 1e-6), 0.0)
        return result


class HoldRing:
    """A value that holds until the next one is known; NaN before the first."""

    def __init__(self) -> None:
        self._bins = np.full(BINS + 1, np.nan)
        self._head = 0
        self.last = math.nan

    def _advance(self, head: int) -> None:
        if head <= self._head:
            return
        size = len(self._bins)
        for index in range(max(self._head + 1, head - size + 1), head + 1):
            self._bins[index % size] = self.last
        self._head = head

    def set(self, t: float, value: float) -> None:
        self._advance(math.floor(t / BIN_S))
        self.last = value
        self._bins[self._head % len(self._bins)] = value

    def values(self, now: float) -> Array:
        """The value in each of the last `BINS` bins, the present one included, oldest first."""
        self._advance(math.floor(now / BIN_S))
        order = np.arange(self._head - BINS + 1, self._head + 1) % len(self._bins)
        return self._bins[order]


class Dots:
    """Inter-token latencies: when each token came and how long after the one before it."""

    _CAPACITY = 1 << 14

    def __init__(self) -> None:
        self._t = np.zeros(self._CAPACITY)
        self._ms = np.zeros(self._CAPACITY)
        self._count = 0

    def add(self, t: float, ms: float) -> None:
        place = self._count % self._CAPACITY
        self._t[place] = t
        self._ms[place] = ms
        self._count += 1

    def visible(self, now: float) -> tuple[Array, Array]:
        """Times relative to `now` and latencies in ms within the span, at most `MAX_DOTS`, outliers kept.

        Where there are more, every n-th is left, by a count over the whole run, so that dots don't flicker.
        """
        first = max(0, self._count - self._CAPACITY)
        numbers = np.arange(first, self._count)
        places = numbers % self._CAPACITY
        t, ms = self._t[places], self._ms[places]
        inside = t >= now - SPAN_S
        numbers, t, ms = numbers[inside], t[inside], ms[inside]
        if len(ms) > MAX_DOTS:
            kept = MAX_DOTS // 4
            border = np.partition(ms, -kept)[-kept]
            outliers = ms > max(border, 2.0 * float(np.median(ms)))
            stride = 1 << math.ceil(math.log2(len(ms) / (MAX_DOTS - kept)))
            chosen = outliers | (numbers % stride == 0)
            t, ms = t[chosen], ms[chosen]
        return t - now, ms


class Steps:
    """The top of an axis in steps of 1, 2, 5: it grows at once and shrinks late, so that it doesn't jump."""

    def __init__(self, least: float, most: float = math.inf) -> None:
        self._least = least
        self._most = most
        self.top = least

    def fit(self, value: float) -> float:
        if not math.isfinite(value):
            return self.top
        needed = min(self._most, max(self._least, step_above(value * 1.1)))
        if needed > self.top or value < self.top * 0.35:
            self.top = needed
        return self.top


def step_above(value: float) -> float:
    """The least of 1, 2, 5, 10, 20 … that isn't below `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for factor in (1.0, 2.0, 5.0, 10.0):
        if value <= factor * power:
            return factor * power
    return 10.0 * power


@dataclass(slots=True)
class Running:
    """One generation as the instruments know it."""

    queued_t: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_t: float | None = None
    last_t: float | None = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=4096))
    """Inter-token latencies in ms."""


@dataclass(slots=True)
class Figures:
    """What the cards show; None is drawn as an en dash."""

    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None
    context_used: int | None = None
    context_total: int | None = None
    batch_size: int | None = None
    slots: int | None = None
    waiting: int = 0


class Instruments:
    """All series, fed with events by `consume`."""

    def __init__(self) -> None:
        self.rate = RateRing()
        self.dots = Dots()
        self.kv = HoldRing()
        self.context = HoldRing()
        self.cpu = HoldRing()
        self.memory = HoldRing()
        self.gpu = HoldRing()
        self.figures = Figures()
        self.model: ModelInfo | None = None
        self.system: SystemMetrics | None = None
        self.last_token_t = -math.inf
        """When the latest token came; the plots stop moving `SPAN_S` after it."""
        self._running: dict[str, Running] = {}
        self._latest: str | None = None
        self._recent: deque[float] = deque()

    @property
    def running(self) -> int:
        """Generations that are queued or run."""
        return len(self._running)

    def consume(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            self.feed(envelope.event)

    def feed(self, event: BaseEvent) -> None:
        match event:
            case GenerationDelta() | ReasoningDelta() | ToolCallDelta():
                self._tokens(event.generation_id, event.tokens)
            case StepMetrics():
                if event.kv_total:
                    self.kv.set(event.t, 100.0 * event.kv_used / event.kv_total)
                self.figures.batch_size = event.batch_size
                self.figures.waiting = event.waiting
            case SystemMetrics():
                self._system(event)
            case GenerationQueued():
                self._running[event.generation_id] = Running(event.t)
            case GenerationStarted():
                running = self._running.setdefault(event.generation_id, Running(event.t))
                running.prompt_tokens = event.prompt_tokens
                self._latest = event.generation_id
                self._context(event.t, running)
            case GenerationFinished():
                self._finished(event)
            case ModelLoaded():
                self.set_model(event.info)
            case ModelUnloaded():
                self.set_model(None)

    def set_model(self, info: ModelInfo | None) -> None:
        """A model is loaded; figures of the one before it don't count any more."""
        self.model = info
        self.figures = Figures(
            context_total=info.n_ctx if info else None, slots=info.n_slots if info else None
        )
        self.kv.last = math.nan
        self.context.last = math.nan

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, after events were missed: model and generations are those of now."""
        self.set_model(ModelInfo.model_validate(snapshot["model"]) if snapshot.get("model") else None)
        self._running.clear()
        for generation in snapshot.get("generations", ()):
            self._running[generation["generation_id"]] = Running(
                generation["queued_t"],
                generation.get("prompt_tokens", 0),
                generation["completion_tokens"],
                generation["first_token_t"],
            )

    def _tokens(self, generation_id: str, tokens: list[Token]) -> None:
        if not tokens:
            return
        running = self._running.get(generation_id)
        if running is None:  # started before this window looked
            running = self._running[generation_id] = Running(tokens[0]["t"])
            running.first_t = tokens[0]["t"]
        self._latest = generation_id
        for token in tokens:
            t = token["t"]
            if running.first_t is None:
                running.first_t = t
                self.figures.first_token_ms = (t - running.queued_t) * 1000.0
            if running.last_t is not None:
                ms = (t - running.last_t) * 1000.0
                self.rate.add(running.last_t, t)
                self.dots.add(t, ms)
                running.times.append(ms)
                self._recent.append(t)
            running.last_t = t
            running.completion_tokens += 1
        self.last_token_t = max(self.last_token_t, tokens[-1]["t"])
        self._context(tokens[-1]["t"], running)

    def _context(self, t: float, running: Running) -> None:
        self.figures.context_used = running.prompt_tokens + running.completion_tokens
        total = self.figures.context_total
        if total:
            self.context.set(t, 100.0 * self.figures.context_used / total)

    def _finished(self, event: GenerationFinished) -> None:
        self._running.pop(event.generation_id, None)
        if not self._running:
            self.figures.batch_size = 0
            self._recent.clear()
        if self._latest != event.generation_id:
            return
        figures, timings = self.figures, event.timings
        if timings.ttft_ms is not None:
            figures.first_token_ms = timings.ttft_ms
        if timings.tokens_per_second is not None:
            figures.tokens_per_second = timings.tokens_per_second
        if timings.itl_p50_ms is not None:
            figures.itl_p50_ms, figures.itl_p99_ms = timings.itl_p50_ms, timings.itl_p99_ms

    def _system(self, event: SystemMetrics) -> None:
        self.system = event
        self.cpu.set(event.t, event.cpu_percent)
        if event.ram_total:
            self.memory.set(event.t, 100.0 * event.ram_used / event.ram_total)
        loads = [gpu.load_percent for gpu in event.gpus if gpu.load_percent is not None]
        if loads:
            self.gpu.set(event.t, max(loads))

    def refresh_figures(self, now: float) -> None:
        """Bring the live figures (rate, latency) up to `now`; called once for each drawing."""
        running = self._running.get(self._latest or "")
        if running is None or running.first_t is None:
            return
        while self._recent and self._recent[0] < now - _RATE_WINDOW_S:
            self._recent.popleft()
        if len(self._recent) > 1:
            span = self._recent[-1] - self._recent[0]
            if span > 0:
                self.figures.tokens_per_second = (len(self._recent) - 1) / span
        elif running.times:
            self.figures.tokens_per_second = 1000.0 / max(running.times[-1], 1e-3)
        if running.times:
            p50, p99 = np.percentile(np.fromiter(running.times, float), (50, 99))
            self.figures.itl_p50_ms, self.figures.itl_p99_ms = float(p50), float(p99)
