"""What the end-to-end tests share: `tokenglass serve` as a process of its own, and clients over real sockets.

Nothing here looks inside the app: it is started, spoken to and ended as its users do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect

from tests.api.harness import CommandError, Frame, Wire

ROOT = Path(__file__).parent.parent.parent
START_LIMIT_S = 100.0
END_LIMIT_S = 60.0
"""Only keeps a test from hanging; what the contract allows is asserted where it is meant."""
LIMIT_S = 200.0
"""The same for a whole test."""
LASTING = "fake:tokens=1000000,delay_ms=5,ctx=2000000"
"""A model whose answers last until somebody ends them."""


def program(*changes: str) -> tuple[str, str]:
    """The app for `serve`, without the alarm that a busy machine sets off: it ends it where quitting hangs.

    `changes`: further lines of Python to begin with; `server` is the module `api.server`.
    """
    lines = (
        "import sys",
        "from api import serve, server",
        "from desktop.__main__ import main",
        "serve.QUIT_LIMIT_S = 60.0",
        *changes,
        "sys.exit(main())",
    )
    return "-c", "\n".join(lines)


PROGRAM = program()


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Our own clients wait for an app on a busy machine; for the `conftest.py` of tests that use them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.client.opening.OPEN_TIMEOUT_S", START_LIMIT_S)
        yield


class Serve:
    """A running `tokenglass serve`. Made by `serve`."""

    def __init__(self, home: Path, process: subprocess.Popen[str]) -> None:
        self.home = home
        self.process = process
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._first = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self._lines)),
            threading.Thread(target=self._read, args=(process.stderr, self._errors)),
        ]
        for reader in self._readers:
            reader.start()
        assert self._first.wait(START_LIMIT_S), "no ready line in time"
        assert self._lines, f"it ended at once: {self.stderr}"
        self.ready: Frame = json.loads(self._lines[0])
        self.children: list[psutil.Process] = []

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            if lines is self._lines:
                self._first.set()
        if lines is self._lines:
            self._first.set()

    @property
    def stdout(self) -> list[str]:
        """The lines so far."""
        return list(self._lines)

    @property
    def stderr(self) -> str:
        return "".join(self._errors)

    @property
    def server_file(self) -> Path:
        return self.home / "runtime" / "server.json"

    @property
    def token(self) -> str:
        return str(json.loads(self.server_file.read_text())["token"])

    def signal(self, number: int) -> None:
        """Send a signal, remembering which processes must be gone with the app."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once the process and what it wrote have come to an end."""
        code = self.process.wait(END_LIMIT_S)
        for reader in self._readers:
            reader.join(END_LIMIT_S)
        return code

    def wait_for_children(self) -> None:
        """Every process that the app had started ends by itself."""
        deadline = time.monotonic() + END_LIMIT_S
        while alive := [child for child in self.children if not gone(child)]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.01)

    @contextlib.asynccontextmanager
    async def client(self, query: str = "", token: str | None = None, **options: Any) -> AsyncIterator[Wire]:
        """A connection as a script makes it: address and token from `server.json`, or another token."""
        about = json.loads(self.server_file.read_text())
        connection = await connect(
            about["url"] + query,
            additional_headers={"Authorization": f"Bearer {token or about['token']}"},
            proxy=None,
            compression=None,
            max_size=None,
            open_timeout=START_LIMIT_S,
            ping_timeout=None,
            **options,
        )
        wire = Wire(connection)
        try:
            yield wire
        finally:
            await wire.close()


@contextlib.contextmanager
def serve(
    home: Path, model: str | None = "fake:", *options: str, program: tuple[str, ...] = PROGRAM
) -> Iterator[Serve]:
    """The app without a window on any free port; ended with SIGTERM if it still runs."""
    chosen = [] if model is None else ["--model", model]
    with subprocess.Popen(
        [sys.executable, *program, "serve", "--home", str(home), "--port", "0", *chosen, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            app = Serve(home, process)
            try:
                yield app
            finally:
                if process.poll() is None:
                    app.signal(15)
                    app.wait()
                app.wait_for_children()
                assert "Traceback" not in app.stderr, app.stderr
        finally:
            if process.poll() is None:
                process.kill()


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; whether anybody has asked for its exit code doesn't matter."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """A Python program of this project, with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def command(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`tokenglass …` for this home, as a process of its own."""
    return start("-m", "desktop", *arguments, "--home", str(home))


@contextlib.asynccontextmanager
async def held(wire: Wire) -> AsyncIterator[None]:
    """The worker stands still meanwhile, so that what is sent to it reaches it all at once."""
    pid = (await wire.command("snapshot"))["engine"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        await wire.command("ping")
    finally:
        os.kill(pid, signal.SIGCONT)


async def let_all_finish(wire: Wire) -> None:
    """Resume what is paused until nothing is left."""
    while left := (await wire.command("snapshot"))["generations"]:
        for generation in left:
            if generation["state"] == "paused":
                with contextlib.suppress(CommandError):  # it has just finished
                    await wire.command("resume", generation_id=generation["generation_id"])
        await asyncio.sleep(0.05)


def quiet_port(*hosts: str) -> int:
    """A port that nobody else is given: below those that the system hands out to whoever asks for any."""
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 0
    for port in random.sample(range(10_000, first if first > 11_000 else 32_000), 100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for host in hosts or ("127.0.0.1",):
                stack.enter_context(socket.socket()).bind((host, port))
            return port
    raise AssertionError("no port is free")


def cpu_s(app: Serve) -> float:
    """Seconds that the app's process has worked so far, however long it had to wait for a processor."""
    used = psutil.Process(app.process.pid).cpu_times()
    return float(used.user + used.system)


async def eventually(condition: Callable[[], bool], limit_s: float = END_LIMIT_S) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it didn't come true in time"
        await asyncio.sleep(0.01)
