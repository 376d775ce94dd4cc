"""Further subscribers for the bench: a process that follows the stream on many connections, unread.

Scripts that parse what they get would take the very processor time that is to be measured, so these only
read: each connection subscribes to everything, counts frames and answers pings.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import socket
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

HANDSHAKE_TIMEOUT_S = 10.0
_PING, _PONG = 0x9, 0xA


class Follower:
    """One connection to `/v1/live`."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), HANDSHAKE_TIMEOUT_S)
        self.n_frames = 0
        self._buffer = b""
        self._skip = 0
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {parts.path}?name=follower HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise OSError(f"refused: {head[:60].decode('latin-1')}")
        self._send(0x1, json.dumps({"id": 1, "type": "subscribe"}).encode())
        self._take(rest)
        while self.n_frames < 2:  # hello, and the reply
            self._take(self._receive())

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 16)
        if not data:
            raise OSError("the connection was closed")
        return data

    def read(self) -> None:
        """Take what has come. Raises OSError at the end."""
        self._take(self._receive())

    def _send(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.socket.sendall(bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked)

    def _take(self, data: bytes) -> None:
        """Walk over whole frames; payloads are skipped unread, but for pings."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data = self._buffer + data[self._skip :]
        self._skip = place = 0
        while len(data) - place >= 2:
            opcode, size, start = data[place] & 15, data[place + 1] & 127, place + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if len(data) < start + width:
                    break
                size = int.from_bytes(data[start : start + width], "big")
                start += width
            if opcode == _PING:
                if len(data) < start + size:
                    break
                self._send(_PONG, data[start : start + size])
            else:
                self.n_frames += 1
            place = start + size
        self._skip = max(0, place - len(data))
        self._buffer = data[place:]


def serve(control: Connection) -> None:
    """Keep as many connections as asked: `(url, token, n)` answers True when they have subscribed.

    None closes them and answers how many frames came on each. Ends when the pipe closes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    followers: list[Follower] = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            _follow(control, followers)
            request = control.recv()
            if request is None:
                control.send([follower.n_frames for follower in followers])
                for follower in followers:
                    follower.socket.close()
                followers = []
                continue
            url, token, n = request
            try:
                followers = [Follower(url, token) for _ in range(n)]
            except OSError as error:
                control.send(str(error))
            else:
                control.send(True)


def _follow(control: Connection, followers: list[Follower]) -> None:
    """Read what comes until there is a request."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        for follower in followers:
            selector.register(follower.socket, selectors.EVENT_READ, follower)
        while True:
            for key, _ in selector.select():
                if not isinstance(key.data, Follower):
                    return
                try:
                    key.data.read()
                except OSError:  # the app has closed it
                    selector.unregister(key.data.socket)
