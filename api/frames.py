"""What the server sends beside events: `hello`, `reset`, `snapshot`, `reply`, and each command's result.

These are the contract's types (`api.schema`) and what `LiveClient.typed_events` gives. The server builds
the same frames as plain dicts; tests hold real traffic against these models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from api.exchange import Archive
from api.permissions import Permission
from api.settings import Settings
from engine.errors import ErrorInfo
from engine.events import StepMetrics, SystemMetrics
from engine.fit import Estimate
from engine.types import (
    FinishReason,
    ModelInfo,
    OpenCall,
    Origin,
    SamplingParams,
    Timings,
    ToolCall,
    Usage,
    Value,
)

# ---- the state


class EngineState(Value):
    state: Literal["stopped", "loading", "ready", "restarting", "failed"]
    epoch: int
    pid: int | None
    error: ErrorInfo | None


class LoadingState(Value):
    model: str
    progress: float
    """0 to 1."""


class GenerationState(Value):
    """A generation that isn't finished, with all that it has given so far. Times: monotonic seconds."""

    generation_id: str
    client_id: str
    client_name: str
    origin: Origin
    model: str
    conversation_id: str | None
    message_id: str | None
    input: str
    continues: str | None
    state: Literal["queued", "running", "paused"]
    queued_t: float
    started_t: float | None
    first_token_t: float | None
    last_token_t: float | None
    prompt_done: int
    prompt_total: int
    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    open_call: OpenCall | None
    """What has come of a call that isn't whole yet."""
    completion_tokens: int
    sampling: SamplingParams | None
    """All parameters, where an `update` has changed some."""
    recovered: int
    """How often another worker went on with it."""
    prompt_tokens: int = 0
    """This and what follows: once it has started."""
    cached_tokens: int = 0
    slot: int | None = None
    seed: int = 0
    trimmed_messages: int = 0


class ClientState(Value):
    client_id: str
    name: str
    origin: Origin
    bytes_per_s: float
    """This and what follows: as the last `metrics.clients` told."""
    events_per_s: float
    backlog_bytes: int
    behind: int
    merged: int
    cuts: int


class LatestMetrics(Value):
    step: StepMetrics | None
    system: SystemMetrics | None


class StateSnapshot(Value):
    """The present state."""

    seq: int
    """The last event that is in it."""
    engine: EngineState
    model: ModelInfo | None
    loading: LoadingState | None
    generations: list[GenerationState]
    clients: list[ClientState]
    metrics: LatestMetrics


# ---- frames


class AppInfo(Value):
    name: str
    version: str
    pid: int


class Hello(Value):
    """The first frame of every connection."""

    type: Literal["hello"]
    protocol: Literal[1]
    app: AppInfo
    client_id: str
    run_id: str
    """Random for each run of the app."""
    epoch: int
    """Worker starts so far."""
    seq: int
    """Number of the last event."""
    last_cut: Literal["slow"] | None
    """Why this client's last connection was cut; told once."""
    permissions: list[Permission]
    """What its token lets it do."""


class Reset(Value):
    """Events that were asked for can't be given; a snapshot follows."""

    type: Literal["reset"]
    seq: int
    reason: Literal["run", "ahead", "too_old", "overrun"]


class SnapshotFrame(StateSnapshot):
    """The state after a reset."""

    type: Literal["snapshot"]


class Failure(Value):
    """A command that wasn't carried out."""

    type: Literal["reply"]
    id: Any
    ok: Literal[False]
    error: ErrorInfo


# ---- values of results


class LibraryEntry(Value):
    """A model of the library. Where `error` says why it can't be loaded, the facts are null."""

    id: str
    name: str
    path: str
    size_bytes: int | None
    architecture: str | None
    n_params: int | None
    n_ctx_train: int | None
    quantization: str | None
    has_chat_template: bool | None
    template_file: str | None
    """A chat template in place of its own."""
    source: Literal["starter", "folder", "added"]
    error: ErrorInfo | str | None


