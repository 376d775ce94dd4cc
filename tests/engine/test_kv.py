"""The book of cells, against sequences of real cells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.kv import Cells

N_SEQUENCES = 4
N = st.integers(0, 12)
SEQUENCE = st.integers(0, N_SEQUENCES - 1)
ACTIONS = st.lists(st.tuples(st.sampled_from(("extend", "cut", "share")), SEQUENCE, SEQUENCE, N), max_size=40)


def test_a_shared_prefix_counts_once() -> None:
    cells = Cells(3, 100)
    cells.extend(0, 10)
    cells.copy(0, 1, 6)
    cells.extend(1, 2)
    assert (cells.used, cells.free) == (12, 88)
    cells.cut(0, 0)
    assert cells.used == 8
    cells.cut(1, 3)
    assert cells.used == 3
    cells.cut(1, 0)
    assert cells.used == 0


def test_separate_parts_share_nothing() -> None:
    cells = Cells(2, 100, unified=False)
    cells.extend(0, 10)
    cells.copy(0, 1, 6)
    assert cells.used == 16
    cells.cut(0, 0)
    assert cells.used == 6


@given(actions=ACTIONS, unified=st.booleans())
def test_any_actions(actions: list[tuple[str, int, int, int]], unified: bool) -> None:
    cells = Cells(N_SEQUENCES, 1000, unified=unified)
    real: list[list[object]] = [[] for _ in range(N_SEQUENCES)]
    for action, a, b, n in actions:
        if action == "extend" and n:
            cells.extend(a, n)
            real[a] += [object() for _ in range(n)]
        elif action == "cut":
            n = min(n, len(real[a]))
            cells.cut(a, n)
            del real[a][n:]
        elif action == "share" and a != b:
            n = min(n, len(real[a]))
            cells.cut(b, 0)
            cells.copy(a, b, n)
            real[b] = real[a][:n] if unified else [object() for _ in range(n)]
        assert [cells.length(i) for i in range(N_SEQUENCES)] == [len(each) for each in real]
        assert cells.used == len({cell for each in real for cell in each})
