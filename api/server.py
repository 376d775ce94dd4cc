"""The WebSocket server: one listening socket on loopback, its sessions, and their end.

Nothing here knows which loop it runs on: asyncio's own or the window's qasync.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from api import guard as doors
from api import protocol
from api.bus import EventBus
from api.clients import Clients
from api.guard import Guard, Refusal, Visitor
from api.handshake import Connection, as_response
from api.heads import combined
from api.http import HttpConnection, error_answer
from api.permissions import OWNER, PERMISSIONS, Grant, path_refusal
from api.pump import Pump
from api.responses import socket as responses
from api.responses.socket import ResponsesSocket
from api.routes import Routes
from api.service import Service
from api.session import Session
from api.state import State
from api.strangers import Strangers
from engine.errors import TokenglassError

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger("websockets.server.live")
# below INFO it would log tokens, and its INFO tells of each connection what is told here already
_library_logger.setLevel(logging.WARNING)

SEND_BUFFER_BYTES = 1 << 17
"""Of the kernel, for each connection: what lies there can't be taken back from a client that doesn't read."""
SWEEP_S = 0.5
LAST_WORDS_S = 0.3
GOODBYE_S = 0.5
"""How long clients may take to answer the close frame when the app quits."""
PORT_TRIES = 20
MAX_FILES = 4096


class LiveServer:
    """Serves `/v1/live` itself, and any other path through its routes. Loop thread only."""

    def __init__(
        self,
        bus: EventBus,
        state: State,
        service: Service,
        clients: Clients,
        about: dict[str, Any],
        run_id: str,
    ) -> None:
        self.bus = bus
        self.state = state
        self.service = service
        self.pump = Pump()
        """Writes to the sessions."""
        bus.add_fold(self.pump.hurry)
        self._clients = clients
        self._about = about
        self._run_id = run_id
        self._guard: Guard | None = None
        self._server: Server | None = None
        self._open: set[ServerConnection | HttpConnection] = set()
        self.strangers = Strangers()
        self._admitted: dict[ServerConnection, Visitor] = {}
        self._sessions: set[Session | ResponsesSocket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = False

    async def start(self, sock: socket.socket, guard: Guard) -> None:
        """Accept connections on a listening socket, which belongs to the server from now on."""
        self._guard = guard
        self.routes = Routes(self, guard, self._clients, str(self._about["version"]))
        connection_class = type("LiveConnection", (Connection,), {"live": self})
        self._server = await serve(
            self._handle,
            sock=sock,
            process_request=self._process_request,
            select_subprotocol=_select_subprotocol,
            logger=_library_logger,
            compression=None,
            server_header=None,
            open_timeout=2,
            ping_interval=None,  # sessions have a keepalive of their own
            close_timeout=1,
            max_size=(protocol.MAX_MESSAGE_BYTES, protocol.MAX_MESSAGE_BYTES),
            max_queue=16,
            write_limit=1 << 16,
            create_connection=connection_class,
        )

    async def stop(self) -> None:
        """Say goodbye (1001) to those who read, drop the others, wait for the end; about 1 s at most."""
        self._closing = True
        if self._server is None:
            return
        if self._sweep is not None:
            self._sweep.cancel()
        await self._last_words()
        self._server.close()
        for session in tuple(self._sessions):
            if session.stuck:
                session.cut("slow")
        deadline = time.monotonic() + GOODBYE_S
        while self._open and time.monotonic() < deadline:
            if not self._sessions:
                break
            await asyncio.sleep(0.01)
        for connection in tuple(self._open):
            connection.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._server.wait_closed()
        self.pump.close()

    async def _last_words(self) -> None:
        """Time for what clients are told of the end of what they asked for."""
        deadline = time.monotonic() + LAST_WORDS_S
        await asyncio.sleep(0.01)
        while (self._tasks or self.routes.busy) and time.monotonic() < deadline:  # noqa: ASYNC110 - all of them
            await asyncio.sleep(0.01)
        self.pump.flush()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a command in a task of its own, which outlives its connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def gap(self, run_id: str | None, since: int | None, seq: int) -> str | None:
        """Why a client can't be given the events after `since`; None where it can."""
        if run_id is not None and run_id != self._run_id:
            return "run"
        if since is None:
            return None
        if since > seq:
            return "ahead"
        if since < self.bus.oldest_seq - 1:
            return "too_old"
        return None

    # ---- the handshake

    @property
    def closing(self) -> bool:
        return self._closing

    def opened(self, connection: ServerConnection | HttpConnection) -> None:
        self._open.add(connection)
        self.strangers.came(connection)
        if isinstance(connection, HttpConnection):
            self._start_sweep()

    def lost(self, connection: ServerConnection | HttpConnection) -> None:
        self._open.discard(connection)
        self.strangers.gone(connection)
        if isinstance(connection, ServerConnection):
            self._admitted.pop(connection, None)

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Who may open a stream; any other handshake gets an HTTP answer."""
        assert self._guard is not None
        verdict = self._guard.check(request.method, request.path, request.headers)
        if isinstance(verdict, Visitor):
            if verdict.path == doors.HEALTH_PATH:
                return as_response(self.routes.health())
            if (forbidden := path_refusal(verdict.grant, verdict.path)) is not None:
                verdict = Refusal(403, forbidden.message)
            elif verdict.path not in doors.WEBSOCKET_PATHS:
                verdict = Refusal(400, f"no WebSocket is spoken here, but at {doors.LIVE_PATH}")
            elif self._closing:
                verdict = Refusal(503, "the app is quitting")
            elif len(self._admitted) >= protocol.MAX_CLIENTS:
                verdict = Refusal(503, f"{protocol.MAX_CLIENTS} clients are connected already")
            elif self._used_up(verdict.grant):
                verdict = Refusal(503, f"{protocol.MAX_OF_TOKEN} clients with this token are connected")
        if isinstance(verdict, Refusal):
            self.strangers.refused(verdict.status, verdict.message)
            return as_response(error_answer(verdict.status, verdict.message))
        self._admitted[connection] = verdict
        self.strangers.gone(connection)
        if verdict.path == doors.RESPONSES_PATH:
            responses.prepare(connection)
        return None

    def _used_up(self, grant: Grant) -> bool:
        """Whether a further token has as many connections as it may: others shall find room as well."""
        if grant is OWNER:
            return False
        return sum(visitor.grant == grant for visitor in self._admitted.values()) >= protocol.MAX_OF_TOKEN

    # ---- sessions

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        visitor = self._admitted[connection]
        if visitor.path == doors.RESPONSES_PATH:
            await self._handle_responses(connection, visitor)
            return
        client = self._clients.connect(visitor.name, "live", visitor.key, visitor.grant)
        session = Session(self, connection, client)
        self._sessions.add(session)
        self._start_sweep()
        hello = {
            "type": "hello",
            "protocol": protocol.PROTOCOL_VERSION,
            "app": self._about,
            "client_id": client.client_id,
            "run_id": self._run_id,
            "epoch": self.state.epoch,
            "seq": self.bus.seq,
            "last_cut": client.last_cut,
            "permissions": [name for name in PERMISSIONS if name in client.grant.permissions],
        }
        client.last_cut = None
        try:
            await session.run(hello)
        finally:
            self._sessions.discard(session)
            self._clients.disconnect(client, session.end_reason)

    async def _handle_responses(self, connection: Connection, visitor: Visitor) -> None:
        assert connection.request is not None
        name = combined(connection.request.headers, "User-Agent")
        client = self._clients.connect(name, "responses", grant=visitor.grant)
        session = ResponsesSocket(self, self.routes.hub, connection, client)
        self._sessions.add(session)
        self._start_sweep()
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self._clients.disconnect(client, session.end_reason)

    def _start_sweep(self) -> None:
        if self._sweep is None and not self._closing:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._check_all)

    def _check_all(self) -> None:
        self._sweep = None
        now = time.monotonic()
        assert self._guard is not None
        tokens = self._guard.tokens
        tokens.refresh()
        for session in tuple(self._sessions):
            session.check(now)
        for session in [session for session in self._sessions if not tokens.valid(session.client.grant)]:
            session.revoke()
        self._clients.tell_traffic(now)
        exchanges = [connection for connection in self._open if isinstance(connection, HttpConnection)]
        for connection in exchanges:
            connection.check(now)
            if not tokens.valid(connection.grant):
                connection.transport.abort()
        if self._sessions or exchanges:
            self._start_sweep()


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(doors.SUBPROTOCOL) if doors.SUBPROTOCOL in offered else None


def allow_many_files() -> None:
    """Raise the soft limit on open files: on some systems it is no more than the clients alone may need."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(host: str, port: int | None, preferred: int) -> socket.socket:
    """A listening socket on a loopback address.

    `port` None tries `preferred`, the next ones, and then any free one. Raises TokenglassError `bad_state`
    where a given port is taken or the address can't be used.
    """
    candidates = [port] if port is not None else [*range(preferred, min(preferred + PORT_TRIES, 65536)), 0]
    problem: OSError | None = None
    for candidate in candidates:
        try:
            return _bind(host, candidate)
        except OSError as error:
            problem = error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
    assert problem is not None
    taken = problem.errno == errno.EADDRINUSE
    raise TokenglassError(
        "bad_state",
        f"port {port} is taken" if taken else f"can't listen on {host}: {problem.strerror or problem}",
        hint="choose another one with --port, or 0 for any free one",
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named, or asyncio would not turn off Nagle's delay on accepted connections
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where reuse would let others take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind((host, port))
        sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
