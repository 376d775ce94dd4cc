"""Who goes on where the KV cache has too few free cells for all that are running.

Slots can outnumber what fits, since most answers are short. Where they turn out long: cached tokens of free
slots go first, then the youngest wait, and where nobody could go on the youngest loses its cells and is
computed again later (vLLM's preemption by recomputation).
"""

from __future__ import annotations

from engine.events import Event
from engine.roster import Roster
from engine.slots import Slot


class Rations:
    """Deals out cells, oldest first."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._slots = roster.slots
        self._cells = roster.slots.cells
        info = roster.backend.info
        self._scarce = self._cells.total < info.n_slots * info.n_ctx
        self._dealt = 0
        self._spare = self._cells.total // 64
        """Cells to be left for those who decode when a younger one begins to be computed."""

    @property
    def room(self) -> int:
        """Cells that are left in this step for guesses."""
        return self._cells.free - self._dealt

    def stalled(self, deltas: list[Event], finished: list[Event]) -> list[Slot]:
        """Who can't get the cells that it misses, and waits; somebody always goes on, where anybody could.

        One that can't go on although it is alone ends with `context_full`.
        """
        if not self._scarce:
            return []
        while True:
            active = [slot for slot in self._roster.scheduler.running if not slot.paused]
            stalled = self._deal(active)
            if len(stalled) < len(active) or not active:
                return stalled
            if not self._preempt(active[0]):
                self._roster.finish(self._roster.by_slot[active[0].id], "context_full", deltas, finished)

    def overflowed(self, n_tokens: int) -> None:
        """The backend had no cells for so many tokens: the cache holds less than it was said to."""
        self._scarce = True
        self._cells.total = min(self._cells.total, self._cells.used + n_tokens - 1)
        self._roster.limit = min(self._roster.limit, self._cells.total)

    def _deal(self, active: list[Slot]) -> list[Slot]:
        """One cell for each that decodes, all that it misses for each other: half a prompt helps nobody."""
        stalled: list[Slot] = []
        dealt = 0
        prompt_waits = False
        for slot in active:
            missing = slot.missing
            needed = dealt + missing
            if missing > 1:
                if dealt:
                    needed += self._spare
                if prompt_waits:  # or short prompts would keep passing a long one
                    stalled.append(slot)
                    continue
            if needed > self._cells.free:
                self._slots.make_room(needed)
            if needed <= self._cells.free:
                dealt += missing
            else:
                stalled.append(slot)
                prompt_waits = prompt_waits or missing > 1
        self._dealt = dealt
        return stalled

    def _preempt(self, oldest: Slot) -> bool:
        """Take the cells of the youngest, of a paused one if there is any; False where there is nobody."""
        running = self._roster.scheduler.running
        holders = [slot for slot in running if slot.computed and slot is not oldest]
        if not holders:
            return False
        victim = max(holders, key=lambda slot: (slot.paused, running.index(slot)))
        self._slots.cut(victim, 0)
        return True
