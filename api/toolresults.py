"""Results of a generation's tool calls: gathered until all are there, then another generation goes on.

What is needed for that stays in memory after a generation has ended with calls: of the newest `MAX_KEPT`, for
`KEPT_S`, and at most `MAX_KEPT_CHARS` of all they were asked and given.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

from api import protocol, starts
from api.bus import Envelope, EventBus
from api.clients import Client
from api.hands import Answer
from api.history import History, stored_events
from api.state import State
from api.supervisor import Supervisor
from engine import commands
from engine.errors import TokenglassError
from engine.events import (
    Event,
    GenerationFinished,
    GenerationForked,
    GenerationQueued,
    GenerationUpdated,
)
from engine.types import ChatMessage

MAX_KEPT = 256
KEPT_S = 600.0
MAX_KEPT_CHARS = 32 << 20

_END = ("cancelled", "error")
"""Nobody goes on after these: somebody has said stop, or what there is may be half of it."""


@dataclass(slots=True, eq=False)
class Asked:
    """A generation with tools: what it was asked, and once it has finished what its calls gave."""

    command: commands.Generate
    queued: GenerationQueued
    on_disconnect: Literal["continue", "cancel"]
    finished: GenerationFinished | None = None
    until: float = 0.0
    """When it is forgotten (monotonic seconds)."""
    n_chars: int = 0
    results: dict[str, str] = field(default_factory=dict)
    """By call id, in whatever order they came."""

    @property
    def calls(self) -> list[str]:
        assert self.finished is not None
        return [call.id for call in self.finished.tool_calls]

    @property
    def pending(self) -> list[str]:
        return [call_id for call_id in self.calls if call_id not in self.results]

    def messages(self) -> list[ChatMessage]:
        """What it was asked, what it said and what its calls gave, in the calls' order."""
        finished = self.finished
        assert finished is not None
        said = ChatMessage(
            role="assistant",
            content=finished.text,
            reasoning=finished.reasoning or None,
            tool_calls=finished.tool_calls,
        )
        gave = [
            ChatMessage(role="tool", content=self.results[call.id], tool_call_id=call.id, name=call.name)
            for call in finished.tool_calls
        ]
        return [*(self.command.messages or ()), said, *gave]


