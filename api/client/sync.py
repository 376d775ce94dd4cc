"""The same client for programs without a loop: `with SyncClient.discover() as client: …`.

The connection lives in a thread with a loop of its own, so it goes on while the program does something else,
and Ctrl-C reaches whatever waits here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar

from api.client.generation import Answer, Generation
from api.client.live import LiveClient
from api.client.opening import Frame
from api.client.typed import EVENT_NAMES, KNOWN, StreamFrame, parse_frame
from engine.errors import TokenglassError
from engine.events import Event, EventAdapter

LEAVE_S = 2.0

T = TypeVar("T")


class LoopThread:
    """A running loop in another thread, as seen from this one. Made by `loop_thread`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if not self._loop.is_running():
            work.close()
            raise TokenglassError("shutting_down", "this client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it; Ctrl-C here cancels it there."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @contextlib.contextmanager
    def enter(self, context: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """The context manager, entered and left in one task over there."""
        entered: Future[T] = Future()
        leave = asyncio.Event()

        async def hold() -> None:
            try:
                async with context as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if not entered.done():
                    entered.set_exception(error)
                    return
                raise

        task = self.submit(hold())
        try:
            yield entered.result()
        finally:
            if entered.done():
                self._loop.call_soon_threadsafe(leave.set)
            else:
                task.cancel()
            with contextlib.suppress(TimeoutError, CancelledError):
                task.result(timeout=LEAVE_S)


@contextlib.contextmanager
def loop_thread(name: str) -> Iterator[LoopThread]:
    """A thread with a loop; at the end what still runs there is cancelled."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    try:
        yield LoopThread(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LEAVE_S)
        if not thread.is_alive():
            loop.run_until_complete(_cancel_all(loop))
            loop.close()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class SyncClient:
    """`LiveClient` for plain code; each method waits for what the one of the same name there does."""

    def __init__(self, client: LiveClient, loop: LoopThread) -> None:
        self._client = client
        self._loop = loop

    @classmethod
    @contextlib.contextmanager
    def connect(
        cls, url: str, token: str, *, name: str = "", key: str | None = None, reconnect: bool | float = True
    ) -> Iterator[SyncClient]:
        """Connect to `url`, a numeric loopback address. Raises TokenglassError where the first try fails."""
        opened = LiveClient.connect(url, token, name=name, key=key, reconnect=reconnect)
        with loop_thread("tokenglass-client") as loop, loop.enter(opened) as client:
            yield cls(client, loop)

    @classmethod
    @contextlib.contextmanager
    def discover(
        cls,
        home: Path | str | None = None,
        *,
        name: str = "",
        key: str | None = None,
        reconnect: bool | float = True,
    ) -> Iterator[SyncClient]:
        """Connect to the app that runs for this home (None: the usual one).

        Raises TokenglassError `not_found` where none does.
        """
        opened = LiveClient.discover(home, name=name, key=key, reconnect=reconnect)
        with loop_thread("tokenglass-client") as loop, loop.enter(opened) as client:
            yield cls(client, loop)

    @property
    def hello(self) -> Frame:
        """The server's first frame on the latest connection."""
        return self._client.hello

    @property
    def lost(self) -> TokenglassError | None:
        """Why the client came to its end; None while it is connected, or tries to be."""
        return self._client.lost

    @property
    def position(self) -> tuple[str | None, int]:
        """`run_id` and `seq` up to which events came in."""
        return self._client.position

    def request(self, type: str, /, **arguments: object) -> Frame:  # noqa: A002 - a wire name
        return self._loop.call(self._client.request(type, **arguments))

    def events(self, *, connection: bool = False) -> Iterator[Frame]:
        """Every event from the first `subscribe` on. Subscribes to everything where nobody has yet."""
        while frames := self._loop.call(self._client.batch(connection=connection)):
            yield from frames

    def typed_events(self) -> Iterator[StreamFrame]:
        """As `events`, as models: those of `engine.events`, `Reset` and `SnapshotFrame`."""
        for frame in self.events():
            if frame["type"] in KNOWN:
                yield parse_frame(frame)

    def generate(self, **arguments: object) -> SyncGeneration:
        """A generation of our own; iterating starts it and gives its events. Arguments: as on the wire."""
        return SyncGeneration(self._client.generate(**arguments), self._loop)


class SyncGeneration:
    """`Generation` for plain code."""

    def __init__(self, generation: Generation, loop: LoopThread) -> None:
        self._generation = generation
        self._loop = loop
        self._ahead: list[Frame] = []

    @property
    def result(self) -> Frame | None:
        """What `generate` answered."""
        return self._generation.result

    @property
    def id(self) -> str | None:
        """Its `generation_id`, once it has started."""
        return self._generation.id

    def start(self) -> Frame:
        return self._loop.call(self._generation.start())

    def __iter__(self) -> SyncGeneration:
        return self

    def __next__(self) -> Frame:
        if not self._ahead:
            self._ahead = self._loop.call(self._generation.batch())[::-1]
            if not self._ahead:
                raise StopIteration
        return self._ahead.pop()

    def typed(self) -> Iterator[Event]:
        """Its events as the models of `engine.events`."""
        for frame in self:
            if frame["type"] in EVENT_NAMES:
                yield EventAdapter.validate_python(frame)

    def text(self) -> Iterator[str]:
        """The answer piece by piece as it is written, without reasoning and tool calls."""
        answer = Answer()
        for frame in self:
            if piece := answer.take(frame, self.id):
                yield piece

    def finished(self) -> Frame:
        """Its last event. Takes what comes before."""
        self._ahead.clear()
        return self._loop.call(self._generation.finished())

    def cancel(self) -> None:
        self._loop.call(self._generation.cancel())

    def pause(self) -> Frame:
        return self._loop.call(self._generation.pause())

    def resume(self) -> Frame:
        return self._loop.call(self._generation.resume())

    def step(self, tokens: int = 1) -> Frame:
        return self._loop.call(self._generation.step(tokens))

    def update(self, **sampling: object) -> Frame:
        return self._loop.call(self._generation.update(**sampling))

    def rewind(self, tokens: int = 1) -> Frame:
        return self._loop.call(self._generation.rewind(tokens))

    def inject(self, text: str) -> Frame:
        return self._loop.call(self._generation.inject(text))

    def tool_result(self, call_id: str, content: str) -> SyncGeneration | None:
        following = self._loop.call(self._generation.tool_result(call_id, content))
        return None if following is None else SyncGeneration(following, self._loop)

    def fork(self, at_token: int, token_id: int | None = None, **more: object) -> SyncGeneration:
        branch = self._loop.call(self._generation.fork(at_token, token_id, **more))
        return SyncGeneration(branch, self._loop)
