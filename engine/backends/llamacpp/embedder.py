"""Embeddings: whole inputs through the model, pooled to one vector each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.backends.llamacpp.library import lib
from engine.errors import TokenglassError

N_SEQUENCES = 16
"""Inputs in one batch at most."""


def set_up_for_embeddings(params: Any, n_tokens: int, *, mean: bool, n_sequences: int = N_SEQUENCES) -> None:
    """Have a context pool inputs of up to `n_tokens` tokens, as the model wants it or to their mean."""
    params.embeddings = True
    params.n_outputs_max = 0  # as many as tokens
    if mean:
        params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
    params.n_seq_max = n_sequences
    # what is pooled must lie in one micro-batch; llama.cpp reserves for as many tokens of each sequence
    params.n_ctx = params.n_batch = params.n_ubatch = -(-n_tokens // n_sequences) * n_sequences


class Embedder:
    """Computes embeddings in a context that `set_up_for_embeddings` made."""

    def __init__(self, model: Any, context: Any, n_tokens: int) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._compute = lib.llama_encode if lib.llama_model_has_encoder(model) else lib.llama_decode
        self._n_embd: int = lib.llama_model_n_embd_out(model)
        self._n_sequences: int = lib.llama_n_seq_max(context)
        self._n_tokens = n_tokens
        self._batch = lib.llama_batch_init(n_tokens, 0, 1)

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """As `engine.backend.Backend.embed`."""
        for tokens in inputs:
            if not tokens:
                raise TokenglassError("invalid_argument", "an input has no tokens", path="input")
            if len(tokens) > self._n_tokens:
                raise TokenglassError(
                    "context_overflow",
                    f"an input has {len(tokens)} tokens, the model takes {self._n_tokens}",
                    hint="split it into shorter parts",
                )
        return [vector for group in self._groups(inputs) for vector in self._embed(group)]

    def _groups(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """As many inputs at a time as a batch takes, in order."""
        group: list[Sequence[int]] = []
        room = self._n_tokens
        for tokens in inputs:
            if len(tokens) > room or len(group) == self._n_sequences:
                yield group
                group, room = [], self._n_tokens
            group.append(tokens)
            room -= len(tokens)
        if group:
            yield group

    def _embed(self, group: Sequence[Sequence[int]]) -> list[list[float]]:
        batch, i = self._batch, 0
        for sequence, tokens in enumerate(group):
            for position, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = 1
                i += 1
        batch.n_tokens = i
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        code = self._compute(self._context, batch)
        if code != 0:
            raise TokenglassError(
                "internal", f"the embeddings failed with code {code}; the engine log says more"
            )
        lib.llama_synchronize(self._context)
        return [self._vector(sequence) for sequence in range(len(group))]

    def _vector(self, sequence: int) -> list[float]:
        address = lib.llama_get_embeddings_seq(self._context, sequence)
        if not address:
            raise TokenglassError("internal", "llama.cpp gives no pooled embedding")
        vector = np.ctypeslib.as_array(address, (self._n_embd,)).astype(np.float64)
        length = float(np.linalg.norm(vector))
        if not 0 < length < 1e30:  # NaN compares false as well
            raise TokenglassError(
                "invalid_output",
                "the model computed values that are not numbers",
                hint="the model file may be damaged; load it again or download it again",
            )
        return [float(value) for value in vector / length]

    def close(self) -> None:
        """Free the batch; the context is its maker's."""
        lib.llama_batch_free(self._batch)
