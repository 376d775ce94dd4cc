"""Fit: what a model takes before it is loaded, and what loads on this machine taught about that.

Weights that are mapped from the file count in full, though the system may take their pages back: a model
runs at its speed only while they stay in memory. What is measured after a load is what llama.cpp allocated
and, as overhead, what the worker holds beside: its own pages, less those of cache, state and weights that
were copied. Buffers for computing count as allocated, since their pages are touched only by full batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import Field, ValidationError

from api.paths import write_atomically
from api.telemetry import gpu_memory_of, read_gpus
from engine import fit
from engine.errors import ErrorInfo, TokenglassError
from engine.fakespec import is_fake
from engine.fit import Correction, Device, Estimate, Kind, Sizes, Use
from engine.gguf import read_layout
from engine.shape import ModelShape, shape_of
from engine.types import ModelInfo, Value, WorkerConfig

logger = logging.getLogger(__name__)

MAX_RECORDS = 200
MAX_FILE_BYTES = 4 << 20
T = TypeVar("T")
_GPU_NAME = re.compile(r"(CUDA|ROCm|Vulkan|SYCL|MUSA|Metal|MTL)\d*")
_CGROUP = Path("/sys/fs/cgroup")


class Record(Value):
    """One load of a model with certain sizes. Bytes, by device."""

    key: str
    at: float
    """Unix seconds."""
    estimated: list[Use]
    """Without any correction."""
    measured: list[Use]
    worker_rss: int
    worker_anonymous: int


class _File(Value):
    version: int = 1
    records: list[Record] = Field(default_factory=list, max_length=MAX_RECORDS)


class Fit:
    """Estimates for one machine. Its plain methods read files and ask drivers; any thread may call them."""

    def __init__(self, file: Path, worker_pid: Callable[[], int | None] = lambda: None) -> None:
        self._file = file
        self._worker_pid = worker_pid
        self._lock = threading.Lock()
        self._records: list[Record] | None = None
        self._shapes: dict[tuple[str, int, int], ModelShape | None] = {}

    async def estimate(self, config: WorkerConfig) -> Estimate:
        """What a load with this configuration takes. Raises TokenglassError where it can't be told."""
        return await self._in_thread(lambda: self.estimate_now(config))

    async def refusal(self, config: WorkerConfig) -> ErrorInfo | None:
        """Why a load can't succeed; None where it may, or where nobody can tell."""
        return await self._in_thread(lambda: self._refusal(config))

    async def learn(self, config: WorkerConfig, info: ModelInfo) -> None:
        """Keep what a load really took. Errors are logged."""
        pid = self._worker_pid()
        if pid is not None and info.buffers:
            await self._in_thread(lambda: self.learn_now(config, info, pid))

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, action)

    def estimate_now(self, config: WorkerConfig, devices: list[Device] | None = None) -> Estimate:
        """As `estimate`; `devices` stand in for this machine's."""
        shape = self._shape(config.model_path)
        sizes = fit.sizes_of(config, shape.n_ctx_train, embedding=shape.embedding)
        places = devices if devices is not None else this_machine(self._worker_pid())

        def look(measured: dict[str, Use] | None) -> Estimate:
            return fit.estimate(
                shape,
                sizes,
                places,
                n_gpu_layers=config.n_gpu_layers,
                tensor_split=config.tensor_split,
                correction=self.correction(),
                measured=measured,
            )

        found = look(None)
        known = self._find(_key(config, sizes, found.n_gpu_layers))
        return look({use.device: use for use in known.measured}) if known is not None else found

    def _refusal(self, config: WorkerConfig) -> ErrorInfo | None:
        if is_fake(config.model_path) or (_other_gpu() and not read_gpus()):
            return None
        try:
            found = self.estimate_now(config)
        except TokenglassError:  # what is wrong with it, the load will tell
            return None
        return refused(config.model_id, found) if found.fits == "no" else None

    def _shape(self, path: str) -> ModelShape:
        """Raises TokenglassError `model_unsupported` where the header tells too little, or what is wrong."""
        if is_fake(path):
            raise TokenglassError("bad_state", "a fake model takes no memory worth an estimate")
        try:
            status = Path(path).stat()
        except (OSError, ValueError):
            raise TokenglassError("not_found", f"there is no file {path}") from None
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._shapes:
            if len(self._shapes) > 1000:
                self._shapes.clear()
            self._shapes[key] = shape_of(read_layout(Path(path)))
        shape = self._shapes[key]
        if shape is None:
            raise TokenglassError(
                "model_unsupported",
                "the model's header tells too little for an estimate",
                hint="load it and see",
            )
        return shape

    # ---- what was measured

    def learn_now(self, config: WorkerConfig, info: ModelInfo, pid: int) -> Record | None:
        """Keep what the load took that ended just now in this process; None where that can't be told."""
        try:
            shape = self._shape(config.model_path)
            rss, anonymous = _held_by(pid)
        except (TokenglassError, psutil.Error) as error:
            logger.info("nothing is learned from this load: %s", error)
            return None
        sizes = Sizes(info.n_ctx, info.n_slots, info.n_kv, info.n_ubatch)
        devices = this_machine(pid)
        estimated = fit.demand(shape, sizes, devices, info.n_gpu_layers, info.tensor_split)
        measured = _measured(estimated, info.buffers, anonymous, _on_gpus(pid))
        record = Record(
            key=_key(config, sizes, info.n_gpu_layers),
            at=time.time(),
            estimated=estimated,
            measured=measured,
            worker_rss=rss,
            worker_anonymous=anonymous,
        )
        with self._lock:
            others = [other for other in self._load() if other.key != record.key]
            self._records = [*others, record][-MAX_RECORDS:]
            text = _File(records=self._records).model_dump_json(indent=1)
            try:
                write_atomically(self._file, text.encode() + b"\n")
            except OSError as error:
                logger.warning("can't write %s: %s", self._file, error)
        return record

    def correction(self) -> Correction:
        """What the loads on this machine have in common: medians of what they took over what was told."""
        with self._lock:
            records = list(self._load())
        ratios: dict[Kind, list[float]] = {"cpu": [], "gpu": []}
        overheads: dict[Kind, list[float]] = {"cpu": [], "gpu": []}
        for record in records:
            for told, took in zip(record.estimated, record.measured, strict=False):
                if told.compute and took.compute:
                    ratios[told.kind].append(took.compute / told.compute)
                if told.overhead and took.overhead:
                    beyond = told.overhead - fit.OVERHEAD[told.kind]  # what the vocabulary adds
                    overheads[told.kind].append(max(0, took.overhead - beyond))
        return Correction(
            compute={
                kind: min(4.0, max(0.25, statistics.median(values)))
                for kind, values in ratios.items()
                if values
            },
            overhead={kind: int(statistics.median(values)) for kind, values in overheads.items() if values},
        )

    def _find(self, key: str) -> Record | None:
        with self._lock:
            return next((record for record in self._load() if record.key == key), None)

    def _load(self) -> list[Record]:
        """Under the lock. A file that can't be read or understood counts as none."""
        if self._records is None:
            self._records = []
            with contextlib.suppress(FileNotFoundError):
                try:
                    if self._file.stat().st_size <= MAX_FILE_BYTES:
                        self._records = _File.model_validate_json(self._file.read_bytes()).records
                except (OSError, ValidationError, ValueError) as error:
                    if isinstance(error, FileNotFoundError):
                        raise
                    logger.warning("what was learned about memory is damaged and begins anew: %s", self._file)
        return self._records


