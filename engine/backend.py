"""What the scheduler's loop needs from an inference library. Two kinds: llama.cpp, and a fake for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.errors import TokenglassError
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


@dataclass(slots=True, frozen=True)
class SamplerSpec:
    """How a generation's tokens are chosen."""

    params: SamplingParams
    seed: int
    n_logprobs: int | None = None
    """None: no log-probabilities; n: that of each token and its n likeliest alternatives."""
    grammar: str | None = None
    """GBNF that the completion obeys from its first token on; checked by `engine.grammar` before."""


class Sampler(Protocol):
    """The sampler chain of one generation, with its own random state, penalty history and grammar.

    What it chooses depends on nothing but the logits, its spec, the tokens so far and how often it has drawn;
    so a chain made anew over the same tokens goes on as the old one would have.
    """

    n_drawn: int
    """How many tokens it has drawn, those included that a former chain drew for the same generation."""

    def allows(self, token: int) -> bool:
        """Whether the grammar lets this token come next; True where there is none."""

    def accept(self, token: int) -> None:
        """Take a completion token that this chain didn't draw; the grammar must allow it."""

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

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """A token's bytes. May end inside a UTF-8 character. Those of a control token only if `special`."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def new_sampler(
        self, spec: SamplerSpec, prompt: Sequence[int], completion: Sequence[int] = (), n_drawn: int = 0
    ) -> Sampler:
        """A chain that goes on after these tokens, as if it had drawn `n_drawn` times.

        Raises TokenglassError `invalid_argument` where the grammar can't be taken.
        """

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

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Give the empty sequence `target` the first tokens of `source`, sharing cells where it can.

        Answers how many it now has; recurrent models copy all that the source has, or nothing.
        """

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """An embedding of length 1 for each input.

        Raises TokenglassError `bad_state` where the model gives none, `context_overflow` where an input is
        too long.
        """

    def close(self) -> None: ...


class OffloadError(TokenglassError):
    """The layers that a loader chose for the GPU don't fit there after all; it may be tried with fewer."""

    def __init__(self, error: TokenglassError, n_gpu_layers: int) -> None:
        super().__init__(error.code, error.info.message, path=error.info.path, hint=error.info.hint)
        self.n_gpu_layers = n_gpu_layers


LoadProgress = Callable[[float], bool]
"""Called with 0 to 1 while loading; answering False stops the load."""

Loader = Callable[[WorkerConfig, LoadProgress], Backend]
"""Raises TokenglassError; of these `OffloadError` only where it chose the number of layers itself."""


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
