"""One connection of `/v1/live`: reads commands, answers each, and writes what its subscription wants.

The reader never waits for work: commands run in tasks of their own. One writer sends everything:
replies first, then events, so that a generation's first event never overtakes the reply to `generate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State as ConnectionState

from api import protocol
from api.bus import Envelope
from api.clients import Client
from engine.errors import ErrorInfo, TokenglassError
from engine.events import ClientLagging

if TYPE_CHECKING:
    from api.server import LiveServer

logger = logging.getLogger(__name__)

MAX_BACKLOG_BYTES = 1 << 20
"""Unread events and small replies beyond this cut the connection."""
LAGGING_BYTES = 1 << 18
STALL_S = 5.0
"""Nothing moves for so long although something is to be sent: cut."""
PORTION_BYTES = 1 << 16
"""Written at once; then the client must have taken most of it before the next."""
LARGE_FRAME_BYTES = 1 << 16
"""Replies beyond this go out in fragments and don't count as backlog."""
PARSE_INLINE_CHARS = 1 << 16
"""Longer frames are parsed in a thread."""
MAX_RUNNING = 8
"""Commands of one connection that are carried out at the same time; more wait their turn."""
TURN_FRAMES = 32
"""Taken from one connection before the loop looks at the others."""
TURN_CHARS = 1 << 16


