"""The sides that are measured: the bare loop, the engine alone, the app at a client."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from api.bench import followers
from api.bench.machine import cpu_seconds
from api.bench.samples import Run, Sample
from api.client import LiveClient, running_app
from api.paths import Paths
from engine import entry
from engine.errors import ErrorInfo, TokenglassError
from engine.types import SamplingParams, WorkerConfig

START_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 900.0
CLOCK_S = 1e-6
"""Tokens that lie no further apart were sampled at once."""


class Side(Protocol):
    """One thing that generates."""

    async def run(self, prompts: Sequence[str], n_tokens: int) -> Sample:
        """Generate exactly `n_tokens` after each prompt, all at once. Raises TokenglassError."""


class Child:
    """A process of the bench and the pipe to it."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    async def ask(self, request: object) -> Any:
        self._pipe.send(request)
        return await self.answer()

    async def answer(self, timeout_s: float = RUN_TIMEOUT_S) -> Any:
        """The next answer. Raises TokenglassError where there is none, or where it is an error."""
        if not await asyncio.to_thread(self._pipe.poll, timeout_s):
            raise TokenglassError("engine_lost", f"no answer within {timeout_s:.0f} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise TokenglassError("engine_lost", "a process of the bench ended") from None
        if isinstance(answer, ErrorInfo):
            raise TokenglassError.of(answer)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class LoopSide:
    """The bare loop or the engine alone, in a process of its own."""

    def __init__(self, kind: str, config: WorkerConfig, sampling: SamplingParams) -> None:
        self.sampling = sampling
        self._child = Child(entry.run_bench_side, config.model_dump_json(), kind)

    async def ready(self) -> Any:
        """What was loaded; see `engine.bench.serve`."""
        return await self._child.answer(START_TIMEOUT_S)

    async def count(self, text: str) -> int:
        """Tokens of a prompt."""
        return int(await self._child.ask(("count", text)))

    async def run(self, prompts: Sequence[str], n_tokens: int) -> Sample:
        request = ("run", list(prompts), n_tokens, self.sampling.model_dump_json())
        answer = await self._child.ask(request)
        return Sample([Run(times[0], times[1:]) for times in answer])

    def close(self) -> None:
        self._child.close()


class Subscribers:
    """Further clients that follow everything; `api.bench.followers`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._child = Child(followers.serve)
        self.n = 0

    async def become(self, n: int) -> None:
        """Have exactly so many. Raises TokenglassError where one can't connect."""
        if n == self.n:
            return
        if self.n:
            await self._child.ask(None)
        self.n = 0
        if n:
            about = running_app(Paths.resolve(self._home))
            assert about is not None
            answer = await self._child.ask((about["url"], about["token"], n))
            if answer is not True:
                raise TokenglassError("internal", f"a subscriber of the bench can't connect: {answer}")
            self.n = n

    def close(self) -> None:
        self._child.close()


class AppSide:
    """The app at a client of `/v1/live`."""

    def __init__(
        self, client: LiveClient, pid: int, home: Path, subscribers: Subscribers, sampling: SamplingParams
    ) -> None:
        self.client = client
        self.home = home
        self.subscribers = subscribers
        self.n_subscribers = 0
        """Of these; so many are there while it runs."""
        self.sampling = sampling
        self._pid = pid

    async def run(self, prompts: Sequence[str], n_tokens: int, **arguments: object) -> Sample:
        await self.subscribers.become(self.n_subscribers)
        before = self.cpu_s()
        async with asyncio.timeout(RUN_TIMEOUT_S):
            runs = await asyncio.gather(*(self.generate(prompt, n_tokens, **arguments) for prompt in prompts))
        return Sample(list(runs), app_cpu_s=max(0.0, self.cpu_s() - before))

    def cpu_s(self) -> float:
        """CPU time of the app's process so far, the worker's not included."""
        return cpu_seconds(self._pid)

    async def generate(self, prompt: str, n_tokens: int | None, **arguments: object) -> Run:
        """Ask for one generation and time what arrives."""
        run = Run(time.monotonic(), [])
        events = self.client.generate(
            prompt=prompt,
            max_tokens=n_tokens,
            sampling=self.sampling.model_dump(exclude_none=True),
            **arguments,
        )
        async for event in events:
            if event["type"] == "generation.delta":
                now = time.monotonic()
                for token in event["tokens"]:
                    run.times.append(now)
                    run.delivery_s.append(now - token["t"])
            elif event["type"] == "generation.finished":
                if event["error"]:
                    message = f"a run of the app failed: {event['error']['message']}"
                    raise TokenglassError("internal", message)
                usage = event["usage"]
                run.cached_tokens = usage["cached_tokens"]
                run.draft_tokens = usage.get("draft_tokens", 0)
                run.accepted_tokens = usage.get("accepted_tokens", 0)
                run.text = event["text"]
        run.n_tokens = len(run.times)
        if len(run.times) < 2 or run.sampled[-1] - run.sampled[0] < CLOCK_S:
            raise TokenglassError("internal", "a run of the app brought too few tokens to be measured")
        return run


@contextlib.asynccontextmanager
async def app(config: WorkerConfig, window: bool, sampling: SamplingParams) -> AsyncIterator[AppSide]:
    """The app itself on a home of its own, with its window or without one, and a client of it."""
    command = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-P", "-m", "desktop"]
    command += [] if window else ["serve"]
    command += ["--port", "0", "--model", config.model_path]
    command += ["--parallel", str(config.n_slots), "--ctx", str(config.n_ctx)]
    command += ["--threads", str(config.n_threads)]
    environment = dict(os.environ)
    if window and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & environment.keys():
        environment["QT_QPA_PLATFORM"] = "offscreen"
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenglass-bench-")))
        process = stack.enter_context(child_process([*command, "--home", str(home)], environment))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (home / "runtime" / "server.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                hint = "run `tokenglass serve` to see why"
                raise TokenglassError("engine_lost", "the app did not start", hint=hint)
            await asyncio.sleep(0.05)
        subscribers = Subscribers(home)
        stack.callback(subscribers.close)
        client = await stack.enter_async_context(LiveClient.discover(home, name="bench", reconnect=False))
        yield AppSide(client, process.pid, home, subscribers, sampling)


@contextlib.contextmanager
def child_process(command: list[str], environment: dict[str, str], log: Any = subprocess.DEVNULL) -> Any:
    """A program that runs beside us and ends with us. Ctrl-C in the terminal isn't for it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
