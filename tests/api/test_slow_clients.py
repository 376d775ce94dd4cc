"""Clients that read too slowly, not at all, or send too much: nobody else notices, and memory is bounded."""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from api import backpressure, protocol, server
from api.core import Core
from api.session import Session
from tests.api.harness import (
    ENDLESS,
    SLOW,
    TOKEN,
    app,
    client,
    eventually,
    flood,
    run,
)


class Mute:
    """A raw connection that sends what it likes and never reads."""

    def __init__(self, core: Core, query: str = "", receive_buffer: int = 4096) -> None:
        port = int(core.url.split(":")[2].split("/")[0])
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            f"GET /v1/live{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        self.socket.settimeout(0.0)
        self._rest = b""

    def send(self, frame: bytes, first: int = 0x81) -> None:
        """Send a frame as far as the kernel takes it; while a part is left over, further ones are dropped."""
        if not self._rest:
            size = len(frame)
            head = (
                bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE)) + struct.pack("!H", size)
            )
            self._rest = head + b"\x00\x00\x00\x00" + frame
        with contextlib.suppress(OSError):
            self._rest = self._rest[self.socket.send(self._rest) :]

    async def subscribe(self, events: str = "*") -> None:
        """Subscribe, and read no further than that it is done."""
        self.send(b'{"id":1,"type":"subscribe","events":["%s"]}' % events.encode())
        loop = asyncio.get_running_loop()
        come = b""
        while b'"reply"' not in come:
            come += await loop.sock_recv(self.socket, 512)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def mutes() -> Iterator[list[Mute]]:
    made: list[Mute] = []
    yield made
    for mute in made:
        mute.close()


def test_a_client_that_never_reads_is_cut(
    tmp_path: Path, mutes: list[Mute], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its backlog, while the others are answered: whoever had to wait for it would wait for ever."""
    monkeypatch.setattr(backpressure, "STALL_S", 1000.0)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, "?client=MUTE"))
            came = await wire.event("client.connected")
            await mutes[0].subscribe("log")
            while not wire.events("client.disconnected"):
                flood(core, 20)
                await wire.command("ping")
                await asyncio.sleep(0.01)
            went = wire.events("client.disconnected")[0]
            assert (went["client_id"], went["reason"]) == (came["client_id"], "slow")
            assert wire.events("client.lagging")[0]["client_id"] == came["client_id"]
            async with client(core, "?client=MUTE") as again:
                await again.command("ping")
                assert again.frames[0]["last_cut"] == "slow"
                assert again.frames[0]["client_id"] == came["client_id"]
            async with client(core, "?client=MUTE") as once_more:
                await once_more.command("ping")
                assert once_more.frames[0]["last_cut"] is None

    run(test())


def test_a_client_that_takes_nothing_for_five_seconds_is_cut(
    tmp_path: Path, mutes: list[Mute], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backpressure, "STALL_S", 1.0)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core))
            await mutes[0].subscribe("log")
            flood(core, 1400)  # more than the kernel's buffers hold, less than the backlog allows
            assert (await wire.event("client.disconnected"))["reason"] == "slow"

    run(test())


def test_a_flood_of_pings_without_reading_is_cut(
    tmp_path: Path, mutes: list[Mute], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linux drops what no longer fits into a full receive buffer, and with it word of the room for more
    # pings. Then only the pongs to those under way are left: too few for the app's own buffer.
    monkeypatch.setattr(server, "SEND_BUFFER_BYTES", 4096)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, receive_buffer=1 << 18))
            await wire.event("client.connected")
            mutes[0].socket.settimeout(100.0)
            ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125

            def pour() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        mutes[0].socket.sendall(ping * 50)

            pouring = asyncio.get_running_loop().run_in_executor(None, pour)
            assert (await wire.event("client.disconnected"))["reason"] == "slow"
            await pouring

    run(test())


def test_a_flood_of_commands_without_reading_is_cut(tmp_path: Path, mutes: list[Mute]) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core))
            await wire.event("client.connected")
            while not wire.events("client.disconnected"):
                for _ in range(200):
                    mutes[0].send(b'{"id":1,"type":"snapshot"}')
                    mutes[0].send(b'{"id":1,"type":"ping"}')
                await wire.command("ping")
                await asyncio.sleep(0.01)  # no more than the limit of commands a second
            assert wire.events("client.disconnected")[0]["reason"] in ("slow", "lost")

    run(test())


def test_a_burst_of_small_commands_stops_nobody_else(tmp_path: Path, mutes: list[Mute]) -> None:
    """Turns of the loop are measured in its thread's own time: a busy machine takes it away for long."""

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, receive_buffer=1 << 20))
            await wire.event("client.connected")
            command = b'{"id":1,"type":"ping"}'
            burst = (bytes((0x81, 0x80 | len(command))) + b"\0\0\0\0" + command) * 8000
            mutes[0].socket.settimeout(100)
            loop = asyncio.get_running_loop()
            sending = loop.run_in_executor(None, mutes[0].socket.sendall, burst)
            turns = [time.thread_time()]

            async def answered() -> None:
                got = 0
                while got < 8000:
                    got += (await loop.run_in_executor(None, mutes[0].socket.recv, 1 << 20)).count(b"reply")

            reading = loop.create_task(answered())
            while not reading.done():
                await asyncio.sleep(0)
                turns.append(time.thread_time())
            await sending
            longest = max(after - before for before, after in pairwise(turns))
            assert longest < (turns[-1] - turns[0]) / 6, (longest, turns[-1] - turns[0])

    run(test())


