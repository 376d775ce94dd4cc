"""Every event of the stream. Worker, bus, window and clients share these types.

An event is immutable. `t` is the monotonic time in seconds at which the thing happened; the bus
adds `seq` when it publishes (`api.bus`). Fields are only ever added within a protocol version.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.errors import ErrorInfo
from engine.types import (
    FinishReason,
    ModelInfo,
    OpenCall,
    Origin,
    PrefixBreak,
    SamplingParams,
    Timings,
    Token,
    ToolCall,
    Usage,
)


class BaseEvent(BaseModel):
    model_config = ConfigDict(frozen=True)

    type: str
    t: float = Field(default_factory=time.monotonic)


class GenerationEvent(BaseEvent):
    generation_id: str


class GenerationQueued(GenerationEvent):
    type: Literal["generation.queued"] = "generation.queued"
    client_id: str
    client_name: str
    origin: Origin
    model: str
    conversation_id: str | None = None
    message_id: str | None = None
    """The message that the answer is written to, where a conversation keeps it."""
    input: str = ""
    """The last user message or the prompt, cut at 2,000 characters."""
    continues: str | None = None
    """The generation whose calls have their results now."""


class GenerationStarted(GenerationEvent):
    """A slot has taken the generation."""

    type: Literal["generation.started"] = "generation.started"
    client_id: str
    origin: Origin
    model: str
    prompt_tokens: int
    cached_tokens: int
    slot: int
    seed: int
    trimmed_messages: int = 0
    """Oldest messages of the conversation left out so that it fits into the context."""
    prefix_break: PrefixBreak | None = None
    """Where the prompt parted from the KV cache; None where nothing cached had to be given up."""


class PromptProgress(GenerationEvent):
    type: Literal["generation.prompt_progress"] = "generation.prompt_progress"
    done: int
    total: int


class GenerationDelta(GenerationEvent):
    """Answer text. Several tokens may be merged in one delta; none is ever dropped."""

    type: Literal["generation.delta"] = "generation.delta"
    text: str
    tokens: list[Token]


class ReasoningDelta(GenerationEvent):
    type: Literal["generation.reasoning_delta"] = "generation.reasoning_delta"
    text: str
    tokens: list[Token]


class ToolCallDelta(GenerationEvent):
    """A piece of a call.

    The `arguments` of a call's deltas joined are those of the whole call, which comes next. Where text or
    reasoning comes instead, the call was none, and all its text stands there.
    """

    type: Literal["generation.tool_call.delta"] = "generation.tool_call.delta"
    call_id: str
    text: str
    """As the model writes it."""
    tokens: list[Token]
    name: str | None = None
    """Who is called, once that is known; with the first arguments at the latest."""
    arguments: str = ""
    """What it adds to the arguments' JSON text."""


class ToolCallDone(GenerationEvent):
    type: Literal["generation.tool_call"] = "generation.tool_call"
    call: ToolCall


class GenerationPaused(GenerationEvent):
    type: Literal["generation.paused"] = "generation.paused"
    at_token: int
    """Completion tokens delivered so far."""


class GenerationResumed(GenerationEvent):
    type: Literal["generation.resumed"] = "generation.resumed"
    at_token: int


class GenerationUpdated(GenerationEvent):
    type: Literal["generation.updated"] = "generation.updated"
    at_token: int
    """Completion tokens delivered so far; what is sampled from now on is chosen with the parameters."""
    sampling: SamplingParams
    """All parameters as they are now."""


class GenerationRewound(GenerationEvent):
    """The last tokens were removed. What stands here replaces everything delivered before."""

    type: Literal["generation.rewound"] = "generation.rewound"
    at_token: int
    """Completion tokens kept; the next one gets this index."""
    removed: int
    text: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    open_call: OpenCall | None = None
    """A call that isn't whole yet; its next deltas add to it."""


class GenerationForked(GenerationEvent):
    """Another generation, the branch, starts with this one's first tokens.

    Text, reasoning and calls are the branch's.
    """

    type: Literal["generation.forked"] = "generation.forked"
    branch_id: str
    at_token: int
    """The branch has the completion tokens [0, at_token)."""
    token_id: int | None = None
    text: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    open_call: OpenCall | None = None
    """A call that isn't whole yet; its next deltas add to it."""


class GenerationRecovered(GenerationEvent):
    """The engine ended in mid-answer; a new one goes on after the last delivered token."""

    type: Literal["generation.recovered"] = "generation.recovered"
    at_token: int
    slot: int
    cached_tokens: int
    """Of prompt and answer together, what needn't be computed again."""


class GenerationFinished(GenerationEvent):
    """Exactly one for each generation, always its last event."""

    type: Literal["generation.finished"] = "generation.finished"
    finish_reason: FinishReason
    text: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    usage: Usage
    timings: Timings
    error: ErrorInfo | None = None


class ModelLoading(BaseEvent):
    type: Literal["model.loading"] = "model.loading"
    model: str
    progress: float
    """0 to 1."""


class ModelLoaded(BaseEvent):
    type: Literal["model.loaded"] = "model.loaded"
    model: str
    info: ModelInfo


class ModelUnloaded(BaseEvent):
    type: Literal["model.unloaded"] = "model.unloaded"
    model: str


class ModelFailed(BaseEvent):
    type: Literal["model.failed"] = "model.failed"
    model: str
    error: ErrorInfo


