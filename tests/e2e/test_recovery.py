"""Workers killed from outside at random moments, under load: what clients on real sockets see of it.

The app is the real one but for limits that are there to stop exactly this: how many deaths a minute it takes
before it gives up, how long it waits before it starts another worker, and in how many deaths a generation may
have run before it is taken for their cause. Kills from outside are nobody's fault, and here are many.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from tests.api.harness import Frame, Wire
from tests.e2e.harness import Serve, eventually, program, serve

TOLERANT = program(
    "from api import generations, supervisor",
    "supervisor.MAX_DEATHS = generations.MAX_DEATHS = generations.MAX_SENDS = 10**6",
    "supervisor.BACKOFF_S = (0.1,)",
)
N_EXECUTOR = 4
"""Threads that the app starts when it first needs them."""
N_CLIENTS = 4
QUESTIONS = [f"Question {n}" for n in range(12)]
SAMPLING = {"temperature": 0.8, "seed": 5}


class Load:
    """Clients that ask one thing after the other, and one that watches everything."""

    def __init__(self, app: Serve, watcher: Wire) -> None:
        self.app = app
        self.watcher = watcher
        self.right: dict[str, tuple[list[int], str]] = {}
        """By question: token ids and text of an undisturbed answer."""
        self.n_answers = 0
        self.kills: list[float] = []
        self.stop = asyncio.Event()
        self._place = 0
        self._seen: defaultdict[str, list[Frame]] = defaultdict(list)
        """Of each generation, what the watcher saw."""
        self._engine: list[tuple[float, Frame]] = []
        self._tokens: list[float] = []
        """When the watcher got any."""

    def look(self) -> None:
        """Sort what has come to the watcher since the last look."""
        for t, frame in zip(
            self.watcher.arrived[self._place :], self.watcher.frames[self._place :], strict=True
        ):
            self._place += 1
            if "generation_id" in frame:
                self._seen[frame["generation_id"]].append(frame)
            if frame["type"].startswith("engine."):
                self._engine.append((t, frame))
            if "tokens" in frame:
                self._tokens.append(t)

    def seen(self, generation: str, name: str) -> list[Frame]:
        self.look()
        return [frame for frame in self._seen[generation] if frame["type"] == name]

    def engine(self, name: str) -> list[tuple[float, Frame]]:
        self.look()
        return [(t, frame) for t, frame in self._engine if frame["type"] == name]

    async def learn(self) -> None:
        for question in QUESTIONS:
            finished = await self.watcher.finished(await self.watcher.generate(question, sampling=SAMPLING))
            self.right[question] = ids(self.watcher.events(), finished), finished["text"]

    async def ask(self, number: int) -> None:
        """Every answer must be the undisturbed one, token for token."""
        chance = random.Random(number)
        async with self.app.client(f"?name=client{number}") as wire:
            while not self.stop.is_set():
                question = chance.choice(QUESTIONS)
                generation = await wire.generate(question, sampling=SAMPLING)
                finished = await wire.finished(generation)
                assert finished["error"] is None, finished
                assert (ids(wire.events(), finished), finished["text"]) == self.right[question]
                while not self.seen(generation, "generation.finished"):  # noqa: ASYNC110 - any frame may bring it
                    await asyncio.sleep(0.01)
                assert ids(self._seen[generation], finished) == self.right[question][0]
                self.n_answers += 1
                wire.frames.clear()
                wire.arrived.clear()

    @property
    def worker(self) -> int | None:
        """The process that runs, as the stream tells it."""
        self.look()
        last = self._engine[-1][1] if self._engine else {}
        pid = last.get("pid")
        return pid if isinstance(pid, int) else None

    async def kill(self, n: int, chance: random.Random) -> None:
        """So many kills, at any moment of a worker's life, its load included; half of them after a token."""
        for number in range(n):
            await eventually(lambda: self.worker is not None)
            if number % 2:
                await self.another_token()
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            pid = self.worker
            assert pid is not None
            self.kills.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            while len(self.engine("engine.exited")) == number:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    async def another_token(self) -> None:
        """Wait until the watcher gets one."""
        n = len(self._tokens)
        while len(self._tokens) == n:
            self.look()
            await asyncio.sleep(0.01)

    def latencies(self) -> tuple[list[float], list[float]]:
        """Seconds from each kill to `engine.exited`, and to the next token, both at a client."""
        exits = [t for t, _ in self.engine("engine.exited")]
        told = [exited - killed for killed, exited in zip(self.kills, exits, strict=True)]
        next_token = []
        for killed, later in zip(exits, [*exits[1:], float("inf")], strict=True):
            place = bisect_right(self._tokens, killed)
            if place < len(self._tokens) and self._tokens[place] < later:  # else it died before
                next_token.append(self._tokens[place] - killed)
        return told, next_token


def ids(frames: list[Frame], finished: Frame) -> list[int]:
    """The ids of an answer's tokens, none of them missing or doubled."""
    own = [frame for frame in frames if frame.get("generation_id") == finished["generation_id"]]
    tokens = [token for frame in own for token in frame.get("tokens", ())]
    assert [token["index"] for token in tokens] == list(range(finished["usage"]["completion_tokens"]))
    return [token["id"] for token in tokens]


def resources(app: Serve) -> tuple[int, int, int]:
    """File descriptors and threads of the app's process, and processes below it."""
    process = psutil.Process(app.process.pid)
    return process.num_fds(), process.num_threads(), len(process.children(recursive=True))


async def storm(app: Serve, n_kills: int) -> None:
    chance = random.Random(n_kills)
    async with app.client("?name=watcher") as watcher:
        await watcher.command("subscribe", events=["engine.*", "generation.*"], since=0)
        load = Load(app, watcher)
        await load.learn()
        before = resources(app)
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(load.ask(number)) for number in range(N_CLIENTS)]
            await load.kill(n_kills, chance)
            load.stop.set()
            await asyncio.gather(*clients)
        told, next_token = load.latencies()
        print(
            f"\n{n_kills} kills, {load.n_answers} answers whole, "
            f"{len(watcher.events('generation.recovered'))} recovered; engine.exited at a client after "
            f"p50 {median(told) * 1e3:.1f} ms, max {max(told) * 1e3:.1f} ms; the next token after "
            f"p50 {median(next_token):.2f} s, max {max(next_token):.2f} s"
        )
        assert load.n_answers >= N_CLIENTS
        assert watcher.events("generation.recovered")
        assert [frame["signal"] for _, frame in load.engine("engine.exited")] == ["SIGKILL"] * n_kills
        numbers = [frame["seq"] for frame in watcher.events()]
        assert all(earlier < later for earlier, later in itertools.pairwise(numbers))
        queued = {frame["generation_id"] for frame in watcher.events("generation.queued")}
        ended = [frame["generation_id"] for frame in watcher.events("generation.finished")]
        assert sorted(ended) == sorted(queued)
        most = (before[0], before[1] + N_EXECUTOR, before[2])
        await eventually(lambda: all(now <= limit for now, limit in zip(resources(app), most, strict=True)))
        print(f"descriptors, threads, processes: {before} before, {resources(app)} after")


def run(work: Coroutine[Any, Any, None], limit_s: float) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await work

    asyncio.run(limited())


@pytest.mark.timeout(900)
def test_twelve_kills_at_random_moments(tmp_path: Path) -> None:
    with serve(tmp_path, "fake:delay_ms=4", program=TOLERANT) as app:
        run(storm(app, 12), 800)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    with serve(tmp_path, "fake:delay_ms=4", program=TOLERANT) as app:
        run(storm(app, 100), 1700)
