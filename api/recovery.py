"""What the app keeps of a generation under way, so that another worker can go on where one has ended."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.commands import Control, Fork, Generate, Inject, Rewind, StepTokens
from engine.events import (
    Event,
    GenerationDelta,
    GenerationPaused,
    GenerationRecovered,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    GenerationUpdated,
    PromptProgress,
    ReasoningDelta,
    TokenEvent,
    ToolCallDelta,
)
from engine.replies import ControlDone, Message, PromptReady
from engine.types import Resume, SamplingParams, Token

Done = Callable[[ControlDone], None]
"""Takes the one answer to a command; never raises."""


@dataclass(slots=True, eq=False)
class Active:
    """An accepted generation that isn't finished; folds the worker's messages about it, in their order."""

    command: Generate
    """As it was accepted, but with the sampling parameters in force."""
    sent: bool = False
    """The present worker has it."""
    has_slot: bool = False
    """The present worker has given it a slot."""
    sends: int = 0
    deaths: int = 0
    """Workers that ended while this had a slot of theirs."""
    prompt: PromptReady | None = None
    started: GenerationStarted | None = None
    computed_t: float | None = None
    """When its last prompt token was computed; told only of prompts that take more than one step."""
    tokens: array[int] = field(default_factory=lambda: array("i"))
    times: array[float] = field(default_factory=lambda: array("d"))
    """When they were sampled; a branch has none for the tokens of its source."""
    injected: list[int] = field(default_factory=list)
    """Indices of the tokens that weren't sampled."""
    n_drawn: int = 0
    """How many tokens were sampled, those that were rewound included."""
    seed: int | None = None
    paused: bool = False
    steps_left: int | None = None
    """Tokens until it pauses again, where it was told to step."""
    mute: type[Event] | None = None
    """Its worker is about to say this, which nobody else has asked for."""
    forced: list[int] = field(default_factory=list)
    """A branch's own first token, as long as it waits for a slot: nobody was told it yet."""
    untold: list[Control] = field(default_factory=list)
    """What was done to its text while it waited for a slot; its tokens come when it has one."""
    controls: deque[tuple[Control, Done]] = field(default_factory=deque)
    """What waits until it is with a worker again."""

    @property
    def generation_id(self) -> str:
        return self.command.generation_id

    @property
    def suspect(self) -> bool:
        """Sent and not started, and a worker that had it so has ended before: it may be its prompt."""
        return self.sent and self.started is None and self.sends > 1

    def fold(self, message: Message) -> None:
        match message:
            case GenerationDelta() | ReasoningDelta() | ToolCallDelta():
                self._add(message)
            case PromptReady():
                self.prompt = message
            case GenerationStarted():
                self.started, self.seed = message, message.seed
                self._take_slot()
            case GenerationRecovered():
                self._take_slot()
            case PromptProgress():
                if message.done == message.total and self.computed_t is None:
                    self.computed_t = message.t
            case GenerationPaused():
                self.paused, self.steps_left = True, None
            case GenerationResumed():
                self.paused, self.steps_left = False, None
            case GenerationUpdated():
                self._update(message.sampling)
            case GenerationRewound():
                self._cut(message.at_token)
            case _:
                pass

    def _take_slot(self) -> None:
        self.has_slot = True
        self.forced.clear()
        self.untold.clear()

    def _update(self, sampling: SamplingParams) -> None:
        self.command = self.command.model_copy(update={"sampling": sampling})
        if sampling.seed is not None:
            self.seed = sampling.seed

    def done(self, command: Control, at_token: int) -> None:
        """The worker has carried a command out; the events that follow from it come next."""
        if isinstance(command, StepTokens):
            self.steps_left = command.tokens
        elif not self.has_slot and isinstance(command, Inject):
            self.untold.append(command)
        elif not self.has_slot and isinstance(command, Rewind):
            n_forced = at_token - len(self.tokens)
            if n_forced > len(self.forced):
                self.untold.append(command)
            else:
                self.untold.clear()
                del self.forced[max(0, n_forced) :]

    def _add(self, event: TokenEvent) -> None:
        for token in event.tokens:
            self._add_token(token)

    def _add_token(self, token: Token) -> None:
        if token.get("injected"):
            self.injected.append(token["index"])
        else:
            self.n_drawn += 1
            if self.steps_left is not None:
                self.steps_left -= 1
        self.tokens.append(token["id"])
        self.times.append(token["t"])

    def _cut(self, n_tokens: int) -> None:
        removed = max(0, len(self.tokens) - n_tokens)
        del self.tokens[n_tokens:], self.times[max(0, len(self.times) - removed) :]
        self.injected = [index for index in self.injected if index < n_tokens]

    def lose_worker(self, *, blame: bool) -> None:
        """Its worker is gone, if it had one; `blame`: by itself."""
        self.deaths += self.has_slot
        if self.sent and not blame:
            self.sends -= 1
        self.sent = self.has_slot = False
        self.mute = None

    def branch(self, fork: Fork) -> Active:
        """The generation that a worker has just made of this one's first tokens."""
        n = fork.at_token
        tokens, injected = self.tokens[:n], [index for index in self.injected if index < n]
        begun = self.command.resume
        prompt, start = self.prompt or begun, self.started or begun
        resume = Resume(
            kind="forked",
            prompt_tokens=prompt.prompt_tokens if prompt else [],
            seed=random.getrandbits(32),
            trimmed_messages=start.trimmed_messages if start else 0,
            reasoning_open=prompt is not None and prompt.reasoning_open,
        )
        command = self.command.model_copy(
            update={
                "generation_id": fork.branch_id,
                "client_id": fork.client_id,
                "origin": fork.origin,
                "received_t": fork.received_t,
                "sampling": self.command.sampling.model_copy(update={"seed": None}),
                "resume": resume,
            }
        )
        forced = [] if fork.token_id is None else [fork.token_id]
        return Active(command, sent=True, sends=1, tokens=tokens, injected=injected, forced=forced)

    def to_send(self) -> Generate:
        """The command for the next worker: as it was given, or to go on after the last delivered token.

        Held where its text has to be changed before it goes on.
        """
        started, paused = self.started, self.paused or bool(self.untold)
        if started is None:
            return self.command.model_copy(update={"paused": paused, "resume": self._begun(paused)})
        assert self.prompt is not None
        assert self.seed is not None
        computed_t = self.computed_t
        if computed_t is None:  # an injected token may be older than the start
            told = enumerate(self.times, len(self.tokens) - len(self.times))
            computed_t = next((t for index, t in told if index not in self.injected), None)
        resume = Resume(
            kind="recovered",
            prompt_tokens=self.prompt.prompt_tokens,
            tokens=self.tokens.tolist(),
            injected=self.injected,
            times=self.times.tolist(),
            n_drawn=self.n_drawn,
            seed=self.seed,
            cached_tokens=started.cached_tokens,
            started_t=started.t,
            computed_t=computed_t,
            trimmed_messages=started.trimmed_messages,
            reasoning_open=self.prompt.reasoning_open,
            paused=paused,
        )
        return self.command.model_copy(update={"resume": resume})

    def _begun(self, paused: bool) -> Resume | None:
        """Where a branch begins that hasn't started yet; None for what is no branch."""
        resume = self.command.resume
        if resume is None:
            return None
        return resume.model_copy(
            update={
                "tokens": self.tokens.tolist() + self.forced,
                "untold": len(self.forced),
                "injected": self.injected,
                "paused": paused,
            }
        )
