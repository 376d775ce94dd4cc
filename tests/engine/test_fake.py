"""The fake backend: its vocabulary, its answers, its failures, and that it notices wrong batches."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backend import Batch, SamplerSpec
from engine.backends import fake
from engine.backends.fake import FakeBackend
from engine.errors import TokenglassError
from engine.prepare import Preparer
from engine.types import ChatMessage, SamplingParams, ToolCall, WorkerConfig
from tests.engine.harness import CLOCK_TOOL, Bench

ROOT = Path(__file__).resolve().parents[2]


def load(model: str = "fake:", **settings: int) -> FakeBackend:
    config = WorkerConfig(model_id="m", model_path=model, **settings)
    return fake.load(config, lambda done: True)


def whole(tokens: list[int], *, sequence: int = 0, start: int = 0) -> Batch:
    n = len(tokens)
    wants = [False] * (n - 1) + [True]
    return Batch(tokens, list(range(start, start + n)), [sequence] * n, wants)


def answer(backend: FakeBackend, prompt: list[int], *, seed: int = 1, temperature: float = 0.7) -> list[int]:
    """Sample until the end token."""
    backend.keep(0, 0)
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(temperature=temperature), seed), prompt)
    tokens: list[int] = []
    batch = whole(prompt)
    while True:
        backend.decode(batch)
        token = backend.sample(sampler, len(batch.tokens) - 1).token
        if backend.is_eog(token):
            return tokens
        tokens.append(token)
        batch = whole([token], start=len(prompt) + len(tokens) - 1)


def text_of(backend: FakeBackend, tokens: list[int]) -> str:
    return b"".join(map(backend.piece, tokens)).decode()


# ---- vocabulary


@given(text=st.text(max_size=60), split=st.booleans())
def test_every_text_is_tokenized_and_comes_back(text: str, split: bool) -> None:
    backend = load(f"fake:bytes={split:d}")
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert text_of(backend, tokens) == text


def test_words_are_single_tokens_but_in_bytes_mode() -> None:
    text = " river 水 stone."
    assert len(load().tokenize(text, add_special=False, parse_special=False)) == 4
    assert len(load("fake:bytes=1").tokenize(text, add_special=False, parse_special=False)) == 17


def test_special_tokens_only_where_asked_for() -> None:
    backend = load()
    tokens = backend.tokenize("<|im_end|>", add_special=True, parse_special=True)
    assert tokens == [fake.BOS, fake.IM_END]
    assert fake.IM_END not in backend.tokenize("<|im_end|>", add_special=False, parse_special=False)
    assert [backend.is_eog(token) for token in (fake.BOS, fake.EOS, fake.IM_START, fake.IM_END)] == [
        False,
        True,
        False,
        True,
    ]
    assert backend.piece(fake.IM_END) == b""


def test_the_chat_template_renders() -> None:
    backend = load()
    preparer = Preparer(backend)
    bench = Bench()
    command = bench.records[bench.add()].command
    messages = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="What time is it?"),
        ChatMessage(role="assistant", tool_calls=[ToolCall(id="c", name="clock", arguments='{"a": 1}')]),
        ChatMessage(role="tool", content="noon", tool_call_id="c"),
    ]
    update = {"prompt": None, "messages": messages, "tools": [CLOCK_TOOL]}
    tokens = preparer.prepare(command.model_copy(update=update)).prompt_tokens
    assert tokens[0] == fake.BOS
    assert tokens.count(fake.IM_START) == 6
    assert tokens.count(fake.IM_END) == 5
    text = text_of(backend, tokens)
    assert text.endswith("\nassistant\n")
    assert '<tool_call>{"name": "clock", "arguments": {"a": 1}}</tool_call>' in text
    assert "user\nWhat time is it?\n" in text


# ---- answers


def test_an_answer_depends_on_prompt_and_seed_alone() -> None:
    backend = load()
    first = answer(backend, [7, 8, 9])
    assert answer(backend, [7, 8, 9]) == first
    assert answer(load(), [7, 8, 9]) == first
    assert answer(backend, [7, 8, 10]) != first
    assert answer(backend, [7, 8, 9], seed=2) != first
    assert 40 <= len(first) <= 80


def test_greedy_answers_ignore_the_seed() -> None:
    backend = load()
    assert answer(backend, [7], seed=1, temperature=0) == answer(backend, [7], seed=2, temperature=0)


@pytest.mark.parametrize(
    ("model", "text"),
    (
        ("fake:script=one%2C two%25 é", "one, two% é"),
        ("fake:script=one%2C two%25 é,bytes=1", "one, two% é"),
        ("fake:script=", ""),
        ("fake:script=abc,tokens=2", "ab"),
        ("fake:echo=1", " the river"),
        ("fake:echo=1,tokens=1", " the"),
        ("fake:echo=1,bytes=1,tokens=3", " th"),
    ),
)
def test_fixed_answers(model: str, text: str) -> None:
    backend = load(model)
    prompt = backend.tokenize(" the river", add_special=True, parse_special=True)
    assert text_of(backend, answer(backend, prompt)) == text


def test_echo_answers_with_the_last_user_message() -> None:
    backend = load("fake:echo=1")
    text = "<|im_start|>user\none<|im_end|>\n<|im_start|>user\ntwo é<|im_end|>\n<|im_start|>assistant\n"
    prompt = backend.tokenize(text, add_special=True, parse_special=True)
    assert text_of(backend, answer(backend, prompt)) == "two é"


def test_the_number_of_tokens() -> None:
    assert len(answer(load("fake:tokens=7"), [5])) == 7
    assert len(answer(load("fake:tokens=7,bytes=1"), [5])) == 7
    assert answer(load("fake:tokens=0"), [5]) == []


def test_bytes_mode_splits_characters() -> None:
    backend = load("fake:bytes=1,tokens=200")
    tokens = answer(backend, [5])
    assert all(len(backend.piece(token)) == 1 for token in tokens)
    assert any(backend.piece(token)[0] >= 0x80 for token in tokens)


def goes_on(
    backend: FakeBackend, prompt: list[int], completion: list[int], n_drawn: int, **sampling: float
) -> list[int]:
    """The rest of an answer by a sampler made anew; sampling as in SamplingParams."""
    backend.keep(0, 0)
    params = SamplingParams.model_validate(sampling)
    sampler = backend.new_sampler(SamplerSpec(params, 1), prompt, completion, n_drawn)
    tokens: list[int] = []
    batch = whole(prompt + completion)
    while True:
        backend.decode(batch)
        token = backend.sample(sampler, len(batch.tokens) - 1).token
        if backend.is_eog(token):
            return tokens
        tokens.append(token)
        batch = whole([token], start=len(prompt) + len(completion) + len(tokens) - 1)


MODELS = ("fake:", "fake:bytes=1", "fake:echo=1", "fake:script=one two three", "fake:tokens=9")


@given(
    model=st.sampled_from(MODELS),
    cut=st.integers(0, 30),
    prompt=st.lists(st.integers(4, fake.N_VOCAB - 1), min_size=1, max_size=12),
    temperature=st.sampled_from((0.0, 0.7)),
)
def test_a_sampler_made_anew_goes_on_the_same(
    model: str, cut: int, prompt: list[int], temperature: float
) -> None:
    backend = load(model)
    tokens = goes_on(backend, prompt, [], 0, temperature=temperature)
    cut = min(cut, len(tokens))
    assert tokens[:cut] + goes_on(backend, prompt, tokens[:cut], cut, temperature=temperature) == tokens


def test_what_a_drawn_token_depends_on() -> None:
    backend = load()
    first = goes_on(backend, [7, 8], [], 0, temperature=0.7)
    cut = first[:5]
    rest = goes_on(backend, [7, 8], cut, 5, temperature=0.7)
    assert goes_on(backend, [7, 8], cut, 6, temperature=0.7) != rest, "tokens drawn and rewound"
    assert goes_on(backend, [7, 8], cut, 5, temperature=0.8) != rest
    assert goes_on(backend, [7, 8], cut, 5, temperature=0.7, top_k=3) != rest
    assert goes_on(backend, [7, 8], [*cut[:-1], 99], 5, temperature=0.7) != rest, "an injected token"
    greedy = goes_on(backend, [7, 8], cut, 5, temperature=0)
    assert goes_on(backend, [7, 8], cut, 6, temperature=0, top_k=3) == greedy


@given(prompt=st.lists(st.integers(4, fake.N_VOCAB - 1), min_size=1, max_size=8), n=st.integers(0, 20))
def test_logprobs_are_those_of_a_distribution(prompt: list[int], n: int) -> None:
    backend = load()
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(), 1, n_logprobs=n), prompt)
    backend.decode(whole(prompt))
    sampled = backend.sample(sampler, len(prompt) - 1)
    assert sampled.logprob is not None
    assert len({token for token, _ in sampled.top}) == n
    logprobs = [logprob for _, logprob in sampled.top]
    assert logprobs == sorted(logprobs, reverse=True)
    assert sum(map(math.exp, logprobs)) < 1
    assert not sampled.top or sampled.top[0] == (sampled.token, sampled.logprob)


def test_scripts_go_by_the_position_in_the_answer() -> None:
    backend = load("fake:script=one two three four,bytes=1")
    prompt = backend.tokenize("say", add_special=True, parse_special=True)
    said = backend.tokenize("one tw", add_special=False, parse_special=False)
    assert text_of(backend, goes_on(backend, prompt, said, 2)) == "o three four"
    other = backend.tokenize("1, 2,", add_special=False, parse_special=False)
    assert text_of(backend, goes_on(backend, prompt, other, 0)) == "wo three four"


# ---- what the core must not do


def test_wrong_batches_are_noticed() -> None:
    backend = load("fake:ctx=4", n_batch=8)
    backend.decode(whole([5, 6]))
    for wrong in (
        whole([5], start=3),  # leaves a gap
        whole([5], start=1),  # overwrites
        whole([5, 6, 7], start=2),  # more than fits
        whole([5] * 9, sequence=1),  # more than a batch takes
        whole([-1], sequence=1),  # no such token
        Batch([], [], [], []),
        Batch([5], [0], [1], []),
    ):
        with pytest.raises(AssertionError):
            backend.decode(wrong)


def test_logits_that_were_not_asked_for_cannot_be_read() -> None:
    backend = load()
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(), 1), [5, 6])
    backend.decode(whole([5, 6]))
    with pytest.raises(AssertionError):
        backend.sample(sampler, 0)
    backend.sample(sampler, 1)
    with pytest.raises(AssertionError):
        backend.sample(sampler, 1)
    backend.decode(whole([5], start=2))
    sampler.close()
    with pytest.raises(AssertionError):
        backend.sample(sampler, 0)
    with pytest.raises(AssertionError):
        sampler.close()


def test_keep() -> None:
    backend = load()
    backend.decode(whole([5, 6, 7]))
    assert backend.keep(0, 2) == 2
    assert backend.held[0] == [5, 6]
    with pytest.raises(AssertionError):
        backend.keep(0, 3)
    recurrent = load("fake:recurrent=1")
    recurrent.decode(whole([5, 6, 7]))
    assert recurrent.keep(0, 3) == 3
    assert recurrent.keep(0, 2) == 0
    assert recurrent.held[0] == []


@pytest.mark.parametrize(("prompt", "completion"), (([5, 6], []), ([5, 6, 8], []), ([5], [6, 6, 7])))
def test_samplers_must_have_seen_what_the_sequence_has(prompt: list[int], completion: list[int]) -> None:
    backend = load()
    backend.decode(whole([5, 6, 7]))
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(), 1), prompt, completion)
    with pytest.raises(AssertionError):
        backend.sample(sampler, 2)


def test_the_sampled_token_must_be_the_next() -> None:
    backend = load()
    backend.decode(whole([5, 6, 7]))
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(), 1), [5], [6, 7])
    token = backend.sample(sampler, 2).token
    backend.decode(whole([9 if token != 9 else 10], start=3))
    with pytest.raises(AssertionError):
        backend.sample(sampler, 0)


def test_guessed_tokens_are_sampled_in_one_batch() -> None:
    """As one by one, up to the first wrong guess."""
    backend = load()
    alone = goes_on(backend, [5, 6], [], 0)
    backend.keep(0, 0)
    guess = [*alone[:3], 4, 4]
    backend.decode(Batch([5, 6, *guess], list(range(7)), [0] * 7, [False] + [True] * 6))
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(), 1), [5, 6])
    assert [backend.sample(sampler, 1 + i).token for i in range(4)] == alone[:4]
    with pytest.raises(AssertionError):
        backend.sample(sampler, 5)


def test_cells_are_shared_and_run_out() -> None:
    backend = load(n_kv=8, n_slots=3)
    assert (backend.info.n_kv, backend.info.n_ctx) == (8, 8)
    backend.decode(whole([5, 6, 7, 8]))
    assert backend.copy(0, 1, 3) == 3
    assert backend.held[1] == [5, 6, 7]
    assert backend.cells_used == 4
    backend.decode(whole([9, 9], sequence=1, start=3))
    backend.keep(0, 0)
    assert backend.cells_used == 5
    with pytest.raises(TokenglassError) as caught:
        backend.decode(whole([5] * 4, sequence=2))
    assert caught.value.code == "context_overflow"
    assert backend.held[2] == []
    backend.decode(whole([5] * 3, sequence=2))
    with pytest.raises(AssertionError):
        backend.copy(1, 2, 1)
    backend.keep(1, 0)
    assert backend.cells_used == 3
    recurrent = load("fake:recurrent=1", n_slots=2)
    recurrent.decode(whole([5, 6]))
    assert recurrent.copy(0, 1, 1) == 0
    assert recurrent.copy(0, 1, 2) == 2


# ---- loading, delays, failures


def test_the_spec_overrides_the_configuration() -> None:
    assert load(n_ctx=100, n_slots=2).info.n_ctx == 100
    info = load("fake:ctx=64,slots=3", n_ctx=100, n_slots=2).info
    assert (info.n_ctx, info.n_slots) == (64, 3)
    assert load().info.n_ctx == 4096


def test_loading_takes_its_time_and_tells_how_far_it_is() -> None:
    seen: list[float] = []

    def progress(done: float) -> bool:
        seen.append(done)
        return True

    backend = fake.load(WorkerConfig(model_id="m", model_path="fake:load_ms=50"), progress)
    assert backend.info.load_ms >= 50
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)


def test_a_load_can_be_stopped() -> None:
    with pytest.raises(TokenglassError) as caught:
        fake.load(WorkerConfig(model_id="m", model_path="fake:load_ms=60000"), lambda done: done < 0.001)
    assert caught.value.code == "load_cancelled"


@pytest.mark.parametrize(
    ("model", "code"),
    (
        ("fake:load_fail=model_unsupported", "model_unsupported"),
        ("fake:oom_at_load=1", "out_of_memory"),
        ("fake:nonsense=1", "load_failed"),
    ),
)
def test_loads_that_fail(model: str, code: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        load(model)
    assert caught.value.code == code


def test_steps_and_prompts_take_their_time() -> None:
    backend = load("fake:delay_ms=5,prefill_ms=4")
    start = time.monotonic()
    backend.decode(whole([5] * 6))
    assert time.monotonic() - start >= 0.025


CRASH = """
import sys
from tests.engine.harness import Bench
bench = Bench(sys.argv[1])
bench.add()
while bench.core.has_work:
    bench.step()
    print(len(bench.records["g0"].tokens), flush=True)
"""


@pytest.mark.parametrize(
    ("model", "code", "tokens"),
    (("fake:abort_after=3", -6, 3), ("fake:exit_after=2", 3, 2), ("fake:load_abort=1", -6, 0)),
)
def test_the_process_ends_when_told_to(model: str, code: int, tokens: int) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, model], cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == code, done.stderr
    assert len(done.stdout.split()) == tokens


def test_the_step_hangs_when_told_to() -> None:
    command = [sys.executable, "-c", CRASH, "fake:hang_after=2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert process.stdout.readline() == b"2\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
