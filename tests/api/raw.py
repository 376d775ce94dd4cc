"""A client of `/v1/live` that sends whatever bytes a test likes, on a plain blocking socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.api.harness import TOKEN

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class Raw:
    """Made for threads: every call blocks, for 60 s at most. Answers no pings and reads only when told to."""

    def __init__(self, url: str, query: str = "", receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect((parts.hostname, parts.port))
        self.socket.sendall(
            f"GET /v1/live{query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        self._come = bytearray()
        while b"\r\n\r\n" not in self._come:
            self._receive()
        head, _, rest = bytes(self._come).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self._come = bytearray(rest)

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def command(self, name: str, /, **arguments: object) -> None:
        self.send(frame(json.dumps({"type": name, **arguments}).encode()))

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        self._come += data

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of what comes, until the connection ends."""
        place = 0
        while True:
            while (end := _end(self._come, place)) is None:
                del self._come[:place]
                place = 0
                try:
                    self._receive()
                except OSError:
                    return
            start, stop = end
            opcode = self._come[place] & 15
            payload = bytes(self._come[start:stop])
            place = stop
            yield opcode, payload

    def messages(self) -> Iterator[dict[str, Any]]:
        """The JSON objects that come, until the connection ends."""
        parts: list[bytes] = []
        for opcode, payload in self.frames():
            if opcode in (TEXT, CONTINUATION):
                parts.append(payload)
                try:
                    yield json.loads(b"".join(parts))
                except ValueError:
                    continue
                parts.clear()

    def close_code(self) -> int | None:
        """Read to the end; the code of the close frame, None where there is none."""
        code = None
        for opcode, payload in self.frames():
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
        return code


def _end(data: bytearray, place: int) -> tuple[int, int] | None:
    """Where the payload of the frame that begins at `place` begins and ends; None where some is missing."""
    if len(data) < place + 2:
        return None
    size, start = data[place + 1], place + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(data) < start + width:
            return None
        size = int.from_bytes(data[start : start + width], "big")
        start += width
    return (start, start + size) if len(data) >= start + size else None


def frame(payload: bytes = b"", opcode: int = TEXT, *, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame, masked with zeros."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload
