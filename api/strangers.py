"""Connections that have shown no token yet: how many there may be, and what the log says of them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from api.clients import Allowance

logger = logging.getLogger(__name__)

MAX_STRANGERS = 256
TOLD_PER_S = 0.1
TOLD_BURST = 20.0
"""Lines of the log about refusals; those beyond are only counted."""


class Connected(Protocol):
    transport: asyncio.Transport


class Strangers:
    """Keeps room for those who may come in: of too many, who came first goes. Loop thread only."""

    def __init__(self) -> None:
        self._waiting: dict[Connected, None] = {}  # in the order of arrival
        self._telling = Allowance(TOLD_PER_S, TOLD_BURST)
        self._untold = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def came(self, connection: Connected) -> None:
        """A new connection; whose time has come instead is cut."""
        self._waiting[connection] = None
        if len(self._waiting) > MAX_STRANGERS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.transport.abort()

    def gone(self, connection: Connected) -> None:
        """It has ended, or shown a token."""
        self._waiting.pop(connection, None)

    def refused(self, status: int, message: str) -> None:
        """Tell the log, unless it has heard of many just now."""
        if not self._telling.take(time.monotonic()):
            self._untold += 1
            return
        more = f" ({self._untold} more since the last line)" if self._untold else ""
        self._untold = 0
        logger.info("refused: %d %s%s", status, message, more)
