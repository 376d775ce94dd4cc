"""The worker process: loads one model and runs the step loop until told to leave or the app is gone.

Three threads. The main thread owns the model and steps. `pipe-in` reads commands, renders and
tokenizes prompts (beside the decoding) and ends the process when the pipe closes, so that a worker
never outlives its app. `pipe-out` encodes and sends events, so that a busy app never holds a step up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from engine import embedding, fakespec, ipc
from engine.backend import Backend, Loader, OffloadError
from engine.commands import Cancel, Control, ControlCommand, Embed, Generate, Shutdown
from engine.core import EngineCore, Prepared
from engine.embedding import EmbeddingJob, EmbeddingQueue
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    EngineStarted,
    GenerationFinished,
    LogLine,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
)
from engine.gguf import header_of_model
from engine.prepare import Preparer
from engine.renderer import Renderer
from engine.rendering import TemplateFailedError
from engine.replies import EmbedDone, Message
from engine.types import Timings, Usage, WorkerConfig

PROGRESS_INTERVAL_S = 0.1
MAX_TRIES = 4
"""Loads of a model whose layers the GPU turns out not to hold; the last one gives it none."""
MAX_WAITING = 64
"""Steps whose messages may wait to be sent: an app that can't follow slows decoding down."""
MAX_AT_ONCE = 16
"""Steps whose messages go out as one, so that the app has a turn for something else after it."""


