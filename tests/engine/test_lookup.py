"""Prompt lookup: its guesses against a plain search, and its index after rewinds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lookup import NGRAM_SIZES, Lookup

# few different tokens, so that n-grams come again
tokens = st.lists(st.integers(0, 3), max_size=60)


def searched(known: Sequence[int], max_tokens: int) -> list[int]:
    """The same guess by looking at every place."""
    for size in NGRAM_SIZES:
        ngram = list(known[-size:])
        for end in range(len(known) - 1, size - 1, -1):
            if len(ngram) == size and list(known[end - size : end]) == ngram:
                return [known[end + i % (len(known) - end)] for i in range(max_tokens)]
    return []


@given(known=tokens, max_tokens=st.integers(0, 12))
def test_it_finds_what_a_search_finds(known: list[int], max_tokens: int) -> None:
    assert Lookup(known).propose(max_tokens) == searched(known, max_tokens)


@given(steps=st.lists(tokens | st.floats(0, 1), max_size=12), max_tokens=st.integers(1, 8))
def test_added_and_rewound_as_made_at_once(steps: list[list[int] | float], max_tokens: int) -> None:
    lookup, known = Lookup(), list[int]()
    for step in steps:
        if isinstance(step, list):
            lookup.add(step)
            known += step
        else:
            known = known[: int(step * len(known))]
            lookup.rewind(len(known))
        assert len(lookup) == len(known)
        assert lookup.propose(max_tokens) == Lookup(known).propose(max_tokens)
    lookup.rewind(0)
    assert not lookup._last, "nothing is left over"


@pytest.mark.parametrize(
    ("known", "guess"),
    (
        ([], []),
        ([1], []),
        ([1, 2, 3, 4, 5], []),
        ([1, 2, 7, 8, 9, 1, 2], [7, 8, 9, 1]),
        ([1, 2, 7, 0, 1, 2, 8, 0, 1, 2], [8, 0, 1, 2]),  # the latest
        ([5, 1, 2, 3, 6, 6, 1, 2, 7, 5, 1, 2], [3, 6, 6, 1]),  # three tokens before two
        ([4, 4, 4], [4, 4, 4, 4]),
        ([0, 1, 2, 1, 2], [1, 2, 1, 2]),  # goes round
        ([1, 0, 1], []),  # one token alone says too little
    ),
)
def test_guesses(known: list[int], guess: list[int]) -> None:
    assert Lookup(known).propose(4) == guess


def test_no_more_than_asked_for() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 1, 2])
    assert lookup.propose(0) == []
    assert lookup.propose(2) == [3, 4]
