"""`tokenglass selftest`: the whole app once, in a home of its own, as a packaged build is smoke-tested.

Window, core and worker start; a WebSocket client streams tokens from the model; the plots are drawn.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PySide6.QtGui import QImage
from qasync import QEventLoop
from websockets.asyncio.client import ClientConnection, connect

from api.core import Options
from api.paths import Paths
from api.version import VERSION
from desktop.app import display_there, make_application, running
from desktop.controller import Controller
from desktop.window import Window
from engine.errors import TokenglassError

TOKENS = 20
LIMIT_S = 60.0
_PROMPTS = ("Tell me a story about a lighthouse.", "What is a token?", "Write a list of ten animals.")


class SelftestError(Exception):
    """Something doesn't work; the message says what."""


def run(options: Options) -> int:
    """Run it and print one line; answers the exit code."""
    if not display_there():
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    done = threading.Event()
    threading.Thread(target=_limit, args=(done,), name="selftest-limit", daemon=True).start()
    try:
        with tempfile.TemporaryDirectory(prefix="tokenglass-", ignore_cleanup_errors=True) as home:
            options = dataclasses.replace(options, home=Path(home), host="127.0.0.1", port=0, token=None)
            app = make_application()
            with asyncio.Runner(loop_factory=lambda: QEventLoop(app)) as runner:
                line = runner.run(_main(options))
    except (SelftestError, TokenglassError, OSError, TimeoutError) as error:
        return _say(f"selftest failed: {' '.join(str(error).split()) or type(error).__name__}", 1)
    finally:
        done.set()
    return _say(f"selftest ok: {line}", 0)


def _say(line: str, code: int) -> int:
    print(line, file=sys.stderr if code else sys.stdout, flush=True)
    return code


def _limit(done: threading.Event) -> None:
    if not done.wait(LIMIT_S):
        _say(f"selftest failed: it took more than {LIMIT_S:.0f} s", 1)
        os._exit(1)


async def _main(options: Options) -> str:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(4, thread_name_prefix="worker"))
    started = time.monotonic()
    window = Window(Paths.resolve(options.home).config_dir / "window.ini")
    window.show()
    shown_s = time.monotonic() - started
    try:
        async with running(window, options) as controller:
            return await _check(window, controller, started, shown_s)
    finally:
        window.dispose()


async def _check(window: Window, controller: Controller, started: float, shown_s: float) -> str:
    core = controller.core
    async with asyncio.timeout(LIMIT_S - 5):
        await _until(lambda: controller.engine.state in ("ready", "failed"))
        if controller.engine.error is not None:
            raise SelftestError(controller.engine.error.message)
        model = controller.engine.model
        if model is None:
            raise SelftestError("no model was loaded")
        ready_s = time.monotonic() - started
        headers = {"Authorization": f"Bearer {core.token}"}
        count, timings = 0, None
        async with connect(
            f"{core.url}?name=selftest", additional_headers=headers, proxy=None, compression=None
        ) as client:
            for prompt in _PROMPTS:
                got, timings = await _generate(client, prompt)
                count += got
                if count >= TOKENS:
                    break
        if count < TOKENS:
            raise SelftestError(f"only {count} of {TOKENS} tokens came through the WebSocket")
        panel = window.panel
        if panel is None:
            raise SelftestError("the window has no instruments")
        await _until(lambda: panel.instruments.running == 0 and panel.instruments.last_token_t > 0)
        panel.draw()
        for plot in panel.plots:
            if _colours(plot.grab().toImage()) < 3:
                raise SelftestError("a plot is empty")
        if _colours(window.grab().toImage()) < 10:
            raise SelftestError("the window is empty")
    speed = (timings or {}).get("tokens_per_second")
    first = (timings or {}).get("ttft_ms")
    return (
        f"{model.name}, {count} tokens at {speed or 0:.0f} tok/s, first after {first or 0:.0f} ms; "
        f"window after {shown_s:.2f} s, model ready after {ready_s:.1f} s, plots drawn; version {VERSION}, "
        f"Python {sys.version.split()[0]}"
    )


async def _generate(client: ClientConnection, prompt: str) -> tuple[int, dict[str, Any]]:
    """Ask once; answers how many tokens came and the timings."""
    command = {
        "id": prompt,
        "type": "generate",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "sampling": {"temperature": 0.0},
    }
    await client.send(json.dumps(command))
    count = 0
    async for frame in client:
        event = json.loads(frame)
        if event["type"] == "reply" and not event["ok"]:
            raise SelftestError(event["error"]["message"])
        if event["type"] == "generation.delta":
            count += len(event["tokens"])
        elif event["type"] == "generation.finished":
            if event["error"]:
                raise SelftestError(event["error"]["message"])
            return count, event["timings"]
    raise SelftestError("the server closed the connection")


async def _until(there: Callable[[], bool]) -> None:
    while not there():  # noqa: ASYNC110 - widgets and series have no event to wait for
        await asyncio.sleep(0.02)


def _colours(image: QImage) -> int:
    """How many different colours a picture has, counted on a grid."""
    return len({image.pixel(x, y) for x in range(0, image.width(), 3) for y in range(image.height())})
