"""llama.cpp's library itself: its functions as `lib`, its log, its compute devices."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections import deque
from pathlib import Path

import llama_cpp
from llama_cpp import llama_cpp as lib

from engine.fit import Device

__all__ = ["buffers", "devices", "gpus", "last_error", "lib", "load_plugins", "start_log"]

_LOG_INFO, _LOG_ERROR, _LOG_CONTINUED = 2, 4, 5  # ggml_log_level
_GPU, _IGPU = 1, 2  # ggml_backend_dev_type
_log_level = 0

_errors: deque[str] = deque(maxlen=8)
"""llama.cpp's last error lines, to tell why a load failed."""


_buffers: dict[str, int] = {}
_BUFFER = re.compile(r"\S+\s+(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")


@lib.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    global _log_level
    if level != _LOG_CONTINUED:
        _log_level = level
    if _log_level < _LOG_INFO:
        return
    line = text.decode("utf-8", "replace")
    sys.stderr.write(line)
    if match := _BUFFER.match(line):
        _take_buffer(f"{match[1]} {match[2]}", float(match[3]))
    if level == _LOG_ERROR:
        _errors.append(line.strip())


def _take_buffer(name: str, mebibytes: float) -> None:
    """Several parts of a model or cache may lie on one device; graph and outputs are told anew each time."""
    again = name.endswith((" compute", " output"))
    _buffers[name] = (0 if again else _buffers.get(name, 0)) + round(mebibytes * (1 << 20))


def start_log() -> None:
    """Send llama.cpp's log to stderr from now on, and forget what it told of an earlier load."""
    _buffers.clear()
    _errors.clear()
    lib.llama_log_set(_log, ctypes.c_void_p(0))


def buffers() -> dict[str, int]:
    """Bytes that were allocated since `start_log`, by device and kind, e.g. `CPU KV`."""
    return dict(_buffers)


def last_error() -> str:
    """The last line of the log that tells of an error; empty where there is none."""
    return next((line for line in reversed(_errors) if "error" in line.lower()), "")


def load_plugins() -> None:
    """Load compute backends where they are plugins (`GGML_BACKEND_DL`): the best CPU variant, and a GPU's.

    Looked up on the library that is already open: a second copy would have a registry of its own.
    """
    native = lib._lib
    if native.ggml_backend_dev_count() > 0:
        return
    package = Path(llama_cpp.__file__).parent
    native.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    native.ggml_backend_load_all_from_path.restype = None
    for folder in (package / "lib", package.parent / "bin"):
        if any(folder.glob("*ggml-cpu*")):
            native.ggml_backend_load_all_from_path(os.fsencode(folder))
            return


def devices() -> tuple[list[str], bool]:
    """Descriptions of the compute devices, and whether one is a GPU."""
    native = lib._lib
    native.ggml_backend_dev_count.restype = ctypes.c_size_t
    native.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    native.ggml_backend_dev_get.restype = ctypes.c_void_p
    native.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    native.ggml_backend_dev_description.restype = ctypes.c_char_p
    names = []
    for i in range(native.ggml_backend_dev_count()):
        description = native.ggml_backend_dev_description(native.ggml_backend_dev_get(i))
        names.append(description.decode("utf-8", "replace") if description else "unknown")
    return names, bool(lib.llama_supports_gpu_offload())


def gpus() -> list[Device]:
    """The GPUs with their memory, in the order in which llama.cpp distributes layers over them.

    Graphics units that share the computer's memory count only where there is no other GPU.
    """
    native = lib._lib
    native.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    native.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    native.ggml_backend_dev_name.restype = ctypes.c_char_p
    native.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    native.ggml_backend_dev_memory.restype = None
    kinds: dict[int, list[Device]] = {_GPU: [], _IGPU: []}
    for i in range(native.ggml_backend_dev_count()):
        device = native.ggml_backend_dev_get(i)
        kind = native.ggml_backend_dev_type(device)
        if kind in kinds:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            native.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            name = native.ggml_backend_dev_name(device).decode("utf-8", "replace")
            kinds[kind].append(
                Device(name=name, kind="gpu", memory_total=total.value, memory_free=free.value)
            )
    return kinds[_GPU] or kinds[_IGPU][:1]
