"""The outgoing side of one connection of `/v1/live`: replies first, then what its subscription wants.

So a generation's first event never overtakes the reply to `generate`. Nothing is held for a client that reads
slowly but its place in the ring and small replies; `check` says when it has to be cut.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State as ConnectionState

from api import protocol
from api.backpressure import MAX_BACKLOG_BYTES, PORTION_BYTES, Backpressure
from api.bus import Subscription
from api.clients import Client
from api.framing import LARGE_FRAME_BYTES, PING, text_frames
from api.pump import Pump

logger = logging.getLogger(__name__)

LAGGING_BYTES = 1 << 18
"""With more unread events and small replies than this everybody is told that the client lags."""
PING_S = 20.0
"""A client that has given no sign of life for so long is pinged."""
PONG_S = 40.0
"""How long it may take with any sign of life after that."""

Choice = protocol.Subscribe | protocol.Unsubscribe


class Outbox:
    """Queues and writes; watches how the client takes it. Loop thread only."""

    def __init__(
        self,
        connection: ServerConnection,
        client: Client,
        subscription: Subscription,
        pump: Pump,
        choose: Callable[[int, Choice], None],
        overrun: Callable[[], None],
        *,
        held: bool,
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._client = client
        self._subscription = subscription
        self._pump = pump
        self._choose = choose
        self._overrun = overrun
        self._held = held
        """No events before the first choice: its `since` must not be overtaken by live ones."""
        self.waits = False
        self._replies: deque[bytes] = deque()
        self._reply_bytes = 0
        self._small_reply_bytes = 0
        self.room = asyncio.Event()
        """Not set while so much waits that commands had better wait, too."""
        self.room.set()
        self._fragments: Iterator[bytes] | None = None
        """What is left of a large reply."""
        self._choices: deque[tuple[int, Choice]] = deque()
        self._pressure = Backpressure(connection.transport)
        self._alive_t = time.monotonic()
        self._pinged_t: float | None = None
        self._closed = False

    # ---- what is to be written

    def wake(self) -> None:
        """There is something to write, or room for it again."""
        self._pump.wake(self)

    def reply(self, frame: bytes) -> None:
        """Queue a frame of our own."""
        if self._closed:
            return
        self._replies.append(frame)
        self._count(len(frame))
        self.wake()

    def choose(self, seq: int, choice: Choice) -> None:
        """Queue a subscription: events up to `seq` still come under the former one."""
        self._choices.append((seq, choice))
        self.wake()

    def _count(self, size: int) -> None:
        """Keep account of the queued replies; a negative size for one that left the queue."""
        self._reply_bytes += size
        if abs(size) <= LARGE_FRAME_BYTES:
            self._small_reply_bytes += size
        if self._reply_bytes > MAX_BACKLOG_BYTES:
            self.room.clear()
        else:
            self.room.set()

    @property
    def backlog(self) -> tuple[int, int]:
        """Bytes that count as waiting, and how many events the client is behind."""
        waiting = self._pressure.buffered + self._small_reply_bytes
        pending = self._subscription.pending and not self._held
        behind = self._subscription.behind if pending else 0
        return waiting + self._subscription.backlog_bytes, behind

    # ---- writing

    def write(self) -> bool:
        """Write a portion; whether there is more, and room for it."""
        if self._closed or self._connection.paused or self._transport.is_closing():
            return False
        if self._connection.state is not ConnectionState.OPEN:
            return False
        try:
            data = self._portion()
        except Exception:
            logger.exception("writing to %s failed", self._client.client_id)
            self._transport.abort()
            return False
        if data:
            self._client.sent_bytes += len(data)
            self._pressure.write(data)
        return self._more and not self._connection.paused

    @property
    def _more(self) -> bool:
        if self._fragments is not None or self._replies or self._choices:
            return True
        return self._subscription.pending and not self._held

    def _portion(self) -> bytes:
        """Frames to send now, about `PORTION_BYTES` at most."""
        if self._fragments is not None:
            if (fragment := next(self._fragments, None)) is not None:
                return fragment
            self._fragments = None
        out: list[bytes] = []
        size = 0
        while size < PORTION_BYTES and self._replies:
            if len(self._replies[0]) > LARGE_FRAME_BYTES:
                if not out:
                    self._fragments = text_frames(self._next_reply())
                    return next(self._fragments)
                break
            reply = self._next_reply()
            size += len(reply)
            out += text_frames(reply)
        if not self._replies and size < PORTION_BYTES:
            out.append(self._events(PORTION_BYTES - size))
        return b"".join(out) if len(out) > 1 else out[0] if out else b""

    def _next_reply(self) -> bytes:
        reply = self._replies.popleft()
        self._count(-len(reply))
        return reply

    def _events(self, max_bytes: int) -> bytes:
        """Frames of the subscription, up to where another choice begins."""
        if self._held:
            if self._choices:
                self._held = False
                self._choose(*self._choices.popleft())
            return b""
        subscription = self._subscription
        if subscription.overrun:
            self._overrun()
            return b""
        until = self._choices[0][0] if self._choices else None
        portion = subscription.take(max_bytes, until)
        if until is not None and subscription.read_up_to >= until:
            self._choose(*self._choices.popleft())
        if not portion.envelopes:
            return b""
        self._client.count(portion)
        if portion.wire is None:
            portion.wire = b"".join(
                frame for envelope in portion.envelopes for frame in text_frames(envelope.encode())
            )
        return portion.wire

    # ---- watching

    def heard(self) -> None:
        """The client has sent something, if only a pong."""
        self._alive_t = time.monotonic()
        self._pinged_t = None

    def check(self, now: float) -> str | None:
        """Why the connection is to be cut, if it is; called about twice a second."""
        if self._pressure.look(now):  # what was kept from us by full buffers has gone: the client reads
            self._alive_t = now
            self._pinged_t = None
        if self._pressure.too_slow(now, self.backlog[0]):
            return "slow"
        if self._pinged_t is not None:
            return "lost" if now - self._pinged_t > PONG_S else None
        if now - self._alive_t > PING_S:
            self._pinged_t = now
            self._pressure.write(PING)
        return None

    @property
    def swamped(self) -> bool:
        """Whether so much waits already that the next look would be too late."""
        return self._pressure.buffered + self._small_reply_bytes > 2 * MAX_BACKLOG_BYTES

    @property
    def stuck(self) -> bool:
        """Whether something waits for the client to read it."""
        return self._pressure.buffered > 0

    def close(self) -> None:
        self._closed = True
        self._replies.clear()
        self._choices.clear()
        self._fragments = None
