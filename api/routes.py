"""What plain HTTP requests are answered: who is let in, which path does what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from api import documents, metrics, protocol
from api import guard as doors
from api.clients import Clients
from api.guard import Guard, Refusal
from api.http import Answer, Exchange, Head, HeaderList, HttpConnection, Request, error_answer, json_answer
from api.openai.dialect import Dialect
from api.permissions import NOBODY, OWNER, Grant, path_refusal
from api.responses.http import ResponsesHttp
from api.responses.hub import Hub

if TYPE_CHECKING:
    from api.server import LiveServer

PREFLIGHT_S = 600
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}(?:, ?[A-Za-z0-9_-]{1,64}){0,63}")


class Routes:
    """The paths beside the stream. Loop thread only."""

    def __init__(self, server: LiveServer, guard: Guard, clients: Clients, version: str) -> None:
        self._server = server
        self._guard = guard
        self._version = version
        self._connections: dict[HttpConnection, None] = {}
        """Those that have shown a token, in this order."""
        self._metrics = metrics.Metrics(server.state)
        server.bus.add_fold(self._metrics.fold)
        self._dialect = Dialect(server, clients)
        self.hub = Hub(server, clients)
        self._responses = ResponsesHttp(self.hub)

    def opened(self, connection: HttpConnection) -> None:
        self._server.opened(connection)

    def lost(self, connection: HttpConnection) -> None:
        self._connections.pop(connection, None)
        self._server.lost(connection)

    # ---- the doors

    def judge(self, connection: HttpConnection, head: Head) -> Answer | Grant:
        """What a request may do, or the answer to one that isn't let in."""
        verdict = self._guard.check(head.method, head.target, head.headers)
        if isinstance(verdict, Refusal):
            self.refused(verdict.status, verdict.message)
            allow = (("Allow", verdict.allow),) if verdict.allow else ()
            return error_answer(verdict.status, verdict.message, headers=allow)
        if self._server.closing:
            return error_answer(503, "the app is quitting")
        if verdict.grant is not NOBODY and not self._has_room(connection, verdict.grant):
            return error_answer(503, "too many HTTP requests are being answered already")
        if not verdict.preflight and (forbidden := path_refusal(verdict.grant, verdict.path)) is not None:
            return error_answer(403, forbidden.message, code=forbidden.code)
        if verdict.path in doors.WEBSOCKET_PATHS and head.method == "GET":
            if head.has_body:
                return error_answer(400, "the stream takes no body")
            upgrade = (("Upgrade", "websocket"),)
            return error_answer(426, "this is a WebSocket: it must be asked for", headers=upgrade)
        return verdict.grant

    def refused(self, status: int, message: str) -> None:
        self._server.strangers.refused(status, message)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return any(connection.busy for connection in self._connections)

    def _has_room(self, connection: HttpConnection, grant: Grant) -> bool:
        """Room among those with a token; where there is none, who has nothing answered just now must go."""
        with_it = sum(other.busy and other.grant == grant for other in self._connections)
        if grant is not OWNER and with_it >= protocol.MAX_OF_TOKEN:
            return False
        if connection not in self._connections:
            if len(self._connections) >= protocol.MAX_CLIENTS:
                idle = next((other for other in self._connections if not other.busy), None)
                if idle is None:
                    return False
                del self._connections[idle]
                idle.transport.abort()
            self._connections[connection] = None
            self._server.strangers.gone(connection)
        return True

    def common_headers(self, head: Head) -> HeaderList:
        """Lets a page of an allowed origin read the answer."""
        origin = self._guard.origin(head.headers)
        return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin")) if origin else ()

    # ---- the paths

    async def serve(self, request: Request, exchange: Exchange) -> None:
        if request.method == "OPTIONS":
            await exchange.send(preflight(request))
            return
        path = urlsplit(request.target).path
        if path == doors.HEALTH_PATH:
            await exchange.send(self.health())
        elif path == doors.METRICS_PATH:
            await exchange.send(Answer(200, self._metrics.text().encode(), metrics.CONTENT_TYPE))
        elif path in documents.FILES:
            await exchange.send(documents.answer(path, request.headers))
        elif path.startswith(doors.RESPONSES_PATH):
            await self._responses.serve(path, request, exchange)
        else:
            await self._dialect.serve(path, request, exchange)

    def health(self) -> Answer:
        return json_answer(
            200, {"status": "ok", "version": self._version, "engine": self._server.state.engine}
        )


def preflight(request: Request) -> Answer:
    """What a page of an allowed origin may send: the path's method, and the headers it asks for."""
    headers = [("Access-Control-Max-Age", str(PREFLIGHT_S))]
    method = doors.method_of(urlsplit(request.target).path)
    if method is not None:
        headers.append(("Access-Control-Allow-Methods", method))
    wanted = request.headers.get_all("Access-Control-Request-Headers")
    if len(wanted) == 1 and _HEADER_NAMES.fullmatch(wanted[0].strip()):
        headers.append(("Access-Control-Allow-Headers", wanted[0].strip()))
    if request.headers.get_all("Access-Control-Request-Private-Network") == ["true"]:
        headers.append(("Access-Control-Allow-Private-Network", "true"))
    return Answer(204, b"", headers=headers)
