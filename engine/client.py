"""The app's side of one worker process: spawn it, talk to it, notice its end.

Two threads do what may block: one spawns the process and then reads its events, one writes
commands. What they bring is handed to the loop in batches, with one wake-up for many messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from engine import entry, ipc
from engine.commands import Shutdown, WorkerCommand
from engine.replies import Message
from engine.types import WorkerConfig

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 8192
MAX_INBOX = 64
"""Messages that may wait for the loop; the worker waits for an app that can't follow."""
TURN_S = 0.005
"""How long messages are handed on before the loop looks at anything else."""
ABORT_S = 0.03
"""How long a hung worker has to say where it hangs; then it is killed."""


class ExitInfo(NamedTuple):
    """How a worker ended. `signal` names it (`SIGKILL`) where one did; `log_tail` is its last output."""

    exit_code: int | None
    signal: str | None
    log_tail: str


class EngineClient:
    """One worker from its start to its end.

    `on_messages` and `on_exit` are called on the loop that ran `start`; `on_exit` exactly once, after
    the last events.
    """

    def __init__(
        self,
        config: WorkerConfig,
        epoch: int,
        log_path: Path,
        on_messages: Callable[[list[Message]], None],
        on_exit: Callable[[ExitInfo], None],
    ) -> None:
        self.config = config
        self.epoch = epoch
        self._log_path = log_path
        self._on_messages = on_messages
        self._on_exit = on_exit
        self._process: BaseProcess | None = None
        self._outbox: queue.SimpleQueue[WorkerCommand | None] = queue.SimpleQueue()
        self._inbox: deque[list[Message]] = deque()
        self._exit: ExitInfo | None = None
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone = asyncio.Event()
        self._killed = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Begin to spawn the process; its first event is `engine.started`."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name=f"engine-reader-{self.epoch}", daemon=True).start()

    def send(self, command: WorkerCommand) -> None:
        """Queue a command; never blocks. What can't be delivered any more is dropped (`on_exit` tells)."""
        self._outbox.put(command)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Ask the worker to leave, insist after half the time, and wait until it is gone."""
        self.send(Shutdown())
        for insist in (self._terminate, self.kill):
            try:
                async with asyncio.timeout(timeout_s / 2):
                    await self._gone.wait()
                return
            except TimeoutError:
                insist()
        await self._gone.wait()

    def kill(self) -> None:
        """End the process at once."""
        self._killed = True
        if self._process is not None:
            with contextlib.suppress(ValueError, OSError):
                self._process.kill()

    def abort(self) -> None:
        """End a process that hangs, giving it a moment to write into its log where it hangs."""
        if sys.platform == "win32" or self._process is None or self._process.pid is None:
            self.kill()
            return
        self._killed = True
        with contextlib.suppress(OSError):
            os.kill(self._process.pid, signal.SIGABRT)  # its faulthandler writes all stacks
        assert self._loop is not None
        self._loop.call_later(ABORT_S, self.kill)

    def _terminate(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ValueError, OSError):
                self._process.terminate()

    # ---- the reader thread

    def _run(self) -> None:
        info = ExitInfo(None, None, "")
        try:
            info = self._serve()
        except Exception as error:
            what = "could not be started" if self._process is None else "could not be read"
            logger.warning("worker %d %s", self.epoch, what, exc_info=True)
            self.kill()
            if self._process is not None:
                self._process.join()
            info = ExitInfo(None, None, f"the worker process {what}: {error}")
        finally:
            self._outbox.put(None)
            self._exit = info
            self._wake()

    def _serve(self) -> ExitInfo:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=True)
        process = context.Process(
            target=entry.run_worker,
            args=(theirs, self.config.model_dump_json(), self.epoch, str(self._log_path)),
            name=f"tokenglass-worker-{self.epoch}",
            daemon=True,
        )
        self._log_path.unlink(missing_ok=True)
        process.start()
        theirs.close()
        self._process = process
        if self._killed:
            process.kill()
        threading.Thread(
            target=self._write, args=(ours,), name=f"engine-writer-{self.epoch}", daemon=True
        ).start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._inbox.append(ipc.receive_messages(ours))
                self._wake()
                while len(self._inbox) >= MAX_INBOX and not self._killed:
                    time.sleep(0.001)
        process.join(1.0)
        if process.is_alive():  # closed its pipe, yet lives: nothing can be had from it any more
            process.kill()
            process.join()
        code = process.exitcode
        ours.close()
        return ExitInfo(code, _signal_name(code), self._log_tail())

    def _write(self, connection: Connection) -> None:
        with contextlib.suppress(OSError):
            while (command := self._outbox.get()) is not None:
                ipc.send_command(connection, command)

    def _log_tail(self) -> str:
        try:
            data = self._log_path.read_bytes()
        except OSError:
            return ""
        return data[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()

    def _wake(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._deliver)

    # ---- on the loop

    def _deliver(self) -> None:
        """Hand on what has come, some of it in each turn of the loop."""
        self._scheduled = False
        until = time.monotonic() + TURN_S
        while self._inbox:
            if time.monotonic() > until:
                self._wake()
                return
            self._on_messages(self._inbox.popleft())
        if self._exit is not None and not self._gone.is_set():
            self._gone.set()
            self._on_exit(self._exit)


def _signal_name(exit_code: int | None) -> str | None:
    if exit_code is None or exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
