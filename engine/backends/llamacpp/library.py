"""llama.cpp's library itself: its functions as `lib`, its log, its compute devices."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from pathlib import Path

import llama_cpp
from llama_cpp import llama_cpp as lib

__all__ = ["devices", "last_error", "lib", "load_plugins", "start_log"]

_LOG_INFO, _LOG_ERROR, _LOG_CONTINUED = 2, 4, 5  # ggml_log_level
_log_level = 0

_errors: deque[str] = deque(maxlen=8)
"""llama.cpp's last error lines, to tell why a load failed."""


@lib.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    global _log_level
    if level != _LOG_CONTINUED:
        _log_level = level
    if _log_level < _LOG_INFO:
        return
    line = text.decode("utf-8", "replace")
    sys.stderr.write(line)
    if level == _LOG_ERROR:
        _errors.append(line.strip())


def start_log() -> None:
    """Send llama.cpp's log to stderr from now on."""
    lib.llama_log_set(_log, ctypes.c_void_p(0))


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
