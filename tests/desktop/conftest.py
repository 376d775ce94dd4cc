"""One QApplication and one qasync loop for all tests of the window; coroutine tests run on it.

qasync leaks a loop object when one is closed, so there is only one. Never wait with `qtbot` inside a
coroutine: that runs a nested Qt loop, and tasks that wake up in it are lost.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["QT_API"] = "pyside6"

from PySide6.QtWidgets import QApplication
from qasync import QEventLoop

from api.core import Options
from desktop.app import make_application, running
from desktop.controller import Controller
from desktop.window import Window

Drive = Callable[[Coroutine[Any, Any, Any]], Any]
OpenWindow = Callable[..., AbstractAsyncContextManager[Controller]]

TIMEOUT_S = 250.0
WAIT_S = 100.0
"""Only keeps a test from hanging."""


@pytest.fixture(scope="session")
def qapp() -> Iterator[QApplication]:
    """The session's application (pytest-qt takes it over under this name)."""
    return QApplication.instance() or make_application()  # type: ignore[return-value]  # narrower by make


@pytest.fixture(scope="session")
def qloop(qapp: QApplication) -> Iterator[asyncio.AbstractEventLoop]:
    """The session's qasync loop."""
    loop = QEventLoop(qapp)
    executor = ThreadPoolExecutor(4, thread_name_prefix="worker")
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def drive(qloop: asyncio.AbstractEventLoop) -> Drive:
    """Run a coroutine on the session's loop, under a time limit; whatever it leaves behind is an error."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(TIMEOUT_S):
                result = await work
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if left:  # they may be about to end
                _, still = await asyncio.wait(left, timeout=5.0)
                assert not still, f"tasks were left behind: {still}"
            return result

        return qloop.run_until_complete(limited())

    return run


@pytest.fixture
def open_window(tmp_path: Path, qapp: QApplication) -> OpenWindow:
    """A window with a core in a home of its own: `async with open_window(model="fake:") as controller`."""

    @asynccontextmanager
    async def opened(*, wait: bool = True, **options: Any) -> AsyncIterator[Controller]:
        options.setdefault("model", "fake:")
        home = options.pop("home", tmp_path / "home")
        window = Window(tmp_path / "window.ini")
        window.show()
        try:
            async with running(window, Options(home=home, port=0, **options)) as controller:
                if wait:
                    await until(lambda: controller.engine.state == "ready")
                yield controller
        finally:
            window.dispose()
            await asyncio.sleep(0.05)

    return opened


async def until(there: Callable[[], object], limit_s: float = WAIT_S) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(limit_s):
        while not there():  # noqa: ASYNC110 - widgets have no event to wait for
            await asyncio.sleep(0.01)
