"""The bare low-level loop that `tokenglass bench` measures the app against: decode, sample, and nothing else.

Runs in a process of its own, as the worker does: no scheduler, no text, no events, no pipe while it counts.
"""

from __future__ import annotations

import gc
import os
import time
from multiprocessing.connection import Connection

from engine.backend import SamplerSpec
from engine.backends import llamacpp
from engine.backends.llamacpp import lib
from engine.types import SamplingParams, WorkerConfig


class BareLoop:
    """One model, one sequence, one token at a time, on llama.cpp's functions themselves."""

    def __init__(self, config: WorkerConfig) -> None:
        self._backend = llamacpp.load(config, lambda _: True)
        self._context = self._backend._context
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(config.n_batch, 0, 1)
        self.n_threads = self._backend.info.n_threads
        self.eog = [token for token in range(self._backend.info.n_vocab) if self._backend.is_eog(token)]

    def run(self, prompt: str, n_tokens: int, sampling: SamplingParams) -> list[float]:
        """Generate `n_tokens` after the prompt; the monotonic time of the start and of each token."""
        tokens = self._backend.tokenize(prompt, add_special=True, parse_special=True)
        sampler = self._backend.new_sampler(SamplerSpec(sampling, 1), tokens)
        chain, context, batch = sampler.chain, self._context, self._batch
        decode, sample, clock = lib.llama_decode, lib.llama_sampler_sample, time.monotonic
        times = [clock()]
        lib.llama_memory_seq_rm(self._memory, 0, -1, -1)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        batch.n_tokens = len(tokens)
        decode(context, batch)
        token = sample(chain, context, -1)
        times.append(clock())
        batch.n_tokens = 1
        batch.logits[0] = 1
        position = len(tokens)
        for _ in range(n_tokens - 1):
            batch.token[0] = token
            batch.pos[0] = position
            decode(context, batch)
            token = sample(chain, context, -1)
            times.append(clock())
            position += 1
        sampler.close()
        return times


def serve(connection: Connection, config_json: str) -> None:
    """Load, answer end-of-generation tokens and thread count, then run as asked until the pipe closes."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    loop = BareLoop(WorkerConfig.model_validate_json(config_json))
    gc.freeze()
    connection.send((loop.eog, loop.n_threads))
    try:
        while True:
            prompt, n_tokens, sampling = connection.recv()
            connection.send(loop.run(prompt, n_tokens, SamplingParams.model_validate_json(sampling)))
    except EOFError:
        return
