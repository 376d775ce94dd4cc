"""The answers of `/v1/chat/completions`, whole and as a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.openai import answers
from api.openai.calls import CallStream
from api.openai.transcript import Transcript
from engine.errors import ErrorInfo
from engine.events import (
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    ReasoningDelta,
)


def whole(head: dict[str, Any], transcripts: list[Transcript], logprobs: bool) -> dict[str, Any]:
    """The answer in one piece."""
    return {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": number,
                "message": _message(transcript.end),
                "logprobs": _logprobs(answers.token_logprobs(transcript.tokens)) if logprobs else None,
                "finish_reason": answers.finish_reason(transcript.end),
            }
            for number, transcript in enumerate(transcripts)
        ],
        "usage": answers.usage(
            [transcript.end for transcript in transcripts],
            sum(transcript.reasoning_tokens for transcript in transcripts),
        ),
        "timings": answers.timings(transcripts[0].end),
    }


def _message(finished: GenerationFinished) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": finished.text if finished.text or not finished.tool_calls else None,
        "refusal": None,
    }
    if finished.reasoning:
        message["reasoning_content"] = finished.reasoning
    if finished.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in finished.tool_calls
        ]
    return message


def _logprobs(content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": content, "refusal": None}


class Chunks:
    """Makes the chunks of one request's stream."""

    def __init__(self, head: dict[str, Any], n_choices: int, logprobs: bool, include_usage: bool) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._logprobs = logprobs
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        self._calls = [CallStream() for _ in range(n_choices)]

    def of(self, choice: int, event: GenerationEvent) -> Iterator[dict[str, Any]]:
        calls = self._calls[choice]
        for told in calls.take(event):
            yield self._chunk(choice, {"tool_calls": [told]})
        match event:
            case GenerationStarted():
                yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})
            case GenerationDelta() | ReasoningDelta() if calls.given_back:
                pass
            case GenerationDelta() if event.text or (self._logprobs and event.tokens):
                logprobs = _logprobs(answers.token_logprobs(event.tokens)) if self._logprobs else None
                yield self._chunk(choice, {"content": event.text}, logprobs=logprobs)
            case ReasoningDelta() if event.text:
                yield self._chunk(choice, {"reasoning_content": event.text})
            case GenerationFinished():
                chunk = self._chunk(choice, {}, reason=answers.finish_reason(event))
                yield {**chunk, "timings": answers.timings(event)}
            case _:
                pass

    def failure(self, choice: int, event: GenerationEvent) -> ErrorInfo | None:
        """Why the answer can't be told to its end, once `of` has taken the event."""
        if isinstance(event, GenerationFinished) and event.error is not None:
            return event.error
        return self._calls[choice].failure

    def usage(self, transcripts: list[Transcript]) -> dict[str, Any]:
        """The last chunk, where it is wanted."""
        told = answers.usage(
            [transcript.end for transcript in transcripts],
            sum(transcript.reasoning_tokens for transcript in transcripts),
        )
        return {**self._head, "choices": [], "usage": told, "timings": answers.timings(transcripts[0].end)}

    def _chunk(
        self, choice: int, delta: dict[str, Any], *, logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        told = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "choices": [told], **self._usage}
