"""`tokenglass bench`: the same model in a bare llama.cpp loop and through the whole app, in one run.

Both sides are processes that wait for their turn; runs are interleaved, so that what else the machine
does meets both. The app's side is what a script gets: tokens as they arrive at a client of `/v1/live`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from api.client import LiveClient
from api.library import Library
from api.paths import Paths
from api.settings import SettingsStore
from engine import entry
from engine.errors import TokenglassError
from engine.fakespec import is_fake
from engine.gguf import read_header
from engine.types import SamplingParams, WorkerConfig

START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 120.0
RESAMPLES = 2000

REPORT = """\
{model}: {pairs} interleaved pairs of {tokens} tokens
engine threads {threads}, further subscribers {subscribers}
  bare loop             {bare_tokens_per_second:8.1f} tok/s   inter-token latency {bare_itl}
  {app:<21} {app_tokens_per_second:8.1f} tok/s   inter-token latency {app_itl}
  ratio                 {ratio:8.3f}         95 % interval {ratio_95}
  first token over bare {first_token_over_bare_ms:8.2f} ms      95 % interval {first_95}
  worker to client                     {delivery}"""


@dataclass(slots=True)
class Run:
    """One generation as seen from outside; seconds."""

    tokens_per_second: float
    first_token_s: float
    gaps_s: list[float]
    delivery_s: list[float] = field(default_factory=list)
    """From each token's sampling in the worker to its arrival at the client."""


def as_run(start: float, times: list[float], delivery_s: list[float] | None = None) -> Run:
    gaps = [after - before for before, after in pairwise(times)]
    return Run(len(gaps) / (times[-1] - times[0]), times[0] - start, gaps, delivery_s or [])


class Bare:
    """The bare loop's process."""

    def __init__(self, config: WorkerConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=entry.run_bare, args=(theirs, config.model_dump_json()), daemon=True
        )
        self._process.start()
        theirs.close()
        self.eog, self.n_threads = self._answer(self._pipe, START_TIMEOUT_S)

    @staticmethod
    def _answer(pipe: Connection, timeout_s: float) -> Any:
        try:
            if pipe.poll(timeout_s):
                return pipe.recv()
        except EOFError:
            raise TokenglassError("load_failed", "the bare loop could not load the model") from None
        raise TokenglassError("engine_lost", f"the bare loop did not answer within {timeout_s:.0f} s")

    def run(self, prompt: str, n_tokens: int, sampling: SamplingParams) -> Run:
        self._pipe.send((prompt, n_tokens, sampling.model_dump_json()))
        times: list[float] = self._answer(self._pipe, RUN_TIMEOUT_S)
        return as_run(times[0], times[1:])

    def close(self) -> None:
        self._pipe.close()
        self._process.join(2)
        self._process.kill()


async def app_run(client: LiveClient, prompt: str, n_tokens: int, sampling: SamplingParams) -> Run:
    """Ask the app for one generation and time what arrives."""
    arrivals: list[float] = []
    delivery: list[float] = []
    start = time.monotonic()
    generation = client.generate(
        prompt=prompt, max_tokens=n_tokens, sampling=sampling.model_dump(exclude_none=True)
    )
    async for event in generation:
        if event["type"] == "generation.delta":
            now = time.monotonic()
            for token in event["tokens"]:
                arrivals.append(now)
                delivery.append(now - token["t"])
        elif event["type"] == "generation.finished" and event["error"]:
            raise TokenglassError("internal", f"the app's run failed: {event['error']['message']}")
    if len(arrivals) < 2 or arrivals[0] == arrivals[-1]:
        raise TokenglassError("internal", "the app's run brought too few tokens to be measured")
    return as_run(start, arrivals, delivery)


