"""What `tokenglass bench` measures the app against: processes that load the model and wait for their turn.

One is the bare loop (`backends.bare`), one the engine alone: `EngineCore` and the preparation of prompts,
without a pipe, the app and its clients.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Protocol

from engine.backends import llamacpp
from engine.backends.bare import BareLoop
from engine.commands import Generate
from engine.core import EngineCore
from engine.errors import TokenglassError
from engine.events import GenerationDelta, GenerationFinished
from engine.prepare import Preparer
from engine.types import SamplingParams, WorkerConfig

KINDS = ("bare", "engine")


class Loop(Protocol):
    def run(self, prompts: Sequence[str], n_tokens: int, sampling: SamplingParams) -> list[list[float]]:
        """Generate after each prompt, all at once; for each the time of the start and of every token."""


class EngineLoop:
    """The engine as the worker has it, stepped in place."""

    def __init__(self, config: WorkerConfig) -> None:
        backend = llamacpp.load(config, lambda _: True)
        self._core = EngineCore(backend, config)
        self._preparer = Preparer(backend)
        self._n = 0

    def run(self, prompts: Sequence[str], n_tokens: int, sampling: SamplingParams) -> list[list[float]]:
        """Raises TokenglassError where a generation fails."""
        core = self._core
        start = time.monotonic()
        times: dict[str, list[float]] = {}
        for prompt in prompts:
            self._n += 1
            command = Generate(
                generation_id=str(self._n),
                received_t=start,
                client_id="bench",
                origin="bench",
                prompt=prompt,
                sampling=sampling,
                max_tokens=n_tokens,
            )
            times[command.generation_id] = [start]
            core.add(self._preparer.prepare(command))
        running = len(times)
        while running:
            for event in core.step():
                if isinstance(event, GenerationDelta):
                    times[event.generation_id] += [token["t"] for token in event.tokens]
                elif isinstance(event, GenerationFinished):
                    running -= 1
                    if event.error is not None:
                        raise TokenglassError.of(event.error)
        return list(times.values())


def serve(connection: Connection, config_json: str, kind: str) -> None:
    """Load, answer what was loaded, then carry out requests until the pipe closes.

    `("count", text)` answers tokens (the bare loop alone), `("run", prompts, n_tokens, sampling)` times.
    An error is answered in their place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the bench decides
    os.environ["GGML_NO_BACKTRACE"] = "1"
    config = WorkerConfig.model_validate_json(config_json)
    try:
        loop: Loop = BareLoop(config) if kind == "bare" else EngineLoop(config)
        gc.collect()
        gc.freeze()
        about = None
        if isinstance(loop, BareLoop):
            about = {"eog": loop.eog, "info": loop.info.model_dump(), "llama_cpp": loop.version}
        connection.send(about)
        while True:
            request = connection.recv()
            if request[0] == "count":
                assert isinstance(loop, BareLoop)
                connection.send(loop.count(request[1]))
            else:
                _, prompts, n_tokens, sampling = request
                connection.send(loop.run(prompts, n_tokens, SamplingParams.model_validate_json(sampling)))
    except TokenglassError as error:
        connection.send(error.info)
    except EOFError:
        return