def test_choices_count_as_unanswered_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "STALL_S", 1000.0)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            flood(core, 20_000)
            await wire.command("ping")
            await wire.connection.send('{"id":"big","type":"subscribe","since":0}')
            wire.connection.transport.pause_reading()
            ids = [await wire.send("subscribe" if n % 2 else "unsubscribe") for n in range(100)]
            assert core._server is not None
            session = next(iter(core._server._sessions))
            assert isinstance(session, Session)
            await eventually(lambda: session._unanswered == protocol.MAX_UNANSWERED)
            assert len(session._outbox._choices) <= protocol.MAX_UNANSWERED
            wire.connection.transport.resume_reading()
            replies = [await wire.reply(command_id) for command_id in ids]
            refused = [reply["error"]["code"] for reply in replies if not reply["ok"]]
            assert len(refused) >= 100 - protocol.MAX_UNANSWERED
            assert set(refused) == {"busy"}
            before = core.bus.seq
            assert before <= (await wire.command("subscribe"))["seq"] <= core.bus.seq
            assert session._unanswered == 0

    run(test())


@pytest.mark.usefixtures("unhurried")
def test_stuck_clients_cannot_delay_quitting(tmp_path: Path, mutes: list[Mute]) -> None:
    """Whoever reads is given all the time for a goodbye; those who don't aren't waited for at all."""

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.generate()
            for _ in range(3):
                mutes.append(Mute(core))
                await mutes[-1].subscribe()
            port = int(core.url.split(":")[2].split("/")[0])
            idle = socket.create_connection(("127.0.0.1", port))
            flood(core, 1500)
            await wire.command("ping")
            await core._stop()
            await eventually(lambda: wire.closed)
            assert wire.connection.close_code == 1001
            idle.close()

    run(test())


def test_a_large_reply_is_no_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "STALL_S", 1000.0)

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core:
            created = await core.history.create("big", None)
            await core.history.add_turn(created["id"], "y" * 5_000_000, "gen_x", "fake")
            async with client(core) as wire, client(core) as other:
                wire.connection.transport.pause_reading()
                await wire.send("conversations.get", conversation_id=created["id"])
                await asyncio.sleep(1.5)
                await other.command("ping")
                wire.connection.transport.resume_reading()
                reply = await wire.reply(1)
                assert len(reply["result"]["messages"][0]["content"]) == 5_000_000
                await wire.command("ping")

    run(test())


def test_noise_on_the_line_makes_no_tracebacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mutes: list[Mute]
) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire:
            port = int(core.url.split(":")[2].split("/")[0])
            for garbage in (
                b"\x16\x03\x01\x02\x00\x01",
                b"GET",
                b"\x00" * 100,
                b"POST / HTTP/1.1\r\n\r\nx",
                b"",
            ):
                raw = socket.create_connection(("127.0.0.1", port))
                raw.sendall(garbage)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.close()
            for _ in range(3):
                mute = Mute(core)
                mute.send(b'{"id":1,"type":"subscribe"}')
                mute.send(b'{"id":2,"type":"generate","prompt":"x"}')
                await asyncio.sleep(0.1)
                mute.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                mute.close()
            await asyncio.sleep(0.2)
            await wire.command("ping")

    with caplog.at_level(logging.DEBUG):
        run(test())
    loud = [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info]
    assert [record.getMessage() for record in loud] == []
    assert TOKEN not in caplog.text
