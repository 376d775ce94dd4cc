"""The step loop's body: many generations, one batch. Knows no process, no pipe and no model library.

A step has four acts: schedule (cancels, slots, the batch), decode, sample, emit. One thread owns an
`EngineCore`; `cancel` alone may be called from others.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache

from engine.backend import Backend, Sampled, Sampler, SamplerSpec
from engine.detokenize import PieceCache
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    Event,
    GenerationFinished,
    GenerationStarted,
    PromptProgress,
    StepMetrics,
)
from engine.output import Output
from engine.scheduler import Plan, Prepared, Scheduler
from engine.slots import Slot, Slots
from engine.timing import Marks
from engine.types import FinishReason, Timings, Usage, WorkerConfig

__all__ = ["EngineCore", "Prepared"]

EARLY_CANCELS = 4096
"""How many cancelled ids are remembered for generations that haven't been added yet."""


class _Generation:
    """A generation that has a slot."""

    __slots__ = ("cached", "command", "marks", "max_tokens", "output", "prepared", "sampler", "slot")

    def __init__(self, prepared: Prepared, slot: Slot, sampler: Sampler, output: Output, cached: int) -> None:
        self.prepared = prepared
        self.command = prepared.command
        self.slot = slot
        self.sampler = sampler
        self.output = output
        self.cached = cached
        self.marks = Marks(prepared.command.received_t)
        self.max_tokens = prepared.command.max_tokens


