"""Keeps one worker running: starts it, switches models, restarts it when it dies, and loses no generation.

Every accepted generation gets exactly one `generation.finished`: the worker's own, or, where the
worker is gone, one made here with what had come so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from api.bus import EventBus
from api.state import State
from api.watchdog import HangWatch
from engine.client import EngineClient, ExitInfo
from engine.commands import Cancel, Generate
from engine.errors import ErrorCode, ErrorInfo, TokenglassError
from engine.events import (
    EngineExited,
    EngineRestarting,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    StepMetrics,
)
from engine.replies import Message, Reply
from engine.types import FinishReason, Timings, Usage, WorkerConfig

logger = logging.getLogger(__name__)

BACKOFF_S = (0.1, 0.5, 2.0)
MAX_DEATHS = 3
"""Within `DEATH_WINDOW_S`; one more, and the worker is not started again."""
DEATH_WINDOW_S = 60.0
MAX_SENDS = 2
"""How many workers a generation that hasn't started may be given to, should it be what ends them."""
N_LOGS = 4

Phase = Literal["stopped", "loading", "ready", "restarting", "failed"]


@dataclass(slots=True)
class _Active:
    """An accepted generation that isn't finished."""

    command: Generate
    sent: bool = False
    started: bool = False
    sends: int = 0


class Supervisor:
    """Owns the worker process. Loop thread only."""

    def __init__(self, bus: EventBus, state: State, log_dir: Path) -> None:
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
        self._active: dict[str, _Active] = {}
        self._reserved = 0
        self._deaths: deque[float] = deque()
        self._closing = False
        self._watch = HangWatch(self._has_work, self._end_hung)
        self._hung = False

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
        if self._closing:
            raise TokenglassError("shutting_down", "the app is quitting")
        if self.phase == "failed" and self._failure is not None:
            code: ErrorCode = "engine_failed" if self._failure.code == "engine_failed" else "no_model"
            raise TokenglassError(
                code, self._failure.message, hint=self._failure.hint or "load another model with models.load"
            )
        if self.config is None:
            raise TokenglassError("no_model", "no model is loaded", hint="load one with models.load")
        if len(self._active) + self._reserved >= self.config.n_slots + self.config.queue_limit:
            raise TokenglassError("busy", "too many generations are waiting", hint="try again later")
        self._reserved += 1

    def release(self) -> None:
        """Give a reserved place back."""
        self._reserved -= 1

    def submit(self, command: Generate) -> None:
        """Start a generation whose place was reserved and whose `generation.queued` was published."""
        self._reserved -= 1
        active = self._active[command.generation_id] = _Active(command)
        if self._closing:
            self._finish(command.generation_id, "error", _QUITTING)
        elif self.phase == "failed":
            self._finish(command.generation_id, "error", self._failure)
        elif self.phase == "ready":
            self._send(active)

    def knows(self, generation_id: str) -> bool:
        """Whether the generation is under way."""
        return generation_id in self._active

    def cancel(self, generation_id: str) -> None:
        """End a generation, wherever it is; does nothing where it has ended."""
        active = self._active.get(generation_id)
        if active is None:
            return
        if active.sent and self._client is not None:
            self._client.send(Cancel(generation_id=generation_id))
        else:
            self._finish(generation_id, "cancelled")

    # ---- models

    def load(self, config: WorkerConfig, *, force: bool = False) -> None:
        """Begin to replace the worker by one with this model; events tell how it goes.

        Raises TokenglassError `busy` where generations run, unless `force`: then they are cancelled.
        """
        if self._closing:
            raise TokenglassError("shutting_down", "the app is quitting")
        if self._active and not force:
            raise TokenglassError(
                "busy",
                f"{len(self._active)} generations run or wait",
                hint="cancel them, or load with force",
            )
        if self.phase in ("ready", "loading") and config == self.config:
            return
        for generation_id in list(self._active):
            self._finish(generation_id, "cancelled")
        self._deaths.clear()
        self._load_crashes = 0
        self._switch(config)

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
        for generation_id in list(self._active):
            self._finish(generation_id, "error", _QUITTING)

    # ---- the worker's life

    def _switch(self, config: WorkerConfig) -> None:
        if self._state.model is not None:
            self._bus.publish(ModelUnloaded(model=self._state.model.id))
        self.config = config
        self._failure = None
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
            self.epoch += 1
            client = EngineClient(
                config,
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
        for event in messages:
            if isinstance(event, Reply):
                continue
            if isinstance(event, GenerationEvent):
                active = self._active.get(event.generation_id)
                if active is None:
                    continue  # finished from here
                if isinstance(event, GenerationStarted):
                    active.started = True
                elif isinstance(event, GenerationFinished):
                    del self._active[event.generation_id]
            elif isinstance(event, StepMetrics):
                self._watch.step(event)
            elif isinstance(event, ModelFailed):
                self._load_error = event.error
            self._bus.publish(event)
            if isinstance(event, ModelLoaded):
                self._loaded()

    def _loaded(self) -> None:
        self.phase = "ready"
        self._good = self.config
        self._load_crashes = 0
        for active in list(self._active.values()):
            if not active.sent:
                self._send(active)

    def _send(self, active: _Active) -> None:
        assert self._client is not None
        active.sent = True
        active.sends += 1
        self._client.send(active.command)
        self._watch.work()

    def _has_work(self) -> bool:
        return self._client is not None and any(active.sent for active in self._active.values())

    def _end_hung(self, silent_s: float) -> None:
        logger.error("engine %d gave no sign for %.0f s; it is ended", self.epoch, silent_s)
        self._hung = True
        if self._client is not None:
            self._client.kill()

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
        if self.phase != "ready":
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
            code="engine_lost", message=f"the engine ended ({how})", hint="it is started again; ask once more"
        )
        for generation_id, active in list(self._active.items()):
            if active.started or active.sends >= MAX_SENDS:
                self._finish(generation_id, "error", lost)
            active.sent = False
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
        for generation_id in list(self._active):
            self._finish(generation_id, "error", error)

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

    def _finish(self, generation_id: str, reason: FinishReason, error: ErrorInfo | None = None) -> None:
        """Publish the last event of a generation that no worker will finish."""
        del self._active[generation_id]
        had = self._state.generations.get(generation_id)
        self._bus.publish(
            GenerationFinished(
                generation_id=generation_id,
                finish_reason=reason,
                text="".join(had.text) if had else "",
                reasoning="".join(had.reasoning) if had else "",
                tool_calls=list(had.tool_calls) if had else [],
                usage=had.usage() if had else Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0),
                timings=had.timings() if had else Timings(),
                error=error,
            )
        )


def _how(info: ExitInfo) -> str:
    if info.signal is not None:
        return info.signal
    return f"exit code {info.exit_code}" if info.exit_code is not None else info.log_tail


_QUITTING = ErrorInfo(code="shutting_down", message="the app is quitting")
