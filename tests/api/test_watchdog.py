import asyncio
from collections.abc import Callable

import pytest

from api import watchdog
from api.watchdog import HangWatch
from engine.events import StepMetrics


def step(decode_ms: float, tokens: int) -> StepMetrics:
    return StepMetrics(
        batch_size=1, prefill_tokens=tokens - 1, decode_tokens=1, pre_ms=0, decode_ms=decode_ms, sample_ms=0,
        emit_ms=0, kv_used=1, kv_total=9, waiting=0,
    )  # fmt: skip


def watched(
    ticks: list[float], busy: Callable[[], bool], probes: list[float]
) -> tuple[HangWatch, list[float], Callable[[], None]]:
    """A watch whose clock and timer are moved by hand."""
    hangs: list[float] = []
    now = [0.0]
    watch = HangWatch(busy, lambda: probes.append(now[0]), hangs.append, lambda: now[0])

    def look() -> None:
        now[0] += ticks.pop(0)
        watch.stop()
        watch._look()

    return watch, hangs, look


def test_patience_follows_the_pace_of_the_model() -> None:
    watch = HangWatch(lambda: True, lambda: None, lambda _: None)
    watch.new_worker(512)
    assert watch.patience_s == watchdog.FIRST_STEP_S
    watch.step(step(5, 1))
    assert watch.patience_s == watchdog.HANG_S
    watch.step(step(1000, 1))  # a full batch of prompt may then take minutes
    assert watch.patience_s == pytest.approx(1024)
    watch.step(step(5, 512))
    assert watch.patience_s == pytest.approx(1024)
    watch.new_worker(512)
    assert watch.patience_s == watchdog.FIRST_STEP_S


def test_silence_beyond_patience_is_a_hang() -> None:
    async def test() -> None:
        watch, hangs, look = watched([1.0] * 100, lambda: True, [])
        watch.new_worker(1)
        watch.step(step(1, 1))
        watch.work()
        for _ in range(30):
            look()
        assert hangs == []
        look()
        assert hangs == [31.0]
        watch.sign()
        look()
        assert len(hangs) == 1
        watch.stop()

    asyncio.run(test())


def test_who_is_silent_is_asked_once_before_it_is_judged() -> None:
    async def test() -> None:
        probes: list[float] = []
        watch, hangs, look = watched([1.0] * 100, lambda: True, probes)
        watch.new_worker(1)
        watch.step(step(1, 1))
        watch.work()
        for _ in range(20):
            look()
        assert probes == [6.0]
        watch.sign()  # it has answered
        for _ in range(20):
            look()
        assert probes == [6.0, 26.0]
        assert hangs == []
        watch.stop()

    asyncio.run(test())


def test_who_slept_does_not_blame_the_worker() -> None:
    async def test() -> None:
        watch, hangs, look = watched([1.0, 3600.0, 1.0], lambda: True, [])
        watch.new_worker(1)
        watch.step(step(1, 1))
        watch.work()
        for _ in range(3):
            look()
        assert hangs == []
        watch.stop()

    asyncio.run(test())


def test_without_work_nobody_looks() -> None:
    async def test() -> None:
        watch, hangs, look = watched([1000.0], lambda: False, [])
        watch.new_worker(1)
        watch.work()
        look()
        assert hangs == []
        assert watch._timer is None
        watch.stop()

    asyncio.run(test())
