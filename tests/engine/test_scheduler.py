"""Plans: within the budget, decoding first, nobody left out for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.commands import Generate
from engine.scheduler import Plan, Prepared, Scheduler
from engine.slots import Slots


def prepared(name: str) -> Prepared:
    command = Generate(generation_id=name, received_t=0.0, client_id="c", origin="live", prompt="")
    return Prepared(command, [1])


class Bench:
    """A scheduler with its slots, and an imagined backend that samples token 7 each time."""

    def __init__(self, n_slots: int, n_batch: int) -> None:
        self.slots = Slots(n_slots)
        self.scheduler = Scheduler(n_batch, queue_limit=2)

    def start(self, n_prompt: int, computed: int = 0) -> int:
        slot = next(slot for slot in self.slots.all if not slot.busy)
        self.slots.acquire(slot, list(range(100, 100 + n_prompt)), computed)
        self.scheduler.running.append(slot)
        return slot.id

    def end(self, slot_id: int) -> None:
        slot = self.slots.all[slot_id]
        self.scheduler.running.remove(slot)
        self.slots.release(slot)

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            slot.computed += count
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
        assert bench.step().batch.sequences[-1] == late
    assert bench.slots.all[late].computed == 3


def test_the_queue_has_a_limit_beyond_the_free_slots() -> None:
    scheduler = Bench(1, 8).scheduler
    assert all(scheduler.enqueue(prepared(f"g{i}"), 1) for i in range(3))
    assert not scheduler.enqueue(prepared("g3"), 1)
    assert len(scheduler.waiting) == 3


def test_a_waiting_generation_can_be_withdrawn() -> None:
    scheduler = Bench(1, 8).scheduler
    for i in range(3):
        scheduler.enqueue(prepared(f"g{i}"), 1)
    found = scheduler.withdraw("g1")
    assert found is not None
    assert found.command.generation_id == "g1"
    assert scheduler.withdraw("g1") is None
    assert [item.command.generation_id for item in scheduler.waiting] == ["g0", "g2"]


@given(
    n_slots=st.integers(1, 6),
    n_batch=st.integers(1, 12),
    actions=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=40),
)
def test_budget_positions_and_fairness(n_slots: int, n_batch: int, actions: list[tuple[int, bool]]) -> None:
    bench = Bench(n_slots, n_batch)
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
        assert len({slot.id for slot in plan.slots}) == len(plan.slots)
        for slot in plan.slots:
            places = [p for p, s in zip(batch.positions, batch.sequences, strict=True) if s == slot.id]
            assert places == list(range(before[slot.id], slot.computed))
        assert not running or plan.slots  # whenever something runs, something gets on
    running = list(bench.scheduler.running)
    served = {slot.id for _ in range(31 * n_slots) for slot in bench.step().slots} if running else set()
    if n_batch > 1:
        assert served == {slot.id for slot in running}
