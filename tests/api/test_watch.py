"""`tokenglass watch` over what happens to generations, and to the app."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.client import SyncClient
from api.watch.lines import Lines
from tests.e2e.harness import END_LIMIT_S, ROOT, START_LIMIT_S, serve


class Watch:
    def __init__(self, home: Path, *more: str) -> None:
        self._out = home.with_name("watch.txt")
        self._file = self._out.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "desktop", "watch", *more, "--home", str(home)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace")

    def says(self, *texts: str) -> None:
        """All of them, in this order."""
        end = time.monotonic() + START_LIMIT_S
        while True:
            place = 0
            for text in texts:
                place = self.output.find(text, place)
                if place < 0:
                    break
            else:
                return
            assert time.monotonic() < end, f"{texts}; so far:\n{self.output}"
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    def leave(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(END_LIMIT_S)

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def watch(home: Path, *more: str) -> Iterator[Watch]:
    started = Watch(home, *more)
    try:
        yield started
        assert started.leave() == 0
        assert "Traceback" not in started.output
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()
        started.close()


def test_over_a_restart_and_hands(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with contextlib.ExitStack() as stack:
        with serve(home, "fake:tokens=200,delay_ms=15") as app:
            view = stack.enter_context(watch(home))
            view.says("following tokenglass")
            with SyncClient.discover(app.home, name="me") as client:
                generation = client.generate(prompt="hi")
                at = generation.pause()["at_token"] + 5
                generation.step(5)
                while (event := next(generation))["type"] != "generation.paused" or event["at_token"] != at:
                    pass
                generation.rewind(2)
                generation.fork(1)
                generation.resume()
                generation.finished()
            left = f"has 2 tokens taken back, {at - 2} are left"
            view.says(f"is paused at token {at}", left, "branches off at token 1: me")
            view.says("goes on", "■ me")
        view.says("(the app has quit; waiting for it to come back")
        with serve(home, "fake:script=Back%20again"):
            view.says("(connected again to tokenglass", "(the app was started anew)")
            with SyncClient.discover(home, name="me") as client:
                client.generate(prompt="who").finished()
            view.says("(connected again", "Back again")


def lines_of(*frames: dict[str, Any], **snapshot: Any) -> str:
    out = io.StringIO()
    lines = Lines(out)
    lines.begin({}, {"seq": 0, "model": None, "generations": []} | snapshot)
    for frame in frames:
        lines.show(frame)
    return out.getvalue().partition("\n")[2]


def test_a_recovered_generation_is_told() -> None:
    told = lines_of({"type": "generation.recovered", "generation_id": "gen_1", "at_token": 7})
    assert told == "‖ gen_1 goes on after token 7 in a new engine\n"


def test_what_a_snapshot_has_is_not_told_twice() -> None:
    entry = {"generation_id": "gen_1", "client_name": "me", "origin": "live", "text": "ab"}
    tokens = [{"index": n, "text": text} for n, text in enumerate("abc")]
    delta = {"type": "generation.delta", "generation_id": "gen_1"}
    told = lines_of(
        delta | {"seq": 9, "text": "b", "tokens": tokens[1:2]},
        delta | {"seq": 12, "text": "bc", "tokens": tokens[1:]},
        seq=10,
        generations=[entry | {"completion_tokens": 2}],
    )
    assert told == "abc"


def test_a_line_stays_a_line() -> None:
    told = lines_of({"type": "log", "level": "error", "message": "a\n■ somebody: forged\x1b[2J\u202e"})
    assert told == "error: a ■ somebody: forged[2J\n"
