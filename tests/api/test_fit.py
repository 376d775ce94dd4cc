"""api.fit and its commands: estimates over the stream, refusals, records, unloading, the terminal's words."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import cli, devices, fit
from api.core import Core
from api.fit import MAX_RECORDS, Fit
from engine.errors import TokenglassError
from engine.events import GpuMetrics
from engine.fit import Device, Use
from engine.types import ModelInfo, WorkerConfig
from tests.api.harness import ENDLESS, CommandError, app, client, eventually, run
from tests.engine import shapes

GB = 1_000_000_000
HUGE = 1 << 24
"""Tokens of a context that fits nowhere."""
CPU = [Device(name="CPU", kind="cpu", memory_total=16 * GB, memory_free=12 * GB)]


def config_for(path: Path, **more: Any) -> WorkerConfig:
    return WorkerConfig(model_id="m", model_path=str(path), **more)


def loaded_info(found: Any, **buffers: int) -> ModelInfo:
    """What a worker would tell of a load with the sizes of an estimate."""
    return ModelInfo(
        id="m",
        name="m",
        architecture="llama",
        size_bytes=1,
        n_params=1,
        n_vocab=4000,
        n_ctx_train=32768,
        n_ctx=found.n_ctx,
        n_slots=found.n_slots,
        n_threads=1,
        n_gpu_layers=found.n_gpu_layers,
        devices=["CPU"],
        has_chat_template=False,
        load_ms=1.0,
        n_kv=found.n_kv,
        n_ubatch=found.n_ubatch,
        buffers={name.replace("_", " "): size for name, size in buffers.items()},
    )


# ---- what is learned


def test_a_load_is_remembered_and_corrects_the_next_estimate(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf")
    file = tmp_path / "fit.json"
    told = Fit(file).estimate_now(config_for(path), CPU)
    assert not told.measured
    doubled = loaded_info(told, CPU_KV=told.kv_cache, CPU_compute=2 * told.compute)
    record = Fit(file).learn_now(config_for(path), doubled, os.getpid())
    assert record is not None
    assert record.worker_rss >= record.worker_anonymous > 0
    again = Fit(file)  # from the file
    assert again.correction(str(path)).compute == {"cpu": pytest.approx(2, rel=0.001)}
    same = again.estimate_now(config_for(path), CPU)
    assert same.measured
    assert same.compute == 2 * told.compute
    assert same.weights == told.weights
    assert same.overhead == record.measured[0].overhead
    other = again.estimate_now(config_for(path, n_slots=2), CPU)
    plain = Fit(tmp_path / "none.json").estimate_now(config_for(path, n_slots=2), CPU)
    assert not other.measured
    assert other.compute == pytest.approx(2 * plain.compute, rel=0.01)


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf")
    known = Fit(tmp_path / "fit.json")
    told = known.estimate_now(config_for(path), CPU)
    known.learn_now(config_for(path), loaded_info(told, CPU_KV=told.kv_cache), os.getpid())
    assert known.estimate_now(config_for(path), CPU).measured
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert not known.estimate_now(config_for(path), CPU).measured


def test_what_a_load_took_is_compared_with_what_was_told_of_it(tmp_path: Path) -> None:
    # logits are wanted of few tokens of a batch: with so many words, the same load with all would take more
    path = shapes.llama(tmp_path / "m.gguf", n_vocab=32_000)
    known = Fit(tmp_path / "fit.json")
    for n_slots in (1, 4):
        config = config_for(path, n_slots=n_slots)
        told = Fit(tmp_path / "none.json").estimate_now(config, CPU)
        info = loaded_info(told, CPU_KV=told.kv_cache, CPU_compute=told.compute)
        record = known.learn_now(config, info, os.getpid())
        assert record is not None
        assert record.estimated[0].compute == told.compute
    assert known.correction(str(path)).compute == {"cpu": 1.0}


def test_records_of_another_version_are_left_out(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf")
    file = tmp_path / "fit.json"
    told = Fit(file).estimate_now(config_for(path), CPU)
    Fit(file).learn_now(config_for(path), loaded_info(told, CPU_KV=told.kv_cache), os.getpid())
    assert Fit(file).estimate_now(config_for(path), CPU).measured
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 1}))
    assert not Fit(file).estimate_now(config_for(path), CPU).measured


def test_the_file_stays_small(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf")
    file = tmp_path / "fit.json"
    told = Fit(file).estimate_now(config_for(path), CPU)
    Fit(file).learn_now(config_for(path), loaded_info(told, CPU_KV=told.kv_cache), os.getpid())
    (one,) = json.loads(file.read_bytes())["records"]
    full = [one | {"key": f"another {n}"} for n in range(MAX_RECORDS)]
    file.write_text(json.dumps({"version": 2, "records": full}))
    Fit(file).learn_now(config_for(path), loaded_info(told, CPU_KV=told.kv_cache), os.getpid())
    records = json.loads(file.read_bytes())["records"]
    assert [record["key"] for record in records] == [
        *(f"another {n}" for n in range(1, MAX_RECORDS)),
        one["key"],
    ]
    assert file.stat().st_mode & 0o777 == 0o600


@given(
    text=st.binary(max_size=300) | st.sampled_from([b"[]", b'{"records": 3}', b'{"records": [{}]}', b"null"])
)
def test_a_damaged_file_begins_anew(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "fit.json").write_bytes(text)
    path = shapes.llama(folder / "m.gguf", n_layers=1)
    known = Fit(folder / "fit.json")
    told = known.estimate_now(config_for(path), CPU)
    assert not told.measured
    known.learn_now(config_for(path), loaded_info(told, CPU_KV=told.kv_cache), os.getpid())
    assert Fit(folder / "fit.json").estimate_now(config_for(path), CPU).measured


def test_buffers_are_put_to_their_devices() -> None:
    def use(device: str, kind: Any) -> Use:
        return Use(
            device=device, kind=kind, memory_total=GB, memory_free=GB, layers=1, weights=1000, overhead=7
        )

    buffers = {"CPU_Mapped model": 900, "CPU_REPACK model": 400, "CPU KV": 30, "CUDA_Host compute": 4}
    buffers |= {"CPU output": 2, "CUDA0 model": 5000, "CUDA0 KV": 60, "CUDA0 RS": 1, "CUDA0 compute": 70}
    cpu, cuda, idle = fit._measured(
        [use("CPU", "cpu"), use("CUDA0", "gpu"), use("CUDA1", "gpu")], buffers, 1000, {"CUDA0": 6000}
    )
    assert (cpu.weights, cpu.kv_cache, cpu.compute, cpu.overhead) == (1000, 30, 6, 1000 - 30 - 400)
    assert (cuda.weights, cuda.kv_cache, cuda.state, cuda.compute) == (5000, 60, 1, 70)
    assert cuda.overhead == 6000 - 5000 - 60 - 1 - 70
    assert cuda.total == 6000
    assert idle.kv_cache == 0


def test_a_containers_memory_limit_holds(tmp_path: Path) -> None:
    group = tmp_path / "app"
    group.mkdir()
    (group / "memory.max").write_text("4000\n")
    (group / "memory.current").write_text("3000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/app\n")
    assert devices._memory_limit(tmp_path, membership) == (4000, 1500)
    (group / "memory.max").write_text("max\n")
    assert devices._memory_limit(tmp_path, membership) is None
    assert devices._memory_limit(tmp_path, tmp_path / "missing") is None


def test_a_gpus_memory_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    monkeypatch.setattr(devices, "gpu_memory_of", lambda _pid: {0: 10, 1: 20, 2: 30})
    assert devices.on_gpus(1) == {"CUDA0": 30, "CUDA1": 10}


def test_gpus_are_offered_with_what_the_replaced_worker_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def card(used: int) -> GpuMetrics:
        return GpuMetrics(
            name="card",
            load_percent=0,
            memory_used=used,
            memory_total=8 * GB,
            temperature_c=None,
            power_w=None,
        )

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "has_plugin", lambda *_: True)
    monkeypatch.setattr(devices, "read_gpus", lambda: [card(6 * GB), card(GB)])
    monkeypatch.setattr(devices, "gpu_memory_of", lambda _pid: {0: 5 * GB})
    _, first, second = devices.this_machine(os.getpid())
    assert (first.name, first.memory_free, second.memory_free) == ("CUDA0", 7 * GB, 7 * GB)
    _, alone, _ = devices.this_machine()
    assert alone.memory_free == 2 * GB


def test_only_visible_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1,0", [1, 0]), ("7", []), ("", []), ("GPU-1234", [0, 1])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert devices._visible(2) == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices._visible(2) == [0, 1]


# ---- over the stream


def starter(home: Path, **options: Any) -> Any:
    return app(home, model="starter", **options)


async def ready(core: Core) -> None:
    await eventually(lambda: core.supervisor.phase == "ready")


def test_a_real_load_agrees_with_its_estimate(tmp_path: Path) -> None:
    async def test() -> None:
        async with starter(tmp_path) as core, client(core) as wire:
            before = await wire.command("models.estimate", model="starter")
            await ready(core)
            await eventually(core.paths.fit_file.exists)
            info = core.state.model
            assert info is not None
            mapped, cells = info.buffers["CPU_Mapped model"], info.buffers["CPU KV"]
            assert before["weights"] == pytest.approx(mapped, rel=0.01)
            assert before["kv_cache"] == cells
            compute = info.buffers["CPU compute"] + info.buffers["CPU output"]
            assert before["compute"] == pytest.approx(compute, rel=0.02)
            assert (info.n_batch, info.n_ubatch, info.n_threads_batch) == (512, 512, info.n_threads)
            after = await wire.command("models.estimate", model="starter")
            assert after["measured"]
            assert after["fits"] == "yes"
            other = await wire.command("models.estimate", model="starter", ctx=256, parallel=2)
            assert (other["measured"], other["n_kv"]) == (False, 512)

    run(test())


def test_what_cant_fit_is_refused_before_anything_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with starter(tmp_path) as core, client(core) as wire:
            await ready(core)
            with pytest.raises(CommandError) as caught:
                await wire.command("models.load", model="starter", ctx=HUGE)
            assert caught.value.code == "out_of_memory"
            assert "are free" in caught.value.error["message"]
            assert "a context of 1024 tokens fits" in caught.value.error["hint"]
            assert core.supervisor.phase == "ready"
            assert core.supervisor.epoch == 1
            reply = await wire.command("models.load", model="starter", ctx=256)
            assert reply["state"] == "loading"
            await ready(core)
            assert core.state.model is not None
            assert core.state.model.n_ctx == 256

    run(test())


def test_force_tries_it_nevertheless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = [Device(name="CPU", kind="cpu", memory_total=GB, memory_free=1_000_000)]
    monkeypatch.setattr(fit, "this_machine", lambda _pid=None: tiny)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await ready(core)
            with pytest.raises(CommandError) as caught:
                await wire.command("models.load", model="starter")
            assert caught.value.code == "out_of_memory"
            assert "1 MB are free" in caught.value.error["message"]
            assert core.model_id == "fake"
            await wire.command("models.load", model="starter", force=True)
            await eventually(lambda: core.state.model is not None and core.state.model.id == "starter")

    run(test())


def test_at_the_start_what_cant_fit_is_told_and_not_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with starter(tmp_path, ctx=HUGE) as core, client(core) as wire:
            await wire.command("subscribe", events=["model.*"], since=0)
            failed = await wire.event("model.failed")
            assert failed["error"]["code"] == "out_of_memory"
            assert (core.model_id, core.state.engine) == (None, "failed")
            assert core.supervisor.epoch == 0
            with pytest.raises(CommandError) as caught:
                await wire.generate()
            assert caught.value.code == "no_model"
            await wire.command("models.load", model="starter", ctx=256)
            await ready(core)

    run(test())
    lines = [line for line in capfd.readouterr().err.splitlines() if "are free" in line]
    assert len(lines) == 1


def test_a_header_that_cant_be_judged_never_blocks(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "odd.gguf", "odd", {}, [("token_embd.weight", (32, 32), shapes.Q8_0)])

    async def test() -> None:
        async with app(tmp_path / "home") as core, client(core) as wire:
            await wire.command("models.add", path=str(path))
            with pytest.raises(CommandError) as caught:
                await wire.command("models.estimate", model="odd")
            assert caught.value.code == "model_unsupported"
            await wire.command("subscribe", events=["model.*"])
            await wire.command("models.load", model="odd")
            failed = await wire.event("model.failed", model="odd")  # by llama.cpp, not by us
            assert failed["error"]["code"] in ("model_unsupported", "load_failed")

    run(test())


def test_unloading(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, model=ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe", events=["*"])
            generation = await wire.generate()
            with pytest.raises(CommandError) as caught:
                await wire.command("models.unload")
            assert caught.value.code == "busy"
            assert (await wire.command("models.unload", force=True)) == {"model": "fake"}
            assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            await wire.event("model.unloaded", model="fake")
            assert core.supervisor.worker_pid is None
            snapshot = await wire.command("snapshot")
            assert (snapshot["model"], snapshot["engine"]["state"]) == (None, "stopped")
            with pytest.raises(CommandError) as caught:
                await wire.generate()
            assert caught.value.code == "no_model"
            assert "models.load" in caught.value.error["hint"]
            assert (await wire.command("models.unload")) == {"model": None}
            await wire.command("models.load", model="fake:tokens=3")
            await ready(core)
            again = await wire.finished(await wire.generate())
            assert again["usage"]["completion_tokens"] == 3

    run(test())


@pytest.mark.parametrize(("fitting", "says"), [(3, "trying 3"), (0, "the CPU takes them all")])
def test_a_gpu_that_is_too_small_after_all_gets_fewer_layers(tmp_path: Path, fitting: int, says: str) -> None:
    async def test() -> None:
        async with app(tmp_path, model=f"fake:gpu_layers={fitting}") as core, client(core) as wire:
            await wire.command("subscribe", events=["*"], since=0)
            line = await wire.event("log", level="warning")
            assert f"{2 * fitting + 1} layers" in line["message"]
            assert says in line["message"]
            loaded = await wire.event("model.loaded")
            assert loaded["info"]["n_gpu_layers"] == fitting
            assert core.supervisor.epoch == 1  # the same worker tried again

    run(test())


def test_layers_that_were_asked_for_are_not_changed(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, model="fake:gpu_layers=3", gpu_layers=9) as core, client(core) as wire:
            await wire.command("subscribe", events=["*"], since=0)
            assert (await wire.event("model.failed"))["error"]["code"] == "out_of_memory"
            assert not wire.events("log")
            assert core.options.gpu_layers == 9

    run(test())


def test_options_and_settings_reach_the_worker(tmp_path: Path) -> None:
    async def test() -> None:
        options = {"kv": 2048, "threads_batch": 1, "batch_size": 128, "ubatch_size": 64, "parallel": 3}
        async with starter(tmp_path, **options) as core, client(core) as wire:
            await ready(core)
            info = core.state.model
            assert info is not None
            assert (info.n_kv, info.n_batch, info.n_ubatch, info.n_threads_batch) == (2048, 128, 64, 1)
            found = await wire.command("models.estimate", model="starter")
            assert (found["n_kv"], found["n_ubatch"]) == (2048, 64)
        settings = {"kv": 1024, "batch_size": 256, "ubatch_size": 32}
        async with starter(tmp_path) as core, client(core) as wire:
            await wire.command("settings.set", settings=settings)
            await wire.command("models.load", model="starter", force=True)
            await eventually(lambda: core.supervisor.epoch == 2 and core.supervisor.phase == "ready")
            info = core.state.model
            assert info is not None
            assert (info.n_kv, info.n_batch, info.n_ubatch) == (1024, 256, 32)

    run(test())


# ---- in the terminal


def test_estimate_in_the_terminal_needs_no_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shapes.llama(tmp_path / "some model.gguf")
    home = ["--home", str(tmp_path / "home"), "models"]
    assert cli.main([*home, "estimate", str(path), "--ctx", "2048", "--parallel", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("some model fits: 2 slots of 2048 tokens\n")
    assert re.search(r"^KV cache +17 MB$", out, re.MULTILINE)
    assert "estimated from the header" in out
    assert cli.main([*home, "estimate", "starter", "--ctx", str(HUGE)]) == 0
    out = capsys.readouterr().out
    assert "starter doesn't fit" in out
    assert "- a context of 1024 tokens fits" in out
    assert cli.main([*home, "estimate", "starter", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_layers"] == 4
    assert cli.main([*home, "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1  # looking at a file doesn't add it
    for name in ("nothing", str(tmp_path / "gone.gguf")):
        assert cli.main([*home, "estimate", name]) == 1
    assert cli.main([*home, "unload"]) == 1
    assert "no Tokenglass is running" in capsys.readouterr().err


def test_loading_and_unloading_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def terminal(*words: str) -> tuple[int, str, str]:
        arguments = ["--home", str(tmp_path), "models", *words]
        code = await asyncio.get_running_loop().run_in_executor(None, cli.main, arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    async def test() -> None:
        async with starter(tmp_path) as core:
            await ready(core)
            code, out, _ = await terminal("list")
            assert code == 0
            assert "loaded: starter · 4 slots of 1024 tokens in 4096 KV cells · " in out
            code, out, _ = await terminal("load", "starter", "--ctx", "512")
            assert (code, out[:41]) == (0, "loaded starter · 4 slots of 512 tokens in")
            code, _, err = await terminal("load", "starter", "--ctx", str(HUGE))
            assert code == 1
            assert "are free (a context of 1024 tokens fits; " in err
            code, out, _ = await terminal("unload")
            assert (code, out) == (0, "unloaded starter\n")
            code, out, _ = await terminal("list")
            assert "loaded:" not in out
            monkeypatch.setattr(fit, "this_machine", lambda _pid=None: CPU)
            code, out, _ = await terminal("estimate", "starter")
            assert "measured on this machine" in out

    run(test())


def test_options_are_read() -> None:
    args = cli.build_parser().parse_args(
        ["serve", "--kv", "512", "--batch", "6", "--ubatch-size", "7", "--threads-batch", "8"]
    )
    options = cli.options_from(args)
    assert (options.kv, options.batch_size, options.ubatch_size, options.threads_batch) == (512, 6, 7, 8)


def test_estimating_a_fake_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenglassError) as caught:
        Fit(tmp_path / "fit.json").estimate_now(WorkerConfig(model_id="fake", model_path="fake:"))
    assert caught.value.code == "bad_state"
