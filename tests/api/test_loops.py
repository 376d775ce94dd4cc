"""The same core on the window's loop: what the server promises must not depend on asyncio's own loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCENARIO = """
import asyncio, socket, sys
from pathlib import Path

import PySide6.QtWidgets as widgets
from qasync import QEventLoop

from api import server
from engine.events import LogLine
from tests.api.harness import TOKEN, app, client, eventually


async def stuck_client(core):
    '''One that has been told that its subscription holds, and reads nothing after that.'''
    port = int(core.url.split(":")[2].split("/")[0])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    head = (
        "GET /v1/live HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\nSec-WebSocket-Version: 13\\r\\n"
        "Authorization: Bearer %s\\r\\n\\r\\n" % (port, TOKEN)
    )
    subscribe = b'{"id":1,"type":"subscribe","events":["log"]}'
    await asyncio.get_running_loop().sock_sendall(
        raw, head.encode() + bytes((0x81, 0x80 | len(subscribe))) + b"\\0\\0\\0\\0" + subscribe
    )
    told = b""
    while b'"reply"' not in told:
        told += await asyncio.get_running_loop().sock_recv(raw, 4096)
    return raw


async def post(core):
    port = int(core.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/responses HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\nContent-Length: 100000\\r\\n"
        "Authorization: Bearer %s\\r\\n\\r\\n" % (port, TOKEN)
    )
    writer.write(head.encode() + b"x" * 100000)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def flood(core, n):
    for _ in range(n):
        core.bus.publish(LogLine(level="info", message="x" * 500))


async def scenario(home):
    async with app(home, "fake:tokens=200,delay_ms=5") as core:
        async with client(core) as wire, client(core) as watcher:
            await watcher.command("subscribe", events=["generation.*", "client.*", "engine.*"])
            generation = await wire.generate()
            finished = await wire.finished(generation)
            assert wire.indices(generation) == list(range(200))
            assert wire.text(generation) == finished["text"]
            await watcher.finished(generation)
            assert watcher.indices(generation) == list(range(200))

            assert (await post(core)).startswith(b"HTTP/1.1 400 "), "a POST on this loop"

            second = await wire.generate()
            await wire.event("generation.delta", generation_id=second)
            core.supervisor._client.kill()
            await watcher.event("engine.started", epoch=2)
            assert (await wire.finished(second))["error"] is None
            assert wire.indices(second) == list(range(200))
            third = await wire.generate(max_tokens=3)
            assert (await wire.finished(third))["finish_reason"] == "length"

            raw = await stuck_client(core)
            while not any(f["reason"] == "slow" for f in watcher.events("client.disconnected")):
                flood(core, 200)
                await wire.command("ping")
            raw.close()

            stuck = [await stuck_client(core) for _ in range(3)]
            flood(core, 1500)
            await wire.command("ping")
            server.GOODBYE_S = 1000.0  # readers have all the time; others aren't waited for
            await core._stop()
            await eventually(lambda: wire.closed)
            assert wire.connection.close_code == 1001
            for raw in stuck:
                raw.close()
    print("all is well", flush=True)


qt = widgets.QApplication([])
qt.setQuitOnLastWindowClosed(False)
with asyncio.Runner(loop_factory=lambda: QEventLoop(qt)) as runner:
    runner.run(asyncio.wait_for(scenario(Path(sys.argv[1])), 200))
"""


@pytest.mark.parametrize("loop", ("asyncio", "qasync"))
def test_the_core_runs_alike_on_both_loops(tmp_path: Path, loop: str) -> None:
    script = tmp_path / "scenario.py"
    text = SCENARIO
    if loop == "asyncio":
        text = (
            text[: text.index("qt = widgets")]
            .replace("import PySide6.QtWidgets as widgets\n", "")
            .replace("from qasync import QEventLoop\n", "")
            + "asyncio.run(asyncio.wait_for(scenario(Path(sys.argv[1])), 200))\n"
        )
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(("qt = ", "asyncio.run(")))
    # the worker process imports this file again
    text = "\n".join(
        [*lines[:start], "if __name__ == '__main__':", *("    " + line for line in lines[start:])]
    )
    script.write_text(text)
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "QT_API": "pyside6", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "home")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.stdout == "all is well\n", done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
