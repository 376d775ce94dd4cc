"""What the app tells a worker. One worker loads one model, so there is no load command."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from engine.types import ChatMessage, Origin, ResponseFormat, Resume, SamplingParams, Tool, ToolChoice, Value

MAX_PROMPT_LOOKUP = 16
"""Tokens guessed in one step of a generation at most: each one's logits take memory."""


class Generate(Value):
    """Start a generation. Exactly one of `messages` and `prompt` is given."""

    type: Literal["generate"] = "generate"
    generation_id: str
    received_t: float
    """When the client's command came in (monotonic seconds); `queue_ms` and `ttft_ms` count from here."""
    client_id: str
    origin: Origin
    messages: list[ChatMessage] | None = None
    """Rendered with the model's chat template."""
    prompt: str | list[int] | None = None
    """Tokenized as it is; special tokens in it are recognized. Token ids are taken as they are."""
    trim: bool = False
    """Leave out the oldest turns of `messages` where they don't fit, instead of failing."""
    tools: list[Tool] = Field(default_factory=list)
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: list[str] = Field(default_factory=list)
    logprobs: int | None = None
    """None: no log-probabilities; n: that of each token and its n likeliest alternatives."""
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """False: the answer ends with its first call."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables for the chat template, e.g. `enable_thinking`."""
    response_format: ResponseFormat | None = None
    grammar: str | None = None
    """GBNF that the answer must obey. At most one of grammar, response format and a forced tool is given."""
    prompt_lookup_num_tokens: int = Field(0, ge=0, le=MAX_PROMPT_LOOKUP)
    """Speculative decoding: at most so many tokens are guessed each step from n-grams of what stands already
    in prompt and answer; 0: off. It changes the speed and never the text.
    """
    paused: bool = False
    """Hold it before its first token; nobody is told."""
    resume: Resume | None = None
    """Go on from here; where it has the prompt's tokens, the rest only says what it was about."""


class Cancel(Value):
    """End a generation within one step, in whatever state it is. Unknown ids are ignored."""

    type: Literal["cancel"] = "cancel"
    generation_id: str


class ControlCommand(Value):
    """Base of what is done to one generation and answered by one `replies.ControlDone`."""

    request_id: str
    generation_id: str


class Pause(ControlCommand):
    """Hold before the next token, wherever it is: waiting, in its prompt or in its answer.

    Done twice it changes nothing.
    """

    type: Literal["pause"] = "pause"


class Continue(ControlCommand):
    """Go on after a pause. Done to one that isn't paused it changes nothing."""

    type: Literal["resume"] = "resume"


class StepTokens(ControlCommand):
    """Let a paused generation write `tokens` tokens and pause again; `bad_state` where it isn't paused."""

    type: Literal["step"] = "step"
    tokens: int = Field(1, ge=1)


class Update(ControlCommand):
    """Change sampling parameters from the next token on; those left out stay."""

    type: Literal["update"] = "update"
    sampling: dict[str, Any]


class Rewind(ControlCommand):
    """Remove the last `tokens` completion tokens; more than there are is `invalid_argument`."""

    type: Literal["rewind"] = "rewind"
    tokens: int = Field(ge=1)


class Inject(ControlCommand):
    """Put text into the answer as though the model had written it; tokenized without special tokens."""

    type: Literal["inject"] = "inject"
    text: str


class Fork(ControlCommand):
    """Start a branch with the completion tokens [0, at_token) and, if given, `token_id` as the next.

    The source goes on. The branch has a seed of its own.
    """

    type: Literal["fork"] = "fork"
    branch_id: str
    client_id: str
    origin: Origin
    received_t: float
    at_token: int = Field(ge=0)
    token_id: int | None = None


class Embed(Value):
    """Embeddings of texts, answered by one `replies.EmbedDone`."""

    type: Literal["embed"] = "embed"
    request_id: str
    inputs: list[str | list[int]]
    """Texts, or token ids taken as they are."""


class Shutdown(Value):
    """Leave now; what runs is cut."""

    type: Literal["shutdown"] = "shutdown"


Control = Pause | Continue | StepTokens | Update | Rewind | Inject | Fork
WorkerCommand = Annotated[
    Generate | Cancel | Pause | Continue | StepTokens | Update | Rewind | Inject | Fork | Embed | Shutdown,
    Field(discriminator="type"),
]
WorkerCommandAdapter: TypeAdapter[WorkerCommand] = TypeAdapter(WorkerCommand)
