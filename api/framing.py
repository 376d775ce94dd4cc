"""Messages of the server as WebSocket frames (RFC 6455)."""

from __future__ import annotations

from collections.abc import Iterator

LARGE_FRAME_BYTES = 1 << 16
"""Messages beyond this go out in fragments, so that others get their turn between these."""
PING = b"\x89\x00"


def text_frames(payload: bytes) -> Iterator[bytes]:
    """A message as WebSocket frames of a server: one, or fragments where it is large."""
    if len(payload) <= LARGE_FRAME_BYTES:
        yield _frame(0x81, payload)
        return
    last = (len(payload) - 1) // LARGE_FRAME_BYTES
    for number in range(last + 1):
        piece = payload[number * LARGE_FRAME_BYTES : (number + 1) * LARGE_FRAME_BYTES]
        opcode = 0x01 if number == 0 else 0x00
        yield _frame(opcode | (0x80 if number == last else 0), piece)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
