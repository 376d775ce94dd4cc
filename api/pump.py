"""Writes to all connections that have something to send: together, in turn, and not more often than pays.

A task for each connection would wake up for each event; a hundred of them at 200 events a second leave no
time for anything else. So there is one turn for all. After it the connections rest for a time that grows
with their number, in which what comes gathers and is merged. With ten or fewer there is no rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

from api.bus import Envelope
from engine.events import TokenEvent

REST_S = 0.0001
"""For each connection that was written to."""
LEAST_REST_S = 0.001
"""A shorter rest isn't worth a timer."""
MAX_REST_S = 0.015
TURN_S = 0.005
"""After so long the loop looks at everything else before the turn goes on."""


class Writer(Protocol):
    """A connection's outgoing side."""

    waits: bool
    """Whether it stands in the queue."""

    def write(self) -> bool:
        """Write a portion; whether there is more, and room for it."""


class Pump:
    """The queue of those who have something to write. Loop thread only."""

    def __init__(self) -> None:
        self._queue: deque[Writer] = deque()
        self._handle: asyncio.Handle | None = None
        self._written = 0
        """Connections that this turn has written to."""
        self._rest_until = 0.0

    def wake(self, writer: Writer) -> None:
        """Let the connection write in the next turn."""
        if not writer.waits:
            writer.waits = True
            self._queue.append(writer)
            if self._handle is None:
                self._schedule()

    def hurry(self, envelope: Envelope) -> None:
        """A fold of the bus: nobody's first token waits for the end of a rest."""
        event = envelope.event
        if isinstance(event, TokenEvent) and event.tokens and event.tokens[0]["index"] == 0:
            self.end_rest()

    def end_rest(self) -> None:
        """Let those who wait, and those who come now, write at once."""
        if self._rest_until:
            self._rest_until = 0.0
            if self._handle is not None:
                self._handle.cancel()
                self._schedule()

    def flush(self) -> None:
        """Write now what can be written now."""
        self._stop()
        for _ in range(len(self._queue)):
            self._write_next()
        self._written = 0
        if self._queue:
            self._schedule()

    def close(self) -> None:
        self._stop()
        self._queue.clear()

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._rest_until - time.monotonic() if self._rest_until else 0.0
        self._handle = loop.call_later(left, self._turn) if left > 0 else loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._handle = None
        end = time.monotonic() + TURN_S
        for _ in range(len(self._queue)):
            self._write_next()
            if time.monotonic() > end:
                break
        else:
            rest = min(MAX_REST_S, self._written * REST_S)
            self._rest_until = time.monotonic() + rest if rest > LEAST_REST_S else 0.0
            self._written = 0
        if self._queue:
            self._schedule()

    def _write_next(self) -> None:
        writer = self._queue.popleft()
        self._written += 1
        writer.waits = writer.write()
        if writer.waits:
            self._queue.append(writer)
