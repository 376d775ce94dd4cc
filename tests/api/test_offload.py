"""Layers on GPUs: what the app announces is what its worker does; what was learned counts; lack is no end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api import offload
from api.core import Core
from api.fit import Fit
from api.offload import Offload
from engine import fit
from engine.backends.llamacpp import lib, loading
from engine.fit import Device, Use
from engine.gguf import read_layout
from engine.shape import shape_of
from engine.types import ModelInfo, Plan, WorkerConfig
from tests.api.harness import Wire, app, client, eventually, run
from tests.engine import shapes

GB = 1_000_000_000
CPU = Device(name="CPU", kind="cpu", memory_total=64 * GB, memory_free=60 * GB)
CONTEXT = 400_000_000
"""What a worker's own CUDA context has taken when it asks how much is free."""


def card(number: int, total: float, free: float | None = None) -> Device:
    free = total - 0.4 if free is None else free
    return Device(name=f"CUDA{number}", kind="gpu", memory_total=int(total * GB), memory_free=int(free * GB))


MACHINES = {
    "CPU only": [CPU],
    "one 8 GB": [CPU, card(0, 8, 5.5)],
    "one 24 GB": [CPU, card(0, 24)],
    "two 4 GB": [CPU, card(0, 4), card(1, 4)],
    "6 and 3 GB": [CPU, card(0, 6), card(1, 3, 2.5)],
    "tiny": [CPU, card(0, 1, 0.3)],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 6 GB of weights, all of them a hole in the file."""
    path = tmp_path_factory.mktemp("models") / "m.gguf"
    return shapes.llama(path, n_layers=32, n_embd=4096, n_ff=11_008, n_head=32, n_head_kv=8, n_vocab=4000)


def config_for(path: Path, **more: Any) -> WorkerConfig:
    return WorkerConfig(model_id="m", model_path=str(path), **more)


def use(device: Device, **parts: int) -> Use:
    total = sum(parts.values())
    return Use(
        device=device.name, kind=device.kind, memory_total=1, memory_free=1, layers=9, total=total, **parts
    )


def teach(file: Path, compute: float, overhead: int, key: str = "another") -> Fit:
    """An app that knows one load, in which everything took so many times what was told."""
    devices = [CPU, card(0, 8)]
    told = [use(device, compute=1000, overhead=fit.OVERHEAD[device.kind]) for device in devices]
    took = [use(device, compute=int(1000 * compute), overhead=overhead) for device in devices]
    record = {
        "key": key,
        "at": 1.0,
        "worker_rss": 1,
        "worker_anonymous": 1,
        "estimated": [one.model_dump() for one in told],
        "measured": [one.model_dump() for one in took],
    }
    file.write_text(json.dumps({"version": 2, "records": [record]}))
    return Fit(file)


def on_worker(
    monkeypatch: pytest.MonkeyPatch, config: WorkerConfig, devices: list[Device]
) -> tuple[int, list[float]]:
    """What llama.cpp's loader makes of a configuration, with these GPUs."""
    monkeypatch.setattr(loading, "gpus", lambda: devices[1:])
    monkeypatch.setattr(lib, "llama_supports_gpu_offload", lambda: True)
    placed = loading._place(config)
    return placed.n_gpu_layers, placed.tensor_split


LESSONS = {
    "nothing": (1.0, 0),
    "as told": (1.0, fit.OVERHEAD["gpu"]),
    "more": (2.5, 1_200_000_000),
    "less": (0.4, 150_000_000),
    "nonsense": (1e11, 10**15),
    "no less nonsense": (1e-3, 1),
}


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_worker_does_what_the_app_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, machine: str, lesson: str
) -> None:
    devices = MACHINES[machine]
    untaught = Fit(tmp_path / "none.json").estimate_now(config_for(model), devices)
    known = Fit(tmp_path / "none.json") if lesson == "nothing" else teach(tmp_path / "f", *LESSONS[lesson])
    told = known.estimate_now(config_for(model), devices)
    plan = known.plan_now(config_for(model), devices)
    config = config_for(model, plan=plan)
    # the worker's context is on the GPUs by the time that it asks them
    seen = [one.model_copy(update={"memory_free": one.memory_free - CONTEXT}) for one in devices]
    over_the_pipe = WorkerConfig.model_validate_json(config.model_dump_json())
    assert on_worker(monkeypatch, over_the_pipe, seen) == (told.n_gpu_layers, told.tensor_split)
    assert sum(one.layers for one in told.devices) == 32
    for one, device in zip(told.devices[1:], devices[1:], strict=True):
        assert not one.total or one.total <= one.memory_free - fit.reserve(device)
    # what was learned counts in what the worker does, within bounds
    least, most = (0.25, 4.0)
    assert least * untaught.compute * 0.2 <= told.compute <= most * untaught.compute * 5
    if lesson in ("more", "nonsense"):
        assert told.n_gpu_layers <= untaught.n_gpu_layers
    if lesson in ("less", "no less nonsense"):
        assert told.n_gpu_layers >= untaught.n_gpu_layers
    if machine in ("one 8 GB", "two 4 GB"):
        fewer = {"more", "nonsense"}
        assert (told.n_gpu_layers < untaught.n_gpu_layers) == (lesson in fewer)
        assert (told.n_gpu_layers > untaught.n_gpu_layers) == (lesson in {"less", "no less nonsense"})
    if machine == "one 24 GB":
        assert told.n_gpu_layers == 33  # whatever was learned: it fits by far


