"""What a subscription brings: live, replayed, merged, and after a gap."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.events import LogLine, StepMetrics
from tests.api.harness import (
    ENDLESS,
    Frame,
    app,
    client,
    eventually,
    flood,
    rises,
    run,
)


def step(n: int) -> StepMetrics:
    return StepMetrics(
        batch_size=n, prefill_tokens=0, decode_tokens=1, pre_ms=0, decode_ms=1, sample_ms=0, emit_ms=0,
        kv_used=1, kv_total=9, waiting=0,
    )  # fmt: skip


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
            app(tmp_path, ENDLESS) as core,
            client(core) as wire,
            client(core) as other,
        ):
            first, second = await wire.generate(), await wire.generate()
            await other.command("subscribe", events=["generation.*"], generations=[second])
            for generation in (first, second):
                await wire.event("generation.delta", generation_id=generation)
                await wire.command("cancel", generation_id=generation)
                await wire.finished(generation)
            await other.finished(second)
            assert other.events(generation_id=first) == []

    run(test())


def test_replay_comes_after_the_reply_and_goes_over_into_the_present(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await wire.generate()
            await wire.event("generation.delta")
            async with client(core) as late:
                result = await late.command("subscribe", events=["generation.*"], since=0)
                await late.until(lambda frame: frame.get("seq", 0) > result["seq"])
                await wire.command("cancel", generation_id=generation)
                finished = await late.finished(generation)
                assert late.events()[0]["type"] == "generation.queued"
                assert late.events()[0]["seq"] <= result["seq"] < finished["seq"]
                assert late.indices(generation) == list(range(finished["usage"]["completion_tokens"]))
                assert late.text(generation) == finished["text"]
                assert rises(late.events())
                names = [frame["type"] for frame in late.frames]
                assert names[:2] == ["hello", "reply"]

    run(test())


def test_reconnecting_with_since_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe")
            hello = wire.frames[0]
            generation = await wire.generate()
            indices: list[int] = []
            since = hello["seq"]
            finished: Frame = {}
            rounds = 0
            while not finished:
                rounds += 1
                if rounds > 10 and len(indices) > 100:
                    await wire.command("cancel", generation_id=generation)
                    finished = await wire.finished(generation)
                async with client(core, "?client=K") as broken:
                    await broken.command(
                        "subscribe", events=["generation.*"], since=since, run_id=core.run_id
                    )
                    if finished:
                        await broken.finished(generation)
                    else:
                        await asyncio.sleep(0.05)
                    broken.connection.transport.abort()
                    assert all(frame["type"] != "reset" for frame in broken.frames)
                    indices += broken.indices(generation)
                    if broken.events():
                        since = broken.events()[-1]["seq"]
            assert indices == list(range(finished["usage"]["completion_tokens"]))

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
        async with app(tmp_path, ENDLESS) as core, client(core) as starter, client(core) as wire:
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
            await wire.event("generation.delta")
            await starter.command("cancel", generation_id=generation)
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
        async with app(tmp_path, ENDLESS) as core, client(core, "?name=me") as wire:
            generation = await wire.generate()
            await wire.event("generation.delta")
            snapshot = await wire.command("snapshot")
            assert snapshot["engine"]["state"] == "ready"
            assert snapshot["engine"]["pid"] == core.supervisor.worker_pid
            assert snapshot["model"]["id"] == "fake"
            (active,) = snapshot["generations"]
            assert (active["generation_id"], active["state"]) == (generation, "running")
            assert active["completion_tokens"] > 0
            me = wire.frames[0]["client_id"]
            (row,) = [row for row in snapshot["clients"] if row["client_id"] == me]
            assert (row["name"], row["origin"], row["cuts"]) == ("me", "live", 0)

    run(test())
