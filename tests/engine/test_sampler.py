"""Sampler chains of llama.cpp: they go on where others stood, obey grammars, and draw as llama.cpp does."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.backend import Batch, SamplerSpec
from engine.backends import llamacpp
from engine.backends.llamacpp import candidates, lib, sampler
from engine.errors import TokenglassError
from engine.types import SamplingParams, WorkerConfig

JSON_GRAMMAR = r"""
root   ::= "{" pair ("," pair){0,2} "}"
pair   ::= string ": " (string | number | "true" | "null" | list)
list   ::= "[" (number ("," number){0,3})? "]"
string ::= "\"" char{0,12} "\""
char   ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
number ::= "-"? ("0" | [1-9] [0-9]{0,3}) ("." [0-9]{1,3})?
"""
HOT: Mapping[str, object] = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
CHAINS: tuple[Mapping[str, object], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "logit_bias": {300: -100.0, 301: -0.5}},
    {"temperature": 0.0, "repeat_penalty": 1.3, "presence_penalty": 0.5},
    {"temperature": 0.8},
    {"temperature": 1.2, "top_k": 5, "frequency_penalty": 0.3},
    {"temperature": 1.0, "top_k": 0, "repeat_penalty": 0.9, "logit_bias": {300: 3.0, 301: -100.0}},
    HOT,
)


@pytest.fixture(scope="module")
def backend(starter_model: Path) -> Iterator[llamacpp.LlamaBackend]:
    config = WorkerConfig(model_id="starter", model_path=str(starter_model), n_slots=1, n_ctx=512)
    backend = llamacpp.load(config, lambda _: True)
    yield backend
    backend.close()


def params(values: Mapping[str, object]) -> SamplingParams:
    return SamplingParams.model_validate(values)


def prompt_of(backend: llamacpp.LlamaBackend, text: str) -> list[int]:
    return backend.tokenize(text, add_special=True, parse_special=True)


def feed(backend: llamacpp.LlamaBackend, tokens: Sequence[int], start: int) -> int:
    """Decode tokens[start:]; answers the batch index of the last."""
    n = len(tokens) - start
    wants = [False] * (n - 1) + [True]
    backend.decode(Batch(list(tokens[start:]), list(range(start, len(tokens))), [0] * n, wants))
    return n - 1


def write(
    backend: llamacpp.LlamaBackend, prompt: list[int], spec: SamplerSpec, n: int, cut: int = -1
) -> list[int]:
    """n tokens after the prompt, end tokens among them; after `cut` of them another chain takes over."""
    backend.keep(0, 0)
    chain = backend.new_sampler(spec, prompt)
    tokens: list[int] = []
    index = feed(backend, prompt, 0)
    while len(tokens) < n:
        if len(tokens) == cut:
            chain.close()
            chain = backend.new_sampler(spec, prompt, tokens, cut)
        tokens.append(backend.sample(chain, index).token)
        assert chain.n_drawn == len(tokens)
        index = feed(backend, [*prompt, *tokens], len(prompt) + len(tokens) - 1)
    chain.close()
    return tokens


def answer(backend: llamacpp.LlamaBackend, prompt: list[int], spec: SamplerSpec) -> str:
    """The text up to the end token, which must come."""
    backend.keep(0, 0)
    chain = backend.new_sampler(spec, prompt)
    tokens: list[int] = []
    index = feed(backend, prompt, 0)
    while not backend.is_eog(token := backend.sample(chain, index).token):
        tokens.append(token)
        assert len(tokens) < 400
        index = feed(backend, [*prompt, *tokens], len(prompt) + len(tokens) - 1)
    chain.close()
    return b"".join(backend.piece(token) for token in tokens).decode()


# ---- going on where another chain stood


@pytest.mark.parametrize("values", CHAINS)
@pytest.mark.parametrize("grammar", (None, r"root ::= [a-z ,.]+"))
def test_a_new_chain_goes_on_where_the_old_one_stood(
    backend: llamacpp.LlamaBackend, values: Mapping[str, object], grammar: str | None
) -> None:
    prompt = prompt_of(backend, "Once upon a time a snail went to the garden and")
    for seed in (1, 7, 2**32 - 1):
        spec = SamplerSpec(params(values), seed, None, grammar)
        assert write(backend, prompt, spec, 50, cut=20) == write(backend, prompt, spec, 50)


@given(cut=st.integers(0, 40), seed=st.integers(0, 2**32 - 1), values=st.sampled_from(CHAINS))
def test_it_may_be_cut_anywhere(
    backend: llamacpp.LlamaBackend, cut: int, seed: int, values: Mapping[str, object]
) -> None:
    prompt = prompt_of(backend, "Hello")
    spec = SamplerSpec(params(values), seed)
    assert write(backend, prompt, spec, 40, cut) == write(backend, prompt, spec, 40)


def test_what_was_drawn_and_rewound_counts(backend: llamacpp.LlamaBackend) -> None:
    prompt = prompt_of(backend, "Hello")
    spec = SamplerSpec(params(HOT), 5)
    backend.keep(0, 0)
    index = feed(backend, prompt, 0)
    chain = backend.new_sampler(spec, prompt)
    drawn = [backend.sample(chain, index).token for _ in range(12)]
    for n in range(12):
        again = backend.new_sampler(spec, prompt, (), n)
        assert backend.sample(again, index).token == drawn[n]
        again.close()
    assert len(set(drawn)) > 1
    chain.close()


def test_penalties_see_the_last_64_of_prompt_and_completion(backend: llamacpp.LlamaBackend) -> None:
    backend.keep(0, 0)
    prompt = prompt_of(backend, "Hello")
    index = feed(backend, prompt, 0)
    best = backend.sample(
        backend.new_sampler(SamplerSpec(params({"temperature": 0.0}), 1), prompt), index
    ).token
    spec = SamplerSpec(params({"temperature": 0.0, "presence_penalty": 10.0}), 1)
    other = 500 if best != 500 else 501

    def choice(before: list[int], completion: list[int]) -> int:
        chain = backend.new_sampler(spec, before, completion)
        token = backend.sample(chain, index).token
        chain.close()
        return token

    assert choice([other] * 64, []) == best
    assert choice([best] + [other] * 63, []) != best
    assert choice([best] + [other] * 63, [other]) == best, "the completion pushes the prompt out"
    assert choice([other] * 64, [best] + [other] * 63) != best
    assert choice([other] * 64, [best] + [other] * 64) == best


# ---- the same as llama.cpp, only sooner


@pytest.mark.parametrize("values", CHAINS)
@pytest.mark.parametrize("preselect_from", (0, 10**9))
def test_it_draws_what_llama_cpp_draws(
    backend: llamacpp.LlamaBackend,
    monkeypatch: pytest.MonkeyPatch,
    values: Mapping[str, object],
    preselect_from: int,
) -> None:
    """With the likeliest tokens found first, and without."""
    monkeypatch.setattr(sampler, "PRESELECT_FROM", preselect_from)
    backend.keep(0, 0)
    prompt = prompt_of(backend, "The snail and the river: the snail")
    index = feed(backend, prompt, 0)
    for seed in range(200):
        spec = SamplerSpec(params(values), seed)
        ours, theirs = backend.new_sampler(spec, prompt), backend.new_sampler(spec, prompt)
        for _ in range(3):
            token = lib.llama_sampler_sample(theirs.chain, backend._context, index)
            assert backend.sample(ours, index).token == token
        ours.close()
        theirs.close()


@given(
    logits=hnp.arrays(
        np.float32,
        st.integers(1, 3000),
        elements=st.floats(-30, 30, width=32) | st.just(float("-inf")),
        fill=st.floats(-30, 30, width=32),
    ),
    n=st.integers(1, 400),
)
def test_the_likeliest(logits: candidates.Logits, n: int) -> None:
    n = min(n, len(logits))
    ids = candidates.likeliest(logits, n)
    assert len(ids) >= n
    assert list(ids) == sorted(set(ids))
    least = np.sort(logits)[-n]
    assert set(np.flatnonzero(logits >= least)) <= set(ids)


@given(where=st.integers(0, 2047), wrong=st.sampled_from((float("nan"), float("inf"), 2e30)))
@pytest.mark.parametrize("values", CHAINS)
def test_logits_that_are_no_numbers_are_refused(
    backend: llamacpp.LlamaBackend, values: Mapping[str, object], where: int, wrong: float
) -> None:
    chain = backend.new_sampler(SamplerSpec(params(values), 1), [])
    logits = np.linspace(-1, 1, backend.info.n_vocab, dtype=np.float32)
    chain.choose(logits)
    logits[where] = wrong
    with pytest.raises(TokenglassError) as caught:
        chain.choose(logits)
    assert caught.value.code == "invalid_output"
    assert chain.n_drawn == 1
    chain.close()


@pytest.mark.parametrize("values", CHAINS)
def test_masked_tokens_are_fine_and_all_masked_is_not(
    backend: llamacpp.LlamaBackend, values: Mapping[str, object]
) -> None:
    chain = backend.new_sampler(SamplerSpec(params(values), 1), [])
    logits = np.full(backend.info.n_vocab, -np.inf, np.float32)
    logits[700] = -3
    assert chain.choose(logits) == 700
    logits[700] = -np.inf
    with pytest.raises(TokenglassError):
        chain.choose(logits)
    chain.close()


# ---- grammars


@pytest.mark.parametrize(
    "grammar", ("", "root ::= [", "answer ::= [a-z]", "root ::= root | [a-z]", "root ::= x")
)
def test_a_grammar_that_llama_cpp_cannot_read_is_refused(
    backend: llamacpp.LlamaBackend, grammar: str
) -> None:
    with pytest.raises(TokenglassError) as caught:
        backend.new_sampler(SamplerSpec(SamplingParams(), 1, None, grammar), [])
    assert (caught.value.code, caught.value.info.path) == ("invalid_argument", "grammar")


def test_every_answer_by_a_json_grammar_parses(backend: llamacpp.LlamaBackend) -> None:
    """Greedy over fifty prompts, and hot over fifty seeds."""
    answers = []
    for n in range(50):
        for values, text in (({"temperature": 0.0}, f"Describe number {n} as JSON."), (HOT, "JSON, please:")):
            prompt = prompt_of(backend, text)
            text = answer(backend, prompt, SamplerSpec(params(values), n, None, JSON_GRAMMAR))
            answers.append(json.loads(text))
    assert all(isinstance(each, dict) and each for each in answers)
    assert len({json.dumps(each) for each in answers}) > 50


def test_the_answer_ends_where_the_grammar_does(backend: llamacpp.LlamaBackend) -> None:
    prompt = prompt_of(backend, "Say yes.")
    for values in CHAINS:
        spec = SamplerSpec(params(values), 1, None, 'root ::= "yes" | "no"')
        assert answer(backend, prompt, spec) in ("yes", "no")


def test_a_forbidden_token_is_refused_and_the_process_lives(backend: llamacpp.LlamaBackend) -> None:
    spec = SamplerSpec(params({"temperature": 0.0}), 1, None, 'root ::= "abc" [0-9]')
    chain = backend.new_sampler(spec, prompt_of(backend, "anything at all"))
    token_of = {backend.piece(token): token for token in range(backend.info.n_vocab)}
    ends = [token for token in range(backend.info.n_vocab) if backend.is_eog(token)]

    def refused(token: int) -> None:
        assert not chain.allows(token)
        with pytest.raises(TokenglassError) as caught:
            chain.accept(token)
        assert (caught.value.code, caught.value.info.path) == ("invalid_argument", "grammar")

    for token in (token_of[b"b"], token_of[b"7"], *ends, -1, backend.info.n_vocab):
        refused(token)
    for letter in (b"a", b"b", b"c"):
        assert chain.allows(token_of[letter])
        chain.accept(token_of[letter])
    for token in (token_of[b"c"], *ends):
        refused(token)
    chain.accept(token_of[b"7"])
    assert ends
    assert all(chain.allows(token) for token in ends)
    refused(token_of[b"7"])
    chain.close()
    with pytest.raises(TokenglassError) as caught:
        backend.new_sampler(spec, [], [token_of[b"b"]])
    assert caught.value.info.path == "grammar"


def test_every_beginning_of_a_character_has_a_rest() -> None:
    """Else a grammar could lead to where no token is left."""
    beginnings = {b""}
    n_characters = 0
    while beginnings:
        longer = [
            begun + bytes([byte])
            for begun in beginnings
            for byte in (range(0x80, 0xC0) if begun else range(256))
        ]
        rests = {data: sampler._rest(data) for data in longer}
        n_characters += sum(rest == b"" for rest in rests.values())
        for begun in beginnings - {b""}:
            assert any(rests[begun + bytes([byte])] is not None for byte in range(0x80, 0xC0))
        beginnings = {data for data, rest in rests.items() if rest}
        assert all(len(data) < 4 for data in beginnings)
    assert n_characters == 0x110000 - 0x800, "all but surrogates"


def test_control_tokens_do_not_stand_for_their_text(backend: llamacpp.LlamaBackend) -> None:
    """Unless the grammar spells it out; else the answer would lack what the grammar has counted."""
    texts = backend._sampling.control_texts
    token, text = next((token, text.decode()) for token, text in texts.items() if text)
    free = backend.new_sampler(SamplerSpec(SamplingParams(), 1, None, "root ::= [^0]+"), [])
    assert not free.allows(token)
    spelled = backend.new_sampler(SamplerSpec(SamplingParams(), 1, None, f'root ::= "{text}"'), [])
    assert spelled.allows(token)
    free.close()
    spelled.close()


def test_under_a_grammar_it_draws_as_llama_cpp_does(
    backend: llamacpp.LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First without the grammar; only where that is forbidden, again among what is allowed."""
    grammar = "root ::= [a-m]+"
    n_vocab = backend.info.n_vocab
    logits = np.random.default_rng(3).normal(0, 2, n_vocab).astype(np.float32)
    ask = backend.new_sampler(SamplerSpec(SamplingParams(), 1, None, grammar), [])
    allowed = np.array([ask.allows(token) for token in range(n_vocab)])
    ask.close()
    values: Mapping[str, object] = {"temperature": 1.0, "top_k": 30, "top_p": 1.0, "min_p": 0.0}
    logits[np.flatnonzero(allowed)[:6]] += 4  # so that both cases are common

    def top_k(masked: candidates.Logits) -> candidates.Logits:
        kept = np.where(masked >= np.sort(masked)[-30], masked, -np.inf)
        exp = np.exp(kept - kept.max())
        return np.asarray(exp / exp.sum(), np.float32)

    free, within = top_k(logits), top_k(np.where(allowed, logits, -np.inf))
    expected = np.where(allowed, free, 0) + free[~allowed].sum() * within
    n = 4000
    drawn: list[list[int]] = []
    for wider in ((256, 4096), ()):
        monkeypatch.setattr(sampler, "_WIDER", wider)
        tokens = []
        for seed in range(n):
            chain = backend.new_sampler(SamplerSpec(params(values), seed, None, grammar), [])
            tokens.append(chain.choose(logits))
            chain.close()
        drawn.append(tokens)
    assert drawn[0] == drawn[1], "looking at the likeliest first changes nothing"
    assert 0.1 < free[~allowed].sum() < 0.9
    counts = Counter(drawn[0])
    assert all(allowed[token] for token in counts)
    for token in np.flatnonzero(expected > 0.002):
        p = float(expected[token])
        assert abs(counts[int(token)] / n - p) < 5 * (p * (1 - p) / n) ** 0.5


