"""How a client gets its connection: the app's address and token, the handshake, the pauses between tries."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from api.discovery import read_server_file
from api.paths import Paths
from engine.errors import ErrorCode, TokenglassError

OPEN_TIMEOUT_S = 5.0
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
START = "start it with `tokenglass` or `tokenglass serve`"

Frame = dict[str, Any]


class ConnectionLostError(TokenglassError):
    """The connection went; of a command: before its reply, so that it may have been carried out or not.

    What is asked again is then done twice if it had been, so the client leaves that to its caller.
    """

    def __init__(self, message: str) -> None:
        super().__init__("shutting_down", message)


class NotRunningError(TokenglassError):
    """There is no app to connect to. In a traceback, too, it says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__("not_found", message, hint=hint)

    def __str__(self) -> str:
        return f"{self.info.message} ({self.info.hint})"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the app is and who asks: looked up anew for each connection."""

    find: Callable[[], tuple[str, str]]
    """Answers url and token. Raises TokenglassError `not_found` where no app runs."""
    fixed: bool
    """It is always the same: a refused token stays refused."""
    name: str
    key: str | None

    async def open(self, *, again: bool = False) -> tuple[ClientConnection, Frame]:
        """A connection and the server's `hello`; `again`: with no events before the first `subscribe`.

        Raises TokenglassError: `not_found` (nobody there), `busy` (full, or quitting) or `forbidden`.
        """
        url, token = self.find()
        check_url(url)
        given = {"name": self.name, "client": self.key, "hold": "1" if again else None}
        query = urlencode({field: value for field, value in given.items() if value})
        try:
            connection = await connect(
                f"{url}?{query}" if query else url,
                additional_headers={"Authorization": f"Bearer {token}"},
                proxy=None,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=1,
                max_size=None,
                ping_timeout=None,  # ours tell the app that we live; an answer may stand behind a long replay
            )
        except InvalidStatus as error:
            status = error.response.status_code
            code: ErrorCode = "busy" if status == 503 else "forbidden"
            reason = _reason(bytes(error.response.body or b""))
            raise TokenglassError(code, f"the app refused the connection ({status} {reason[:200]})") from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise NotRunningError(f"nothing answers at {url} ({error})", START) from None
        try:
            return connection, await _hello(connection, url)
        except BaseException:
            connection.transport.abort()
            raise


async def _hello(connection: ClientConnection, url: str) -> Frame:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            hello = json.loads(await connection.recv())
    except (TimeoutError, ValueError, ConnectionClosed):
        hello = None
    if not isinstance(hello, dict):
        raise TokenglassError("not_found", f"what answers at {url} isn't Tokenglass")
    return hello


def delays() -> Iterator[float]:
    """Seconds to wait before each try: doubling, and by chance a little less, so that clients spread out."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, MAX_DELAY_S)


def announced(paths: Paths) -> tuple[str, str]:
    """Url and token of this home's app. Raises TokenglassError `not_found` where none runs."""
    about = running_app(paths)
    if about is None:
        raise NotRunningError("no Tokenglass is running for this home", START)
    return about["url"], about["token"]


def running_app(paths: Paths) -> Frame | None:
    """What the app of this home announced in `server.json`; None where its process is gone."""
    about = read_server_file(paths.server_file)
    if about is None:
        return None
    pid, started = about.get("pid"), about.get("started")
    if not isinstance(pid, int) or not isinstance(started, int | float):
        return None
    try:
        # A later start means that another program has the number now (and maybe the port).
        return about if psutil.Process(pid).create_time() <= started + 60 else None
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None
    except psutil.Error:
        return about


def check_url(url: str) -> None:
    """The token goes to numeric loopback addresses only. Raises TokenglassError `forbidden`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "ws" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        good = False
    if not good:
        raise TokenglassError("forbidden", f"{url[:200]} is not an address on this machine")


def lost(connection: ClientConnection) -> ConnectionLostError:
    """Why a connection has ended."""
    if connection.close_code == 1001:
        return ConnectionLostError("the app has quit")
    reason = f" ({connection.close_reason})" if connection.close_reason else ""
    return ConnectionLostError(f"the connection to the app was lost{reason}")


def _reason(body: bytes) -> str:
    """What a refusal says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()
