"""What each way of asking over the network costs: the stream, HTTP with and without streaming, polling.

The same question goes out each way, over connections that are open already and over new ones, with and
without a delay on the line. BENCHMARKS.md says what exactly each of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from api.bench import delay
from api.bench.parts import SENTENCE, Bench
from api.bench.samples import Figures, Pair, Run, Sample
from api.bench.sides import RUN_TIMEOUT_S, START_TIMEOUT_S, AppSide, Child
from api.bench.wires import Http, Line, Live, Traffic
from api.client import LiveClient, running_app
from api.paths import Paths
from engine.errors import TokenglassError

TOKENS = 100
ROUND_TRIPS_MS = (0, 100)
PERIOD_S = 1.0
"""How long a polling client sleeps between two looks."""
SETTLE_S = 0.03
"""What the app still does after an answer's end is counted for so long."""
STOP_TIMEOUT_S = 60.0

CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Trip(Sample):
    """One answer over the network: its run has two times, of the first text and of the end."""

    client_cpu_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)
    stop_s: float | None = None
    """From the wish to stop another such answer to its end in the engine; None where it ended before."""

    def figures(self) -> Figures:
        run, n = self.runs[0], self.runs[0].n_tokens
        return {
            "first_text_ms": (run.times[0] - run.start) * 1000,
            "whole_ms": (run.times[-1] - run.start) * 1000,
            "stop_ms": None if self.stop_s is None else self.stop_s * 1000,
            "app_cpu_us_per_token": (self.app_cpu_s or 0.0) * 1e6 / n,
            "client_cpu_us_per_token": self.client_cpu_s * 1e6 / n,
            "sent_bytes_per_token": self.traffic.sent / n,
            "received_bytes_per_token": self.traffic.received / n,
        }


@dataclass
class Question:
    """What is asked each way."""

    content: str
    n_tokens: int | None
    sampling: dict[str, Any]
    heard: Callable[[], None] = lambda: None
    """To be called when there is some text of the answer."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client could stop it."""


class Way(ABC):
    """One way of asking. Every method raises TokenglassError or OSError."""

    def __init__(self, line: Line, kept: bool) -> None:
        self.traffic = Traffic()
        self._line = line
        self._kept = kept
        self._connections: list[Live | Http] = []

    @abstractmethod
    async def open(self) -> None:
        """Open, where they are kept, the connections that will be used."""

    @abstractmethod
    async def ask(self, question: Question) -> int:
        """Ask and wait until all of the answer is there; its tokens."""

    @abstractmethod
    async def stop(self) -> None:
        """Have it ended, as a user of this transport does."""

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def _open_live(self) -> Live:
        live = await Live.open(self._line, self.traffic)
        self._connections.append(live)
        return live

    async def _open_http(self) -> Http:
        http = await Http.open(self._line, self.traffic)
        self._connections.append(http)
        return http


class Stream(Way):
    """`generate` on `/v1/live`."""

    _live: Live

    async def open(self) -> None:
        if self._kept:
            self._live = await self._open_live()

    async def ask(self, question: Question) -> int:
        if not self._kept:
            self._live = await self._open_live()
        messages = [{"role": "user", "content": question.content}]
        self._live.send(
            "generate", messages=messages, max_tokens=question.n_tokens, sampling=question.sampling
        )
        result = await self._live.reply("generate")
        self._generation_id = result["generation_id"]
        question.known.set()
        while (frame := await self._live.frame())["type"] != "generation.finished":
            if frame["type"] == "generation.delta" and frame["text"]:
                question.heard()
        if frame["finish_reason"] == "error":
            raise TokenglassError("internal", frame["error"]["message"])
        return int(frame["usage"]["completion_tokens"])

    async def stop(self) -> None:
        self._live.send("cancel", generation_id=self._generation_id)


