"""Slots: who gets which, and what stays of the KV cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backend import common_prefix
from engine.slots import Slot, Slots


def used(slots: Slots, index: int, tokens: list[int]) -> Slot:
    """Let a generation use a slot and leave these tokens in the KV cache."""
    slot = slots.all[index]
    slots.acquire(slot, tokens, 0)
    slot.computed = len(tokens)
    slots.release(slot)
    return slot


def test_the_longest_common_prefix_wins() -> None:
    slots = Slots(3)
    used(slots, 0, [1, 2, 3])
    used(slots, 1, [1, 2, 3, 4, 5])
    used(slots, 2, [9])
    assert slots.choose([1, 2, 3, 4, 6]) == (slots.all[1], 4)


def test_the_last_prompt_token_is_never_reused() -> None:
    slots = Slots(1)
    used(slots, 0, [1, 2, 3, 4])
    assert slots.choose([1, 2, 3]) == (slots.all[0], 2)
    assert slots.choose([1]) == (slots.all[0], 0)


def test_without_a_match_the_least_recently_used_is_taken() -> None:
    slots = Slots(3)
    used(slots, 1, [5])
    used(slots, 0, [6])
    assert slots.choose([7, 8])[0] is slots.all[2]  # never used
    used(slots, 2, [9])
    assert slots.choose([7, 8])[0] is slots.all[1]


def test_a_long_conversation_is_not_given_up_for_a_short_prefix() -> None:
    slots = Slots(2)
    used(slots, 0, list(range(100)))
    prompt = [*range(10), *range(200, 230)]
    assert slots.choose(prompt) == (slots.all[1], 0)
    # with no other slot free its prefix is used all the same
    slots.acquire(slots.all[1], [1], 0)
    assert slots.choose(prompt) == (slots.all[0], 10)


def test_a_prefix_that_is_most_of_the_prompt_is_worth_it() -> None:
    slots = Slots(2)
    used(slots, 0, list(range(100)))
    assert slots.choose([*range(50), 900]) == (slots.all[0], 50)


def test_what_was_not_computed_is_not_reused() -> None:
    slots = Slots(1)
    slot = slots.all[0]
    slots.acquire(slot, [1, 2, 3, 4], 0)
    slot.computed = 2
    assert slot.missing == 2
    slots.release(slot)
    assert slot.tokens == [1, 2]
    assert slots.kv_used == 2
    assert slots.choose([1, 2, 3, 4]) == (slot, 2)


def test_forgetting_leaves_nothing() -> None:
    slots = Slots(1)
    slot = slots.all[0]
    slots.acquire(slot, [1, 2, 3], 0)
    slot.computed = 3
    slots.release(slot, forget=True)
    assert (slot.tokens, slots.kv_used) == ([], 0)


def test_no_slot_is_given_twice() -> None:
    slots = Slots(1)
    slots.acquire(slots.all[0], [1], 0)
    assert slots.n_free == 0
    with pytest.raises(AssertionError):
        slots.choose([1])
    with pytest.raises(AssertionError):
        slots.acquire(slots.all[0], [1], 0)
    slots.release(slots.all[0])
    with pytest.raises(AssertionError):
        slots.release(slots.all[0])


@given(a=st.lists(st.integers(0, 2), max_size=30), b=st.lists(st.integers(0, 2), max_size=30))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
