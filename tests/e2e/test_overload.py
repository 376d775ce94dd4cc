"""An engine that is faster than the app: nothing gathers, and everybody has a turn."""

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.api.harness import run
from tests.conftest import SOAK
from tests.e2e.harness import LIMIT_S, Serve, cpu_s, serve

POURING = "fake:tokens=3000000,delay_ms=0,ctx=4000000,slots=8"
QUIT_S = 6.0 if SOAK else 30.0
"""Only a soak has the machine for itself; these answers take minutes."""
N_ANSWERS = 5


def asked(app: Serve, path: str, body: object) -> socket.socket:
    """A request whose answer nobody reads."""
    data = json.dumps(body).encode()
    port = urlsplit(app.ready["url"]).port
    sock = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {app.token}\r\n"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


@pytest.mark.parametrize(
    ("path", "body"),
    (
        ("/v1/responses", {"input": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ),
)
def test_others_have_their_turn_and_quitting_is_quick(tmp_path: Path, path: str, body: object) -> None:
    async def slowest_ping(app: Serve) -> float:
        """In seconds of the app's own work."""
        slowest = 0.0
        async with app.client() as wire:
            for _ in range(60):
                began = cpu_s(app)
                await wire.command("ping")
                slowest = max(slowest, cpu_s(app) - began)
                await asyncio.sleep(0.05)
        return slowest

    with serve(tmp_path, POURING) as app:
        sockets = [asked(app, path, body) for _ in range(N_ANSWERS)]
        slowest: list[float] = []

        async def pings() -> None:
            slowest.append(await slowest_ping(app))

        run(pings(), LIMIT_S)
        workers = psutil.Process(app.process.pid).children(recursive=True)
        assert all(worker.memory_info().rss < 600 << 20 for worker in workers)
        began = time.monotonic()
        app.signal(signal.SIGTERM)
        app.wait()
        took = time.monotonic() - began
        for sock in sockets:
            sock.close()
        print(f"\n{path}: slowest ping {slowest[0] * 1000:.0f} ms of work, quit after {took:.2f} s")
        assert slowest[0] < 2  # it was seconds, and more with each one
        assert took < QUIT_S
