"""A line with a delay, in a process of its own: hands TCP connections on, what they carry comes later.

Each direction takes half of the round trip, in order and without a limit on how much is under way. What a
client sends first also waits for the round trip of TCP's handshake, which is answered here at once. Not
modelled: slow start, lost packets, a rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

HOST = "127.0.0.1"


class _End(asyncio.Protocol):
    """One end of a connection: what comes in here leaves at the other end, later."""

    transport: asyncio.Transport
    other: _End | None = None

    def __init__(self, delay_s: float, open_: set[asyncio.Transport]) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay_s = delay_s
        self._open = open_
        self.established = 0.0
        """Before this (loop time) nothing can have been sent."""
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        """When each piece arrives; None is the connection's end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._send(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol has it
        self._open.discard(self.transport)
        self._send(None)

    def _send(self, piece: bytes | None) -> None:
        arrives = max(self._loop.time(), self.established) + self._delay_s
        self._under_way.append((arrives, piece))
        if len(self._under_way) == 1 and self.other is not None:
            self._loop.call_at(arrives, self.deliver)

    def deliver(self) -> None:
        """Hand over what has arrived by now."""
        assert self.other is not None
        while self._under_way:
            arrives, piece = self._under_way[0]
            if arrives > self._loop.time():
                self._loop.call_at(arrives, self.deliver)
                return
            self._under_way.popleft()
            if piece is None:
                self.other.transport.close()
            elif not self.other.transport.is_closing():
                self.other.transport.write(piece)


class _Client(_End):
    """The end of whoever connects; connects to the port."""

    def __init__(self, port: int, round_trip_s: float, open_: set[asyncio.Transport]) -> None:
        super().__init__(round_trip_s / 2, open_)
        self._port = port
        self._round_trip_s = round_trip_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.established = self._loop.time() + self._round_trip_s
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        server = _End(self._delay_s, self._open)
        server.other = self
        try:
            await self._loop.create_connection(lambda: server, HOST, self._port)
        except OSError:
            self.transport.abort()
            return
        self.other = server
        self.deliver()


@asynccontextmanager
async def line(port: int, round_trip_s: float) -> AsyncIterator[int]:
    """A line to this port of the loopback; gives the port where it begins."""
    loop = asyncio.get_running_loop()
    open_: set[asyncio.Transport] = set()
    server = await loop.create_server(lambda: _Client(port, round_trip_s, open_), HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in open_:
            transport.abort()
        await asyncio.sleep(0)  # that is done in the loop's next turn


def serve(control: Connection, port: int, round_trip_s: float) -> None:
    """Be a line to this port; answers where. Ends when the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        asyncio.run(_serve(control, port, round_trip_s))


async def _serve(control: Connection, port: int, round_trip_s: float) -> None:
    async with line(port, round_trip_s) as begin:
        control.send(begin)
        await asyncio.to_thread(control.recv)
