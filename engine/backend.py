"""What the scheduler's loop needs from an inference library. Two kinds: llama.cpp, and a fake for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.types import ModelInfo, SamplingParams, WorkerConfig


@dataclass(slots=True)
class Batch:
    """The tokens of one step, all sequences together; four parallel lists.

    `wants_logits[i]` says that entry i's logits are read afterwards (by `Backend.sample(sampler, i)`).
    """

    tokens: list[int]
    positions: list[int]
    sequences: list[int]
    wants_logits: list[bool]


@dataclass(slots=True, frozen=True)
class Sampled:
    """One chosen token; `logprob` and `top` only when they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler(Protocol):
    """The sampler chain of one generation, with its own random state and penalty history."""

    def accept(self, token: int) -> None:
        """Add a token that was not sampled by this chain (a prompt token) to the penalty history."""

    def close(self) -> None: ...


class Backend(Protocol):
    """A loaded model with one KV cache. Used by one thread, but any may call `tokenize`."""

    info: ModelInfo
    chat_template: str | None
    """Jinja source from the model's metadata."""
    bos_text: str
    eos_text: str

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Raises TokenglassError `invalid_prompt` where the vocabulary can't spell the text."""

    def piece(self, token: int) -> bytes:
        """A token's bytes; empty for control tokens. May end inside a UTF-8 character."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def new_sampler(self, params: SamplingParams, seed: int, n_logprobs: int | None) -> Sampler: ...

    def decode(self, batch: Batch) -> None:
        """Compute the batch and wait for it.

        Raises TokenglassError `context_overflow` where no cell is free.
        """

    def sample(self, sampler: Sampler, index: int) -> Sampled:
        """Choose the token after batch entry `index` and accept it.

        Raises TokenglassError `invalid_output` where the logits are NaN or infinite.
        """

    def keep(self, sequence: int, n_tokens: int) -> int:
        """Forget a sequence's tokens from position `n_tokens` on; answers how many are really kept.

        Recurrent models can't forget a part: they keep all or nothing.
        """

    def close(self) -> None: ...


LoadProgress = Callable[[float], bool]
"""Called with 0 to 1 while loading; answering False stops the load."""

Loader = Callable[[WorkerConfig, LoadProgress], Backend]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n
    while low < high:  # slices compare in C, so halving beats a loop over tokens
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
