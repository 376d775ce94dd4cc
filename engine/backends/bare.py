"""The bare low-level loop that `tokenglass bench` measures against: decode, sample, and nothing else.

llama.cpp's own functions on the app's context: no scheduler, no text, no events, no pipe while it counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from engine.backends import llamacpp
from engine.backends.llamacpp import lib
from engine.types import ModelInfo, SamplingParams, WorkerConfig


class BareLoop:
    """One model and up to `n_slots` sequences."""

    def __init__(self, config: WorkerConfig) -> None:
        self._backend = llamacpp.load(config, lambda _: True)
        self._context = self._backend._context
        self._memory = lib.llama_get_memory(self._context)
        self._n_batch = config.n_batch
        self._batch = lib.llama_batch_init(config.n_batch, 0, 1)
        self.info: ModelInfo = self._backend.info
        self.version = lib.llama_version().decode()
        self.eog = [token for token in range(self.info.n_vocab) if self._backend.is_eog(token)]

    def count(self, text: str) -> int:
        """Tokens of a prompt."""
        return len(self._backend.tokenize(text, add_special=True, parse_special=True))

    def run(self, prompts: Sequence[str], n_tokens: int, sampling: SamplingParams) -> list[list[float]]:
        """Generate `n_tokens` after each prompt, all in one batch.

        Answers for each prompt the monotonic time of the start and of every token.
        """
        tokens = [self._backend.tokenize(text, add_special=True, parse_special=True) for text in prompts]
        chains = [self._chain(sampling) for _ in prompts]
        try:
            return (
                self._one(tokens[0], n_tokens, chains[0])
                if len(tokens) == 1
                else self._many(tokens, n_tokens, chains)
            )
        finally:
            for chain in chains:
                lib.llama_sampler_free(chain)

    def _one(self, prompt: list[int], n_tokens: int, chain: Any) -> list[list[float]]:
        context, batch = self._context, self._batch
        decode, sample, clock = lib.llama_decode, lib.llama_sampler_sample, time.monotonic
        times = [clock()]
        token = self._prefill([prompt], [chain], [times])[0]
        batch.n_tokens = 1
        batch.seq_id[0][0] = 0
        batch.logits[0] = 1
        position = len(prompt)
        for _ in range(n_tokens - 1):
            batch.token[0] = token
            batch.pos[0] = position
            decode(context, batch)
            token = sample(chain, context, -1)
            times.append(clock())
            position += 1
        return [times]

    def _many(self, prompts: list[list[int]], n_tokens: int, chains: list[Any]) -> list[list[float]]:
        context, batch, n = self._context, self._batch, len(prompts)
        decode, sample, clock = lib.llama_decode, lib.llama_sampler_sample, time.monotonic
        start = clock()
        times = [[start] for _ in prompts]
        tokens = self._prefill(prompts, chains, times)
        positions = [len(prompt) for prompt in prompts]
        batch.n_tokens = n
        for i in range(n):
            batch.seq_id[i][0] = i
            batch.logits[i] = 1
        for _ in range(n_tokens - 1):
            for i in range(n):
                batch.token[i] = tokens[i]
                batch.pos[i] = positions[i]
                positions[i] += 1
            decode(context, batch)
            for i in range(n):
                tokens[i] = sample(chains[i], context, i)
                times[i].append(clock())
        return times

    def _prefill(self, prompts: list[list[int]], chains: list[Any], times: list[list[float]]) -> list[int]:
        """Compute the prompts on an empty cache, a full batch at a time; answers each one's first token."""
        batch, first = self._batch, [0] * len(prompts)
        for sequence in range(self.info.n_slots):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        ends: list[tuple[int, int]] = []
        n = 0

        def compute() -> None:
            nonlocal n
            batch.n_tokens = n
            lib.llama_decode(self._context, batch)
            for place, sequence in ends:
                first[sequence] = lib.llama_sampler_sample(chains[sequence], self._context, place)
                times[sequence].append(time.monotonic())
            ends.clear()
            n = 0

        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                last = position == len(prompt) - 1
                batch.token[n] = token
                batch.pos[n] = position
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = sequence
                batch.logits[n] = last
                if last:
                    ends.append((n, sequence))
                n += 1
                if n == self._n_batch:
                    compute()
        if n:
            compute()
        return first

    def _chain(self, params: SamplingParams) -> Any:
        """llama.cpp's usual chain: bias, then greedy, or top-k, top-p, min-p, temperature, draw."""
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        bias = params.logit_bias
        if bias:
            biases = (lib.llama_logit_bias * len(bias))(*bias.items())
            n_vocab = self.info.n_vocab
            lib.llama_sampler_chain_add(
                chain, lib.llama_sampler_init_logit_bias(n_vocab, len(biases), biases)
            )
        if params.temperature == 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
            return chain
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(params.top_k))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(params.top_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(params.min_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(params.temperature))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(params.seed or 1))
        return chain
