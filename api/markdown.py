"""A conversation's shown branch as Markdown, to read and to print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.errors import TokenglassError

MAX_CHARS = 16 << 20


def markdown(conversation: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    """Title, system prompt, then each message below its author.

    Raises TokenglassError `invalid_argument` for one that is too long for a reply.
    """
    parts = [f"# {_line(conversation['title'] or 'Conversation')}"]
    begun = f"{datetime.fromtimestamp(conversation['created'], UTC):%Y-%m-%d %H:%M} UTC"
    parts.append(f"*{' · '.join(filter(None, (conversation['model'], begun)))}*")
    if conversation["system"]:
        parts += ["## System", conversation["system"].strip()]
    for message in messages:
        parts += _message(message)
    text = "\n\n".join(filter(None, parts)) + "\n"
    if len(text) > MAX_CHARS:
        raise TokenglassError(
            "invalid_argument",
            f"this conversation is longer than {MAX_CHARS >> 20} MiB",
            path="conversation_id",
        )
    return text


def _message(message: Mapping[str, Any]) -> list[str]:
    role, content = message["role"], message["content"].strip()
    if role == "tool":
        return ["## Result", _fenced(content)]
    who = {"user": "User", "system": "System"}.get(role, message["model"] or "Assistant")
    parts = [f"## {_line(who)}"]
    if message["reasoning"]:
        quoted = "\n".join(f"> {line}".rstrip() for line in message["reasoning"].strip().splitlines())
        parts.append(quoted)
    parts.append(content)
    for call in message["tool_calls"] or ():
        parts += [f"Calls `{_line(call['name'])}`:", _fenced(call["arguments"].strip(), "json")]
    if message["status"] != "complete":
        parts.append(f"*{message['status']}*")
    return parts


def _line(text: str) -> str:
    return " ".join(text.split())


def _fenced(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
