"""Fit: what a model takes before it is loaded, and what loads on this machine taught about that.

Weights that are mapped from the file count in full, though the system may take their pages back: a model
runs at its speed only while they stay in memory. What is measured after a load is what llama.cpp allocated
and, as overhead, what the worker holds beside: its own pages, less those of cache, state and weights that
were copied. Buffers for computing count as allocated, since their pages are touched only by full batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import Field, ValidationError

from api.devices import held_by, on_gpus, other_gpu, this_machine
from api.paths import write_atomically
from api.telemetry import read_gpus
from engine import fit
from engine.errors import ErrorInfo, TokenglassError
from engine.fakespec import is_fake
from engine.fit import Device, Estimate, Sizes, Use
from engine.gguf import read_layout
from engine.shape import ModelShape, shape_of
from engine.types import Correction, Kind, ModelInfo, Plan, Value, WorkerConfig

logger = logging.getLogger(__name__)

MAX_RECORDS = 200
MAX_FILE_BYTES = 4 << 20
MAX_BYTES = 1 << 50
"""More is no memory."""
_VERSION = 2
"""Of the file. The first one's estimates counted other logits than the loads made."""
T = TypeVar("T")
_GPU_NAME = re.compile(r"(CUDA|ROCm|Vulkan|SYCL|MUSA|Metal|MTL)\d*")


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
    version: int = _VERSION
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

    async def plan(self, config: WorkerConfig) -> Plan:
        """What a worker that starts now is to put on GPUs: as the estimate says."""
        return Plan() if is_fake(config.model_path) else await self._in_thread(lambda: self.plan_now(config))

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
                correction=self.correction(config.model_path),
                measured=measured,
            )

        found = look(None)
        known = self._find(_key(config, sizes, found.n_gpu_layers))
        return look({use.device: use for use in known.measured}) if known is not None else found

    def plan_now(self, config: WorkerConfig, devices: list[Device] | None = None) -> Plan:
        """As `plan`; where nothing can be told, the worker plans itself with what was learned."""
        try:
            learned = self.correction(config.model_path)
            found = self.estimate_now(config, devices)
        except TokenglassError:
            return Plan()
        gpus = {use.device: use.memory_total for use in found.devices if use.kind == "gpu"}
        if not gpus and devices is None and other_gpu():
            return Plan(correction=learned)
        return Plan(
            gpus=gpus,
            n_gpu_layers=found.n_gpu_layers,
            tensor_split=found.tensor_split,
            correction=learned,
        )

    def _refusal(self, config: WorkerConfig) -> ErrorInfo | None:
        if is_fake(config.model_path) or (other_gpu() and not read_gpus()):
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
            rss, anonymous = held_by(pid)
        except (TokenglassError, psutil.Error) as error:
            logger.info("nothing is learned from this load: %s", error)
            return None
        sizes = fit.sizes_of(config, shape.n_ctx_train, embedding=shape.embedding)
        devices = this_machine(pid)
        estimated = fit.demand(shape, sizes, devices, info.n_gpu_layers, info.tensor_split)
        measured = _measured(estimated, info.buffers, anonymous, on_gpus(pid))
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

    def correction(self, path: str) -> Correction:
        """What the loads of this file on this machine taught, or where there were none, those of all files.

        Medians of what they took over what was told. Raises TokenglassError `not_found`.
        """
        file = _file_key(path)
        with self._lock:
            records = list(self._load())
        everybody = _Lessons(records)
        own = _Lessons([record for record in records if record.key.startswith(file)])
        return fit.bounded(
            Correction(
                compute=everybody.compute() | own.compute(), overhead=everybody.overhead() | own.overhead()
            )
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
                        file = _File.model_validate_json(self._file.read_bytes())
                        records = file.records if file.version == _VERSION else []
                        self._records = [record for record in records if _credible(record)]
                except (OSError, ValidationError, ValueError) as error:
                    if isinstance(error, FileNotFoundError):
                        raise
                    logger.warning("what was learned about memory is damaged and begins anew: %s", self._file)
        return self._records


class _Lessons:
    """What some loads have in common, by kind of device."""

    def __init__(self, records: list[Record]) -> None:
        self._ratios: dict[Kind, list[float]] = {}
        self._overheads: dict[Kind, list[int]] = {}
        for record in records:
            for told, took in zip(record.estimated, record.measured, strict=True):
                if told.layers and told.compute and took.compute:  # what else is computed is little
                    self._ratios.setdefault(told.kind, []).append(took.compute / told.compute)
                if told.overhead and took.overhead:
                    beyond = told.overhead - fit.OVERHEAD[told.kind]  # what the vocabulary adds
                    self._overheads.setdefault(told.kind, []).append(took.overhead - beyond)

    def compute(self) -> dict[Kind, float]:
        """Measured over estimated compute buffers."""
        return {kind: statistics.median(values) for kind, values in self._ratios.items()}

    def overhead(self) -> dict[Kind, int]:
        """Bytes beside what the vocabulary takes."""
        return {kind: int(statistics.median(values)) for kind, values in self._overheads.items()}


def _credible(record: Record) -> bool:
    """Whether sizes can be what somebody measured; how large they may be at most, `engine.fit` says."""
    both = (*record.estimated, *record.measured)
    parts = ("weights", "kv_cache", "state", "compute", "overhead", "total")
    return all(0 <= getattr(use, part) <= MAX_BYTES for use in both for part in parts) and (
        [use.device for use in record.estimated] == [use.device for use in record.measured]
    )


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


def _measured(
    estimated: list[Use], buffers: dict[str, int], anonymous: int, gpus_held: dict[str, int]
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
            overhead = gpus_held.get(told.device, 0) - weights - kv - state - compute
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


def _file_key(path: str) -> str:
    """A file as it is now. Raises TokenglassError `not_found`."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        raise TokenglassError("not_found", f"there is no file {path}") from None
    return f"{Path(path).name}:{status.st_size}:{status.st_mtime_ns}:"


def _key(config: WorkerConfig, sizes: Sizes, n_gpu_layers: int) -> str:
    """A file as it is now, and the sizes it was loaded with."""
    parts = (sizes.n_ctx, sizes.n_slots, sizes.n_kv, sizes.n_ubatch, n_gpu_layers)
    return _file_key(config.model_path) + ":".join(map(str, parts))
