"""The app with its window: one Qt application, one qasync loop, the core inside it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, Signal
from PySide6.QtWidgets import QApplication
from qasync import QEventLoop

from api import discovery
from api.core import Core, Options
from api.paths import Paths
from api.serve import watch_signals
from api.version import VERSION
from desktop import dialogs
from desktop.controller import Controller
from desktop.window import Window
from engine.errors import TokenglassError

logger = logging.getLogger(__name__)

QUIT_LIMIT_S = 4.0
"""Every stage of quitting has its own limit, together about 2 s; this one is for what hangs nevertheless."""


class Application(QApplication):
    """Quitting by the system (log-out, the menu of macOS) only asks, like closing the window."""

    quitRequested = Signal()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Quit:
            self.quitRequested.emit()
            return True
        return super().event(event)


def make_application() -> Application:
    """The one Qt application of the process."""
    os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.wayland.textinput=false")
    app = Application(sys.argv[:1])
    app.setApplicationName("tokenglass")
    app.setApplicationDisplayName("Tokenglass")
    app.setApplicationVersion(VERSION)
    app.setDesktopFileName("tokenglass")
    app.setQuitOnLastWindowClosed(False)
    return app


def run(options: Options) -> int:
    """Show the window and run until it is closed; answers the exit code.

    Where there is no display the same app serves without a window. A second start for the same home
    raises the first one's window. Raises TokenglassError where the app can't start.
    """
    if not display_there():
        sys.stderr.write("tokenglass: there is no display here; running without a window, as `serve`\n")
        from api import serve

        return serve.run(options)
    paths = Paths.resolve(options.home)
    lock = discovery.InstanceLock(paths.runtime_dir)
    if not lock.acquire():
        if asyncio.run(discovery.raise_first(paths.server_file)):
            return 0
        raise discovery.already_running(paths.server_file)
    lock.release()
    app = make_application()
    with asyncio.Runner(loop_factory=lambda: QEventLoop(app)) as runner:
        runner.run(_main(app, options, paths))
    return 0


async def _main(app: Application, options: Options, paths: Paths) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(4, thread_name_prefix="worker"))
    stop = asyncio.Event()
    watch_signals(loop, stop)
    app.quitRequested.connect(stop.set)
    window = Window(paths.config_dir / "window.ini")
    window.closeRequested.connect(stop.set)
    window.show()
    try:
        await _run_until(stop, window, options)
    finally:
        threading.Thread(target=_leave_at_last, name="quit-limit", daemon=True).start()
        window.dispose()


async def _run_until(stop: asyncio.Event, window: Window, options: Options) -> None:
    try:
        async with running(window, options) as controller:
            await _either(stop, controller.core.quit)
            window.leave()
        return
    except TokenglassError as error:
        if error.code != "storage":
            raise
        answer = await _ask_about_storage(window, error, stop)
        if answer is None:
            raise
    async with running(window, options, memory_history=True) as controller:
        window.banner.show_notice("This session isn't saved", "The stored chats were left as they are")
        await _either(stop, controller.core.quit)
        window.leave()


@asynccontextmanager
async def running(
    window: Window, options: Options, *, memory_history: bool = False
) -> AsyncIterator[Controller]:
    """A core, joined to a window that is shown already."""
    # Half a second of imports: in a thread, so that the window stays alive meanwhile.
    panel = asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "desktop.plots.panel")
    async with Core.open(options, memory_history=memory_history) as core:
        await panel
        if window.panel is None:
            window.add_panel()
        controller = Controller(core, window)
        try:
            await controller.start()
            yield controller
        finally:
            await controller.close()


async def _ask_about_storage(window: Window, error: TokenglassError, stop: asyncio.Event) -> str | None:
    """Whether to go on without stored chats; None: quit."""
    go_on = "Go on without saving"
    asking = asyncio.ensure_future(
        dialogs.ask(
            window,
            "The chats can't be opened",
            f"{error.info.message[:1].upper()}{error.info.message[1:]}.",
            ("Quit", go_on),
            detail=error.info.hint or "",
        )
    )
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((asking, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not asking.done():
        asking.cancel()
        return None
    return go_on if asking.result() == go_on else None


async def _either(*events: asyncio.Event) -> None:
    waiting: list[asyncio.Task[Any]] = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _leave_at_last() -> None:
    threading.Event().wait(QUIT_LIMIT_S)
    logger.error("quitting took too long; leaving")
    os._exit(1)


def display_there() -> bool:
    """Whether a window can be shown: Qt itself would end the process without asking."""
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM"):
        return True
    wayland = os.environ.get("WAYLAND_DISPLAY")
    if wayland:
        place = Path(os.environ.get("XDG_RUNTIME_DIR", "/")) / wayland
        if _answers(str(place)):
            return True
    host, _, number = os.environ.get("DISPLAY", "").partition(":")
    if not number:
        return False
    if host not in ("", "unix"):
        return True  # another machine's; only trying tells
    name = f"/tmp/.X11-unix/X{number.partition('.')[0]}"  # noqa: S108 - X11 fixes this place
    return _answers(name) or _answers(f"\0{name}")


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        probe.connect(address)
        return True
    return False
