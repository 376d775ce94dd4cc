"""Drives an `EngineCore` on the fake backend and checks what every step answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.backend import Batch, SamplerSpec
from engine.backends import fake
from engine.commands import Generate
from engine.core import EngineCore, Prepared
from engine.events import (
    Event,
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PromptProgress,
    StepMetrics,
    ToolCallDelta,
    ToolCallDone,
)
from engine.fakespec import FakeSpec
from engine.types import FunctionSpec, SamplingParams, Token, Tool, ToolCall, WorkerConfig

CLOCK_TOOL = Tool(type="function", function=FunctionSpec(name="clock"))
_RANKS: dict[type, int] = {
    GenerationStarted: 0,
    PromptProgress: 1,
    GenerationDelta: 2,
    ToolCallDelta: 2,
    ToolCallDone: 2,
    GenerationFinished: 3,
    StepMetrics: 4,
}


class Clock:
    """Goes on by a millisecond at each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class WatchedBackend(fake.FakeBackend):
    """Remembers batches and samplers; `during_decode` is called in the middle of each decode."""

    def __init__(self, spec: FakeSpec, config: WorkerConfig) -> None:
        info = fake.load(config, lambda done: True).info
        super().__init__(spec, info, config.n_batch)
        self.samplers: list[fake.FakeSampler] = []
        self.batches: list[Batch] = []
        self.during_decode: Callable[[], None] = lambda: None

    def new_sampler(
        self, spec: SamplerSpec, prompt: Sequence[int], completion: Sequence[int] = (), n_drawn: int = 0
    ) -> fake.FakeSampler:
        sampler = super().new_sampler(spec, prompt, completion, n_drawn)
        self.samplers.append(sampler)
        return sampler

    def decode(self, batch: Batch) -> None:
        super().decode(batch)
        self.batches.append(batch)
        self.during_decode()


@dataclass
class Record:
    """What has been heard of one generation."""

    command: Generate
    n_prompt: int
    started: GenerationStarted | None = None
    progress: list[int] = field(default_factory=list)
    text: str = ""
    call_texts: dict[str, str] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finished: GenerationFinished | None = None

    @property
    def end(self) -> GenerationFinished:
        assert self.finished is not None
        return self.finished


