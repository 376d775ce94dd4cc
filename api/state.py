"""The present state, folded from the events: what a snapshot shows, and what a cut generation had so far."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from api.bus import Envelope
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    BaseEvent,
    ClientConnected,
    ClientDisconnected,
    ClientMetrics,
    ClientTraffic,
    EngineExited,
    EngineRestarting,
    EngineStarted,
    GenerationDelta,
    GenerationFinished,
    GenerationForked,
    GenerationPaused,
    GenerationQueued,
    GenerationRecovered,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    GenerationUpdated,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    PromptProgress,
    ReasoningDelta,
    StepMetrics,
    SystemMetrics,
    ToolCallDelta,
    ToolCallDone,
)
from engine.timing import Marks
from engine.types import ModelInfo, OpenCall, SamplingParams, Timings, Token, ToolCall, Usage

MAX_FINISHED = 10_000
"""Ids of finished generations that are remembered, so that a late cancel gets `finished`."""
_NO_TRAFFIC = ClientTraffic(
    client_id="", bytes_per_s=0, events_per_s=0, backlog_bytes=0, behind=0, merged=0, cuts=0
)


@dataclass(slots=True, eq=False)
class Generation:
    """A generation that isn't finished yet, with all it has given so far."""

    queued: GenerationQueued
    started: GenerationStarted | None = None
    prompt_done: int = 0
    prompt_total: int = 0
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    open_call: OpenCall | None = None
    """What has come of a call that isn't whole yet."""
    n_tokens: int = 0
    token_times: array[float] = field(default_factory=lambda: array("d"))
    """When each token was sampled; a branch has none for the tokens of its source."""
    paused: bool = False
    slot: int | None = None
    sampling: SamplingParams | None = None
    """All parameters, where an `update` has changed some."""
    recovered: int = 0
    """How often another worker went on with it."""

    @property
    def first_t(self) -> float | None:
        return self.token_times[0] if self.token_times else None

    @property
    def last_t(self) -> float | None:
        return self.token_times[-1] if self.token_times else None

    def add_tokens(self, tokens: list[Token]) -> None:
        self.n_tokens += len(tokens)
        self.token_times.extend(token["t"] for token in tokens)

    def add_to_call(self, event: ToolCallDelta) -> None:
        if not event.text and not event.arguments:
            return
        had = self.open_call
        if had is None or had.id != event.call_id:
            had = OpenCall(id=event.call_id, name=None, text="", arguments="")
        self.open_call = OpenCall(
            id=had.id,
            name=event.name or had.name,
            text=had.text + event.text,
            arguments=had.arguments + event.arguments,
        )

    def stand(self, event: GenerationRewound | GenerationForked) -> None:
        """Take what the event says for all that has been given so far."""
        removed = max(0, self.n_tokens - event.at_token)
        del self.token_times[max(0, len(self.token_times) - removed) :]
        self.n_tokens = event.at_token
        self.text, self.reasoning = [event.text], [event.reasoning]
        self.tool_calls = list(event.tool_calls)
        self.open_call = event.open_call

    def usage(self) -> Usage:
        started = self.started
        return Usage(
            prompt_tokens=started.prompt_tokens if started else 0,
            cached_tokens=started.cached_tokens if started else 0,
            completion_tokens=self.n_tokens,
        )

    def timings(self) -> Timings:
        """As far as the events tell, with the time to the first token as the prefill's."""
        marks = Marks(self.queued.t)
        marks.started = self.started.t if self.started else None
        marks.computed = self.first_t
        marks.times.extend(self.token_times)
        return marks.timings()

    def public(self) -> dict[str, Any]:
        """As it stands in a snapshot."""
        shown: dict[str, Any] = self.queued.model_dump(mode="json", exclude={"type", "t"})
        shown |= {
            "state": "paused" if self.paused else "running" if self.started else "queued",
            "queued_t": self.queued.t,
            "started_t": self.started.t if self.started else None,
            "first_token_t": self.first_t,
            "last_token_t": self.last_t,
            "prompt_done": self.prompt_done,
            "prompt_total": self.prompt_total,
            "text": "".join(self.text),
            "reasoning": "".join(self.reasoning),
            "tool_calls": [call.model_dump(mode="json") for call in self.tool_calls],
            "open_call": self.open_call.model_dump(mode="json") if self.open_call else None,
            "completion_tokens": self.n_tokens,
            "sampling": self.sampling.model_dump(mode="json") if self.sampling else None,
            "recovered": self.recovered,
        }
        if self.started is not None:
            fields = {"prompt_tokens", "cached_tokens", "seed", "trimmed_messages"}
            shown |= self.started.model_dump(mode="json", include=fields) | {"slot": self.slot}
        return shown


