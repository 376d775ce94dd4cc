"""engine.backends.llamacpp in the worker, with the starter and tiny real models."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.backend import Batch, SamplerSpec
from engine.backends import llamacpp
from engine.backends.llamacpp import lib
from engine.commands import Generate
from engine.errors import TokenglassError
from engine.events import GenerationFinished, GenerationStarted, StepMetrics
from engine.machine import this_machine
from engine.types import SamplingParams, WorkerConfig
from tests.engine.test_client import Recorder, generate

GREEDY = SamplingParams(temperature=0)
ENDLESS = r'root ::= [a-zA-Z ,.]+ "\x01"'
"""A grammar of texts whose end no model comes to."""


@pytest.fixture(scope="module")
def backend(starter_model: Path) -> llamacpp.LlamaBackend:
    config = WorkerConfig(model_id="starter", model_path=str(starter_model), n_slots=2, n_ctx=512)
    return llamacpp.load(config, lambda _: True)


def feed(backend: llamacpp.LlamaBackend, tokens: list[int], sequence: int, start: int = 0) -> int:
    """Decode tokens[start:]; answers the batch index of the last one."""
    n = len(tokens) - start
    batch = Batch(tokens[start:], list(range(start, len(tokens))), [sequence] * n, [False] * (n - 1) + [True])
    backend.decode(batch)
    return n - 1


def greedy(
    backend: llamacpp.LlamaBackend, prompt: list[int], sequence: int, n: int, kept: int = 0
) -> list[int]:
    sampler = backend.new_sampler(SamplerSpec(GREEDY, 1, None), [])
    index = feed(backend, prompt, sequence, kept)
    tokens: list[int] = []
    for _ in range(n):
        token = backend.sample(sampler, index).token
        tokens.append(token)
        index = feed(backend, [*prompt, *tokens], sequence, len(prompt) + len(tokens) - 1)
    sampler.close()
    return tokens


@pytest.mark.parametrize(
    "text", ("Hello, world!", "naïve café ☃ 漢字 \U0001f600", "a\tb\n\n  c", "", "\x00\x7f")
)
def test_any_text_survives_the_tokenizer(backend: llamacpp.LlamaBackend, text: str) -> None:
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(backend.piece(token) for token in tokens).decode() == text


def test_lone_surrogates_do_not_crash(backend: llamacpp.LlamaBackend) -> None:
    assert backend.tokenize("a\ud800b", add_special=False, parse_special=False)


def test_a_kept_prefix_gives_the_same_answer(backend: llamacpp.LlamaBackend) -> None:
    prompt = backend.tokenize("What is a token?", add_special=True, parse_special=True)
    first = greedy(backend, prompt, 0, 8)
    assert backend.keep(0, len(prompt) - 1) == len(prompt) - 1
    assert greedy(backend, prompt, 0, 8, kept=len(prompt) - 1)[:3] == first[:3]
    assert backend.keep(0, 0) == 0
    assert greedy(backend, prompt, 0, 8) == first


def test_logprobs_are_those_of_the_logits(backend: llamacpp.LlamaBackend) -> None:
    backend.keep(0, 0)
    prompt = backend.tokenize("Hello", add_special=True, parse_special=True)
    index = feed(backend, prompt, 0)
    sampler = backend.new_sampler(SamplerSpec(GREEDY, 1, 5), [])
    sampled = backend.sample(sampler, index)
    assert sampled.top[0][0] == sampled.token, "greedy takes the likeliest"
    assert sampled.logprob == pytest.approx(sampled.top[0][1], abs=1e-4)
    assert [p for _, p in sampled.top] == sorted((p for _, p in sampled.top), reverse=True)
    everything = backend.sample(backend.new_sampler(SamplerSpec(GREEDY, 1, backend.info.n_vocab), []), index)
    assert sum(math.exp(p) for _, p in everything.top) == pytest.approx(1, abs=1e-3)


def test_the_same_seed_draws_the_same(backend: llamacpp.LlamaBackend) -> None:
    backend.keep(0, 0)
    index = feed(backend, backend.tokenize("Tell me", add_special=True, parse_special=True), 0)
    params = SamplingParams(temperature=1.5, top_k=0, top_p=1, min_p=0)

    def draw(seed: int) -> list[int]:
        sampler = backend.new_sampler(SamplerSpec(params, seed, None), [])
        return [backend.sample(sampler, index).token for _ in range(20)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_logit_bias_and_penalties_act(backend: llamacpp.LlamaBackend) -> None:
    backend.keep(0, 0)
    index = feed(backend, backend.tokenize("Hello", add_special=True, parse_special=True), 0)
    best = backend.sample(backend.new_sampler(SamplerSpec(GREEDY, 1, None), []), index).token
    banned = SamplingParams(temperature=0, logit_bias={best: -100.0, 10**6: 1.0})
    assert backend.sample(backend.new_sampler(SamplerSpec(banned, 1, None), []), index).token != best
    sampler = backend.new_sampler(
        SamplerSpec(SamplingParams(temperature=0, presence_penalty=10.0), 1, None), []
    )
    sampler.accept(best)
    assert backend.sample(sampler, index).token != best


def test_a_vocabulary_without_bytes_refuses_what_it_cannot_write(shared_models: Path) -> None:
    config = WorkerConfig(
        model_id="t", model_path=str(shared_models / "tinystories-656k-q8_0.gguf"), n_slots=1
    )
    backend = llamacpp.load(config, lambda _: True)
    with pytest.raises(TokenglassError, match="é"):
        backend.tokenize("café", add_special=True, parse_special=True)
    backend.close()


def test_a_recurrent_model_forgets_all_or_nothing(shared_models: Path) -> None:
    config = WorkerConfig(model_id="r", model_path=str(shared_models / "tiny-rwkv7-834K-f32.gguf"), n_slots=1)
    backend = llamacpp.load(config, lambda _: True)
    prompt = backend.tokenize("Once upon a time", add_special=True, parse_special=True)
    first = greedy(backend, prompt, 0, 5)
    assert backend.keep(0, 4) == 0
    assert greedy(backend, prompt, 0, 5) == first
    backend.close()


# ---- the context


def load(path: Path, **settings: int) -> llamacpp.LlamaBackend:
    return llamacpp.load(WorkerConfig(model_id="m", model_path=str(path), **settings), lambda _: True)


def logits_after(backend: llamacpp.LlamaBackend, batch: Batch) -> list[np.ndarray[Any, Any]]:
    """Copies of the logits that the batch asks for."""
    backend.decode(batch)
    return [backend._row(i).copy() for i, wanted in enumerate(batch.wants_logits) if wanted]


def alone(backend: llamacpp.LlamaBackend, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The logits after these tokens, prefilled into an empty first sequence."""
    backend.keep(0, 0)
    (logits,) = logits_after(
        backend, Batch(tokens, list(range(len(tokens))), [0] * len(tokens), ends(tokens))
    )
    backend.keep(0, 0)
    return logits


