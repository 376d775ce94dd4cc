"""One generation from the moment it is taken on: its tokens, what they say, and how the next is chosen."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from engine.backend import Backend, Sampled, Sampler, SamplerSpec
from engine.detokenize import PieceCache
from engine.events import Event
from engine.lookup import Lookup
from engine.output import Output
from engine.prepared import Prepared
from engine.slots import Slot
from engine.timing import Marks
from engine.types import SamplingParams


class Generation:
    """Waiting, or with a slot. Everything that is kept of it follows from its tokens and can be made anew."""

    __slots__ = (
        "_n_drawn",
        "_n_told",
        "_pieces",
        "accepted_tokens",
        "cached",
        "command",
        "draft_tokens",
        "ended",
        "id",
        "injected",
        "lookup",
        "marks",
        "max_tokens",
        "n_prompt",
        "output",
        "paused",
        "prepared",
        "sampler",
        "sampling",
        "seed",
        "slot",
        "steps_left",
        "tells_progress",
        "tokens",
        "untold",
    )

    def __init__(self, prepared: Prepared, pieces: PieceCache) -> None:
        command, resume = prepared.command, prepared.command.resume
        self.prepared = prepared
        self.command = command
        self.id = command.generation_id
        self.tokens = list(prepared.prompt_tokens)
        """Prompt and completion."""
        self.n_prompt = len(self.tokens)
        self.sampling = command.sampling
        """The parameters in force."""
        self.max_tokens = sys.maxsize if command.max_tokens is None else command.max_tokens
        self.injected: set[int] = set()
        """Indices of the completion tokens that weren't sampled."""
        self.output = Output(prepared, pieces)
        self.marks = Marks(command.received_t)
        self.slot: Slot | None = None
        self.sampler: Sampler | None = None
        """While it has a slot."""
        self.paused = command.paused
        self.steps_left: int | None = None
        """Tokens until it pauses again, where it was told to step."""
        self.cached = 0
        """Prompt tokens that needn't be computed."""
        self.lookup: Lookup | None = None
        """While it has a slot, where guesses are asked for."""
        self.draft_tokens = self.accepted_tokens = 0
        self.ended = False
        self.tells_progress = False
        """Its prompt takes more than one step."""
        self.untold: list[Event] = []
        """Deltas that wait for its start."""
        self._pieces = pieces
        self._n_drawn = 0
        self._n_told = 0
        seed = command.sampling.seed
        if resume is not None:
            seed = resume.seed
            n_told = len(resume.tokens) - resume.untold
            self.tokens += resume.tokens[:n_told]
            self.injected.update(resume.injected)
            self.output.replay(resume.tokens[:n_told], self.injected)
            self.marks.started = resume.started_t
            self.marks.computed = resume.computed_t
            first = n_told - len(resume.times)
            self.marks.times += [
                t for index, t in enumerate(resume.times, first) if index not in self.injected
            ]
            self.cached = resume.cached_tokens
            self.paused = resume.paused
            self.draft_tokens, self.accepted_tokens = resume.draft_tokens, resume.accepted_tokens
            self._n_drawn = resume.n_drawn
            self._n_told = n_told
            for token in resume.tokens[n_told:]:
                self.push(Sampled(token), command.received_t, self.untold, injected=True)
        self.seed = seed_of(seed)

    @property
    def n_tokens(self) -> int:
        """Completion tokens so far."""
        return self.output.n_tokens

    @property
    def n_told(self) -> int:
        """Of these, those that were told already."""
        return self._n_told if self.slot is None else self.n_tokens

    @property
    def completion(self) -> list[int]:
        return self.tokens[self.n_prompt :]

    @property
    def recovered(self) -> bool:
        """Another worker has begun it."""
        return self.command.resume is not None and self.command.resume.kind == "recovered"

    @property
    def held(self) -> bool:
        """Whether it lets others pass while it waits: paused, and it never had a slot that it gets back."""
        return self.paused and not self.recovered

    @property
    def n_drawn(self) -> int:
        return self._n_drawn if self.sampler is None else self.sampler.n_drawn

    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.steps_left = None
        if self.slot is not None:
            self.slot.paused = paused

    def new_sampler(self, backend: Backend, sampling: SamplingParams, seed: int) -> Sampler:
        """A chain over all its tokens that goes on where its present one stands.

        Raises TokenglassError `invalid_argument`.
        """
        spec = SamplerSpec(sampling, seed, self.command.logprobs, self.prepared.grammar)
        return backend.new_sampler(spec, self.prepared.prompt_tokens, self.completion, self.n_drawn)

    def set_sampler(self, sampler: Sampler) -> None:
        """Choose with this chain from now on; one that waits gets a chain later and keeps only the count."""
        if self.sampler is not None:
            self.sampler.close()
        self._n_drawn = sampler.n_drawn
        if self.slot is not None:
            self.sampler = sampler
        else:
            sampler.close()

    def push(self, sampled: Sampled, t: float, events: list[Event], *, injected: bool = False) -> None:
        """Take one more token, and tell it."""
        if injected:
            self.injected.add(self.output.n_tokens)
        else:
            self.marks.times.append(t)
        self.tokens.append(sampled.token)
        self.output.push(sampled, t, events, injected=injected)

    def draft(self, limit: int) -> list[int]:
        """Guesses of the next tokens; they and one more fit into `limit`, `max_tokens` and its steps."""
        assert self.lookup is not None
        self.lookup.add(self.tokens[len(self.lookup) :])
        left = min(self.max_tokens - self.n_tokens, limit - len(self.tokens))
        if self.steps_left is not None:
            left = min(left, self.steps_left)
        return self.lookup.propose(min(self.command.prompt_lookup_num_tokens, left - 1))

    def start(self, slot: Slot, sampler: Sampler, t: float) -> None:
        """A slot has taken it."""
        self.slot, self.sampler = slot, sampler
        slot.paused = self.paused
        marks = self.marks
        if marks.started is None:
            marks.started = t
        if marks.computed is None and slot.computed >= self.n_prompt:
            marks.computed = t
        if not self.recovered:
            self.cached = min(slot.computed, self.n_prompt)

    def rewind(self, n_tokens: int) -> tuple[int, list[int]]:
        """Drop all completion tokens but the first; what stood in the others has left no trace.

        Answers how many of the dropped were told, and the kept tokens that aren't told yet, for `tell_later`.
        """
        n_told = self.n_told
        self._n_told = min(n_told, n_tokens)
        kept = {index for index in self.injected if index < n_tokens}
        times, sampled = self.marks.times, self.n_tokens - n_tokens - len(self.injected - kept)
        del self.tokens[self.n_prompt + n_tokens :], times[max(0, len(times) - sampled) :]
        self.injected = kept
        if self.lookup is not None:
            self.lookup.rewind(min(len(self.lookup), len(self.tokens)))
        completion = self.completion
        self.output = Output(self.prepared, self._pieces)
        self.output.replay(completion[: self._n_told], self.injected)
        self.untold.clear()
        return n_told - self._n_told, completion[self._n_told :]

    def tell_later(self, tokens: Sequence[int], t: float) -> None:
        """Tell injected tokens, which it has already, after its start."""
        for token in tokens:
            self.output.push(Sampled(token), t, self.untold, injected=True)


def seed_of(seed: int | None) -> int:
    """The seed itself, or a random one where none is given."""
    return random.getrandbits(32) if seed is None else seed
