"""The turns in which connections are written to."""

from __future__ import annotations

import asyncio
import time

import pytest

from api.bus import Envelope
from api.pump import LEAST_REST_S, MAX_REST_S, REST_S, TURN_S, Pump
from engine.events import GenerationDelta
from tests.api.harness import eventually, run

MANY = 4 * int(MAX_REST_S / REST_S)


class Pen:
    """Has so many portions to write; notes when it was its turn."""

    def __init__(self, n: int = 1, takes_s: float = 0.0) -> None:
        self.waits = False
        self.n = n
        self.takes_s = takes_s
        self.turns: list[float] = []

    def write(self) -> bool:
        if self.takes_s:
            time.sleep(self.takes_s)
        self.turns.append(time.monotonic())
        self.n -= 1
        return self.n > 0


def delta(index: int) -> Envelope:
    token = {"id": 1, "index": index, "text": "x", "t": 0.0}
    return Envelope(1, GenerationDelta(generation_id="g", text="x", tokens=[token]), 1)


def test_who_is_woken_writes_once() -> None:
    async def test() -> None:
        pump, pen = Pump(), Pen()
        pump.wake(pen)
        pump.wake(pen)
        assert pen.turns == []
        await asyncio.sleep(0)
        assert len(pen.turns) == 1
        await asyncio.sleep(0.01)
        assert len(pen.turns) == 1
        pen.n = 1
        pump.wake(pen)
        await asyncio.sleep(0)
        assert len(pen.turns) == 2

    run(test())


def test_who_has_more_gets_another_turn_after_the_others() -> None:
    async def test() -> None:
        pump, long, short = Pump(), Pen(5), Pen(1)
        pump.wake(long)
        pump.wake(short)
        await eventually(lambda: long.n == 0)
        assert long.turns[0] < short.turns[0] < long.turns[1]
        assert not long.waits

    run(test())


def test_many_rest_but_not_with_a_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns and rests are so long that a busy machine can't end them, but for the last rest."""
    monkeypatch.setattr("api.pump.TURN_S", 1000.0)
    monkeypatch.setattr("api.pump.MAX_REST_S", 1000.0)
    monkeypatch.setattr("api.pump.REST_S", 1000.0)

    async def test() -> None:
        pump = Pump()
        pens = [Pen() for _ in range(MANY)]

        def wake() -> None:
            for pen in pens:
                pen.n = 1
                pump.wake(pen)

        wake()
        pump.flush()
        assert all(len(pen.turns) == 1 for pen in pens)
        wake()
        await asyncio.sleep(0)
        assert all(len(pen.turns) == 2 for pen in pens), "nobody rests before the first turn"
        wake()
        await asyncio.sleep(0)
        assert all(len(pen.turns) == 2 for pen in pens), "a rest"
        pump.hurry(delta(3))
        await asyncio.sleep(0)
        assert all(len(pen.turns) == 2 for pen in pens)
        monkeypatch.setattr("api.pump.MAX_REST_S", 0.1)
        pump.hurry(delta(0))
        await asyncio.sleep(0)
        assert all(len(pen.turns) == 3 for pen in pens)
        wake()
        await eventually(lambda: not any(pen.waits for pen in pens))
        assert all(pen.turns[3] - pen.turns[2] >= 0.1 for pen in pens), "a rest has an end, and is kept"

    run(test())


def test_few_connections_never_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.pump.TURN_S", 1000.0)

    async def test() -> None:
        pump = Pump()
        pens = [Pen() for _ in range(int(LEAST_REST_S / REST_S))]
        for _ in range(20):
            for pen in pens:
                pen.n = 1
                pump.wake(pen)
            await asyncio.sleep(0)
            assert not any(pen.waits for pen in pens)

    run(test())


def test_the_loop_goes_on_in_a_long_turn() -> None:
    async def test() -> None:
        pump = Pump()
        pens = [Pen(takes_s=TURN_S / 3) for _ in range(20)]
        for pen in pens:
            pump.wake(pen)
        others = 0
        while any(pen.waits for pen in pens):
            await asyncio.sleep(0)
            others += 1
        assert others >= 4
        assert all(len(pen.turns) == 1 for pen in pens)

    run(test())


def test_a_closed_pump_writes_nothing() -> None:
    async def test() -> None:
        pump, pen = Pump(), Pen()
        pump.wake(pen)
        pump.close()
        await asyncio.sleep(0.01)
        assert pen.turns == []

    run(test())
