"""What the machine does beside the tokens: CPU, memory and GPUs, sampled in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

from engine.events import Event, GpuMetrics, SystemMetrics

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5

T = TypeVar("T")


class Telemetry:
    """Publishes `metrics.system` twice a second, on the loop that ran `start`."""

    def __init__(
        self,
        publish: Callable[[Event], object],
        worker_pid: Callable[[], int | None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._publish = publish
        self._worker_pid = worker_pid
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._delivered = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._delivered.set()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns after 1 s at most, even where a driver hangs."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        app = _Process(os.getpid())
        worker: _Process | None = None
        psutil.cpu_percent()  # the first call only sets the mark that the next one measures from
        with _Gpus() as gpus:
            while not self._stopping.wait(self._interval_s):
                pid = self._worker_pid()
                if worker is None or worker.pid != pid:
                    worker = _Process(pid) if pid is not None else None
                try:
                    event = _sample(app, worker, gpus)
                except OSError:  # out of file descriptors, for as long as too many clients are there
                    continue
                if self._delivered.is_set() and not self._stopping.is_set():  # a busy loop gets no backlog
                    self._delivered.clear()
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: SystemMetrics) -> None:
        self._delivered.set()
        if not self._stopping.is_set():
            self._publish(event)


def _sample(app: _Process, worker: _Process | None, gpus: _Gpus) -> SystemMetrics:
    memory = psutil.virtual_memory()
    app_cpu, app_rss = app.sample()
    worker_cpu, worker_rss = worker.sample() if worker is not None else (0.0, 0)
    return SystemMetrics(
        cpu_percent=psutil.cpu_percent(),
        app_cpu_percent=app_cpu,
        worker_cpu_percent=worker_cpu,
        ram_used=memory.total - memory.available,
        ram_total=memory.total,
        app_rss=app_rss,
        worker_rss=worker_rss,
        gpus=gpus.sample(),
    )


def read_gpus() -> list[GpuMetrics]:
    """One look at the GPUs, for reports; may take as long as the driver does."""
    with _Gpus() as gpus:
        return gpus.sample()


def gpu_memory_of(pid: int) -> dict[int, int]:
    """Bytes that a process holds on each GPU, by index; GPUs that don't tell are left out."""
    with _Gpus() as gpus:
        return gpus.memory_of(pid)


class _Process:
    """CPU use and resident memory of one process; zeros once it is gone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
            self._process.cpu_percent()
        except psutil.Error:
            self._process = None

    def sample(self) -> tuple[float, int]:
        """Percent of one core since the last call, and bytes."""
        if self._process is None:
            return 0.0, 0
        try:
            with self._process.oneshot():
                return self._process.cpu_percent(), self._process.memory_info().rss
        except psutil.Error:
            self._process = None
            return 0.0, 0


class _Gpus:
    """NVIDIA's GPUs where the driver is there. Used in one thread."""

    def __init__(self) -> None:
        self._handles: list[tuple[str, object]] = []

    def __enter__(self) -> _Gpus:
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 - whatever a driver does: there is no GPU then
            logger.info("no NVIDIA GPU: %s", error)
            return self
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name = pynvml.nvmlDeviceGetName(handle)
                self._handles.append((name.decode() if isinstance(name, bytes) else str(name), handle))
        except pynvml.NVMLError as error:
            logger.warning("the GPUs can't be listed: %s", error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def sample(self) -> list[GpuMetrics]:
        return [self._sample(name, handle) for name, handle in self._handles]

    def memory_of(self, pid: int) -> dict[int, int]:
        held = {}
        for index, (_, handle) in enumerate(self._handles):
            processes = self._ask(
                lambda handle=handle: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)  # type: ignore[misc]
            )
            for process in processes or ():
                if process.pid == pid and process.usedGpuMemory is not None:
                    held[index] = int(process.usedGpuMemory)
        return held

    def _sample(self, name: str, handle: object) -> GpuMetrics:
        nvml = self._nvml
        load = self._ask(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        temperature = self._ask(
            lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        )
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        return GpuMetrics(
            name=name,
            load_percent=load,
            memory_used=memory.used if memory is not None else None,
            memory_total=memory.total if memory is not None else None,
            temperature_c=temperature,
            power_w=power,
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._nvml.NVMLError:  # this GPU doesn't tell
            return None
