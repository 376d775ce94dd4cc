"""The client for asyncio: one identity over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from api.client.generation import Generation
from api.client.inbox import Inbox
from api.client.opening import Address, ConnectionLostError, Frame, announced, delays, lost
from api.client.typed import KNOWN, StreamFrame, parse_frame
from api.paths import Paths
from api.protocol import MAX_MESSAGE_BYTES
from engine.errors import ErrorInfo, TokenglassError

MAX_WAITING = 65_536
"""Events that a caller may leave unread before the client is given up."""
RESUME_ID = 0
REPEATABLE = frozenset(
    (
        "subscribe", "unsubscribe", "snapshot", "ping", "embed", "models.list", "models.estimate",
        "conversations.list", "conversations.get", "conversations.search", "conversations.export",
        "settings.get", "cancel", "pause", "resume",
    )
)  # fmt: skip
"""Commands that are the same done once or twice: sent again where the reply to the first was lost."""


class _Link:
    """One connection, and what waits for replies on it."""

    def __init__(self, connection: ClientConnection, hello: Frame) -> None:
        self.connection = connection
        self.hello = hello
        self.replies: dict[int, tuple[Frame, asyncio.Future[Frame], Inbox | None]] = {}
        self.last_seq = 0
        """Of the last event that came on it."""
        self.reset: Frame | None = None
        """Waits for its snapshot."""
        self.resuming = False
        """Not the first one: it begins with taking up the subscription."""

    @property
    def open(self) -> bool:
        """What is sent now has a chance to arrive; otherwise it surely doesn't."""
        return self.connection.state is State.OPEN and not self.connection.transport.is_closing()

    def fail(self, why: TokenglassError) -> None:
        for _, future, _ in self.replies.values():
            if not future.done():
                future.set_exception(why)


