"""Keeps one worker running: starts it, switches models, restarts it when it dies, and loses no generation.

What happens to the generations meanwhile is in `generations`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Literal

from api.bus import EventBus
from api.generations import EmbedDoneCallback, Generations
from api.offload import Offload, Planner
from api.recovery import Done
from api.state import State
from api.watchdog import HangWatch
from engine.client import EngineClient, ExitInfo
from engine.commands import Control, Embed, Fork, Generate
from engine.errors import ErrorCode, ErrorInfo, TokenglassError
from engine.events import (
    EngineExited,
    EngineRestarting,
    LogLine,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    StepMetrics,
)
from engine.replies import Message, Reply
from engine.types import ModelInfo, Plan, WorkerConfig

logger = logging.getLogger(__name__)

BACKOFF_S = (0.1, 0.5, 2.0)
MAX_DEATHS = 3
"""Within `DEATH_WINDOW_S`; one more, and the worker is not started again."""
DEATH_WINDOW_S = 60.0
N_LOGS = 4
ENDED_BY_OTHERS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
"""Signals that a process doesn't end itself with."""

Phase = Literal["stopped", "loading", "ready", "restarting", "failed"]


class Supervisor:
    """Owns the worker process. Loop thread only."""

    def __init__(self, bus: EventBus, state: State, log_dir: Path, planner: Planner | None = None) -> None:
        """`planner` tells what each worker is to put on GPUs; without it they settle that themselves."""
        self._bus = bus
        self._state = state
        self._log_dir = log_dir
        self.phase: Phase = "stopped"
        self.config: WorkerConfig | None = None
        """What runs, or is being loaded."""
        self.epoch = 0
        self._good: WorkerConfig | None = None
        self._failure: ErrorInfo | None = None
        self._load_error: ErrorInfo | None = None
        self._load_crashes = 0
        self._client: EngineClient | None = None
        self._retiring: set[EngineClient] = set()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._deaths: deque[float] = deque()
        self._closing = False
        self._watch = HangWatch(
            lambda: self._generations.has_work, lambda: self._generations.probe(), self._end_hung
        )
        self._generations = Generations(bus, state, self._watch.work)
        self._hung = False
        self._offload = Offload(planner or _no_plan)

    @property
    def model_id(self) -> str | None:
        """The model that a new generation runs on."""
        return self.config.model_id if self.config else None

    @property
    def worker_pid(self) -> int | None:
        return self._client.pid if self._client else None

    # ---- generations

    def reserve(self) -> None:
        """Make sure that one more generation can be taken, and keep its place until `submit` or `release`.

        Raises TokenglassError `shutting_down`, `no_model`, `engine_failed` or `busy`.
        """
        config = self._usable()
        self._generations.reserve(config.n_slots + config.queue_limit)

    def _usable(self) -> WorkerConfig:
        if self._closing:
            raise TokenglassError("shutting_down", "the app is quitting")
        if self.phase == "failed" and self._failure is not None:
            code: ErrorCode = "engine_failed" if self._failure.code == "engine_failed" else "no_model"
            raise TokenglassError(
                code, self._failure.message, hint=self._failure.hint or "load another model with models.load"
            )
        if self.config is None:
            raise TokenglassError("no_model", "no model is loaded", hint="load one with models.load")
        return self.config

    def release(self) -> None:
        """Give a reserved place back."""
        self._generations.release()

    def submit(self, command: Generate) -> None:
        """Start a generation whose place was reserved and whose `generation.queued` was published."""
        self._generations.submit(command)
        if self._closing:
            self._generations.finish(command.generation_id, "error", _QUITTING)
        elif self.phase in ("failed", "stopped"):
            self._generations.finish(command.generation_id, "error", self._failure or _NO_MODEL)

    def knows(self, generation_id: str) -> bool:
        """Whether the generation is under way."""
        return generation_id in self._generations

    def cancel(self, generation_id: str) -> None:
        """End a generation, wherever it is; does nothing where it has ended."""
        self._generations.cancel(generation_id)

    def control(self, command: Control, done: Done) -> None:
        """Do something to a generation that is under way; see `Generations.control`.

        Raises TokenglassError `not_found`, `bad_state`, and for a fork what `reserve` raises.
        """
        if not isinstance(command, Fork):
            self._generations.control(command, done)
            return
        self.reserve()
        try:
            self._generations.control(command, done)
        except TokenglassError:
            self.release()
            raise

    def embed(self, command: Embed, done: EmbedDoneCallback) -> None:
        """Have embeddings made. Raises TokenglassError `shutting_down`, `no_model` or `engine_failed`."""
        self._usable()
        self._generations.embed(command, done)

    # ---- models

    def load(self, config: WorkerConfig, *, force: bool = False) -> None:
        """Begin to replace the worker by one with this model; events tell how it goes.

        Raises TokenglassError `busy` where generations run, unless `force`: then they are cancelled.
        """
        if self._closing:
            raise TokenglassError("shutting_down", "the app is quitting")
        self._check_idle(force)
        if self.phase in ("ready", "loading") and config == self.config:
            return
        self._generations.finish_all("cancelled", None, _REPLACED)
        self._deaths.clear()
        self._load_crashes = 0
        self._switch(config)

    async def unload(self, *, force: bool = False) -> None:
        """End the worker, so that all its memory is free when this returns.

        Raises TokenglassError `busy` where generations run, unless `force`: then they are cancelled.
        """
        if self._closing:
            raise TokenglassError("shutting_down", "the app is quitting")
        self._check_idle(force)
        self._generations.finish_all("cancelled", None, _REPLACED)
        if self.config is not None:
            self._bus.publish(ModelUnloaded(model=self.config.model_id))
        self.config = self._good = self._failure = None
        self.phase = "stopped"
        self._watch.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        async with self._lock:
            if self.config is None:
                await self._retire(timeout_s=2.0)

    def check_idle(self) -> None:
        """Raises TokenglassError `busy` where generations run or wait."""
        self._check_idle(False)

    def _check_idle(self, force: bool) -> None:
        n = len(self._generations)
        if n and not force:
            raise TokenglassError("busy", f"{n} generations run or wait", hint="cancel them, or use force")

    async def stop(self) -> None:
        """End everything; every open generation is finished with `shutting_down`."""
        self.announce_stop()
        self._watch.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        async with self._lock:
            await self._retire(timeout_s=1.0)
        self.phase = "stopped"

    def announce_stop(self) -> None:
        """Take nothing more, and finish what runs, so that clients hear of it before they are let go."""
        self._closing = True
        self._generations.finish_all("error", _QUITTING, _QUITTING)

    # ---- the worker's life

    def _switch(self, config: WorkerConfig) -> None:
        if self._state.model is not None:
            self._bus.publish(ModelUnloaded(model=self._state.model.id))
        self.config = config
        self._failure = None
        self._offload.reset()
        # at once, and not only with the worker's first word: everybody may know what is coming
        self._bus.publish(ModelLoading(model=config.model_id, progress=0.0))
        self._bring_up("loading")

    def _bring_up(self, phase: Phase, delay_s: float = 0.0) -> None:
        self.phase = phase
        self._load_error = None
        if self._client is not None:
            self._retiring.add(self._client)
            self._client = None
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(self._start_worker(delay_s))

    async def _start_worker(self, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        async with self._lock:
            await self._retire(timeout_s=2.0)
            config = self.config
            assert config is not None
            planned = await self._offload.planned(config)
            self.epoch += 1
            client = EngineClient(
                planned,
                self.epoch,
                self._log_dir / f"engine-{self.epoch % N_LOGS}.log",
                partial(self._on_messages, self.epoch),
                partial(self._on_exit, self.epoch),
            )
            self._client = client
            self._hung = False
            self._watch.new_worker(config.n_batch)
            await client.start()

    async def _retire(self, timeout_s: float) -> None:
        """Wait until every former worker is gone, so that its memory is free."""
        if self._client is not None:
            self._retiring.add(self._client)
            self._client = None
        if self._retiring:
            await asyncio.gather(*(client.stop(timeout_s) for client in tuple(self._retiring)))
            self._retiring.clear()

    def _current(self, epoch: int) -> bool:
        return self._client is not None and self._client.epoch == epoch

    def _on_messages(self, epoch: int, messages: list[Message]) -> None:
        if not self._current(epoch):
            return  # of a worker that was given up
        self._watch.sign()
        for message in messages:
            if not self._generations.take(message):
                continue
            assert not isinstance(message, Reply)
            if isinstance(message, StepMetrics):
                self._watch.step(message)
            elif isinstance(message, ModelFailed):
                self._load_error = message.error
            self._bus.publish(message)
            if isinstance(message, ModelLoaded):
                self._loaded(message.info)

    def _loaded(self, info: ModelInfo) -> None:
        assert self._client is not None
        self._offload.loaded(info, self._client.config)
        self.phase = "ready"
        self._good = self.config
        self._load_crashes = 0
        if not self._closing:
            self._generations.take_worker(self._client)

    def _end_hung(self, silent_s: float) -> None:
        if self._client is None:
            return
        self._hung = True
        message = f"the engine gave no sign for {silent_s:.0f} s; it is ended"
        logger.error("engine %d: %s", self.epoch, message)
        # at once: a large process may take its time to end
        self._bus.publish(LogLine(level="error", message=message))
        self._client.abort()

    def _on_exit(self, epoch: int, info: ExitInfo) -> None:
        if not self._current(epoch):
            self._publish_exit(epoch, info, expected=True, will_restart=False)
            return
        self._client = None
        if self._load_error is not None:
            self._load_failed(epoch, info, self._load_error)
            return
        how = "it hung" if self._hung else _how(info)
        logger.warning("engine %d ended: %s", epoch, how)
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > DEATH_WINDOW_S:
            self._deaths.popleft()
        itself = not self._hung and info.signal not in ENDED_BY_OTHERS
        less = self._offload.died(info.log_tail) if itself else None
        if self.phase != "ready" and less is None:
            self._load_crashes += 1
            if self._load_crashes > 1 and self._former() is not None:
                error = ErrorInfo(code="load_failed", message=f"the engine ended while loading ({how})")
                assert self.config is not None
                self._bus.publish(ModelFailed(model=self.config.model_id, error=error))
                self._load_failed(epoch, info, error)
                return
        failure = self._too_many_deaths(how)
        self._publish_exit(epoch, info, expected=False, will_restart=failure is None, error=failure)
        lost = ErrorInfo(
            code="engine_lost",
            message=f"the engine ended ({how})",
            hint="it is started again and goes on; what this command asked for was not done",
        )
        if less is not None:
            logger.warning("%s", less)
            self._bus.publish(LogLine(level="warning", message=less))
        blame = self._hung or (itself and less is None)
        self._generations.lose_worker(lost, info.log_tail, blame=blame)
        if failure is None:
            attempt = len(self._deaths)
            delay_s = BACKOFF_S[min(attempt, len(BACKOFF_S)) - 1]
            self._bus.publish(EngineRestarting(attempt=attempt, delay_s=delay_s))
            self._bring_up("restarting", delay_s)
        else:
            self._fail(failure)

    def _too_many_deaths(self, how: str) -> ErrorInfo | None:
        """Why the worker isn't started again; None where it is."""
        if len(self._deaths) <= MAX_DEATHS:
            return None
        return ErrorInfo(
            code="engine_failed",
            message=f"the engine ended {len(self._deaths)} times within a minute ({how})",
            hint="load a model to try again; the log has the details",
        )

    def _load_failed(self, epoch: int, info: ExitInfo, error: ErrorInfo) -> None:
        """The model can't be loaded: go back to the one before, if there was one."""
        former = self._former()
        self._publish_exit(epoch, info, expected=True, will_restart=former is not None)
        self._fail(error)
        if former is not None:
            self._good = None
            self._deaths.clear()
            self._load_crashes = 0
            self._switch(former)

    def _former(self) -> WorkerConfig | None:
        return self._good if self._good != self.config else None

    def _fail(self, error: ErrorInfo) -> None:
        self.phase = "failed"
        self._failure = error
        self._generations.finish_all("error", error, error)

    def _publish_exit(
        self,
        epoch: int,
        info: ExitInfo,
        *,
        expected: bool,
        will_restart: bool,
        error: ErrorInfo | None = None,
    ) -> None:
        self._bus.publish(
            EngineExited(
                epoch=epoch,
                expected=expected,
                exit_code=info.exit_code,
                signal=info.signal,
                log_tail="" if expected and not info.exit_code else info.log_tail,
                will_restart=will_restart,
                error=error,
            )
        )


async def _no_plan(_config: WorkerConfig) -> Plan:
    return Plan()


def _how(info: ExitInfo) -> str:
    if info.signal is not None:
        return info.signal
    return f"exit code {info.exit_code}" if info.exit_code is not None else info.log_tail


_QUITTING = ErrorInfo(code="shutting_down", message="the app is quitting")
_REPLACED = ErrorInfo(code="engine_lost", message="the model was changed or unloaded meanwhile")
_NO_MODEL = ErrorInfo(code="no_model", message="the model was unloaded", hint="load one with models.load")