class Bench:
    """One core, its fake backend, a clock and a record of each generation."""

    def __init__(
        self,
        model: str = "fake:",
        *,
        n_slots: int = 4,
        n_ctx: int = 0,
        n_batch: int = 512,
        queue_limit: int = 256,
    ) -> None:
        config = WorkerConfig(
            model_id="m",
            model_path=model,
            n_slots=n_slots,
            n_ctx=n_ctx,
            n_batch=n_batch,
            queue_limit=queue_limit,
        )
        self.backend = WatchedBackend(FakeSpec.parse(model), config)
        self.clock = Clock()
        self.core = EngineCore(self.backend, config, self.clock)
        self.records: dict[str, Record] = {}
        self.metrics: list[StepMetrics] = []
        self.n_steps = 0

    def add(
        self,
        prompt: str = "hello",
        *,
        name: str | None = None,
        seed: int | None = 1,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
        logprobs: int | None = None,
        tools: bool = False,
    ) -> str:
        name = name or f"g{len(self.records)}"
        command = Generate(
            generation_id=name,
            received_t=self.clock(),
            client_id="c",
            origin="live",
            prompt=prompt,
            sampling=SamplingParams(seed=seed),
            max_tokens=max_tokens,
            stop=list(stop),
            logprobs=logprobs,
            tools=[CLOCK_TOOL] if tools else [],
        )
        tokens = self.backend.tokenize(prompt, add_special=True, parse_special=True)
        self.records[name] = Record(command, len(tokens))
        self.core.add(Prepared(command, tokens))
        return name

    def step(self) -> list[Event]:
        events = self.core.step()
        self.n_steps += 1
        ranks = [_RANKS[type(event)] for event in events]
        last_end = self._n_early_ends(events)
        assert ranks[last_end:] == sorted(ranks[last_end:])
        for event in events:
            if isinstance(event, StepMetrics):
                self.metrics.append(event)
                self._check_metrics(event)
            else:
                assert isinstance(event, GenerationEvent)
                self._note(event)
        return events

    def run(self, limit: int = 10_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(limit):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work
        assert all(record.finished for record in self.records.values())
        assert all(sampler.closed for sampler in self.backend.samplers)

    @property
    def active(self) -> list[Record]:
        return [record for record in self.records.values() if record.started and not record.finished]

    def _n_early_ends(self, events: list[Event]) -> int:
        """How many events at the beginning tell the ends of generations that took no part in the step."""
        ended = {event.generation_id for event in events if isinstance(event, GenerationFinished)}
        started = {event.generation_id for event in events if isinstance(event, GenerationStarted)}
        n = 0
        for i, event in enumerate(events, 1):
            if not isinstance(event, GenerationEvent) or event.generation_id not in ended - started:
                break
            if isinstance(event, GenerationFinished):
                n = i
        return n

    def _check_metrics(self, metrics: StepMetrics) -> None:
        batch = self.backend.batches[-1]
        assert metrics.prefill_tokens + metrics.decode_tokens == len(batch.tokens)
        assert metrics.batch_size == len(set(batch.sequences))
        assert metrics.kv_used == sum(map(len, self.backend.held))
        assert metrics.kv_total == self.backend.info.n_slots * self.backend.info.n_ctx
        assert metrics.waiting == self.core.waiting
        assert min(metrics.pre_ms, metrics.decode_ms, metrics.sample_ms, metrics.emit_ms) >= 0

    def _note(self, event: GenerationEvent) -> None:
        record = self.records[event.generation_id]
        assert record.finished is None, "an event after finished"
        if isinstance(event, GenerationStarted):
            assert record.started is None
            assert event.slot not in [other.started.slot for other in self.active if other.started]
            assert 0 <= event.cached_tokens < event.prompt_tokens == record.n_prompt
            record.started = event
            return
        if isinstance(event, GenerationFinished):
            self._end(record, event)
            return
        assert record.started is not None
        if isinstance(event, PromptProgress):
            assert not record.tokens
            assert record.started.cached_tokens < event.done <= event.total == record.n_prompt
            assert not record.progress or record.progress[-1] < event.done
            record.progress.append(event.done)
        elif isinstance(event, GenerationDelta):
            self._tokens(record, event.text, event.tokens)
            record.text += event.text
        elif isinstance(event, ToolCallDelta):
            self._tokens(record, event.text, event.tokens)
            record.call_texts[event.call_id] = record.call_texts.get(event.call_id, "") + event.text
        else:
            assert isinstance(event, ToolCallDone)
            record.calls.append(event.call)

    def _tokens(self, record: Record, text: str, tokens: list[Token]) -> None:
        assert text or tokens
        if tokens:
            assert "".join(token["text"] for token in tokens) == text
        for token in tokens:
            assert token["index"] == len(record.tokens)
            assert ("logprob" in token) == (record.command.logprobs is not None)
            record.tokens.append(token)

    def _end(self, record: Record, event: GenerationFinished) -> None:
        record.finished = event
        assert event.text == record.text
        assert event.tool_calls == record.calls
        assert event.usage.completion_tokens == len(record.tokens)
        assert event.usage.prompt_tokens == record.n_prompt
        assert event.usage.cached_tokens == (record.started.cached_tokens if record.started else 0)
        assert (event.error is not None) == (event.finish_reason == "error")
        times = [token["t"] for token in record.tokens]
        timings = event.timings
        assert (timings.queue_ms is None) == (record.started is None)
        assert (timings.ttft_ms is None) == (not times)
        if times:
            assert timings.ttft_ms is not None
            assert abs(timings.ttft_ms - (times[0] - record.command.received_t) * 1000) < 1e-6
            assert timings.decode_ms is not None
            assert abs(timings.decode_ms - (times[-1] - times[0]) * 1000) < 1e-6
