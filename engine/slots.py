"""Seats in the batch. A slot is one sequence of the KV cache; its tokens stay for later prompts.

The backend's cache and the book of its cells (`engine.kv`) are changed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.backend import Backend, common_prefix
from engine.kv import Cells

WORTH_COPYING = 16
"""A prefix is copied from another slot where that saves more than so many tokens."""


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
    paused: bool = False
    """Takes no part in steps."""
    last_used: int = 0
    """Counts acquisitions and releases; the least is the least recently used."""
    last_turn: int = 0
    """When it last decoded; counts these occasions over all slots."""

    @property
    def missing(self) -> int:
        """Tokens to be computed: 1 while it decodes, more in a prompt or after an edit."""
        return len(self.tokens) - self.computed


class Slots:
    """All slots of a worker, and what the KV cache holds for them."""

    def __init__(self, backend: Backend) -> None:
        info = backend.info
        self.all = tuple(Slot(i) for i in range(info.n_slots))
        self.n_free = info.n_slots
        self.cells = Cells(info.n_slots, info.n_kv or info.n_slots * info.n_ctx)
        self._backend = backend
        self._clock = 0

    def choose(self, tokens: Sequence[int]) -> tuple[Slot, Slot, int]:
        """The free slot that suits a generation best, the slot that has most of its tokens, and how many.

        The two are the same where the free slot has about as many. That is the one with the longest common
        prefix. But where most of a long conversation would be lost for a prefix that is a small part of the
        prompt too (a system prompt, say), the slot doesn't count as a match; and where none matches, the
        least recently used one is taken. The last token is never reused, since its logits are needed.
        """
        best: Slot | None = None
        best_rank = (-1, 0)
        best_prefix = 0
        donor, donor_prefix = self.all[0], -1
        for slot in self.all:
            prefix = self._reusable(slot, tokens)
            if prefix > donor_prefix:
                donor, donor_prefix = slot, prefix
            if slot.busy:
                continue
            matches = 2 * prefix >= min(len(slot.tokens), len(tokens))
            rank = (prefix if matches else 0, -slot.last_used)
            if best is None or rank > best_rank:
                best, best_rank, best_prefix = slot, rank, prefix
        assert best is not None, "no slot is free"
        if donor_prefix - best_prefix > WORTH_COPYING:
            return best, donor, donor_prefix
        return best, best, best_prefix

    def _reusable(self, slot: Slot, tokens: Sequence[int]) -> int:
        """How many tokens a generation can take over from what a slot has in the KV cache."""
        prefix = min(common_prefix(slot.tokens, tokens), slot.computed, len(tokens) - 1)
        if self._backend.info.recurrent and prefix < slot.computed:
            return 0  # a state holds all its tokens or none
        return prefix

    def acquire(self, tokens: list[int], n_prompt: int) -> Slot:
        """Give a generation the best free slot, with as much of its tokens computed as can be had.

        The slot has the list itself, so it sees what the generation adds.
        """
        slot, donor, prefix = self.choose(tokens)
        if donor is slot:
            self.cut(slot, prefix)
        else:
            self.cut(slot, 0)
            slot.computed = self._backend.copy(donor.id, slot.id, prefix)
            self.cells.share(donor.id, slot.id, slot.computed)
        self._clock += 1
        self.n_free -= 1
        slot.busy = True
        slot.paused = False
        slot.last_used = self._clock
        slot.tokens = tokens
        slot.n_prompt = n_prompt
        return slot

    def advance(self, slot: Slot, n_tokens: int) -> None:
        """The backend has computed so many more tokens of the slot."""
        slot.computed += n_tokens
        self.cells.extend(slot.id, n_tokens)

    def cut(self, slot: Slot, n_tokens: int) -> None:
        """Let the KV cache forget a slot's tokens from a position on; recurrent models forget more."""
        if n_tokens < slot.computed:
            slot.computed = self._backend.keep(slot.id, n_tokens)
            self.cells.cut(slot.id, slot.computed)

    def release(self, slot: Slot, *, forget: bool = False) -> None:
        """Take the slot back. What the KV cache holds stays for reuse, unless told to `forget` it."""
        assert slot.busy
        self._clock += 1
        self.n_free += 1
        slot.busy = False
        slot.last_used = self._clock
        self.cut(slot, 0 if forget else len(slot.tokens))
        slot.tokens = slot.tokens[: slot.computed]
