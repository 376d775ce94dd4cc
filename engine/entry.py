"""Where a spawned worker process begins.

The app imports this module to name the function, and must not thereby import llama.cpp or the
scheduler; so the worker itself is imported by name, in the child.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any


def run_worker(connection: Connection, config_json: str, epoch: int, log_path: str) -> None:
    """Send the process's output to the log file, then load the model and serve until the pipe closes."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    # a windowed frozen app has no standard streams at all
    sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
    # on an abort ggml would start a debugger for its backtrace, which takes seconds
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # CUDA would number GPUs by speed, and the app, which plans for them, by their place
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the app decides
    # comes up while this process imports and loads, so that no answer waits for it
    renderer: Any = importlib.import_module("engine.renderer").Renderer()
    worker: Any = importlib.import_module("engine.worker")
    worker.main(connection, config_json, epoch, renderer)


def run_bench_side(connection: Connection, config_json: str, kind: str) -> None:
    """What `tokenglass bench` measures the app against: `bare` or `engine`, see `engine.bench`."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    bench: Any = importlib.import_module("engine.bench")
    bench.serve(connection, config_json, kind)
