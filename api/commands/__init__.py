"""The commands of the terminal; each module has `run(args) -> exit code`."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text without the characters that a model could steer a terminal with; newline and tab stay."""
    return _CONTROL.sub("", text)


def one_line(text: str, limit: int = 80) -> str:
    """The text on one line, cut with an ellipsis."""
    line = " ".join(plain(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def stats(finished: dict[str, Any]) -> str:
    """What a `generation.finished` event measured, for people."""
    usage, timings = finished["usage"], finished["timings"]
    parts = [f"{usage['completion_tokens']} tokens"]
    if timings.get("tokens_per_second") is not None:
        parts.append(f"{timings['tokens_per_second']:.1f} tokens/s")
    if timings.get("ttft_ms") is not None:
        parts.append(f"first token {timings['ttft_ms']:.0f} ms")
    parts.append(f"prompt {usage['prompt_tokens']} ({usage['cached_tokens']} cached)")
    reason = finished["finish_reason"]
    if reason not in ("stop", "error"):
        parts.append({"length": "token limit", "context_full": "context full"}.get(reason, reason))
    return " · ".join(parts)


def styled(stream: TextIO) -> bool:
    """Whether faint text may be written there: to a terminal that knows it, where NO_COLOR isn't set."""
    return (
        stream.isatty()
        and os.environ.get("TERM", "dumb") not in ("dumb", "")
        and not os.environ.get("NO_COLOR")
    )


def prepare_output() -> None:
    """Characters that the terminal's encoding doesn't have become `?` instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
