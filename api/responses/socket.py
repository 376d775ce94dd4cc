"""One connection of `/v1/responses`: OpenAI's WebSocket mode.

What is wrong with a message is told in an `error` event, and the connection goes on. What it has started and
what waits in its lanes ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State as ConnectionState

from api import protocol
from api.backpressure import MAX_BACKLOG_BYTES, PORTION_BYTES, Backpressure
from api.clients import Client
from api.framing import text_frames
from api.openai.errors import Refused
from api.responses import errors
from api.responses.hub import Hub, Turn
from api.responses.lanes import Lanes
from api.responses.local import LocalResponses
from api.responses.story import WireEvent
from api.responses.wishes import wish
from engine.errors import TokenglassError
from engine.events import GenerationEvent

if TYPE_CHECKING:
    from api.server import LiveServer

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 << 20
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0
"""SDKs stop reading, pongs included, while their user is busy; one that is gone is noticed by this."""
PAUSE_S = 0.05
TURN_MESSAGES = 32
"""Taken before the loop looks at the others."""


@dataclass(slots=True)
class _Request:
    data: dict[str, Any]
    received_t: float


def prepare(connection: ServerConnection) -> None:
    """Set what is other here than on the live stream; to be called during the handshake."""
    connection.protocol.max_message_size = MAX_MESSAGE_BYTES
    connection.protocol.max_fragment_size = MAX_MESSAGE_BYTES
    connection.ping_interval = PING_INTERVAL_S
    connection.ping_timeout = PING_TIMEOUT_S


class ResponsesSocket:
    """From the accepted handshake to the end of the connection. Loop thread only."""

    def __init__(self, server: LiveServer, hub: Hub, connection: ServerConnection, client: Client) -> None:
        self._server = server
        self._hub = hub
        self._connection = connection
        self._transport = connection.transport
        self.client = client
        self._lanes: Lanes[_Request] = Lanes()
        self._wake = asyncio.Event()
        self._subscription = hub.bus.subscribe(client.own, self._wake.set)
        self._turns: dict[str, tuple[Turn, str | None]] = {}
        """Those under way and their lanes, by generation."""
        self._local = LocalResponses()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        """Without large frames."""
        self._pressure = Backpressure(connection.transport)
        self._left = False
        self.cut_reason: str | None = None

    async def run(self) -> None:
        """Serve the connection until it ends."""
        writer = asyncio.get_running_loop().create_task(self._write())
        self.client.backlogs.append(self._backlog)
        try:
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            self._leave()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self._subscription.close()
            self.client.backlogs.remove(self._backlog)

    @property
    def end_reason(self) -> str:
        """`closed`, `lost` or `slow`."""
        if self.cut_reason is not None:
            return self.cut_reason
        return "closed" if self._connection.protocol.close_rcvd is not None else "lost"

    def _leave(self) -> None:
        """Nobody listens any more: whatever runs or waits for this connection ends."""
        if self._left:
            return
        self._left = True
        self._lanes.clear()
        for turn, _ in tuple(self._turns.values()):
            self._hub.abandon(turn)
        self._turns.clear()

    # ---- reading

    async def _read(self) -> None:
        taken = 0
        async for message in self._connection:
            if isinstance(message, bytes):
                await self._connection.close(1003, "text frames only")
                return
            received_t = time.monotonic()
            if not self.client.commands.take(received_t):
                await asyncio.sleep(self.client.commands.wait_s)
            await self._receive(message, received_t)
            taken += 1
            if taken % TURN_MESSAGES == 0:
                await asyncio.sleep(0)
            if self._queued_bytes > MAX_BACKLOG_BYTES:
                await asyncio.sleep(PAUSE_S)  # errors that nobody reads

    async def _receive(self, message: str, received_t: float) -> None:
        """Take a message. Requests wait in their lanes, so that the reader never waits for work."""
        try:
            self._take(await protocol.decode_aside(message), len(message), received_t)
        except (TokenglassError, Refused) as error:
            self._tell(errors.nested(error, None))

    def _take(self, data: dict[str, Any], size: int, received_t: float) -> None:
        """Raises TokenglassError or Refused."""
        if self._left:
            return
        match data.get("type"):
            case "response.create":
                lane = self._lanes.name(data.get("stream_id"))
                try:
                    self._lanes.push(lane, _Request(data, received_t), size)
                except Refused as error:
                    self._tell(errors.nested(error, lane))
                self._start_next()
            case "response.cancel":
                self._cancel(data.get("response_id"))
            case "response.steer":
                self._refuse_steering(data)
            case "response.processed":
                pass  # some clients confirm what they have read
            case other:
                shown = f"{other[:100]!r}" if isinstance(other, str) else "none"
                message = f"there is no event of the type {shown}; requests are response.create"
                raise Refused(400, "unknown_event_type", message, "type")

    def _cancel(self, response_id: Any) -> None:
        if not isinstance(response_id, str):
            raise Refused(400, "missing_required_parameter", "response_id: a text", "response_id")
        self._hub.cancel(response_id, self.client.grant)

    def _refuse_steering(self, data: dict[str, Any]) -> None:
        target = data.get("previous_response_id")
        turn, lane = next(
            ((turn, lane) for turn, lane in self._turns.values() if turn.id == target), (None, None)
        )
        told: WireEvent = {
            "type": "response.steer.failed",
            "sequence_number": turn.story.next_number if turn is not None else 0,
            "steer": {"previous_response_id": target, "input": data.get("input")},
            "error": {
                "type": "invalid_request_error",
                "code": "steering_not_supported",
                "message": "responses can't be steered; cancel this one and create another",
            },
        }
        self._tell(told if lane is None else {**told, "stream_id": lane})

    # ---- requests

    def _start_next(self) -> None:
        while not self._left and (found := self._lanes.next()) is not None:
            self._server.spawn(self._carry_out(*found))

    async def _carry_out(self, lane: str | None, request: _Request) -> None:
        begun: list[Turn] = []

        def begin(turn: Turn) -> None:
            begun.append(turn)
            self._begun(turn, lane)

        try:
            asked = wish(request.data)
            await self._hub.begin(
                self.client, asked, request.received_t, begin, stream_id=lane, local=self._local.context
            )
        except Exception as error:
            if begun:
                raise
            if not isinstance(error, TokenglassError | Refused):
                logger.exception("response.create failed")
            self._tell(errors.nested(error, lane))
            self._free(lane)
        if self._left:
            for turn in begun:  # the client went while its request was being looked at
                self._hub.abandon(turn)

    def _begun(self, turn: Turn, lane: str | None) -> None:
        if self._left:
            return
        self._tell(turn.story.created())
        if turn.generation_id is not None:
            self._turns[turn.generation_id] = (turn, lane)
            return
        self._tell(turn.story.in_progress())
        turn.story.complete()
        self._server.spawn(self._end(turn, lane))

    async def _end(self, turn: Turn, lane: str | None) -> None:
        """Keep a response before its end is told, so that whoever knows of it can go on from it."""
        if not await self._hub.end(turn):
            self._local.keep(lane, turn.id, turn.whole())
        self._tell(turn.story.terminal())
        self._free(lane)

    def _free(self, lane: str | None) -> None:
        self._lanes.done(lane)
        self._start_next()

    # ---- writing

    def _tell(self, event: WireEvent) -> None:
        if self._left:
            return
        frame = protocol.encode(event)
        self._queue.append(frame)
        if len(frame) <= PORTION_BYTES:
            self._queued_bytes += len(frame)
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._connection.state is ConnectionState.OPEN:
                    await self._put(self._portion())
                    if not (self._queue or self._subscription.pending):
                        break
                else:
                    # a close frame has come, though the library may yet wait for what can't be written
                    self._leave()
                    return
        except OSError:
            return  # the connection is gone; the reader notices too
        except Exception:
            logger.exception("writing to %s failed", self.client.client_id)
            self._transport.abort()

    async def _put(self, frames: Iterator[bytes]) -> None:
        """Write frames, and wait after each portion until the client has taken most of it."""
        out: list[bytes] = []
        size = 0
        for frame in frames:
            for piece in text_frames(frame):
                out.append(piece)
                size += len(piece)
                if size >= PORTION_BYTES:
                    await self._flush(out)
                    size = 0
        await self._flush(out)

    async def _flush(self, out: list[bytes]) -> None:
        if out and self._connection.state is ConnectionState.OPEN:
            data = b"".join(out)
            self.client.sent_bytes += len(data)
            self._pressure.write(data)
            await self._connection.drain()
        else:
            await asyncio.sleep(0)
        out.clear()

    def _portion(self) -> Iterator[bytes]:
        """What was queued, then what the generations have said meanwhile."""
        while self._queue:
            frame = self._queue.popleft()
            if len(frame) <= PORTION_BYTES:
                self._queued_bytes -= len(frame)
            yield frame
        if self._subscription.overrun:
            self.cut("slow")
            return
        portion = self._subscription.take(PORTION_BYTES)
        self.client.count(portion)
        for envelope in portion.envelopes:
            if isinstance(envelope.event, GenerationEvent):
                yield from map(protocol.encode, self._said(envelope.event))

    def _said(self, event: GenerationEvent) -> list[WireEvent]:
        if event.generation_id not in self._turns:
            return []
        turn, lane = self._turns[event.generation_id]
        told = turn.story.take(event)
        if turn.story.ended:
            del self._turns[event.generation_id]
            self._server.spawn(self._end(turn, lane))
        return told

    # ---- watching

    def check(self, now: float) -> None:
        """Cut the connection if it doesn't take what is sent; called about twice a second."""
        if self._connection.state is not ConnectionState.OPEN:
            self._leave()
        self._pressure.look(now)
        if self._pressure.too_slow(now, self._backlog()[0]):
            self.cut("slow")

    def _backlog(self) -> tuple[int, int]:
        """Bytes that wait for the client, and how many events it is behind."""
        waiting = self._pressure.buffered + self._queued_bytes
        behind = self._subscription.behind if self._subscription.pending else 0
        return waiting + self._subscription.backlog_bytes, behind

    def cut(self, reason: str) -> None:
        """End the connection without waiting for the client."""
        if self.cut_reason is None:
            self.cut_reason = self.client.last_cut = reason
            self.client.cuts += 1
            logger.info("client %s is cut: it doesn't read", self.client.client_id)
        self._leave()
        self._transport.abort()

    def revoke(self) -> None:
        """Its token is gone: nothing of it is carried out any more, and it ends."""
        self._leave()
        self._server.spawn(self._connection.close(1008, "the token was revoked"))

    @property
    def stuck(self) -> bool:
        """Whether something waits for the client to read it."""
        return self._pressure.buffered > 0
