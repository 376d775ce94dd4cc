"""Every example of `assets/examples` run as its reader would: as a script, beside a running app."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.client import SyncClient
from tests.e2e.harness import END_LIMIT_S, ROOT, START_LIMIT_S, Serve, serve

EXAMPLES = ROOT / "assets" / "examples"


class Script:
    """An example that runs. Made by `example`."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + START_LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"it didn't come true in time; so far:\n{self.output}"
            assert self.process.poll() in (None, 0), self.output
            time.sleep(0.02)

    def says(self, text: str) -> None:
        self.until(lambda: text in self.output)


@contextlib.contextmanager
def example(app: Serve, name: str, *arguments: str, typed: str | None = None) -> Iterator[Script]:
    """The script as `.venv/bin/python assets/examples/NAME`, ended with Ctrl-C if it still runs."""
    output = app.home / f"{name}.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *arguments],
            cwd=app.home,
            env=os.environ | {"TOKENGLASS_HOME": str(app.home), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        assert process.stdin is not None
        if typed is not None:
            process.stdin.write(typed)
        process.stdin.close()
        yield Script(process, output)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(END_LIMIT_S) == 0
        assert "Traceback" not in output.read_text(), "Ctrl-C is the way to leave"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def connected(app: Serve, name: str) -> Callable[[], bool]:
    def check() -> bool:
        with SyncClient.discover(app.home, reconnect=False) as client:
            return any(other["name"] == name for other in client.request("snapshot")["clients"])

    return check


def ask(app: Serve, prompt: str = "hello", **arguments: object) -> dict[str, object]:
    with SyncClient.discover(app.home, name="somebody") as client:
        return client.generate(prompt=prompt, **arguments).finished()


def test_everything(tmp_path: Path) -> None:
    """Also over a restart of the app: another process, port and token."""
    home = tmp_path / "home"
    with contextlib.ExitStack() as stack:
        with serve(home, "fake:script=Hello%20there") as app:
            script = stack.enter_context(example(app, "everything.py"))
            script.until(lambda: "who is" in script.output or not ask(app, "who is there"))
            script.says("[somebody asks] who is there\n")
            script.says("Hello there")
            script.says("[stop]")
        script.says("[connection.lost]")
        with serve(home, "fake:script=Back%20again") as app:
            script.says("[connection.restored]")
            script.says("[reset] run")
            ask(app)
            script.says("Back again")


def test_ask(tmp_path: Path) -> None:
    with serve(tmp_path / "home", "fake:echo=1") as app, example(app, "ask.py", typed="one\ntwo\n") as script:
        assert script.process.wait(START_LIMIT_S) == 0
        assert script.output.split() == [">", "one", ">", "two", ">"]


@pytest.mark.parametrize("model", ["fake:tokens=40,delay_ms=5", "starter"])
def test_steer(tmp_path: Path, model: str) -> None:
    with serve(tmp_path / "home", model) as app, example(app, "steer.py") as script:
        assert script.process.wait(START_LIMIT_S) == 0, script.output
        steered, branch = script.output.split("branch:")
        assert " But the sea was purple," in steered
        assert " But the sea was purple," not in branch
        assert steered.removeprefix("steered:")[:8] == branch[:8], "they have their beginning in common"


def test_tools(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serve(home, "starter") as app:
        with SyncClient.discover(home) as client:
            client.request("settings.set", settings={"sampling": {"temperature": 0}})
        with example(app, "tools.py", "how much is 4821 + 977") as script:
            assert script.process.wait(START_LIMIT_S) == 0, script.output
            called, answer = script.output.strip().splitlines()
            assert called.startswith('calculator {"expression":')
            assert called.endswith("-> 5798")
            assert "5798" in answer


def test_publish(tmp_path: Path) -> None:
    with serve(tmp_path / "home") as app, SyncClient.discover(app.home) as client:
        client.request("subscribe", events=["metrics.custom"])
        with example(app, "publish.py", "3") as script:
            events = client.events()
            for _ in range(3):
                event = next(events)
                assert (event["series"], event["unit"]) == ("load/1min", "processes")
            assert script.process.wait(START_LIMIT_S) == 0, script.output


def test_unloop(tmp_path: Path) -> None:
    loop = " the light of the window is cold" * 40
    with (
        serve(tmp_path / "home", f"fake:delay_ms=20,script={loop}") as app,
        example(app, "unloop.py") as script,
    ):
        script.until(lambda: ask(app)["finish_reason"] == "cancelled")
        script.says("it loops")
    with serve(tmp_path / "other", "fake:delay_ms=5") as app, example(app, "unloop.py") as script:
        script.until(connected(app, "unloop"))
        assert ask(app)["finish_reason"] == "stop"
        assert "it loops" not in script.output


def rows(file: Path) -> list[list[str]]:
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.reader(lines))


def test_log_csv(tmp_path: Path) -> None:
    with serve(tmp_path / "home", "fake:tokens=5") as app, example(app, "log_csv.py") as script:
        file = app.home / "generations.csv"
        script.until(lambda: bool(ask(app, "first, with a comma") and rows(file)))
        ask(app, "second\nwith a line break")
        script.until(lambda: "second" in rows(file)[-1][-1])
        first, second = rows(file)[0], rows(file)[-1]
        assert first[1:4] == ["somebody", "live", "fake"]
        assert first[6] == "5"
        assert (first[-1], second[-1]) == ("first, with a comma", "second\nwith a line break")
        assert float(first[7]) > 0


def test_each_is_tested_and_listed() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for file in sorted(EXAMPLES.glob("*.py")):
        assert f"assets/examples/{file.name}" in readme, file.name
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 36, file.name
        if file.name != "follow.py":  # in tests/api/test_commands.py
            assert f'"{file.name}"' in here, file.name