# a language as GBNF, as a regular expression, and whether it has the empty text
Language = tuple[str, str, bool]

LITERALS = st.text('abcxyz "\\]é水', min_size=1, max_size=4)
CLASSES = st.sampled_from(("[a-f]", "[^a-z]", "[0-9x]", "[ -~]"))


def literal(text: str) -> Language:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"', re.escape(text), False


def sequence(parts: list[Language]) -> Language:
    gbnf, regex = " ".join(part[0] for part in parts), "".join(part[1] for part in parts)
    return f"({gbnf})", f"(?:{regex})", all(part[2] for part in parts)


def choice(parts: list[Language]) -> Language:
    gbnf, regex = " | ".join(part[0] for part in parts), "|".join(part[1] for part in parts)
    return f"({gbnf})", f"(?:{regex})", any(part[2] for part in parts)


def repeated(part: Language, counts: tuple[int, int | None]) -> Language:
    gbnf, regex, empty = part
    least, most = counts
    if empty:  # llama.cpp takes no repetition of nothing
        return part
    times = f"{{{least},{'' if most is None else most}}}"
    return f"({gbnf}){times}", f"(?:{regex}){times}", least == 0


COUNTS = st.sampled_from(((0, 1), (0, None), (1, None), (2, 3), (0, 2), (1, 1)))
languages = st.recursive(
    LITERALS.map(literal) | CLASSES.map(lambda text: (text, text, False)),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(sequence)
        | st.lists(inner, min_size=1, max_size=3).map(choice)
        | st.builds(repeated, inner, COUNTS)
    ),
    max_leaves=8,
)