def test_other_gpus_than_the_app_knows_get_what_was_learned_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    known = teach(tmp_path / "fit.json", *LESSONS["more"])
    plan = known.plan_now(config_for(model), [CPU])
    assert (plan.gpus, plan.n_gpu_layers) == ({}, 0)
    shape = shape_of(read_layout(model))
    assert shape is not None
    sizes = fit.sizes_of(config_for(model), shape.n_ctx_train)
    vulkan = [CPU, card(0, 8, 5.5).model_copy(update={"name": "Vulkan0"})]
    found = on_worker(monkeypatch, config_for(model, plan=plan), vulkan)
    assert found == fit.offload(shape, sizes, vulkan, plan.correction)
    assert found[0] < fit.offload(shape, sizes, vulkan)[0]
    # a plan for a machine without GPUs is no wish for none
    assert found[0] > 0


def test_what_is_asked_for_is_not_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    devices = MACHINES["one 8 GB"]
    plan = teach(tmp_path / "fit.json", *LESSONS["more"]).plan_now(config_for(model), devices)
    config = config_for(model, n_gpu_layers=33, plan=plan)
    assert on_worker(monkeypatch, config, devices) == (33, [])


def test_a_header_that_tells_too_little_is_left_to_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = shapes.write(tmp_path / "m.gguf", "odd", {}, [("token_embd.weight", (32, 32), shapes.Q8_0)])
    devices = MACHINES["one 8 GB"]
    plan = Fit(tmp_path / "fit.json").plan_now(config_for(odd), devices)
    assert plan.n_gpu_layers == -1
    n, _ = on_worker(monkeypatch, config_for(odd, plan=plan), devices)
    assert n > 1000
    capped = plan.model_copy(update={"at_most": 3})
    assert on_worker(monkeypatch, config_for(odd, plan=capped), devices)[0] == 3


@pytest.mark.parametrize("amount", (-5, 10**18, 10**40))
def test_records_of_what_nobody_can_have_measured_count_for_nothing(
    tmp_path: Path, model: Path, amount: int
) -> None:
    plain = Fit(tmp_path / "none.json").estimate_now(config_for(model), MACHINES["one 8 GB"])
    wrong = teach(tmp_path / "fit.json", 1.0, amount)
    assert wrong.estimate_now(config_for(model), MACHINES["one 8 GB"]) == plain


def test_a_record_of_the_same_load_is_bounded(tmp_path: Path, model: Path) -> None:
    devices = MACHINES["one 24 GB"]
    plain = Fit(tmp_path / "none.json").estimate_now(config_for(model), devices)
    status = model.stat()
    sizes = f"{plain.n_ctx}:{plain.n_slots}:{plain.n_kv}:{plain.n_ubatch}:{plain.n_gpu_layers}"
    key = f"{model.name}:{status.st_size}:{status.st_mtime_ns}:{sizes}"
    file = tmp_path / "fit.json"
    teach(file, 1.0, 1, key)
    record = json.loads(file.read_text())["records"][0]
    for told, took, layers in zip(record["estimated"], record["measured"], (0, 32), strict=True):
        told["layers"] = took["layers"] = layers
        took |= {"weights": 10**14, "kv_cache": 10**14, "compute": 10**14, "overhead": 10**14}
    file.write_text(json.dumps({"version": 2, "records": [record]}))
    found = Fit(file).estimate_now(config_for(model), devices)
    assert found.measured
    assert found.fits != "no"
    assert found.total < 1.25 * plain.total + 4 * plain.compute + 3 * GB


