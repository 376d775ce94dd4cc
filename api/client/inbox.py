"""What the connection hands to whoever reads: events in their order, then why no more come."""

from __future__ import annotations

import asyncio
from collections import deque

from api.client.opening import Frame
from engine.errors import TokenglassError


class Inbox:
    """Frames for one reader, and at its end why no more come. Waiting is safe to cancel."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._end: TokenglassError | None = None
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._news.set()

    def end(self, why: TokenglassError) -> None:
        self._end = self._end or why
        self._news.set()

    async def get(self) -> Frame:
        """The next frame. Raises the error that it was ended with, once all are read."""
        while not self._frames:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()
