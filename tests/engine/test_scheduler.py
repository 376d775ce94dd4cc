"""Plans: within the budget, decoding first, nobody left out for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.backend import Batch
from engine.backends import fake
from engine.commands import Generate
from engine.detokenize import PieceCache
from engine.generation import Generation
from engine.pace import Pace
from engine.prepared import Prepared
from engine.scheduler import Plan, Scheduler
from engine.slots import Slot, Slots
from engine.types import WorkerConfig

PIECES = PieceCache(lambda _: b"")


def waiting(name: str, *, paused: bool = False) -> Generation:
    command = Generate(generation_id=name, received_t=0.0, client_id="c", origin="live", prompt="")
    generation = Generation(Prepared(command, [1]), PIECES)
    generation.pause(paused)
    return generation


class FixedPace(Pace):
    """Long prompts have so many tokens of a step, and short ones so many; usually what the budget leaves."""

    chunk = 10_000
    short = 0

    def allowance(self, n_decode: int) -> int:
        return self.chunk if n_decode else 10_000

    def whole(self, n_decode: int) -> int:
        return min(self.short, max(0, self._n_batch - n_decode)) if n_decode else 0


class Bench:
    """A scheduler with its slots, and an imagined backend that samples token 7 each time."""

    def __init__(self, n_slots: int, n_batch: int) -> None:
        self.backend = fake.load(
            WorkerConfig(model_id="m", model_path="fake:", n_slots=n_slots), lambda _: True
        )
        self.slots = Slots(self.backend)
        self.scheduler = Scheduler(n_batch, queue_limit=2)
        self.pace = self.scheduler.pace = FixedPace(n_batch)
        self.n_started = 0

    def start(self, n_prompt: int, computed: int = 0) -> int:
        first = 100 + 40 * self.n_started  # no prefix is like another
        self.n_started = (self.n_started + 1) % 4
        slot = self.slots.acquire(list(range(first, first + n_prompt)), n_prompt, [0] * len(self.slots.all))
        self.slots.cut(slot, 0)
        self.compute(slot, computed)
        self.scheduler.running.append(slot)
        return slot.id

    def compute(self, slot: Slot, count: int) -> None:
        """What a decode does for one slot."""
        if count:
            start, end = slot.computed, slot.computed + count
            tokens = slot.tokens[start:end]
            self.backend.decode(Batch(tokens, list(range(start, end)), [slot.id] * count, [False] * count))
            self.slots.advance(slot, count)

    def end(self, slot_id: int) -> None:
        slot = self.slots.all[slot_id]
        self.scheduler.running.remove(slot)
        self.slots.release(slot)

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            self.compute(slot, count)
            if not slot.missing:
                slot.tokens.append(7)
        return plan


def test_nothing_to_do_is_an_empty_plan() -> None:
    plan = Bench(2, 8).step()
    assert not plan.slots
    assert not plan.batch.tokens


def test_a_prompt_goes_in_chunks_and_only_its_last_token_wants_logits() -> None:
    bench = Bench(1, 3)
    bench.start(5)
    first, second, third = bench.step(), bench.step(), bench.step()
    assert first.batch.tokens == [100, 101, 102]
    assert first.batch.positions == [0, 1, 2]
    assert first.batch.wants_logits == [False, False, False]
    assert second.batch.tokens == [103, 104]
    assert second.batch.positions == [3, 4]
    assert second.batch.wants_logits == [False, True]
    assert (second.prefill_tokens, second.decode_tokens) == (2, 0)
    assert third.batch.tokens == [7]
    assert third.batch.positions == [5]
    assert (third.prefill_tokens, third.decode_tokens) == (0, 1)


def test_a_cached_prefix_is_not_fed_again() -> None:
    bench = Bench(1, 8)
    bench.start(5, computed=3)
    plan = bench.step()
    assert plan.batch.tokens == [103, 104]
    assert plan.batch.positions == [3, 4]


def test_decoding_comes_first_and_prompts_fill_the_rest_in_their_order() -> None:
    bench = Bench(4, 8)
    a, b = bench.start(2), bench.start(2)
    bench.step()
    c, d = bench.start(10), bench.start(10)
    plan = bench.step()
    assert plan.batch.sequences == [a, b] + [c] * 6
    plan = bench.step()
    assert plan.batch.sequences == [a, b] + [c] * 4 + [d] * 2
    assert (plan.prefill_tokens, plan.decode_tokens) == (6, 2)
    assert [slot.id for slot in plan.slots] == [a, b, c, d]
    assert plan.counts == [1, 1, 4, 2]


def test_short_prompts_come_whole_and_long_ones_in_chunks() -> None:
    bench = Bench(4, 32)
    bench.pace.chunk, bench.pace.short = 2, 8
    a = bench.start(1)
    bench.step()
    b, c, d = bench.start(9), bench.start(5), bench.start(6)
    plan = bench.step()
    assert plan.batch.sequences == [a] + [b] * 2 + [c] * 5, "the last one's turn comes in the next step"
    assert (plan.prefill_tokens, plan.whole_tokens, plan.decode_tokens) == (7, 5, 1)
    plan = bench.step()
    assert plan.batch.sequences == [a] + [b] * 2 + [c] + [d] * 6, "a long one's rest isn't a short one"
    assert plan.whole_tokens == 6


def test_the_batch_is_in_the_order_of_sequences_not_of_arrival() -> None:
    bench = Bench(4, 32)
    slots = [bench.start(1) for _ in range(3)]
    assert slots == [0, 1, 2]
    bench.step()
    bench.end(0)
    bench.end(1)
    late = [bench.start(4), bench.start(4)]
    running = [slot.id for slot in bench.scheduler.running]
    assert running == [2, *late]
    assert bench.step().batch.sequences == sorted([2] + [late[0]] * 4 + [late[1]] * 4)
    plan = bench.scheduler.plan(drafts={2: [8, 9]})
    assert plan.batch.sequences == sorted([2] * 3 + late)
    assert plan.drafts == {2: [8, 9]}
    assert plan.decode_tokens == 5


def test_what_is_no_longer_than_a_chunk_is_one() -> None:
    bench = Bench(3, 32)
    bench.pace.chunk, bench.pace.short = 4, 8
    a = bench.start(1)
    bench.step()
    b = bench.start(4)
    plan = bench.step()
    assert plan.batch.sequences == [a] + [b] * 4
    assert plan.whole_tokens == 0


def test_more_slots_than_budget_take_turns() -> None:
    bench = Bench(3, 2)
    for _ in range(3):
        bench.start(1)
    for _ in range(3):
        bench.step()
    assert all(slot.computed >= slot.n_prompt for slot in bench.slots.all)
    turns = [bench.step().batch.sequences for _ in range(6)]
    assert all(len(turn) == 2 for turn in turns)
    assert all(sum(turn.count(i) for turn in turns) == 4 for i in range(3))


def test_a_prompt_gets_on_although_decoding_would_use_the_whole_budget() -> None:
    bench = Bench(3, 2)
    bench.start(1)
    bench.start(1)
    bench.step()
    late = bench.start(3)
    for _ in range(3):
        assert late in bench.step().batch.sequences
    assert bench.slots.all[late].computed == 3


def test_the_queue_has_a_limit_beyond_the_free_slots() -> None:
    scheduler = Bench(1, 8).scheduler
    assert all(scheduler.enqueue(waiting(f"g{i}"), 1) for i in range(3))
    assert not scheduler.enqueue(waiting("g3"), 1)
    assert len(scheduler.waiting) == 3


def test_a_paused_generation_lets_others_pass() -> None:
    scheduler = Bench(1, 8).scheduler
    assert scheduler.next_ready() is None
    first, second = waiting("g0", paused=True), waiting("g1")
    assert scheduler.enqueue(first, 1)
    assert scheduler.next_ready() is None
    assert scheduler.enqueue(second, 1)
    assert scheduler.next_ready() is second
    first.pause(False)
    assert scheduler.next_ready() is first


def test_a_paused_slot_takes_no_part() -> None:
    bench = Bench(2, 8)
    a, b = bench.start(3), bench.start(3)
    bench.slots.all[a].paused = True
    assert bench.step().batch.sequences == [b] * 3
    bench.slots.all[b].paused = True
    seen = [bench.scheduler.active]
    assert not bench.step().slots
    bench.slots.all[a].paused = False
    assert [*seen, bench.scheduler.active] == [False, True]
    assert bench.step().batch.sequences == [a] * 3


def test_edited_tokens_are_computed_like_a_prompt() -> None:
    bench = Bench(1, 4)
    slot = bench.slots.all[bench.start(2)]
    bench.step()
    slot.tokens += [8, 9]
    plan = bench.step()
    assert (plan.batch.tokens, plan.batch.positions) == ([7, 8, 9], [2, 3, 4])
    assert plan.batch.wants_logits == [False, False, True]
    assert (plan.prefill_tokens, plan.decode_tokens) == (3, 0)


@given(
    n_slots=st.integers(1, 6),
    n_batch=st.integers(1, 12),
    pace=st.tuples(st.integers(1, 12), st.integers(0, 12)),
    actions=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=40),
)
def test_budget_positions_and_fairness(
    n_slots: int, n_batch: int, pace: tuple[int, int], actions: list[tuple[int, bool]]
) -> None:
    bench = Bench(n_slots, n_batch)
    bench.pace.chunk, bench.pace.short = pace
    for n_prompt, ends in actions:
        running = bench.scheduler.running
        if ends and running:
            bench.end(running[n_prompt % len(running)].id)
        elif len(running) < n_slots:
            bench.start(n_prompt, computed=n_prompt // 2)
        before = {slot.id: slot.computed for slot in bench.slots.all}
        plan = bench.step()
        batch = plan.batch
        assert len(batch.tokens) <= n_batch
        assert len(batch.tokens) == sum(plan.counts) == plan.prefill_tokens + plan.decode_tokens
        ids = [slot.id for slot in plan.slots]
        assert ids == sorted(set(ids))
        assert batch.sequences == sorted(batch.sequences)
        for slot in plan.slots:
            places = [p for p, s in zip(batch.positions, batch.sequences, strict=True) if s == slot.id]
            assert places == list(range(before[slot.id], slot.computed))
        assert not running or plan.slots  # whenever something runs, something gets on
    running = list(bench.scheduler.running)
    served = {slot.id for _ in range(31 * n_slots) for slot in bench.step().slots} if running else set()
    if n_batch > 1:
        assert served == {slot.id for slot in running}
