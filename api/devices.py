"""This machine's memory: what a load may take on the CPU and on each GPU, and what a worker holds there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path

import psutil

from api.telemetry import gpu_memory_of, read_gpus
from engine.fit import Device

_CGROUP = Path("/sys/fs/cgroup")


def this_machine(replaced_pid: int | None = None) -> list[Device]:
    """CPU and GPUs with what a load may take; the memory of a worker that it replaces counts as free."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    if (limit := _memory_limit()) is not None:
        total = min(total, limit[0])
        free = min(free, limit[1])
    with contextlib.suppress(psutil.Error):
        if replaced_pid is not None:
            free += held_by(replaced_pid)[1]
    devices = [Device(name="CPU", kind="cpu", memory_total=total, memory_free=min(free, total))]
    if not has_plugin("cuda"):
        return devices
    own = on_gpus(replaced_pid) if replaced_pid is not None else {}
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


def held_by(pid: int) -> tuple[int, int]:
    """A process's resident bytes, and those of them that no file gives back. Raises psutil.Error."""
    process = psutil.Process(pid)
    memory = process.memory_info()
    shared = getattr(memory, "shared", None)
    return memory.rss, memory.rss - shared if shared is not None else process.memory_full_info().uss


def on_gpus(pid: int) -> dict[str, int]:
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


def has_plugin(*names: str) -> bool:
    """Whether llama.cpp was built with one of these backends. Asked of its files: it isn't loaded here."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return False
    package = Path(spec.origin).parent
    folders = (package / "lib", package.parent / "bin")
    return any(any(folder.glob(f"*ggml-{name}*")) for folder in folders for name in names)


def other_gpu() -> bool:
    """Whether there may be a GPU whose memory isn't known here, so that nothing can be refused."""
    return has_plugin("cuda", "vulkan", "hip", "sycl", "musa", "metal")


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
