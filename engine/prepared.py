"""A generation as the core takes it on."""

from __future__ import annotations

from dataclasses import dataclass

from engine.commands import Generate
from engine.formats import Format


@dataclass(slots=True, frozen=True)
class Prepared:
    """A generation whose prompt has been rendered and tokenized."""

    command: Generate
    prompt_tokens: list[int]
    trimmed_messages: int = 0
    grammar: str | None = None
    """GBNF that the answer obeys, checked."""
    format: Format | None = None
    """How the model writes reasoning and tool calls; None: plain text, and calls in Hermes's form."""
    reasoning_open: bool = False
    """The prompt ends inside a reasoning block."""
