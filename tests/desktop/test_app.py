"""The program as it is started: one instance, orderly quitting, storage that can't be opened, selftest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication
from websockets.sync.client import connect

from api.core import Options
from desktop import app
from desktop.window import Window
from engine.errors import TokenglassError
from tests.desktop.conftest import Drive, OpenWindow, until
from tests.desktop.test_window import SLOW, message_box

ROOT = Path(__file__).parents[2]
LIMIT_S = 100.0
"""Only keeps a test from hanging."""
PATIENT = """
import sys
from api import discovery, serve
from desktop import app, selftest
from desktop.__main__ import main
serve.QUIT_LIMIT_S = app.QUIT_LIMIT_S = 60.0
selftest.LIMIT_S = 200.0
discovery.RAISE_TIMEOUT_S = 60.0
sys.exit(main())
"""
"""The program, without the alarms that a busy machine sets off: they end it where it hangs."""


def start(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-c", PATIENT, "--home", str(home), *arguments),
        cwd=ROOT,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def server_of(home: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    file = home / "runtime" / "server.json"
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit and process.poll() is None:
        if file.exists():
            server: dict[str, Any] = json.loads(file.read_text())
            return server
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"it did not start: {process.communicate()}")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_ends_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "--port", "0", "--model", SLOW) as process:
        server = server_of(tmp_path, process)
        with connect(
            server["url"] + "?token=" + server["token"],
            max_queue=None,
            open_timeout=LIMIT_S,
            ping_timeout=None,
        ) as client:
            client.send(json.dumps({"id": 1, "type": "generate", "prompt": "go on"}))
            while json.loads(client.recv(timeout=LIMIT_S))["type"] != "generation.delta":
                pass
            process.send_signal(number)
            _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not (tmp_path / "runtime" / "server.json").exists()
        assert (tmp_path / "config" / "window.ini").exists()


def test_a_second_start_raises_the_first_window_and_leaves(tmp_path: Path) -> None:
    with start(tmp_path, "--port", "0", "--model", "fake:") as first:
        try:
            server_of(tmp_path, first)
            with start(tmp_path, "--model", "fake:") as second:
                _, errors = second.communicate(timeout=LIMIT_S)
            assert second.returncode == 0, errors
            assert first.poll() is None
        finally:
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=LIMIT_S)


def test_without_a_display_it_serves(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    environment.pop("QT_QPA_PLATFORM", None)
    with subprocess.Popen(
        (sys.executable, "-c", PATIENT, "--home", str(tmp_path), "--port", "0", "--model", "fake:"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert ready["type"] == "ready"
    assert "there is no display here" in errors.splitlines()[0]
    assert process.returncode == 0


def test_a_display_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-does-not-exist")
    monkeypatch.setenv("DISPLAY", ":4711")
    assert not app.display_there()
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert app.display_there()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    (
        (("--model", "no-such-model"), 1, "no-such-model"),
        (("--host", "0.0.0.0"), 2, "0.0.0.0"),
        (("--model", "fake:nonsense=1"), 1, "nonsense"),
    ),
)
def test_a_wrong_start_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    with start(tmp_path, "--port", "0", *arguments) as process:
        _, errors = process.communicate(timeout=LIMIT_S)
    lines = [line for line in errors.splitlines() if line.startswith("tokenglass: ")]
    assert len(lines) == 1, errors
    assert words in lines[0]
    assert "Traceback" not in errors
    assert process.returncode == code


def test_none_survives_many_calls_of_qt() -> None:
    """PySide6 6.12.0 takes a reference too few for None, and Python 3.11 dies of this loop."""
    code = (
        "import desktop; from PySide6.QtCore import QObject; o = QObject()\n"
        "for _ in range(300_000): o.setObjectName('x')\n"
        "print(o.isWidgetType())"
    )
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def damaged(home: Path) -> Path:
    database = home / "data" / "history.db"
    database.parent.mkdir(parents=True, mode=0o700)
    database.write_bytes(b"this is no database" * 100)
    return database


@pytest.mark.parametrize("answer", ("Quit", "Go on without saving"))
def test_a_damaged_database_is_told_and_never_overwritten(
    drive: Drive, tmp_path: Path, qapp: QApplication, answer: str
) -> None:
    database = damaged(tmp_path / "home")
    before = database.read_bytes()

    async def scenario() -> None:
        stop = asyncio.Event()
        window = Window(tmp_path / "window.ini")
        window.show()
        options = Options(home=tmp_path / "home", port=0, model="fake:")
        running = asyncio.ensure_future(app._run_until(stop, window, options))
        try:
            box = await message_box()
            assert str(database) in box.text() + box.informativeText()
            next(button for button in box.buttons() if button.text() == answer).click()
            if answer == "Quit":
                with pytest.raises(TokenglassError):
                    await running
            else:
                await until(lambda: window.banner.text)
                assert "isn't saved" in window.banner.text
                await until(lambda: window.status.engine.text == "engine ready")
                stop.set()
                await running
        finally:
            window.dispose()
            await asyncio.sleep(0.05)

    drive(scenario())
    assert database.read_bytes() == before


def test_closing_only_asks_and_geometry_is_kept(
    drive: Drive, open_window: OpenWindow, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            asked: list[bool] = []
            controller.window.closeRequested.connect(lambda: asked.append(True))
            controller.window.resize(800, 613)  # no larger than the screen of the tests
            controller.window.splitter.setSizes((180, 316, 302))
            sizes = controller.window.splitter.sizes()
            assert not controller.window.close()
            assert asked == [True]
            assert controller.window.isVisible()
        again = Window(tmp_path / "window.ini")
        assert (again.width(), again.height()) == (800, 613)
        again.show()
        assert again.splitter.sizes() == sizes
        again.dispose()
        await asyncio.sleep(0.05)

    drive(scenario())


def test_quitting_by_the_system_only_asks(qapp: QApplication) -> None:
    assert isinstance(qapp, app.Application)
    asked: list[bool] = []
    qapp.quitRequested.connect(lambda: asked.append(True))
    QApplication.sendEvent(qapp, QEvent(QEvent.Type.Quit))
    assert asked == [True]


@pytest.mark.parametrize(
    ("model", "code", "word"),
    (
        ("fake:tokens=30", 0, "selftest ok: Fake model, 20 tokens"),
        ("fake:load_fail=model_damaged", 1, "failed"),
    ),
)
def test_selftest(tmp_path: Path, model: str, code: int, word: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "QT_QPA_PLATFORM"}
    done = subprocess.run(
        (sys.executable, "-c", PATIENT, "selftest", "--model", model),
        cwd=ROOT,
        env={**environment, "TOKENGLASS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert word in (done.stderr if code else done.stdout)
    assert len(done.stdout.splitlines()) == (0 if code else 1)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists(), "the user's own home was used"