def test_own_loads_teach_more_than_others(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "fit.json"
    teach(file, 3.0, fit.OVERHEAD["gpu"])
    (other,) = json.loads(file.read_text())["records"]
    status = model.stat()
    teach(file, 0.5, fit.OVERHEAD["gpu"], f"{model.name}:{status.st_size}:{status.st_mtime_ns}:1:1:1:1:1")
    (own,) = json.loads(file.read_text())["records"]
    others = [other | {"key": f"other {n}"} for n in range(5)]
    file.write_text(json.dumps({"version": 2, "records": [*others, own]}))
    assert Fit(file).correction(str(model)).compute == {"cpu": 0.5, "gpu": 0.5}
    elsewhere = shapes.llama(tmp_path / "another.gguf")
    assert Fit(file).correction(str(elsewhere)).compute == {"cpu": 3.0, "gpu": 3.0}


# ---- lack of memory after all


def planner(n_gpu_layers: int) -> Callable[[WorkerConfig], Any]:
    async def plan(_config: WorkerConfig) -> Plan:
        return Plan(gpus={"CUDA0": 8 * GB}, n_gpu_layers=n_gpu_layers)

    return plan


FULL = "ggml_cuda: ...\nCUDA error: out of memory\n  current device: 0\nFatal Python error: Aborted\n"


def started(offloading: Offload, **more: Any) -> WorkerConfig:
    config = WorkerConfig(model_id="m", model_path="m.gguf", **more)
    return asyncio.run(offloading.planned(config))


def test_each_death_for_lack_of_memory_leads_to_fewer_layers() -> None:
    offloading = Offload(planner(33))
    assert started(offloading).plan.at_most is None
    assert offloading.died("CUDA error: an illegal memory access was encountered") is None
    first = offloading.died(FULL)
    assert first is not None
    assert "33 layers on it; 16 from now on" in first
    assert started(offloading).plan.at_most == 16
    second = offloading.died(FULL)
    assert second is not None
    assert "16 layers on it; the CPU takes them all" in second
    assert started(offloading).plan.at_most == 0
    assert offloading.died(FULL) is None
    offloading.reset()
    assert started(offloading).plan.at_most is None


@pytest.mark.parametrize(
    "words",
    (
        "alloc_buffer: allocating 9 MiB on device 0: cudaMalloc failed: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA error: the resource allocation failed",
        "ROCm error: out of memory",
        "terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'",
        "what():  vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "ggml_vulkan: Device memory allocation of size 1073741824 failed.",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "ggml_metal: error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ),
)
def test_words_of_every_kind_of_gpu_are_known(words: str) -> None:
    offloading = Offload(planner(10))
    started(offloading)
    assert offloading.died(f"load_tensors: ...\n{words}\n") is not None


def test_nothing_is_planned_where_the_number_is_fixed_or_nothing_lies_there() -> None:
    fixed = Offload(planner(33))
    assert started(fixed, n_gpu_layers=20).plan == Plan()
    assert fixed.died(FULL) is None
    on_cpu = Offload(planner(0))
    started(on_cpu)
    assert on_cpu.died(FULL) is None
    unknown = Offload(planner(-1))  # the worker plans, and nobody knows what
    started(unknown)
    assert "its layers on it; the CPU takes them all" in (unknown.died(FULL) or "")


def test_a_planner_that_fails_or_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "PLAN_S", 0.05)

    async def fails(_config: WorkerConfig) -> Plan:
        raise OSError("the driver says no")

    async def hangs(_config: WorkerConfig) -> Plan:
        await asyncio.sleep(600)
        return Plan()

    for bad in (fails, hangs):
        assert started(Offload(bad)).plan == Plan()


def announced(monkeypatch: pytest.MonkeyPatch, n_gpu_layers: int) -> None:
    """Every app of this test plans so many layers."""

    async def plan(_self: Fit, _config: WorkerConfig) -> Plan:
        return Plan(gpus={"CUDA0": 8 * GB}, n_gpu_layers=n_gpu_layers)

    monkeypatch.setattr(Fit, "plan", plan)


def warnings(wire: Wire) -> list[str]:
    return [line["message"] for line in wire.events("log") if line["level"] == "warning"]


