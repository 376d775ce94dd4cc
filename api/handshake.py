"""The front of every connection: what asks for the upgrade is a WebSocket, anything else is HTTP."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Protocol

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from api import heads
from api.http import MAX_HEAD_BYTES, Answer, HttpConnection, Router

READ_BYTES = 1 << 12
"""Taken from a connection at once: what frames it holds are parsed without a pause, 7 ms of pings."""
FIRST_HEAD_S = 2.0
"""How long the first request's head may take."""
_UPGRADE = re.compile(rb"(?im)^upgrade[ \t]*:[^\r\n]*websocket")
_BODY = re.compile(rb"(?im)^(?:transfer-encoding|content-length)[ \t]*:[ \t]*(?!0[ \t]*\r$)")


class Door(Protocol):
    """What a connection asks of its server."""

    routes: Router

    def opened(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Watcher(Protocol):
    """Whoever writes to a connection and watches over it."""

    def heard(self) -> None:
        """Something came, and the library may have answered: pings."""

    def room(self) -> None:
        """What was written has mostly left."""


class Connection(ServerConnection):
    """A connection that looks at its first request's head before it becomes one or the other.

    The library hangs up without a word on requests with a body, and on all but GET. So it is only
    given those that ask for the upgrade; any other connection goes to `HttpConnection`.
    """

    live: Door
    watcher: Watcher | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._head: bytearray | None = bytearray()
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(FIRST_HEAD_S, transport.abort)
        if hasattr(transport, "max_size"):  # of asyncio's selector loops; others read 64 KiB
            transport.max_size = READ_BYTES
        self.live.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._decided()
        if self._head is None:
            super().connection_lost(exc)
        self.live.lost(self)

    def eof_received(self) -> None:
        if self._head is None:
            super().eof_received()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.watcher is not None:
            self.watcher.room()

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            super().data_received(data)
            if self.watcher is not None:
                self.watcher.heard()
            return
        start = max(0, len(self._head) - 3)
        self._head += data
        end = heads.END.search(self._head, start)
        if end is None and len(self._head) <= MAX_HEAD_BYTES:
            return
        self._decided()
        come = bytes(self._head)
        if end is not None and asks_for_upgrade(come[: end.end()]):
            self._head = None
            super().connection_made(self.transport)
            super().data_received(come)
            return
        http = HttpConnection(self.live.routes)
        self.transport.set_protocol(http)
        self.live.lost(self)
        http.connection_made(self.transport)
        http.data_received(come)

    def _decided(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def asks_for_upgrade(head: bytes) -> bool:
    """Whether a request's head is for the WebSocket library, which takes no body."""
    wanted = head.startswith(b"GET ") and _UPGRADE.search(head) is not None and _BODY.search(head) is None
    return wanted and heads.problem(head) is None  # a bad head is answered there


def as_response(answer: Answer) -> Response:
    """An answer in the library's form, after which the connection ends."""
    headers = Headers(
        {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Connection": "close",
            "Cache-Control": "no-store",
        }
    )
    for name, value in answer.headers:
        headers[name] = value
    return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)
