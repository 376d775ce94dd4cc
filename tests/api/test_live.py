import asyncio
import contextlib
import json
import logging
import socket
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from api import protocol, session
from api.core import Core
from engine.events import LogLine, StepMetrics
from tests.api.harness import HI, TOKEN, CommandError, Frame, Wire, app, client, eventually, run

SLOW = "fake:tokens=400,delay_ms=5"
BIG = "x" * 500


def step(n: int) -> StepMetrics:
    return StepMetrics(
        batch_size=n, prefill_tokens=0, decode_tokens=1, pre_ms=0, decode_ms=1, sample_ms=0, emit_ms=0,
        kv_used=1, kv_total=9, waiting=0,
    )  # fmt: skip


def flood(core: Core, n: int) -> None:
    for _ in range(n):
        core.bus.publish(LogLine(level="info", message=BIG))


def rises(frames: list[Frame]) -> bool:
    seqs = [frame["seq"] for frame in frames]
    return all(a < b for a, b in pairwise(seqs))


# ---- hello, replies, a generation from beginning to end


def test_hello_comes_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await eventually(lambda: core.state.epoch == 1)
            async with client(core) as second:
                hello = await second.until(lambda _: True)
                assert hello == {
                    "type": "hello",
                    "protocol": 1,
                    "app": hello["app"],
                    "client_id": hello["client_id"],
                    "run_id": core.run_id,
                    "epoch": 1,
                    "seq": hello["seq"],
                    "last_cut": None,
                }
                assert hello["app"]["name"] == "tokenglass"
                assert hello["client_id"] != wire.frames[0]["client_id"]
                assert 0 < hello["seq"] <= core.bus.seq

    run(test())


def test_a_generation_from_its_reply_to_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=20,delay_ms=2") as core, client(core, "?name=tester") as wire:
            generation = await wire.generate("What is a token?")
            finished = await wire.finished(generation)
            await asyncio.sleep(0.05)
            names = [frame["type"] for frame in wire.frames]
            assert names[:4] == ["hello", "reply", "generation.queued", "generation.started"]
            assert names[-1] == "generation.finished"
            assert names.count("generation.finished") == 1
            queued = wire.frames[2]
            assert queued["client_name"] == "tester"
            assert queued["client_id"] == wire.frames[0]["client_id"]
            assert (queued["origin"], queued["model"]) == ("live", "fake")
            assert queued["input"] == "What is a token?"
            assert wire.indices(generation) == list(range(20))
            assert wire.text(generation) == finished["text"]
            assert finished["usage"]["completion_tokens"] == 20
            assert rises(wire.events())
            assert all(frame["t"] <= time.monotonic() for frame in wire.events())

    run(test())


