"""The parts that answers have in common: usage, timings, log-probabilities, reasons, frames of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from engine.events import GenerationFinished
from engine.types import FinishReason, Timings, Token

DONE = b"data: [DONE]\n\n"
_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "length": "length",
    "context_full": "length",
    # somebody else stopped it: the answer isn't whole, and `length` is what says so here
    "cancelled": "length",
    "error": "stop",  # told as an error instead
}


def finish_reason(finished: GenerationFinished) -> str:
    return _REASONS[finished.finish_reason]


def usage(
    finished: Iterable[GenerationFinished], reasoning_tokens: int, n_prompts: int = 1
) -> dict[str, Any]:
    """Of all choices together; each prompt is counted once, however many answers it got."""
    each = [event.usage for event in finished]
    per_prompt = max(1, len(each) // n_prompts)
    prompts = each[::per_prompt]
    prompt = sum(one.prompt_tokens for one in prompts)
    completion = sum(one.completion_tokens for one in each)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in prompts)},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def timings(finished: GenerationFinished) -> dict[str, Any]:
    """As llama.cpp's server tells them."""
    used, took = finished.usage, finished.timings
    prompt_n = used.prompt_tokens - used.cached_tokens
    told: dict[str, Any] = {"cache_n": used.cached_tokens}
    told |= _phase("prompt", prompt_n, took.prefill_ms)
    told |= _phase("predicted", used.completion_tokens, _decode_ms(took))
    if used.draft_tokens:
        told |= {"draft_n": used.draft_tokens, "draft_n_accepted": used.accepted_tokens}
    return told


def _decode_ms(took: Timings) -> float | None:
    """From the end of the prompt on; ours counts from the first token."""
    if took.decode_ms is None or took.ttft_ms is None or took.queue_ms is None:
        return took.decode_ms
    first = took.ttft_ms - took.queue_ms - (took.prefill_ms or 0.0)
    return took.decode_ms + max(0.0, first)


def _phase(name: str, n: int, ms: float | None) -> dict[str, Any]:
    ms = ms or 0.0
    return {
        f"{name}_n": n,
        f"{name}_ms": round(ms, 3),
        f"{name}_per_token_ms": round(ms / n, 3) if n else 0.0,
        f"{name}_per_second": round(1000 * n / ms, 3) if ms else 0.0,
    }


def token_logprobs(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """In the form of chat completions."""
    return [
        {
            **_logprob(token["text"], token["logprob"]),
            "top_logprobs": [_logprob(other["text"], other["logprob"]) for other in token.get("top", ())],
        }
        for token in tokens
        if "logprob" in token
    ]


def _logprob(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def old_logprobs(tokens: Iterable[Token], offset: int) -> dict[str, Any]:
    """In the form of completions; `offset` is where the first token's text begins in the answer."""
    told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if "logprob" in token:
            told["tokens"].append(token["text"])
            told["token_logprobs"].append(token["logprob"])
            told["top_logprobs"].append({other["text"]: other["logprob"] for other in token.get("top", ())})
            told["text_offset"].append(offset)
        offset += len(token["text"])
    return told


def sse(data: dict[str, Any]) -> bytes:
    """One event of a stream."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"
