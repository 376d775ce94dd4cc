"""A TCP proxy that cuts connections where a test says so: in mid-frame, before or after what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

CHUNK = 1 << 12


class Proxy:
    """Made by `proxy`. Bytes go through unread (but for the Host in the head).

    With `cuts` left, each connection is cut (RST) once between `least` and `most` bytes have come from the
    app; what is on its way then is lost.
    """

    def __init__(self, least: int, most: int, seed: int) -> None:
        self.url = ""
        self.target = ""
        """The app's url; may change, as the app's port does."""
        self.cuts = 0
        self.made = 0
        """Cuts so far."""
        self.connections = 0
        self._least, self._most = least, most
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.target)
        self.connections += 1
        try:
            app_reader, app_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, app_writer}
        self._open |= ends
        pumps: list[asyncio.Task[None]] = []
        try:
            here = writer.get_extra_info("sockname")
            head = await reader.readuntil(b"\r\n\r\n")
            app_writer.write(
                head.replace(b"Host: %s:%d" % (here[0].encode(), here[1]), b"Host: " + parts.netloc.encode())
            )
            limit = self._random.randint(self._least, self._most)
            pumps.append(asyncio.create_task(self._pump(reader, app_writer, None)))
            pumps.append(asyncio.create_task(self._pump(app_reader, writer, limit)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left before it had asked anything
        finally:
            for task in pumps:
                task.cancel()
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._open -= ends

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
    ) -> None:
        """Hand bytes on until the end, or until `limit` where a cut is due."""
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if limit is not None and self.cuts and passed + len(data) >= limit:
                    self.cuts -= 1
                    self.made += 1
                    writer.write(data[: limit - passed])
                    if self._random.random() < 0.5:  # otherwise even what was handed on may be lost
                        await writer.drain()
                        await asyncio.sleep(0.002)
                    return
                passed += len(data)
                writer.write(data)
                await writer.drain()

    def cut_all(self) -> None:
        """End every connection now."""
        for writer in tuple(self._open):
            self.made += 1
            writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy(target: str, least: int = 200, most: int = 200_000, seed: int = 0) -> AsyncIterator[Proxy]:
    """A proxy on any free port of the loopback, in front of the app at `target`."""
    made = Proxy(least, most, seed)
    made.target = target
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/live"
    try:
        yield made
    finally:
        server.close()
        made.cut_all()
        await server.wait_closed()
