"""What `/metrics` tells, in Prometheus' text format: counters and histograms folded from the events,
and the present state as gauges.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from api.bus import Envelope
from api.state import State
from engine.events import (
    ClientConnected,
    ClientDisconnected,
    EngineExited,
    EngineRestarting,
    EngineStarted,
    GenerationDelta,
    GenerationFinished,
    GenerationPaused,
    GenerationRecovered,
    GenerationStarted,
    ReasoningDelta,
    StepMetrics,
    SystemMetrics,
    ToolCallDelta,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tokenglass_"
LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


class Histogram:
    """Counts of observations by upper bound, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        below = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self._sum!r}"
        yield f"{name}_count {below}"


class Metrics:
    """Folds every event of the bus. Loop thread only."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._generations: Counter[tuple[str, str]] = Counter()
        """Finished ones by origin and reason."""
        self._origins: dict[str, str] = {}
        self._last_t: dict[str, float] = {}
        """When each running generation's latest token was sampled, unless it was held up since."""
        self._prompt_tokens = self._cached_tokens = self._tokens = 0
        self._draft_tokens = self._accepted_tokens = 0
        self._steps = 0
        self._decode_s = 0.0
        self._clients: Counter[str] = Counter()
        self._client_origins: dict[str, str] = {}
        self._connected = self._cut = 0
        self._starts = self._restarts = self._deaths = 0
        self._step: StepMetrics | None = None
        self._system: SystemMetrics | None = None
        self._ttft = Histogram(WAIT_S)
        self._itl = Histogram(LATENCY_S)
        self._queue = Histogram(WAIT_S)
        self._prefill = Histogram(WAIT_S)

    def fold(self, envelope: Envelope) -> None:
        event = envelope.event
        match event:
            case GenerationDelta() | ReasoningDelta() | ToolCallDelta():
                self._token_times(event)
            case StepMetrics():
                self._step = event
                self._steps += 1
                self._decode_s += event.decode_ms / 1000
                self._draft_tokens += event.draft_tokens
                self._accepted_tokens += event.accepted_tokens
            case SystemMetrics():
                self._system = event
            case GenerationStarted():
                self._origins[event.generation_id] = event.origin
                self._prompt_tokens += event.prompt_tokens
                self._cached_tokens += event.cached_tokens
            case GenerationPaused() | GenerationRecovered():
                self._last_t.pop(event.generation_id, None)
            case GenerationFinished():
                self._finished(event)
            case ClientConnected():
                self._connected += 1
                self._client_origins[event.client_id] = event.origin
                self._clients[event.origin] += 1
            case ClientDisconnected():
                self._cut += event.reason == "slow"
                if (origin := self._client_origins.pop(event.client_id, None)) is not None:
                    self._clients[origin] -= 1
            case EngineStarted():
                self._starts += 1
            case EngineRestarting():
                self._restarts += 1
            case EngineExited():
                self._deaths += not event.expected
                self._step = None
            case _:
                pass

    def _token_times(self, event: GenerationDelta | ReasoningDelta | ToolCallDelta) -> None:
        last = self._last_t.get(event.generation_id)
        for token in event.tokens:
            if token.get("injected"):
                continue
            t = token["t"]
            if last is not None:
                self._itl.observe(t - last)
            last = t
            self._tokens += 1
        if last is not None:
            self._last_t[event.generation_id] = last

    def _finished(self, event: GenerationFinished) -> None:
        self._last_t.pop(event.generation_id, None)
        origin = self._origins.pop(event.generation_id, "unstarted")
        self._generations[origin, event.finish_reason] += 1
        took = event.timings
        for histogram, ms in (
            (self._queue, took.queue_ms),
            (self._prefill, took.prefill_ms),
            (self._ttft, took.ttft_ms),
        ):
            if ms is not None:
                histogram.observe(ms / 1000)

    # ---- the text

    def text(self) -> str:
        """All metrics, as Prometheus reads them."""
        return "\n".join((*self._counters(), *self._histograms(), *self._gauges())) + "\n"

    def _counters(self) -> Iterator[str]:
        finished = [
            ({"origin": origin, "finish_reason": reason}, n)
            for (origin, reason), n in self._generations.items()
        ]
        yield from _metric("generations_total", "counter", "Finished generations.", finished)
        for name, value, text in (
            ("prompt_tokens_total", self._prompt_tokens, "Prompt tokens of started generations."),
            ("cached_tokens_total", self._cached_tokens, "Prompt tokens taken from the KV cache."),
            ("completion_tokens_total", self._tokens, "Tokens generated."),
            ("draft_tokens_total", self._draft_tokens, "Tokens guessed by prompt lookup."),
            ("accepted_tokens_total", self._accepted_tokens, "Guessed tokens that were right."),
            ("steps_total", self._steps, "Steps of the engine."),
            ("decode_seconds_total", self._decode_s, "Time in llama_decode."),
            ("clients_connected_total", self._connected, "Clients that came."),
            ("clients_cut_total", self._cut, "Clients cut because they didn't read."),
            ("engine_starts_total", self._starts, "Worker processes started."),
            ("engine_restarts_total", self._restarts, "Workers started again after a death."),
            ("engine_deaths_total", self._deaths, "Workers that ended unasked."),
        ):
            yield from _metric(name, "counter", text, [({}, value)])

    def _histograms(self) -> Iterator[str]:
        for name, histogram, text in (
            ("time_to_first_token_seconds", self._ttft, "From a command's receipt to its first token."),
            ("inter_token_latency_seconds", self._itl, "Between two tokens of a generation."),
            ("queue_seconds", self._queue, "From a command's receipt until a slot took it."),
            ("prefill_seconds", self._prefill, "From then until the prompt was computed."),
        ):
            yield from _help(name, "histogram", text)
            yield from histogram.lines(PREFIX + name)

    def _gauges(self) -> Iterator[str]:
        state = self._state
        running = [generation.started is not None for generation in state.generations.values()]
        step, model = self._step, state.model
        yield from _gauge("generations_running", "Generations that have a slot.", sum(running))
        yield from _gauge("generations_waiting", "Generations without one.", len(running) - sum(running))
        yield from _gauge("engine_ready", "Whether a model is loaded and answers.", state.engine == "ready")
        if model is not None:
            yield from _metric("model_info", "gauge", "The loaded model.", [({"model": model.id}, 1)])
            yield from _gauge("slots", "Slots of the engine.", model.n_slots)
        if step is not None:
            yield from _gauge("kv_used_tokens", "Cells of the KV cache in use.", step.kv_used)
            yield from _gauge("kv_total_tokens", "Cells of the KV cache.", step.kv_total)
            yield from _gauge("batch_size", "Generations in the latest step.", step.batch_size)
        clients = [({"origin": origin}, n) for origin, n in self._clients.items()]
        yield from _metric("clients", "gauge", "Connected clients.", clients)
        if self._system is not None:
            yield from _system(self._system)


