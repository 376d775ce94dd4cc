"""What the tests of the core share: an app with a fake model in this process, and clients of its stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from api.core import Core, Options
from engine.events import LogLine

TOKEN = "test-token-0123456789"
HI = [{"role": "user", "content": "hi"}]
SLOW = "fake:tokens=400,delay_ms=5"
ENDLESS = "fake:tokens=100000,delay_ms=5,ctx=200000"
"""Answers until it is cancelled: no machine is so slow that the answer has ended before."""
LIMIT_S = 240.0
WAIT_S = 60.0

Frame = dict[str, Any]


def run(work: Coroutine[Any, Any, None], limit_s: float = LIMIT_S) -> None:
    """Run a test's coroutine under a time limit; a task left over at its end fails the test."""

    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await work
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            _, still = await asyncio.wait(left, timeout=WAIT_S)
            assert not still, still

    asyncio.run(limited())


def app(home: Path, model: str = "fake:", **options: Any) -> contextlib.AbstractAsyncContextManager[Core]:
    """An app on any free port with a fake model."""
    return Core.open(Options(home=home, port=0, model=model, token=TOKEN, log_level="debug", **options))


class CommandError(Exception):
    """A reply with `ok: false`."""

    def __init__(self, error: Frame) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.error = error


class Wire:
    """A client of `/v1/live` that keeps every frame it got."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.arrived: list[float] = []
        """When each of them came in (monotonic seconds)."""
        self._last_id = 0
        self._news = asyncio.Event()
        self.closed = False
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self.connection:
                assert isinstance(frame, str)
                self.arrived.append(time.monotonic())
                self.frames.append(json.loads(frame))
                self._news.set()
        self.closed = True
        self._news.set()

    async def close(self) -> None:
        await self.connection.close()
        await self._reading

    async def until(self, wanted: Callable[[Frame], bool], start: int = 0) -> Frame:
        """The first frame that is wanted; waits for it."""
        while True:
            for start in range(start, len(self.frames)):  # noqa: B020 - goes on where it stopped
                if wanted(self.frames[start]):
                    return self.frames[start]
            start = len(self.frames)
            assert not self.closed, "the connection was closed"
            self._news.clear()
            await self._news.wait()

    async def event(self, name: str, **fields: object) -> Frame:
        return await self.until(
            lambda frame: frame["type"] == name and all(frame[key] == fields[key] for key in fields)
        )

    async def send(self, command: str, /, **arguments: object) -> int:
        """Send a command; answers its id."""
        self._last_id += 1
        await self.connection.send(json.dumps({"id": self._last_id, "type": command, **arguments}))
        return self._last_id

    async def reply(self, command_id: object) -> Frame:
        return await self.until(lambda frame: frame["type"] == "reply" and frame["id"] == command_id)

    async def command(self, command: str, /, **arguments: object) -> Frame:
        """Send a command and answer its result. Raises CommandError."""
        frame = await self.reply(await self.send(command, **arguments))
        if not frame["ok"]:
            raise CommandError(frame["error"])
        result = frame["result"]
        assert isinstance(result, dict)
        return result

    async def generate(self, content: str = "hi", **arguments: object) -> str:
        """Start a generation; answers its id."""
        messages = [{"role": "user", "content": content}]
        result = await self.command("generate", **({"messages": messages} | arguments))
        return str(result["generation_id"])

    async def finished(self, generation_id: str) -> Frame:
        return await self.event("generation.finished", generation_id=generation_id)

    def events(self, name: str | None = None, generation_id: str | None = None) -> list[Frame]:
        """The event frames that came so far."""
        return [
            frame
            for frame in self.frames
            if frame["type"] not in ("hello", "reply", "snapshot", "reset")
            and name in (None, frame["type"])
            and generation_id in (None, frame.get("generation_id"))
        ]

    def text(self, generation_id: str) -> str:
        return "".join(frame["text"] for frame in self.events("generation.delta", generation_id))

    def indices(self, generation_id: str) -> list[int]:
        return [
            token["index"]
            for frame in self.events(generation_id=generation_id)
            for token in frame.get("tokens", ())
        ]


@contextlib.asynccontextmanager
async def client(core: Core, query: str = "", token: str = TOKEN, **options: Any) -> AsyncIterator[Wire]:
    """A connection to the app's stream."""
    connection = await connect(
        core.url + query,
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
        compression=None,
        max_size=None,
        **({"open_timeout": WAIT_S} | options),
    )
    wire = Wire(connection)
    try:
        yield wire
    finally:
        await wire.close()


async def eventually(condition: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - any condition, not only ours
            await asyncio.sleep(0.01)


def flood(core: Core, n: int) -> None:
    """Publish `n` events of about 500 bytes."""
    for _ in range(n):
        core.bus.publish(LogLine(level="info", message="x" * 500))


def rises(frames: list[Frame]) -> bool:
    """Whether each frame's `seq` is above the one's before."""
    seqs = [frame["seq"] for frame in frames]
    return all(a < b for a, b in pairwise(seqs))