class ToolResults:
    """Takes results, and starts what follows from them. Loop thread only."""

    def __init__(self, bus: EventBus, state: State, supervisor: Supervisor, history: History) -> None:
        self._bus = bus
        self._state = state
        self._supervisor = supervisor
        self._history = history
        self._running: dict[str, Asked] = {}
        self._waiting: OrderedDict[str, Asked] = OrderedDict()
        """Finished with calls, the oldest first."""
        self._n_chars = 0
        bus.add_fold(self.fold)

    def watch(
        self,
        command: commands.Generate,
        queued: GenerationQueued,
        on_disconnect: Literal["continue", "cancel"],
    ) -> None:
        """A generation is about to begin; one without tools makes no calls."""
        if command.tools:
            self._running[command.generation_id] = Asked(command, queued, on_disconnect)

    def cancels(self, generation_id: str | None) -> bool:
        """Whether a generation ends with the connection of who asked for it, as the ones before it did."""
        asked = self._running.get(generation_id or "")
        return asked is not None and asked.on_disconnect == "cancel"

    def fold(self, envelope: Envelope) -> None:
        event = envelope.event
        match event:
            case GenerationFinished():
                if asked := self._running.pop(event.generation_id, None):
                    self._keep(asked, event)
            case GenerationUpdated():
                if asked := self._running.get(event.generation_id):
                    self._update(asked, event)
            case GenerationForked():
                if asked := self._running.get(event.generation_id):
                    self._branch(asked, event.branch_id)
            case _:
                pass

    def _keep(self, asked: Asked, event: GenerationFinished) -> None:
        if not event.tool_calls or event.finish_reason in _END:
            return
        asked.finished, asked.until = event, time.monotonic() + KEPT_S
        self._waiting[event.generation_id] = asked
        self._count(asked, _size(asked.command) + len(event.text) + len(event.reasoning))
        self._forget_old()

    def _count(self, asked: Asked, n_chars: int) -> None:
        asked.n_chars += n_chars
        self._n_chars += n_chars

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._waiting:
            asked = next(iter(self._waiting.values()))
            few = len(self._waiting) <= MAX_KEPT and self._n_chars <= MAX_KEPT_CHARS
            if few and now < asked.until:
                return
            self._waiting.popitem(last=False)
            self._n_chars -= asked.n_chars

    @staticmethod
    def _update(asked: Asked, event: GenerationUpdated) -> None:
        """The parameters in force go on; the seed stays what was asked for, else the next draws the same."""
        sampling = event.sampling.model_copy(update={"seed": asked.command.sampling.seed})
        asked.command = asked.command.model_copy(update={"sampling": sampling})

    def _branch(self, asked: Asked, branch_id: str) -> None:
        if (branch := self._state.generations.get(branch_id)) is None:
            return
        sampling = asked.command.sampling.model_copy(update={"seed": None})
        command = asked.command.model_copy(update={"generation_id": branch_id, "sampling": sampling})
        self._running[branch_id] = Asked(command, branch.queued, "continue")

    # ---- the command

    async def give(
        self, client: Client, command: protocol.ToolResult, received_t: float, answer: Answer
    ) -> None:
        """Take one result and answer what is pending, or which generation goes on now.

        Raises TokenglassError; the result then counts as not given.
        """
        asked = self._find(command.generation_id)
        call_id = command.call_id
        if call_id not in asked.calls:
            raise TokenglassError(
                "not_found", f"this generation has no call {call_id[:100]!r}", path="call_id"
            )
        if call_id in asked.results:
            raise TokenglassError("bad_state", "this call has its result", path="call_id")
        asked.results[call_id] = command.content
        self._count(asked, len(command.content))
        if asked.pending:
            answer({"pending": asked.pending})
            return
        try:
            work, queued, told, changed = await self._prepare(client, asked, received_t)
        except BaseException:
            del asked.results[call_id]
            self._count(asked, -len(command.content))
            raise
        client.add_own(work.generation_id)
        answer({"pending": [], **told})
        self._bus.publish_all(changed)
        self._bus.publish(queued)
        self.watch(work, queued, asked.on_disconnect)
        self._supervisor.submit(work)

    def _find(self, generation_id: str) -> Asked:
        self._forget_old()
        why, hint = "this generation hasn't finished", "wait for its generation.finished"
        if (asked := self._waiting.get(generation_id)) is not None:
            if asked.command.messages is not None:
                return asked
            why, hint = "what was asked with a raw prompt can't go on after its calls", "ask with messages"
        elif generation_id not in self._state.generations:
            if generation_id not in self._state.finished:
                raise TokenglassError(
                    "not_found", f"no generation {generation_id[:100]!r}", path="generation_id"
                )
            why = "this generation has no calls that wait for results"
            hint = (
                f"of finished ones the newest {MAX_KEPT} with calls are kept, for {KEPT_S / 60:.0f} minutes"
            )
        raise TokenglassError("bad_state", why, path="generation_id", hint=hint)

    async def _prepare(
        self, client: Client, asked: Asked, received_t: float
    ) -> tuple[commands.Generate, GenerationQueued, dict[str, Any], list[Event]]:
        """Everything but starting it: its place in the queue, and in a conversation, is taken then."""
        generation_id, model = starts.new_generation_id(), asked.queued.model
        told: dict[str, Any] = {"generation_id": generation_id}
        changed: list[Event] = []
        self._supervisor.reserve()
        try:
            if (loaded := self._supervisor.model_id) != model:
                raise TokenglassError(
                    "bad_state",
                    f"{model}, which made the calls, isn't loaded, but {loaded or 'nothing'} is",
                    hint="load it with models.load",
                )
            if asked.queued.message_id is not None:
                place, changed = await self._store(client, asked, generation_id)
                told |= place
        except BaseException:
            self._supervisor.release()
            raise
        forced = asked.command.tool_choice not in ("auto", "none")
        work = asked.command.model_copy(
            update={
                "generation_id": generation_id,
                "received_t": received_t,
                "client_id": client.client_id,
                "origin": client.origin,
                "messages": asked.messages(),
                # what had to call has called: forced again it could never answer
                "tool_choice": "auto" if forced else asked.command.tool_choice,
            }
        )
        queued = starts.queued(
            client,
            generation_id,
            received_t,
            model=model,
            shown=asked.queued.input,
            place=told,
            continues=asked.queued.generation_id,
        )
        return work, queued, told, changed

    async def _store(
        self, client: Client, asked: Asked, generation_id: str
    ) -> tuple[dict[str, Any], list[Event]]:
        """Commit the results and the place of the next answer, below the one that made the calls."""
        message_id = asked.queued.message_id
        assert message_id is not None
        results = [(call_id, asked.results[call_id]) for call_id in asked.calls]
        where = (generation_id, asked.queued.model, client.origin)
        messages, conversation = await self._history.add_results(message_id, results, *where)
        told = {"conversation_id": conversation["id"], "message_id": messages[-1]["id"]}
        return told, stored_events(conversation, messages)


def _size(command: commands.Generate) -> int:
    """Characters of what a generation was asked."""
    n_chars = len(command.prompt or "") + sum(len(tool.model_dump_json()) for tool in command.tools)
    for message in command.messages or ():
        n_chars += len(message.content or "") + len(message.reasoning or "")
        n_chars += sum(len(call.arguments) for call in message.tool_calls or ())
    return n_chars
