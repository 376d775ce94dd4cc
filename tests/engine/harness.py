"""Drives an `EngineCore` on the fake backend and checks what every step answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.backend import Batch, SamplerSpec
from engine.backends import fake
from engine.commands import (
    Continue,
    Control,
    Fork,
    Generate,
    Inject,
    Pause,
    Rewind,
    StepTokens,
    Update,
)
from engine.core import EngineCore, Prepared
from engine.detokenize import PieceCache
from engine.events import (
    Event,
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationForked,
    GenerationPaused,
    GenerationRecovered,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    GenerationUpdated,
    PromptProgress,
    ReasoningDelta,
    StepMetrics,
    ToolCallDelta,
    ToolCallDone,
)
from engine.fakespec import FakeSpec
from engine.output import Output
from engine.replies import ControlDone, EmbedDone, PromptReady
from engine.types import (
    FunctionSpec,
    Resume,
    SamplingParams,
    Token,
    Tool,
    ToolCall,
    WorkerConfig,
)
from tests.engine.spoken import Listener

CLOCK_TOOL = Tool(type="function", function=FunctionSpec(name="clock"))
_RANKS: dict[type, int] = {
    GenerationStarted: 0,
    GenerationRecovered: 0,
    PromptProgress: 1,
    GenerationDelta: 2,
    ReasoningDelta: 2,
    ToolCallDelta: 2,
    ToolCallDone: 2,
    GenerationPaused: 2,
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
    prompt: list[int]
    started: GenerationStarted | None = None
    recovered: GenerationRecovered | None = None
    progress: list[int] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    call_texts: dict[str, str] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    listener: Listener = field(default_factory=Listener)
    """Puts the calls together from their pieces."""
    before: list[int] = field(default_factory=list)
    """Completion tokens that it had from its beginning: told by another worker, or its source's."""
    tokens: list[Token] = field(default_factory=list)
    """Its own, after those."""
    injected: set[int] = field(default_factory=set)
    n_drawn: int = 0
    seed: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    untold: list[int] = field(default_factory=list)
    """Injected tokens that are told when it starts."""
    paused: bool = False
    hand_at: int = 0
    """Completion tokens that it had after the last hand on it."""
    finished: GenerationFinished | None = None

    @property
    def n_prompt(self) -> int:
        return len(self.prompt)

    @property
    def ids(self) -> list[int]:
        """All its completion tokens."""
        return [*self.before, *(token["id"] for token in self.tokens)]

    @property
    def slot(self) -> int | None:
        """Which slot it has."""
        if self.finished is not None:
            return None
        taken = self.recovered or self.started
        return None if taken is None else taken.slot

    @property
    def end(self) -> GenerationFinished:
        assert self.finished is not None
        return self.finished

    def at_last_hand(self) -> Resume:
        """How a run starts that goes on as this one did after the last hand on it."""
        assert self.seed is not None
        since = [i for i in range(self.hand_at, len(self.ids)) if i not in self.injected]
        return Resume(
            kind="recovered",
            prompt_tokens=self.prompt,
            tokens=self.ids[: self.hand_at],
            injected=sorted(i for i in self.injected if i < self.hand_at),
            n_drawn=self.n_drawn - len(since),
            seed=self.seed,
        )


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
        n_kv: int = 0,
    ) -> None:
        config = WorkerConfig(
            model_id="m",
            model_path=model,
            n_slots=n_slots,
            n_ctx=n_ctx,
            n_batch=n_batch,
            queue_limit=queue_limit,
            n_kv=n_kv,
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
        lookup: int = 0,
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
            prompt_lookup_num_tokens=lookup,
        )
        tokens = self.backend.tokenize(prompt, add_special=True, parse_special=True)
        self.records[name] = Record(command, tokens, seed=seed, sampling=command.sampling)
        self.core.add(Prepared(command, tokens))
        return name

    def go_on(self, record: Record, resume: Resume, *, name: str | None = None) -> str:
        """Add a generation that another worker has begun."""
        name = name or f"g{len(self.records)}"
        update = {"generation_id": name, "sampling": record.sampling, "resume": resume}
        command = record.command.model_copy(update=update)
        self.clock.now = max(self.clock.now, command.received_t, *resume.times, resume.started_t or 0)
        heir = Record(command, resume.prompt_tokens, seed=resume.seed, sampling=record.sampling)
        heir.before = list(resume.tokens)
        heir.hand_at = len(resume.tokens)
        heir.injected = set(resume.injected)
        heir.n_drawn = resume.n_drawn
        heir.paused = resume.paused
        prepared = Prepared(command, resume.prompt_tokens)
        output = Output(prepared, PieceCache(self.backend.piece))
        output.replay(resume.tokens, resume.injected)
        heir.text, heir.reasoning, heir.calls = output.text, output.reasoning, [*output.tool_calls]
        heir.listener = Listener([*output.tool_calls], output.open_call)
        self.records[name] = heir
        self.core.add(prepared)
        return name

    # ---- hands

    def pause(self, name: str) -> ControlDone:
        return self.control(Pause(request_id="r", generation_id=name))

    def resume(self, name: str) -> ControlDone:
        return self.control(Continue(request_id="r", generation_id=name))

    def step_tokens(self, name: str, n: int = 1) -> ControlDone:
        return self.control(StepTokens(request_id="r", generation_id=name, tokens=n))

    def update(self, name: str, **sampling: object) -> ControlDone:
        return self.control(Update(request_id="r", generation_id=name, sampling=sampling))

    def rewind(self, name: str, n: int) -> ControlDone:
        return self.control(Rewind(request_id="r", generation_id=name, tokens=n))

    def inject(self, name: str, text: str) -> ControlDone:
        return self.control(Inject(request_id="r", generation_id=name, text=text))

    def fork(self, name: str, at_token: int, token_id: int | None = None, *, branch: str = "") -> ControlDone:
        command = Fork(
            request_id="r",
            generation_id=name,
            branch_id=branch or f"g{len(self.records)}",
            client_id="c",
            origin="live",
            received_t=self.clock(),
            at_token=at_token,
            token_id=token_id,
        )
        return self.control(command)

    def control(self, command: Control) -> ControlDone:
        """Carry it out; exactly one answer, then events of what was done."""
        done, *events = self.core.control(command)
        assert isinstance(done, ControlDone)
        assert done.request_id == command.request_id
        if done.error is not None:
            assert not events
            assert not done.result
            return done
        if isinstance(command, Inject) and self.records[command.generation_id].slot is None:
            tokens = self.backend.tokenize(command.text, add_special=False, parse_special=False)
            record = self.records[command.generation_id]
            record.untold += tokens
            del record.untold[done.result["at_token"] - len(record.ids) :]  # a stop string in it is the end
        elif isinstance(command, Rewind):
            assert done.result["removed"] == command.tokens
            untold = self.records[command.generation_id].untold
            del untold[max(0, len(untold) - command.tokens) :]
        for event in events:
            assert isinstance(event, GenerationEvent)
            if isinstance(event, GenerationForked):
                self._branch(event, command)
            self._note(event)
        self.check_cache()
        record, at_token = self.records[command.generation_id], done.result["at_token"]
        if isinstance(command, StepTokens):
            record.paused = False
        elif isinstance(command, Update | Rewind | Inject):
            record.hand_at = n_tokens = len(record.ids) + len(record.untold)
            assert at_token == (len(record.ids) if isinstance(command, Update) else n_tokens)
            assert not record.untold or record.slot is None
        elif not isinstance(command, Fork):
            assert at_token == len(record.ids)
            assert record.paused == isinstance(command, Pause)
        return done

    def _branch(self, event: GenerationForked, command: Control) -> None:
        source = self.records[event.generation_id]
        assert isinstance(command, Fork)
        assert (event.branch_id, event.at_token) == (command.branch_id, command.at_token)
        sampling = source.sampling.model_copy(update={"seed": None})
        update = {"generation_id": event.branch_id, "received_t": command.received_t}
        update |= {"sampling": sampling, "resume": None}
        branch = Record(source.command.model_copy(update=update), source.prompt, sampling=sampling)
        branch.before = source.ids[: event.at_token]
        branch.injected = {index for index in source.injected if index < event.at_token}
        branch.text, branch.reasoning, branch.calls = event.text, event.reasoning, [*event.tool_calls]
        branch.listener = Listener([*event.tool_calls], event.open_call)
        branch.untold = [] if command.token_id is None else [command.token_id]
        branch.hand_at = len(branch.before) + len(branch.untold)
        self.records[event.branch_id] = branch

    # ---- steps

    def step(self) -> list[Event]:
        messages = self.core.step()
        self.n_steps += 1
        events: list[Event] = []
        for i, message in enumerate(messages):
            if isinstance(message, PromptReady):
                started = messages[i + 1]
                assert isinstance(started, GenerationStarted)
                assert started.generation_id == message.generation_id
                assert message.prompt_tokens == self.records[message.generation_id].prompt
            else:
                assert not isinstance(message, ControlDone | EmbedDone)
                events.append(message)
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
        self.check_cache()
        return events

    def run(self, limit: int = 10_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(limit):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work
        assert all(record.finished or record.paused for record in self.records.values())
        n_busy = sum(record.slot is not None for record in self.records.values())
        assert sum(not sampler.closed for sampler in self.backend.samplers) == n_busy

    def check_cache(self) -> None:
        """Every sequence holds the first tokens of its generation, and nothing else."""
        for record in self.records.values():
            if record.slot is not None:
                held = self.backend.held[record.slot]
                assert held == [*record.prompt, *record.ids][: len(held)]

    @property
    def active(self) -> list[Record]:
        """Those that have a slot."""
        return [record for record in self.records.values() if record.slot is not None]

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
        assert metrics.kv_used == self.backend.cells_used
        assert metrics.kv_used <= metrics.kv_total == self.backend.info.n_kv
        assert 0 <= metrics.accepted_tokens <= metrics.draft_tokens <= metrics.decode_tokens
        assert metrics.waiting == self.core.waiting
        assert min(metrics.pre_ms, metrics.decode_ms, metrics.sample_ms, metrics.emit_ms) >= 0

    def _note(self, event: GenerationEvent) -> None:
        record = self.records[event.generation_id]
        assert record.finished is None, "an event after finished"
        record.listener.take([event])
        match event:
            case GenerationStarted() | GenerationRecovered():
                self._start(record, event)
            case GenerationFinished():
                self._end(record, event)
            case PromptProgress():
                assert record.slot is not None
                assert event.done <= event.total == record.n_prompt
                record.progress.append(event.done)
            case GenerationDelta():
                self._tokens(record, event.text, event.tokens)
                record.text += event.text
            case ReasoningDelta():
                self._tokens(record, event.text, event.tokens)
                record.reasoning += event.text
            case ToolCallDelta():
                self._tokens(record, event.text, event.tokens)
                record.call_texts[event.call_id] = record.call_texts.get(event.call_id, "") + event.text
            case ToolCallDone():
                record.calls.append(event.call)
            case GenerationPaused():
                assert event.at_token == len(record.ids)
                assert not record.paused
                record.paused = True
            case GenerationResumed():
                assert event.at_token == len(record.ids)
                record.paused = False
            case GenerationUpdated():
                assert event.at_token == len(record.ids)
                record.sampling, record.seed = event.sampling, event.sampling.seed
            case GenerationRewound():
                self._rewound(record, event)
            case _:
                assert isinstance(event, GenerationForked)

    def _start(self, record: Record, event: GenerationStarted | GenerationRecovered) -> None:
        taken = [other.slot for other in self.active]
        assert event.slot not in taken
        if isinstance(event, GenerationRecovered):
            assert event.at_token == len(record.ids)
            n_tokens = event.at_token + len(record.untold)
            assert 0 <= event.cached_tokens < record.n_prompt + max(1, n_tokens)
            record.recovered = event
            return
        assert record.started is None
        assert 0 <= event.cached_tokens <= event.prompt_tokens == record.n_prompt
        assert event.cached_tokens < record.n_prompt or record.before or record.untold
        assert record.seed in (None, event.seed)
        record.started, record.seed = event, event.seed

    def _rewound(self, record: Record, event: GenerationRewound) -> None:
        n_own = event.at_token - len(record.before)
        assert event.at_token + event.removed == len(record.ids)
        del record.before[event.at_token :]
        del record.tokens[max(0, n_own) :]
        record.injected = {i for i in record.injected if i < event.at_token}
        record.text, record.reasoning, record.calls = event.text, event.reasoning, [*event.tool_calls]

    def _tokens(self, record: Record, text: str, tokens: list[Token]) -> None:
        assert record.started or record.command.resume is not None, "a delta before the start"
        assert text or tokens
        if tokens:
            assert "".join(token["text"] for token in tokens) == text
        for token in tokens:
            index = len(record.ids)
            assert token["index"] == index
            if token.get("injected"):
                assert "logprob" not in token
                record.injected.add(index)
                if record.untold:
                    assert record.untold.pop(0) == token["id"]
            else:
                assert ("logprob" in token) == (record.command.logprobs is not None)
                assert not record.untold
                record.n_drawn += 1
            record.tokens.append(token)

    def _end(self, record: Record, event: GenerationFinished) -> None:
        if record.started or record.command.resume is not None:
            assert event.text == record.text
            assert event.tool_calls == record.calls == record.listener.calls
            assert event.reasoning == record.reasoning
            assert not record.untold
        else:  # it ends before it has told what was injected
            assert event.text.startswith(record.text)
            assert event.reasoning.startswith(record.reasoning)
            assert event.tool_calls[: len(record.calls)] == record.calls
            record.injected.update(range(len(record.ids), len(record.ids) + len(record.untold)))
            record.before, record.untold = [*record.before, *record.untold], []
        record.finished = event
        assert event.usage.completion_tokens == len(record.ids)
        assert event.usage.prompt_tokens == record.n_prompt
        if record.started and not record.recovered:
            assert event.usage.cached_tokens == record.started.cached_tokens
        assert event.usage.accepted_tokens <= event.usage.draft_tokens
        assert not event.usage.draft_tokens or record.command.prompt_lookup_num_tokens
        assert (event.error is not None) == (event.finish_reason == "error")
        times = [token["t"] for token in record.tokens if not token.get("injected")]
        timings = event.timings
        for figure in timings.model_dump().values():
            assert figure is None or (math.isfinite(figure) and figure >= 0), timings
        if record.command.resume is not None:
            return
        assert (timings.queue_ms is None) == (record.started is None)
        assert (timings.ttft_ms is None) == (not times)
        if times:
            assert timings.ttft_ms is not None
            assert abs(timings.ttft_ms - (times[0] - record.command.received_t) * 1000) < 1e-6
            assert timings.decode_ms is not None
            assert abs(timings.decode_ms - (times[-1] - times[0]) * 1000) < 1e-6
