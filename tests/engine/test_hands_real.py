"""Hands on real models: the token ids and positions fed are those of a fresh run over the same tokens.

Texts may part where two tokens are nearly level (`test_equality.py`), so what is checked here is what
llama.cpp is given, and what it says it has: every sequence holds just the first tokens of its generation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.backend import Backend, Batch
from engine.backends import llamacpp
from engine.backends.llamacpp import lib
from engine.commands import Continue, Control, Fork, Generate, Inject, Pause, Rewind, Update
from engine.core import EngineCore, Prepared
from engine.events import GenerationDelta, GenerationFinished, GenerationForked, GenerationRewound
from engine.replies import ControlDone, Message
from engine.types import SamplingParams, WorkerConfig

pytestmark = pytest.mark.real
PROMPT = "Once upon a time there was a little snail who lived in a garden. One day"


class Watched:
    """A backend that keeps what each sequence is fed, and compares it with llama.cpp's positions."""

    def __init__(self, backend: llamacpp.LlamaBackend) -> None:
        self.backend = backend
        self.held: list[list[int]] = [[] for _ in range(backend.info.n_slots)]

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def decode(self, batch: Batch) -> None:
        self.backend.decode(batch)
        for token, position, sequence in zip(batch.tokens, batch.positions, batch.sequences, strict=True):
            assert position == len(self.held[sequence])
            self.held[sequence].append(token)
        self.compare()

    def keep(self, sequence: int, n_tokens: int) -> int:
        kept = self.backend.keep(sequence, n_tokens)
        del self.held[sequence][kept:]
        self.compare()
        return kept

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        assert not self.held[target]
        copied = self.backend.copy(source, target, n_tokens)
        self.held[target] = self.held[source][:copied]
        self.compare()
        return copied

    def compare(self) -> None:
        memory = lib.llama_get_memory(self.backend._context)
        for sequence, tokens in enumerate(self.held):
            assert lib.llama_memory_seq_pos_max(memory, sequence) == len(tokens) - 1


class Run:
    """A core on a real model, and the completion tokens of each generation as they are told."""

    def __init__(self, path: Path, **settings: int) -> None:
        config = WorkerConfig(
            model_id="m", model_path=str(path), n_slots=4, n_ctx=256, n_threads=1, **settings
        )
        self.backend = Watched(llamacpp.load(config, lambda _: True))
        backend: Backend = self.backend  # type: ignore[assignment]
        self.core = EngineCore(backend, config)
        self.prompt = self.backend.backend.tokenize(PROMPT, add_special=True, parse_special=False)
        self.ids: dict[str, list[int]] = {}
        self.ends: dict[str, GenerationFinished] = {}
        self.cached: dict[str, int] = {}

    def add(self, name: str, *, lookup: int = 0) -> None:
        command = Generate(
            generation_id=name,
            received_t=0.0,
            client_id="c",
            origin="live",
            prompt=PROMPT,
            sampling=SamplingParams(seed=1),
            max_tokens=60,
            prompt_lookup_num_tokens=lookup,
        )
        self.ids[name] = []
        self.core.add(Prepared(command, self.prompt))

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self.note(self.core.step())

    def control(self, command: Control) -> ControlDone:
        done, *events = self.core.control(command)
        assert isinstance(done, ControlDone)
        self.note(events)
        return done

    def note(self, messages: Sequence[Message]) -> None:
        for message in messages:
            match message:
                case GenerationDelta():
                    for token in message.tokens:
                        assert token["index"] == len(self.ids[message.generation_id])
                        self.ids[message.generation_id].append(token["id"])
                case GenerationRewound():
                    del self.ids[message.generation_id][message.at_token :]
                case GenerationForked():
                    self.ids[message.branch_id] = self.ids[message.generation_id][: message.at_token]
                case GenerationFinished():
                    assert message.usage.completion_tokens == len(self.ids[message.generation_id])
                    self.ends[message.generation_id] = message
                case _:
                    pass
        # whatever a sequence holds is the beginning of some generation
        texts = [[*self.prompt, *ids] for ids in self.ids.values()]
        assert all(any(held == text[: len(held)] for text in texts) for held in self.backend.held)

    def finish(self) -> None:
        while self.core.has_work:
            self.step()
        self.backend.backend.close()


@pytest.fixture(params=("starter", "stories260K-f32", "tinystories-656k-q8_0", "tiny-rwkv7-834K-f32"))
def model(request: pytest.FixtureRequest) -> Path:
    if request.param == "starter":
        path = request.getfixturevalue("starter_model")
    else:
        path = request.getfixturevalue("shared_models") / f"{request.param}.gguf"
    assert isinstance(path, Path)
    return path


def test_any_hands(model: Path) -> None:
    chance = random.Random(7)
    run = Run(model)
    run.add("g0")
    run.add("g1", lookup=4)
    for i in range(60):
        run.step(chance.randrange(4))
        name = chance.choice(list(run.ids))
        known = {"request_id": "r", "generation_id": name}
        command = chance.choice(
            (
                Rewind(**known, tokens=chance.randrange(1, 6)),
                Inject(**known, text=chance.choice((" and", " the snail said", "\n"))),
                Update(**known, sampling={"temperature": chance.choice((0.0, 0.9))}),
                Fork(
                    **known,
                    branch_id=f"b{i}",
                    client_id="c",
                    origin="live",
                    received_t=0.0,
                    at_token=chance.randrange(12),
                ),
            )
        )
        done = run.control(command)
        assert done.error is None or done.error.code in (
            "invalid_argument",
            "not_found",
            "context_overflow",
        )
    run.finish()
    assert set(run.ends) == set(run.ids)
    assert len(run.ends) > 4


def test_a_rewind_keeps_what_it_can(model: Path) -> None:
    run = Run(model)
    run.add("g0")
    run.step(14)
    run.control(Pause(request_id="r", generation_id="g0"))
    before = list(run.ids["g0"])
    run.control(Rewind(request_id="r", generation_id="g0", tokens=5))
    assert run.ids["g0"] == before[:-5]
    kept = 0 if run.backend.backend.info.recurrent else len(run.prompt) + len(before) - 6
    assert [len(held) for held in run.backend.held] == [kept, 0, 0, 0]
    run.control(Continue(request_id="r", generation_id="g0"))
    run.finish()


@pytest.mark.parametrize("n_kv", (256, 320))
def test_fewer_cells_than_slots_need(starter_model: Path, n_kv: int) -> None:
    run = Run(starter_model, n_kv=n_kv)
    for i in range(8):
        run.add(f"g{i}", lookup=3 * (i % 2))
        run.step(5)
    run.finish()
    assert {end.finish_reason for end in run.ends.values()} <= {"stop", "length"}
    assert len(run.ends) == 8
