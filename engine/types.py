"""Values shared by commands and events: sampling, messages, tokens, usage, timings, models.

Times are seconds or milliseconds of the system's monotonic clock, as each name says;
sizes are bytes; counts are tokens.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

FinishReason = Literal["stop", "length", "context_full", "tool_calls", "cancelled", "error"]
"""Why a generation ended: end-of-generation token or stop string; `max_tokens`; context used up; …"""

Origin = Literal[
    "window", "live", "cli", "responses", "chat_completions", "completions", "embeddings", "bench"
]
"""Through which door a generation was asked for."""


class Value(BaseModel):
    """Base of immutable values that ignore fields they don't know."""

    model_config = ConfigDict(frozen=True)


class Argument(BaseModel):
    """Base of immutable values that a client sends: unknown fields and loose types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_PLAIN_NUMBER = re.compile("0|[1-9][0-9]{0,9}")


def _token_id(key: object) -> object:
    """JSON has its keys as texts; only a plain number is an id."""
    if isinstance(key, str) and not _PLAIN_NUMBER.fullmatch(key):
        raise PydanticCustomError("int_parsing", "not a whole number")
    return int(key) if isinstance(key, str) else key


TokenKey = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_token_id)]


class SamplingParams(Argument):
    """How the next token is chosen. Names, order and neutral values are llama.cpp's."""

    temperature: float = Field(0.7, ge=0, le=10, allow_inf_nan=False)
    """0 picks the likeliest token (greedy)."""
    top_k: int = Field(40, ge=0, le=1_000_000)
    """Keep the k likeliest tokens; 0 is off."""
    top_p: float = Field(0.95, ge=0, le=1, allow_inf_nan=False)
    min_p: float = Field(0.05, ge=0, le=1, allow_inf_nan=False)
    repeat_penalty: float = Field(1.0, gt=0, le=10, allow_inf_nan=False)
    """1 is off; applies to the last 64 tokens, as do the two below."""
    presence_penalty: float = Field(0.0, ge=-10, le=10, allow_inf_nan=False)
    frequency_penalty: float = Field(0.0, ge=-10, le=10, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**32)
    """None: a random one, told in `generation.started`."""
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-1000, le=1000)]] = {}
    """Token id to a number added to its logit."""


class ToolCall(Value):
    """A call that the model asks for. `arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


class OpenCall(Value):
    """What has been told of a call that the model is still writing."""

    id: str
    name: str | None
    """None: not known yet."""
    text: str
    """As the model writes it."""
    arguments: str
    """The beginning of their JSON text."""


class ChatMessage(Argument):
    """One message of a conversation, as the chat template sees it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    reasoning: str | None = None
    """What an assistant thought before it answered."""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionSpec(Argument):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = {}
    """JSON Schema of the arguments."""


class Tool(Argument):
    """A function that the model may call, in OpenAI's chat form."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Argument):
    name: str = Field(min_length=1, max_length=64)


class NamedToolChoice(Argument):
    """The model must call this function."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice
"""`required`: the answer is one call or several of any of the tools."""


class JsonSchemaSpec(Argument):
    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field("answer", max_length=64)
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    """Taken and not needed: every schema is enforced, and what can't be is refused."""


class ResponseFormat(Argument):
    """What the answer must be, in OpenAI's chat form."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None


class TopToken(TypedDict):
    """One alternative for a token."""

    id: int
    text: str
    logprob: float


class Token(TypedDict):
    """One completion token as delivered. A plain dict, since every step makes some."""

    id: int
    index: int
    """From 0 over all completion tokens of the generation."""
    text: str
    """May be empty: bytes of an unfinished character come with the token that completes it."""
    t: float
    """When it was sampled (monotonic seconds)."""
    logprob: NotRequired[float]
    """Natural logarithm of the probability before temperature and filters."""
    top: NotRequired[list[TopToken]]
    injected: NotRequired[bool]


class Usage(Value):
    """Tokens of one generation."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens taken over from the KV cache instead of being computed."""
    completion_tokens: int
    draft_tokens: int = 0
    """Tokens guessed by prompt lookup."""
    accepted_tokens: int = 0
    """Of these, those that the model chose as well."""


BreakReason = Literal["system_prompt", "tools", "edited_message", "template", "other_conversation"]
"""Why a prompt parts from what a slot holds: which part of it isn't as it was."""


class PrefixBreak(Value):
    """Where and why a prompt stopped matching what the best slot had in its KV cache."""

    at: int
    """Index of the first prompt token that differs."""
    why: BreakReason
    message: int | None = None
    """For `edited_message`: index of the first message that differs."""


class Timings(Value):
    """Where the time of one generation went; milliseconds but for the rate. None: not reached.

    Tokens are the sampled ones; injected ones don't count.
    """

    queue_ms: float | None = None
    """From the command's receipt until a slot took it."""
    prefill_ms: float | None = None
    """From the slot's taking it until its last prompt token was computed."""
    ttft_ms: float | None = None
    """Time to first token, from the command's receipt."""
    decode_ms: float | None = None
    """From the first token to the last."""
    tokens_per_second: float | None = None
    """(n - 1) / time from first to last token."""
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None


