"""Which request of a connection may start: of one lane in their order, of different lanes side by side."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Generic, TypeVar

from api.openai.errors import Refused

MAX_NAMED = 32
"""Different `stream_id`s of a connection, over its whole life."""
MAX_IN_FLIGHT = 16
MAX_WAITING = 256
MAX_BYTES = 64 << 20
"""Of all requests that wait or are in flight, as they came."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}")

R = TypeVar("R")


class Lanes(Generic[R]):
    """The requests of one connection. A lane is None (the default one) or a `stream_id`."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._waiting: deque[tuple[str | None, R, int]] = deque()
        self._busy: dict[str | None, int] = {}
        """Lanes with a request in flight, and its size."""
        self._bytes = 0

    def name(self, stream_id: Any) -> str | None:
        """The lane of a `stream_id`. Raises Refused for one that can't be."""
        if stream_id is None:
            return None
        if not isinstance(stream_id, str) or not _NAME.fullmatch(stream_id):
            message = "stream_id: 1 to 256 letters, digits, underscores, hyphens or periods"
            raise Refused(400, "invalid_stream_id", message, "stream_id")
        if stream_id not in self._names and len(self._names) >= MAX_NAMED:
            message = f"a connection may use {MAX_NAMED} different stream_ids"
            raise Refused(400, "websocket_stream_limit_reached", message, "stream_id")
        self._names.add(stream_id)
        return stream_id

    def push(self, lane: str | None, request: R, size: int) -> None:
        """Add a request of so many bytes. Raises Refused where too much waits."""
        if len(self._waiting) >= MAX_WAITING or self._bytes + size > MAX_BYTES:
            message = f"{len(self._waiting)} requests of this connection wait already"
            raise Refused(429, "rate_limit_exceeded", message)
        self._bytes += size
        self._waiting.append((lane, request, size))

    def next(self) -> tuple[str | None, R] | None:
        """A request that may start now, the oldest first; its lane is busy until `done`."""
        if len(self._busy) >= MAX_IN_FLIGHT:
            return None
        for place, (lane, request, size) in enumerate(self._waiting):
            if lane not in self._busy:
                del self._waiting[place]
                self._busy[lane] = size
                return lane, request
        return None

    def done(self, lane: str | None) -> None:
        """The lane's request has been answered to its end."""
        self._bytes -= self._busy.pop(lane)

    def clear(self) -> None:
        """Forget those that wait."""
        self._bytes -= sum(size for _, _, size in self._waiting)
        self._waiting.clear()
