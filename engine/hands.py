"""Hands on a generation, between two steps: pause, step, update, rewind, inject, fork.

What was done to it, a generation goes on as though its tokens had always been these: what the KV cache
lacks is computed by the next steps, its text and its sampler are made anew over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from engine.backend import Sampled, Sampler
from engine.commands import Continue, Control, Fork, Inject, Pause, Rewind, StepTokens, Update
from engine.errors import TokenglassError
from engine.events import (
    Event,
    GenerationForked,
    GenerationPaused,
    GenerationResumed,
    GenerationRewound,
    GenerationUpdated,
)
from engine.generation import Generation, seed_of
from engine.replies import ControlDone, Message
from engine.roster import Roster
from engine.types import Resume, SamplingParams


class Hands:
    """Carries out control commands. One that is refused changes nothing."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._backend = roster.backend

    def control(self, command: Control) -> list[Message]:
        """Exactly one `ControlDone`, then the events that follow from what was done."""
        generation = self._roster.by_id.get(command.generation_id)
        events: list[Event] = []
        try:
            if generation is None:
                raise TokenglassError(
                    "not_found", f"no generation {command.generation_id[:100]!r} is running"
                )
            result = self._carry_out(command, generation, events)
        except TokenglassError as error:
            return [ControlDone(request_id=command.request_id, error=error.info)]
        return [ControlDone(request_id=command.request_id, result=result), *events]

    def _carry_out(self, command: Control, generation: Generation, events: list[Event]) -> dict[str, Any]:
        match command:
            case Pause():
                self._pause(generation, events)
            case Continue():
                self._resume(generation, events)
            case StepTokens():
                self._step(generation, command.tokens)
            case Update():
                self._update(generation, command.sampling, events)
                return {"at_token": generation.n_told, "sampling": generation.sampling.model_dump()}
            case Rewind():
                self._rewind(generation, command.tokens, events)
                return {"at_token": generation.n_tokens, "removed": command.tokens}
            case Inject():
                self._inject(generation, command.text, events)
                return {"at_token": generation.n_tokens}
            case Fork():
                self._fork(generation, command, events)
                return {"at_token": command.at_token}
        return {"at_token": generation.n_told}

    def _pause(self, generation: Generation, events: list[Event]) -> None:
        if generation.paused:
            return
        generation.pause(True)
        events.append(
            GenerationPaused(t=self._roster.clock(), generation_id=generation.id, at_token=generation.n_told)
        )

    def _resume(self, generation: Generation, events: list[Event]) -> None:
        if not generation.paused and generation.steps_left is None:
            return
        generation.pause(False)
        events.append(
            GenerationResumed(t=self._roster.clock(), generation_id=generation.id, at_token=generation.n_told)
        )

    def _step(self, generation: Generation, n_tokens: int) -> None:
        if not generation.paused:
            raise TokenglassError("bad_state", "only a paused generation can step", hint="pause it first")
        generation.pause(False)
        generation.steps_left = n_tokens

    def _update(self, generation: Generation, changes: dict[str, Any], events: list[Event]) -> None:
        """The seed in force counts as a parameter too; an explicit null asks for a new random one."""
        sampling = _changed(generation.sampling, changes)
        seed = seed_of(sampling.seed) if "seed" in changes else generation.seed
        sampler = generation.new_sampler(self._backend, sampling, seed)
        generation.sampling, generation.seed = sampling.model_copy(update={"seed": seed}), seed
        generation.set_sampler(sampler)
        events.append(
            GenerationUpdated(
                t=self._roster.clock(),
                generation_id=generation.id,
                at_token=generation.n_told,
                sampling=generation.sampling,
            )
        )

    def _rewind(self, generation: Generation, n_tokens: int, events: list[Event]) -> None:
        """The sampler's random state goes on, so that another continuation may come.

        The event speaks of the tokens that were told; one that waits may have others.
        """
        kept = generation.n_tokens - n_tokens
        if kept < 0:
            message = f"it has only {generation.n_tokens} tokens that could be removed"
            raise TokenglassError("invalid_argument", message, path="tokens")
        removed, untold = generation.rewind(kept)
        output = generation.output
        events.append(
            GenerationRewound(
                t=self._roster.clock(),
                generation_id=generation.id,
                at_token=output.n_tokens,
                removed=removed,
                text=output.text,
                reasoning=output.reasoning,
                tool_calls=list(output.tool_calls),
                open_call=output.open_call,
            )
        )
        generation.tell_later(untold, self._roster.clock())
        generation.set_sampler(generation.new_sampler(self._backend, generation.sampling, generation.seed))
        if generation.slot is not None:  # the last token's logits are needed again
            self._roster.slots.cut(generation.slot, len(generation.tokens) - 1)

    def _inject(self, generation: Generation, text: str, events: list[Event]) -> None:
        """As though the model had written it: it counts, a stop string in it ends the answer, limits hold.

        One that waits for a slot tells the tokens when it has started.
        """
        roster = self._roster
        tokens = self._backend.tokenize(text, add_special=False, parse_special=False)
        _check_room(generation, len(tokens), roster.limit)
        generation.set_sampler(self._sampler_after(generation, tokens))
        deltas = events if generation.slot is not None else generation.untold
        for token in tokens:
            generation.push(Sampled(token), roster.clock(), deltas, injected=True)
            if generation.output.stopped:
                break
        roster.end_if_due(generation, events, events)

    def _fork(self, generation: Generation, command: Fork, events: list[Event]) -> None:
        """The branch is a generation like any other; admission gives it the source's cells."""
        n_tokens, token = command.at_token, command.token_id
        if n_tokens > generation.n_told:
            message = f"it has told only {generation.n_told} tokens so far"
            raise TokenglassError("invalid_argument", message, path="at_token")
        resume = Resume(
            kind="forked",
            prompt_tokens=generation.prepared.prompt_tokens,
            tokens=generation.completion[:n_tokens],
            injected=sorted(index for index in generation.injected if index < n_tokens),
            seed=seed_of(None),
            trimmed_messages=generation.prepared.trimmed_messages,
            reasoning_open=generation.prepared.reasoning_open,
        )
        update = {
            "generation_id": command.branch_id,
            "client_id": command.client_id,
            "origin": command.origin,
            "received_t": command.received_t,
            "sampling": generation.sampling.model_copy(update={"seed": None}),
            "paused": False,
            "resume": resume,
        }
        prepared = replace(generation.prepared, command=generation.command.model_copy(update=update))
        branch = Generation(prepared, self._roster.pieces)
        events.append(
            GenerationForked(
                t=self._roster.clock(),
                generation_id=generation.id,
                branch_id=branch.id,
                at_token=n_tokens,
                token_id=token,
                text=branch.output.text,
                reasoning=branch.output.reasoning,
                tool_calls=list(branch.output.tool_calls),
                open_call=branch.output.open_call,
            )
        )
        if token is not None:
            self._check_token(token)
            self._sampler_after(branch, [token]).close()
            branch.push(Sampled(token), self._roster.clock(), branch.untold, injected=True)
        self._roster.take(branch, events)

    def _check_token(self, token: int) -> None:
        n_vocab = self._backend.info.n_vocab
        if not 0 <= token < n_vocab:
            message = f"the vocabulary has the tokens 0 to {n_vocab - 1}"
            raise TokenglassError("invalid_argument", message, path="token_id")
        if self._roster.is_eog(token):
            message = "this token ends the answer, so no branch can go on after it"
            raise TokenglassError("invalid_argument", message, path="token_id")

    def _sampler_after(self, generation: Generation, tokens: Sequence[int]) -> Sampler:
        """A sampler that has taken some more tokens. Raises TokenglassError where the grammar forbids one."""
        sampler = generation.new_sampler(self._backend, generation.sampling, generation.seed)
        for token in tokens:
            if not sampler.allows(token):
                sampler.close()
                text = self._roster.pieces.text(token)
                raise TokenglassError("bad_state", f"the answer's grammar doesn't allow {text!r} here")
            sampler.accept(token)
        return sampler


def _check_room(generation: Generation, n_tokens: int, limit: int) -> None:
    """Raises TokenglassError `context_overflow` where so many more tokens are too many."""
    if generation.n_tokens + n_tokens > generation.max_tokens:
        left = generation.max_tokens - generation.n_tokens
        raise TokenglassError("context_overflow", f"{n_tokens} tokens, and max_tokens leaves {left}")
    if len(generation.tokens) + n_tokens > limit:
        left = limit - len(generation.tokens)
        raise TokenglassError("context_overflow", f"{n_tokens} tokens, and the context has room for {left}")


def _changed(sampling: SamplingParams, changes: dict[str, Any]) -> SamplingParams:
    """Raises TokenglassError `invalid_argument` with the path of what is wrong."""
    try:
        return SamplingParams.model_validate(sampling.model_dump() | changes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(("sampling", *(str(part) for part in first["loc"] if part != "[key]")))
        raise TokenglassError("invalid_argument", f"{path}: {first['msg']}", path=path) from None
