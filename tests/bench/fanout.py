"""How a stream of 200 tokens/s reaches many subscribers at once: `python -m tests.bench.fanout`.

One app without a window, one generation at a time, in turn alone and with `--clients` further connections
that follow everything, read by one process beside it. The reader notes when bytes came and looks into them
after the run, so each token's way is measured from its sampling in the worker to its arrival in the reader.
Every token must come to every subscriber once. The engine's rate is by the worker's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from api.bench.followers import Follower
from api.client import LiveClient
from api.paths import Paths
from engine import synthetic

TOKEN = "fanout-token-0123456789"
ROOT = Path(__file__).resolve().parents[2]


class Recorder(Follower):
    """A subscriber that keeps what came, and when."""

    def __init__(self, url: str, token: str) -> None:
        self.came: list[tuple[float, bytes]] = []
        super().__init__(url, token)

    def _receive(self) -> bytes:
        data = super()._receive()
        self.came.append((time.monotonic(), data))
        return data

    def frames(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Each text frame with the time of its last byte."""
        rest = b""
        upgraded = False
        for when, data in self.came:
            rest += data
            if not upgraded:
                _, head_end, after = rest.partition(b"\r\n\r\n")
                if not head_end:
                    continue
                upgraded, rest = True, after
            while (end := _frame_end(rest)) is not None:
                start, stop = end
                if rest[0] & 15 == 1:
                    yield when, json.loads(rest[start:stop])
                rest = rest[stop:]


def _frame_end(data: bytes) -> tuple[int, int] | None:
    if len(data) < 2:
        return None
    size, start = data[1] & 127, 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
    return (start, start + size) if len(data) >= start + size else None


@dataclass
class Heard:
    """What the subscribers got of a run."""

    delays_s: list[float]
    n_tokens: list[int]
    """Of each subscriber; -1 where one was missing or came twice."""
    n_frames: int
    cpu_s: float


def read(control: Connection, url: str, n: int) -> None:
    """The reader's process: follows until it is told to stop, answers with what it `Heard`."""
    recorders = [Recorder(url, TOKEN) for _ in range(n)]
    control.send(True)
    began = time.process_time()
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        for recorder in recorders:
            selector.register(recorder.socket, selectors.EVENT_READ, recorder)
        going = True
        while going:
            for key, _ in selector.select():
                if isinstance(key.data, Recorder):
                    key.data.read()
                else:
                    going = False
    heard = Heard([], [], 0, time.process_time() - began)
    for recorder in recorders:
        indices = []
        for when, frame in recorder.frames():
            heard.n_frames += 1
            for token in frame.get("tokens", ()):
                indices.append(token["index"])
                heard.delays_s.append(when - token["t"])
        heard.n_tokens.append(len(indices) if indices == list(range(len(indices))) else -1)
    control.send(heard)


@dataclass
class Run:
    """One generation, alone or followed."""

    rate: float
    """Tokens per second, by the worker's clock."""
    app_cpu: float
    """Cores."""
    worker_cpu: float
    seconds: float
    own_delays_s: list[float]
    heard: Heard | None


async def generate(
    client: LiveClient, n_tokens: int, bias: dict[str, float]
) -> tuple[list[float], list[float]]:
    """When each token was sampled, and how long it took to come to the one who asked."""
    sampled, delays = [], []
    async for event in client.generate(
        prompt=f"{time.time()} tell me", max_tokens=n_tokens, sampling={"temperature": 0, "logit_bias": bias}
    ):
        if event["type"] == "generation.delta":
            now = time.monotonic()
            sampled += [token["t"] for token in event["tokens"]]
            delays += [now - token["t"] for token in event["tokens"]]
    assert len(sampled) == n_tokens, "a token is missing"
    return sampled, delays


