"""Which tokens go into the next batch. Knows neither backend nor events.

There is no prefill phase and no decode phase: each busy slot has computed tokens that must catch up with
all its tokens, and each step has one token budget. Slots that decode come first, a token each; then prompts
in the order of their arrival, in chunks that fill the rest of the budget.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from engine.backend import Batch
from engine.commands import Generate
from engine.formats import Format
from engine.slots import Slot


@dataclass(slots=True, frozen=True)
class Prepared:
    """A generation whose prompt has been rendered and tokenized."""

    command: Generate
    prompt_tokens: list[int]
    trimmed_messages: int = 0
    grammar: str | None = None
    """GBNF that the answer obeys, checked."""
    format: Format | None = None
    """How the model writes reasoning and tool calls; None: all is plain text."""
    reasoning_open: bool = False
    """The prompt ends inside a reasoning block."""


@dataclass(slots=True)
class Plan:
    """One step's batch, and whose tokens it has."""

    batch: Batch
    slots: list[Slot]
    """Those with tokens in the batch."""
    counts: list[int]
    """How many, slot by slot."""
    prefill_tokens: int = 0
    decode_tokens: int = 0


_last_turn = attrgetter("last_turn")


class Scheduler:
    """The queue of waiting generations, and the plan of each step."""

    def __init__(self, n_batch: int, queue_limit: int) -> None:
        self.waiting: deque[Prepared] = deque()
        self.running: list[Slot] = []
        """Busy slots in the order in which their generations came."""
        self._n_batch = n_batch
        self._queue_limit = queue_limit
        self._turn = 0

    def enqueue(self, prepared: Prepared, free_slots: int) -> bool:
        """Append to the queue; False where it is full. Those that a free slot awaits don't count."""
        if len(self.waiting) >= self._queue_limit + free_slots:
            return False
        self.waiting.append(prepared)
        return True

    def withdraw(self, generation_id: str) -> Prepared | None:
        """Take a generation out of the queue, if it is there."""
        for i, prepared in enumerate(self.waiting):
            if prepared.command.generation_id == generation_id:
                del self.waiting[i]
                return prepared
        return None

    def plan(self) -> Plan:
        """The next batch; empty where no slot is busy."""
        decoding = [slot for slot in self.running if slot.computed >= slot.n_prompt]
        prefilling = [slot for slot in self.running if slot.computed < slot.n_prompt]
        budget = self._n_batch
        for_decoding = budget - 1 if prefilling and budget > 1 else budget
        if len(decoding) > for_decoding:  # more slots than budget: take turns
            decoding = sorted(decoding, key=_last_turn)[:for_decoding]
        for slot in decoding:
            self._turn += 1
            slot.last_turn = self._turn
        n = len(decoding)
        batch = Batch(
            [slot.tokens[-1] for slot in decoding],
            [slot.computed for slot in decoding],
            [slot.id for slot in decoding],
            [True] * n,
        )
        plan = Plan(batch, decoding, [1] * n, decode_tokens=n)
        budget -= n
        for slot in prefilling:
            if budget == 0:
                break
            count = min(budget, slot.missing)
            _append_prompt(plan, slot, count)
            budget -= count
        return plan


def _append_prompt(plan: Plan, slot: Slot, count: int) -> None:
    """Put a chunk of a prompt into the batch; the logits of the prompt's last token are wanted."""
    batch, start = plan.batch, slot.computed
    end = start + count
    batch.tokens += slot.tokens[start:end]
    batch.positions += range(start, end)
    batch.sequences += [slot.id] * count
    batch.wants_logits += [False] * (count - 1)
    batch.wants_logits.append(end == slot.n_prompt)
    plan.slots.append(slot)
    plan.counts.append(count)
    plan.prefill_tokens += count