class EngineStarted(BaseEvent):
    """A worker process runs; its model isn't loaded yet."""

    type: Literal["engine.started"] = "engine.started"
    epoch: int
    """Counts worker starts in this app run, from 1."""
    pid: int


class EngineExited(BaseEvent):
    type: Literal["engine.exited"] = "engine.exited"
    epoch: int
    expected: bool
    """True when the app asked it to (a model switch, quitting)."""
    exit_code: int | None
    signal: str | None
    """E.g. `SIGKILL`, where a signal ended it."""
    log_tail: str
    will_restart: bool
    error: ErrorInfo | None = None
    """Why the app gives up, where it does: neither expected nor to be restarted."""


class EngineRestarting(BaseEvent):
    type: Literal["engine.restarting"] = "engine.restarting"
    attempt: int
    delay_s: float


class StepMetrics(BaseEvent):
    """One scheduler step, i.e. one `llama_decode`."""

    type: Literal["metrics.step"] = "metrics.step"
    batch_size: int
    """Generations in the batch."""
    prefill_tokens: int
    decode_tokens: int
    pre_ms: float
    """Scheduling and filling the batch."""
    decode_ms: float
    """`llama_decode` until its results can be read."""
    sample_ms: float
    emit_ms: float
    """Detokenizing, stop checks and building events: the previous step's, as this one's isn't over."""
    kv_used: int
    kv_total: int
    waiting: int
    draft_tokens: int = 0
    """Tokens in the batch that prompt lookup guessed."""
    accepted_tokens: int = 0
    """Of these, those that the model chose as well."""


class GpuMetrics(BaseModel):
    """One GPU; None where the driver doesn't tell."""

    model_config = ConfigDict(frozen=True)

    name: str
    load_percent: float | None
    memory_used: int | None
    memory_total: int | None
    temperature_c: float | None
    power_w: float | None


class SystemMetrics(BaseEvent):
    type: Literal["metrics.system"] = "metrics.system"
    cpu_percent: float
    """Of all cores together, 0 to 100."""
    app_cpu_percent: float
    """This app's process, 100 = one core."""
    worker_cpu_percent: float
    ram_used: int
    ram_total: int
    app_rss: int
    worker_rss: int
    gpus: list[GpuMetrics]


class ClientTraffic(BaseModel):
    """What one client is sent, and how far behind it is."""

    model_config = ConfigDict(frozen=True)

    client_id: str
    bytes_per_s: float
    events_per_s: float
    backlog_bytes: int
    """What waits for it."""
    behind: int
    """Events published since the last one that it was given."""
    merged: int
    """Events so far that it got joined with a later one, or replaced by one."""
    cuts: int
    """How often it was cut because it didn't read."""


class ClientMetrics(BaseEvent):
    """Traffic of the clients that were sent something; to the others goes nothing, and nothing waits."""

    type: Literal["metrics.clients"] = "metrics.clients"
    clients: list[ClientTraffic]


class CustomMetric(BaseEvent):
    """A client's own series on everybody's time axis."""

    type: Literal["metrics.custom"] = "metrics.custom"
    client_id: str
    series: str
    value: float
    unit: str = ""


class ClientConnected(BaseEvent):
    type: Literal["client.connected"] = "client.connected"
    client_id: str
    name: str
    origin: Origin


class ClientDisconnected(BaseEvent):
    type: Literal["client.disconnected"] = "client.disconnected"
    client_id: str
    name: str
    reason: str
    """`closed`, `lost` or `slow` (cut because it didn't read)."""


class ClientLagging(BaseEvent):
    type: Literal["client.lagging"] = "client.lagging"
    client_id: str
    backlog_bytes: int


class ConversationChanged(BaseEvent):
    type: Literal["conversation.created", "conversation.updated"]
    conversation: dict[str, Any]
    """As in `conversations.list`."""


class ConversationDeleted(BaseEvent):
    type: Literal["conversation.deleted"] = "conversation.deleted"
    conversation_id: str


class ConversationMessage(BaseEvent):
    """A message was added to a conversation, or its stored state changed."""

    type: Literal["conversation.message"] = "conversation.message"
    conversation_id: str
    message: dict[str, Any]
    """As in `conversations.get`."""


class SettingsChanged(BaseEvent):
    type: Literal["settings.changed"] = "settings.changed"
    settings: dict[str, Any]


class LogLine(BaseEvent):
    """Something that a person should know and that no other event says."""

    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"]
    message: str


Event = Annotated[
    GenerationQueued
    | GenerationStarted
    | PromptProgress
    | GenerationDelta
    | ReasoningDelta
    | ToolCallDelta
    | ToolCallDone
    | GenerationPaused
    | GenerationResumed
    | GenerationUpdated
    | GenerationRewound
    | GenerationForked
    | GenerationRecovered
    | GenerationFinished
    | ModelLoading
    | ModelLoaded
    | ModelUnloaded
    | ModelFailed
    | EngineStarted
    | EngineExited
    | EngineRestarting
    | StepMetrics
    | SystemMetrics
    | ClientMetrics
    | CustomMetric
    | ClientConnected
    | ClientDisconnected
    | ClientLagging
    | ConversationChanged
    | ConversationDeleted
    | ConversationMessage
    | SettingsChanged
    | LogLine,
    Field(discriminator="type"),
]

EventAdapter: TypeAdapter[Event] = TypeAdapter(Event)

TokenEvent = GenerationDelta | ReasoningDelta | ToolCallDelta
