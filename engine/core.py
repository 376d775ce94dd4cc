"""The step loop's body: many generations, one batch. Knows no process, no pipe and no model library.

A step has four acts: schedule (cancels, slots, the batch), decode, sample, emit. One thread owns an
`EngineCore`; `cancel` alone may be called from others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from engine.backend import Backend, Sampled
from engine.commands import Control
from engine.errors import ErrorInfo, TokenglassError
from engine.events import Event, GenerationPaused, PromptProgress, StepMetrics
from engine.generation import Generation
from engine.hands import Hands
from engine.prepared import Prepared
from engine.rations import Rations
from engine.replies import Message
from engine.roster import Roster
from engine.scheduler import Plan
from engine.types import WorkerConfig

__all__ = ["EngineCore", "Prepared"]

_Sample = tuple[Generation, Sampled | ErrorInfo, float]
"""What was chosen, or why nothing could be, and when."""


class EngineCore:
    """Runs generations on a backend, step by step."""

    def __init__(
        self, backend: Backend, config: WorkerConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._roster = roster = Roster(backend, config, clock)
        self._scheduler = roster.scheduler
        self._slots = roster.slots
        self._by_slot = roster.by_slot
        self._is_eog = roster.is_eog
        self._rations = Rations(roster)
        self._hands = Hands(roster)
        self._ended: list[Event] = []
        """What generations had to say that ended between two steps."""
        self._cancel_inbox: deque[str] = deque()
        self._emit_ms = 0.0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do; not where all that is left is paused."""
        return bool(
            self._scheduler.active
            or self._ended
            or self._cancel_inbox
            or (self._slots.n_free and self._scheduler.next_ready() is not None)
        )

    @property
    def waiting(self) -> int:
        """Generations that wait for a slot."""
        return self._roster.waiting

    def add(self, prepared: Prepared) -> None:
        """Take on a generation with a new id. A refusal comes with the next step, as its `finished`."""
        self._take_cancels(self._ended, self._ended)
        self._roster.add(prepared, self._ended)

    def cancel(self, generation_id: str) -> None:
        """End a generation within one step, in whatever state it is, even before it is added. Any thread."""
        self._cancel_inbox.append(generation_id)

    def control(self, command: Control) -> list[Message]:
        """Do something to one generation, now: exactly one `ControlDone`, and the events that follow."""
        self._take_cancels(self._ended, self._ended)
        return self._hands.control(command)

    def step(self) -> list[Message]:
        """Run one step and answer its events: started, prompt progress, deltas, finished, metrics.

        Ends from before the step (cancels, refusals) come first, since their slots may be taken again.
        What goes wrong with a generation ends that generation; a TokenglassError of the decode ends those
        in its batch, but for a lack of cells, which the next step deals with.
        """
        clock, roster = self._clock, self._roster
        start = clock()
        ended, self._ended = self._ended, []
        self._take_cancels(ended, ended)
        messages: list[Message] = [*ended]
        deltas: list[Event] = []
        finished: list[Event] = []

        # schedule
        if self._scheduler.waiting:
            roster.admit(messages, deltas, finished)
        stalled = self._rations.stalled(deltas, finished)
        plan = self._scheduler.plan(stalled, self._drafts() if roster.guessing else None)
        if not plan.slots:
            return [*messages, *deltas, *finished]
        planned = clock()

        # decode
        try:
            self._backend.decode(plan.batch)
        except TokenglassError as error:
            if error.code == "context_overflow":
                self._rations.overflowed(len(plan.batch.tokens))
                return [*messages, *deltas, *finished]
            for slot in plan.slots:
                roster.finish(self._by_slot[slot.id], "error", deltas, finished, error.info)
            return [*messages, *deltas, *finished]
        decoded = clock()
        took_ms = (decoded - planned) * 1000
        self._scheduler.pace.observe(plan.decode_tokens, plan.prefill_tokens, plan.whole_tokens, took_ms)
        self._advance(plan, decoded, messages)
        self._take_cancels(deltas, finished)

        # sample
        samples, n_accepted = self._sample(plan)
        sampled = clock()

        # emit
        for generation, sample, t in samples:
            self._emit(generation, sample, t, deltas, finished)
        cells, guesses = self._slots.cells, {}
        if plan.drafts:
            n_guessed = sum(map(len, plan.drafts.values()))
            guesses = {"draft_tokens": n_guessed, "accepted_tokens": n_accepted}
        metrics = StepMetrics(
            t=sampled,
            batch_size=len(plan.slots),
            prefill_tokens=plan.prefill_tokens,
            decode_tokens=plan.decode_tokens,
            pre_ms=(planned - start) * 1000,
            decode_ms=(decoded - planned) * 1000,
            sample_ms=(sampled - decoded) * 1000,
            emit_ms=self._emit_ms,
            kv_used=cells.used,
            kv_total=cells.total,
            waiting=roster.waiting,
            **guesses,
        )
        messages += deltas
        messages += finished
        messages.append(metrics)
        self._emit_ms = (clock() - sampled) * 1000
        return messages

    def _take_cancels(self, deltas: list[Event], finished: list[Event]) -> None:
        """Carry out the cancels that have come in."""
        while self._cancel_inbox:
            self._roster.cancel(self._cancel_inbox.popleft(), deltas, finished)

    def _advance(self, plan: Plan, t: float, messages: list[Message]) -> None:
        """Count what has been computed, and tell how far prompts are that take more than one step."""
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            in_prompt = slot.computed < slot.n_prompt
            self._slots.advance(slot, count)
            if in_prompt:
                self._progress(self._by_slot[slot.id], slot.computed, t, messages)

    def _progress(self, generation: Generation, computed: int, t: float, messages: list[Message]) -> None:
        """Part of a prompt has been computed, for the first time or once more."""
        total = generation.n_prompt
        if computed < total:
            generation.tells_progress = True
        elif generation.marks.computed is None:
            generation.marks.computed = t
        if generation.tells_progress:
            done = min(computed, total)
            generation.tells_progress = done < total
            messages.append(PromptProgress(t=t, generation_id=generation.id, done=done, total=total))

    def _drafts(self) -> dict[int, list[int]]:
        """Guesses of what comes next, by slot id, as far as there are cells for them."""
        drafts: dict[int, list[int]] = {}
        room = self._rations.room
        for slot_id, generation in self._roster.guessing.items():
            slot = generation.slot
            if room > 0 and slot is not None and slot.missing == 1 and not slot.paused:
                drafts[slot_id] = draft = generation.draft(self._roster.limit)[:room]
                room -= len(draft)
        return drafts

    def _sample(self, plan: Plan) -> tuple[list[_Sample], int]:
        """What comes next in each generation whose tokens are all computed; how many guesses were right."""
        samples: list[_Sample] = []
        n_accepted = end = 0
        sample, clock = self._backend.sample, self._clock
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            start, end = end, end + count
            generation = self._by_slot.get(slot.id)
            if generation is None or len(slot.tokens) > slot.computed:
                continue  # cancelled meanwhile, or not caught up yet
            assert generation.sampler is not None
            try:
                if plan.drafts and slot.id in plan.drafts:
                    n_accepted += self._check_draft(generation, plan.drafts[slot.id], start, samples)
                else:
                    samples.append((generation, sample(generation.sampler, end - 1), clock()))
            except TokenglassError as error:
                samples.append((generation, error.info, clock()))
        return samples, n_accepted

    def _check_draft(
        self, generation: Generation, draft: list[int], start: int, samples: list[_Sample]
    ) -> int:
        """Sample after the last token and after each guess as long as they are what the model chooses too.

        So the tokens are those that it would have chosen one by one. What was guessed wrong is forgotten.
        """
        assert generation.sampler is not None
        assert generation.slot is not None
        n_tokens, accepted = len(generation.tokens), 0
        generation.draft_tokens += len(draft)
        for i in range(len(draft) + 1):
            sample = self._backend.sample(generation.sampler, start + i)
            samples.append((generation, sample, self._clock()))
            if i == len(draft) or sample.token != draft[i] or self._is_eog(sample.token):
                break
            accepted += 1
        generation.accepted_tokens += accepted
        self._slots.cut(generation.slot, n_tokens + accepted)
        return accepted

    def _emit(
        self,
        generation: Generation,
        sample: Sampled | ErrorInfo,
        t: float,
        deltas: list[Event],
        finished: list[Event],
    ) -> None:
        """Deliver one token and see whether it was the last.

        An end-of-generation token is neither delivered nor counted, so that `completion_tokens` is the
        number of tokens that a client has seen (llama-server counts it).
        """
        if generation.ended:  # by a token before, where several were sampled
            return
        if isinstance(sample, ErrorInfo):
            self._roster.finish(generation, "error", deltas, finished, sample)
            return
        if self._is_eog(sample.token):
            self._roster.finish(generation, "stop", deltas, finished)
            return
        generation.push(sample, t, deltas)
        if self._roster.end_if_due(generation, deltas, finished):
            return
        if generation.steps_left is not None:
            generation.steps_left -= 1
            if generation.steps_left == 0:
                generation.pause(True)
                deltas.append(
                    GenerationPaused(t=t, generation_id=generation.id, at_token=generation.n_tokens)
                )