def estimated_config(
    config: WorkerConfig, ctx: int | None, parallel: int | None, gpu_layers: int | None
) -> WorkerConfig:
    """A configuration with what is given instead; other sizes need other cells."""
    given = {"n_ctx": ctx, "n_slots": parallel, "n_gpu_layers": gpu_layers}
    update: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if ctx is not None or parallel is not None:
        update["n_kv"] = 0
    return config.model_copy(update=update)


def refused(model: str, found: Estimate) -> ErrorInfo:
    """What the user is told where a model can't fit."""
    short = max(found.devices, key=lambda use: use.total - use.memory_free)
    where = "" if len(found.devices) == 1 else f" on {short.device}"
    slots = f"{found.n_slots} contexts" if found.n_slots > 1 else "a context"
    return ErrorInfo(
        code="out_of_memory",
        message=f"{model} with {slots} of {found.n_ctx} tokens needs {gigabytes(short.total)}{where}, "
        f"and {gigabytes(short.memory_free)} are free",
        hint="; ".join([*found.hints, "force loads it anyway"]),
    )


def gigabytes(n_bytes: int) -> str:
    """Bytes in units of 1000: 7.9 GB, 480 MB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def this_machine(replaced_pid: int | None = None) -> list[Device]:
    """CPU and GPUs with what a load may take; the memory of a worker that it replaces counts as free."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    if (limit := _memory_limit()) is not None:
        total = min(total, limit[0])
        free = min(free, limit[1])
    with contextlib.suppress(psutil.Error):
        if replaced_pid is not None:
            free += _held_by(replaced_pid)[1]
    devices = [Device(name="CPU", kind="cpu", memory_total=total, memory_free=min(free, total))]
    if not _has_plugin("cuda"):
        return devices
    own = _on_gpus(replaced_pid) if replaced_pid is not None else {}
    gpus = read_gpus()
    for number, index in enumerate(_visible(len(gpus))):
        gpu = gpus[index]
        name = f"CUDA{number}"
        if gpu.memory_total is not None and gpu.memory_used is not None:
            left = gpu.memory_total - gpu.memory_used + own.get(name, 0)
            devices.append(
                Device(
                    name=name,
                    kind="gpu",
                    memory_total=gpu.memory_total,
                    memory_free=min(left, gpu.memory_total),
                )
            )
    return devices


