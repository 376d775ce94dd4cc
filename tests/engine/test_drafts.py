"""Prompt lookup in the step: more tokens a step, and the same ones."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from engine.errors import TokenglassError
from engine.events import GenerationFinished
from tests.engine.harness import Bench

REPEATING = f"fake:script={quote(' the river and the light of the window' * 6, safe='')}"


def run(model: str, lookup: int, **settings: object) -> tuple[Bench, GenerationFinished]:
    bench = Bench(model, n_batch=int(str(settings.pop("n_batch", 512))))
    bench.add("the river and the light of the window", lookup=lookup, **settings)  # type: ignore[arg-type]
    bench.run()
    return bench, bench.records["g0"].end


@pytest.mark.parametrize(
    "model", (REPEATING, "fake:", "fake:tokens=30", "fake:echo=1,bytes=1", "fake:nan_after=9")
)
@pytest.mark.parametrize("lookup", (1, 3, 10))
@pytest.mark.parametrize("n_batch", (2, 5, 512))
def test_the_same_tokens_with_and_without(model: str, lookup: int, n_batch: int) -> None:
    plain, guessed = run(model, 0), run(model, lookup, n_batch=n_batch)
    assert plain[0].records["g0"].ids == guessed[0].records["g0"].ids
    one, other = plain[1], guessed[1]
    assert (one.text, one.finish_reason, one.error) == (other.text, other.finish_reason, other.error)


def test_right_guesses_save_steps() -> None:
    bench, end = run(REPEATING, 8)
    usage = end.usage
    assert usage.completion_tokens == 48
    assert bench.n_steps < 15
    assert usage.accepted_tokens > 25
    assert sum(step.draft_tokens for step in bench.metrics) == usage.draft_tokens
    assert sum(step.accepted_tokens for step in bench.metrics) == usage.accepted_tokens


def test_wrong_guesses_leave_nothing() -> None:
    text = " the river and the stone, the river and the glass, the river and a light"
    bench = Bench(f"fake:script={quote(text, safe='')}", n_slots=1)
    bench.add("the river", lookup=5)
    bench.run()
    record = bench.records["g0"]
    assert record.end.usage.draft_tokens > record.end.usage.accepted_tokens
    assert bench.backend.held[0] == [*record.prompt, *record.ids]
    assert bench.metrics[-1].kv_used == len(bench.backend.held[0])


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_is_kept(max_tokens: int) -> None:
    bench, end = run(REPEATING, 10, max_tokens=max_tokens)
    assert end.usage.completion_tokens == max_tokens
    assert end.usage.draft_tokens <= sum(step.draft_tokens for step in bench.metrics)


def test_the_context_is_kept() -> None:
    bench = Bench(REPEATING, n_ctx=32)
    bench.add("the river and the light of the window", lookup=10)
    bench.run()
    assert bench.records["g0"].end.finish_reason == "context_full"


def test_a_stop_string_inside_what_was_accepted() -> None:
    stop = (" light of the window the river and",)
    bench, end = run(REPEATING, 10, stop=stop)
    plain = run(REPEATING, 0, stop=stop)[1]
    assert (end.text, end.finish_reason) == (plain.text, "stop")
    assert end.usage.completion_tokens == plain.usage.completion_tokens
    record = bench.records["g0"]
    held = next(tokens for tokens in bench.backend.held if tokens)
    assert held == [*record.prompt, *record.ids][: len(held)]


def test_steps_are_counted_token_by_token() -> None:
    bench = Bench(REPEATING)
    bench.add("the river and the light of the window", lookup=10)
    while len(bench.records["g0"].ids) < 10:
        bench.step()
    bench.pause("g0")
    for n in (1, 2, 5):
        before = len(bench.records["g0"].ids)
        bench.step_tokens("g0", n)
        bench.run()
        assert len(bench.records["g0"].ids) == before + n


def test_a_cancel_during_the_decode_leaves_no_guess_behind() -> None:
    bench = Bench(REPEATING, n_slots=1)
    bench.add("the river and the light of the window", lookup=10)
    for _ in range(4):
        bench.step()
    bench.backend.during_decode = lambda: bench.core.cancel("g0")
    bench.run()
    record = bench.records["g0"]
    assert bench.metrics[-1].draft_tokens > 0
    assert bench.backend.held[0] == [*record.prompt, *record.ids]


def test_recurrent_models_guess_nothing() -> None:
    assert run(f"{REPEATING},recurrent=1", 10)[1].usage.draft_tokens == 0


def test_guesses_take_no_cells_that_others_need() -> None:
    bench = Bench(REPEATING, n_slots=3, n_ctx=60, n_kv=70)
    for _ in range(3):
        bench.add("the river and the light of the window", lookup=10)
    bench.run()
    plain = run(REPEATING, 0)[1]
    assert [record.end.text for record in bench.records.values()] == [plain.text] * 3


def test_an_error_comes_after_the_tokens_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(REPEATING)
    bench.add("the river and the light of the window", lookup=10)
    sample, count = bench.backend.sample, [0]

    def failing(*arguments: object) -> object:
        count[0] += 1
        if count[0] > 20:
            raise TokenglassError("invalid_output", "no numbers")
        return sample(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.backend, "sample", failing)
    bench.run()
    end = bench.records["g0"].end
    assert (end.finish_reason, end.usage.completion_tokens) == ("error", 20)
