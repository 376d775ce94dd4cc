"""The live picture: reads the stream, draws at most ten times a second, leaves at `q` or with the client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TextIO

from api.client import LiveClient
from api.watch.gauges import figure
from api.watch.model import Model
from api.watch.picture import picture
from api.watch.terminal import Line, Terminal, opened

FRAME_S = 0.1
IDLE_S = 1.0
"""A frame comes at least so often, for the clocks in it."""


class Live:
    """One stay at the terminal. The client has subscribed to everything."""

    def __init__(self, client: LiveClient) -> None:
        self.model = Model()
        self._client = client
        self._news = asyncio.Event()
        self._left = self._held = self._resized = False
        self._began = time.monotonic()

    async def run(self, out: TextIO) -> None:
        """Show what the client gets until the user leaves or the client ends. Raises TokenglassError."""
        self.model.begin(self._client.hello, await self._client.request("snapshot"))
        with opened(out, self._key, self._resize, self._leave) as terminal:
            reading = asyncio.create_task(self._read())
            reading.add_done_callback(lambda _: self._leave())
            try:
                await self._draw(terminal)
                if reading.done():
                    reading.result()  # raises what went wrong there
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def summary(self) -> str:
        """What was seen, for the line that stays in the terminal."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        model = self.model
        generations = "1 generation" if model.count == 1 else f"{model.count:,} generations"
        best = f", {figure(model.best)} tokens/s at most" if model.best else ""
        return f"watched {minutes}:{seconds:02d}: {generations}, {model.tokens:,} tokens{best}"

    # ---- at once

    async def _read(self) -> None:
        while frames := await self._client.batch(connection=True):
            for frame in frames:
                self.model.take(frame)
            self._news.set()

    async def _draw(self, terminal: Terminal) -> None:
        shown: list[Line] = []
        while not self._left:
            self._news.clear()
            if self._resized:
                self._resized = False
                terminal.forget()
                shown = []
            if not self._held or not shown:
                shown = picture(self.model, *terminal.size, time.monotonic())
            terminal.show([*shown[:-1], [("held  ", "attention"), *shown[-1]]] if self._held else shown)
            await asyncio.sleep(FRAME_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), IDLE_S)

    def _key(self, key: str) -> None:
        if key in ("q", "Q", "\x04"):
            self._left = True
        elif key == " ":
            self._held = not self._held
        self._news.set()

    def _resize(self) -> None:
        self._resized = True
        self._news.set()

    def _leave(self) -> None:
        self._left = True
        self._news.set()
