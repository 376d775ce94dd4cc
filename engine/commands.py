"""What the app tells a worker. One worker loads one model, so there is no load command."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from engine.types import ChatMessage, Origin, SamplingParams, Tool, Value


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
    prompt: str | None = None
    """Tokenized as it is; special tokens in it are recognized."""
    trim: bool = False
    """Leave out the oldest turns of `messages` where they don't fit, instead of failing."""
    tools: list[Tool] = Field(default_factory=list)
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: list[str] = Field(default_factory=list)
    logprobs: int | None = None
    """None: no log-probabilities; n: that of each token and its n likeliest alternatives."""


class Cancel(Value):
    """End a generation within one step, in whatever state it is. Unknown ids are ignored."""

    type: Literal["cancel"] = "cancel"
    generation_id: str


class Shutdown(Value):
    """Leave now; what runs is cut."""

    type: Literal["shutdown"] = "shutdown"


WorkerCommand = Annotated[Generate | Cancel | Shutdown, Field(discriminator="type")]
WorkerCommandAdapter: TypeAdapter[WorkerCommand] = TypeAdapter(WorkerCommand)
