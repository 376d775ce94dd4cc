"""An app for one terminal command, where none runs yet: started on the same home, ended with the command."""

from __future__ import annotations

import contextlib
import ctypes
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from api.client import running_app
from api.paths import Paths
from engine.errors import TokenglassError

START_TIMEOUT_S = 60.0
QUIT_TIMEOUT_S = 5.0


@contextlib.contextmanager
def running_or_own(paths: Paths, home: Path | None, model: str | None) -> Iterator[bool]:
    """See to a running app; gives whether it ran already (then `model` was not used).

    Raises TokenglassError `load_failed` where one has to be started and can't be.
    """
    if running_app(paths) is not None:
        yield True
        return
    process, problems = _start(home, model)
    try:
        with problems:
            _wait_until_ready(process, problems, paths)
        yield False
    finally:
        _end(process)


def _start(home: Path | None, model: str | None) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    # -P: an `api` folder where the user happens to be isn't ours
    python = [sys.executable, "-P", "-m", "api.cli"]
    command = [sys.executable] if getattr(sys, "frozen", False) else python
    command += ["serve", "--port", "0"]
    if home is not None:
        command += ["--home", str(home)]
    if model is not None:
        command += ["--model", model]
    problems = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=problems,
        process_group=0,  # the terminal's Ctrl-C is ours to handle
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    return process, problems


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Between fork and exec: have the kernel end the app when this process is killed."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait_until_ready(process: subprocess.Popen[bytes], problems: IO[bytes], paths: Paths) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TokenglassError("load_failed", f"the app didn't start within {START_TIMEOUT_S:.0f} s")
        part = process.stdout.read1(4096)  # type: ignore[attr-defined]  # a pipe's reader has it
        if not part:
            break
        line += part
    with contextlib.suppress(ValueError):
        if json.loads(line)["type"] == "ready":
            return
    process.wait(QUIT_TIMEOUT_S)
    if running_app(paths) is not None:
        return  # somebody else was faster; theirs will do
    problems.seek(0)
    lines = problems.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    reason = lines[-1].removeprefix("tokenglass: ") if lines else f"exit code {process.returncode}"
    raise TokenglassError("load_failed", f"the app can't be started: {reason}")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
