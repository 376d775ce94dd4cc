"""HTTP on the stream's port: reads requests, hands each to its route, writes answers whole or as a stream.

One request of a connection is carried out at a time. The reader goes on meanwhile, so that the end of
the connection, a half-closed one too, ends the request's work at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import h11
from websockets.datastructures import Headers

from api import heads
from api.backpressure import Backpressure
from api.permissions import NOBODY, Grant

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 1 << 16
MAX_TARGET_BYTES = 8192
MAX_BODY_BYTES = 16 << 20
MAX_STRANGER_BODY_BYTES = 1 << 12
"""Of who needed no token."""
MAX_AHEAD_BYTES = 1 << 16
"""Sent ahead of an answer (pipelining); beyond that the connection is cut."""
HEAD_S = 5.0
BODY_S = 30.0
"""How long a body may take as a whole."""
KEEP_ALIVE_S = 30.0
"""How long a connection without a request is kept."""
LINGER_S = 2.0
"""After a last answer what still comes is dropped for so long, or closing would take the answer away."""
WRITE_HIGH_BYTES = 1 << 16

JSON = "application/json"
_HEAD_TOO_LARGE = f"a request's head may have {MAX_HEAD_BYTES} bytes"
HeaderList = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: HeaderList = ()


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body."""

    method: str
    target: str
    headers: Headers

    @property
    def has_body(self) -> bool:
        length = self.headers.get("Content-Length", "0")
        return "Transfer-Encoding" in self.headers or length.strip("0") != ""


@dataclass(frozen=True, slots=True)
class Request(Head):
    body: bytes
    received_t: float
    """When its last byte had come (monotonic seconds)."""
    grant: Grant = NOBODY
    """What its token lets it do."""


class Router(Protocol):
    """What decides about requests, and carries them out."""

    def opened(self, connection: HttpConnection) -> None: ...

    def lost(self, connection: HttpConnection) -> None: ...

    def judge(self, connection: HttpConnection, head: Head) -> Answer | Grant:
        """What a request may do, or the answer where it isn't let in; its body is never read then."""

    def refused(self, status: int, message: str) -> None:
        """Something that isn't clean HTTP was answered so."""

    def common_headers(self, head: Head) -> HeaderList:
        """Headers of every answer to this request."""

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answer it. Is cancelled when the client goes away."""


class Exchange:
    """The answer to one request, as its route writes it."""

    def __init__(self, connection: HttpConnection, headers: HeaderList) -> None:
        self._connection = connection
        self._headers = headers
        self.started = False
        self.backlog: Callable[[], int] = lambda: 0
        """Bytes that wait to be written, beside those in the transport's buffer."""

    @property
    def end_reason(self) -> str | None:
        """Why the connection has ended, `lost` or `slow`; None while it lives."""
        reason = self._connection.end_reason
        return None if reason == "closed" else reason

    @property
    def written(self) -> int:
        """Bytes written on the connection so far."""
        return self._connection.pressure.written

    @property
    def waiting(self) -> int:
        """Bytes that the client hasn't taken, or that haven't been written yet."""
        return self._connection.pressure.buffered + self.backlog()

    async def send(self, answer: Answer) -> None:
        """Write a whole answer."""
        self.started = True
        self._connection.send_whole(answer, self._headers)
        await self._connection.drain()

    async def start(self, content_type: str) -> None:
        """Begin a streamed answer, of status 200."""
        self.started = True
        self._connection.send(
            _head(200, (("Content-Type", content_type), ("Cache-Control", "no-store"), *self._headers))
        )
        await self._connection.drain()

    async def write(self, data: bytes) -> None:
        """Write a piece and wait until the client has taken most of what was written."""
        if data:
            self._connection.send(h11.Data(data=data))
        await self._connection.drain()

    async def end(self) -> None:
        self._connection.send(h11.EndOfMessage())
        await self._connection.drain()

    def cut(self) -> None:
        """End the connection in the middle of an answer that can't be given whole."""
        self._connection.transport.abort()