def _held_by(pid: int) -> tuple[int, int]:
    """A process's resident bytes, and those of them that no file gives back. Raises psutil.Error."""
    process = psutil.Process(pid)
    memory = process.memory_info()
    shared = getattr(memory, "shared", None)
    return memory.rss, memory.rss - shared if shared is not None else process.memory_full_info().uss


def _on_gpus(pid: int) -> dict[str, int]:
    """What a process holds on each GPU, by the name that llama.cpp gives it."""
    held = gpu_memory_of(pid)
    names = enumerate(_visible(max(held) + 1)) if held else ()
    return {f"CUDA{number}": held[index] for number, index in names if index in held}


def _visible(n_gpus: int) -> list[int]:
    """Indices of the GPUs that CUDA may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(n_gpus))
    parts = [part.strip() for part in named.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):  # by other names than numbers
        return list(range(n_gpus))
    return [int(part) for part in parts if int(part) < n_gpus]


def _has_plugin(*names: str) -> bool:
    """Whether llama.cpp was built with one of these backends. Asked of its files: it isn't loaded here."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return False
    package = Path(spec.origin).parent
    folders = (package / "lib", package.parent / "bin")
    return any(any(folder.glob(f"*ggml-{name}*")) for folder in folders for name in names)


def _other_gpu() -> bool:
    """Whether there may be a GPU whose memory isn't known here, so that nothing can be refused."""
    return _has_plugin("cuda", "vulkan", "hip", "sycl", "musa", "metal")


def _memory_limit(
    root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")
) -> tuple[int, int] | None:
    """Total and free bytes that a container grants, from its tightest limit; None where there is none."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found: tuple[int, int] | None = None
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers:
            continue  # version 1: there the memory controller is rarely delegated
        while True:
            folder = root / path.strip("/")
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / "memory.max").read_text())
                used = int((folder / "memory.current").read_text())
                stat = dict(pair.split() for pair in (folder / "memory.stat").read_text().splitlines())
                free = limit - used + int(stat.get("inactive_file", 0))
                if found is None or free < found[1]:
                    found = (limit, max(0, free))
            if not path.strip("/"):
                break
            path = path.rpartition("/")[0]
    return found


def _measured(
    estimated: list[Use], buffers: dict[str, int], anonymous: int, on_gpus: dict[str, int]
) -> list[Use]:
    """What was allocated on each device, in the estimate's order."""
    taken: dict[str, dict[str, int]] = {}
    mapped = 0
    for name, size in buffers.items():
        place, _, kind = name.rpartition(" ")
        mapped += size if place.endswith("_Mapped") else 0
        device = place if _GPU_NAME.fullmatch(place) else "CPU"
        held = taken.setdefault(device, {})
        held[kind] = held.get(kind, 0) + size
    uses = []
    for told in estimated:
        held = taken.get(told.device, {})
        kv, state = held.get("KV", 0), held.get("RS", 0)
        compute = held.get("compute", 0) + held.get("output", 0)
        if told.kind == "cpu":
            # copies of weights take pages of their own; mapped ones count as the header has them
            weights = told.weights
            overhead = anonymous - kv - state - (held.get("model", 0) - mapped)
        else:
            weights = held.get("model", 0)
            overhead = on_gpus.get(told.device, 0) - weights - kv - state - compute
            overhead = overhead if held and overhead > 0 else told.overhead
        overhead = max(0, overhead)
        uses.append(
            told.model_copy(
                update={
                    "weights": weights,
                    "kv_cache": kv,
                    "state": state,
                    "compute": compute,
                    "overhead": overhead,
                    "total": weights + kv + state + compute + overhead,
                }
            )
        )
    return uses


def _key(config: WorkerConfig, sizes: Sizes, n_gpu_layers: int) -> str:
    """A file as it is now, and the sizes it was loaded with."""
    path = Path(config.model_path)
    status = path.stat()
    parts = (path.name, status.st_size, status.st_mtime_ns, sizes.n_ctx, sizes.n_slots, sizes.n_kv)
    return ":".join(map(str, (*parts, sizes.n_ubatch, n_gpu_layers)))
