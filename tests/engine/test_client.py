"""engine.client, entry, ipc and worker together: real child processes with the fake backend."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from engine import entry, ipc
from engine.client import EngineClient, ExitInfo
from engine.commands import Cancel, Generate, WorkerCommand
from engine.events import (
    BaseEvent,
    EngineStarted,
    Event,
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    ModelFailed,
    ModelLoaded,
    StepMetrics,
)
from engine.replies import Message
from engine.types import ChatMessage, SamplingParams, WorkerConfig
from tests.conftest import SOAK

E = TypeVar("E")
SOON_S = 2.0 if SOAK else 30.0
"""For what takes no time at all; only a soak has the machine for itself."""


class Recorder:
    """One worker with everything it said."""

    def __init__(self, tmp_path: Path, model: str, **config: Any) -> None:
        self.events: list[Event] = []
        self.exit: ExitInfo | None = None
        self._changed = asyncio.Event()
        self.client = EngineClient(
            WorkerConfig(model_id="m", model_path=model, **config),
            epoch=1,
            log_path=tmp_path / "engine.log",
            on_messages=self._on_messages,
            on_exit=self._on_exit,
        )

    def _on_messages(self, messages: list[Message]) -> None:
        self.events.extend(message for message in messages if isinstance(message, BaseEvent))
        self._changed.set()

    def _on_exit(self, info: ExitInfo) -> None:
        assert self.exit is None, "on_exit is called once"
        self.exit = info
        self._changed.set()

    async def until(self, condition: Callable[[], object], timeout_s: float = 100) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def started(self) -> None:
        await self.client.start()
        await self.until(lambda: self.of(ModelLoaded) or self.of(ModelFailed) or self.exit)

    async def send_together(self, commands: Sequence[WorkerCommand]) -> None:
        """So that they reach the worker all at once: it stands still meanwhile."""
        assert self.client.pid is not None
        os.kill(self.client.pid, signal.SIGSTOP)
        try:
            for command in commands:
                self.client.send(command)
            while not self.client._outbox.empty():  # noqa: ASYNC110 - a thread's
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # and the last one is written
        finally:
            os.kill(self.client.pid, signal.SIGCONT)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def finished(self, generation_id: str) -> list[GenerationFinished]:
        return [event for event in self.of(GenerationFinished) if event.generation_id == generation_id]

    def text(self, generation_id: str) -> str:
        deltas = (event for event in self.of(GenerationDelta) if event.generation_id == generation_id)
        return "".join(event.text for event in deltas)


def generate(generation_id: str = "g1", content: str = "Hello", **more: Any) -> Generate:
    return Generate(
        generation_id=generation_id,
        received_t=time.monotonic(),
        client_id="c1",
        origin="live",
        messages=[ChatMessage(role="user", content=content)],
        sampling=SamplingParams(seed=1),
        **more,
    )


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def test_a_generation_from_start_to_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=12")
        await worker.started()
        assert isinstance(worker.events[0], EngineStarted)
        assert worker.events[0].pid == worker.client.pid
        worker.client.send(generate())
        await worker.until(lambda: worker.finished("g1"))
        (finished,) = worker.finished("g1")
        assert finished.finish_reason == "stop"
        assert worker.text("g1") == finished.text != ""
        own = [event for event in worker.events if isinstance(event, GenerationEvent)]
        assert [event.type for event in own][:1] == ["generation.started"]
        assert own[-1] is finished
        assert worker.of(StepMetrics)
        await worker.client.stop()
        assert worker.exit is not None
        assert worker.exit.exit_code == 0
        assert not psutil.pid_exists(worker.events[0].pid)

    run(scenario())


def test_times_are_on_the_apps_clock(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=5,delay_ms=5")
        await worker.started()
        before = time.monotonic()
        worker.client.send(generate())
        await worker.until(lambda: worker.finished("g1"))
        after = time.monotonic()
        for delta in worker.of(GenerationDelta):
            assert all(before <= token["t"] <= after for token in delta.tokens)
        timings = worker.finished("g1")[0].timings
        assert timings.ttft_ms is not None
        assert 0 < timings.ttft_ms <= (after - before) * 1000
        await worker.client.stop()

    run(scenario())


@pytest.mark.parametrize("how", (signal.SIGKILL, signal.SIGABRT))
def test_a_killed_worker_is_noticed(tmp_path: Path, how: signal.Signals) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=1000,delay_ms=5")
        await worker.started()
        worker.client.send(generate())
        await worker.until(lambda: worker.of(GenerationDelta))
        assert worker.client.pid is not None
        os.kill(worker.client.pid, how)
        killed = time.monotonic()
        await worker.until(lambda: worker.exit)
        assert time.monotonic() - killed < SOON_S
        assert worker.exit is not None
        assert worker.exit.signal == how.name
        await worker.client.stop()  # returns at once

    run(scenario())


def test_an_abort_in_a_step_leaves_its_last_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=50,abort_after=5")
        await worker.started()
        worker.client.send(generate())
        await worker.until(lambda: worker.exit)
        assert worker.exit is not None
        assert worker.exit.signal == "SIGABRT"
        assert "Aborted" in worker.exit.log_tail
        assert not worker.finished("g1"), "the app's supervisor finishes it"

    run(scenario())


def test_a_hung_worker_can_be_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=50,hang_after=3")
        await worker.started()
        worker.client.send(generate())
        await worker.until(lambda: worker.of(GenerationDelta))
        began = time.monotonic()
        await worker.client.stop(timeout_s=1.0)
        assert time.monotonic() - began < 1 + SOON_S
        assert worker.exit is not None

    run(scenario())


def test_cancel_in_every_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=100000,delay_ms=5,ctx=200000", n_slots=1)
        await worker.started()
        worker.client.send(generate("decoding"))
        await worker.until(lambda: worker.of(GenerationDelta))
        worker.client.send(generate("queued"))
        worker.client.send(Cancel(generation_id="queued"))
        worker.client.send(Cancel(generation_id="nobody"))
        await worker.until(lambda: worker.finished("queued"))
        assert not worker.finished("decoding")
        worker.client.send(Cancel(generation_id="decoding"))
        worker.client.send(Cancel(generation_id="decoding"))
        await worker.until(lambda: worker.finished("decoding"))
        reasons = {event.generation_id: event.finish_reason for event in worker.of(GenerationFinished)}
        assert reasons == {"queued": "cancelled", "decoding": "cancelled"}
        assert len(worker.of(GenerationFinished)) == 2
        await worker.client.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("model", "code"), (("fake:oom_at_load=1", "out_of_memory"), ("bad", "model_damaged"))
)
def test_a_model_that_cannot_be_loaded(tmp_path: Path, model: str, code: str) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"version https://git-lfs")

    async def scenario() -> None:
        worker = Recorder(tmp_path, str(bad) if model == "bad" else model)
        await worker.started()
        assert [event.error.code for event in worker.of(ModelFailed)] == [code]
        await worker.until(lambda: worker.exit)
        assert worker.exit is not None
        assert worker.exit.exit_code == 0

    run(scenario())


def test_a_load_can_be_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:load_ms=60000")
        await worker.client.start()
        await worker.until(lambda: worker.of(EngineStarted))
        began = time.monotonic()
        await worker.client.stop()
        assert time.monotonic() - began < SOON_S
        assert worker.exit is not None

    run(scenario())


def test_no_orphan_when_the_app_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from engine.client import EngineClient
        from engine.commands import Generate
        from engine.types import WorkerConfig

        async def main():
            config = WorkerConfig(model_id="m", model_path="fake:tokens=100000,delay_ms=5,ctx=200000")
            on_events = lambda events: print(client.pid, flush=True)
            client = EngineClient(config, 1, Path(sys.argv[1]), on_events, lambda info: None)
            await client.start()
            client.send(Generate(generation_id="g", received_t=0, client_id="c", origin="live", prompt="x"))
            await asyncio.sleep(600)

        if __name__ == "__main__":
            asyncio.run(main())
        """)
    )
    app = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "engine.log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    assert app.stdout is not None
    worker = psutil.Process(int(app.stdout.readline()))
    app.kill()
    app.wait()
    app.stdout.close()
    worker.wait(timeout=100)  # raises where it lives on


def test_the_worker_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:")
        await worker.started()
        arguments = " ".join(psutil.Process(worker.client.pid).cmdline())
        assert "token" not in arguments.lower().replace("tokenglass", "")
        await worker.client.stop()

    run(scenario())


def test_a_worker_that_cannot_be_spawned_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "run_worker", lambda: None)  # what can't be pickled can't be spawned

    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:")
        await worker.started()
        assert worker.exit is not None
        assert worker.exit.exit_code is None
        assert "could not be started: " in worker.exit.log_tail
        await worker.client.stop()

    run(scenario())


def test_a_worker_that_cannot_be_understood_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def garbled(_: object) -> list[Event]:
        raise ValueError("not an event")

    monkeypatch.setattr(ipc, "receive_messages", garbled)

    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:")
        await worker.started()
        assert worker.exit is not None
        assert "could not be read: not an event" in worker.exit.log_tail
        assert worker.client.pid is not None
        assert not psutil.pid_exists(worker.client.pid)

    run(scenario())
