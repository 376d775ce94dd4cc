"""`api.backpressure`: who takes nothing is cut, and nobody else."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from api.backpressure import MAX_BACKLOG_BYTES, STALL_S, Backpressure


class Buffer(asyncio.WriteTransport):
    """A transport whose client takes what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)

    def get_write_buffer_size(self) -> int:
        return self.size

    def take(self, n_bytes: int) -> None:
        self.size = max(0, self.size - n_bytes)


def started() -> tuple[Backpressure, Buffer, float]:
    buffer = Buffer()
    pressure = Backpressure(buffer)
    return pressure, buffer, pressure._moved_t


def test_who_takes_nothing_is_cut_after_a_while() -> None:
    pressure, buffer, start = started()
    pressure.write(b"x" * 100)
    assert not pressure.look(start + 0.5)  # written since the last look: it may yet be taken
    assert not pressure.too_slow(start + STALL_S, pressure.buffered)
    assert not pressure.look(start + STALL_S + 1)
    assert pressure.too_slow(start + STALL_S + 1, pressure.buffered)
    buffer.take(1)
    assert pressure.look(start + STALL_S + 1.5)
    assert not pressure.too_slow(start + STALL_S + 1.5, pressure.buffered)


def test_nothing_to_take_is_no_stall() -> None:
    pressure, _, start = started()
    assert not pressure.look(start + 100)
    assert not pressure.too_slow(start + 100, 0)


def test_a_large_backlog_counts_only_where_the_client_has_something_to_take() -> None:
    pressure, buffer, start = started()
    pressure.look(start)
    assert not pressure.too_slow(start, MAX_BACKLOG_BYTES + 1)  # the app is behind
    pressure.write(b"x")
    pressure.look(start)
    assert not pressure.too_slow(start, MAX_BACKLOG_BYTES)
    assert pressure.too_slow(start, MAX_BACKLOG_BYTES + 1)
    buffer.take(1)
    assert pressure.look(start)
    assert not pressure.too_slow(start, MAX_BACKLOG_BYTES + 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_whoever_goes_on_taking_is_never_cut(turns: list[tuple[int, int]]) -> None:
    """However little: each look finds that something has left, or nothing was there."""
    pressure, buffer, now = started()
    for n_written, n_taken in turns:
        now += STALL_S
        pressure.write(b"x" * n_written)
        buffer.take(n_taken + 1)
        waited = pressure._buffered > 0
        assert pressure.look(now) == waited
        assert not pressure.too_slow(now, pressure.buffered)
