"""The generations under way: given to a worker, followed by what it says, and carried over its end.

Every generation accepted here gets exactly one `generation.finished`: the worker's own, or, where the
worker is gone or doesn't answer, one made here with what had come so far. Every command done to one gets
exactly one answer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable

from api.bus import EventBus
from api.recovery import Active, Done
from api.state import State
from engine.client import EngineClient
from engine.commands import (
    Cancel,
    Continue,
    Control,
    Embed,
    Fork,
    Generate,
    Pause,
    Rewind,
    StepTokens,
    Update,
)
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    BaseEvent,
    Event,
    GenerationEvent,
    GenerationFinished,
    GenerationPaused,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    GenerationUpdated,
)
from engine.replies import ControlDone, EmbedDone, Message, PromptReady
from engine.types import FinishReason, SamplingParams, Timings, Usage

MAX_DEATHS = 2
"""In how many workers' deaths a generation may have been running; then it is taken for their cause."""
MAX_SENDS = 2
"""How many workers a generation may be given to that ends before it has started."""
CANCEL_S = 2.0
"""A cancel that the worker hasn't carried out by then is carried out here; its late tokens are ignored."""
TAIL_CHARS = 400
"""How much of a dead worker's log an error message shows."""

EmbedDoneCallback = Callable[[EmbedDone], None]
_OWN = "app-"
"""How the ids of the app's own requests begin, which do once more what was done already."""
_STACKS = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)


