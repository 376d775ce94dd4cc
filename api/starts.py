"""How a generation begins, whichever command starts it: `generate`, `fork` or `tool_result`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from api.clients import Client
from engine.events import GenerationQueued
from engine.types import ChatMessage

MAX_INPUT_SHOWN = 2000
"""Characters."""


def new_generation_id() -> str:
    return f"gen_{secrets.token_hex(8)}"


def queued(
    client: Client,
    generation_id: str,
    received_t: float,
    *,
    model: str,
    shown: str,
    place: Mapping[str, Any],
    continues: str | None = None,
) -> GenerationQueued:
    """What everybody is told. `place`: where a conversation keeps the answer, as the reply tells it."""
    return GenerationQueued(
        t=received_t,
        generation_id=generation_id,
        client_id=client.client_id,
        client_name=client.name,
        origin=client.origin,
        model=model,
        conversation_id=place.get("conversation_id"),
        message_id=place.get("message_id"),
        input=shown,
        continues=continues,
    )


def shown_input(messages: Sequence[ChatMessage] | None, prompt: str | list[int] | None) -> str:
    """What `generation.queued` shows of the question: the last user message, or the prompt."""
    text = prompt if isinstance(prompt, str) else f"{len(prompt)} tokens" if prompt else ""
    for message in messages or ():
        if message.role == "user":
            text = message.content or ""
    return text[:MAX_INPUT_SHOWN]