@given(language=languages, seed=st.integers(0, 2**32 - 1), values=st.sampled_from(CHAINS))
def test_any_grammar_is_obeyed_by_any_model(
    backend: llamacpp.LlamaBackend, language: Language, seed: int, values: Mapping[str, object]
) -> None:
    """Logits at random: what comes up to the end token is of the language, whoever asks what in between."""
    gbnf, regex, _ = language
    random = np.random.default_rng(seed)
    n_vocab = backend.info.n_vocab
    spec = SamplerSpec(params(values), seed, None, f"root ::= {gbnf}")
    chain = backend.new_sampler(spec, [])
    tokens: list[int] = []
    while len(tokens) < 60:
        logits = random.normal(0, 3, n_vocab).astype(np.float32)
        for token in random.integers(-1, n_vocab + 1, 5):
            assert isinstance(chain.allows(int(token)), bool)
        token = chain.choose(logits)
        if backend.is_eog(token):
            text = b"".join(backend.piece(token) for token in tokens).decode()
            event("it came to its end")
            assert re.fullmatch(regex, text, re.DOTALL)
            break
        tokens.append(token)
        if len(tokens) % 7 == 0:  # another chain takes over
            chain.close()
            chain = backend.new_sampler(spec, [], tokens, len(tokens))
    chain.close()