def ends(tokens: list[int]) -> list[bool]:
    return [False] * (len(tokens) - 1) + [True]


def test_what_is_told_of_the_context_is_what_llama_cpp_has(starter_model: Path) -> None:
    backend = load(starter_model, n_slots=3, n_ctx=300, n_batch=100, n_ubatch=50, n_threads=1)
    info = backend.info
    assert (info.n_slots, info.n_ctx, info.n_batch, info.n_ubatch) == (3, 300, 100, 50)
    assert info.n_kv == lib.llama_n_ctx(backend._context)
    assert info.n_kv >= 900
    assert (info.n_threads, info.n_threads_batch) == (1, 1)
    assert (info.recurrent, info.embedding) == (False, False)
    backend.close()
    small = load(starter_model, n_slots=8, n_ctx=512, n_kv=256, n_threads=1, n_threads_batch=2)
    assert (small.info.n_kv, small.info.n_ctx, small.info.n_batch) == (256, 256, 256)
    assert small.info.n_ubatch <= 256
    assert (small.info.n_threads, small.info.n_threads_batch) == (1, 2)
    small.close()
    chosen = load(starter_model, n_slots=2)
    assert chosen.info.n_ctx == min(4096, chosen.info.n_ctx_train)
    assert 1 <= chosen.info.n_ubatch <= chosen.info.n_batch == 512
    assert chosen.info.n_threads == max(1, this_machine().cores - 1)
    chosen.close()


def test_a_load_can_be_stopped(starter_model: Path) -> None:
    config = WorkerConfig(model_id="m", model_path=str(starter_model))
    with pytest.raises(TokenglassError) as caught:
        llamacpp.load(config, lambda done: done < 0.3)
    assert caught.value.code == "load_cancelled"


