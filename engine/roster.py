"""Who is here: takes generations on, gives them slots, and ends them, each exactly once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

from engine.backend import Backend
from engine.detokenize import PieceCache
from engine.errors import ErrorInfo, TokenglassError
from engine.events import Event, GenerationFinished, GenerationRecovered, GenerationStarted
from engine.generation import Generation
from engine.lookup import Lookup
from engine.prefix import prefix_break
from engine.prepared import Prepared
from engine.replies import Message, PromptReady
from engine.scheduler import Scheduler
from engine.slots import Slots
from engine.types import FinishReason, PrefixBreak, Usage, WorkerConfig

EARLY_CANCELS = 4096
"""How many cancelled ids are remembered for generations that haven't been added yet."""


class Roster:
    """All generations of a core that haven't ended, waiting or with a slot."""

    def __init__(self, backend: Backend, config: WorkerConfig, clock: Callable[[], float]) -> None:
        self.backend = backend
        self.clock = clock
        self.slots = Slots(backend)
        self.scheduler = Scheduler(backend.info.n_batch, config.queue_limit)
        self.pieces = PieceCache(backend.piece)
        self.is_eog = cache(backend.is_eog)
        self.by_id: dict[str, Generation] = {}
        self.by_slot: dict[int, Generation] = {}
        self.guessing: dict[int, Generation] = {}
        """By slot id, those whose next tokens are guessed."""
        self._last: dict[int, Generation] = {}
        """By slot id: whose tokens the slot has."""
        self.limit = min(backend.info.n_ctx, self.slots.cells.total)
        """Tokens of prompt and completion together."""
        self._early_cancels: OrderedDict[str, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Generations that wait for a slot."""
        return len(self.scheduler.waiting)

    def add(self, prepared: Prepared, events: list[Event]) -> None:
        """Take on a generation with a new id, or end it at once."""
        generation = Generation(prepared, self.pieces)
        n_prompt, n_tokens = generation.n_prompt, len(generation.tokens)
        try:
            if n_prompt == 0:
                raise TokenglassError("invalid_prompt", "the prompt has no tokens")
            if n_tokens == n_prompt >= self.limit:
                raise TokenglassError(
                    "context_overflow",
                    f"the prompt has {n_prompt} tokens, the context holds {self.limit} with the answer",
                    hint="shorten the prompt, or load the model with a longer context",
                )
            self.take(generation, events)
        except TokenglassError as error:
            self.finish(generation, "error", events, events, error.info)

    def take(self, generation: Generation, events: list[Event]) -> None:
        """Let a new generation wait for a slot, unless it is over already.

        Raises TokenglassError `busy` where the queue is full.
        """
        if generation.id in self._early_cancels:
            del self._early_cancels[generation.id]
            self.finish(generation, "cancelled", events, events)
            return
        if not self.scheduler.enqueue(generation, self.slots.n_free):
            message = f"{self.waiting} generations wait already"
            raise TokenglassError("busy", message, hint="try again when some have finished")
        self.by_id[generation.id] = generation
        self.end_if_due(generation, events, events)

    def cancel(self, generation_id: str, deltas: list[Event], finished: list[Event]) -> None:
        """End a generation; an id that isn't here yet is remembered."""
        generation = self.by_id.get(generation_id)
        if generation is not None:
            self.finish(generation, "cancelled", deltas, finished)
            return
        self._early_cancels[generation_id] = None
        if len(self._early_cancels) > EARLY_CANCELS:
            self._early_cancels.popitem(last=False)

    def admit(self, messages: list[Message], deltas: list[Event], finished: list[Event]) -> None:
        """Give free slots to those that wait, first come first served."""
        while self.slots.n_free and (generation := self.scheduler.next_ready()) is not None:
            try:
                sampler = generation.new_sampler(self.backend, generation.sampling, generation.seed)
            except TokenglassError as error:
                self.finish(generation, "error", deltas, finished, error.info)
                continue
            self.scheduler.waiting.remove(generation)
            prefixes = self.slots.prefixes(generation.tokens)
            broken = self._broken(generation, prefixes)
            slot = self.slots.acquire(generation.tokens, generation.n_prompt, prefixes)
            self.scheduler.running.append(slot)
            self.by_slot[slot.id] = self._last[slot.id] = generation
            t, n_told = self.clock(), generation.n_told
            generation.start(slot, sampler, t)
            if generation.command.prompt_lookup_num_tokens > 0 and not self.backend.info.recurrent:
                generation.lookup = Lookup(generation.tokens)
                self.guessing[slot.id] = generation
            self._tell_start(generation, n_told, broken, t, messages)
            deltas += generation.untold
            generation.untold.clear()

    def _broken(self, generation: Generation, prefixes: Sequence[int]) -> PrefixBreak | None:
        """Where and why its prompt parts from what the best slot holds; None where it doesn't."""
        slot = self.slots.parted(generation.tokens, prefixes)
        if slot is None or generation.command.resume is not None:
            return None
        return prefix_break(self._last[slot.id], generation, prefixes[slot.id])

    def _tell_start(
        self,
        generation: Generation,
        n_told: int,
        broken: PrefixBreak | None,
        t: float,
        messages: list[Message],
    ) -> None:
        command, prepared, slot = generation.command, generation.prepared, generation.slot
        assert slot is not None
        if generation.recovered:
            recovered = GenerationRecovered(
                t=t,
                generation_id=generation.id,
                at_token=n_told,
                slot=slot.id,
                cached_tokens=slot.computed,
            )
            messages.append(recovered)
        else:
            messages.append(
                PromptReady(
                    generation_id=generation.id,
                    prompt_tokens=prepared.prompt_tokens,
                    reasoning_open=prepared.reasoning_open,
                )
            )
            messages.append(
                GenerationStarted(
                    t=t,
                    generation_id=generation.id,
                    client_id=command.client_id,
                    origin=command.origin,
                    model=self.backend.info.id,
                    prompt_tokens=generation.n_prompt,
                    cached_tokens=generation.cached,
                    slot=slot.id,
                    seed=generation.seed,
                    trimmed_messages=prepared.trimmed_messages,
                    prefix_break=broken,
                )
            )

    def end_if_due(self, generation: Generation, deltas: list[Event], finished: list[Event]) -> bool:
        """End a generation whose last token was its last; whoever wrote it."""
        output = generation.output
        if output.stopped:
            self.finish(generation, "stop", deltas, finished)
        elif output.n_tokens >= generation.max_tokens:
            self.finish(generation, "length", deltas, finished)
        elif len(generation.tokens) >= self.limit:
            self.finish(generation, "context_full", deltas, finished)
        else:
            return False
        return True

    def finish(
        self,
        generation: Generation,
        reason: FinishReason,
        deltas: list[Event],
        finished: list[Event],
        error: ErrorInfo | None = None,
    ) -> None:
        """End a generation wherever it is. After an error its KV cache isn't trusted any more.

        Of one that never started nothing is told but its end, which has what was injected.
        """
        t = self.clock()
        output, slot = generation.output, generation.slot
        generation.ended = True
        last = deltas if slot is not None or generation.recovered else []
        last += generation.untold
        output.finish(t, last)
        if slot is not None:
            assert generation.sampler is not None
            generation.sampler.close()
            generation.lookup = None
            del self.by_slot[slot.id]
            self.guessing.pop(slot.id, None)
            self.scheduler.running.remove(slot)
            self.slots.release(slot, forget=error is not None)
        elif generation.id in self.by_id:
            self.scheduler.waiting.remove(generation)
        self.by_id.pop(generation.id, None)
        if reason == "stop" and output.tool_calls:
            reason = "tool_calls"
        finished.append(
            GenerationFinished(
                t=t,
                generation_id=generation.id,
                finish_reason=reason,
                text=output.text,
                reasoning=output.reasoning,
                tool_calls=output.tool_calls,
                usage=Usage(
                    prompt_tokens=generation.n_prompt,
                    cached_tokens=generation.cached,
                    completion_tokens=output.n_tokens,
                    draft_tokens=generation.draft_tokens,
                    accepted_tokens=generation.accepted_tokens,
                ),
                timings=generation.marks.timings(),
                error=error,
            )
        )
