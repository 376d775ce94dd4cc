import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.api.harness import ENDLESS, TOKEN, Wire, run

ROOT = Path(__file__).parents[2]
LIMIT_S = 100.0
PROGRAM = (
    "import sys; from api import cli, serve, server;"
    "serve.QUIT_LIMIT_S = 60.0; server.LAST_WORDS_S = server.GOODBYE_S = 20.0; sys.exit(cli.main())"
)
"""The program with as much time for quitting as a busy machine needs."""


class Served:
    """A `serve` process and its ready line."""

    def __init__(self, home: Path, *arguments: str, model: str = ENDLESS) -> None:
        command = [sys.executable, "-c", PROGRAM, "serve", "--home", str(home), "--model", model]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TOKENGLASS_")}
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--token", TOKEN, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(self.process.communicate(timeout=LIMIT_S)[1])
        self.ready = json.loads(line)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code and the rest of both outputs. How long quitting takes is measured in tests/e2e."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    app = Served(tmp_path)
    try:
        app.wait_ready()
        yield app
    finally:
        if app.process.poll() is None:
            app.process.kill()
            app.process.communicate()


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def worker_of(wire: Wire) -> int:
    snapshot = await wire.command("snapshot")
    while snapshot["engine"]["state"] != "ready":
        await asyncio.sleep(0.02)
        snapshot = await wire.command("snapshot")
    return int(snapshot["engine"]["pid"])


def test_the_ready_line_and_the_first_tokens(served: Served, tmp_path: Path) -> None:
    assert set(served.ready) == {"type", "url", "base_url", "pid", "model"}
    assert served.ready["type"] == "ready"
    assert served.ready["pid"] == served.process.pid
    assert served.ready["model"] == "fake"
    about = json.loads((tmp_path / "runtime" / "server.json").read_text())
    assert about["url"] == served.ready["url"]

    async def test() -> None:
        wire = Wire(await connect(served.ready["url"] + f"?token={TOKEN}", proxy=None))
        generation = await wire.generate(max_tokens=20)
        finished = await wire.finished(generation)
        assert wire.indices(generation) == list(range(20))
        assert finished["text"] == wire.text(generation)
        await wire.close()

    run(test())
    code, out, err = served.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert TOKEN not in err
    assert not (tmp_path / "runtime" / "server.json").exists()


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
def test_signals_end_it_in_good_order(served: Served, number: int) -> None:
    pids: list[int] = []

    async def test() -> None:
        wire = Wire(await connect(served.ready["url"] + f"?token={TOKEN}", proxy=None))
        pids.append(await worker_of(wire))
        generation = await wire.generate()
        await wire.event("generation.delta")
        port = int(served.ready["url"].split(":")[2].split("/")[0])
        stuck = socket.create_connection(("127.0.0.1", port))
        ended = await asyncio.to_thread(served.end, number)
        code, out, err = ended
        assert (code, out) == (0, "")
        assert "Traceback" not in err
        assert (await wire.finished(generation))["error"]["code"] == "shutting_down"
        stuck.close()
        await wire.close()
        assert wire.connection.close_code == 1001

    run(test())
    assert not alive(pids[0])


def test_no_orphan_after_kill_9(served: Served, tmp_path: Path) -> None:
    pids: list[int] = []

    async def test() -> None:
        wire = Wire(await connect(served.ready["url"] + f"?token={TOKEN}", proxy=None))
        pids.append(await worker_of(wire))
        await wire.generate()
        await wire.event("generation.delta")
        served.process.kill()
        await asyncio.to_thread(served.process.communicate)
        await wire.close()

    run(test())
    deadline = time.monotonic() + LIMIT_S
    while alive(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pids[0])
    # the stale announcement hinders nobody
    second = Served(tmp_path)
    second.wait_ready()
    assert second.end()[0] == 0


def test_a_second_one_names_the_first(served: Served, tmp_path: Path) -> None:
    second = Served(tmp_path)
    out, err = second.process.communicate(timeout=LIMIT_S)
    assert second.process.returncode == 1
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("tokenglass:")]
    assert len(lines) == 1
    assert str(served.process.pid) in lines[0]
    assert served.ready["url"] in lines[0]
    assert "Traceback" not in err
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    (
        (("--host", "0.0.0.0"), 2, "loopback"),
        (("--port", "99999"), 2, "65535"),
        (("--token", ""), 2, "token"),
        (("--allow-origin", "null"), 2, "origin"),
        (("--model", "no-such-model"), 1, "no-such-model"),
        (("--model", "fake:nonsense=1"), 1, "nonsense"),
        (("--parallel", "0"), 2, "1 to 64"),
        (("--gpu-layers", "some"), 2, "whole number"),
        (("--home", "/dev/null/x"), 1, "/dev/null"),
    ),
)
def test_mistakes_get_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, word: str) -> None:
    app = Served(tmp_path, *arguments)
    out, err = app.process.communicate(timeout=LIMIT_S)
    assert app.process.returncode == code
    assert out == ""
    assert word in err
    assert "Traceback" not in err
    if code == 1:
        assert len([line for line in err.splitlines() if line.startswith("tokenglass:")]) == 1


def test_an_explicit_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = Served(tmp_path, "--port", str(port))
        _, err = app.process.communicate(timeout=LIMIT_S)
        assert app.process.returncode == 1
        assert f"port {port} is taken" in err


def test_serve_imports_no_qt() -> None:
    code = (
        "import sys, api.serve, api.cli, api.core; roots = {name.split('.')[0] for name in sys.modules};"
        "print(roots & {'PySide6', 'qasync', 'pyqtgraph', 'llama_cpp'} or 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout.strip() == "none"
