"""How models write reasoning and tool calls, and the parser that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """What a chat template's model writes around reasoning and calls."""

    name: str
    """A named format, or `learned`."""