class HttpConnection(asyncio.Protocol):
    """One connection from its first request on. Loop thread only."""

    transport: asyncio.Transport
    pressure: Backpressure

    def __init__(self, router: Router) -> None:
        self._router = router
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: Head | None = None
        self._raw = bytearray()
        """What came of the present head."""
        self._body = bytearray()
        self._ahead = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False
        """Something of the next request has come."""
        self._half_closed = False
        self._lingering = False
        self._room = asyncio.Event()
        self._room.set()
        self.end_reason = "closed"
        """Why the connection ended: `closed`, `lost` or `slow`."""
        self.grant = NOBODY
        """What the present request may do."""

    # ---- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pressure = Backpressure(transport)
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self._router.opened(self)
        self._limit(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol has it
        self._stop_timer()
        if self._task is not None:
            if self.end_reason == "closed":
                self.end_reason = "lost"
            self._task.cancel()
        self._room.set()
        self._router.lost(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._task is not None:
            self._ahead += data
            if len(self._ahead) > MAX_AHEAD_BYTES:
                self.transport.abort()
            return
        if not self._begun:
            self._begun = True
            self._limit(HEAD_S)
        if self._head is None:
            self._raw += data
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """The client sends nothing more. That is how it gives up what takes long; a GET may be awaited."""
        if self._task is None:
            return False
        assert self._head is not None
        if self._head.method == "GET":
            self._half_closed = True
            return True
        self.end_reason = "lost"
        self._task.cancel()
        return False

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # ---- requests

    def _advance(self) -> None:
        """Take in what has come, up to the end of a request."""
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    if not self._begin(event):
                        return
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > self._max_body:
                        self._refuse(413, f"a body may have {self._max_body} bytes")
                        return
                elif isinstance(event, h11.EndOfMessage):
                    self._serve()
                    return
                else:  # more data is needed, or the client is done
                    return
        except h11.RemoteProtocolError as error:
            status = 421 if "Host: header" in str(error) else error.error_status_hint
            self._refuse(status, _HEAD_TOO_LARGE if status == 431 else "not HTTP", str(error))

    def _begin(self, event: h11.Request) -> bool:
        """Judge a request by its head; False where it was refused."""
        raw, self._raw = bytes(self._raw), bytearray()
        end = heads.END.search(raw)
        if len(event.target) > MAX_TARGET_BYTES:
            self._refuse(414, f"the address is longer than {MAX_TARGET_BYTES} bytes")
            return False
        if sum(len(name) + len(value) + 4 for name, value in event.headers) > MAX_HEAD_BYTES:
            self._refuse(431, _HEAD_TOO_LARGE)  # one that had come whole before the parser looked
            return False
        if (problem := heads.problem(raw[: end.end()] if end is not None else raw)) is not None:
            self._refuse(*problem)
            return False
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        head = self._head = Head(event.method.decode("ascii"), event.target.decode("latin-1"), headers)
        verdict = self._router.judge(self, head)
        if isinstance(verdict, Answer):
            self._close_with(verdict)
            return False
        self.grant = verdict
        if int(headers.get("Content-Length", "0")) > self._max_body:
            self._refuse(413, f"a body may have {self._max_body} bytes")
            return False
        if self._http.they_are_waiting_for_100_continue:
            self.send(h11.InformationalResponse(status_code=100, headers=[]))
        self._limit(BODY_S)
        return True

    @property
    def _max_body(self) -> int:
        return min(MAX_BODY_BYTES, MAX_STRANGER_BODY_BYTES) if self.grant is NOBODY else MAX_BODY_BYTES

    @property
    def busy(self) -> bool:
        """Whether a request is being carried out."""
        return self._task is not None

    def _serve(self) -> None:
        head = self._head
        assert head is not None
        self._stop_timer()
        received = (bytes(self._body), time.monotonic(), self.grant)
        method = "GET" if head.method == "HEAD" else head.method
        request = Request(method, head.target, head.headers, *received)
        self._body = bytearray()
        self._exchange = Exchange(self, self._router.common_headers(head))
        self._task = self._loop.create_task(self._carry_out(request, self._exchange))

    async def _carry_out(self, request: Request, exchange: Exchange) -> None:
        try:
            await self._router.serve(request, exchange)
        except asyncio.CancelledError:
            self.transport.close()
            raise
        except ConnectionError:
            self.transport.abort()
        except Exception:
            logger.exception("%s %s failed", request.method, request.target.partition("?")[0])
            if exchange.started:
                self.transport.abort()
            else:
                await exchange.send(error_answer(500, "this is a bug; the log has the details"))
        finally:
            self._task = self._exchange = None
        self._next()

    def _next(self) -> None:
        """Go on with the connection's next request, or end it."""
        if self.transport.is_closing():
            return
        if self._half_closed:
            self.transport.close()
            return
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._linger()
            return
        self._http.start_next_cycle()
        self._head, self.grant = None, NOBODY
        ahead, self._ahead = bytes(self._ahead), bytearray()
        self._raw = bytearray(self._http.trailing_data[0] + ahead)
        self._begun = bool(self._raw)
        self._limit(HEAD_S if self._begun else KEEP_ALIVE_S)
        if ahead:
            self._http.receive_data(ahead)
        self._advance()

    # ---- answers

    def send(self, event: h11.Event) -> None:
        """Write a part of an answer. Raises ConnectionError where the client is gone."""
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        data = self._http.send(event)
        if data:
            self.pressure.write(data)

    async def drain(self) -> None:
        """Wait until most of what was written has left. Raises ConnectionError where the client is gone."""
        await self._room.wait()
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")

    def send_whole(self, answer: Answer, headers: HeaderList = ()) -> None:
        lines = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
            *headers,
        ]
        if not any(name == "Cache-Control" for name, _ in answer.headers):
            lines.append(("Cache-Control", "no-store"))
        if answer.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            del lines[:2]
        self.send(_head(answer.status, lines))
        if self._head is None or self._head.method != "HEAD":
            self.send(h11.Data(data=answer.body))
        self.send(h11.EndOfMessage())

    def _refuse(self, status: int, message: str, details: str = "") -> None:
        self._router.refused(status, message)
        self._close_with(error_answer(status, f"{message}: {details}" if details else message))

    def _close_with(self, answer: Answer) -> None:
        """Answer, and end the connection whatever else was sent on it."""
        headers = self._router.common_headers(self._head) if self._head is not None else ()
        with contextlib.suppress(ConnectionError, h11.LocalProtocolError):
            self.send_whole(answer, (("Connection", "close"), *headers))
        self._linger()

    def _linger(self) -> None:
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._limit(LINGER_S)

    # ---- time

    def _limit(self, seconds: float) -> None:
        """What is going on must be over by then."""
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._head is None or self._lingering:
            self.transport.abort()
        else:
            self._refuse(408, f"the body took longer than {BODY_S:.0f} s")

    def check(self, now: float) -> None:
        """Cut the connection if it doesn't take what is sent; called about twice a second."""
        self.pressure.look(now)
        backlog = self.pressure.buffered if self._exchange is None else self._exchange.waiting
        if self.pressure.too_slow(now, backlog):
            self.end_reason = "slow"
            self._router.refused(408, "a client that doesn't read is cut")
            self.transport.abort()


def _head(status: int, headers: HeaderList) -> h11.Response:
    return h11.Response(
        status_code=status,
        reason=HTTPStatus(status).phrase.encode(),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
    )


def json_answer(status: int, body: dict[str, Any], headers: HeaderList = ()) -> Answer:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Answer(status, text.encode("utf-8", "replace") + b"\n", JSON, headers)


def error_answer(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: HeaderList = (),
) -> Answer:
    """An error as the ecosystem's clients read it; its code is the status by name where none is given."""
    return json_answer(status, error_body(status, message, code=code, param=param), headers)


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
            "param": param,
            "code": code or HTTPStatus(status).name.lower(),
        }
    }