class Conversation(Value):
    """Times: Unix seconds."""

    id: str
    title: str
    created: float
    updated: float
    model: str | None
    system: str | None
    leaf: str | None
    """Last message of the branch shown."""
    message_count: int


class Message(Value):
    id: str
    conversation_id: str
    parent_id: str | None
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning: str | None
    tool_calls: list[ToolCall] | None
    tool_call_id: str | None
    """Of a `tool` message: whose result it is."""
    status: Literal["complete", "streaming", "interrupted", "cancelled", "error"]
    model: str | None
    origin: Origin | None
    generation_id: str | None
    finish_reason: FinishReason | None
    usage: Usage | None
    timings: Timings | None
    error: ErrorInfo | None
    created: float


class ShownMessage(Message):
    """A message of the branch shown, and its place among its variants."""

    variants: list[str]
    variant: int


class Match(Value):
    message_id: str
    snippet: str


class Found(Conversation):
    match: Match | None
    """None where only the title matches."""


# ---- results, by command


class Nothing(Value):
    pass


class Started(Value):
    generation_id: str
    conversation_id: str | None = None
    """This and what follows: where a conversation keeps it."""
    user_message_id: str | None = None
    message_id: str | None = None


class ResultTaken(Value):
    pending: list[str]
    """Calls of that generation whose results are missing."""
    generation_id: str | None = None
    """This and what follows: with the last result, of the generation that goes on from it."""
    conversation_id: str | None = None
    message_id: str | None = None


class Cancelled(Value):
    state: Literal["cancelling", "finished"]


class Place(Value):
    at_token: int
    """Completion tokens so far."""


class Updated(Place):
    sampling: SamplingParams
    """All parameters as they are now."""


class Rewound(Place):
    removed: int


class Forked(Place):
    generation_id: str
    conversation_id: str | None = None
    message_id: str | None = None


class Embedded(Value):
    model: str | None
    embeddings: list[list[float]]
    prompt_tokens: int


class Position(Value):
    seq: int


class Pong(Value):
    t: float
    seq: int


class Models(Value):
    models: list[LibraryEntry]
    loaded: str | None


class LoadBegun(Value):
    model: str
    state: str


class Unloaded(Value):
    model: str | None


class Estimated(Estimate):
    model: str


class Added(Value):
    model: LibraryEntry


class Conversations(Value):
    conversations: list[Conversation]


class ShownConversation(Value):
    conversation: Conversation
    messages: list[ShownMessage]


class ChangedConversation(Value):
    conversation: Conversation


class Exported(Value):
    data: Archive | None = None
    """The file's contents, for `json`."""
    markdown: str | None = None
    """For `markdown`."""


class Imported(Value):
    conversations: list[Conversation]
    """As they are now, in the file's order."""


class Search(Value):
    results: list[Found]


class CurrentSettings(Value):
    settings: Settings


class Published(Value):
    t: float
    """Where it stands on the time axis."""


RESULTS: dict[str, type[BaseModel]] = {
    "generate": Started,
    "cancel": Cancelled,
    "pause": Place,
    "resume": Place,
    "step": Place,
    "update": Updated,
    "rewind": Rewound,
    "inject": Place,
    "fork": Forked,
    "tool_result": ResultTaken,
    "embed": Embedded,
    "subscribe": Position,
    "unsubscribe": Position,
    "snapshot": StateSnapshot,
    "ping": Pong,
    "publish": Published,
    "models.list": Models,
    "models.load": LoadBegun,
    "models.unload": Unloaded,
    "models.estimate": Estimated,
    "models.add": Added,
    "conversations.list": Conversations,
    "conversations.get": ShownConversation,
    "conversations.create": ChangedConversation,
    "conversations.export": Exported,
    "conversations.import": Imported,
    "conversations.rename": ChangedConversation,
    "conversations.delete": Nothing,
    "conversations.restore": ChangedConversation,
    "conversations.search": Search,
    "settings.get": CurrentSettings,
    "settings.set": CurrentSettings,
    "window.raise": Nothing,
}