def test_the_reply_never_comes_after_the_first_event(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core, client(core) as wire:
            ids = [await wire.send("generate", messages=HI) for _ in range(50)]
            replies = [await wire.reply(command_id) for command_id in ids]
            for reply in replies:
                await wire.finished(reply["result"]["generation_id"])
            for reply in replies:
                generation = reply["result"]["generation_id"]
                first = next(f for f in wire.frames if f.get("generation_id") == generation)
                assert wire.frames.index(reply) < wire.frames.index(first)
                assert first["type"] == "generation.queued"

    run(test())


def test_every_command_gets_exactly_one_reply(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            frames: list[tuple[object, str, str | None]] = [
                ("a", "ping", None),
                (1, "snapshot", None),
                ([1, {"x": 2}], "ping", None),
                (True, "models.list", None),
                (None, "settings.get", None),
                (2.5, "nothing.like.this", "unknown_command"),
                ("b", "pause", "not_implemented"),
                ("c", "cancel", "invalid_argument"),
                ("d", "generate", "invalid_argument"),
                ("e", "conversations.get", "invalid_argument"),
                ("f", "subscribe", None),
                ("g", "unsubscribe", None),
                ("h", "window.raise", "not_found"),
            ]
            for command_id, name, _ in frames:
                await wire.connection.send(json.dumps({"id": command_id, "type": name}))
            await eventually(lambda: len([f for f in wire.frames if f["type"] == "reply"]) == len(frames))
            await asyncio.sleep(0.1)
            replies = [frame for frame in wire.frames if frame["type"] == "reply"]
            assert len(replies) == len(frames)
            for command_id, _, code in frames:
                (reply,) = [r for r in replies if r["id"] == command_id and type(r["id"]) is type(command_id)]
                assert reply["ok"] is (code is None)
                assert reply.get("error", {}).get("code") == code

    run(test())


def test_a_wrong_frame_never_closes(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            wrong = ["", "x", "[]", "5", "{", '{"id":1,"id":2}', '{"a":NaN}', '"\\ud800"', "[" * 100_000,
                     '{"a":' * 60_000, '{"id":"a"}', '{"id":"b","type":5}', "{}"]  # fmt: skip
            for frame in wrong:
                await wire.connection.send(frame)
            await wire.command("ping")
            replies = [f for f in wire.frames if f["type"] == "reply"]
            await eventually(lambda: len([f for f in wire.frames if f["type"] == "reply"]) == len(wrong) + 1)
            replies = [f for f in wire.frames if f["type"] == "reply" and not f["ok"]]
            assert len([r for r in replies if r["id"] is None]) >= 10
            assert {r["error"]["code"] for r in replies} == {"invalid_json", "invalid_argument"}

    run(test())


@pytest.mark.parametrize(
    ("payload", "code"),
    (
        (b"\x82\x80\x00\x00\x00\x00", 1003),
        (b"\x81\x82\x00\x00\x00\x00\xff\xfe", 1007),
        (b"\x81\xff" + (1 << 20).to_bytes(8, "big") + b"\x00\x00\x00\x00", None),
        (b"\x81\xff" + ((1 << 20) + 1).to_bytes(8, "big") + b"\x00\x00\x00\x00", 1009),
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"\x00\x00\x00\x00", 1009),
        (b"\x81\x00", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
    ),
    ids=("binary", "not utf-8", "1 MiB", "over 1 MiB", "huge", "unmasked", "reserved opcode"),
)
def test_close_codes(tmp_path: Path, payload: bytes, code: int | None) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.until(lambda frame: frame["type"] == "hello")
            wire.connection.transport.write(payload)
            if code is None:
                wire.connection.transport.write(b" " * ((1 << 20) - 2) + b"{}")
                assert (await wire.reply(None))["error"]["code"] == "invalid_argument"
            else:
                await eventually(lambda: wire.closed)
                assert wire.connection.close_code == code
            async with client(core) as other:
                await other.command("ping")

    run(test())


def test_a_large_command_is_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:echo=1,ctx=8") as core, client(core) as wire:
            generation = await wire.generate("word " * 100_000)
            finished = await wire.finished(generation)
            assert finished["error"]["code"] == "context_overflow"
            with pytest.raises(CommandError, match="invalid_argument"):
                await wire.command("generate", messages=[{"role": "user", "text": "x" * 100_000}])

    run(test())


# ---- commands beside each other


def test_cancel_and_ping_pass_a_crowd_of_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire:
            generation = await wire.generate()
            blocked = asyncio.Event()
            find = core.history.list

            async def slow_list(limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
                await blocked.wait()
                return await find(limit, offset)

            monkeypatch.setattr(core.history, "list", slow_list)
            crowd = [await wire.send("conversations.list") for _ in range(protocol.MAX_UNANSWERED)]
            refused = await wire.reply(await wire.send("conversations.list"))
            assert refused["error"]["code"] == "busy"
            asked_t = time.monotonic()
            await wire.command("ping")
            await wire.command("cancel", generation_id=generation)
            assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            assert time.monotonic() - asked_t < 5
            await wire.command("subscribe", events=["log"])
            blocked.set()
            for command_id in crowd:
                assert (await wire.reply(command_id))["ok"]
            assert await wire.command("conversations.list") == {"conversations": []}

    run(test())


def test_cancel(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire, client(core) as other:
            generation = await wire.generate()
            await wire.event("generation.delta")
            assert await other.command("cancel", generation_id=generation) == {"state": "cancelling"}
            finished = await wire.finished(generation)
            assert finished["finish_reason"] == "cancelled"
            assert finished["text"] == wire.text(generation)
            assert await wire.command("cancel", generation_id=generation) == {"state": "finished"}
            with pytest.raises(CommandError, match="not_found"):
                await wire.command("cancel", generation_id="gen_nothing")

    run(test())


def test_the_loaded_model_is_the_only_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.finished(await wire.generate(model="fake", max_tokens=1))
            with pytest.raises(CommandError, match="not_found"):
                await wire.generate(model="another")
            listed = await wire.command("models.list")
            assert listed["loaded"] == "fake"

    run(test())


def test_sampling_left_out_is_the_settings(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["settings.changed"])
            await wire.command("settings.set", settings={"sampling": {"seed": 77}})
            assert (await wire.event("settings.changed"))["settings"]["sampling"]["seed"] == 77
            assert (await wire.command("settings.get"))["settings"]["sampling"]["seed"] == 77
            first, second = await wire.generate(), await wire.generate(sampling={"temperature": 0.0})
            third = await wire.generate(sampling={"seed": 5})
            seeds = [
                (await wire.event("generation.started", generation_id=g))["seed"]
                for g in (first, second, third)
            ]
            assert seeds == [77, 77, 5]
            with pytest.raises(CommandError, match="invalid_argument"):
                await wire.command("settings.set", settings={"nonsense": 1})

    run(test())


# ---- subscriptions


def test_other_clients_generations_come_when_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, "fake:tokens=5,delay_ms=1") as core,
            client(core) as wire,
            client(core) as quiet,
            client(core) as curious,
        ):
            await curious.command("subscribe", events=["generation.*"])
            generation = await wire.generate()
            await curious.finished(generation)
            await quiet.command("ping")
            assert curious.text(generation) == (await wire.finished(generation))["text"]
            assert curious.indices(generation) == wire.indices(generation)
            assert quiet.events() == []
            await curious.command("unsubscribe")
            second = await wire.generate()
            await wire.finished(second)
            await curious.command("ping")
            assert curious.events(generation_id=second) == []

    run(test())


def test_a_subscription_can_name_generations(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, "fake:tokens=3,load_ms=300") as core,
            client(core) as wire,
            client(core) as other,
        ):
            first, second = await wire.generate(), await wire.generate()
            await other.command("subscribe", events=["generation.*"], generations=[second])
            await wire.finished(first)
            await other.finished(second)
            assert other.events(generation_id=first) == []

    run(test())


def test_replay_comes_after_the_reply_and_goes_over_into_the_present(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=30,delay_ms=3") as core, client(core) as wire:
            generation = await wire.generate()
            await wire.event("generation.delta")
            async with client(core) as late:
                result = await late.command("subscribe", events=["generation.*"], since=0)
                finished = await late.finished(generation)
                assert late.events()[0]["type"] == "generation.queued"
                assert late.events()[0]["seq"] <= result["seq"] < finished["seq"]
                assert late.indices(generation) == list(range(30))
                assert late.text(generation) == finished["text"]
                assert rises(late.events())
                names = [frame["type"] for frame in late.frames]
                assert names[:2] == ["hello", "reply"]

    run(test())


def test_reconnecting_with_since_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=300,delay_ms=3") as core, client(core) as wire:
            await wire.command("subscribe")
            hello = wire.frames[0]
            generation = await wire.generate()
            indices: list[int] = []
            since = hello["seq"]
            done = False
            rounds = 0
            while not done:
                async with client(core, "?client=K") as broken:
                    rounds += 1
                    await broken.command(
                        "subscribe", events=["generation.*"], since=since, run_id=core.run_id
                    )
                    start = len(broken.frames)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await broken.until(lambda f: f["type"] == "generation.finished", start)
                            done = True
                    broken.connection.transport.abort()
                    assert all(frame["type"] != "reset" for frame in broken.frames)
                    indices += broken.indices(generation)
                    if broken.events():
                        since = broken.events()[-1]["seq"]
            assert rounds > 3
            assert indices == list(range(300))

    run(test())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    (
        ({"since": 10**9}, "ahead"),
        ({"since": 0, "run_id": "another"}, "run"),
        ({"run_id": "another"}, "run"),
        ({"since": 0}, "too_old"),
    ),
)
def test_a_gap_that_cannot_be_filled(
    tmp_path: Path, arguments: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as starter, client(core) as wire:
            generation = await starter.generate()
            await starter.event("generation.delta")
            if reason == "too_old":
                flood(core, 70_000)
            result = await wire.command("subscribe", events=["generation.*"], **arguments)
            snapshot = await wire.until(lambda frame: frame["type"] == "snapshot")
            names = [frame["type"] for frame in wire.frames]
            assert names[:4] == ["hello", "reply", "reset", "snapshot"]
            reset = wire.frames[2]
            assert reset["reason"] == reason
            assert reset["seq"] == snapshot["seq"] >= result["seq"]
            (active,) = snapshot["generations"]
            assert active["generation_id"] == generation
            finished = await wire.finished(generation)
            assert all(frame["seq"] > snapshot["seq"] for frame in wire.events())
            assert active["text"] + wire.text(generation) == finished["text"]

    run(test())


def test_the_present_run_resumes_by_its_id(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", since=core.bus.seq, run_id=core.run_id)
            await wire.command("ping")
            assert [f for f in wire.frames if f["type"] == "reset"] == []

    run(test())


def test_a_new_choice_begins_where_the_old_one_ended(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await eventually(lambda: core.supervisor.phase == "ready")
            await wire.command("subscribe", events=["log"])
            for number in range(200):
                core.bus.publish(LogLine(level="info", message=f"old {number}"))
            subscribing = await wire.send("subscribe", events=["metrics.step"])
            reply = await wire.reply(subscribing)
            core.bus.publish(LogLine(level="info", message="unwanted"))
            core.bus.publish(step(1))
            await wire.event("metrics.step")
            place = wire.frames.index(reply)
            old = [f["message"] for f in wire.frames[:place] if f["type"] == "log"]
            assert old == [f"old {number}" for number in range(200)]
            assert [f["type"] for f in wire.frames[place + 1 :]] == ["metrics.step"]

    run(test())


def test_nothing_seen_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["log"])
            flood(core, 5)
            await eventually(lambda: len(wire.events("log")) == 5)
            await wire.command("subscribe", events=["log"], since=0)
            core.bus.publish(LogLine(level="info", message="new"))
            await wire.event("log", message="new")
            assert len(wire.events("log")) == 6
            assert rises(wire.events("log"))

    run(test())


def test_a_busy_client_gets_merged_frames(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=300") as core, client(core) as wire:
            await wire.command("subscribe")
            generation = await wire.generate()
            await wire.finished(generation)
            assert wire.indices(generation) == list(range(300))
            deltas = wire.events("generation.delta", generation)
            assert any("first_seq" in frame for frame in deltas)
            for frame in deltas:
                assert frame.get("first_seq", frame["seq"]) <= frame["seq"]
            assert rises(wire.events())

    run(test())


def test_snapshot_is_the_folded_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core, "?name=me") as wire:
            generation = await wire.generate()
            await wire.event("generation.delta")
            snapshot = await wire.command("snapshot")
            assert snapshot["engine"]["state"] == "ready"
            assert snapshot["engine"]["pid"] == core.supervisor.worker_pid
            assert snapshot["model"]["id"] == "fake"
            (active,) = snapshot["generations"]
            assert (active["generation_id"], active["state"]) == (generation, "running")
            assert active["completion_tokens"] > 0
            assert {"client_id": wire.frames[0]["client_id"], "name": "me", "origin": "live"} in snapshot[
                "clients"
            ]

    run(test())


# ---- identity


def test_a_key_keeps_the_client(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core:
            async with client(core, "?client=KEY&name=first") as wire:
                generation = await wire.generate()
                await wire.event("generation.delta")
                last = wire.events()[-1]["seq"]
                before = wire.indices(generation)
            async with client(core, "?client=KEY") as again, client(core, "?client=OTHER") as other:
                await again.command("subscribe", events=["nothing"], since=last)
                await again.finished(generation)
                assert again.frames[0]["client_id"] == wire.frames[0]["client_id"]
                assert other.frames[0]["client_id"] != wire.frames[0]["client_id"]
                seen = before + again.indices(generation)
                assert seen[: len(before)] == list(range(len(before)))
                assert seen[-1] == 399
                assert seen == sorted(set(seen))

    run(test())


@pytest.mark.parametrize(("choice", "reason"), (("cancel", "cancelled"), ("continue", "stop")))
def test_on_disconnect(tmp_path: Path, choice: str, reason: str) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=60,delay_ms=5") as core, client(core) as watcher:
            await watcher.command("subscribe", events=["generation.finished", "client.*"])
            async with client(core) as wire:
                generation = await wire.generate(on_disconnect=choice)
                await wire.event("generation.delta")
                wire.connection.transport.abort()
            assert (await watcher.event("client.disconnected"))["reason"] == "lost"
            assert (await watcher.finished(generation))["finish_reason"] == reason

    run(test())


def test_who_comes_and_goes_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as watcher:
            await watcher.command("subscribe", events=["client.*"])
            async with client(core, "?name=visitor") as wire:
                await wire.command("ping")
            came = await watcher.event("client.connected")
            went = await watcher.event("client.disconnected")
            assert (came["name"], came["origin"]) == ("visitor", "live")
            assert (went["client_id"], went["reason"]) == (came["client_id"], "closed")

    run(test())


# ---- clients that don't read


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

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def mutes() -> Iterator[list[Mute]]:
    made: list[Mute] = []
    yield made
    for mute in made:
        mute.close()


def test_a_client_that_never_reads_is_cut(tmp_path: Path, mutes: list[Mute]) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, "?client=MUTE"))
            came = await wire.event("client.connected")
            mutes[0].send(b'{"id":1,"type":"subscribe","events":["log"]}')
            await asyncio.sleep(0.1)
            began = time.monotonic()
            while not wire.events("client.disconnected"):
                flood(core, 20)
                pinged = time.monotonic()
                await wire.command("ping")
                assert time.monotonic() - pinged < 1.0
                await asyncio.sleep(0.01)
                assert time.monotonic() - began < 20
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
    monkeypatch.setattr(session, "STALL_S", 1.0)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core))
            await wire.event("client.connected")
            mutes[0].send(b'{"id":1,"type":"subscribe","events":["log"]}')
            await asyncio.sleep(0.1)
            flood(core, 1400)  # more than the kernel's buffers hold, less than the backlog allows
            assert (await wire.event("client.disconnected"))["reason"] == "slow"

    run(test())


def test_a_flood_of_pings_without_reading_is_cut(tmp_path: Path, mutes: list[Mute]) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, receive_buffer=1 << 18))
            await wire.event("client.connected")
            mutes[0].socket.settimeout(10.0)
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
            began = time.monotonic()
            while not wire.events("client.disconnected"):
                for _ in range(200):
                    mutes[0].send(b'{"id":1,"type":"snapshot"}')
                    mutes[0].send(b'{"id":1,"type":"ping"}')
                await wire.command("ping")
                assert time.monotonic() - began < 30
            assert wire.events("client.disconnected")[0]["reason"] in ("slow", "lost")

    run(test())


