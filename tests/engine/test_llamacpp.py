"""engine.backends.llamacpp in the worker, with the starter and tiny real models."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from engine.backend import Batch, SamplerSpec
from engine.backends import llamacpp
from engine.errors import TokenglassError
from engine.events import GenerationFinished, GenerationStarted, StepMetrics
from engine.types import SamplingParams, WorkerConfig
from tests.engine.test_client import Recorder, generate

GREEDY = SamplingParams(temperature=0)


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


def test_four_at_once_share_a_batch_and_a_second_turn_is_cached(starter_model: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, str(starter_model), n_slots=4)
        await worker.started()
        for i in range(4):
            worker.client.send(generate(f"g{i}", "Count from one to twenty.", max_tokens=24))
        await worker.until(lambda: len(worker.of(GenerationFinished)) == 4)
        assert max(step.batch_size for step in worker.of(StepMetrics)) == 4
        worker.client.send(generate("again", "Count from one to twenty.", max_tokens=4))
        await worker.until(lambda: worker.finished("again"))
        started = {event.generation_id: event for event in worker.of(GenerationStarted)}
        assert started["again"].cached_tokens == started["again"].prompt_tokens - 1
        await worker.client.stop()

    asyncio.run(scenario())
