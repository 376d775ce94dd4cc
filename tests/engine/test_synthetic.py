"""Synthetic models: the shape is the wanted one, llama.cpp takes them, they spell any text."""

from __future__ import annotations

import math
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ggufwrite, synthetic
from engine.backend import Backend, Batch, SamplerSpec
from engine.errors import TokenglassError
from engine.gguf import read_header
from engine.synthetic import Shape
from engine.types import SamplingParams, WorkerConfig


@pytest.mark.parametrize(
    "size", ["500K", "1M", "9.9M", "10M", "15M", "80M", "150M", "350M", "1B", "1.5b", "7B", "70B"]
)
def test_a_size_word_is_met(size: str) -> None:
    wanted = float(size[:-1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[size[-1].upper()]
    shape = synthetic.parse(size)
    assert abs(math.log(shape.n_params / wanted)) < 0.06
    assert shape.layers >= 3
    assert shape.vocab == (4096 if wanted < 1e7 else 32_000)


def test_dimensions_are_taken_as_they_are() -> None:
    shape = synthetic.parse("dim=512, layers=8,heads=8,ff=1536,vocab=32000,kv_heads=2")
    assert shape == Shape(dim=512, layers=8, heads=8, ff=1536, vocab=32000, kv_heads=2)
    assert synthetic.parse("dim=128,layers=2", vocab=500) == Shape(128, 2, 2, 352, 500, 2)


NONSENSE = (
    "", "15", "M", "-1M", "15 M B", "1e3M", "10K", "9999999B", "dim=64", "dim=64,layers=x", "dim=33,layers=2",
    "dim=64,layers=0", "dim=64,layers=2,heads=3", "dim=64,layers=2,depth=3", "dim=64,layers=2,ff=100",
    "dim=64,layers=2,vocab=10", "dim=96,layers=2,heads=3,kv_heads=2", "dim=32,layers=1,heads=32",
)  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(TokenglassError) as caught:
        synthetic.provide(tmp_path, text)
    assert caught.value.code == "invalid_argument"
    assert "--synthetic" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenglassError, match="vocabulary of 32000"):
        synthetic.provide(tmp_path, "1M", vocab=32_000)
    with pytest.raises(TokenglassError, match="Q8_0"):
        synthetic.provide(tmp_path, "1M", "Q9_9")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 28))
    with pytest.raises(TokenglassError, match="left") as caught:
        synthetic.provide(tmp_path, "15M")
    assert caught.value.code == "storage"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TokenglassError) as caught:
        synthetic.provide(tmp_path / "file", "1M")
    assert caught.value.code == "storage"


def test_a_vocabulary_has_each_token_once_and_joins_former_ones() -> None:
    tokens = synthetic.vocabulary(8000)
    assert len(set(tokens)) == len(tokens) == 8000
    assert tokens == synthetic.vocabulary(8000)
    known = set()
    for token in tokens[synthetic.N_SPECIAL :]:
        assert len(token) == 1 or any(token[:i] in known and token[i:] in known for i in range(1, len(token)))
        known.add(token)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[bytes]:
        raise OSError(28, "No space left on device")

    tensor = ggufwrite.Tensor("weight", (32,), "F32", fail)
    with pytest.raises(OSError, match="No space"):
        ggufwrite.write(tmp_path / "model.gguf", {"general.architecture": "llama"}, [tensor])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantization", synthetic.QUANTIZATIONS)
def test_a_file_says_what_it_is(quantization: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = synthetic.provide(
        tmp_path, "1M", quantization, 512, lambda done, total: told.append((done, total))
    )
    shape, header = synthetic.parse("1M", 512), read_header(path)
    assert header.n_params == shape.n_params
    assert header.n_vocab == 512
    assert header.quantization == quantization
    assert header.n_layers == shape.layers
    assert header.has_chat_template
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] < path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    assert synthetic.provide(tmp_path, "1M", quantization, 512) == path
    assert path.stat().st_mtime_ns == before


def test_weights_have_the_wanted_spread() -> None:
    blocks = np.frombuffer(
        b"".join(synthetic._draw("a", 1 << 16, "Q8_0", 0.3)), [("d", "<f2"), ("q", "i1", 32)]
    )
    wide = blocks["d"].astype(float)[:, None] * blocks["q"]
    halves = np.frombuffer(
        b"".join(synthetic._draw("a", 1 << 16, "Q4_0", 0.3)), [("d", "<f2"), ("q", "u1", 16)]
    )
    nibbles = np.concatenate([halves["q"] & 15, halves["q"] >> 4], axis=1).astype(float) - 8
    narrow = halves["d"].astype(float)[:, None] * nibbles
    for values in (wide, narrow):
        assert values.std() == pytest.approx(0.3, rel=0.03)
        assert abs(values.mean()) < 0.01


@pytest.fixture(scope="module", params=["Q8_0", "Q4_0"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    from engine.backends import llamacpp

    path = synthetic.provide(tmp_path_factory.mktemp("models"), "1M", request.param)
    config = WorkerConfig(model_id="synthetic", model_path=str(path), n_ctx=512, n_slots=1, n_threads=1)
    return llamacpp.load(config, lambda _: True)


@pytest.mark.real
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_can_be_spelled(backend: Backend, text: str) -> None:
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert 0 not in tokens
    assert b"".join(map(backend.piece, tokens)).removeprefix(b" ").decode() == text


@pytest.mark.real
def test_it_goes_on_talking(backend: Backend) -> None:
    prompt = backend.tokenize("tell me, little glass", add_special=True, parse_special=True)
    assert prompt[0] == 1
    assert backend.info.n_params == synthetic.parse("1M").n_params
    sampler = backend.new_sampler(SamplerSpec(SamplingParams(temperature=0), 1), prompt)
    backend.decode(
        Batch(prompt, list(range(len(prompt))), [0] * len(prompt), [False] * (len(prompt) - 1) + [True])
    )
    tokens = [backend.sample(sampler, len(prompt) - 1).token]
    for position in range(len(prompt), len(prompt) + 200):
        backend.decode(Batch([tokens[-1]], [position], [0], [True]))
        tokens.append(backend.sample(sampler, 0).token)  # raises where a logit isn't a number
    sampler.close()
    assert not any(map(backend.is_eog, tokens))
    assert len(set(tokens)) > 10
