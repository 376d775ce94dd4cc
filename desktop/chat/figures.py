"""The figures under an answer, as text and as the parts of its ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace

from desktop.chat.model import Turn


def count(number: int) -> str:
    return f"{number:,}"


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    if value < 10:
        return f"{value:.1f} ms"
    return f"{count(round(value))} ms"


def line(turn: Turn) -> str:
    """One line of what was measured; what wasn't is left out."""
    parts = []
    if turn.timings:
        if turn.timings.tokens_per_second is not None:
            rate = turn.timings.tokens_per_second
            parts.append(f"{rate:,.{0 if rate >= 100 else 1}f} tok/s")
        if turn.timings.ttft_ms is not None:
            parts.append(f"first token {milliseconds(turn.timings.ttft_ms)}")
    if turn.usage:
        parts.append(
            f"{count(turn.usage.completion_tokens)} token{'s' * (turn.usage.completion_tokens != 1)}"
        )
    if turn.usage and turn.timings and turn.timings.queue_ms is not None:  # else no slot has read the prompt
        new = turn.usage.prompt_tokens - turn.usage.cached_tokens
        parts.append(f"prompt {count(new)} new")
        if turn.usage.cached_tokens:
            parts.append(f"{count(turn.usage.cached_tokens)} cached")
    return " · ".join(parts)


@dataclass(frozen=True, slots=True)
class Share:
    """One part of an answer's time."""

    name: str
    ms: float
    colour: str
    """Which colour of the theme."""


def ledger(turn: Turn) -> list[Share]:
    """Where the time went, as far as it was measured."""
    timings = turn.timings
    if timings is None:
        return []
    parts = (
        ("queue", timings.queue_ms, "muted"),
        ("prefill", timings.prefill_ms, "tool"),
        ("decode", timings.decode_ms, "accent"),
    )
    return [Share(name, ms, colour) for name, ms, colour in parts if ms]


def explanation(turn: Turn) -> str:
    """The figures in full, for the tooltip."""
    lines = [f"{share.name}: {milliseconds(share.ms)}" for share in ledger(turn)]
    timings, usage = turn.timings, turn.usage
    if timings and timings.itl_p50_ms is not None and timings.itl_p99_ms is not None:
        median, p99 = milliseconds(timings.itl_p50_ms), milliseconds(timings.itl_p99_ms)
        lines.append(f"between tokens: {median} median, {p99} p99")
    if usage:
        lines.append(
            f"prompt: {count(usage.prompt_tokens)} tokens, {count(usage.cached_tokens)} from the KV cache"
        )
    return "\n".join(lines)


def progress(turn: Turn, waiting: str = "") -> str:
    """What a generation does before its first token; `waiting`: what keeps the engine from taking it."""
    if turn.phase == "queued":
        return waiting or "waiting for a slot"
    if turn.phase == "prompt":
        if turn.done < turn.total:
            return f"reading prompt {count(turn.done)} / {count(turn.total)}"
        return "reading prompt"
    return ""


def widest_progress(turn: Turn) -> str:
    """What `progress` says at its longest, so that what stands beside it doesn't move."""
    return progress(replace(turn, done=turn.total - 1)) if turn.total else progress(turn)


def notes(turn: Turn) -> list[tuple[str, str]]:
    """Remarks below an answer: text, and which colour of the theme."""
    found: list[tuple[str, str]] = []
    if turn.trimmed:
        plural = "messages were" if turn.trimmed != 1 else "message was"
        found.append((f"The oldest {count(turn.trimmed)} {plural} left out to fit the context.", "muted"))
    if turn.status == "error":
        message = turn.error.message if turn.error else "The generation failed."
        found.append((_sentence(message), "error"))
        if turn.error and turn.error.hint:
            found.append((_sentence(turn.error.hint), "muted"))
    elif turn.status == "cancelled":
        found.append(("Stopped.", "muted"))
    elif turn.status == "interrupted":
        found.append(("Interrupted: the app ended while this was being written.", "warn"))
    elif turn.finish_reason == "length":
        found.append(("Ended at the limit of tokens.", "muted"))
    elif turn.finish_reason == "context_full":
        found.append(("The context is full.", "warn"))
    return found


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
