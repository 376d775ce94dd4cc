"""Slots: who gets which, and what stays of the KV cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backend import Batch, common_prefix
from engine.backends import fake
from engine.slots import WORTH_COPYING, Slot, Slots
from engine.types import WorkerConfig


class Bench:
    """Slots on the fake backend, which checks what is kept and copied."""

    def __init__(self, n_slots: int, model: str = "fake:") -> None:
        config = WorkerConfig(model_id="m", model_path=model, n_slots=n_slots, n_kv=4096)
        self.backend = fake.load(config, lambda _: True)
        self.slots = Slots(self.backend)
        self.all = self.slots.all

    def compute(self, slot: Slot, n_tokens: int) -> None:
        start, end = slot.computed, slot.computed + n_tokens
        tokens = slot.tokens[start:end]
        self.backend.decode(Batch(tokens, list(range(start, end)), [slot.id] * n_tokens, [False] * n_tokens))
        self.slots.advance(slot, n_tokens)
        assert self.backend.held[slot.id] == slot.tokens[: slot.computed]
        assert self.slots.cells.used == self.backend.cells_used

    def choose(self, tokens: list[int]) -> tuple[Slot, Slot, int]:
        return self.slots.choose(tokens, self.slots.prefixes(tokens))

    def take(self, tokens: list[int]) -> tuple[Slot, int]:
        """Let a generation take a slot; how many of its tokens are there already."""
        slot = self.slots.acquire(list(tokens), len(tokens), self.slots.prefixes(tokens))
        assert self.backend.held[slot.id] == tokens[: slot.computed]
        return slot, slot.computed

    def use(self, index: int, tokens: list[int]) -> Slot:
        """Let a generation use a slot and leave these tokens in the KV cache."""
        others = [slot for slot in self.all if not slot.busy and slot.id != index]
        for slot in others:
            slot.busy = True
        slot, _ = self.take(tokens)
        for other in others:
            other.busy = False
        assert slot.id == index
        self.compute(slot, slot.missing)
        self.slots.release(slot)
        return slot


def test_the_longest_common_prefix_wins() -> None:
    bench = Bench(3)
    bench.use(0, [1, 2, 3])
    bench.use(1, [1, 2, 3, 4, 5])
    bench.use(2, [9])
    assert bench.take([1, 2, 3, 4, 6]) == (bench.all[1], 4)


def test_the_last_token_is_never_reused() -> None:
    bench = Bench(1)
    bench.use(0, [1, 2, 3, 4])
    assert bench.choose([1]) == (bench.all[0], bench.all[0], 0)
    assert bench.take([1, 2, 3]) == (bench.all[0], 2)


def test_without_a_match_the_least_recently_used_is_taken() -> None:
    bench = Bench(3)
    bench.use(1, [5])
    bench.use(0, [6])
    assert bench.choose([7, 8])[0] is bench.all[2]  # never used
    bench.use(2, [9])
    assert bench.choose([7, 8])[0] is bench.all[1]


def test_what_is_held_stays_where_another_slot_holds_nothing() -> None:
    bench = Bench(3)
    bench.use(0, [1, 2, 3])
    for index in (1, 2):
        bench.use(index, [index + 10])
        bench.slots.cut(bench.all[index], 0)
    assert bench.choose([7, 8])[0] is bench.all[1]


def test_of_empty_slots_one_beside_a_busy_one_is_taken() -> None:
    bench = Bench(8)
    for index in (0, 7, 1, 6, 2, 5, 3, 4):  # in this order they would be taken again
        bench.use(index, [index + 10])
        bench.slots.cut(bench.all[index], 0)
    taken = [bench.take([token])[0].id for token in range(50, 58)]
    for n in range(1, 9):
        seats = sorted(taken[:n])
        assert seats == list(range(seats[0], seats[0] + n))


def test_of_the_half_used_least_recently_one_beside_a_busy_one_is_taken() -> None:
    bench = Bench(6)
    for index in (5, 0, 4, 3, 2, 1):
        bench.use(index, [index + 10])
    assert bench.take([50])[0].id == 5, "the least recently used, as long as none is busy"
    assert bench.take([51])[0].id == 4, "beside it, though 0 was used before"
    assert [bench.take([token])[0].id for token in (52, 53)] == [3, 2]
    assert bench.take([54])[0].id == 0, "1 was used last"


def test_a_long_conversation_is_not_given_up_for_a_short_prefix() -> None:
    bench = Bench(2)
    bench.use(0, list(range(100)))
    prompt = [*range(10), *range(200, 230)]
    assert bench.choose(prompt) == (bench.all[1], bench.all[1], 0)
    # with no other slot free its prefix is used all the same
    bench.take([1])
    assert bench.take(prompt) == (bench.all[0], 10)


def test_a_prefix_that_is_most_of_the_prompt_is_worth_it() -> None:
    bench = Bench(1)
    bench.use(0, list(range(100)))
    assert bench.take([*range(50), 200]) == (bench.all[0], 50)


def test_the_rest_of_a_conversation_is_lost_only_where_the_other_slots_have_more_to_lose() -> None:
    bench = Bench(2)
    bench.use(0, list(range(100)))
    bench.use(1, list(range(100, 130)))
    assert bench.take([*range(50), 200]) == (bench.all[1], 50)
    bench = Bench(2)
    bench.use(0, list(range(100)))
    bench.use(1, list(range(100, 180)))
    assert bench.take([*range(50), 200]) == (bench.all[0], 50)


def test_a_prefix_is_copied_where_its_slot_stays_as_it_is() -> None:
    bench = Bench(3)
    system = list(range(40))
    bench.use(0, [*system, *range(100, 200)])
    first, computed = bench.take([*system, *range(200, 290)])
    assert (first.id, computed) == (1, 40)
    assert len(bench.backend.held[0]) == 140
    assert bench.slots.cells.used == 140  # the prefix counts once
    # and from one that is busy, as far as it is computed
    bench.compute(first, 20)
    second, computed = bench.take([*system, *range(200, 250), 1])
    assert (second.id, computed) == (2, 60)
    assert bench.slots.cells.used == 160
    bench.slots.release(first, forget=True)
    assert bench.slots.cells.used == 160


def test_a_few_tokens_are_not_worth_a_copy() -> None:
    bench = Bench(2)
    prefix = list(range(WORTH_COPYING))
    slot, _ = bench.take([*prefix, *range(100, 200)])
    bench.compute(slot, 116)
    assert bench.take([*prefix, 50, 51]) == (bench.all[1], 0)


def test_a_recurrent_model_copies_all_or_nothing() -> None:
    bench = Bench(3, "fake:recurrent=1")
    source, _ = bench.take(list(range(60)))
    bench.compute(source, 50)
    assert bench.take([*range(40), 200])[1] == 0
    assert bench.take([*range(60), 200])[1] == 50


def test_what_was_not_computed_is_not_reused() -> None:
    bench = Bench(1)
    slot, _ = bench.take([1, 2, 3, 4])
    bench.compute(slot, 2)
    assert slot.missing == 2
    bench.slots.release(slot)
    assert slot.tokens == [1, 2]
    assert bench.slots.cells.used == 2
    assert bench.take([1, 2, 3, 4]) == (slot, 2)


def test_forgetting_leaves_nothing() -> None:
    bench = Bench(1)
    slot, _ = bench.take([1, 2, 3])
    bench.compute(slot, 3)
    bench.slots.release(slot, forget=True)
    assert (slot.tokens, bench.slots.cells.used, bench.backend.cells_used) == ([], 0, 0)


def test_no_slot_is_given_twice() -> None:
    bench = Bench(1)
    slot, _ = bench.take([1])
    assert bench.slots.n_free == 0
    with pytest.raises(AssertionError):
        bench.take([1])
    bench.slots.release(slot)
    with pytest.raises(AssertionError):
        bench.slots.release(slot)


@given(a=st.lists(st.integers(0, 2), max_size=30), b=st.lists(st.integers(0, 2), max_size=30))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
