"""The connection until its upgrade: the request's head, and HTTP answers to what won't be upgraded."""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

READ_BYTES = 1 << 14
"""Taken from a connection at once: what small frames it may hold are parsed without a pause."""
MAX_HEAD_BYTES = 1 << 16
_HEAD_END = b"\r\n\r\n"
_BODY_HEADER = re.compile(rb"(?im)^(?:transfer-encoding|content-length)[ \t]*:[^\n]*\n")
_NO_BODY = re.compile(rb"(?i)content-length:[ \t]*0[ \t]*\r\n")


class Door(Protocol):
    """What a connection asks of its server."""

    def opened(self, connection: ServerConnection) -> None: ...

    def lost(self, connection: ServerConnection) -> None: ...

    def answer(self, request: Request) -> Response:
        """The answer to a request that brings a body, and so can't become a stream."""


class Connection(ServerConnection):
    """A connection that says when it is gone, so that places are counted rightly, and answers every request.

    The library hangs up without a word on requests with a body. They are answered here; the body is
    dropped as it comes, until the client has read the answer or `open_timeout` is over.
    """

    live: Door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._head: bytearray | None = bytearray()
        self._answered = False
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # of asyncio's selector loops; others read 64 KiB
            transport.max_size = READ_BYTES
        self.live.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.live.lost(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        if self._head is None:
            super().data_received(data)
            return
        start = max(0, len(self._head) - len(_HEAD_END))
        self._head += data
        end = self._head.find(_HEAD_END, start)
        if end < 0 and len(self._head) <= MAX_HEAD_BYTES:
            return
        head, self._head = bytes(self._head), None
        request = request_with_body(head[: end + len(_HEAD_END)]) if end >= 0 else None
        if request is None:
            super().data_received(head)
            return
        self._answered = True
        self.transport.write(self.live.answer(request).serialize())
        self.transport.write_eof()


def request_with_body(head: bytes) -> Request | None:
    """The request, where its head announces a body; None where it doesn't, or isn't HTTP."""
    announced = _BODY_HEADER.findall(head)
    if all(_NO_BODY.fullmatch(header) for header in announced):
        return None
    parser = ServerProtocol()
    parser.receive_data(_BODY_HEADER.sub(b"", head))
    events = parser.events_received()
    return events[0] if events and isinstance(events[0], Request) else None


def answer(status: int, body: dict[str, Any]) -> Response:
    """An HTTP answer in JSON, after which the connection ends."""
    content = json.dumps(body).encode() + b"\n"
    headers = Headers(
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
            "Cache-Control": "no-store",
        }
    )
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET"
    return Response(status, HTTPStatus(status).phrase, headers, content)


def refusal(status: int, message: str) -> Response:
    """An error as the ecosystem's clients read it; its code is the status by name."""
    code = HTTPStatus(status).name.lower()
    return answer(status, {"error": {"code": code, "message": message}})
