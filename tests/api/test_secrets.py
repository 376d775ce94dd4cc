"""No token in logs, in arguments and environments of others, in what is printed, in files but its own."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.tokens import TokenFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200.0


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENGLASS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "api.cli", "--home", str(home), *arguments]


class Descendants:
    """Looks at every process that another one starts, again and again: what anybody could see of it."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.seen: dict[int, bytes] = {}
        """Arguments and environment by process id."""

    def _watch(self) -> None:
        while not self._end.wait(0.01):
            try:
                children = self._parent.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            for child in children:
                place = Path("/proc")
                try:
                    arguments = (place / str(child.pid) / "cmdline").read_bytes()
                    if arguments != (place / str(child.ppid()) / "cmdline").read_bytes():  # after exec
                        self.seen[child.pid] = arguments + (place / str(child.pid) / "environ").read_bytes()
                except (OSError, psutil.NoSuchProcess):
                    continue

    def wait_for(self, n: int) -> None:
        """Until so many have been seen."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.seen) < n:
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.01)

    def __enter__(self) -> "Descendants":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@contextmanager
def serving(home: Path, *arguments: str, **variables: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    process = subprocess.Popen(
        command(home, "serve", "--port", "0", "--log-level", "debug", *arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline() or "null")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def holding(home: Path, secret: str) -> set[str]:
    """The files below the home that have the secret in them, and files named after it."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(home))
        for path in files
        if secret.encode() in path.read_bytes() or secret in path.name
    }


def snapshot(stream: Any) -> dict[str, Any]:
    stream.send('{"id": 1, "type": "snapshot"}')
    while True:
        frame = json.loads(stream.recv(timeout=LIMIT_S))
        if frame["type"] == "reply":
            return dict(frame["result"])


def worker(stream: Any, other_than: int = 0) -> int:
    """Process id of the worker, once it has loaded the model."""
    deadline = time.monotonic() + LIMIT_S
    while (engine := snapshot(stream)["engine"])["state"] != "ready" or engine["pid"] == other_than:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(engine["pid"])


@pytest.mark.parametrize("given", ("made by the app", "--token", "TOKENGLASS_TOKEN"))
def test_a_run_leaves_no_token_behind(tmp_path: Path, starter_model: Path, given: str) -> None:
    chosen = secrets.token_urlsafe(32)
    arguments = ("--token", chosen) if given == "--token" else ()
    variables = {"TOKENGLASS_TOKEN": chosen} if given == "TOKENGLASS_TOKEN" else {}
    printed: list[str] = []
    with (
        serving(tmp_path, *arguments, **variables) as (process, ready),
        Descendants(process.pid) as descendants,
    ):
        about = json.loads((tmp_path / "runtime" / "server.json").read_text())
        token = about["token"]
        assert token == chosen or given == "made by the app"
        further = TokenFile(tmp_path / "config" / "tokens.json").add("script", ["observe", "generate"])
        shown = (token, further)
        with connect(f"{about['url']}?token={token}", proxy=None) as stream:
            first = worker(stream)
            for arguments_ in (("chat", "Hello"), ("diagnostics",), ("token", "list"), ("models", "list")):
                done = subprocess.run(
                    command(tmp_path, *arguments_),
                    env=environment(),
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_S,
                    check=True,
                )
                printed += [done.stdout, done.stderr]
            for wrong in (f"{token}x", token[:-1], f"{further}x"):
                with pytest.raises(InvalidStatus):
                    connect(f"{about['url']}?token={wrong}", proxy=None)
                with pytest.raises(InvalidStatus):
                    connect(about["url"], additional_headers={"Authorization": f"Basic {wrong}"}, proxy=None)
            for good in shown:
                bearer = {"Authorization": f"Bearer {good}", "Content-Type": "application/json"}
                asked = urllib.request.Request(
                    f"{about['base_url']}/chat/completions",
                    b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}',
                    bearer,
                )
                with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
                    printed.append(answer.read().decode() + str(answer.headers))
            os.kill(first, signal.SIGKILL)
            worker(stream, first)
            printed.append(json.dumps(snapshot(stream)))
            assert holding(tmp_path, token) == {"runtime/server.json", "runtime/token"}
            assert holding(tmp_path, further) == set()
        descendants.wait_for(4)  # two workers, and the child of each that renders templates
        process.send_signal(signal.SIGTERM)
        printed += process.communicate(timeout=LIMIT_S)
    printed.append(json.dumps(ready))
    assert process.returncode == 0
    log = (tmp_path / "cache" / "logs" / "tokenglass.log").read_text()
    assert "refused: 401" in log
    for secret in shown:
        assert not [pid for pid, about in descendants.seen.items() if secret.encode() in about]
        assert not [text for text in printed if secret in text]
        assert holding(tmp_path, secret) == set()
    assert not [pid for pid, about in descendants.seen.items() if b"\0TOKENGLASS_TOKEN=" in about]


def test_an_app_that_chat_starts_gets_a_token_of_its_own(tmp_path: Path) -> None:
    chosen = secrets.token_urlsafe(32)
    process = subprocess.Popen(
        command(tmp_path, "chat", "Hello", "--model", "fake:tokens=30,delay_ms=100"),
        env=environment(TOKENGLASS_TOKEN=chosen),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Descendants(process.pid) as descendants:
        printed = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, printed
    assert len(descendants.seen) >= 2  # the app and its worker
    assert any(b"api.cli\0serve" in about for about in descendants.seen.values())
    for about in descendants.seen.values():
        assert chosen.encode() not in about
        assert b"\0TOKENGLASS_TOKEN=" not in about
    assert chosen not in "".join(printed)
    assert holding(tmp_path, chosen) == set()
