import asyncio
import os
import signal
from pathlib import Path

import pytest

from api import supervisor as module
from api import watchdog
from api.core import Core
from engine.errors import TokenglassError
from tests.api.harness import ENDLESS, HI, CommandError, Frame, Wire, app, client, eventually, run

SLOW = "fake:tokens=200,delay_ms=15"


def kill_worker(core: Core) -> None:
    pid = core.supervisor.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def ready(core: Core) -> None:
    await eventually(lambda: core.supervisor.phase == "ready")


def test_a_killed_worker_is_a_hiccup(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire, client(core) as other:
            await other.command("subscribe", events=["engine.*", "generation.finished"])
            generation = await wire.generate()
            await eventually(lambda: len(wire.indices(generation)) > 3)
            kill_worker(core)
            exited = await other.event("engine.exited")  # the bar of 50 ms is measured in tests/e2e
            assert (exited["epoch"], exited["expected"], exited["signal"]) == (1, False, "SIGKILL")
            assert exited["will_restart"] is True
            restarting = await other.event("engine.restarting")
            assert restarting["attempt"] == 1
            await other.event("engine.started", epoch=2)
            finished = await wire.finished(generation)
            assert (finished["finish_reason"], finished["error"]) == ("stop", None)
            assert len(wire.events("generation.finished", generation)) == 1

    run(test())


def test_too_many_deaths_fail_until_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(module, "DEATH_WINDOW_S", 1000.0)

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*", "model.*"])
            exited: Frame = {}
            generation = ""
            for death in range(1, 5):
                generation = await wire.generate()
                await eventually(lambda: wire.text(generation) != "")  # noqa: B023
                kill_worker(core)
                exited = await wire.event("engine.exited", epoch=death)
                assert exited["will_restart"] is (death < 4)
                if death < 4:
                    await wire.command("cancel", generation_id=generation)  # it waits for the next worker
                    assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            finished = await wire.finished(generation)
            assert finished["error"] == exited["error"]
            assert finished["text"] == wire.text(generation) != ""
            assert finished["usage"]["completion_tokens"] == len(wire.indices(generation))
            timings = finished["timings"]
            assert timings["ttft_ms"] == pytest.approx(timings["queue_ms"] + timings["prefill_ms"])
            with pytest.raises(CommandError, match="engine_failed") as caught:
                await wire.generate()
            snapshot = await wire.command("snapshot")
            assert snapshot["engine"]["state"] == "failed"
            assert snapshot["engine"]["error"] == exited["error"] == caught.value.error
            assert "4 times" in exited["error"]["message"]
            assert snapshot["generations"] == []
            await wire.command("models.load", model="fake:tokens=4")
            generation = await wire.generate()
            assert (await wire.finished(generation))["usage"]["completion_tokens"] == 4

    run(test())


def test_a_worker_that_dies_while_loading_is_started_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=2000,tokens=3") as core, client(core) as wire:
            await wire.command("subscribe")
            generation = await wire.generate()
            await wire.event("model.loading")
            kill_worker(core)
            assert (await wire.finished(generation))["finish_reason"] == "stop"
            assert core.supervisor.epoch == 2

    run(test())


def test_what_is_asked_while_loading_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=2000,tokens=3") as core, client(core) as wire:
            started = [await wire.generate() for _ in range(3)]
            assert core.supervisor.phase == "loading"
            for generation in started:
                assert (await wire.finished(generation))["finish_reason"] == "stop"

    run(test())


def test_cancel_while_the_model_loads(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=60000") as core, client(core) as wire:
            generation = await wire.generate()
            assert await wire.command("cancel", generation_id=generation) == {"state": "cancelling"}
            finished = await wire.finished(generation)
            assert (finished["finish_reason"], finished["error"]) == ("cancelled", None)
            assert await wire.command("cancel", generation_id=generation) == {"state": "finished"}

    run(test())


def test_the_waiting_room_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=60000", parallel=2) as core, client(core) as wire:
            assert core.supervisor.config is not None
            limit = core.supervisor.config.n_slots + core.supervisor.config.queue_limit
            ids = [await wire.send("generate", messages=HI) for _ in range(60)]
            for command_id in ids:
                await wire.reply(command_id)
            for _ in range(limit - 60):
                await wire.generate()
            with pytest.raises(CommandError, match="busy"):
                await wire.generate()
            assert len(core.state.generations) == limit

    run(test())


def test_switching_the_model(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core) as wire:
            await wire.finished(await wire.generate())
            await wire.command("subscribe", events=["engine.*", "model.*"])
            assert (await wire.command("models.load", model="fake:tokens=7"))["state"] == "loading"
            generation = await wire.generate()
            assert (await wire.finished(generation))["usage"]["completion_tokens"] == 7
            names = [frame["type"] for frame in wire.events() if not frame["type"].startswith("gen")]
            assert [name for name in names if name != "model.loading"] == [
                "model.unloaded",
                "engine.exited",
                "engine.started",
                "model.loaded",
            ]
            assert wire.events("engine.exited")[0]["expected"] is True
            assert core.supervisor.epoch == 2

    run(test())


def test_loading_the_same_model_again_does_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core) as wire:
            await ready(core)
            assert (await wire.command("models.load", model="fake:tokens=3"))["state"] == "ready"
            assert core.supervisor.epoch == 1

    run(test())


def test_a_switch_waits_for_nobody_but_asks_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await wire.generate()
            await wire.until(lambda frame: frame["type"] == "generation.delta" and frame["text"] != "")
            with pytest.raises(CommandError, match="busy"):
                await wire.command("models.load", model="fake:tokens=2")
            await wire.command("models.load", model="fake:tokens=2", force=True)
            finished = await wire.finished(generation)
            assert finished["finish_reason"] == "cancelled"
            assert finished["text"] == wire.text(generation) != ""
            next_one = await wire.generate()
            assert (await wire.finished(next_one))["usage"]["completion_tokens"] == 2
            assert len(wire.events("generation.finished", generation)) == 1

    run(test())


@pytest.mark.parametrize("broken", ("fake:load_fail=model_damaged", "fake:load_abort=1"))
def test_a_model_that_cannot_be_loaded_gives_way_to_the_former(tmp_path: Path, broken: str) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*", "model.*"])
            await ready(core)
            await wire.command("models.load", model=broken)
            failed = await wire.event("model.failed")
            assert failed["error"]["code"] in ("model_damaged", "load_failed")
            await ready(core)
            generation = await wire.generate()
            assert (await wire.finished(generation))["usage"]["completion_tokens"] == 3
            assert (await wire.command("snapshot"))["engine"] | {"pid": 0, "epoch": 0} == {
                "state": "ready",
                "epoch": 0,
                "pid": 0,
                "error": None,
            }

    run(test())


def test_a_first_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=2000,oom_at_load=1") as core, client(core) as wire:
            waiting = await wire.generate()
            assert (await wire.finished(waiting))["error"]["code"] == "out_of_memory"
            with pytest.raises(CommandError, match="no_model"):
                await wire.generate()
            assert (await wire.command("snapshot"))["engine"]["error"]["code"] == "out_of_memory"
            await eventually(lambda: core.state.pid is None)
            await wire.command("models.load", model="fake:tokens=1")
            await wire.finished(await wire.generate())

    run(test())


def test_a_load_can_be_overtaken_by_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=60000") as core, client(core) as wire:
            await asyncio.sleep(0.2)
            for _ in range(3):
                await wire.command("models.load", model="fake:load_ms=60001")
                await wire.command("models.load", model="fake:tokens=2")
            generation = await wire.generate()
            assert (await wire.finished(generation))["usage"]["completion_tokens"] == 2
            assert core.state.epoch == core.supervisor.epoch

    run(test())


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("model", (ENDLESS, "fake:load_ms=600000", "fake:hang_after=2"))
def test_quitting_ends_everything(tmp_path: Path, model: str) -> None:
    """It waits for nothing that takes long; its seconds are measured in tests/e2e."""

    async def test() -> None:
        wire: Wire
        async with app(tmp_path, model) as core, client(core) as wire:
            generation = await wire.generate()
            if "load_ms" not in model:
                await wire.event("generation.delta")
            await eventually(lambda: core.supervisor.worker_pid is not None)
            pid = core.supervisor.worker_pid
            assert pid is not None
            await core._stop()
            await eventually(lambda: wire.closed)
            finished = wire.events("generation.finished", generation)
            assert [frame["error"]["code"] for frame in finished] == ["shutting_down"]
            assert wire.connection.close_code == 1001
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(test())


def test_unloading_frees_the_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*", "model.*"])
            generation = await wire.generate()
            await wire.event("generation.delta")
            pid = core.supervisor.worker_pid
            assert pid is not None
            with pytest.raises(TokenglassError, match="run or wait"):
                await core.supervisor.unload()
            await core.supervisor.unload(force=True)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            assert (await wire.event("engine.exited"))["expected"] is True
            with pytest.raises(CommandError, match="no_model"):
                await wire.generate()
            engine = (await wire.command("snapshot"))["engine"]
            assert (engine["state"], engine["pid"]) == ("stopped", None)
            await wire.command("models.load", model="fake:tokens=2")
            assert (await wire.finished(await wire.generate()))["finish_reason"] == "stop"

    run(test())


def test_unloading_while_the_engine_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (2.0,))

    async def test() -> None:
        async with app(tmp_path, SLOW) as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*", "model.*"])
            await ready(core)
            kill_worker(core)
            await wire.event("engine.restarting")
            await core.supervisor.unload()
            assert (await wire.command("snapshot"))["engine"]["state"] == "stopped"
            await asyncio.sleep(3.0)
            assert core.supervisor.epoch == 1
            assert core.supervisor.worker_pid is None

    run(test())


def test_slow_is_not_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.1)
    monkeypatch.setattr(watchdog, "HANG_S", 0.3)

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=4,delay_ms=700") as core, client(core) as wire:
            assert (await wire.finished(await wire.generate()))["finish_reason"] == "stop"
            assert core.supervisor.epoch == 1

    run(test())
