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
FORGET_AT_ONCE = 64
"""Where cells are short, a free slot forgets so many tokens or more, so that not each step has to ask."""


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
    in_chunks: bool = False
    """Part of what it misses was computed in a chunk; the rest comes so, too."""
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
        n_kv = info.n_kv or info.n_slots * info.n_ctx
        self.cells = Cells(info.n_slots, n_kv, unified=info.kv_unified)
        self._backend = backend
        self._clock = 0

    def choose(self, tokens: Sequence[int], prefixes: Sequence[int]) -> tuple[Slot, Slot, int]:
        """A free slot for a generation, the slot whose tokens it reuses, and how many.

        `prefixes` says how many tokens each slot has in common with it. Mostly the two are the same: the free
        slot with the longest common prefix. But where most of a long conversation would be lost for a prefix
        that is a small part of the prompt too (a system prompt, say), a slot doesn't count as a match; where
        none matches, one that holds nothing is taken, else the least recently used one; but rather one beside
        a busy one, so that they are computed together (see `engine.scheduler`), if it isn't of the half that
        was used last. The prefix is copied where another slot has more of it, or where less is lost so. The
        last token is never reused, since its logits are needed.
        """
        usable = [self._usable(slot, min(prefixes[slot.id], len(tokens) - 1)) for slot in self.all]

        free = [slot for slot in self.all if not slot.busy]
        assert free, "no slot is free"
        middle = sorted(slot.last_used for slot in free)[(len(free) - 1) // 2]

        def rank(slot: Slot) -> tuple[int, bool, bool, int]:
            prefix = usable[slot.id]
            matches = 2 * prefix >= min(len(slot.tokens), len(tokens))
            empty = not slot.computed
            near = (empty or slot.last_used <= middle) and self._beside_busy(slot)
            return prefix if matches else 0, empty, near, -slot.last_used

        target = max(free, key=rank)
        source = max(self.all, key=lambda slot: usable[slot.id])
        emptiest = min(free, key=lambda slot: (slot.computed, not self._beside_busy(slot)))
        if usable[target.id] > WORTH_COPYING and emptiest.computed < target.computed - usable[target.id]:
            target = emptiest
        if usable[source.id] - usable[target.id] <= WORTH_COPYING:
            source = target
        return target, source, usable[source.id]

    def _beside_busy(self, slot: Slot) -> bool:
        return any(other.busy for other in self.all[max(0, slot.id - 1) : slot.id + 2])

    def _usable(self, slot: Slot, prefix: int) -> int:
        """How many tokens of a prefix can be taken over; of a recurrent state all that went in, or none."""
        return 0 if self._backend.info.recurrent and prefix < slot.computed else prefix

    def prefixes(self, tokens: Sequence[int]) -> list[int]:
        """For each slot: how many first tokens of a generation it has in the KV cache."""
        return [min(common_prefix(slot.tokens, tokens), slot.computed) for slot in self.all]

    def parted(self, tokens: Sequence[int], prefixes: Sequence[int]) -> Slot | None:
        """The slot that has most of a generation's tokens, where it goes on with other ones."""
        best = max(self.all, key=lambda slot: (prefixes[slot.id], slot.last_used))
        return best if 0 < prefixes[best.id] < min(best.computed, len(tokens)) else None

    def acquire(self, tokens: list[int], n_prompt: int, prefixes: Sequence[int]) -> Slot:
        """Give a generation the best free slot, with as much of its tokens computed as can be had.

        The slot has the list itself, so it sees what the generation adds.
        """
        slot, donor, prefix = self.choose(tokens, prefixes)
        if donor is slot:
            self.cut(slot, prefix)
        else:
            self.cut(slot, 0)
            slot.computed = self._backend.copy(donor.id, slot.id, prefix)
            self.cells.copy(donor.id, slot.id, slot.computed)
        self._clock += 1
        self.n_free -= 1
        slot.busy = True
        slot.paused = slot.in_chunks = False
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

    def make_room(self, n_cells: int) -> None:
        """Let free slots forget cached tokens, the least recently used first, until so many cells are free.

        Where even all of them wouldn't do, they keep them.
        """
        cached = [slot for slot in self.all if not slot.busy and slot.computed]
        if self.cells.free + sum(slot.computed for slot in cached) < n_cells:
            return
        cached.sort(key=lambda slot: slot.last_used)
        while (short := n_cells - self.cells.free) > 0 and cached:
            slot = cached[0]
            self.cut(slot, max(0, slot.computed - max(short, FORGET_AT_ONCE)))
            del slot.tokens[slot.computed :]
            if not slot.computed:
                cached.pop(0)

    def release(self, slot: Slot, *, forget: bool = False) -> None:
        """Take the slot back. What the KV cache holds stays for reuse, unless told to `forget` it."""
        assert slot.busy
        self._clock += 1
        self.n_free += 1
        slot.busy = False
        slot.last_used = self._clock
        self.cut(slot, 0 if forget else len(slot.tokens))
        del slot.tokens[slot.computed :]