class Post(Way):
    """`POST /v1/chat/completions`; the answer comes in one piece."""

    stream = False
    _http: Http
    _n_tokens = 0

    async def open(self) -> None:
        if self._kept:
            self._http = await self._open_http()
            async for _ in self._http.request("GET", "/v1/models"):  # so that the connection is in use
                pass

    async def ask(self, question: Question) -> int:
        if not self._kept:
            self._http = await self._open_http()
        body = {
            "model": "",
            "messages": [{"role": "user", "content": question.content}],
            "stream": self.stream,
            **question.sampling,
        }
        if question.n_tokens is not None:
            body["max_tokens"] = question.n_tokens
        question.known.set()
        text = b""
        async for piece in self._http.request("POST", CHAT, body):
            *events, text = (text + piece).split(b"\n\n") if self.stream else (text + piece,)
            for event in events:
                self._take(event, question)
        if not self.stream:
            self._take(text, question)
        return self._n_tokens

    def _take(self, event: bytes, question: Question) -> None:
        """A chunk of the stream, or the whole answer."""
        if event == b"data: [DONE]":
            return
        data = json.loads(event.removeprefix(b"data: "))
        if "error" in data:
            raise TokenglassError("internal", data["error"]["message"])
        choice = data["choices"][0]
        if choice["delta" if self.stream else "message"].get("content"):
            question.heard()
        if choice["finish_reason"]:
            self._n_tokens = data["timings"]["predicted_n"]

    async def stop(self) -> None:
        await self._http.close()


class ServerSentEvents(Post):
    """The same with `"stream": true`."""

    stream = True


class Poll(Way):
    """Start the work, then look every second whether it is done.

    The app has no such requests over HTTP; this does the same over `/v1/live`: one connection starts a
    generation in a conversation and closes, the next ones, one for each look (`kept`: one for all), get the
    conversation's messages.
    """

    _starting: Live
    _looking: Live

    async def open(self) -> None:
        self._starting = await self._open_live()
        self._starting.send("conversations.create", title="bench", system="")
        created = await self._starting.reply("conversations.create")
        self._conversation_id = created["conversation"]["id"]
        if self._kept:
            self._looking = await self._open_live()
        else:
            await self._starting.close()

    async def ask(self, question: Question) -> int:
        if not self._kept:
            self._starting = await self._open_live()
        self._starting.send(
            "generate",
            conversation_id=self._conversation_id,
            content=question.content,
            max_tokens=question.n_tokens,
            sampling=question.sampling,
        )
        result = await self._starting.reply("generate")
        await self._starting.close()
        self._generation_id = result["generation_id"]
        question.known.set()
        while True:
            await asyncio.sleep(PERIOD_S)
            message = await self._look()
            if message["content"]:
                question.heard()
            if message["status"] == "error":
                raise TokenglassError("internal", message["error"]["message"])
            if message["status"] != "streaming":
                return int(message["usage"]["completion_tokens"])

    async def _look(self) -> dict[str, Any]:
        """The answer as it is now."""
        if not self._kept:
            self._looking = await self._open_live()
        self._looking.send("conversations.get", conversation_id=self._conversation_id)
        found = await self._looking.reply("conversations.get")
        if not self._kept:
            await self._looking.close()
        message: dict[str, Any] = found["messages"][-1]
        return message

    async def stop(self) -> None:
        if not self._kept:
            self._looking = await self._open_live()
        self._looking.send("cancel", generation_id=self._generation_id)


WAYS: dict[str, tuple[type[Way], bool]] = {
    "live": (Stream, True),
    "live new": (Stream, False),
    "sse": (ServerSentEvents, True),
    "sse new": (ServerSentEvents, False),
    "post": (Post, True),
    "post new": (Post, False),
    "poll": (Poll, True),
    "poll new": (Poll, False),
}
"""By name: what asks, and whether its connections are open before."""
STOPPED = ("live", "sse", "post", "poll", "poll new")
"""Those that differ in how they stop an answer."""


async def compare(bench: Bench) -> None:
    """`transports N`: every way at a round trip of N ms, all of them in turn in each round.

    Nobody else follows, and greedy or usual sampling is as everywhere.
    """
    app = bench.app
    await app.subscribers.become(0)
    async with contextlib.AsyncExitStack() as stack:
        lines = {}
        for round_trip_ms in ROUND_TRIPS_MS:
            lines[round_trip_ms] = await _line(app.home, round_trip_ms, stack)
        n = bench.settings.pairs
        for i in range(n + 1):
            bench.progress(f"transports: {'warming up' if i == 0 else f'round {i} of {n}'}")
            trips = await _round(bench, lines, i)
            for round_trip_ms, pair in trips.items():
                if i > 0:
                    bench.records.add(f"transports {round_trip_ms}", pair)


