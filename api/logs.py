"""The app's log: a rotating file in the home and, for `serve`, standard error. No token, no prompt in it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from io import BufferedWriter, FileIO, TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 1_000_000
OLD_FILES = 2
"""Beside the one written to, so three in all."""

MIN_SECRET = 8
"""Shorter ones stay: what would be blanked out is mostly not them."""
REPEAT_S = 60.0
_NO_ACCEPT = "socket.accept() out of system resource"

_CREDENTIAL = re.compile(r"(?i)(\btoken=|\bbearer[ .])[A-Za-z0-9._~+/=-]+|\btg_[A-Za-z0-9_-]{43}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class RedactingFormatter(logging.Formatter):
    """UTC wall time, level, logger, message; secrets blanked out, also in tracebacks.

    It works on the finished text, so nothing that a record carries gets around it.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._secrets = sorted(
            (secret for secret in secrets if len(secret) >= MIN_SECRET), key=len, reverse=True
        )

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        text = _CREDENTIAL.sub(r"\1[redacted]", text)
        # continuation lines are indented, so that no message can look like a line of its own
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).replace("\n", "\n    ")


class _AcceptFilter(logging.Filter):
    """Out of file descriptors, asyncio logs hundreds of tracebacks a second: one line a minute is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until_t = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or not record.getMessage().startswith(_NO_ACCEPT):
            return True
        now = time.monotonic()
        if now < self._silent_until_t:
            return False
        self._silent_until_t = now + REPEAT_S
        record.msg, record.args = f"{_NO_ACCEPT}: new clients wait until others leave", ()
        record.exc_info = record.exc_text = None
        return True


class _QuietHandler(logging.Handler):
    """A full disk must not fill the terminal with tracebacks, nor stop the app."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _FileHandler(_QuietHandler, RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(BufferedWriter(FileIO(descriptor, "a")), encoding="utf-8", errors="replace")


class _StderrHandler(_QuietHandler, logging.StreamHandler):  # type: ignore[type-arg]  # not generic at run time
    pass


_ours: list[logging.Handler] = []


def configure(
    log_file: Path | None, level: str = "info", *, secrets: Iterable[str] = (), stderr: bool = True
) -> None:
    """Send what the app logs to the file and, if wanted, to standard error; replaces an earlier choice.

    `level` is one of debug, info, warning, error. Where the file can't be opened, only standard error is
    used, and says so.
    """
    close()
    formatter = RedactingFormatter(secrets)
    root = logging.getLogger()
    problem: OSError | None = None
    if log_file is not None:
        try:
            log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _ours.append(_FileHandler(log_file, maxBytes=MAX_BYTES, backupCount=OLD_FILES, encoding="utf-8"))
        except OSError as error:
            problem = error
    if (stderr or problem is not None) and sys.stderr is not None:  # no console: a windowed program
        _ours.append(_StderrHandler(sys.stderr))
    for handler in _ours:
        handler.setFormatter(formatter)
        handler.addFilter(_AcceptFilter())
        root.addHandler(handler)
    root.setLevel(level.upper())
    # At DEBUG it writes every frame, with prompts and tokens in it.
    logging.getLogger("websockets").setLevel(max(logging.INFO, root.level))
    if problem is not None:
        logging.getLogger(__name__).warning("no log file: %s", problem)


def close() -> None:
    """Take our handlers away again and close the file."""
    root = logging.getLogger()
    while _ours:
        handler = _ours.pop()
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk, once more
            handler.close()