async def loaded(core: Core, epoch: int) -> ModelInfo:
    await eventually(lambda: core.supervisor.epoch == epoch and core.supervisor.phase == "ready", 60)
    assert core.state.model is not None
    return core.state.model


def test_a_load_tries_fewer_and_fewer_layers_and_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(monkeypatch, 20)

    async def test() -> None:
        async with app(tmp_path, model="fake:gpu_layers=6") as core, client(core) as wire:
            await wire.command("subscribe", events=["log", "engine.*", "model.*"], since=0)
            assert (await loaded(core, 1)).n_gpu_layers == 5
            await wire.event("model.loaded")
            assert [(" 20 layers" in line, " 10 layers" in line) for line in warnings(wire)] == [
                (True, False),
                (False, True),
            ]
            pid = core.supervisor.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert (await loaded(core, 2)).n_gpu_layers == 5
            assert len(warnings(wire)) == 2  # at once, this time

    run(test())


def test_a_gpu_that_holds_nothing_leaves_everything_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(monkeypatch, 80)

    async def test() -> None:
        async with app(tmp_path, model="fake:gpu_layers=0") as core, client(core) as wire:
            await wire.command("subscribe", events=["log", "model.*"], since=0)
            assert (await loaded(core, 1)).n_gpu_layers == 0
            await wire.event("model.loaded")
            assert len(warnings(wire)) == 3  # 80, 40 and 20 are tried
            assert "the CPU takes them all" in warnings(wire)[-1]

    run(test())


def test_layers_that_arent_where_they_were_announced_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(monkeypatch, 9)

    async def test() -> None:
        async with app(tmp_path, model="fake:") as core, client(core) as wire:
            await wire.command("subscribe", events=["log"], since=0)
            line = await wire.event("log", level="warning")
            assert "9 layers of fake were planned for GPUs and 0 are there" in line["message"]
            assert (await loaded(core, 1)).n_gpu_layers == 0

    run(test())


def test_an_abort_for_lack_of_memory_while_loading_is_tried_again_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(monkeypatch, 9)

    async def test() -> None:
        async with app(tmp_path, model="fake:tokens=3") as core, client(core) as wire:
            await loaded(core, 1)
            await wire.command("subscribe", events=["log", "engine.*", "model.*"])
            # two deaths while loading would otherwise bring the former model back
            await wire.command("models.load", model="fake:gpu_layers=3,gpu_abort=0,tokens=4")
            info = await loaded(core, 4)
            assert info.n_gpu_layers == 0
            first, second = [line for line in warnings(wire) if "ended for lack" in line]
            assert "9 layers on it; 4 from now on" in first
            assert "the CPU takes them all from now on" in second
            assert (await wire.finished(await wire.generate()))["usage"]["completion_tokens"] == 4
            assert not wire.events("model.failed")

    run(test())


def test_an_abort_for_lack_of_memory_in_an_answer_is_a_hiccup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(monkeypatch, 7)

    async def test() -> None:
        spec = "fake:gpu_layers=3,gpu_abort=5,tokens=30"
        async with app(tmp_path, model=spec) as core, client(core) as wire:
            await wire.command("subscribe", events=["*"], since=0)
            assert (await loaded(core, 1)).n_gpu_layers == 7
            generation = await wire.generate(sampling={"temperature": 0})
            finished = await wire.finished(generation)
            assert finished["finish_reason"] in ("stop", "length")
            assert wire.indices(generation) == list(range(30))
            assert (await loaded(core, 2)).n_gpu_layers == 3
            assert any("7 layers on it; 3 from now on" in line for line in warnings(wire))
        async with app(tmp_path / "calm", model="fake:tokens=30") as core, client(core) as wire:
            undisturbed = await wire.finished(await wire.generate(sampling={"temperature": 0}))
            assert undisturbed["text"] == finished["text"]

    run(test())


def test_layers_that_were_asked_for_are_left_where_they_abort(tmp_path: Path) -> None:
    async def test() -> None:
        spec = "fake:gpu_layers=3,gpu_abort=0"
        async with app(tmp_path, model="fake:tokens=3", gpu_layers=9) as core, client(core) as wire:
            await loaded(core, 1)
            await wire.command("subscribe", events=["*"])
            await wire.command("models.load", model=spec)
            failed = await wire.event("model.failed")
            assert failed["error"]["code"] == "load_failed"
            assert not any("from now on" in line for line in warnings(wire))
            await loaded(core, 4)  # the former one is back

    run(test())
