"""What a worker tells the app alone, beside the events: answers to commands, and what recovery needs.

None of it is published. In a message each stands before the events that follow from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from engine.errors import ErrorInfo
from engine.events import Event
from engine.types import Value


class ControlDone(Value):
    """The one answer to a `commands.ControlCommand`: what it did, or why it couldn't."""

    type: Literal["reply.control"] = "reply.control"
    request_id: str
    result: dict[str, Any] = Field(default_factory=dict)
    """`at_token`: completion tokens delivered so far; for `inject` and `rewind` those still to be, too.

    For `rewind` also `removed`, for `update` `sampling`.
    """
    error: ErrorInfo | None = None


class PromptReady(Value):
    """The prompt of a generation that starts, for going on with it in another worker."""

    type: Literal["reply.prompt"] = "reply.prompt"
    generation_id: str
    prompt_tokens: list[int]
    reasoning_open: bool = False


class EmbedDone(Value):
    """The one answer to a `commands.Embed`."""

    type: Literal["reply.embed"] = "reply.embed"
    request_id: str
    embeddings: list[list[float]] = Field(default_factory=list)
    """One of `n_embd` numbers for each input, of length 1."""
    prompt_tokens: int = 0
    error: ErrorInfo | None = None


Reply = ControlDone | PromptReady | EmbedDone
Message = Annotated[Event | Annotated[Reply, Field(discriminator="type")], Field(discriminator="type")]
MessageListAdapter: TypeAdapter[list[Message]] = TypeAdapter(list[Message])
"""What the worker sends: replies and events of one step, as one JSON array."""