def test_a_full_cache_is_an_error_and_harms_nobody(starter_model: Path) -> None:
    backend = load(starter_model, n_slots=3, n_kv=256, n_batch=256)
    tokens = backend.tokenize("A prompt for the first of three.", add_special=True, parse_special=True)
    n, rest = len(tokens), 200
    expected = alone(backend, [*tokens, 400])
    backend.decode(Batch(tokens, list(range(n)), [0] * n, [False] * n))
    backend.decode(Batch([300] * rest, list(range(rest)), [1] * rest, [False] * rest))
    room = 256 - n - rest
    with pytest.raises(TokenglassError) as caught:
        backend.decode(
            Batch([301] * (room + 1), list(range(room + 1)), [2] * (room + 1), [False] * (room + 1))
        )
    assert caught.value.code == "context_overflow"
    (after,) = logits_after(backend, Batch([400], [n], [0], [True]))
    assert np.abs(after - expected).max() < 0.5, "the first goes on"
    backend.keep(1, 0)
    backend.decode(Batch([301] * 150, list(range(150)), [2] * 150, [False] * 150))
    backend.close()


def test_a_batch_that_fails_leaves_the_context_usable(backend: llamacpp.LlamaBackend) -> None:
    prompt = backend.tokenize("What is a token?", add_special=True, parse_special=True)
    backend.keep(0, 0)
    first = greedy(backend, prompt, 0, 8)
    backend.keep(0, 0)
    for wrong in (
        Batch([5, 6], [0, 7], [0, 0], [False, True]),  # a gap in the positions
        Batch([backend.info.n_vocab + 3], [0], [0], [True]),
        Batch([], [], [], []),
    ):
        with pytest.raises(TokenglassError) as caught:
            backend.decode(wrong)
        assert caught.value.code == "internal"
    assert backend.keep(0, 0) == 0
    assert greedy(backend, prompt, 0, 8) == first


@pytest.mark.parametrize("sizes", [{"n_kv": 256, "n_batch": 256}, {"n_ctx": 256}], ids=("unified", "parts"))
def test_a_copied_prefix_goes_its_own_way(starter_model: Path, sizes: dict[str, int]) -> None:
    """Where the cache is unified it shares the cells: three times as much wouldn't fit."""
    backend = load(starter_model, n_slots=3, **sizes)
    assert backend.info.kv_unified == ("n_kv" in sizes)
    prompt = backend.tokenize("Once there was a snail who", add_special=True, parse_special=True) + [300] * 90
    n = len(prompt)
    one, other = [*prompt, 400, 401], [*prompt[: n - 10], 500, 501]
    expected = alone(backend, one), alone(backend, other)
    backend.decode(Batch(prompt, list(range(n)), [0] * n, [False] * n))
    assert backend.copy(0, 1, n - 10) == n - 10
    assert backend.copy(0, 2, n) == n
    assert backend.copy(1, 0, 0) == 0
    assert backend.keep(2, 0) == 0
    tokens = [400, 401, 500, 501]
    batch = Batch(tokens, [n, n + 1, n - 10, n - 9], [0, 0, 1, 1], [False, True, False, True])
    for got, wanted in zip(logits_after(backend, batch), expected, strict=True):
        assert np.abs(got - wanted).max() < 0.5
    assert np.abs(expected[0] - expected[1]).max() > 1
    backend.close()


def test_guessed_tokens_are_checked_in_one_batch(backend: llamacpp.LlamaBackend) -> None:
    """The tokens that the model chooses, though its batch has another shape (but for rounding)."""
    prompt = backend.tokenize("What is a token?", add_special=True, parse_special=True)
    backend.keep(0, 0)
    chosen = greedy(backend, prompt, 0, 6)
    backend.keep(0, len(prompt))
    n = len(prompt)
    sampler = backend.new_sampler(SamplerSpec(GREEDY, 1), prompt, chosen[:1], 1)
    backend.decode(Batch(chosen[:5], list(range(n, n + 5)), [0] * 5, [True] * 5))
    agreed = [backend.sample(sampler, i).token for i in range(5)]
    assert agreed[:3] == chosen[1:4]
    assert sampler.n_drawn == 6


