import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from api.telemetry import Telemetry, read_gpus
from engine.events import Event, SystemMetrics
from tests.api.harness import eventually


def collect(
    worker_pid: Callable[[], int | None],
    wait: Callable[[list[SystemMetrics]], Awaitable[None]],
    interval_s: float = 0.05,
) -> list[SystemMetrics]:
    events: list[SystemMetrics] = []

    def publish(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert isinstance(event, SystemMetrics)
        events.append(event)

    async def main() -> None:
        telemetry = Telemetry(publish, worker_pid, interval_s)
        telemetry.start()
        try:
            await wait(events)
        finally:
            start = time.monotonic()
            telemetry.stop()
            assert time.monotonic() - start < 30
        count = len(events)
        await asyncio.sleep(0.2)
        assert len(events) == count

    asyncio.run(main())
    return events


async def a_few(events: list[SystemMetrics]) -> None:
    await eventually(lambda: len(events) >= 4)


async def some_work(events: list[SystemMetrics]) -> None:
    """Until a worker that does what it can was seen doing it, among others that do the same."""
    await a_few(events)
    await eventually(lambda: max(event.worker_cpu_percent for event in events) > 10)


def test_samples_of_app_worker_and_machine() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "x = bytes(30_000_000)\nwhile True: pass"])
    try:
        events = collect(lambda: worker.pid, some_work)
    finally:
        worker.kill()
        worker.wait()
    last = events[-1]
    assert 0 <= last.cpu_percent <= 100
    assert 0 < last.ram_used < last.ram_total
    assert last.app_rss > 1_000_000
    assert last.worker_rss > 1_000_000
    times = [event.t for event in events]
    assert times == sorted(times)


def test_a_worker_that_ends_counts_nothing() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "pass"])
    worker.wait()
    events = collect(lambda: worker.pid, a_few)
    assert {(event.worker_cpu_percent, event.worker_rss) for event in events} == {(0.0, 0)}


def test_without_a_worker() -> None:
    assert all(event.worker_rss == 0 for event in collect(lambda: None, a_few))


def test_it_goes_on_after_running_out_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = psutil.virtual_memory, iter(range(1000))

    def scarce() -> object:
        if next(calls) < 2:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(psutil, "virtual_memory", scarce)
    assert collect(lambda: None, a_few)


def test_a_busy_loop_gets_no_backlog() -> None:
    async def busy(events: list[SystemMetrics]) -> None:
        await a_few(events)
        before = len(events)
        time.sleep(1.0)  # noqa: ASYNC251 - twenty samples long
        await asyncio.sleep(0.01)
        assert len(events) < before + 10

    collect(lambda: None, busy)


def test_costs_next_to_nothing() -> None:
    """At its real rate: well below 1 % of a core (allowed here: 3 %, for busy machines)."""

    async def two_seconds(events: list[SystemMetrics]) -> None:
        await eventually(lambda: events != [])  # imports and drivers come before
        gc.disable()  # what other tests have left behind
        start_t, start = time.monotonic(), time.process_time()
        await asyncio.sleep(2.0)
        spent, took = time.process_time() - start, time.monotonic() - start_t
        gc.enable()
        assert spent / took < 0.03

    collect(os.getpid, two_seconds, 0.5)


class FakeNvml:
    """As much of NVML as is used; the second GPU tells only its name."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return "Zero" if handle == 0 else b"One"

    def __getattr__(self, name: str) -> Any:
        values = {
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=10, total=100),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 75_500,
        }

        def ask(handle: int, *_: object) -> Any:
            if handle == 1:
                raise self.NVMLError("not supported")
            return values[name]

        return ask


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    zero, one = read_gpus()
    assert zero.model_dump() == {
        "name": "Zero",
        "load_percent": 42.0,
        "memory_used": 10,
        "memory_total": 100,
        "temperature_c": 61.0,
        "power_w": 75.5,
    }
    assert one.name == "One"
    assert one.load_percent is one.memory_used is one.temperature_c is one.power_w is None
    assert nvml.open == 0


def test_a_driver_that_fails_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libnvidia-ml.so.1: wrong ELF class")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=broken))
    assert read_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus() == []
