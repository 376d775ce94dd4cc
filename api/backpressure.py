"""How a client takes what is written to its connection: one rule for the stream, `/v1/responses` and HTTP."""

from __future__ import annotations

import asyncio
import time

MAX_BACKLOG_BYTES = 1 << 20
"""More than this, unread or waiting to be written, cuts the connection."""
STALL_S = 5.0
"""Nothing moves for so long although something is to be read: cut."""
PORTION_BYTES = 1 << 16
"""Written at once; then the client must have taken most of it before the next."""


class Backpressure:
    """Writes to a transport, and watches how that empties. Loop thread only."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.written = 0
        """Bytes so far."""
        self._buffered = 0
        self._taken = 0
        self._moved_t = time.monotonic()

    @property
    def buffered(self) -> int:
        """Bytes that the client hasn't taken."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def look(self, now: float) -> bool:
        """To be called about twice a second; whether something has left that was waiting the last time."""
        waited, self._buffered = self._buffered > 0, self.buffered
        former, self._taken = self._taken, self.written - self._buffered
        moved = self._taken > former or not self._buffered
        if moved:
            self._moved_t = now
        return moved and waited

    def too_slow(self, now: float, backlog: int) -> bool:
        """Whether the client is to be cut, as far as the last look tells and with so many bytes waiting."""
        # with an empty buffer it is the app that is behind, not the client
        too_much = self._buffered > 0 and backlog > MAX_BACKLOG_BYTES
        return too_much or now - self._moved_t > STALL_S
