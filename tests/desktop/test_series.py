"""The series behind plots and cards: exact rates, held values, bounded dots, steady axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktop.plots.series import (
    BIN_S,
    BINS,
    MAX_DOTS,
    Dots,
    HoldRing,
    Instruments,
    RateRing,
    Steps,
    step_above,
)
from engine.events import ModelLoaded
from tests.desktop.events import INFO, delta, finished, queued, started, step, system

START = 1000.0


def test_a_steady_rate_is_drawn_as_what_it_is() -> None:
    ring = RateRing()
    for number in range(500):
        ring.add(START + number * 0.02, START + (number + 1) * 0.02)
    values = ring.values(START + 10.0)
    inside = values[-round(9 / BIN_S) :]
    assert inside == pytest.approx(50.0)
    assert values[0] == 0.0


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=60))
def test_no_rate_is_above_the_fastest_or_below_the_slowest(gaps: list[float]) -> None:
    ring = RateRing()
    t = START
    used = []
    for gap in gaps:
        if t + gap > START + 50:
            break
        ring.add(t, t + gap)
        used.append(gap)
        t += gap
    drawn = ring.values(START + 55)
    drawn = drawn[drawn > 0]
    if used:
        assert drawn.max() <= 1 / min(used) * 1.001
        assert drawn.min() >= 1 / max(used) * 0.999


def test_a_short_answer_shows_its_true_speed() -> None:
    ring = RateRing()
    for number in range(40):
        ring.add(START + 0.05 + number * 0.0005, START + 0.05 + (number + 1) * 0.0005)
    assert ring.values(START + 1).max() == pytest.approx(2000.0)


def test_slow_tokens_show_a_low_rate_and_no_spikes() -> None:
    ring = RateRing()
    ring.add(START, START + 4.0)
    assert ring.values(START + 4.0).max() == pytest.approx(0.25)


def test_old_bins_are_forgotten() -> None:
    ring = RateRing()
    ring.add(START, START + 0.1)
    ring.add(START + 500, START + 500.1)
    values = ring.values(START + 501)
    assert (values > 0).sum() == 1
    assert not ring.values(START + 5000).any()


def test_a_value_holds_until_the_next() -> None:
    ring = HoldRing()
    ring.set(START, 10.0)
    ring.set(START + 5.0, 20.0)
    values = ring.values(START + 10.0)
    assert len(values) == BINS
    assert values[-1] == 20.0
    assert values[-round(7 / BIN_S)] == 10.0
    assert math.isnan(values[0])


def test_dots_are_bounded_and_outliers_stay() -> None:
    dots = Dots()
    for number in range(10_000):
        dots.add(START + number * 0.005, 100.0 if number % 1000 == 500 else 5.0)
    x, y = dots.visible(START + 50.0)
    assert len(x) == len(y) <= MAX_DOTS
    assert (y == 100.0).sum() == 10
    assert x.min() >= -60.0
    assert x.max() <= 0.0


def test_dots_do_not_flicker_while_they_move() -> None:
    dots = Dots()
    for number in range(3000):
        dots.add(START + number * 0.01, 5.0 + (number % 7) * 0.1)
    now = START + 30.0
    before = {round(t + now, 6) for t in dots.visible(now)[0]}
    after = {round(t + now + 0.2, 6) for t in dots.visible(now + 0.2)[0]}
    assert before == after


@given(st.floats(0.001, 1e7))
def test_steps_are_one_two_five(value: float) -> None:
    top = step_above(value)
    assert top >= value * (1 - 1e-12)
    assert top / 10 ** math.floor(math.log10(top) + 1e-9) == pytest.approx(
        round(top / 10 ** math.floor(math.log10(top) + 1e-9))
    )
    assert top <= value * 2.5 + 1e-9


def test_an_axis_grows_at_once_and_shrinks_late() -> None:
    steps = Steps(10)
    assert steps.fit(60) == 100
    assert steps.fit(40) == 100
    assert steps.fit(5) == 10
    assert Steps(100, most=100).fit(100) == 100


def test_figures_of_one_generation() -> None:
    instruments = Instruments()
    instruments.feed(ModelLoaded(model="starter", info=INFO))
    assert instruments.figures.tokens_per_second is None
    instruments.feed(queued("a", START))
    instruments.feed(started("a", START + 0.1))
    instruments.feed(delta("a", [START + 0.2 + 0.02 * n for n in range(50)]))
    instruments.feed(step(START + 1.2, 90))
    instruments.refresh_figures(START + 1.2)
    figures = instruments.figures
    assert figures.first_token_ms == pytest.approx(200.0)
    assert figures.tokens_per_second == pytest.approx(50.0)
    assert figures.itl_p50_ms == pytest.approx(20.0)
    assert (figures.context_used, figures.context_total) == (90, 2048)
    assert figures.batch_size == 1
    instruments.feed(
        finished("a", START + 1.3, ttft_ms=201.0, tokens_per_second=49.5, itl_p50_ms=20.1, itl_p99_ms=22.0)
    )
    assert (figures.first_token_ms, figures.tokens_per_second) == (201.0, 49.5)
    assert instruments.running == 0


def test_two_generations_add_up() -> None:
    instruments = Instruments()
    for name in ("a", "b"):
        instruments.feed(queued(name, START))
        instruments.feed(started(name, START))
    for number in range(100):
        for name in ("a", "b"):
            instruments.feed(delta(name, [START + 0.02 * number], number))
    instruments.refresh_figures(START + 2.0)
    assert instruments.figures.tokens_per_second == pytest.approx(100.0, rel=0.05)
    assert np.max(instruments.rate.values(START + 2.0)) == pytest.approx(100.0, rel=0.05)


def test_another_model_starts_with_empty_figures() -> None:
    instruments = Instruments()
    instruments.feed(system(START))
    instruments.feed(delta("a", [START, START + 0.1]))
    assert instruments.figures.context_used == 2
    instruments.feed(ModelLoaded(model="starter", info=INFO))
    figures = instruments.figures
    assert (figures.context_used, figures.tokens_per_second) == (None, None)