# ---- recurrent models


@pytest.fixture(scope="module")
def recurrent(shared_models: Path) -> llamacpp.LlamaBackend:
    return load(shared_models / "tiny-rwkv7-834K-f32.gguf", n_slots=3, n_ctx=200, n_kv=256)


def test_a_recurrent_model_has_room_for_each_slot(recurrent: llamacpp.LlamaBackend) -> None:
    assert recurrent.info.recurrent
    assert recurrent.info.n_ctx == 200
    for sequence in range(3):
        recurrent.keep(sequence, 0)
        recurrent.decode(Batch([30] * 200, list(range(200)), [sequence] * 200, [False] * 200))
        assert recurrent.keep(sequence, 200) == 200
    for sequence in range(3):
        assert recurrent.keep(sequence, 150) == 0


def test_recurrent_sequences_go_side_by_side(recurrent: llamacpp.LlamaBackend) -> None:
    texts = ("Once upon a time", "The little dog was happy because", "She said")
    prompts = [recurrent.tokenize(text, add_special=True, parse_special=True) for text in texts]
    expected = [alone(recurrent, prompt) for prompt in prompts]
    batch = Batch([], [], [], [])
    for sequence, prompt in enumerate(prompts):
        recurrent.keep(sequence, 0)
        batch.tokens += prompt
        batch.positions += range(len(prompt))
        batch.sequences += [sequence] * len(prompt)
        batch.wants_logits += ends(prompt)
    for got, wanted in zip(logits_after(recurrent, batch), expected, strict=True):
        assert np.abs(got - wanted).max() < 1e-2


def test_a_recurrent_state_is_copied_whole_or_not(recurrent: llamacpp.LlamaBackend) -> None:
    prompt = recurrent.tokenize("Once upon a time there was", add_special=True, parse_special=True)
    n = len(prompt)
    expected = [alone(recurrent, [*prompt, token]) for token in (30, 31)]
    for sequence in range(3):
        recurrent.keep(sequence, 0)
    recurrent.decode(Batch(prompt, list(range(n)), [0] * n, [False] * n))
    assert recurrent.copy(0, 1, n - 1) == 0
    assert recurrent.copy(0, 1, n) == n
    batch = Batch([30, 31], [n, n], [0, 1], [True, True])
    for got, wanted in zip(logits_after(recurrent, batch), expected, strict=True):
        assert np.abs(got - wanted).max() < 1e-2
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert recurrent.keep(1, n) == 0, "it has gone on"
    assert recurrent.keep(0, n + 1) == n + 1


@pytest.mark.parametrize("text", ("Once upon a time", "café"))
def test_the_worker_answers_with_a_model_without_template(
    shared_models: Path, tmp_path: Path, text: str
) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, str(shared_models / "tinystories-656k-q8_0.gguf"))
        await worker.started()
        worker.client.send(generate("g", text, max_tokens=8))
        await worker.until(lambda: worker.finished("g"))
        (finished,) = worker.finished("g")
        if text == "café":
            assert finished.error is not None
            assert finished.error.code == "invalid_prompt"
        else:
            assert finished.finish_reason == "length"
            assert finished.usage.completion_tokens == 8
        await worker.client.stop()

    asyncio.run(scenario())


def raw(name: str, max_tokens: int) -> Generate:
    """A long answer, as they don't begin all at once: threads of the worker have their turns.

    To a prompt as it is: while one is rendered, those before it would go ahead.
    """
    update = {"messages": None, "prompt": "Count from one to twenty.", "grammar": ENDLESS}
    return generate(name, max_tokens=max_tokens).model_copy(update=update)


def test_four_at_once_share_a_batch_and_a_second_turn_is_cached(starter_model: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, str(starter_model), n_slots=4)
        await worker.started()
        await worker.send_together([raw(f"g{i}", 300) for i in range(4)])
        await worker.until(lambda: len(worker.of(GenerationFinished)) == 4)
        assert max(step.batch_size for step in worker.of(StepMetrics)) == 4
        worker.client.send(raw("again", 4))
        await worker.until(lambda: worker.finished("again"))
        started = {event.generation_id: event for event in worker.of(GenerationStarted)}
        assert started["again"].cached_tokens == started["again"].prompt_tokens - 1
        await worker.client.stop()

    asyncio.run(scenario())
