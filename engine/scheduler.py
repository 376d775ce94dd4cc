"""Which tokens go into the next batch. Knows neither backend nor events.

There is no prefill phase and no decode phase: each busy slot has computed tokens that must catch up with
all its tokens, and each step has one token budget. Slots that miss one token (they decode) come first; then
those that miss more (prompts, and what was edited) in the order of their arrival: short ones whole, long ones
in chunks that fill the rest of the budget, as far as that keeps decoding smooth (`engine.pace`).

In the batch they stand in the order of their sequences. llama.cpp computes together only what follows number
upon number there (`llama_batch_allocr::split_equal`); in another order 16 took three times as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from engine.backend import Batch
from engine.generation import Generation
from engine.pace import Pace
from engine.slots import Slot


@dataclass(slots=True)
class Plan:
    """One step's batch, and whose tokens it has."""

    batch: Batch
    slots: list[Slot]
    """Those with tokens in the batch, in its order."""
    counts: list[int]
    """How many, slot by slot."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """By slot id: guessed tokens that stand in the batch after the slot's last one."""
    prefill_tokens: int = 0
    whole_tokens: int = 0
    """Those of them in prompts that came whole beside decoding ones."""
    decode_tokens: int = 0
    """Guessed ones included."""


_id = attrgetter("id")
_last_turn = attrgetter("last_turn")


class Scheduler:
    """The queue of waiting generations, and the plan of each step."""

    def __init__(self, n_batch: int, queue_limit: int) -> None:
        self.waiting: deque[Generation] = deque()
        self.pace = Pace(n_batch)
        self.running: list[Slot] = []
        """Busy slots in the order in which they were taken."""
        self._n_batch = n_batch
        self._queue_limit = queue_limit
        self._turn = 0

    @property
    def active(self) -> bool:
        """Whether a busy slot isn't paused."""
        return any(not slot.paused for slot in self.running)

    def enqueue(self, generation: Generation, free_slots: int) -> bool:
        """Append to the queue; False where it is full. Those that a free slot awaits don't count."""
        if len(self.waiting) >= self._queue_limit + free_slots:
            return False
        self.waiting.append(generation)
        return True

    def next_ready(self) -> Generation | None:
        """Who gets the next free slot: the first that isn't held back by a pause."""
        return next((generation for generation in self.waiting if not generation.held), None)

    def plan(self, stalled: Collection[Slot] = (), drafts: Mapping[int, list[int]] | None = None) -> Plan:
        """The next batch; empty where no busy slot may go on, paused or `stalled` as they are.

        `drafts` are guesses by slot id, which are taken as far as the budget goes.
        """
        decoding: list[Slot] = []
        prefilling: list[Slot] = []
        for slot in self.running:
            if not slot.paused and slot not in stalled:
                decodes = len(slot.tokens) - slot.computed == 1
                (decoding if decodes else prefilling).append(slot)
        budget = self._n_batch
        for_decoding = budget - 1 if prefilling and budget > 1 else budget
        if len(decoding) > for_decoding:  # more slots than budget: take turns
            decoding = sorted(decoding, key=_last_turn)[:for_decoding]
        for slot in decoding:
            self._turn += 1
            slot.last_turn = self._turn
        if not prefilling and not drafts:
            return _decode(sorted(decoding, key=_id))
        guesses = _fit(drafts, decoding, for_decoding - len(decoding)) if drafts else {}
        n_decode = len(decoding) + sum(map(len, guesses.values()))
        prompts, n_whole = self._prompts(prefilling, n_decode) if prefilling else ([], 0)
        plan = _mix([(slot, 1) for slot in decoding] + prompts, guesses)
        plan.decode_tokens = n_decode
        plan.prefill_tokens = len(plan.batch.tokens) - n_decode
        plan.whole_tokens = n_whole
        return plan

    def _prompts(self, prefilling: list[Slot], n_decode: int) -> tuple[list[tuple[Slot, int]], int]:
        """Prompt tokens beside decoding ones: whose, and how many; and how many of all come whole."""
        parts: list[tuple[Slot, int]] = []
        n_whole = 0
        budget = self._n_batch - n_decode
        chunk = min(budget, self.pace.allowance(n_decode))
        if chunk == 0:
            return parts, 0
        short = self.pace.whole(n_decode)
        for slot in prefilling:
            missing = slot.missing
            if chunk < missing <= short and not slot.in_chunks:
                if missing > min(short - n_whole, budget):
                    continue  # it has its turn in one of the next steps
                count = missing
                n_whole += count
            else:
                count = min(chunk, budget, missing)
                if count == 0:
                    continue
                chunk -= count
                slot.in_chunks = count < missing
            budget -= count
            parts.append((slot, count))
        return parts, n_whole


def _fit(drafts: Mapping[int, list[int]], decoding: list[Slot], room: int) -> dict[int, list[int]]:
    """The guesses that there is room for."""
    fitting: dict[int, list[int]] = {}
    for slot in decoding:
        draft = drafts.get(slot.id, [])[:room]
        if draft:
            fitting[slot.id] = draft
            room -= len(draft)
    return fitting


def _decode(decoding: list[Slot]) -> Plan:
    """A token for each."""
    n = len(decoding)
    batch = Batch(
        [slot.tokens[-1] for slot in decoding],
        [slot.computed for slot in decoding],
        [slot.id for slot in decoding],
        [True] * n,
    )
    return Plan(batch, decoding, [1] * n, decode_tokens=n)


def _mix(parts: list[tuple[Slot, int]], drafts: dict[int, list[int]]) -> Plan:
    """So many missing tokens of each, and guesses of what comes after them.

    Of a prompt only the last token's logits are wanted; of a guess all are.
    """
    plan = Plan(Batch([], [], [], []), [], [], drafts)
    batch = plan.batch
    for slot, count in sorted(parts, key=lambda part: part[0].id):
        draft = drafts.get(slot.id, [])
        start = slot.computed
        end = start + count
        n = count + len(draft)
        batch.tokens += slot.tokens[start:end]
        batch.tokens += draft
        batch.positions += range(start, start + n)
        batch.sequences += [slot.id] * n
        batch.wants_logits += [False] * (count - 1)
        batch.wants_logits += [end == len(slot.tokens)] * (1 + len(draft))
        plan.slots.append(slot)
        plan.counts.append(n)
    return plan