def _system(event: SystemMetrics) -> Iterator[str]:
    both = ("app", "worker")
    cpu = zip(both, (event.app_cpu_percent / 100, event.worker_cpu_percent / 100), strict=True)
    samples = [({"process": name}, cores) for name, cores in cpu]
    yield from _metric("process_cpu_cores", "gauge", "Cores that each process keeps busy.", samples)
    memory = zip(both, (event.app_rss, event.worker_rss), strict=True)
    samples = [({"process": name}, size) for name, size in memory]
    yield from _metric("process_resident_memory_bytes", "gauge", "Resident memory.", samples)
    yield from _gauge("system_cpu_ratio", "Load of all cores together.", event.cpu_percent / 100)
    yield from _gauge("system_memory_used_bytes", "Memory in use.", event.ram_used)
    yield from _gauge("system_memory_total_bytes", "Memory of the machine.", event.ram_total)
    gpus = [({"gpu": str(i), "name": gpu.name}, gpu) for i, gpu in enumerate(event.gpus)]
    for name, text, field, scale in (
        ("gpu_load_ratio", "Load of the GPU.", "load_percent", 0.01),
        ("gpu_memory_used_bytes", "GPU memory in use.", "memory_used", 1),
        ("gpu_memory_total_bytes", "Memory of the GPU.", "memory_total", 1),
        ("gpu_temperature_celsius", "Temperature of the GPU.", "temperature_c", 1),
        ("gpu_power_watts", "Power that the GPU draws.", "power_w", 1),
    ):
        told = [(labels, getattr(gpu, field)) for labels, gpu in gpus]
        known = [(labels, value * scale) for labels, value in told if value is not None]
        if known:
            yield from _metric(name, "gauge", text, known)


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return _metric(name, "gauge", text, [({}, value)])


def _help(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {text}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield from _help(name, kind, text)
    for labels, value in samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{PREFIX}{name}{{{told}}} {value + 0!r}" if told else f"{PREFIX}{name} {value + 0!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
