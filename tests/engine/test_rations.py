"""Too few cells for all: cached tokens go first, the youngest wait, and everyone answers as if alone."""

from __future__ import annotations

import pytest

from engine.backend import Batch
from engine.errors import TokenglassError
from engine.events import PromptProgress
from tests.engine.harness import Bench

PROMPTS = ("the river", "a stone and a letter", "quiet morning", "silver window")


def alone(prompt: str, model: str) -> str:
    bench = Bench(model, n_slots=1)
    bench.add(prompt)
    bench.run()
    return bench.records["g0"].end.text


@pytest.mark.parametrize("model", ("fake:tokens=40", "fake:tokens=40,recurrent=1"))
@pytest.mark.parametrize("n_kv", (48, 60, 100, 150))
def test_more_slots_than_fit(model: str, n_kv: int) -> None:
    bench = Bench(model, n_slots=4, n_ctx=48, n_kv=n_kv, n_batch=16)
    for prompt in PROMPTS:
        bench.add(prompt)
    bench.run()
    for prompt, record in zip(PROMPTS, bench.records.values(), strict=True):
        assert record.end.text == alone(prompt, model)
    assert max(metrics.batch_size for metrics in bench.metrics) > 1
    assert all(metrics.kv_used <= n_kv for metrics in bench.metrics)


def test_the_oldest_goes_on_and_the_youngest_is_computed_again() -> None:
    bench = Bench("fake:tokens=30", n_slots=2, n_ctx=40, n_kv=40)
    bench.add("the river")
    bench.add("a stone")
    while not bench.records["g0"].finished:
        before = len(bench.records["g0"].ids)
        bench.step()
        assert bench.records["g0"].finished or len(bench.records["g0"].ids) == before + 1
    assert not bench.records["g1"].finished
    assert 0 < len(bench.records["g1"].ids) < 30
    bench.run()
    assert bench.records["g1"].end.usage.completion_tokens == 30


def test_cached_tokens_go_before_anybody_waits() -> None:
    bench = Bench("fake:tokens=30", n_slots=3, n_ctx=64, n_kv=64)
    for name in ("old", "new"):
        bench.add(f"the {name} window", name=name, max_tokens=10)
        bench.run()
    old, new = (bench.records[name].started for name in ("old", "new"))
    assert old is not None
    assert new is not None
    held = [list(tokens) for tokens in bench.backend.held]
    bench.add(" light" * 40)
    bench.run()
    assert bench.backend.held[old.slot] == []  # the least recently used first
    assert bench.backend.held[new.slot] in (held[new.slot], [])
    assert bench.records["g2"].end.finish_reason == "context_full"


def test_a_long_prompt_waits_until_all_of_it_fits() -> None:
    bench = Bench("fake:tokens=20", n_slots=3, n_ctx=64, n_kv=64, n_batch=8)
    bench.add("the river" + " light" * 20)
    bench.step()
    bench.add("a stone" + " glass" * 40)
    bench.add("quiet")  # doesn't pass it for ever
    while not bench.records["g0"].finished:
        assert not bench.records["g1"].progress
        bench.step()
    bench.run()
    assert bench.records["g1"].end.usage.completion_tokens == 20
    assert bench.records["g2"].end.usage.completion_tokens == 20


def test_a_paused_one_gives_its_cells_up_first() -> None:
    bench = Bench("fake:tokens=30", n_slots=3, n_ctx=40, n_kv=70)
    for prompt in PROMPTS[:3]:
        bench.add(prompt)
    for _ in range(5):
        bench.step()
    bench.pause("g0")
    bench.run()
    assert bench.records["g1"].end.finish_reason == bench.records["g2"].end.finish_reason == "stop"
    bench.resume("g0")
    bench.run()
    assert bench.records["g0"].end.text == alone(PROMPTS[0], "fake:tokens=30")


def test_what_is_computed_again_tells_its_progress() -> None:
    bench = Bench("fake:tokens=30", n_slots=2, n_ctx=40, n_kv=44, n_batch=3)
    bench.add("the river")
    bench.add("a stone of the morning")
    events = [event for _ in range(200) if bench.core.has_work for event in bench.step()]
    told = [event for event in events if isinstance(event, PromptProgress) and event.generation_id == "g1"]
    assert [event.done for event in told].count(bench.records["g1"].n_prompt) == 2


def test_an_answer_that_is_alone_ends_with_the_cache() -> None:
    bench = Bench("fake:tokens=100", n_slots=2, n_ctx=64, n_kv=24)
    bench.add("the river")
    bench.run()
    end = bench.records["g0"].end
    assert end.finish_reason == "context_full"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == 24


@pytest.mark.parametrize("real", (20, 30, 50, 90))
def test_a_cache_that_holds_less_than_it_said(real: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("fake:tokens=12", n_slots=4, n_ctx=64, n_batch=16)
    decode = bench.backend.decode

    def short(batch: Batch) -> None:
        if bench.backend.cells_used + len(batch.tokens) > real:
            raise TokenglassError("context_overflow", "no cell is free")
        decode(batch)

    monkeypatch.setattr(bench.backend, "decode", short)
    monkeypatch.setattr(bench, "_check_metrics", lambda _: None)
    for prompt in (*PROMPTS, " light" * 40):
        bench.add(prompt)
    bench.run()
    *fitting, long = (record.end for record in bench.records.values())
    assert [end.usage.completion_tokens for end in fitting] == [12] * 4
    assert long.finish_reason == ("stop" if real == 90 else "context_full")
    assert bench.metrics[-1].kv_total < 256


def test_a_fork_in_a_full_cache() -> None:
    bench = Bench("fake:tokens=30", n_slots=4, n_ctx=40, n_kv=40)
    bench.add("the river and the stone")
    while len(bench.records["g0"].ids) < 12:
        bench.step()
    for branch in ("b", "c", "d"):
        bench.fork("g0", 10, branch=branch)
    bench.run()
    assert {record.end.finish_reason for record in bench.records.values()} == {"stop"}
