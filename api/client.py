"""A client of `/v1/live` for programs in Python: finds the running app, sends commands, follows events."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from api.discovery import read_server_file
from api.paths import Paths
from api.protocol import MAX_MESSAGE_BYTES
from engine.errors import ErrorCode, ErrorInfo, TokenglassError

OPEN_TIMEOUT_S = 5.0
MAX_WAITING = 65_536
"""Events that a caller may leave unread before the connection is given up."""

Frame = dict[str, Any]
_Queue = asyncio.Queue[Frame | None]


class LiveClient:
    """One connection. Made by `connect` or `discover`; for the loop that made it.

    Every method raises TokenglassError: what the server answered, or `shutting_down` once the
    connection is gone.
    """

    def __init__(self, connection: ClientConnection, hello: Frame) -> None:
        self.hello = hello
        """The server's first frame: `client_id`, `run_id`, `app`, `seq`, `last_cut` …"""
        self._connection = connection
        self._replies: dict[int, tuple[str, asyncio.Future[Frame]]] = {}
        self._generations: dict[str, _Queue] = {}
        self._events: _Queue = asyncio.Queue()
        self._subscribed = False
        self._lost: TokenglassError | None = None
        self._next_id = 0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, token: str, *, name: str = "", key: str | None = None
    ) -> AsyncIterator[LiveClient]:
        """Connect to `url`, which must be a numeric loopback address: the token goes nowhere else.

        `name` is what others see; the same `key` keeps the identity over connections.
        """
        _check_url(url)
        query = urlencode({field: value for field, value in (("name", name), ("client", key)) if value})
        try:
            connection = await connect(
                f"{url}?{query}" if query else url,
                additional_headers={"Authorization": f"Bearer {token}"},
                proxy=None,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=1,
                max_size=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            code: ErrorCode = "busy" if status == 503 else "forbidden"
            reason = _reason(bytes(error.response.body or b""))
            raise TokenglassError(code, f"the app refused the connection ({status} {reason[:200]})") from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise TokenglassError(
                "not_found", f"nothing answers at {url} ({error})", hint="is the app still running?"
            ) from None
        async with connection:
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    hello = json.loads(await connection.recv())
            except (TimeoutError, ValueError, ConnectionClosed):
                raise TokenglassError("not_found", f"what answers at {url} isn't Tokenglass") from None
            client = cls(connection, hello)
            reader = asyncio.create_task(client._read())
            try:
                yield client
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader

    @classmethod
    @asynccontextmanager
    async def discover(
        cls, home: Path | None, *, name: str = "", key: str | None = None
    ) -> AsyncIterator[LiveClient]:
        """Connect to the app that runs for this home (None: the usual one).

        Raises TokenglassError `not_found` where none does.
        """
        about = running_app(Paths.resolve(home))
        if about is None:
            raise TokenglassError(
                "not_found",
                "no Tokenglass is running for this home",
                hint="start it with `tokenglass` or `tokenglass serve`",
            )
        async with cls.connect(about["url"], about["token"], name=name, key=key) as client:
            yield client

    async def request(self, type: str, /, **arguments: object) -> Frame:  # noqa: A002 - a wire name
        """Send one command and wait for its result."""
        if self._lost is not None:
            raise self._lost
        self._next_id += 1
        number = self._next_id
        command = json.dumps({"id": number, "type": type, **arguments}, ensure_ascii=False, allow_nan=False)
        data = command.encode("utf-8", "replace")
        if len(data) > MAX_MESSAGE_BYTES:
            raise TokenglassError("invalid_argument", "this is too long: a command may have 1 MiB")
        if type == "subscribe":
            self._subscribed = True
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._replies[number] = (type, future)
        try:
            with contextlib.suppress(ConnectionClosed):  # the reader says why
                await self._connection.send(data, text=True)
            return await future
        finally:
            self._replies.pop(number, None)

    def generate(self, **arguments: object) -> Generation:
        """A generation of our own; iterating starts it and gives its events. Arguments: as on the wire."""
        return Generation(self, arguments)

    async def events(self) -> AsyncIterator[Frame]:
        """Every event (and snapshot, reset) from the first `subscribe` on, until the connection is gone."""
        while (frame := await self._events.get()) is not None:
            yield frame
        self._events.put_nowait(None)  # for whoever asks again

    @property
    def lost(self) -> TokenglassError | None:
        """Why the connection ended; None while it is open."""
        return self._lost

    async def start_generation(self, command: str, arguments: Frame) -> tuple[Frame, _Queue]:
        """What `generate` or `fork` answered, and where its events come in."""
        result = await self.request(command, **arguments)
        return result, self._generations[result["generation_id"]]

    def forget_generation(self, generation_id: str) -> None:
        """Its events are no longer wanted apart from the others."""
        self._generations.pop(generation_id, None)

    async def _read(self) -> None:
        lost = TokenglassError("shutting_down", "the connection was closed")
        try:
            async for text in self._connection:
                self._take(json.loads(text))
            lost = _lost(self._connection)
        except ConnectionClosed:
            lost = _lost(self._connection)
        except (ValueError, KeyError, TypeError) as error:
            lost = TokenglassError("internal", f"the app sent something unreadable: {error}")
        except asyncio.QueueFull:
            lost = TokenglassError("busy", "too many events were left unread")
        finally:
            self._lost = lost
            for _, future in self._replies.values():
                if not future.done():
                    future.set_exception(lost)
            self._events.put_nowait(None)
            for queue in self._generations.values():
                queue.put_nowait(None)

    def _take(self, frame: Frame) -> None:
        if frame["type"] == "reply":
            self._take_reply(frame)
            return
        for field in ("generation_id", "branch_id"):
            queue = self._generations.get(frame.get(field, ""))
            if queue is not None:
                queue.put_nowait(frame)
        if self._subscribed:
            if self._events.qsize() >= MAX_WAITING:
                raise asyncio.QueueFull
            self._events.put_nowait(frame)

    def _take_reply(self, frame: Frame) -> None:
        command, future = self._replies.get(frame["id"], ("", None))
        if future is None or future.done():
            return
        if frame["ok"]:
            result = frame["result"]
            if command in ("generate", "fork"):  # at once: its events may be in the next frame
                self._generations[result["generation_id"]] = asyncio.Queue()
            future.set_result(result)
        else:
            info = ErrorInfo.model_validate(frame["error"])
            future.set_exception(TokenglassError(info.code, info.message, path=info.path, hint=info.hint))


class Generation:
    """The events of one generation of our own; the last one is `generation.finished`.

    Iterating raises TokenglassError: what `generate` was answered, or `shutting_down` where the
    connection ends before the generation does.
    """

    def __init__(self, client: LiveClient, arguments: Frame, command: str = "generate") -> None:
        self.result: Frame | None = None
        """What `generate` answered: `generation_id`, and with a conversation the ids of its messages."""
        self._client = client
        self._command = command
        self._arguments = arguments
        self._queue: _Queue | None = None
        self._over = False

    async def start(self) -> Frame:
        """Send the command, unless it was sent; answers `result`."""
        if self.result is None:
            self.result, self._queue = await self._client.start_generation(self._command, self._arguments)
        return self.result

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Frame:
        if self._over:
            raise StopAsyncIteration
        result = await self.start()
        assert self._queue is not None
        frame = await self._queue.get()
        self._over = frame is None or frame["type"] == "generation.finished"
        if self._over:
            self._client.forget_generation(result["generation_id"])
        if frame is None:
            assert self._client.lost is not None
            raise self._client.lost
        return frame

    async def cancel(self) -> None:
        """End it; its `finished` event comes nevertheless. Nothing happens where it hasn't started."""
        if self.result is not None:
            await self._do("cancel")

    async def pause(self) -> Frame:
        """Hold it before its next token. This and what follows starts it, if need be."""
        return await self._do("pause")

    async def resume(self) -> Frame:
        return await self._do("resume")

    async def step(self, tokens: int = 1) -> Frame:
        """Let it write some tokens and pause again; only while it is paused."""
        return await self._do("step", tokens=tokens)

    async def update(self, **sampling: object) -> Frame:
        """Change sampling parameters from its next token on."""
        return await self._do("update", sampling=sampling)

    async def rewind(self, tokens: int = 1) -> Frame:
        """Remove its last tokens."""
        return await self._do("rewind", tokens=tokens)

    async def inject(self, text: str) -> Frame:
        """Put text into its answer."""
        return await self._do("inject", text=text)

    async def fork(self, at_token: int, token_id: int | None = None, **more: object) -> Generation:
        """A branch that has its first tokens; `token_id` is the next, if given."""
        result = await self.start()
        arguments = {"generation_id": result["generation_id"], "at_token": at_token, **more}
        if token_id is not None:
            arguments["token_id"] = token_id
        branch = Generation(self._client, arguments, "fork")
        await branch.start()
        return branch

    async def _do(self, command: str, **arguments: object) -> Frame:
        result = await self.start()
        return await self._client.request(command, generation_id=result["generation_id"], **arguments)


def running_app(paths: Paths) -> Frame | None:
    """What the app of this home announced in `server.json`; None where its process is gone."""
    about = read_server_file(paths.server_file)
    if about is None:
        return None
    pid, started = about.get("pid"), about.get("started")
    if not isinstance(pid, int) or not isinstance(started, int | float):
        return None
    try:
        # A later start means that another program has the number now (and maybe the port).
        return about if psutil.Process(pid).create_time() <= started + 60 else None
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None
    except psutil.Error:
        return about


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "ws" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        good = False
    if not good:
        raise TokenglassError("forbidden", f"{url[:200]} is not an address on this machine")


def _lost(connection: ClientConnection) -> TokenglassError:
    if connection.close_code == 1001:
        return TokenglassError("shutting_down", "the app has quit")
    reason = f" ({connection.close_reason})" if connection.close_reason else ""
    return TokenglassError("shutting_down", f"the connection to the app was lost{reason}")


def _reason(body: bytes) -> str:
    """What a refusal says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()
