"""The pace of prompts beside decoding, with simulated costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pace import HICCUP_MS, SHORT_PROMPT, STRETCH, Pace

N_BATCH = 512
NOISE = (0.9, 1.2)
NOISE_P99 = 1.197
"""How much longer than foreseen one step in a hundred takes, with a prompt and without."""
Cost = Callable[[int, int], float]
"""Decoding tokens and prompt tokens to milliseconds."""


@dataclass
class Run:
    steps: list[float]
    """Milliseconds between tokens of those that decode."""
    chunks: list[int]

    def p99(self) -> float:
        return sorted(self.steps)[int(len(self.steps) * 0.99)]


def simulate(cost: Cost, n_decode: int, n_prompt: int, pace: Pace | None = None) -> Run:
    """Decode a while, then compute a prompt beside it."""
    pace = pace or Pace(N_BATCH)
    for _ in range(20):
        pace.observe(n_decode, 0, 0, cost(n_decode, 0))
    run = Run([], [])
    while n_prompt:
        chunk = min(n_prompt, pace.allowance(n_decode))
        ms = cost(n_decode, chunk)
        pace.observe(n_decode, chunk, 0, ms)
        n_prompt -= chunk
        run.steps.append(ms)
        run.chunks.append(chunk)
    return run


def linear(decode_ms: float, prompt_ms: float) -> Cost:
    return lambda n_decode, n_prompt: decode_ms * (0.8 + 0.2 * n_decode) + prompt_ms * n_prompt


def noisy(cost: Cost, seed: int, hiccups: float = 0.0) -> Cost:
    noise = random.Random(seed)

    def cost_with_noise(n_decode: int, n_prompt: int) -> float:
        ms = cost(n_decode, n_prompt) * noise.uniform(*NOISE)
        return ms * 8 if noise.random() < hiccups else ms

    return cost_with_noise


MODELS = {
    "small": (2.0, 0.2),
    "large": (100.0, 5.0),
    "slow prompts": (2.0, 2.0),
    "fast prompts": (30.0, 0.05),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n_decode", (1, 3, 8))
def test_decoding_keeps_within_its_stretch_and_prompts_move(model: str, n_decode: int) -> None:
    decode_ms, prompt_ms = MODELS[model]
    cost = linear(decode_ms, prompt_ms)
    run = simulate(cost, n_decode, 4000)
    unloaded = cost(n_decode, 0)
    assert run.p99() <= (STRETCH + 0.05) * unloaded
    assert max(run.steps) <= (STRETCH + 0.15) * unloaded
    # no slower than it must be: the prompt gets nearly all the time that decoding doesn't need
    fewest = 4000 / max(1, min(N_BATCH - n_decode, (STRETCH - 1) * unloaded // prompt_ms))
    assert len(run.steps) <= 1.15 * fewest + 20


@given(
    decode_ms=st.floats(0.5, 200),
    ratio=st.floats(0.001, 1),
    n_decode=st.integers(1, 16),
    seed=st.integers(0, 10**6),
)
def test_noise_stays_under_the_promise(decode_ms: float, ratio: float, n_decode: int, seed: int) -> None:
    cost = linear(decode_ms, decode_ms * ratio)
    run = simulate(noisy(cost, seed), n_decode, 4000)
    assert run.p99() < 3 * NOISE_P99 * cost(n_decode, 0)


@given(seed=st.integers(0, 10**6), model=st.sampled_from(sorted(MODELS)))
def test_hiccups_of_the_machine_do_not_mislead_it(seed: int, model: str) -> None:
    """One step in fifty takes eight times as long; the others stay as they should."""
    cost = linear(*MODELS[model])
    hiccups = noisy(cost, seed, 0.02)
    run = simulate(hiccups, 2, 4000)
    foreseen = sorted(cost(2, chunk) for chunk in run.chunks)
    assert foreseen[int(len(foreseen) * 0.97)] < 3 * NOISE_P99 * cost(2, 0)


def test_prompts_that_cost_less_in_large_chunks() -> None:
    """A small chunk is dear; the estimate follows to where chunks have grown to."""

    def cost(n_decode: int, n_prompt: int) -> float:
        return 20.0 + (8.0 + 0.4 * n_prompt if n_prompt else 0)

    run = simulate(cost, 1, 2000)
    assert max(run.steps) <= 20 * (STRETCH + 0.1)
    assert sum(run.chunks[20:60]) / 40 > 30


def test_it_follows_a_growing_context() -> None:
    """Decoding slows down eightfold while the prompt is computed, and its chunks grow accordingly."""
    done = 0

    def cost(n_decode: int, n_prompt: int) -> float:
        nonlocal done
        done += 1
        return 5 + done / 100 + 0.5 * n_prompt

    run = simulate(cost, 1, 60_000)
    assert sum(run.chunks[-50:]) > 3 * sum(run.chunks[20:70])
    assert all(ms < 3 * (5 + i / 100) for i, ms in enumerate(run.steps, 21))


def test_everything_where_nobody_decodes() -> None:
    pace = Pace(N_BATCH)
    assert pace.allowance(0) == N_BATCH
    pace.observe(0, N_BATCH, 0, 1000)
    assert pace.allowance(0) == N_BATCH


def test_it_measures_before_it_lets_a_prompt_in() -> None:
    pace = Pace(N_BATCH)
    assert pace.allowance(2) == 0
    pace.observe(2, 0, 0, 10)
    assert pace.allowance(2) == 1
    assert pace.allowance(5) == 1, "what fewer take is a lower bound"
    assert pace.allowance(1) == 0
    assert pace.allowance(N_BATCH) == 0, "a full batch has no room"


def test_short_prompts_come_whole_once_it_is_known_what_they_take() -> None:
    pace = Pace(N_BATCH)
    pace.observe(2, 0, 0, 10)
    assert pace.whole(2) == 0, "nothing is known"
    pace.observe(0, 50, 0, 200)
    assert pace.whole(0) == 0, "nobody waits meanwhile"
    assert pace.whole(2) == HICCUP_MS / 4
    assert pace.whole(N_BATCH - 5) == 5
    for _ in range(20):
        pace.observe(2, 50, 50, 410)  # 8 ms each beside the two
    assert pace.whole(2) == pytest.approx(HICCUP_MS / 8, abs=1)
    for _ in range(20):
        pace.observe(0, 500, 0, 5)
    assert pace.whole(2) == SHORT_PROMPT


def test_a_prompt_that_came_whole_does_not_mislead_the_chunks() -> None:
    cost = linear(2.0, 2.0)
    pace = Pace(N_BATCH)
    simulate(cost, 2, 200, pace)
    before = pace.allowance(2)
    pace.observe(2, 100, 100, 30)
    assert pace.allowance(2) == before


@given(
    turns=st.lists(
        st.tuples(st.integers(0, 20), st.floats(0, 1000), st.floats(0, 1)), min_size=1, max_size=300
    )
)
def test_prompts_always_move(turns: list[tuple[int, float, float]]) -> None:
    """Whatever is observed: no number above the room, and 0 never twice in a row for the same decoders."""
    pace = Pace(32)
    refused: int | None = None
    for n_decode, ms, part in turns:
        allowed = pace.allowance(n_decode)
        assert 0 <= allowed <= 32 - n_decode
        if ms <= 0:
            continue
        if allowed == 0:
            pace.observe(n_decode, 0, 0, ms)
            assert pace.allowance(n_decode) >= 1
            assert refused != n_decode
            refused = n_decode
            continue
        refused = None
        pace.observe(n_decode, max(1, int(part * allowed)), 0, ms)