class State:
    """Folds every event of the bus. Loop thread only."""

    def __init__(self) -> None:
        self.engine = "stopped"
        """`stopped`, `loading`, `ready`, `restarting` or `failed`."""
        self.epoch = 0
        self.pid: int | None = None
        self.error: ErrorInfo | None = None
        self.model: ModelInfo | None = None
        self.loading: ModelLoading | None = None
        self.generations: dict[str, Generation] = {}
        self.finished: OrderedDict[str, None] = OrderedDict()
        self._clients: dict[str, ClientConnected] = {}
        self._traffic: dict[str, ClientTraffic] = {}
        self._step: StepMetrics | None = None
        self._system: SystemMetrics | None = None
        self._folds: dict[type[BaseEvent], Callable[[Any], None]] = {
            GenerationQueued: self._queued,
            GenerationStarted: self._started,
            PromptProgress: self._prompt_progress,
            GenerationDelta: self._delta,
            ReasoningDelta: self._reasoning,
            ToolCallDelta: self._tool_call_delta,
            ToolCallDone: self._tool_call,
            GenerationPaused: self._paused,
            GenerationResumed: self._resumed,
            GenerationUpdated: self._updated,
            GenerationRewound: self._rewound,
            GenerationForked: self._forked,
            GenerationRecovered: self._recovered,
            GenerationFinished: self._finished,
            ModelLoading: self._model_loading,
            ModelLoaded: self._model_loaded,
            ModelUnloaded: self._model_unloaded,
            ModelFailed: self._model_failed,
            EngineStarted: self._engine_started,
            EngineExited: self._engine_exited,
            EngineRestarting: self._engine_restarting,
            StepMetrics: self._step_metrics,
            SystemMetrics: self._system_metrics,
            ClientMetrics: self._client_metrics,
            ClientConnected: self._client_connected,
            ClientDisconnected: self._client_disconnected,
        }

    def fold(self, envelope: Envelope) -> None:
        fold = self._folds.get(type(envelope.event))
        if fold is not None:
            fold(envelope.event)

    def check_token_ids(self, ids: Iterable[int]) -> None:
        """Raise TokenglassError `invalid_argument` for a biased token that the loaded model doesn't have."""
        n_vocab = self.model.n_vocab if self.model is not None else 2**31
        for token in ids:
            if token >= n_vocab:
                raise TokenglassError(
                    "invalid_argument",
                    f"sampling.logit_bias: the model has no token {token}, but 0 to {n_vocab - 1}",
                    path=f"sampling.logit_bias.{token}",
                )

    def snapshot(self) -> dict[str, Any]:
        """Everything a client needs to go on from here, as JSON values."""
        return {
            "engine": {
                "state": self.engine,
                "epoch": self.epoch,
                "pid": self.pid,
                "error": self.error.model_dump(mode="json") if self.error else None,
            },
            "model": self.model.model_dump(mode="json") if self.model else None,
            "loading": (
                {"model": self.loading.model, "progress": self.loading.progress} if self.loading else None
            ),
            "generations": [generation.public() for generation in self.generations.values()],
            "clients": [
                client.model_dump(mode="json", exclude={"type", "t"})
                | self._traffic.get(client.client_id, _NO_TRAFFIC).model_dump(exclude={"client_id"})
                for client in self._clients.values()
            ],
            "metrics": {
                "step": self._step.model_dump(mode="json") if self._step else None,
                "system": self._system.model_dump(mode="json") if self._system else None,
            },
        }

    # ---- generations

    def _queued(self, event: GenerationQueued) -> None:
        self.generations[event.generation_id] = Generation(event)

    def _started(self, event: GenerationStarted) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.started, generation.slot = event, event.slot
            generation.prompt_done, generation.prompt_total = event.cached_tokens, event.prompt_tokens

    def _prompt_progress(self, event: PromptProgress) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.prompt_done, generation.prompt_total = event.done, event.total

    def _delta(self, event: GenerationDelta) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.text.append(event.text)
            generation.open_call = None
            generation.add_tokens(event.tokens)

    def _reasoning(self, event: ReasoningDelta) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.reasoning.append(event.text)
            generation.open_call = None
            generation.add_tokens(event.tokens)

    def _tool_call_delta(self, event: ToolCallDelta) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.add_to_call(event)
            generation.add_tokens(event.tokens)

    def _tool_call(self, event: ToolCallDone) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.tool_calls.append(event.call)
            generation.open_call = None

    def _paused(self, event: GenerationPaused) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.paused = True

    def _resumed(self, event: GenerationResumed) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.paused = False

    def _updated(self, event: GenerationUpdated) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.sampling = event.sampling

    def _rewound(self, event: GenerationRewound) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.stand(event)

    def _forked(self, event: GenerationForked) -> None:
        source = self.generations.get(event.generation_id)
        branch = self.generations.get(event.branch_id)
        if source is not None and branch is not None:
            branch.stand(event)
            branch.sampling = source.sampling

    def _recovered(self, event: GenerationRecovered) -> None:
        if generation := self.generations.get(event.generation_id):
            generation.slot = event.slot
            generation.recovered += 1

    def _finished(self, event: GenerationFinished) -> None:
        self.generations.pop(event.generation_id, None)
        self.finished[event.generation_id] = None
        if len(self.finished) > MAX_FINISHED:
            self.finished.popitem(last=False)

    # ---- model and engine

    def _model_loading(self, event: ModelLoading) -> None:
        self.engine, self.loading = "loading", event

    def _model_loaded(self, event: ModelLoaded) -> None:
        self.engine, self.model, self.loading, self.error = "ready", event.info, None, None

    def _model_unloaded(self, _event: ModelUnloaded) -> None:
        self.model = self.loading = None
        if self.engine in ("restarting", "failed"):  # no worker is left whose end would tell
            self.engine, self.error = "stopped", None

    def _model_failed(self, event: ModelFailed) -> None:
        self.engine, self.model, self.loading, self.error = "failed", None, None, event.error

    def _engine_started(self, event: EngineStarted) -> None:
        self.engine, self.epoch, self.pid = "loading", event.epoch, event.pid

    def _engine_exited(self, event: EngineExited) -> None:
        if event.epoch < self.epoch:
            return  # of a worker that was replaced
        self.pid = self.model = self.loading = None
        if event.will_restart:
            self.engine = "restarting"
        elif not event.expected:
            self.engine, self.error = "failed", event.error
        elif self.engine != "failed":
            self.engine = "stopped"

    def _engine_restarting(self, _event: EngineRestarting) -> None:
        self.engine = "restarting"

    # ---- the rest

    def _step_metrics(self, event: StepMetrics) -> None:
        self._step = event

    def _system_metrics(self, event: SystemMetrics) -> None:
        self._system = event

    def _client_metrics(self, event: ClientMetrics) -> None:
        """Those that aren't in it are idle; their totals stay."""
        idle = {"bytes_per_s": 0.0, "events_per_s": 0.0, "backlog_bytes": 0, "behind": 0}
        traffic = {key: was.model_copy(update=idle) for key, was in self._traffic.items()}
        traffic |= {row.client_id: row for row in event.clients}
        self._traffic = {key: row for key, row in traffic.items() if key in self._clients}

    def _client_connected(self, event: ClientConnected) -> None:
        self._clients[event.client_id] = event

    def _client_disconnected(self, event: ClientDisconnected) -> None:
        self._clients.pop(event.client_id, None)
        self._traffic.pop(event.client_id, None)
