"""Why a prompt parts from what the KV cache holds of an earlier generation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from engine.generation import Generation
from engine.types import ChatMessage, PrefixBreak


def prefix_break(before: Generation, now: Generation, at: int) -> PrefixBreak:
    """What is different in the conversation of `now`, whose token `at` isn't what `before` had there.

    `template` where the messages are the same: it writes an earlier message differently now, or the oldest
    messages had to be left out.
    """
    old, new = before.command, now.command
    if old.messages is None or new.messages is None:
        raw = old.messages is None and new.messages is None
        alike = raw and 2 * at >= min(before.n_prompt, now.n_prompt)
        return PrefixBreak(at=at, why="edited_message" if alike else "other_conversation")
    head = _head(old.messages)
    if head != _head(new.messages):
        return PrefixBreak(at=at, why="system_prompt")
    if old.tools != new.tools:
        return PrefixBreak(at=at, why="tools")
    edited = _first_difference(old.messages, new.messages)
    if edited is None and len(new.messages) > len(old.messages) and at >= before.n_prompt:
        answer = new.messages[len(old.messages)]
        if not _is_answer(answer, before):
            edited = len(old.messages)
    if edited is None:
        return PrefixBreak(at=at, why="template")
    if edited == len(head) and not any(message in new.messages for message in old.messages[edited + 1 :]):
        return PrefixBreak(at=at, why="other_conversation")  # they have no message in common
    return PrefixBreak(at=at, why="edited_message", message=edited)


def _head(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The system messages that a conversation begins with."""
    return list(takewhile(lambda message: message.role == "system", messages))


def _first_difference(old: Sequence[ChatMessage], new: Sequence[ChatMessage]) -> int | None:
    """None where all messages of one are what the other begins with."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)


def _is_answer(message: ChatMessage, generation: Generation) -> bool:
    """Whether a message says what the generation has said; a template may strip white space."""
    output = generation.output
    calls = [(call.name, call.arguments) for call in output.tool_calls]
    return (
        message.role == "assistant"
        and (message.content or "").strip() == output.text.strip()
        and [(call.name, call.arguments) for call in message.tool_calls or []] == calls
    )
