"""`tokenglass watch` on a terminal, as the person before it sees it: real processes, a real pty."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from api.client import SyncClient
from tests.api.vt import OnTerminal
from tests.e2e.harness import ROOT, serve

HOSTILE = "\x1b[2J\x1b[31mred\x07 \x9b5m\u202e ends 漢字🦙"
PACE = "fake:tokens=100000,delay_ms=10,ctx=200000"


@contextlib.contextmanager
def watching(home: Path, *more: str, width: int = 100, height: int = 30, **env: str) -> Iterator[OnTerminal]:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **env}
    arguments = [sys.executable, "-m", "api.cli", "watch", "--home", str(home), *more]
    with OnTerminal(arguments, environment, width, height) as terminal:
        yield terminal


def left_clean(terminal: OnTerminal, code: int = 0) -> None:
    """The terminal is as it was before, but for one line of summary."""
    assert terminal.end() == code, terminal.screen.text
    assert terminal.screen.modes == {"cursor": True, "wraps": True, "whole": False, "other": False}
    assert terminal.mode == terminal.mode_before
    assert re.match(r"watched \d+:\d\d:", terminal.screen.lines[0]), terminal.screen.text
    assert "Traceback" not in terminal.raw.decode(errors="replace")


def test_it_shows_what_happens_and_leaves_with_q(tmp_path: Path) -> None:
    with (
        serve(tmp_path / "home", PACE) as app,
        SyncClient.discover(app.home, name="storyteller.py") as client,
        watching(app.home) as terminal,
    ):
        terminal.shows(
            "Tokenglass", "tok/s", "KV", "CPU", "clients", "storyteller.py", "Nothing is being written"
        )
        answer = client.generate(prompt="Tell me a story")
        answer.start()
        terminal.shows("● storyteller.py", "› Tell me a story", "▌", "generating")
        terminal.until(lambda: re.search(r"tok/s +[\d.]+ +.*[▂▃▄▅▆▇█]", terminal.screen.text) is not None)
        client.request("publish", series="room", value=21.5, unit="°C")
        terminal.shows("room", "21.5 °C")
        answer.pause()
        terminal.shows("‖ storyteller.py", "paused")
        answer.cancel()
        text = answer.finished()["text"]
        terminal.shows("■ storyteller.py", "cancelled", text.split()[-1])
        other = client.generate(prompt="And another", max_tokens=5)
        other.finished()
        terminal.shows("› And another", "token limit", "Tell me a story")
        assert "\x1b[36m" in terminal.raw.decode()
        terminal.type("q")
        left_clean(terminal)
        assert "2 generations" in terminal.screen.lines[0]


@pytest.mark.parametrize("how", ["\x03", "\x04", signal.SIGTERM, signal.SIGHUP])
def test_it_leaves_the_terminal_clean(tmp_path: Path, how: str | signal.Signals) -> None:
    with serve(tmp_path / "home") as app, watching(app.home) as terminal:
        terminal.shows("quit")
        if isinstance(how, str):
            terminal.type(how)
        else:
            terminal.process.send_signal(how)
        left_clean(terminal)


def test_every_size_and_hostile_text(tmp_path: Path) -> None:
    """The window is dragged about while text comes that would steer a terminal."""
    with (
        serve(tmp_path / "home", f"fake:delay_ms=3,script={quote(HOSTILE * 40)}") as app,
        SyncClient.discover(app.home, name="漢字の名前 🦙") as client,
        watching(app.home, width=60, height=20) as terminal,
    ):
        terminal.shows("quit", "漢字の名前")
        for width, height in ((24, 8), (200, 60), (9, 3), (1, 1), (80, 24), (40, 50), (100, 30)):
            terminal.resize(width, height)
            client.generate(prompt=HOSTILE, max_tokens=300).finished()
            if width >= 20:
                terminal.shows("Tokenglass", "␛")
            else:
                terminal.read(0.5)
        terminal.shows("red␇", "ends 漢字🦙", "› ␛[2J␛[31mred")
        terminal.type("q")
        left_clean(terminal)


def test_it_waits_for_the_next_app(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with contextlib.ExitStack() as stack:
        with serve(home, PACE) as app:
            terminal = stack.enter_context(watching(home))
            with SyncClient.discover(app.home, name="me") as client:
                client.generate(prompt="cut short").start()
                terminal.shows("› cut short", "▌")
        terminal.shows("waiting for the app…", "the app has quit")
        with serve(home, "fake:script=Back%20again"):
            terminal.until(lambda: "waiting" not in terminal.screen.text)
            with SyncClient.discover(home, name="me") as client:
                client.generate(prompt="who").finished()
            terminal.shows("› who", "Back again")
            terminal.type("q")
            left_clean(terminal)


def test_it_ends_with_the_app_where_asked(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with serve(tmp_path / "home") as app:
            terminal = stack.enter_context(watching(app.home, "--once"))
            terminal.shows("quit")
        left_clean(terminal)
        assert "the app has quit" in terminal.screen.lines[1]


def test_it_can_be_stopped_and_held(tmp_path: Path) -> None:
    """Ctrl-Z gives the terminal back until the shell goes on with it; a space holds the picture."""
    with (
        serve(tmp_path / "home", "fake:script=first%20words") as app,
        SyncClient.discover(app.home, name="me") as client,
        watching(app.home) as terminal,
    ):
        terminal.shows("quit")
        terminal.type(" ")
        terminal.shows("held")
        client.generate(prompt="unseen").finished()
        for _ in range(5):
            terminal.read(0.3)
        assert "unseen" not in terminal.screen.text
        terminal.type(" ")
        terminal.shows("› unseen", "first words")
        assert "held" not in terminal.screen.text
        terminal.type("\x1a")
        process = psutil.Process(terminal.process.pid)
        terminal.until(lambda: process.status() == psutil.STATUS_STOPPED)
        while terminal.read(0.2):
            pass
        assert not terminal.screen.modes["other"]
        assert terminal.mode == terminal.mode_before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(lambda: terminal.screen.modes["other"])
        terminal.shows("› unseen", "first words")
        terminal.type("q")
        left_clean(terminal)


def test_no_colour_where_none_is_wanted(tmp_path: Path) -> None:
    with serve(tmp_path / "home") as app, watching(app.home, NO_COLOR="1") as terminal:
        terminal.shows("Tokenglass", "CPU", "quit")
        terminal.type("q")
        left_clean(terminal)
        assert set(re.findall(r"\x1b\[[\d;]*m", terminal.raw.decode())) <= {"\x1b[0m"}


@pytest.mark.parametrize(
    ("more", "term"), [((), "dumb"), ((), ""), (("--lines",), "xterm"), (("--json",), "xterm")]
)
def test_simple_terminals_get_lines(tmp_path: Path, more: tuple[str, ...], term: str) -> None:
    with (
        serve(tmp_path / "home", "fake:script=Hello%20there") as app,
        SyncClient.discover(app.home, name="me") as client,
        watching(app.home, *more, TERM=term) as terminal,
    ):
        terminal.until(lambda: b"\n" in terminal.raw)
        client.generate(prompt="who").finished()
        terminal.until(lambda: b"Hello there" in terminal.raw)
        terminal.type("\x03")
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        lines = terminal.raw.decode().splitlines()
        if "--json" in more:
            assert json.loads(lines[0])["type"] == "hello"
        else:
            assert lines[0].startswith("following tokenglass")