class EngineCore:
    """Runs generations on a backend, step by step."""

    def __init__(
        self, backend: Backend, config: WorkerConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._info = backend.info
        self._slots = Slots(backend.info.n_slots)
        self._scheduler = Scheduler(config.n_batch, config.queue_limit)
        self._pieces = PieceCache(backend.piece)
        self._is_eog = cache(backend.is_eog)
        self._running: dict[int, _Generation] = {}
        """By slot id."""
        self._refused: list[Event] = []
        """Finished events of generations that never got a slot."""
        self._cancel_inbox: deque[str] = deque()
        self._early_cancels: OrderedDict[str, None] = OrderedDict()
        self._kv_total = self._info.n_slots * self._info.n_ctx
        self._emit_ms = 0.0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._running or self._scheduler.waiting or self._refused or self._cancel_inbox)

    @property
    def waiting(self) -> int:
        """Generations that wait for a slot."""
        return len(self._scheduler.waiting)

    def add(self, prepared: Prepared) -> None:
        """Take on a generation with a new id. A refusal comes with the next step, as its `finished`."""
        self._take_cancels(self._refused, self._refused)
        command, n_prompt = prepared.command, len(prepared.prompt_tokens)
        n_ctx = self._info.n_ctx
        if command.generation_id in self._early_cancels:
            del self._early_cancels[command.generation_id]
            self._refuse(prepared, "cancelled", None, self._refused)
        elif n_prompt == 0:
            error = ErrorInfo(code="invalid_prompt", message="the prompt has no tokens")
            self._refuse(prepared, "error", error, self._refused)
        elif n_prompt >= n_ctx:
            error = ErrorInfo(
                code="context_overflow",
                message=f"the prompt has {n_prompt} tokens, the context holds {n_ctx} with the answer",
                hint="shorten the prompt, or load the model with a longer context",
            )
            self._refuse(prepared, "error", error, self._refused)
        elif not self._scheduler.enqueue(prepared, self._slots.n_free):
            message = f"{self.waiting} generations wait already"
            error = ErrorInfo(code="busy", message=message, hint="try again when some have finished")
            self._refuse(prepared, "error", error, self._refused)

    def cancel(self, generation_id: str) -> None:
        """End a generation within one step, in whatever state it is, even before it is added. Any thread."""
        self._cancel_inbox.append(generation_id)

    def step(self) -> list[Event]:
        """Run one step and answer its events: started, prompt progress, deltas, finished, metrics.

        Ends from before the step (cancels, refusals) come first, since their slots may be taken again.
        What goes wrong with a generation ends that generation; a TokenglassError of the decode ends those
        in its batch.
        """
        clock = self._clock
        start = clock()
        events, self._refused = self._refused, []
        deltas: list[Event] = []
        finished: list[Event] = []

        # schedule
        self._take_cancels(events, events)
        self._admit(events, finished)
        plan = self._scheduler.plan()
        if not plan.slots:
            return [*events, *deltas, *finished]
        planned = clock()

        # decode
        try:
            self._backend.decode(plan.batch)
        except TokenglassError as error:
            for slot in plan.slots:
                self._finish(self._running[slot.id], "error", deltas, finished, error.info)
            return [*events, *deltas, *finished]
        decoded = clock()
        self._advance(plan, decoded, events)
        self._take_cancels(deltas, finished)

        # sample
        samples = self._sample(plan, deltas, finished)
        sampled = clock()

        # emit
        for generation, sample, t in samples:
            self._emit(generation, sample, t, deltas, finished)
        metrics = StepMetrics(
            t=sampled,
            batch_size=len(plan.slots),
            prefill_tokens=plan.prefill_tokens,
            decode_tokens=plan.decode_tokens,
            pre_ms=(planned - start) * 1000,
            decode_ms=(decoded - planned) * 1000,
            sample_ms=(sampled - decoded) * 1000,
            emit_ms=self._emit_ms,
            kv_used=self._slots.kv_used,
            kv_total=self._kv_total,
            waiting=self.waiting,
        )
        events += deltas
        events += finished
        events.append(metrics)
        self._emit_ms = (clock() - sampled) * 1000
        return events

    def _take_cancels(self, deltas: list[Event], finished: list[Event]) -> None:
        """Carry out the cancels that have come in; ids that aren't here yet are remembered."""
        while self._cancel_inbox:
            generation_id = self._cancel_inbox.popleft()
            for generation in self._running.values():
                if generation.command.generation_id == generation_id:
                    self._finish(generation, "cancelled", deltas, finished)
                    break
            else:
                prepared = self._scheduler.withdraw(generation_id)
                if prepared is not None:
                    self._refuse(prepared, "cancelled", None, finished)
                else:
                    self._early_cancels[generation_id] = None
                    if len(self._early_cancels) > EARLY_CANCELS:
                        self._early_cancels.popitem(last=False)

    def _admit(self, events: list[Event], finished: list[Event]) -> None:
        """Give free slots to those that wait, first come first served."""
        waiting = self._scheduler.waiting
        while waiting and self._slots.n_free:
            prepared = waiting.popleft()
            command, prompt = prepared.command, prepared.prompt_tokens
            seed = command.sampling.seed
            if seed is None:
                seed = random.getrandbits(32)
            try:
                sampler = self._backend.new_sampler(
                    SamplerSpec(command.sampling, seed, command.logprobs, prepared.grammar), prompt
                )
            except TokenglassError as error:
                self._refuse(prepared, "error", error.info, finished)
                continue
            slot, prefix = self._slots.choose(prompt)
            cached = self._backend.keep(slot.id, prefix)
            self._slots.acquire(slot, prompt, cached)
            self._scheduler.running.append(slot)
            generation = _Generation(prepared, slot, sampler, Output(prepared, self._pieces), cached)
            generation.marks.started = t = self._clock()
            self._running[slot.id] = generation
            events.append(
                GenerationStarted(
                    t=t,
                    generation_id=command.generation_id,
                    client_id=command.client_id,
                    origin=command.origin,
                    model=self._info.id,
                    prompt_tokens=len(prompt),
                    cached_tokens=cached,
                    slot=slot.id,
                    seed=seed,
                    trimmed_messages=prepared.trimmed_messages,
                )
            )

    def _advance(self, plan: Plan, t: float, events: list[Event]) -> None:
        """Count what has been computed, and tell how far prompts are that take more than one step."""
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            in_prompt = slot.computed < slot.n_prompt
            slot.computed += count
            if not in_prompt:
                continue
            generation = self._running[slot.id]
            if slot.computed == slot.n_prompt:
                generation.marks.computed = t
            if count < slot.n_prompt - generation.cached:
                events.append(
                    PromptProgress(
                        t=t,
                        generation_id=generation.command.generation_id,
                        done=slot.computed,
                        total=slot.n_prompt,
                    )
                )

    def _sample(
        self, plan: Plan, deltas: list[Event], finished: list[Event]
    ) -> list[tuple[_Generation, Sampled, float]]:
        """A token for each generation whose tokens are all computed."""
        samples = []
        end = 0
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            end += count
            generation = self._running.get(slot.id)
            if generation is None or slot.missing:  # cancelled meanwhile, or still in its prompt
                continue
            try:
                sample = self._backend.sample(generation.sampler, end - 1)
            except TokenglassError as error:
                self._finish(generation, "error", deltas, finished, error.info)
                continue
            samples.append((generation, sample, self._clock()))
        return samples

    def _emit(
        self, generation: _Generation, sample: Sampled, t: float, deltas: list[Event], finished: list[Event]
    ) -> None:
        """Deliver one token and see whether it was the last.

        An end-of-generation token is neither delivered nor counted, so that `completion_tokens` is the
        number of tokens that a client has seen (llama-server counts it).
        """
        if self._is_eog(sample.token):
            self._finish(generation, "stop", deltas, finished)
            return
        output, slot = generation.output, generation.slot
        output.push(sample, t, deltas)
        generation.marks.token(t)
        slot.tokens.append(sample.token)
        if output.stopped:
            self._finish(generation, "stop", deltas, finished)
        elif output.n_tokens == generation.max_tokens:
            self._finish(generation, "length", deltas, finished)
        elif len(slot.tokens) >= self._info.n_ctx:
            self._finish(generation, "context_full", deltas, finished)

    def _finish(
        self,
        generation: _Generation,
        reason: FinishReason,
        deltas: list[Event],
        finished: list[Event],
        error: ErrorInfo | None = None,
    ) -> None:
        """End a generation that has a slot. After an error its KV cache isn't trusted any more."""
        t = self._clock()
        output, slot = generation.output, generation.slot
        output.finish(t, deltas)
        generation.sampler.close()
        del self._running[slot.id]
        self._scheduler.running.remove(slot)
        self._slots.release(slot, forget=error is not None)
        if error is not None:
            self._backend.keep(slot.id, 0)
        if reason == "stop" and output.tool_calls:
            reason = "tool_calls"
        prepared = generation.prepared
        finished.append(
            GenerationFinished(
                t=t,
                generation_id=generation.command.generation_id,
                finish_reason=reason,
                text=output.text,
                reasoning=output.reasoning,
                tool_calls=output.tool_calls,
                usage=Usage(
                    prompt_tokens=len(prepared.prompt_tokens),
                    cached_tokens=generation.cached,
                    completion_tokens=output.n_tokens,
                ),
                timings=generation.marks.timings(),
                error=error,
            )
        )

    def _refuse(
        self, prepared: Prepared, reason: FinishReason, error: ErrorInfo | None, finished: list[Event]
    ) -> None:
        """End a generation that never had a slot."""
        usage = Usage(prompt_tokens=len(prepared.prompt_tokens), cached_tokens=0, completion_tokens=0)
        finished.append(
            GenerationFinished(
                t=self._clock(),
                generation_id=prepared.command.generation_id,
                finish_reason=reason,
                text="",
                usage=usage,
                timings=Timings(),
                error=error,
            )
        )