class Outbox:
    """Hands messages to the `pipe-out` thread; what gathers while it sends goes out as one message."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[Sequence[Message] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pipe-out", daemon=True)
        self._thread.start()

    def put(self, messages: Sequence[Message]) -> None:
        if messages:
            while self._queue.qsize() >= MAX_WAITING:
                time.sleep(0.0005)
            self._queue.put(messages)

    def close(self) -> None:
        """Send what is left and end."""
        self._queue.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        closing = False
        while not closing:
            item = self._queue.get()
            messages: list[Message] = []
            n_steps = 0
            while item is not None:
                messages.extend(item)
                n_steps += 1
                if n_steps == MAX_AT_ONCE or self._queue.empty():
                    break
                item = self._queue.get()
            closing = item is None
            if messages:
                try:
                    ipc.send_messages(self._connection, messages)
                except OSError:
                    os._exit(0)  # the app is gone


class Worker:
    """Joins pipe and core: commands in, prepared beside the steps; events out after each step."""

    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        self._connection = connection
        self._outbox = outbox
        self._commands: queue.SimpleQueue[Prepared | Control | Cancel | EmbeddingJob | None]
        self._commands = queue.SimpleQueue()
        """For the main thread, in the order in which they came; None: leave."""
        self._loaded = threading.Event()
        # from the first moment on, so that a load can be left and a vanished app is noticed during it
        threading.Thread(target=self._read, name="pipe-in", daemon=True).start()

    def run(self, backend: Backend, config: WorkerConfig, preparer: Preparer) -> None:
        """Step while there is work, wait for commands while there is none; ends on Shutdown."""
        self._core = core = EngineCore(backend, config)
        self._backend = backend
        self._preparer = preparer
        embeddings = EmbeddingQueue(backend)
        self._loaded.set()
        while True:
            while not ((core.has_work or embeddings) and self._commands.empty()):
                item = self._commands.get()
                if item is None:
                    return
                if isinstance(item, Prepared):
                    core.add(item)
                elif isinstance(item, EmbeddingJob):
                    embeddings.add(item)
                elif not isinstance(item, Cancel):  # the core has had it; this one only wakes
                    self._outbox.put(core.control(item))
            self._outbox.put(embeddings.step())
            if core.has_work:
                self._outbox.put(core.step())

    def _read(self) -> None:
        while True:
            try:
                command = ipc.receive_command(self._connection)
            except (EOFError, OSError):
                os._exit(0)  # the app is gone
            if isinstance(command, Shutdown):
                if not self._loaded.is_set():
                    os._exit(0)
                self._commands.put(None)
                continue
            self._loaded.wait()
            if isinstance(command, Cancel):
                self._core.cancel(command.generation_id)  # takes effect before the present decode's tokens
                self._commands.put(command)
            elif isinstance(command, Generate):
                self._prepare(command)
            elif isinstance(command, ControlCommand):
                self._commands.put(command)
            elif isinstance(command, Embed):
                self._tokenize(command)

    def _prepare(self, command: Generate) -> None:
        try:
            self._commands.put(self._preparer.prepare(command))
        except TokenglassError as error:
            self._outbox.put([_refused(command, error.info)])
        except Exception:  # noqa: BLE001 a bug in one preparation must not end the others
            traceback.print_exc()
            info = ErrorInfo(code="internal", message="the prompt could not be prepared; see the engine log")
            self._outbox.put([_refused(command, info)])

    def _tokenize(self, command: Embed) -> None:
        try:
            self._commands.put(embedding.tokenize(self._backend, command))
        except TokenglassError as error:
            self._outbox.put([EmbedDone(request_id=command.request_id, error=error.info)])


def main(connection: Connection, config_json: str, epoch: int, renderer: Renderer) -> None:
    """Run the worker; called in the child process by `engine.entry`."""
    faulthandler.enable()
    _limit_harm()
    config = WorkerConfig.model_validate_json(config_json)
    outbox = Outbox(connection)
    worker = Worker(connection, outbox)
    outbox.put([EngineStarted(epoch=epoch, pid=os.getpid())])
    ahead = threading.Thread(target=_compile_ahead, args=(config, renderer), name="template", daemon=True)
    ahead.start()
    try:
        backend = _load(config, outbox)
        ahead.join()
        preparer = Preparer(backend, config.chat_template, renderer)
    except TokenglassError as error:
        outbox.put([ModelFailed(model=config.model_id, error=error.info)])
        outbox.close()
        return
    except MemoryError:
        info = ErrorInfo(code="out_of_memory", message="there is not enough memory to load this model")
        outbox.put([ModelFailed(model=config.model_id, error=info)])
        outbox.close()
        return
    outbox.put([ModelLoaded(model=config.model_id, info=preparer.info)])
    gc.collect()
    gc.freeze()
    worker.run(backend, config, preparer)
    outbox.close()
    # leave without tearing down native threads one by one; the system frees it all
    sys.stderr.flush()
    os._exit(0)


def _compile_ahead(config: WorkerConfig, renderer: Renderer) -> None:
    """Have the template compiled while the model is being loaded. What goes wrong here is told after that."""
    with contextlib.suppress(TokenglassError, TemplateFailedError, OSError):
        source = config.chat_template
        if source is None and not fakespec.is_fake(config.model_path):
            source = header_of_model(Path(config.model_path)).chat_template
        if source is not None:
            renderer.load(source)


def _load(config: WorkerConfig, outbox: Outbox) -> Backend:
    name = "fake" if fakespec.is_fake(config.model_path) else "llamacpp"
    load = cast(Loader, importlib.import_module(f"engine.backends.{name}").load)
    last = 0.0

    def progress(done: float) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_INTERVAL_S or done >= 1:
            last = now
            outbox.put([ModelLoading(model=config.model_id, progress=min(max(done, 0.0), 1.0))])
        return True

    progress(0.0)
    for n_tries in range(1, MAX_TRIES):
        try:
            return _told(load(config, progress), config, outbox)
        except OffloadError as error:
            fewer = error.n_gpu_layers // 2 if n_tries < MAX_TRIES - 1 else 0
            message = (
                f"the GPU's memory didn't hold {error.n_gpu_layers} layers of {config.model_id}; "
                f"{f'trying {fewer}' if fewer else 'the CPU takes them all'}"
            )
        outbox.put([LogLine(level="warning", message=message)])
        plan = config.plan.model_copy(update={"at_most": fewer})
        config = config.model_copy(update={"plan": plan})
    return load(config, progress)


def _told(backend: Backend, config: WorkerConfig, outbox: Outbox) -> Backend:
    """Say so where the GPUs hold something else than the app has announced."""
    planned, n = config.plan.n_gpu_layers, backend.info.n_gpu_layers
    if config.n_gpu_layers < 0 <= planned != n and config.plan.at_most is None:
        message = (
            f"{planned} layers of {config.model_id} were planned for GPUs and {n} are there: "
            "llama.cpp sees other GPUs than the app"
        )
        outbox.put([LogLine(level="warning", message=message)])
    return backend


def _refused(command: Generate, error: ErrorInfo) -> GenerationFinished:
    return GenerationFinished(
        generation_id=command.generation_id,
        finish_reason="error",
        text="",
        usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0),
        timings=Timings(),
        error=error,
    )


def _limit_harm() -> None:
    """No core files of many gigabytes, and the first to go when memory runs out, before the app."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        try:
            with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
                file.write("800")
        except OSError:
            pass
