"""Headers that stand several times, as HTTP allows: taken together, whoever asks."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from api import documents
from api.core import Core
from tests.api.harness import TOKEN, app, client, run

UPGRADE = """\
Connection: Upgrade
Upgrade: websocket
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="""


async def status(core: Core, first: str, more: str, body: str = "") -> int:
    """What a request is answered with; the connection ends after that."""
    address = urlsplit(core.url).netloc
    port = int(address.split(":")[1])
    lines = [first, f"Host: {address}", f"Authorization: Bearer {TOKEN}", *more.splitlines()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([*lines, "", body]).encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.transport.abort()


def test_two_names_of_a_client(tmp_path: Path) -> None:
    names = "User-Agent: one/1\nUser-Agent: two/2"
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core) as wire:
            await wire.command("subscribe", events=["client.connected"])
            assert await status(core, "POST /v1/chat/completions HTTP/1.1", names, body) == 200
            await wire.until(lambda frame: frame.get("name") == "one/1, two/2")
            lines = f"User-Agent: zero\n{names}\n{UPGRADE}"
            assert await status(core, "GET /v1/responses HTTP/1.1", lines) == 101
            await wire.until(lambda frame: frame.get("name") == "zero, one/1, two/2")

    run(test())


def test_several_lines_of_known_tags(tmp_path: Path) -> None:
    _, tag = documents.load("schema.json")

    async def test() -> None:
        async with app(tmp_path, "fake:") as core:
            for known, code in ((tag, 304), ('"another"', 200)):
                lines = f'If-None-Match: "other"\nIf-None-Match: {known}'
                assert await status(core, "GET /v1/schema HTTP/1.1", lines) == code

    run(test())
