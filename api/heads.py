"""What a request's head must look like, byte for byte.

Both parsers behind (h11, websockets) are lenient in places, each in others. What two programs could read in
two ways is refused here, before either looks.
"""

from __future__ import annotations

import re

from websockets.datastructures import Headers

MAX_HEADERS = 100
MAX_LINE_BYTES = 8192
"""Of a header; the request line has a limit of its own."""
END = re.compile(rb"\n\r?\n")
"""Where a head ends, for the more lenient parser."""

_ODD_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SINGLE = frozenset((b"authorization", b"content-length", b"transfer-encoding"))
"""Two of them would leave open which one counts. (Host and Origin are the guard's.)"""


def problem(head: bytes) -> tuple[int, str] | None:
    """Status and reason why a head isn't taken; None where it is clean. `head` goes up to its empty line."""
    if _ODD_LINE_END.search(head):
        return 400, "every line ends with CR LF"
    request_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        return 431, f"a request may have {MAX_HEADERS} headers"
    names: list[bytes] = []
    for line in lines:
        if len(line) > MAX_LINE_BYTES:
            return 431, f"a header may have {MAX_LINE_BYTES} bytes"
        name, colon, value = line.partition(b":")
        # a line that goes on with the one before (folding) has no name either
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return 400, "a line that isn't a header"
        names.append(name.lower())
    for name in _SINGLE:
        if names.count(name) > 1:
            return 400, f"{name.decode()} stands twice"
    if b"transfer-encoding" in names and (b"content-length" in names or request_line.endswith(b"/1.0")):
        return 400, "Transfer-Encoding goes with HTTP/1.1, and without Content-Length"
    return None


def combined(headers: Headers, name: str) -> str:
    """A header's value; where it stands several times, all of them with commas between. Empty without any."""
    return ", ".join(headers.get_all(name))