def test_a_burst_of_small_commands_stops_nobody_else(tmp_path: Path, mutes: list[Mute]) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            mutes.append(Mute(core, receive_buffer=1 << 20))
            await wire.event("client.connected")
            command = b'{"id":1,"type":"ping"}'
            burst = (bytes((0x81, 0x80 | len(command))) + b"\0\0\0\0" + command) * 8000
            mutes[0].socket.settimeout(20)
            loop = asyncio.get_running_loop()
            sending = loop.run_in_executor(None, mutes[0].socket.sendall, burst)
            turns = [time.monotonic()]

            async def answered() -> None:
                got = 0
                while got < 8000:
                    got += (await loop.run_in_executor(None, mutes[0].socket.recv, 1 << 20)).count(b"reply")

            reading = loop.create_task(answered())
            while not reading.done():
                await asyncio.sleep(0)
                turns.append(time.monotonic())
            await sending
            longest = max(after - before for before, after in pairwise(turns))
            assert longest < (turns[-1] - turns[0]) / 6, (longest, turns[-1] - turns[0])

    run(test())


def test_choices_count_as_unanswered_commands(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            flood(core, 20_000)
            await wire.command("ping")
            await wire.connection.send('{"id":"big","type":"subscribe","since":0}')
            wire.connection.transport.pause_reading()
            ids = [await wire.send("subscribe" if n % 2 else "unsubscribe") for n in range(100)]
            session = next(iter(core._server._sessions))
            await eventually(lambda: session._unanswered == protocol.MAX_UNANSWERED)
            assert len(session._selections) <= protocol.MAX_UNANSWERED
            wire.connection.transport.resume_reading()
            replies = [await wire.reply(command_id) for command_id in ids]
            refused = [reply["error"]["code"] for reply in replies if not reply["ok"]]
            assert len(refused) >= 100 - protocol.MAX_UNANSWERED
            assert set(refused) == {"busy"}
            assert (await wire.command("subscribe"))["seq"] == core.bus.seq
            assert session._unanswered == 0

    run(test())


def test_stuck_clients_cannot_delay_quitting(tmp_path: Path, mutes: list[Mute]) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire:
            await wire.generate()
            for _ in range(3):
                mutes.append(Mute(core))
                mutes[-1].send(b'{"id":1,"type":"subscribe"}')
            port = int(core.url.split(":")[2].split("/")[0])
            idle = socket.create_connection(("127.0.0.1", port))
            await asyncio.sleep(0.2)
            flood(core, 1500)
            await wire.command("ping")
            leaving_t = time.monotonic()
            await core._stop()
            assert time.monotonic() - leaving_t < 2.0
            await eventually(lambda: wire.closed)
            assert wire.connection.close_code == 1001
            idle.close()

    run(test())


def test_a_large_reply_is_no_backlog(tmp_path: Path) -> None:
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


def test_browsers_offer_the_token_as_a_subprotocol(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, allow_origins=("http://localhost:3000",)) as core:
            for protocols, agreed in (
                (["tokenglass.v1", f"bearer.{TOKEN}"], "tokenglass.v1"),
                ([f"bearer.{TOKEN}"], None),
            ):
                async with connect(
                    core.url, subprotocols=protocols, origin="http://localhost:3000", proxy=None  # type: ignore[arg-type]  # plain strings
                ) as connection:  # fmt: skip
                    assert connection.subprotocol == agreed
                    assert json.loads(await connection.recv())["type"] == "hello"
            async with connect(f"{core.url}?token={TOKEN}", proxy=None) as connection:
                assert json.loads(await connection.recv())["type"] == "hello"
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{core.url}?token={TOKEN}", origin="http://evil.test", proxy=None)  # type: ignore[arg-type]  # a plain string
            assert caught.value.response.status_code == 403

    run(test())


def test_the_number_of_clients_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CLIENTS", 3)

    async def test() -> None:
        async with app(tmp_path) as core:
            wires = [await connect(f"{core.url}?token={TOKEN}", proxy=None) for _ in range(3)]
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{core.url}?token={TOKEN}", proxy=None)
            assert caught.value.response.status_code == 503
            with pytest.raises(InvalidStatus) as caught:
                await connect(core.url, proxy=None)
            assert caught.value.response.status_code == 401
            await wires.pop().close()
            wires.append(await connect(f"{core.url}?token={TOKEN}", proxy=None))
            for wire in wires:
                await wire.close()

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


def test_a_bug_in_a_command_is_answered_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:

            async def broken() -> list[dict[str, Any]]:
                raise RuntimeError("secret details")

            monkeypatch.setattr(core.library, "list", broken)
            with pytest.raises(CommandError) as caught:
                await wire.command("models.list")
            assert caught.value.code == "internal"
            assert "secret" not in str(caught.value.error)
            await wire.command("ping")

    run(test())
    assert "secret details" in caplog.text


def test_a_client_that_waits_for_the_end_sees_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core:
            connection = await connect(f"{core.url}?token={TOKEN}", proxy=None)
            wire = Wire(connection)
            generation = await wire.generate()
            await wire.event("generation.delta")
        await eventually(lambda: wire.closed)
        (finished,) = wire.events("generation.finished", generation)
        assert finished["error"]["code"] == "shutting_down"
        assert connection.close_code == 1001
        with pytest.raises((OSError, ConnectionClosedError)):
            await connect(f"{core.url}?token={TOKEN}", proxy=None)
        await wire.close()

    run(test())
