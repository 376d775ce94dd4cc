import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from api import protocol
from tests.api.harness import (
    ENDLESS,
    HI,
    SLOW,
    TOKEN,
    CommandError,
    Wire,
    app,
    client,
    eventually,
    rises,
    run,
)

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
                    "permissions": ["observe", "generate", "control", "manage", "owner"],
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
                ("b", "pause", "invalid_argument"),
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
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
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
            # the crowd waits for what comes below: whoever had to wait for it would wait for ever
            await wire.command("ping")
            await wire.command("cancel", generation_id=generation)
            assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            with pytest.raises(CommandError, match="busy"):
                await wire.command("subscribe", events=["log"])
            blocked.set()
            for command_id in crowd:
                assert (await wire.reply(command_id))["ok"]
            assert await wire.command("conversations.list") == {"conversations": []}

    run(test())


def test_cancel(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire, client(core) as other:
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
    model = ENDLESS if choice == "cancel" else "fake:tokens=60,delay_ms=5"

    async def test() -> None:
        async with app(tmp_path, model) as core, client(core) as watcher:
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


# ---- the end


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


@pytest.mark.usefixtures("unhurried")
def test_a_client_that_waits_for_the_end_sees_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core:
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