class Session:
    """From the accepted handshake to the end of the connection."""

    def __init__(self, server: LiveServer, connection: ServerConnection, client: Client) -> None:
        self._server = server
        self._connection = connection
        self._transport = connection.transport
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._replies: deque[bytes] = deque()
        self._reply_bytes = 0
        self._small_reply_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._unanswered = 0
        self._selections: deque[tuple[int, protocol.Subscribe | protocol.Unsubscribe]] = deque()
        self._subscription = server.bus.subscribe(client.own, self._wake.set)
        request = connection.request
        query = parse_qs(urlsplit(request.path).query) if request is not None else {}
        self._held = query.get("hold") == ["1"]
        """No events before the first `subscribe`: its `since` must not be overtaken by live ones."""
        self._cancel_at_end: set[str] = set()
        self._written = 0
        self._moved = 0
        self._moved_t = time.monotonic()
        self._lagging = False
        self.ended = False
        self.cut_reason: str | None = None

    async def run(self, hello: dict[str, Any]) -> None:
        """Serve the connection until it ends."""
        self._reply(protocol.encode(hello), answer=False)
        writer = self._loop.create_task(self._write())
        try:
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            self.ended = True
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self._subscription.close()
            for generation_id in self._cancel_at_end:
                self._server.service.supervisor.cancel(generation_id)

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
                await asyncio.sleep(0)  # the next frame may be there already, and the one after it

    def _receive(self, frame: str, received_t: float) -> None:
        if len(frame) > PARSE_INLINE_CHARS:
            self._begin(None, self._parse_aside(frame, received_t))
            return
        try:
            data = protocol.decode(frame)
        except TokenglassError as error:
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
            command = protocol.parse_command(data)
        except TokenglassError as error:
            self._reply(protocol.reply_error(command_id, error.info), answer=False)
            return
        if isinstance(command, protocol.Subscribe | protocol.Unsubscribe):
            if self._admit(command_id):
                self._selections.append((self._server.bus.seq, command))
                self._wake.set()
        else:
            self._begin(command_id, self._execute(command, received_t), isinstance(command, _URGENT))

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

    async def _execute(self, command: protocol.Command, received_t: float) -> None:
        if isinstance(command, _URGENT):
            await self._answer(command, received_t)
            return
        async with self._running:
            await self._room.wait()
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
        if isinstance(command, protocol.Generate | protocol.Fork) and command.on_disconnect == "cancel":
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
        """Queue a frame of our own; `answer` where it settles a counted command."""
        if answer:
            self._unanswered -= 1
        if self.ended:
            return
        self._replies.append(frame)
        self._count(len(frame))
        self._wake.set()

    def _count(self, size: int) -> None:
        """Keep account of the queued replies; a negative size for one that left the queue."""
        self._reply_bytes += size
        if abs(size) <= LARGE_FRAME_BYTES:
            self._small_reply_bytes += size
        if self._reply_bytes > MAX_BACKLOG_BYTES:
            self._room.clear()
        else:
            self._room.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._connection.state is ConnectionState.OPEN:
                    small = list(self._portion())
                    if small:
                        await self._put(b"".join(small))
                    else:
                        await asyncio.sleep(0)  # a replay without a match lets others go on, too
                    if self._replies and len(self._replies[0]) > LARGE_FRAME_BYTES:
                        await self._put_large(self._next_reply())
                    if not (self._replies or self._selections or self._to_drain):
                        break
        except OSError:
            return  # the connection is gone; the reader notices too
        except Exception:
            logger.exception("writing to %s failed", self.client.client_id)
            self._transport.abort()

    def _portion(self) -> Iterator[bytes]:
        """Frames to send now, about `PORTION_BYTES` at most."""
        size = 0
        while size < PORTION_BYTES and self._replies and len(self._replies[0]) <= LARGE_FRAME_BYTES:
            reply = self._next_reply()
            size += len(reply)
            yield from text_frames(reply)
        if self._replies or size >= PORTION_BYTES:
            return
        if self._held:
            if self._selections:
                self._held = False
                self._select(*self._selections.popleft())
            return
        until = self._selections[0][0] if self._selections else None
        for envelope in self._drain(PORTION_BYTES - size, until):
            yield from text_frames(envelope.encode())
        if until is not None and self._subscription.read_up_to >= until:
            self._select(*self._selections.popleft())

    @property
    def _to_drain(self) -> bool:
        return self._subscription.pending and not self._held

    def _next_reply(self) -> bytes:
        reply = self._replies.popleft()
        self._count(-len(reply))
        return reply

    def _drain(self, max_bytes: int, until: int | None) -> list[Envelope]:
        if self._subscription.overrun:
            self._reset("overrun")
            return []
        return self._subscription.drain(max_bytes, until)

    def _select(self, seq: int, command: protocol.Subscribe | protocol.Unsubscribe) -> None:
        """Everything up to `seq` was sent under the former choice; the new one begins here."""
        reason: str | None = None
        if isinstance(command, protocol.Unsubscribe):
            self._subscription.select(())
        else:
            reason = self._server.gap(command.run_id, command.since, seq)
            generations = command.generations
            self._subscription.select(
                command.events,
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
        snapshot = {"type": "snapshot", "seq": seq, **self._server.state.snapshot()}
        self._reply(protocol.encode(snapshot), answer=False)

    async def _put(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)
        await self._connection.drain()

    async def _put_large(self, payload: bytes) -> None:
        for piece in text_frames(payload):
            if self._connection.state is not ConnectionState.OPEN:
                return
            await self._put(piece)

    # ---- watching

    def check(self, now: float) -> None:
        """Cut the connection if it doesn't take what is sent; called about twice a second."""
        buffered = self._transport.get_write_buffer_size()
        moved = self._written - buffered
        if moved > self._moved or not buffered:
            self._moved_t = now
        self._moved = moved
        backlog = buffered + self._small_reply_bytes + self._subscription.backlog_bytes
        if backlog > MAX_BACKLOG_BYTES or now - self._moved_t > STALL_S:
            self.cut("slow")
        elif not self._lagging and backlog > LAGGING_BYTES:
            self._lagging = True
            self._server.bus.publish(ClientLagging(client_id=self.client.client_id, backlog_bytes=backlog))
        elif backlog < LAGGING_BYTES // 4:
            self._lagging = False

    def cut(self, reason: str) -> None:
        """End the connection without waiting for the client."""
        if self.cut_reason is None:
            self.cut_reason = self.client.last_cut = reason
            logger.info("client %s is cut: it doesn't read", self.client.client_id)
        self._transport.abort()

    @property
    def stuck(self) -> bool:
        """Whether something waits for the client to read it."""
        return self._transport.get_write_buffer_size() > 0


_URGENT = (protocol.Cancel, protocol.Ping)


def text_frames(payload: bytes) -> Iterator[bytes]:
    """A message as WebSocket frames of a server: one, or fragments where it is large."""
    if len(payload) <= LARGE_FRAME_BYTES:
        yield _frame(0x81, payload)
        return
    last = (len(payload) - 1) // LARGE_FRAME_BYTES
    for number in range(last + 1):
        piece = payload[number * LARGE_FRAME_BYTES : (number + 1) * LARGE_FRAME_BYTES]
        opcode = 0x01 if number == 0 else 0x00
        yield _frame(opcode | (0x80 if number == last else 0), piece)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
