"""`tokenglass serve`: the app without a window, on asyncio's own loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from api.core import Core, Options

QUIT_LIMIT_S = 4.0
"""The stages of quitting have their own limits, 2 s together; this one is for what hangs nevertheless."""


def run(options: Options) -> int:
    """Serve until told to end; answers the exit code. Raises TokenglassError where it can't start."""
    asyncio.run(_serve(options))
    return 0


async def _serve(options: Options) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(4, thread_name_prefix="worker"))
    async with Core.open(options) as core:
        watch_signals(loop, core.quit)
        print(ready_line(core), flush=True)
        await core.quit.wait()
        threading.Thread(target=_leave_at_last, name="quit-limit", daemon=True).start()


def ready_line(core: Core) -> str:
    """The one line on stdout that says where the app listens."""
    return json.dumps(
        {
            "type": "ready",
            "url": core.url,
            "base_url": core.base_url,
            "pid": os.getpid(),
            "model": core.model_id,
        }
    )


def watch_signals(loop: asyncio.AbstractEventLoop, quit_event: asyncio.Event) -> None:
    """Let Ctrl-C, a polite kill and a closed terminal end the app in good order."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, quit_event.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(quit_event.set))


def _leave_at_last() -> None:
    threading.Event().wait(QUIT_LIMIT_S)
    sys.stderr.write("tokenglass: quitting took too long; leaving\n")
    sys.stderr.flush()
    os._exit(1)