@contextlib.contextmanager
def app_process(window: bool, home: Path, config: WorkerConfig) -> Iterator[None]:
    """The app itself on a home of its own: with its window, or without one."""
    command = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-P", "-m", "desktop"]
    command += [] if window else ["serve"]
    command += ["--home", str(home), "--port", "0", "--model", config.model_path]
    command += ["--parallel", str(config.n_slots), "--ctx", str(config.n_ctx)]
    command += ["--threads", str(config.n_threads)]
    environment = dict(os.environ)
    if window and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & environment.keys():
        environment["QT_QPA_PLATFORM"] = "offscreen"
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (home / "runtime" / "server.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise TokenglassError(
                    "engine_lost", "the app did not start", hint="run `tokenglass serve` to see why"
                )
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def subscribers(home: Path, n: int) -> AsyncIterator[None]:
    """`n` further clients that follow everything, as scripts beside the measured one would."""

    async def follow(client: LiveClient) -> None:
        async for _ in client.events():
            pass

    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for i in range(n):
            client = await stack.enter_async_context(LiveClient.discover(home, name=f"bench-{i}"))
            await client.request("subscribe")
            tasks.append(asyncio.create_task(follow(client)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def measure(arguments: argparse.Namespace, config: WorkerConfig, home: Path) -> dict[str, Any]:
    """Interleaved pairs of bare and app runs; the first pair warms up and isn't counted."""
    bare = Bare(config)
    sampling = SamplingParams(temperature=0, logit_bias=dict.fromkeys(bare.eog, -100.0))
    n = arguments.tokens
    pairs: list[tuple[Run, Run]] = []
    try:
        async with (
            LiveClient.discover(home, name="bench") as client,
            subscribers(home, arguments.subscribers),
        ):
            for i in range(arguments.pairs + 1):
                # another beginning each time, so that the app finds no cached prefix
                prompt = f"{i:03d}: Tell me, little glass, what do you see when a model speaks?"
                one = bare.run(prompt, n, sampling) if i % 2 else None
                two = await asyncio.wait_for(app_run(client, prompt, n, sampling), RUN_TIMEOUT_S)
                one = one or bare.run(prompt, n, sampling)
                if i > 0:
                    pairs.append((one, two))
                    _progress(f"pair {i} of {arguments.pairs}")
    finally:
        bare.close()
        _progress("")
    return {
        "model": config.model_id,
        "window": arguments.window,
        "subscribers": arguments.subscribers,
        "threads": bare.n_threads,
        "tokens": n,
        **summary(pairs),
    }


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def summary(pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    """The figures of all pairs; ratios and differences are taken within each pair."""
    ratio = interval([app.tokens_per_second / bare.tokens_per_second for bare, app in pairs])
    first = interval([(app.first_token_s - bare.first_token_s) * 1000 for bare, app in pairs])
    return {
        "pairs": len(pairs),
        "bare_tokens_per_second": statistics.median(bare.tokens_per_second for bare, _ in pairs),
        "app_tokens_per_second": statistics.median(app.tokens_per_second for _, app in pairs),
        "ratio": ratio[0],
        "ratio_95": ratio[1:],
        "first_token_over_bare_ms": first[0],
        "first_token_over_bare_95": first[1:],
        "bare_itl_ms": percentiles([gap for bare, _ in pairs for gap in bare.gaps_s]),
        "app_itl_ms": percentiles([gap for _, app in pairs for gap in app.gaps_s]),
        "worker_to_client_ms": percentiles([delay for _, app in pairs for delay in app.delivery_s]),
    }


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and its 95 % interval by bootstrap with a fixed seed."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {f"p{p}": ordered[min(last, p * len(ordered) // 100)] * 1000 for p in (50, 99)}


def report(result: dict[str, Any]) -> str:
    """The figures for people."""

    def span(values: tuple[float, float], digits: int) -> str:
        return " to ".join(f"{value:.{digits}f}" for value in values)

    def both(values: dict[str, float]) -> str:
        return f"p50 {values['p50']:.2f}, p99 {values['p99']:.2f} ms"

    return REPORT.format_map(
        {
            **result,
            "app": "app with its window" if result["window"] else "app (serve)",
            "bare_itl": both(result["bare_itl_ms"]),
            "app_itl": both(result["app_itl_ms"]),
            "delivery": both(result["worker_to_client_ms"]),
            "ratio_95": span(result["ratio_95"], 3),
            "first_95": span(result["first_token_over_bare_95"], 2),
        }
    )


def find_model(home: Path | None, wanted: str) -> tuple[str, Path]:
    """Name and file of a model of the library, or of any GGUF file."""
    if is_fake(wanted):
        raise TokenglassError("load_failed", "the fake model has no bare loop to be measured against")
    path = Path(wanted).expanduser()
    if path.suffix == ".gguf" and path.exists():
        return read_header(path).name, path.absolute()
    paths = Paths.resolve(home)
    found = Library(paths, SettingsStore(paths.settings_file)).get_now(wanted)
    return found["name"], Path(found["path"])


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 0. Raises TokenglassError where a side can't be started."""
    name, path = find_model(arguments.home, getattr(arguments, "model", None) or "starter")
    n_threads = getattr(arguments, "threads", None) or 1
    config = WorkerConfig(model_id=name, model_path=str(path), n_slots=4, n_ctx=1024, n_threads=n_threads)
    with tempfile.TemporaryDirectory(prefix="tokenglass-bench-") as folder:
        home = Path(folder)
        with app_process(arguments.window, home, config):
            result = asyncio.run(measure(arguments, config, home))
    print(json.dumps(result) if arguments.json else report(result))
    return 0
