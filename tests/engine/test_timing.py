"""Times derived from marks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.timing import Marks, percentile
from engine.types import Timings


def test_everything_follows_from_the_marks() -> None:
    marks = Marks(10.0)
    marks.started = 10.5
    marks.computed = 11.5
    for t in (12.0, 12.1, 12.3, 12.4):
        marks.times.append(t)
    timings = marks.timings()
    assert timings.queue_ms == pytest.approx(500)
    assert timings.prefill_ms == pytest.approx(1000)
    assert timings.ttft_ms == pytest.approx(2000)
    assert timings.decode_ms == pytest.approx(400)
    assert timings.tokens_per_second == pytest.approx(3 / 0.4)
    assert timings.itl_p50_ms == pytest.approx(100)
    assert timings.itl_p99_ms == pytest.approx(198)


def test_what_was_not_reached_is_none() -> None:
    assert Marks(1.0).timings() == Timings()
    marks = Marks(1.0)
    marks.started = 2.0
    assert marks.timings() == Timings(queue_ms=1000.0)


def test_one_token_has_no_rate() -> None:
    marks = Marks(1.0)
    marks.started, marks.computed = 1.0, 1.0
    marks.times.append(3.0)
    timings = marks.timings()
    assert (timings.ttft_ms, timings.decode_ms) == (2000.0, 0.0)
    assert timings.tokens_per_second is None
    assert timings.itl_p50_ms is None


def test_tokens_at_the_same_moment_have_no_rate() -> None:
    marks = Marks(1.0)
    marks.times.append(3.0)
    marks.times.append(3.0)
    timings = marks.timings()
    assert (timings.decode_ms, timings.tokens_per_second, timings.itl_p99_ms) == (0.0, None, 0.0)


@given(values=st.lists(st.floats(0, 1000), min_size=1, max_size=50), fraction=st.floats(0, 1))
def test_percentile_lies_between_neighbours(values: list[float], fraction: float) -> None:
    values.sort()
    result = percentile(values, fraction)
    place = int((len(values) - 1) * fraction)
    assert values[place] <= result <= values[min(place + 1, len(values) - 1)]
    assert percentile(values, 0) == values[0]
    assert percentile(values, 1) == values[-1]
