"""Embeddings: of models made for them, of others, and through the worker beside generations."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ggufwrite
from engine.backend import SamplerSpec
from engine.backends import fake, llamacpp
from engine.backends.fake import FakeBackend
from engine.commands import Embed
from engine.embedding import EmbeddingQueue, tokenize
from engine.errors import ErrorInfo, TokenglassError
from engine.events import GenerationDelta
from engine.replies import EmbedDone, Message
from engine.types import SamplingParams, WorkerConfig
from tests.engine.test_client import Recorder, generate

TEXTS = (
    "Hello world",
    "The snail went to the garden and ate the leaves.",
    "x",
    "Once upon a time there was a little house in the forest. " * 4,
    "Hello world",
)


def load(path: Path, **settings: int) -> llamacpp.LlamaBackend:
    return llamacpp.load(WorkerConfig(model_id="m", model_path=str(path), **settings), lambda _: True)


def cosines(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    return [sum(a * b for a, b in zip(u, v, strict=True)) for u, v in zip(one, other, strict=True)]


def close_together(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    return float(np.abs(np.array(one) - np.array(other)).max()) < 1e-4


# ---- llama.cpp


@pytest.fixture(scope="module")
def starter(starter_model: Path) -> Iterator[llamacpp.LlamaBackend]:
    backend = load(starter_model, n_slots=2, n_ctx=128)
    yield backend
    backend.close()


def test_a_generative_model_embeds(starter: llamacpp.LlamaBackend) -> None:
    inputs = [starter.tokenize(text, add_special=True, parse_special=False) for text in TEXTS]
    together = starter.embed(inputs)
    assert not starter.info.embedding
    assert all(len(vector) == starter.info.n_embd for vector in together)
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-6) for vector in together)
    assert close_together([together[0]], [together[4]])
    assert not close_together([together[0]], [together[1]])
    assert starter.embed(inputs) == together
    assert starter.embed([]) == []


def test_in_a_batch_as_alone(starter: llamacpp.LlamaBackend) -> None:
    """But for rounding: llama.cpp multiplies quantized weights by another routine where rows are few."""
    inputs = [[300 + (i * 7 + k) % 700 for k in range(1 + i % 60)] for i in range(100)]
    together = starter.embed(inputs)
    alone = [vector for tokens in inputs for vector in starter.embed([tokens])]
    assert min(cosines(together, alone)) > 0.998
    assert max(cosines(together[:50], alone[50:])) < 0.998


def test_an_input_must_fit(starter: llamacpp.LlamaBackend) -> None:
    longest = starter.info.n_ctx
    assert len(starter.embed([[300] * longest])) == 1
    with pytest.raises(TokenglassError) as caught:
        starter.embed([[300] * (2 * longest + 256)])
    assert caught.value.code == "context_overflow"
    with pytest.raises(TokenglassError) as caught:
        starter.embed([[300], []])
    assert caught.value.code == "invalid_argument"


def test_a_recurrent_model_embeds(shared_models: Path) -> None:
    backend = load(shared_models / "tiny-rwkv7-834K-f32.gguf", n_slots=2, n_ctx=256)
    inputs = [backend.tokenize(text, add_special=True, parse_special=False) for text in TEXTS]
    together = backend.embed(inputs)
    assert close_together([vector for tokens in inputs for vector in backend.embed([tokens])], together)
    backend.close()


def write_bert(path: Path, pooling: int | None, *, broken: bool = False) -> None:
    """A tiny BERT with random weights; pooling as `llama_pooling_type` counts."""
    words = ["hello", "world", "snail", "garden", "the", "a", "in"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{word}" for word in words)]
    n_embd, n_ff, n_ctx = 32, 64, 48
    random = np.random.default_rng(1)
    metadata: dict[str, ggufwrite.Value] = {
        "general.architecture": "bert",
        "general.name": "tiny bert",
        "bert.context_length": n_ctx,
        "bert.embedding_length": n_embd,
        "bert.block_count": 1,
        "bert.feed_forward_length": n_ff,
        "bert.attention.head_count": 4,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * len(words),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    if pooling is not None:
        metadata["bert.pooling_type"] = pooling

    def data(shape: tuple[int, ...], name: str) -> Iterable[bytes]:
        values = random.normal(0, 0.5, shape).astype(np.float32)
        if "norm.weight" in name:
            values[...] = np.nan if broken else 1
        yield values.tobytes()

    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_embd, len(tokens)),
        "token_types.weight": (n_embd, 2),
        "position_embd.weight": (n_embd, n_ctx),
    }
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (n_embd,)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}.weight"] = (n_embd, n_embd)
        shapes[f"blk.0.{name}.bias"] = (n_embd,)
    shapes |= {
        "blk.0.ffn_up.weight": (n_embd, n_ff),
        "blk.0.ffn_up.bias": (n_ff,),
        "blk.0.ffn_down.weight": (n_ff, n_embd),
        "blk.0.ffn_down.bias": (n_embd,),
    }
    tensors = [
        ggufwrite.Tensor(name, shape, "F32", partial(data, shape, name)) for name, shape in shapes.items()
    ]
    ggufwrite.write(path, metadata, tensors)


@pytest.mark.parametrize("pooling", (None, 0, 1, 2))
def test_an_embedding_model(tmp_path: Path, pooling: int | None) -> None:
    path = tmp_path / "bert.gguf"
    write_bert(path, pooling)
    backend = load(path, n_slots=2)
    info = backend.info
    assert (info.embedding, info.n_embd, info.n_ctx) == (True, 32, 48)
    texts = ("hello world", "the snail in the garden", "a snail", "hello world")
    inputs = [backend.tokenize(text, add_special=True, parse_special=False) for text in texts]
    assert all(len(tokens) > 2 for tokens in inputs)
    together = backend.embed(inputs)
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-6) for vector in together)
    assert close_together([together[0]], [together[3]])
    assert not close_together([together[0]], [together[1]])
    assert close_together([vector for tokens in inputs for vector in backend.embed([tokens])], together)
    many = backend.embed(inputs * 30)
    assert close_together(many, together * 30)
    assert len(backend.embed([[5] * 48])) == 1
    with pytest.raises(TokenglassError) as caught:
        backend.embed([[5] * 49])
    assert caught.value.code == "context_overflow"
    with pytest.raises(TokenglassError) as caught:
        backend.new_sampler(SamplerSpec(SamplingParams(), 1), [5])
    assert caught.value.code == "bad_state"
    backend.close()


def test_pooling_follows_the_header(tmp_path: Path) -> None:
    vectors = []
    for pooling in (1, 2):
        write_bert(tmp_path / "bert.gguf", pooling)
        backend = load(tmp_path / "bert.gguf")
        vectors.append(backend.embed([[2, 5, 6, 3]]))
        backend.close()
    assert not close_together(*vectors)


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert.gguf", 1, broken=True)
    backend = load(tmp_path / "bert.gguf")
    with pytest.raises(TokenglassError) as caught:
        backend.embed([[2, 5, 3]])
    assert caught.value.code == "invalid_output"
    backend.close()


def test_a_ranking_model_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert.gguf", 4)
    with pytest.raises(TokenglassError) as caught:
        load(tmp_path / "bert.gguf")
    assert caught.value.code == "model_unsupported"


# ---- the fake model and the queue


def fake_backend(model: str = "fake:", **settings: int) -> FakeBackend:
    return fake.load(WorkerConfig(model_id="m", model_path=model, **settings), lambda _: True)


@given(inputs=st.lists(st.lists(st.integers(0, fake.N_VOCAB - 1), min_size=1, max_size=9), max_size=8))
def test_the_fake_model_embeds(inputs: list[list[int]]) -> None:
    backend = fake_backend()
    vectors = backend.embed(inputs)
    assert all(len(vector) == backend.info.n_embd for vector in vectors)
    assert all(math.hypot(*vector) == pytest.approx(1) for vector in vectors)
    assert vectors == [vector for tokens in inputs for vector in backend.embed([tokens])]
    for i, one in enumerate(inputs):
        for k, other in enumerate(inputs):
            assert (one == other) == (vectors[i] == vectors[k])


def run(queue: EmbeddingQueue) -> tuple[list[EmbedDone], int]:
    done, steps = [], 0
    while queue:
        done += queue.step()
        steps += 1
    return done, steps


@given(
    inputs=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=12), max_size=20),
    n_batch=st.integers(1, 16),
)
def test_a_request_is_computed_in_parts(inputs: list[list[int]], n_batch: int) -> None:
    backend = fake_backend(n_batch=n_batch)
    queue = EmbeddingQueue(backend)
    queue.add(tokenize(backend, Embed(request_id="r", inputs=[list(tokens) for tokens in inputs])))
    (done,), steps = run(queue)
    assert done.request_id == "r"
    assert done.embeddings == backend.embed(inputs)
    assert done.prompt_tokens == sum(map(len, inputs))
    assert steps >= done.prompt_tokens / (n_batch + 12)
    assert steps <= max(1, len(inputs))


def test_what_is_wrong_ends_only_its_own_request() -> None:
    backend = fake_backend("fake:ctx=8")
    queue = EmbeddingQueue(backend)
    for name, size in (("a", 3), ("long", 9), ("b", 8)):
        queue.add(tokenize(backend, Embed(request_id=name, inputs=[[7] * size])))
    done, _ = run(queue)
    assert [(each.request_id, each.error.code if each.error else "") for each in done] == [
        ("a", ""),
        ("long", "context_overflow"),
        ("b", ""),
    ]
    for wrong in ([fake.N_VOCAB], [-1], []):
        with pytest.raises(TokenglassError) as caught:
            tokenize(backend, Embed(request_id="w", inputs=["fine", wrong]))
        assert (caught.value.code, caught.value.info.path) == ("invalid_argument", "input[1]")


def test_special_tokens_are_not_taken_from_texts() -> None:
    backend = fake_backend()
    job = tokenize(backend, Embed(request_id="r", inputs=["<|im_end|>"]))
    assert fake.IM_END not in job.inputs[0]
    assert job.inputs[0][0] == fake.BOS


# ---- the worker


class Listener(Recorder):
    """Keeps the answers to embedding requests too."""

    heard: tuple[Message, ...] = ()
    """Everything, in its order."""

    def _on_messages(self, messages: list[Message]) -> None:
        self.heard += tuple(messages)
        super()._on_messages(messages)

    @property
    def done(self) -> list[EmbedDone]:
        return [message for message in self.heard if isinstance(message, EmbedDone)]

    async def answered(self, request_id: str) -> EmbedDone:
        await self.until(lambda: any(each.request_id == request_id for each in self.done))
        return next(each for each in self.done if each.request_id == request_id)

    async def embed(self, request_id: str, inputs: list[str | list[int]]) -> EmbedDone:
        self.client.send(Embed(request_id=request_id, inputs=inputs))
        return await self.answered(request_id)


def code_of(error: ErrorInfo | None) -> str:
    return error.code if error else ""


def test_the_worker_embeds_beside_generations(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Listener(tmp_path, "fake:tokens=1000,delay_ms=2", n_batch=16)
        await worker.started()
        texts: list[str | list[int]] = [f"text number {i}" for i in range(60)]
        await worker.send_together([generate("g"), Embed(request_id="r", inputs=texts)])
        done = await worker.answered("r")
        assert len(done.embeddings) == 60
        await worker.until(lambda: worker.finished("g"))
        place = worker.heard.index(done)
        for part in (worker.heard[:place], worker.heard[place:]):
            assert any(isinstance(message, GenerationDelta) for message in part), "it goes on meanwhile"
        assert code_of((await worker.embed("w", [[-1]])).error) == "invalid_argument"
        assert (await worker.embed("none", [])).embeddings == []
        assert worker.finished("g")[0].usage.completion_tokens == 1000
        again = await worker.embed("again", texts)
        assert again.embeddings == done.embeddings
        await worker.client.stop()

    asyncio.run(scenario())


def test_an_embedding_model_in_the_worker_refuses_to_generate(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Listener(tmp_path, "fake:embedding=1")
        await worker.started()
        worker.client.send(generate("g"))
        await worker.until(lambda: worker.finished("g"))
        assert code_of(worker.finished("g")[0].error) == "bad_state"
        assert len((await worker.embed("r", ["one", "two"])).embeddings) == 2
        await worker.client.stop()

    asyncio.run(scenario())