class LiveClient:
    """A client of the stream. Made by `connect` or `discover`; for the loop that made it.

    When the connection goes, it connects again (after 0.1 s, doubling to 30 s, with jitter) as the same
    client and goes on after the last event that it got: nothing is missing, nothing comes twice. What the app
    no longer holds, it says: the frames `reset` and `snapshot` stand for the gap.

    Every method raises TokenglassError: what the server answered, or ConnectionLostError.
    """

    def __init__(self, address: Address, link: _Link, reconnect: bool | float) -> None:
        self._address = address
        self._patience = math.inf if reconnect is True else float(reconnect)
        """Seconds to go on trying."""
        self._link: _Link | None = link
        self._linked = asyncio.Event()
        self._linked.set()
        self._lost: TokenglassError | None = None
        self._events = Inbox()
        self._subscribed = False
        self._selection: Frame = {"events": [], "generations": "own"}
        """As the app last confirmed it."""
        self._run_id: str | None = link.hello.get("run_id")
        self._seq = int(link.hello.get("seq", 0))
        self._generations: dict[str, Inbox] = {}
        self._tasks: set[asyncio.Task[tuple[Frame, Inbox]]] = set()
        self._next_id = RESUME_ID
        self._pauses = delays()
        self.hello = link.hello
        """The server's first frame on the latest connection: `client_id`, `run_id`, `app`, `last_cut` …"""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, token: str, *, name: str = "", key: str | None = None, reconnect: bool | float = True
    ) -> AsyncIterator[LiveClient]:
        """Connect to `url`, which must be a numeric loopback address: the token goes nowhere else.

        `name` is what others see; the same `key` keeps the identity over programs (left out: one of its own
        where it reconnects). `reconnect`: for ever, not at all, or for so many seconds each time. Raises
        TokenglassError where the first try fails.
        """
        key = key or (secrets.token_urlsafe(12) if reconnect else None)
        async with cls._opened(Address(lambda: (url, token), True, name, key), reconnect) as client:
            yield client

    @classmethod
    @asynccontextmanager
    async def discover(
        cls,
        home: Path | str | None = None,
        *,
        name: str = "",
        key: str | None = None,
        reconnect: bool | float = True,
    ) -> AsyncIterator[LiveClient]:
        """Connect to the app that runs for this home (None: the usual one), later to the next one there.

        Raises TokenglassError `not_found` where none does.
        """
        key = key or (secrets.token_urlsafe(12) if reconnect else None)
        paths = Paths.resolve(Path(home) if home is not None else None)
        async with cls._opened(Address(lambda: announced(paths), False, name, key), reconnect) as client:
            yield client

    @classmethod
    @asynccontextmanager
    async def _opened(cls, address: Address, reconnect: bool | float) -> AsyncIterator[LiveClient]:
        link = _Link(*await address.open())
        client = cls(address, link, reconnect)
        runner = asyncio.create_task(client._run(link))
        try:
            yield client
        finally:
            tasks = [runner, *client._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            link.connection.transport.abort()  # a runner that was cancelled before it began closes nothing

    # ---- for the caller

    async def request(self, type: str, /, **arguments: object) -> Frame:  # noqa: A002 - a wire name
        """Send one command and wait for its result; without a connection, first for the next one.

        A command is never carried out twice: where the connection goes before the reply, this raises
        ConnectionLostError, unless the command only asks something, or may be repeated (`cancel`, `pause`,
        `resume`).
        """
        return await self._request({"type": type, **arguments})

    async def _request(self, command: Frame, inbox: Inbox | None = None) -> Frame:
        """`inbox`: where the events of the generation go that this starts."""
        type = command["type"]  # noqa: A001 - a wire name
        if type == "subscribe":
            self._subscribed = True
        while True:
            link = await self._connected()
            if not link.open:
                self._unlink(link)  # the reader will notice, too
                continue
            try:
                return await self._ask(link, command, inbox)
            except ConnectionLostError as error:
                if type in REPEATABLE and self._patience:
                    continue
                raise ConnectionLostError(
                    f"{error.info.message} before `{type}` was answered: it may have been carried out or not"
                ) from None

    async def ensure_subscribed(self) -> None:
        """Subscribe to everything, where there was no `subscribe` yet."""
        if not self._subscribed:
            await self.request("subscribe")

    def generate(self, **arguments: object) -> Generation:
        """A generation of our own; iterating starts it and gives its events. Arguments: as on the wire."""
        return Generation(self, arguments)

    async def events(self, *, connection: bool = False) -> AsyncIterator[Frame]:
        """Every event (and reset, snapshot) from the first `subscribe` on, until the client's end.

        Subscribes to everything where nobody has yet. `connection`: also frames `connection.lost` {`reason`}
        and `connection.restored` {`hello`} of our own.
        """
        while True:
            try:
                await self.ensure_subscribed()
                frame = await self._events.get()
            except TokenglassError:
                if self._lost is None:
                    raise
                return
            if connection or not frame["type"].startswith("connection."):
                yield frame

    async def typed_events(self) -> AsyncIterator[StreamFrame]:
        """As `events`, as models: those of `engine.events`, `Reset` and `SnapshotFrame`.

        Without events of a newer app that have no model here.
        """
        async for frame in self.events():
            if frame["type"] in KNOWN:
                yield parse_frame(frame)

    async def batch(self, *, connection: bool = False) -> list[Frame]:
        """The next frames of `events` that are there, at least one; none after the last."""
        frames = []
        async for frame in self.events(connection=connection):
            frames.append(frame)
            if not self._events.waiting:
                break
        return frames

    @property
    def lost(self) -> TokenglassError | None:
        """Why the client came to its end; None while it is connected, or tries to be."""
        return self._lost

    @property
    def position(self) -> tuple[str | None, int]:
        """Up to where events came in: `run_id` and `seq`, for a later `subscribe` (`run_id`, `since`)."""
        return self._run_id, self._seq

    def start_generation(self, command: str, arguments: Frame) -> asyncio.Task[tuple[Frame, Inbox]]:
        """Send `generate` or `fork`; gives what was answered, and where its events come in."""

        async def start() -> tuple[Frame, Inbox]:
            inbox = Inbox()
            return await self._request({"type": command, **arguments}, inbox), inbox

        task = asyncio.create_task(start())
        self._tasks.add(task)
        task.add_done_callback(self._started)
        return task

    def _started(self, task: asyncio.Task[tuple[Frame, Inbox]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; nobody need

    # ---- sending

    async def _connected(self) -> _Link:
        while self._link is None:
            if self._lost is not None:
                raise self._lost
            await self._linked.wait()
        return self._link

    async def _ask(self, link: _Link, command: Frame, inbox: Inbox | None) -> Frame:
        """Send on this connection and wait. Raises ConnectionLostError where it goes before the reply."""
        self._next_id += 1
        number = self._next_id
        text = json.dumps({"id": number, **command}, ensure_ascii=False, allow_nan=False)
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_MESSAGE_BYTES:
            raise TokenglassError("invalid_argument", "this is too long: a command may have 1 MiB")
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        link.replies[number] = (command, future, inbox)
        try:
            with contextlib.suppress(ConnectionClosed):  # the reader says why
                await link.connection.send(data, text=True)
            return await future
        finally:
            link.replies.pop(number, None)

    # ---- the connection

    async def _run(self, link: _Link) -> None:
        """Read until the end, over all connections."""
        why: TokenglassError = ConnectionLostError("the connection was closed")
        try:
            while True:
                why = await self._read(link)
                self._unlink(link)
                if not self._patience or not isinstance(why, ConnectionLostError):
                    return
                self._tell({"type": "connection.lost", "reason": why.info.message})
                link = await self._open_again(why)
        except TokenglassError as error:
            why = error
        finally:
            self._end(link, why)

    async def _open_again(self, why: TokenglassError) -> _Link:
        """The next connection, which isn't in use yet. Raises TokenglassError where there can't be one."""
        end = asyncio.get_running_loop().time() + self._patience
        while True:
            if asyncio.get_running_loop().time() >= end:
                raise why
            await asyncio.sleep(next(self._pauses))
            try:
                link = _Link(*await self._address.open(again=True))
            except TokenglassError as error:
                if error.code == "forbidden" and self._address.fixed:
                    raise
            else:
                link.resuming = True
                return link

    async def _read(self, link: _Link) -> TokenglassError:
        """Take in what comes; answers why it ended."""
        try:
            if link.resuming:
                where = {"since": self._seq, "run_id": self._run_id}
                resume = {"id": RESUME_ID, "type": "subscribe", **self._selection, **where}
                await link.connection.send(json.dumps(resume))
            async for text in link.connection:
                self._take(link, json.loads(text))
            why: TokenglassError = lost(link.connection)
        except ConnectionClosed:
            why = lost(link.connection)
        except (ValueError, KeyError, TypeError) as error:
            why = TokenglassError("internal", f"the app sent something unreadable: {error}")
        except TokenglassError as error:
            why = error
        except asyncio.CancelledError:
            await link.connection.close()  # we leave: say so
            raise
        finally:
            link.connection.transport.abort()
        link.fail(why)
        return why

    def _unlink(self, link: _Link) -> None:
        """Nothing more is sent there."""
        if self._link is link:
            self._link = None
            self._linked.clear()

    def _end(self, link: _Link, why: TokenglassError) -> None:
        link.fail(why)
        self._lost = why
        self._link = None
        self._linked.set()
        self._events.end(why)
        for inbox in self._generations.values():
            inbox.end(why)

    # ---- what comes in

    def _take(self, link: _Link, frame: Frame) -> None:
        match frame["type"]:
            case "reply" if frame["id"] == RESUME_ID:
                self._resumed(link, frame)
            case "reply":
                self._take_reply(link, frame)
            case "reset":
                link.reset = frame
            case "snapshot":
                self._take_snapshot(link, frame)
            case _:
                self._take_event(link, frame)

    def _take_event(self, link: _Link, frame: Frame) -> None:
        self._seq = link.last_seq = frame["seq"]
        for field in ("generation_id", "branch_id"):
            if (inbox := self._generations.get(frame.get(field, ""))) is not None:
                inbox.put(frame)
        if frame["type"] == "generation.finished":
            self._generations.pop(frame["generation_id"], None)
        self._tell(frame)

    def _tell(self, frame: Frame) -> None:
        if self._subscribed:
            if self._events.waiting >= MAX_WAITING:
                raise TokenglassError("busy", "too many events were left unread")
            self._events.put(frame)

    def _take_reply(self, link: _Link, frame: Frame) -> None:
        command, future, inbox = link.replies.get(frame["id"], ({}, None, None))
        if future is None or future.done():
            return
        if frame["ok"]:
            result = frame["result"]
            # at once: what follows from it may be in the next frame
            match command["type"]:
                case "generate" | "fork" | "tool_result" if inbox is not None and "generation_id" in result:
                    self._generations[result["generation_id"]] = inbox
                case "subscribe":
                    self._selection = {k: command[k] for k in ("events", "generations") if k in command}
                    since = command.get("since")
                    self._seq = max(since, link.last_seq) if since is not None else result["seq"]
                case "unsubscribe":
                    self._selection = {"events": [], "generations": "own"}
            future.set_result(result)
        else:
            future.set_exception(_raised(frame))

    def _resumed(self, link: _Link, frame: Frame) -> None:
        """The connection is ready for use, where the app took up the subscription."""
        if not frame["ok"]:
            raise _raised(frame)
        self.hello = link.hello
        self._pauses = delays()
        self._link = link
        self._linked.set()
        self._tell({"type": "connection.restored", "hello": link.hello})

    def _take_snapshot(self, link: _Link, snapshot: Frame) -> None:
        """What the reset before it left: some generations go on after a gap, the end of others was missed."""
        reset = link.reset
        if reset is None:
            return
        link.reset = None
        self._run_id, self._seq = link.hello.get("run_id"), snapshot["seq"]
        self._tell(reset)
        self._tell(snapshot)
        running = {generation["generation_id"] for generation in snapshot["generations"]}
        for generation_id, inbox in tuple(self._generations.items()):
            if generation_id in running:
                inbox.put(reset)
                inbox.put(snapshot)
            else:
                del self._generations[generation_id]
                ended = "the app was started anew" if reset["reason"] == "run" else "too much was missed"
                inbox.end(ConnectionLostError(f"{ended}: how this generation ended is not known"))


def _raised(frame: Frame) -> TokenglassError:
    """The error of a reply."""
    return TokenglassError.of(ErrorInfo.model_validate(frame["error"]))