class ModelInfo(Value):
    """What is known of a loaded model."""

    id: str
    name: str
    architecture: str
    size_bytes: int
    n_params: int
    n_vocab: int
    n_ctx_train: int
    n_ctx: int
    """Tokens per slot."""
    n_slots: int
    n_threads: int
    n_gpu_layers: int
    devices: list[str]
    has_chat_template: bool
    load_ms: float
    n_kv: int = 0
    """Cells of the KV cache, of all slots together."""
    kv_unified: bool = True
    """The slots share all cells; else each has its own part, which is faster where several are filled."""
    n_batch: int = 0
    """Token budget of one step."""
    n_ubatch: int = 0
    """Tokens computed at once within a step."""
    n_threads_batch: int = 0
    """Threads for prompts; `n_threads` are those for single tokens."""
    tensor_split: list[float] = []
    """Share of the offloaded layers on each GPU, where there are several."""
    buffers: dict[str, int] = {}
    """Bytes that llama.cpp allocated, by device and kind: `CPU KV`, `CUDA0 compute` …"""
    recurrent: bool = False
    """Has a state instead of (or beside) a KV cache: prefixes can't be cut."""
    embedding: bool = False
    """Gives embeddings and generates nothing."""
    n_embd: int = 0
    """Length of an embedding."""
    format: str | None = None
    """How the model writes reasoning and tool calls: a named format, or `learned` from its template."""
    tools: bool = False
    """The chat template takes tools, and calls in answers are understood."""
    reasoning: bool = False
    """Answers may have a reasoning part that is told apart."""


Kind = Literal["cpu", "gpu"]
"""Of a device that holds weights and caches."""


class Correction(Value):
    """What loads on this machine taught, by kind of device."""

    compute: dict[Kind, float] = Field(default_factory=dict)
    """Measured over estimated compute buffers."""
    overhead: dict[Kind, int] = Field(default_factory=dict)
    """Bytes."""


class Plan(Value):
    """What the app worked out for a load that leaves the number of GPU layers open."""

    gpus: dict[str, int] = Field(default_factory=dict)
    """The GPUs that it is made for, in llama.cpp's order, with their memory (bytes)."""
    n_gpu_layers: int = -1
    """-1: left to the worker, since the GPUs or the model's needs aren't known to the app."""
    tensor_split: list[float] = Field(default_factory=list)
    correction: Correction = Field(default_factory=Correction)
    """For a worker that has to plan itself."""
    at_most: int | None = None
    """More layers than these were seen not to fit."""


class WorkerConfig(Value):
    """Everything a worker needs to know at its start."""

    model_id: str
    model_path: str
    """A GGUF file, or `fake:…` for the fake backend (`engine.fakespec`)."""
    n_slots: int = Field(4, ge=1, le=64)
    n_ctx: int = Field(0, ge=0)
    """Tokens per slot; 0: what the model was trained for, at most 4096."""
    n_batch: int = Field(512, ge=1)
    """Token budget of one step."""
    n_ubatch: int = Field(0, ge=0)
    """Tokens computed at once within a step; 0: chosen for the model."""
    n_kv: int = Field(0, ge=0)
    """Cells of the KV cache, shared by all slots; 0: a part for each slot that holds its full length."""
    n_threads: int = Field(0, ge=0)
    """0: the machine's cores less one for the window."""
    n_threads_batch: int = Field(0, ge=0)
    """For prompts; 0: as `n_threads`."""
    chat_template: str | None = None
    """Jinja source that stands in for the model's own."""
    n_gpu_layers: int = -1
    """-1: all that the GPU takes, none where there is no GPU."""
    tensor_split: list[float] = Field(default_factory=list)
    """Share of the model on each GPU, where there are several; empty: by free memory."""
    plan: Plan = Field(default_factory=Plan)
    """For `n_gpu_layers` of -1. Made anew for each worker."""
    queue_limit: int = Field(256, ge=1)
    """Waiting generations beyond the slots; more are answered `busy`."""


class Resume(Value):
    """Where a generation goes on that another worker, or another generation, has begun."""

    kind: Literal["recovered", "forked"]
    prompt_tokens: list[int]
    """Taken as they are, instead of rendering and tokenizing again; none where nobody was told them yet."""
    tokens: list[int] = Field(default_factory=list)
    """Completion tokens so far."""
    untold: int = 0
    """How many of them, the last ones, haven't been delivered yet."""
    injected: list[int] = Field(default_factory=list)
    """Indices of those among them that weren't sampled."""
    times: list[float] = Field(default_factory=list)
    """When each was sampled (monotonic seconds)."""
    n_drawn: int = 0
    """How often the sampler has drawn, tokens included that were rewound."""
    seed: int
    cached_tokens: int = 0
    started_t: float | None = None
    computed_t: float | None = None
    trimmed_messages: int = 0
    reasoning_open: bool = False
    """The prompt ends inside a reasoning block."""
    paused: bool = False
    draft_tokens: int = 0
    accepted_tokens: int = 0
