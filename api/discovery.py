"""How scripts and second starts find the running app: one lock per home, `server.json`, the token's file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from api.paths import write_atomically
from engine.errors import TokenglassError

RAISE_TIMEOUT_S = 3.0


class InstanceLock:
    """Held by one process for as long as it lives, as by the one app of a home; the system frees it then."""

    def __init__(self, folder: Path, name: str = "instance.lock") -> None:
        self._path = folder / name
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False where another process has it. Raises TokenglassError `storage`."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise TokenglassError(
                "storage",
                f"can't open {self._path}: {error.strerror or error}",
                hint="choose another folder with --home",
            ) from None
        try:
            _lock(file)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


class Announcement:
    """`server.json` and the token's file, from the time that connections are accepted until the end."""

    def __init__(self, server_file: Path, token_file: Path) -> None:
        self._server_file = server_file
        self._token_file = token_file
        self._written: dict[Path, bytes] = {}

    def publish(self, url: str, base_url: str, token: str, version: str) -> None:
        """Write both files, readable by their owner only. Raises TokenglassError `storage`."""
        about = {
            "url": url,
            "base_url": base_url,
            "token": token,
            "pid": os.getpid(),
            "started": time.time(),
            "version": version,
        }
        self._write(self._token_file, token.encode() + b"\n")
        self._write(self._server_file, json.dumps(about, indent=2).encode() + b"\n")

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OSError as error:
            raise TokenglassError(
                "storage",
                f"can't write {path}: {error.strerror or error}",
                hint="check the folder's permissions and the free space, or choose another one with --home",
            ) from None
        self._written[path] = data

    def withdraw(self) -> None:
        """Remove the files, if they are still the ones written here."""
        for path, data in self._written.items():
            with contextlib.suppress(OSError):
                if path.read_bytes() == data:
                    path.unlink()
        self._written.clear()


def read_server_file(path: Path) -> dict[str, Any] | None:
    """What the running app announced; None where nothing readable is there."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("url", "token")):
        return None
    return data


def already_running(server_file: Path) -> TokenglassError:
    """The error that names the app which has the lock."""
    first = read_server_file(server_file)
    where = f" (pid {first.get('pid')}, {first['url']})" if first else ""
    return TokenglassError(
        "bad_state", f"Tokenglass runs already for this home{where}", hint="use it, or give another --home"
    )


async def raise_first(server_file: Path) -> bool:
    """Ask the app that has the lock to show its window; False where it has none or doesn't answer."""
    first = read_server_file(server_file)
    if first is None:
        return False
    with contextlib.suppress(OSError, WebSocketException, TimeoutError, ValueError):
        async with (
            asyncio.timeout(RAISE_TIMEOUT_S),
            connect(
                first["url"],
                additional_headers={"Authorization": f"Bearer {first['token']}"},
                proxy=None,
                compression=None,
            ) as connection,
        ):
            await connection.send(json.dumps({"id": 1, "type": "window.raise"}))
            async for frame in connection:
                reply = json.loads(frame)
                if reply.get("type") == "reply":
                    return reply.get("ok") is True
    return False
