"""Seats in the batch. A slot is one sequence of the KV cache; its tokens stay for later prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.backend import common_prefix


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence. While busy, its computed tokens catch up with all its tokens; there are no phases."""

    id: int
    tokens: list[int] = field(default_factory=list)
    """Prompt and completion of its generation; in a free slot, what the KV cache still holds of the last."""
    computed: int = 0
    """How many of the tokens the KV cache holds."""
    n_prompt: int = 0
    """How many of the tokens are the prompt."""
    busy: bool = False
    last_used: int = 0
    """Counts acquisitions and releases; the least is the least recently used."""
    last_turn: int = 0
    """When it last decoded; counts these occasions over all slots."""

    @property
    def missing(self) -> int:
        return len(self.tokens) - self.computed


class Slots:
    """All slots of a worker."""

    def __init__(self, n_slots: int) -> None:
        self.all = tuple(Slot(i) for i in range(n_slots))
        self._clock = 0

    @property
    def n_free(self) -> int:
        return sum(not slot.busy for slot in self.all)

    @property
    def kv_used(self) -> int:
        """Tokens that the KV cache holds, for running generations and for reuse."""
        return sum(slot.computed for slot in self.all)

    def choose(self, prompt: Sequence[int]) -> tuple[Slot, int]:
        """The free slot that suits a prompt best, and how many of its tokens can be reused.

        That is the slot with the longest common prefix. But where most of a long conversation would be lost
        for a prefix that is a small part of the prompt too (a system prompt, say), the slot doesn't count as
        a match; and where none matches, the least recently used one is taken. The last prompt token is never
        reused, since its logits are needed.
        """
        best: Slot | None = None
        best_rank = (-1, 0)
        best_prefix = 0
        for slot in self.all:
            if slot.busy:
                continue
            prefix = common_prefix(slot.tokens, prompt)
            matches = 2 * prefix >= min(len(slot.tokens), len(prompt))
            rank = (prefix if matches else 0, -slot.last_used)
            if best is None or rank > best_rank:
                best, best_rank, best_prefix = slot, rank, prefix
        assert best is not None, "no slot is free"
        return best, min(best_prefix, len(prompt) - 1)

    def acquire(self, slot: Slot, prompt: Sequence[int], computed: int) -> None:
        """Give the slot to a generation; its KV cache holds the first `computed` tokens of the prompt."""
        assert not slot.busy
        self._clock += 1
        slot.busy = True
        slot.last_used = self._clock
        slot.tokens = list(prompt)
        slot.n_prompt = len(prompt)
        slot.computed = computed

    def release(self, slot: Slot, *, forget: bool = False) -> None:
        """Take the slot back. What the KV cache holds stays for reuse, unless told to `forget` it."""
        assert slot.busy
        self._clock += 1
        slot.busy = False
        slot.last_used = self._clock
        if forget:
            slot.computed = 0
        del slot.tokens[slot.computed :]