async def run(app: psutil.Process, url: str, client: LiveClient, n: int, options: argparse.Namespace) -> Run:
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    reader = context.Process(target=read, args=(theirs, url, n), daemon=True)
    if n:
        reader.start()
        theirs.close()
        assert await asyncio.to_thread(control.recv)
    before = _cpu(app), _worker_cpu(app), time.monotonic()
    bias = {str(synthetic.EOS): -100.0} if options.synthetic else {}
    sampled, delays = await generate(client, options.tokens, bias)
    seconds = time.monotonic() - before[2]
    app_cpu, worker_cpu = (_cpu(app) - before[0]) / seconds, (_worker_cpu(app) - before[1]) / seconds
    heard = None
    if n:
        await asyncio.sleep(0.5)  # the last ones may still be on their way
        control.send(None)
        heard = await asyncio.to_thread(control.recv)
        reader.join()
    rate = (len(sampled) - 1) / (sampled[-1] - sampled[0])
    return Run(rate, app_cpu, worker_cpu, seconds, delays, heard)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _worker_cpu(app: psutil.Process) -> float:
    return sum(_cpu(child) for child in app.children(recursive=True))


def _p(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1e3


def show(n: int, one: Run) -> None:
    delays = one.own_delays_s
    line = (
        f"{n:4} subscribers: engine {one.rate:6.1f} tok/s; asker p50 {_p(delays, 0.5):5.1f} p99 "
        f"{_p(delays, 0.99):5.1f} ms; CPU app {one.app_cpu:4.2f} worker {one.worker_cpu:4.2f} cores"
    )
    if one.heard is not None:
        heard = one.heard
        line += (
            f", readers {heard.cpu_s / one.seconds:4.2f}; delivery p50 {_p(heard.delays_s, 0.5):5.1f} p99 "
            f"{_p(heard.delays_s, 0.99):5.1f} longest {_p(heard.delays_s, 1):5.1f} ms; "
            f"{len(heard.delays_s):,} tokens in {heard.n_frames:,} frames"
        )
    print(line, flush=True)


async def measure(url: str, pid: int, options: argparse.Namespace) -> None:
    app = psutil.Process(pid)
    alone: list[Run] = []
    followed: list[Run] = []
    async with LiveClient.connect(url, TOKEN, name="asker") as client:
        await generate(client, 50, {})
        for number in range(options.pairs):
            order = (0, options.clients) if number % 2 else (options.clients, 0)
            for n in order:
                one = await run(app, url, client, n, options)
                show(n, one)
                (followed if n else alone).append(one)
                if one.heard is not None:
                    assert set(one.heard.n_tokens) == {options.tokens}, "a token is missing, or came twice"
    ratios = [one.rate / other.rate for one, other in zip(followed, alone, strict=True)]
    heard = [(one.heard, one.seconds) for one in followed if one.heard is not None]
    delays = [delay for one, _ in heard for delay in one.delays_s]
    readers_cpu = statistics.median(one.cpu_s / seconds for one, seconds in heard)
    app_cpu = [statistics.median(one.app_cpu for one in runs) for runs in (followed, alone)]
    print(
        f"{options.clients} subscribers, {options.pairs} pairs: engine with / without "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"delivery p50 {_p(delays, 0.5):.1f} p99 {_p(delays, 0.99):.1f} ms; "
        f"CPU app {app_cpu[0]:.2f} (alone {app_cpu[1]:.2f}), readers {readers_cpu:.2f} cores; "
        "every token came once to each"
    )


@contextlib.contextmanager
def serving(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The app, from the sources in `--root`."""
    model = options.model
    if options.synthetic:
        model = str(synthetic.provide(Paths.resolve(None).cache_dir / "synthetic", options.synthetic))
    with tempfile.TemporaryDirectory(prefix="tokenglass-fanout-") as home:
        command = [sys.executable, "-P", "-m", "desktop", "serve", "--home", home, "--port", "0"]
        command += ["--model", model, "--ctx", "4096", "--parallel", "2", "--threads", "1"]
        process = subprocess.Popen(
            command,
            cwd=options.root,
            env={**os.environ, "PYTHONPATH": str(options.root), "TOKENGLASS_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description="One stream to many subscribers.")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument(
        "--model", default="fake:delay_ms=5,tokens=4000", help="default: a fake one of about 200 tokens/s"
    )
    parser.add_argument("--synthetic", help="a real one of random weights instead, e.g. 60M")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--root", type=Path, default=ROOT, help="another version's sources, to compare")
    options = parser.parse_args()
    with serving(options) as ready:
        asyncio.run(measure(ready["url"], ready["pid"], options))


if __name__ == "__main__":
    main()
