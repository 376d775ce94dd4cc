"""The answers of `/v1/completions`, whole and as a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.openai import answers
from api.openai.transcript import Transcript
from engine.errors import ErrorInfo
from engine.events import GenerationDelta, GenerationEvent, GenerationFinished, GenerationStarted


def whole(
    head: dict[str, Any], transcripts: list[Transcript], logprobs: bool, echoes: list[str], n_prompts: int
) -> dict[str, Any]:
    """The answer in one piece; `echoes` has what stands before each choice's text."""
    return {
        **head,
        "object": "text_completion",
        "choices": [
            {
                "index": number,
                "text": echoes[number] + transcript.end.text,
                "logprobs": answers.old_logprobs(transcript.tokens, len(echoes[number]))
                if logprobs
                else None,
                "finish_reason": answers.finish_reason(transcript.end),
            }
            for number, transcript in enumerate(transcripts)
        ],
        "usage": _usage(transcripts, n_prompts),
        "timings": answers.timings(transcripts[0].end),
    }


def _usage(transcripts: list[Transcript], n_prompts: int) -> dict[str, Any]:
    return answers.usage(
        [transcript.end for transcript in transcripts],
        sum(transcript.reasoning_tokens for transcript in transcripts),
        n_prompts,
    )


class Chunks:
    """Makes the chunks of one request's stream."""

    def __init__(
        self, head: dict[str, Any], echoes: list[str], logprobs: bool, include_usage: bool, n_prompts: int
    ) -> None:
        self._head = {**head, "object": "text_completion"}
        self._echoes = echoes
        self._logprobs = logprobs
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        self._n_prompts = n_prompts
        self._offsets = [len(echo) for echo in echoes]

    def of(self, choice: int, event: GenerationEvent) -> Iterator[dict[str, Any]]:
        match event:
            case GenerationStarted() if self._echoes[choice]:
                yield self._chunk(choice, self._echoes[choice])
            case GenerationDelta() if event.text or (self._logprobs and event.tokens):
                told = answers.old_logprobs(event.tokens, self._offsets[choice]) if self._logprobs else None
                self._offsets[choice] += len(event.text)
                yield self._chunk(choice, event.text, logprobs=told)
            case GenerationFinished():
                chunk = self._chunk(choice, "", reason=answers.finish_reason(event))
                yield {**chunk, "timings": answers.timings(event)}
            case _:
                pass

    def failure(self, _choice: int, event: GenerationEvent) -> ErrorInfo | None:
        """Why the answer can't be told to its end."""
        return event.error if isinstance(event, GenerationFinished) else None

    def usage(self, transcripts: list[Transcript]) -> dict[str, Any]:
        """The last chunk, where it is wanted."""
        told = _usage(transcripts, self._n_prompts)
        return {**self._head, "choices": [], "usage": told, "timings": answers.timings(transcripts[0].end)}

    def _chunk(
        self, choice: int, text: str, *, logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        told = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "choices": [told], **self._usage}
