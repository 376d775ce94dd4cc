"""The Fenwick tree of heights against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from desktop.chat.heights import Heights

Change = tuple[str, int, int]
CHANGES = st.lists(
    st.tuples(st.sampled_from(["append", "set", "truncate"]), st.integers(0, 40), st.integers(1, 300)),
    max_size=60,
)


@given(start=st.lists(st.integers(1, 300), max_size=40), changes=CHANGES)
def test_like_a_list(start: list[int], changes: list[Change]) -> None:
    plain = list(start)
    heights = Heights(start)
    for name, row, height in changes:
        if name == "append":
            plain.append(height)
            heights.append(height)
        elif name == "truncate":
            del plain[row:]
            heights.truncate(row)
        elif plain:
            plain[row % len(plain)] = height
            heights.set(row % len(plain), height)
        assert len(heights) == len(plain)
        assert heights.total == sum(plain)
    for row in range(len(plain) + 1):
        assert heights.top(row) == sum(plain[:row])
    for y in range(-1, sum(plain) + 2, 7):
        expected = next((row for row in range(len(plain)) if y < sum(plain[: row + 1])), len(plain) - 1)
        assert heights.row_at(y) == expected


def test_no_rows() -> None:
    heights = Heights()
    assert heights.total == 0
    assert heights.row_at(0) == -1
    assert heights.row_at(-5) == -1