async def _line(home: Path, round_trip_ms: int, stack: contextlib.AsyncExitStack) -> Line:
    """A way to the app: with a delay through a process that ends with the stack, else straight."""
    about = running_app(Paths.resolve(home))
    assert about is not None
    port = urlsplit(about["url"]).port
    if round_trip_ms:
        child = Child(delay.serve, port, round_trip_ms / 1000)
        stack.callback(child.close)
        port = await child.answer(START_TIMEOUT_S)
    assert port is not None
    return Line(about["url"], about["token"], port)


async def _round(bench: Bench, lines: Mapping[int, Line], i: int) -> dict[int, Pair]:
    """Ask once every way over every line, and then once more to stop the answer."""
    order = [(round_trip_ms, name) for round_trip_ms in lines for name in WAYS]
    random.Random(i).shuffle(order)
    sampling = bench.app.sampling.model_dump(mode="json", exclude_unset=True)
    trips: dict[tuple[int, str], Trip] = {}
    for k, (round_trip_ms, name) in enumerate(order):
        # another beginning each time, so that nobody finds a cached prefix
        question = Question(f"{i:03d} {k:02d}: {SENTENCE}", TOKENS, sampling)
        async with _opened(lines[round_trip_ms], name) as way:
            trips[round_trip_ms, name] = await _trip(bench.app, way, question)
    async with LiveClient.discover(bench.app.home, name="watcher", reconnect=False) as watcher:
        await watcher.request("subscribe", events=["generation.delta", "generation.finished"])
        events = watcher.events()
        for k, (round_trip_ms, name) in enumerate(order):
            if name not in STOPPED:
                continue
            question = Question(f"{i:03d} {k:02d} stop: {SENTENCE}", None, sampling)
            async with _opened(lines[round_trip_ms], name) as way:
                trips[round_trip_ms, name].stop_s = await _stop(events, way, question)
    return {round_trip_ms: {name: trips[round_trip_ms, name] for name in WAYS} for round_trip_ms in lines}


@contextlib.asynccontextmanager
async def _opened(line: Line, name: str) -> AsyncIterator[Way]:
    kind, kept = WAYS[name]
    way = kind(line, kept)
    try:
        await way.open()
        yield way
    except OSError as error:
        raise TokenglassError("internal", f"{name}: the app can't be reached: {error}") from None
    finally:
        await way.close()


async def _trip(app: AppSide, way: Way, question: Question) -> Trip:
    """Ask and time it."""
    way.traffic.sent = way.traffic.received = 0
    first: list[float] = []
    question.heard = lambda: first.append(time.monotonic()) if not first else None
    app_before, client_before, start = app.cpu_s(), time.process_time(), time.monotonic()
    async with asyncio.timeout(RUN_TIMEOUT_S):
        n_tokens = await way.ask(question)
    end = time.monotonic()
    client_cpu_s = time.process_time() - client_before
    await asyncio.sleep(SETTLE_S)
    if not first or not n_tokens:
        raise TokenglassError("internal", "an answer had no text")
    run = Run(start, [first[0], end], n_tokens=n_tokens)
    app_cpu_s = max(0.0, app.cpu_s() - app_before)
    traffic = Traffic(way.traffic.sent, way.traffic.received)
    return Trip([run], app_cpu_s=app_cpu_s, client_cpu_s=client_cpu_s, traffic=traffic)


async def _stop(events: AsyncIterator[dict[str, Any]], way: Way, question: Question) -> float | None:
    """Ask, have it stopped while the engine works on it, and see when it was."""
    asking = asyncio.create_task(way.ask(question))
    start = None
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            async for event in events:
                if event["type"] == "generation.finished":
                    cancelled = event["finish_reason"] == "cancelled"
                    return event["t"] - start if cancelled and start is not None else None
                if start is None:
                    await question.known.wait()
                    start = time.monotonic()
                    await way.stop()
    except TimeoutError:
        pass
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    raise TokenglassError("internal", "an answer that was to be stopped went on")