class Generations:
    """All generations that aren't finished, in the order of their arrival. Loop thread only."""

    def __init__(self, bus: EventBus, state: State, on_work: Callable[[], None]) -> None:
        self._bus = bus
        self._state = state
        self._on_work = on_work
        """Called when the worker gets something to do."""
        self._worker: EngineClient | None = None
        self._active: dict[str, Active] = {}
        self._reserved = 0
        self._asked: dict[str, tuple[Control, Done]] = {}
        """What the worker hasn't answered yet, by request id."""
        self._embeds: dict[str, tuple[Embed, EmbedDoneCallback]] = {}
        self._cancelling: dict[str, asyncio.TimerHandle] = {}
        self._left: set[str] = set()
        """Finished here, but the worker has them still."""
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._active)

    def __contains__(self, generation_id: object) -> bool:
        return generation_id in self._active

    @property
    def has_work(self) -> bool:
        """Whether the worker owes a sign of life."""
        return self._worker is not None and bool(
            self._asked or self._embeds or self._left or any(a.sent for a in self._active.values())
        )

    # ---- what clients ask

    def reserve(self, limit: int) -> None:
        """Keep a place for one more until `submit`, `control` (a fork) or `release`.

        Raises TokenglassError `busy` where that is beyond `limit`.
        """
        if len(self._active) + self._reserved >= limit:
            raise TokenglassError("busy", "too many generations are waiting", hint="try again later")
        self._reserved += 1

    def release(self) -> None:
        """Give a reserved place back."""
        self._reserved -= 1

    def submit(self, command: Generate) -> None:
        """Take on a generation whose place was reserved and whose `generation.queued` was published."""
        self._reserved -= 1
        self._active[command.generation_id] = Active(command)
        self._pump()

    def cancel(self, generation_id: str) -> None:
        """End a generation, wherever it is; does nothing where it has ended."""
        active = self._active.get(generation_id)
        if active is None or generation_id in self._cancelling:
            return
        if active.sent and self._worker is not None:
            self._worker.send(Cancel(generation_id=generation_id))
            self._cancelling[generation_id] = asyncio.get_running_loop().call_later(
                CANCEL_S, self.finish, generation_id, "cancelled"
            )
        else:
            self.finish(generation_id, "cancelled")

    def control(self, command: Control, done: Done) -> None:
        """Do something to a generation; `done` gets the answer before any event that follows from it.

        Where no worker has the generation, it can be paused, resumed and updated at once; what else is
        asked then waits until one has it. Raises TokenglassError `not_found`, or `bad_state` where it has
        finished, and then never calls `done`. A `Fork` needs a reserved place, which it gives back.
        """
        active = self._find(command.generation_id)
        if active.sent:
            self._ask(command, done)
        elif active.controls or not isinstance(command, Pause | Continue | Update):
            active.controls.append((command, done))
        else:
            self._apply(active, command, done)

    def embed(self, command: Embed, done: EmbedDoneCallback) -> None:
        """Have embeddings made as soon as there is a worker."""
        self._embeds[command.request_id] = command, done
        if self._worker is not None:
            self._worker.send(command)
            self._on_work()

    def _find(self, generation_id: str) -> Active:
        active = self._active.get(generation_id)
        if active is not None:
            return active
        if generation_id in self._state.finished:
            raise TokenglassError("bad_state", "this generation has finished", path="generation_id")
        raise TokenglassError("not_found", f"no generation {generation_id[:100]!r}", path="generation_id")

    def _apply(self, active: Active, command: Pause | Continue | Update, done: Done) -> None:
        """Change what the next worker will be told; the client sees what a worker would have shown."""
        key, at_token = active.generation_id, len(active.tokens)
        result: dict[str, object] = {"at_token": at_token}
        event: GenerationPaused | GenerationResumed | GenerationUpdated | None = None
        if isinstance(command, Pause):
            if not active.paused or active.steps_left is not None:
                event = GenerationPaused(generation_id=key, at_token=at_token)
        elif isinstance(command, Continue):
            if active.paused:
                event = GenerationResumed(generation_id=key, at_token=at_token)
        else:
            sampling = SamplingParams(**active.command.sampling.model_dump() | command.sampling)
            if active.seed is not None:  # once it has started, the seed in force is a parameter as any
                seed = command.sampling.get("seed", active.seed)
                seed = random.getrandbits(32) if seed is None else seed
                sampling = sampling.model_copy(update={"seed": seed})
            result["sampling"] = sampling.model_dump(mode="json")
            event = GenerationUpdated(generation_id=key, at_token=at_token, sampling=sampling)
        done(ControlDone(request_id=command.request_id, result=result))
        if event is not None:
            active.fold(event)
            self._bus.publish(event)

    # ---- the worker

    def take_worker(self, worker: EngineClient) -> None:
        """From now on there is a worker with the model loaded: give it all that waits."""
        self._worker = worker
        for command, _ in self._embeds.values():
            worker.send(command)
        self._pump()
        if self.has_work:
            self._on_work()

    def lose_worker(self, lost: ErrorInfo, log_tail: str, *, blame: bool) -> None:
        """The worker has ended: answer what it was asked, and keep what the next one can go on with.

        `blame`: it ended by itself; where somebody has killed it, no prompt can be what did it.
        """
        if self._worker is not None:
            self._worker = None
            self._answer_all(lost)
        for generation_id in list(self._cancelling):
            self.finish(generation_id, "cancelled")
        self._left.clear()
        for generation_id, active in list(self._active.items()):
            active.lose_worker(blame=blame)
            if active.deaths >= MAX_DEATHS or (active.started is None and active.sends >= MAX_SENDS):
                self.finish(generation_id, "error", _blamed(lost, log_tail))

    def finish_all(self, reason: FinishReason, error: ErrorInfo | None, asked: ErrorInfo) -> None:
        """End everything from here; what the worker was asked is answered with `asked`."""
        self._worker = None
        for generation_id in list(self._active):
            self.finish(generation_id, reason, error)
        self._answer_all(asked)
        self._left.clear()

    def _answer_all(self, error: ErrorInfo) -> None:
        asked, self._asked = self._asked, {}
        embeds, self._embeds = self._embeds, {}
        for request_id, (command, done) in asked.items():
            if isinstance(command, Fork):
                self._reserved -= 1
            done(ControlDone(request_id=request_id, error=error))
        for request_id, (_, embedded) in embeds.items():
            embedded(EmbedDone(request_id=request_id, error=error))

    def _pump(self) -> None:
        """Give the worker what it doesn't have yet, in order.

        Those that hadn't started when a worker ended go one at a time, each when the one before has
        started: so it shows whose prompt it was, should it happen again.
        """
        if self._worker is None:
            return
        for active in self._active.values():
            if not active.sent:
                self._send(self._worker, active)
            if active.suspect and not active.paused:
                return

    def _send(self, worker: EngineClient, active: Active) -> None:
        active.sent = True
        active.sends += 1
        worker.send(active.to_send())
        key = active.generation_id
        for command in active.untold:
            quiet = _muting(active, GenerationRewound) if isinstance(command, Rewind) else _ignore
            self._ask(command.model_copy(update={"request_id": self._own_id()}), quiet)
        if active.untold and not active.paused:
            quiet = _muting(active, GenerationResumed)
            self._ask(Continue(request_id=self._own_id(), generation_id=key), quiet)
        if active.steps_left:
            step = StepTokens(request_id=self._own_id(), generation_id=key, tokens=active.steps_left)
            self._ask(step, _ignore)
        while active.controls:
            self._ask(*active.controls.popleft())
        self._on_work()

    def _own_id(self) -> str:
        return f"{_OWN}{next(self._numbers)}"

    def _ask(self, command: Control, done: Done) -> None:
        assert self._worker is not None
        self._asked[command.request_id] = command, done
        self._worker.send(command)
        self._on_work()

    def probe(self) -> None:
        """Ask the worker for a sign of life: what it can't find it answers too."""
        self._ask(Continue(request_id=self._own_id(), generation_id=""), _ignore)

    def take(self, message: Message) -> bool:
        """Fold one message of the worker; answers whether it is to be published."""
        if isinstance(message, ControlDone):
            self._answered(message)
        elif isinstance(message, EmbedDone):
            embed = self._embeds.pop(message.request_id, None)
            if embed is not None:
                embed[1](message)
        elif isinstance(message, PromptReady):
            if active := self._active.get(message.generation_id):
                active.fold(message)
        elif isinstance(message, GenerationEvent):
            return self._take_event(message, message.generation_id)
        return isinstance(message, BaseEvent)

    def _take_event(self, event: Event, key: str) -> bool:
        active = self._active.get(key)
        finished = isinstance(event, GenerationFinished)
        if active is None:  # finished from here
            if finished:
                self._left.discard(key)
            return False
        if finished:
            self._forget(active)
            self._pump()
            return True
        if active.mute is not None and isinstance(event, active.mute):
            active.mute = None
            return False
        active.fold(event)
        if isinstance(event, GenerationStarted):
            self._pump()
        return True

    def _answered(self, message: ControlDone) -> None:
        command, done = self._asked.pop(message.request_id, (None, _ignore))
        if command is None:
            return
        active = self._active.get(command.generation_id)
        if message.error is not None and message.error.code == "not_found":  # it has just ended there
            message = ControlDone(request_id=message.request_id, error=_FINISHED)
        if isinstance(command, Fork):
            self._reserved -= 1
            if message.error is None:
                if active is None:  # finished from here meanwhile, so nobody could go on with the branch
                    self._leave(command.branch_id)
                    message = ControlDone(request_id=message.request_id, error=_FINISHED)
                else:
                    self._active[command.branch_id] = active.branch(command)
        elif message.error is None and active is not None and not command.request_id.startswith(_OWN):
            active.done(command, message.result.get("at_token", 0))
        done(message)

    def _leave(self, generation_id: str) -> None:
        """Let the worker end what is no generation any more."""
        if self._worker is not None:
            self._worker.send(Cancel(generation_id=generation_id))
            self._left.add(generation_id)
            self._on_work()

    # ---- ends

    def finish(self, generation_id: str, reason: FinishReason, error: ErrorInfo | None = None) -> None:
        """Publish the last event of a generation that no worker will finish."""
        active = self._active[generation_id]
        if active.sent and self._worker is not None:
            self._left.add(generation_id)
        self._forget(active)
        had = self._state.generations.get(generation_id)
        self._bus.publish(
            GenerationFinished(
                generation_id=generation_id,
                finish_reason=reason,
                text="".join(had.text) if had else "",
                reasoning="".join(had.reasoning) if had else "",
                tool_calls=list(had.tool_calls) if had else [],
                usage=had.usage() if had else Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0),
                timings=had.timings() if had else Timings(),
                error=error,
            )
        )
        self._pump()

    def _forget(self, active: Active) -> None:
        del self._active[active.generation_id]
        if timer := self._cancelling.pop(active.generation_id, None):
            timer.cancel()
        for command, done in active.controls:
            if isinstance(command, Fork):
                self._reserved -= 1
            done(ControlDone(request_id=command.request_id, error=_FINISHED))


_FINISHED = ErrorInfo(code="bad_state", message="this generation has finished", path="generation_id")


def _ignore(_done: ControlDone) -> None:
    """Nobody waits for this answer."""


def _muting(active: Active, event: type[Event]) -> Done:
    """What follows from this command at once was told when it was done the first time."""

    def done(message: ControlDone) -> None:
        active.mute = None if message.error else event

    return done


def _blamed(lost: ErrorInfo, log_tail: str) -> ErrorInfo:
    """What a generation is told that is taken for the cause of two deaths."""
    # one line, without the stacks that faulthandler writes after the reason
    words = " ".join(_STACKS.split(log_tail, maxsplit=1)[0].split())[-TAIL_CHARS:]
    said = f"; the engine's last words: {words}" if words else ""
    return ErrorInfo(
        code="engine_lost",
        message=f"{lost.message}, the second time with this generation, so it isn't tried again{said}",
        hint="ask something else; the engine's log has more",
    )
