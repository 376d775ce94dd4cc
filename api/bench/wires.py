"""HTTP and WebSocket clients that cost little and count every byte they send and get.

Both are the same reads and writes of asyncio with a protocol library on top, h11 and websockets' own, so that
what a transport costs a client can be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from api.bench.delay import HOST
from engine.errors import TokenglassError

READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """How the app is reached."""

    url: str
    """Of its stream."""
    token: str
    port: int
    """Where to connect: the app's own, or that of a line with a delay."""

    @property
    def host_header(self) -> str:
        """The app's own, wherever we connect: it takes no other."""
        return urlsplit(self.url).netloc


@dataclass(slots=True)
class Traffic:
    """Bytes of TCP's payload: heads, frames and all; its own headers aren't in it."""

    sent: int = 0
    received: int = 0


class Wire:
    """A TCP connection that counts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, traffic: Traffic) -> None:
        self._reader = reader
        self._writer = writer
        self._traffic = traffic

    @classmethod
    async def open(cls, line: Line, traffic: Traffic) -> Wire:
        return cls(*await asyncio.open_connection(HOST, line.port), traffic)

    def send(self, data: bytes) -> None:
        self._traffic.sent += len(data)
        self._writer.write(data)

    async def receive(self) -> bytes:
        """What has come; nothing at the end."""
        data = await self._reader.read(READ_BYTES)
        self._traffic.received += len(data)
        return data

    async def close(self) -> None:
        """Say that nothing more comes; waits for nobody."""
        self._writer.close()
        with contextlib.suppress(OSError):
            # shielded: one who is cancelled here would cancel it for all who close it later
            await asyncio.shield(self._writer.wait_closed())


class Http:
    """An HTTP/1.1 connection, one request at a time."""

    def __init__(self, line: Line, wire: Wire) -> None:
        self._wire = wire
        self._http = h11.Connection(h11.CLIENT)
        self._headers = [("Host", line.host_header), ("Authorization", f"Bearer {line.token}")]

    @classmethod
    async def open(cls, line: Line, traffic: Traffic) -> Http:
        return cls(line, await Wire.open(line, traffic))

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[bytes]:
        """Send it and yield the answer's body as it comes.

        Raises TokenglassError where the status isn't 200 or the answer breaks off.
        """
        data = json.dumps(body, ensure_ascii=False).encode() if body is not None else b""
        headers = [*self._headers, ("Accept", "application/json, text/event-stream")]
        if data:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        request = h11.Request(method=method, target=path, headers=headers)
        head = self._http.send(request) or b""
        self._wire.send(head + (self._http.send(h11.Data(data=data)) or b""))
        self._http.send(h11.EndOfMessage())
        refused = b""
        ok = False
        try:
            while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._wire.receive())
                elif isinstance(event, h11.Response):
                    ok = event.status_code == 200
                elif isinstance(event, h11.Data) and ok:
                    yield bytes(event.data)
                elif isinstance(event, h11.Data):
                    refused += event.data
        except (OSError, h11.RemoteProtocolError) as error:
            raise TokenglassError("internal", f"an answer over HTTP broke off: {error}") from None
        if not ok:
            raise TokenglassError("internal", f"{path} refuses: {refused[:300].decode('utf-8', 'replace')}")
        self._http.start_next_cycle()

    async def close(self) -> None:
        await self._wire.close()


class Live:
    """A connection to `/v1/live`."""

    def __init__(self, line: Line, wire: Wire) -> None:
        self._wire = wire
        self._protocol = ClientProtocol(parse_uri(line.url), max_size=None)
        self._frames: deque[dict[str, Any]] = deque()
        request = self._protocol.connect()
        request.headers["Authorization"] = f"Bearer {line.token}"
        self._protocol.send_request(request)

    @classmethod
    async def open(cls, line: Line, traffic: Traffic) -> Live:
        """Connect and read the `hello`. Raises TokenglassError."""
        live = cls(line, await Wire.open(line, traffic))
        live._flush()
        try:
            hello = await live.frame()
            if hello["type"] != "hello":
                raise TokenglassError("internal", f"a stream began with {hello['type']}")
        except BaseException:
            await live.close()
            raise
        return live

    def send(self, command: str, **arguments: object) -> None:
        """Send a command, whose id is its name."""
        text = json.dumps({"id": command, "type": command, **arguments}, ensure_ascii=False)
        self._protocol.send_text(text.encode())
        self._flush()

    async def frame(self) -> dict[str, Any]:
        """The next frame. Raises TokenglassError at the end, or where the handshake is refused."""
        while not self._frames:
            data = await self._receive()
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            if self._protocol.handshake_exc is not None:
                raise TokenglassError("internal", f"a stream was refused: {self._protocol.handshake_exc}")
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    self._frames.append(json.loads(bytes(event.data)))
            self._flush()
            if not data and not self._frames:
                raise TokenglassError("internal", "a stream ended early")
        return self._frames.popleft()

    async def _receive(self) -> bytes:
        try:
            return await self._wire.receive()
        except OSError:
            return b""

    async def reply(self, command: str) -> dict[str, Any]:
        """The result of a command; what else comes before it is dropped. Raises TokenglassError."""
        while True:
            frame = await self.frame()
            if frame["type"] == "reply" and frame["id"] == command:
                if not frame["ok"]:
                    raise TokenglassError("internal", f"`{command}` was refused: {frame['error']['message']}")
                result: dict[str, Any] = frame["result"]
                return result

    async def close(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
        self._flush()
        await self._wire.close()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._wire.send(data)
