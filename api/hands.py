"""Commands that the worker answers: hands on a running generation, and embeddings.

Each waits for the worker's own answer. That is passed on at the moment it comes in, before the events
that follow from it: so a branch is its client's own, and announced, before it says anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from api import protocol, starts
from api.bus import EventBus
from api.clients import Client
from api.history import History, stored_events
from api.state import State
from api.supervisor import Supervisor
from engine import commands
from engine.errors import TokenglassError
from engine.events import Event
from engine.replies import ControlDone, EmbedDone

Answer = Callable[[dict[str, Any]], None]
"""Hands a command's result to its client."""

Hand = protocol.Pause | protocol.Resume | protocol.Step | protocol.Update | protocol.Rewind | protocol.Inject


@dataclass(slots=True)
class Hands:
    """Carries them out. Loop thread only."""

    bus: EventBus
    state: State
    supervisor: Supervisor
    history: History
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def do(self, command: Hand, answer: Answer) -> None:
        """Carry one out and answer it. Raises TokenglassError with what the client is told instead."""

        def answered(done: ControlDone) -> None:
            answer(done.result)

        if isinstance(command, protocol.Update):
            self.state.check_token_ids(command.sampling.logit_bias)
        await self._control(_control(command, self._request_id()), answered)

    async def fork(self, client: Client, command: protocol.Fork, received_t: float, answer: Answer) -> None:
        """Start a branch and answer its id. Raises TokenglassError."""
        source_id, branch_id = command.generation_id, starts.new_generation_id()
        fork = commands.Fork(
            request_id=self._request_id(),
            generation_id=source_id,
            branch_id=branch_id,
            client_id=client.client_id,
            origin=client.origin,
            received_t=received_t,
            at_token=command.at_token,
            token_id=command.token_id,
        )
        told, changed = await self._store_branch(client, source_id, branch_id)

        def answered(_done: ControlDone) -> None:
            client.add_own(branch_id)
            answer({"generation_id": branch_id, "at_token": command.at_token, **told})
            self.bus.publish_all(changed)
            source = self.state.generations[source_id].queued
            self.bus.publish(
                starts.queued(
                    client, branch_id, received_t, model=source.model, shown=source.input, place=told
                )
            )

        try:
            await self._control(fork, answered)
        except BaseException:
            if told and not self.supervisor.knows(branch_id):
                await self.history.withdraw(branch_id)
            raise

    async def _store_branch(
        self, client: Client, source_id: str, branch_id: str
    ) -> tuple[dict[str, Any], list[Event]]:
        """A branch of a conversation's answer is another variant of it: commit its place.

        Answers what the reply tells of it, and the events about it.
        """
        source = self.state.generations.get(source_id)
        if source is None or source.queued.conversation_id is None or source.queued.message_id is None:
            return {}, []
        conversation_id, message_id = source.queued.conversation_id, source.queued.message_id
        message = await self.history.add_branch(message_id, branch_id, source.queued.model, client.origin)
        conversation = await self.history.conversation(conversation_id)
        told = {"conversation_id": conversation_id, "message_id": message["id"]}
        return told, stored_events(conversation, [message])

    async def _control(self, command: commands.Control, answered: Callable[[ControlDone], None]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(message: ControlDone) -> None:
            try:
                if message.error is not None:
                    raise TokenglassError.of(message.error)
                answered(message)
            except Exception as error:  # noqa: BLE001 it belongs to the command, not to the worker's messages
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(None)

        self.supervisor.control(command, done)
        await future

    async def embed(self, command: protocol.Embed, answer: Answer) -> None:
        """Make embeddings and answer them. Raises TokenglassError."""
        future: asyncio.Future[EmbedDone] = asyncio.get_running_loop().create_future()

        def done(message: EmbedDone) -> None:
            if not future.done():
                future.set_result(message)

        texts = [command.input] if isinstance(command.input, str) else command.input
        model = self.supervisor.model_id
        self.supervisor.embed(commands.Embed(request_id=self._request_id(), inputs=list(texts)), done)
        made = await future
        if made.error is not None:
            raise TokenglassError.of(made.error)
        answer({"model": model, "embeddings": made.embeddings, "prompt_tokens": made.prompt_tokens})

    def _request_id(self) -> str:
        return f"hand-{next(self._numbers)}"


def _control(command: Hand, request_id: str) -> commands.Control:
    """The worker's command for a client's."""
    where = {"request_id": request_id, "generation_id": command.generation_id}
    match command:
        case protocol.Pause():
            return commands.Pause(**where)
        case protocol.Resume():
            return commands.Continue(**where)
        case protocol.Step():
            return commands.StepTokens(**where, tokens=command.tokens)
        case protocol.Update():
            given = command.sampling.model_dump(include=command.sampling.model_fields_set)
            return commands.Update(**where, sampling=given)
        case protocol.Rewind():
            return commands.Rewind(**where, tokens=command.tokens)
        case protocol.Inject():
            return commands.Inject(**where, text=command.text)
