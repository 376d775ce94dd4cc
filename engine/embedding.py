"""Embedding requests in the worker: a part of one at a time, so that generations go on beside them."""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass, field

from engine.backend import Backend
from engine.commands import Embed
from engine.errors import ErrorInfo, TokenglassError
from engine.replies import EmbedDone


@dataclass(slots=True)
class EmbeddingJob:
    """One request, tokenized."""

    request_id: str
    inputs: list[list[int]]
    embeddings: list[list[float]] = field(default_factory=list)
    """As far as they are computed."""


def tokenize(backend: Backend, command: Embed) -> EmbeddingJob:
    """Texts to tokens, without special tokens in them. Any thread.

    Raises TokenglassError: `invalid_prompt` where the vocabulary can't spell a text, `invalid_argument` for
    token ids that there aren't and for inputs without tokens.
    """
    inputs = []
    for i, given in enumerate(command.inputs):
        if isinstance(given, str):
            tokens = backend.tokenize(given, add_special=True, parse_special=False)
        else:
            tokens = given
        if not all(0 <= token < backend.info.n_vocab for token in tokens):
            raise TokenglassError("invalid_argument", "there is no such token", path=f"input[{i}]")
        if not tokens:
            raise TokenglassError("invalid_argument", "an input has no tokens", path=f"input[{i}]")
        inputs.append(tokens)
    return EmbeddingJob(command.request_id, inputs)


class EmbeddingQueue:
    """The requests that wait for the main thread, first come first served."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._jobs: deque[EmbeddingJob] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: EmbeddingJob) -> None:
        self._jobs.append(job)

    def step(self) -> list[EmbedDone]:
        """Compute the next part of the first request, a batch of tokens; its answer with the last part."""
        if not self._jobs:
            return []
        job = self._jobs[0]
        try:
            part = self._next_part(job)
            if part:
                job.embeddings += self._backend.embed(part)
        except TokenglassError as error:
            return [self._failed(error.info)]
        except Exception:  # noqa: BLE001 a bug in one request must not end the others
            traceback.print_exc()
            message = "the embeddings could not be computed; see the engine log"
            return [self._failed(ErrorInfo(code="internal", message=message))]
        if len(job.embeddings) < len(job.inputs):
            return []
        self._jobs.popleft()
        n_tokens = sum(map(len, job.inputs))
        return [EmbedDone(request_id=job.request_id, embeddings=job.embeddings, prompt_tokens=n_tokens)]

    def _next_part(self, job: EmbeddingJob) -> list[list[int]]:
        """Inputs of together at most a batch of tokens; at least one if any is left."""
        start = end = len(job.embeddings)
        room = self._backend.info.n_batch
        while end < len(job.inputs) and (end == start or len(job.inputs[end]) <= room):
            room -= len(job.inputs[end])
            end += 1
        return job.inputs[start:end]

    def _failed(self, error: ErrorInfo) -> EmbedDone:
        return EmbedDone(request_id=self._jobs.popleft().request_id, error=error)
