"""One connection of `/v1/live`: reads commands, answers each, and writes what its subscription wants.

The reader never waits for work: commands run in tasks of their own, and what goes out is `api.outbox`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed

from api import protocol
from api.cleanjson import PARSE_INLINE_CHARS
from api.clients import COMMANDS_PER_S, Allowance, Client
from api.handshake import Connection
from api.outbox import LAGGING_BYTES, Choice, Outbox
from api.permissions import NOBODY
from engine.errors import ErrorInfo, TokenglassError
from engine.events import ClientLagging

if TYPE_CHECKING:
    from api.server import LiveServer

logger = logging.getLogger(__name__)

MAX_RUNNING = 8
"""Commands of one connection that are carried out at the same time; more wait their turn."""
TURN_FRAMES = 32
"""Taken from one connection before the loop looks at the others."""
TURN_CHARS = 1 << 16
FLOOD_PAUSE_S = 0.005
"""After a turn's commands from a client that sends more than it may."""


class Session:
    """From the accepted handshake to the end of the connection."""

    def __init__(self, server: LiveServer, connection: Connection, client: Client) -> None:
        self._server = server
        self._connection = connection
        self._transport = connection.transport
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._unanswered = 0
        self._flooded = False
        """It sends more commands than it may."""
        self._subscription = server.bus.subscribe(client.own, self._wake)
        request = connection.request
        query = parse_qs(urlsplit(request.path).query) if request is not None else {}
        self._outbox = Outbox(
            connection,
            client,
            self._subscription,
            server.pump,
            self._select,
            lambda: self._reset("overrun"),
            held=query.get("hold") == ["1"],
        )
        self._cancel_at_end: set[str] = set()
        self._lagging = False
        self.ended = False
        self.cut_reason: str | None = None

    async def run(self, hello: dict[str, Any]) -> None:
        """Serve the connection until it ends."""
        self.client.backlogs.append(self._backlog)
        self._connection.watcher = self
        self._reply(protocol.encode(hello), answer=False)
        try:
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            self.ended = True
            self._connection.watcher = None
            self._outbox.close()
            self._subscription.close()
            self.client.backlogs.remove(self._backlog)
            for generation_id in self._cancel_at_end:
                self._server.service.supervisor.cancel(generation_id)

    def _wake(self) -> None:
        self._outbox.wake()

    def _backlog(self) -> tuple[int, int]:
        return self._outbox.backlog

    @property
    def end_reason(self) -> str:
        """`closed`, `lost` or `slow`."""
        if self.cut_reason is not None:
            return self.cut_reason
        received = self._connection.protocol.close_rcvd
        return "closed" if received is not None else "lost"

    # ---- reading

    async def _read(self) -> None:
        frames = chars = 0
        async for frame in self._connection:
            if isinstance(frame, bytes):
                await self._connection.close(1003, "text frames only")
                return
            self._receive(frame, time.monotonic())
            frames, chars = frames + 1, chars + len(frame)
            if frames >= TURN_FRAMES or chars >= TURN_CHARS:
                frames = chars = 0
                # the next frame may be there already, and the one after it
                await asyncio.sleep(FLOOD_PAUSE_S if self._flooded else 0)
                self._flooded = False

    def _receive(self, frame: str, received_t: float) -> None:
        if len(frame) > PARSE_INLINE_CHARS:
            self._begin(None, self._parse_aside(frame, received_t))
            return
        try:
            data = protocol.decode(frame)
        except TokenglassError as error:
            self._flooded |= not self.client.commands.take(received_t)
            self._reply(protocol.reply_error(None, error.info), answer=False)
            return
        self._take(data, received_t)

    async def _parse_aside(self, frame: str, received_t: float) -> None:
        try:
            data = await self._loop.run_in_executor(None, protocol.decode, frame)
        except TokenglassError as error:
            self._reply(protocol.reply_error(None, error.info))
            return
        self._unanswered -= 1
        self._take(data, received_t)

    def _take(self, data: dict[str, Any], received_t: float) -> None:
        """Carry out what is quick at once, anything else in a task."""
        command_id: protocol.CommandId = None
        try:
            command_id = protocol.command_id(data)
            urgent = data.get("type") in _URGENT
            self._allow(self.client.urgent_commands if urgent else self.client.commands, received_t)
            command = protocol.parse_command(data)
        except TokenglassError as error:
            self._reply(protocol.reply_error(command_id, error.info), answer=False)
            return
        if isinstance(command, protocol.Subscribe | protocol.Unsubscribe):
            if self._admit(command_id):
                self._outbox.choose(self._server.bus.seq, command)
        else:
            self._begin(command_id, self._execute(command, received_t, urgent), urgent)

    def _allow(self, allowance: Allowance, now: float) -> None:
        """Count a command. Raises TokenglassError `busy` where there were too many."""
        if not allowance.take(now):
            self._flooded = True
            raise TokenglassError(
                "busy",
                f"more than {COMMANDS_PER_S:.0f} commands a second",
                hint=f"wait {allowance.wait_s * 1000:.0f} ms",
            )

    def _begin(
        self, command_id: protocol.CommandId, work: Coroutine[Any, Any, None], urgent: bool = False
    ) -> None:
        if self._admit(command_id, urgent):
            self._server.spawn(work)
        else:
            work.close()

    def _admit(self, command_id: protocol.CommandId, urgent: bool = False) -> bool:
        """Count one more unanswered command, or answer `busy`."""
        if self._unanswered >= protocol.MAX_UNANSWERED and not urgent:
            error = ErrorInfo(
                code="busy",
                message=f"{self._unanswered} commands of this connection are unanswered",
                hint="wait for replies",
            )
            self._reply(protocol.reply_error(command_id, error), answer=False)
            return False
        self._unanswered += 1
        return True

    async def _execute(self, command: protocol.Command, received_t: float, urgent: bool) -> None:
        if urgent:
            await self._answer(command, received_t)
            return
        async with self._running:
            await self._outbox.room.wait()
            await self._answer(command, received_t)

    async def _answer(self, command: protocol.Command, received_t: float) -> None:
        results: list[dict[str, Any]] = []

        def answer(result: dict[str, Any]) -> None:
            self._reply(protocol.reply_ok(command.id, result))
            results.append(result)

        try:
            await self._server.service.execute(self.client, command, received_t, answer)
        except TokenglassError as error:
            self._reply(protocol.reply_error(command.id, error.info))
            return
        except Exception:
            if results:
                raise
            logger.exception("%s failed", command.type)
            error_info = ErrorInfo(code="internal", message="this is a bug; the log has the details")
            self._reply(protocol.reply_error(command.id, error_info))
            return
        match command:
            case protocol.Generate() | protocol.Fork():
                cancels = command.on_disconnect == "cancel"
            case protocol.ToolResult():
                cancels = self._server.service.tool_results.cancels(results[0].get("generation_id"))
            case _:
                cancels = False
        if cancels:
            self._cancel_with_connection(results[0]["generation_id"])

    def _cancel_with_connection(self, generation_id: str) -> None:
        supervisor = self._server.service.supervisor
        if self.ended:
            supervisor.cancel(generation_id)
        else:
            self._cancel_at_end = {known for known in self._cancel_at_end if supervisor.knows(known)}
            self._cancel_at_end.add(generation_id)

    # ---- writing

    def _reply(self, frame: bytes, *, answer: bool = True) -> None:
        """Send a frame of our own; `answer` where it settles a counted command."""
        if answer:
            self._unanswered -= 1
        self._outbox.reply(frame)
        if self._outbox.swamped:
            self.cut("slow")

    def _select(self, seq: int, command: Choice) -> None:
        """Everything up to `seq` was sent under the former choice; the new one begins here."""
        reason: str | None = None
        if isinstance(command, protocol.Unsubscribe):
            self._subscription.select(())
        else:
            reason = self._server.gap(command.run_id, command.since, seq)
            generations = command.generations
            self._subscription.select(
                command.events if self.client.may("observe") else (),
                frozenset(generations) if isinstance(generations, list) else generations,
                command.since if reason is None else None,
            )
        self._reply(protocol.reply_ok(command.id, {"seq": seq}))
        if reason is not None:
            self._reset(reason)

    def _reset(self, reason: str) -> None:
        seq = self._server.bus.seq
        self._subscription.skip_to_now()
        self._reply(protocol.encode({"type": "reset", "seq": seq, "reason": reason}), answer=False)
        snapshot = {"type": "snapshot", **self._server.service.snapshot(self.client)}
        self._reply(protocol.encode(snapshot), answer=False)

    # ---- watching

    def heard(self) -> None:
        """Something came from the client, and may have been answered by the library: pings."""
        self._outbox.heard()
        if self._outbox.swamped:
            self.cut("slow")

    def room(self) -> None:
        """The client has taken most of what was written."""
        self._outbox.wake()

    def check(self, now: float) -> None:
        """Cut the connection if it doesn't take what is sent; called about twice a second."""
        reason = self._outbox.check(now)
        backlog, _ = self._outbox.backlog
        if reason is not None:
            self.cut(reason)
        elif not self._lagging and backlog > LAGGING_BYTES:
            self._lagging = True
            self._server.bus.publish(ClientLagging(client_id=self.client.client_id, backlog_bytes=backlog))
        elif backlog < LAGGING_BYTES // 4:
            self._lagging = False

    def cut(self, reason: str) -> None:
        """End the connection without waiting for the client: it is too `slow`, or `lost`."""
        if self.cut_reason is None:
            self.cut_reason = reason
            if reason == "slow":
                self.client.last_cut = reason
                self.client.cuts += 1
            logger.info("client %s is cut: it doesn't %s", self.client.client_id, _WHY[reason])
        self._transport.abort()

    def revoke(self) -> None:
        """Its token is gone: nothing of it is carried out any more, and it ends."""
        self.client.grant = NOBODY
        self._server.spawn(self._connection.close(1008, "the token was revoked"))

    @property
    def stuck(self) -> bool:
        """Whether something waits for the client to read it."""
        return self._outbox.stuck


_URGENT = ("cancel", "ping")
_WHY = {"slow": "read", "lost": "answer"}
