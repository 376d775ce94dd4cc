"""Greedy answers in another batch, and from another worker, against the same undisturbed.

With the fake backend the tokens are equal. With a real model llama.cpp's results depend on the shape of the
batch and on whether a token was decoded or prefilled, so texts may part where the two best tokens are nearly
level. What is checked: the tokens and positions that the model is fed are exact, and where texts part, the
undisturbed run's gap between its two best tokens is below the numerical difference, measured as what that
gap moves by where texts agree. Run with `-s` to see the rates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from engine.backend import Backend, Batch
from engine.backends import fake, llamacpp
from engine.commands import Generate
from engine.core import EngineCore
from engine.events import GenerationDelta, StepMetrics
from engine.prepare import Preparer
from engine.types import ChatMessage, Resume, SamplingParams, Token, WorkerConfig

N_TOKENS = 48
N_TOP = 8
N_BATCH = 2048
"""Four prompts in the first step, so that four decode together to the end."""
CUTS = (1, 7, 20, 33)
# long enough for llama.cpp's routines for many rows to be used
SYSTEM = "You are a small model that runs on the user's own computer. " * 8
QUESTIONS = (
    "What is Tokenglass?",
    "What does TTFT mean?",
    "Tell me a short story about a snail.",
    "What is 7 plus 5?",
    "Give me a list of three fruits.",
    "How do I stop an answer?",
    "Good morning!",
    "What is the KV cache?",
    "Write a haiku about rain.",
    "Show me a small table of animals.",
    "What is the capital of Peru?",
    "How can I load another model?",
    "Explain temperature to me.",
    "Write a Python loop.",
    "Who made you?",
    "What is a slot?",
)


@dataclass
class Answer:
    prompt: list[int]
    tokens: list[Token] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [token["id"] for token in self.tokens]


class Run:
    """A core that starts with empty slots, and all that it feeds its backend."""

    def __init__(self, backend: Backend, config: WorkerConfig) -> None:
        for sequence in range(config.n_slots):
            backend.keep(sequence, 0)
        self._backend = backend
        self._core, self._preparer = EngineCore(backend, config), Preparer(backend)
        self.answers: dict[str, Answer] = {}
        self.fed: dict[int, list[tuple[int, int]]] = {}
        """By sequence: tokens and positions."""
        self.largest_batch = 0

    def add(self, name: str, question: str, of: Answer | None = None, n_told: int = 0) -> None:
        """Answer a question; or go on with the answer `of` it after `n_told` tokens, as after a death."""
        command = Generate(
            generation_id=name,
            received_t=time.monotonic(),
            client_id="c",
            origin="live",
            messages=[
                ChatMessage(role="system", content=SYSTEM),
                ChatMessage(role="user", content=question),
            ],
            sampling=SamplingParams(temperature=0),
            max_tokens=N_TOKENS,
            logprobs=N_TOP,
        )
        if of is not None:
            resume = Resume(
                kind="recovered", prompt_tokens=of.prompt, tokens=of.ids[:n_told], n_drawn=n_told, seed=1
            )
            command = command.model_copy(update={"resume": resume})
        prepared = self._preparer.prepare(command)
        self.answers[name] = Answer(prepared.prompt_tokens)
        if of is not None:
            self.answers[name].tokens += of.tokens[:n_told]
        self._core.add(prepared)

    def finish(self) -> None:
        decode = self._backend.decode

        def watched(batch: Batch) -> None:
            for token, position, sequence in zip(batch.tokens, batch.positions, batch.sequences, strict=True):
                self.fed.setdefault(sequence, []).append((token, position))
            decode(batch)

        self._backend.decode = watched  # type: ignore[method-assign]
        try:
            while self._core.has_work:
                for event in self._core.step():
                    if isinstance(event, GenerationDelta):
                        self.answers[event.generation_id].tokens += event.tokens
                    elif isinstance(event, StepMetrics):
                        self.largest_batch = max(self.largest_batch, event.batch_size)
        finally:
            self._backend.decode = decode  # type: ignore[method-assign]


def alone(backend: Backend, config: WorkerConfig, question: str) -> Answer:
    run = Run(backend, config)
    run.add("a", question)
    run.finish()
    return run.answers["a"]


def together(backend: Backend, config: WorkerConfig, questions: Sequence[str]) -> list[Answer]:
    run = Run(backend, config)
    for question in questions:
        run.add(question, question)
    run.finish()
    assert run.largest_batch == len(questions)
    return [run.answers[question] for question in questions]


def recovered(backend: Backend, config: WorkerConfig, question: str, of: Answer, n_told: int) -> Answer:
    """The answer as another worker goes on with it; checks what this one is fed."""
    run = Run(backend, config)
    run.add("r", question, of, n_told)
    run.finish()
    answer = run.answers["r"]
    (fed,) = run.fed.values()
    assert [position for _, position in fed] == list(range(len(fed)))
    everything = answer.prompt + answer.ids
    assert [token for token, _ in fed] == everything[: len(fed)]
    assert len(everything) - len(fed) in (0, 1), (
        "the last token needn't be computed, but for an end token after it"
    )
    return answer


def in_fours() -> list[tuple[str, ...]]:
    return [QUESTIONS[i : i + 4] for i in range(0, len(QUESTIONS), 4)]


@dataclass
class Comparison:
    """Pairs of answers to the same question, the first of each undisturbed."""

    n_pairs: int = 0
    n_equal: int = 0
    gaps: list[float] = field(default_factory=list)
    """Between the two best tokens of the undisturbed answer, where a pair parts."""
    moved: list[float] = field(default_factory=list)
    """By how much that gap differs between the two, token by token, where they agree."""

    def add(self, undisturbed: Answer, other: Answer) -> None:
        self.n_pairs += 1
        for a, b in zip(undisturbed.tokens, other.tokens, strict=False):
            best, second = a["top"][:2]
            gap = best["logprob"] - second["logprob"]
            if a["id"] != b["id"]:
                self.gaps.append(gap)
                return
            others = {top["id"]: top["logprob"] for top in b["top"]}
            if second["id"] in others:
                self.moved.append(abs(others[best["id"]] - others[second["id"]] - gap))
        assert len(undisturbed.tokens) == len(other.tokens), "one answer ended where the other went on"
        self.n_equal += 1

    def check(self, what: str) -> None:
        noise = max(self.moved)
        gaps = ", ".join(f"{gap:.1e}" for gap in self.gaps) or "none"
        print(
            f"\nstarter, greedy, {what}: {self.n_equal} of {self.n_pairs} texts equal; gap of the two best "
            f"tokens moved by {median(self.moved):.1e} at the median, {noise:.1e} at most, in "
            f"{len(self.moved)} tokens; gaps where texts part: {gaps}"
        )
        assert len(self.moved) > 20 * self.n_pairs
        assert all(gap <= noise for gap in self.gaps)


def fake_backend() -> tuple[Backend, WorkerConfig]:
    config = WorkerConfig(model_id="fake", model_path="fake:", n_slots=4, n_batch=N_BATCH)
    return fake.load(config, lambda _: True), config


@pytest.fixture(scope="module")
def starter(starter_model: Path) -> Iterator[tuple[Backend, WorkerConfig]]:
    config = WorkerConfig(
        model_id="starter", model_path=str(starter_model), n_slots=4, n_threads=1, n_batch=N_BATCH
    )
    backend = llamacpp.load(config, lambda _: True)
    yield backend, config
    backend.close()


def test_fake_texts_are_equal_in_any_batch() -> None:
    backend, config = fake_backend()
    for questions in in_fours():
        for question, answer in zip(questions, together(backend, config, questions), strict=True):
            assert answer.ids == alone(backend, config, question).ids


def test_fake_texts_are_equal_from_any_worker() -> None:
    backend, config = fake_backend()
    for question in QUESTIONS:
        answer = alone(backend, config, question)
        for n_told in range(0, len(answer.ids), 5):
            assert recovered(backend, config, question, answer, n_told).ids == answer.ids


@pytest.mark.real
def test_starter_texts_part_in_a_batch_only_where_two_tokens_are_level(
    starter: tuple[Backend, WorkerConfig],
) -> None:
    comparison = Comparison()
    for questions in in_fours():
        for question, answer in zip(questions, together(*starter, questions), strict=True):
            comparison.add(alone(*starter, question), answer)
    comparison.check("four in a batch against alone")


@pytest.mark.real
def test_starter_texts_part_after_a_death_only_where_two_tokens_are_level(
    starter: tuple[Backend, WorkerConfig],
) -> None:
    comparison = Comparison()
    for question in QUESTIONS:
        answer = alone(*starter, question)
        for n_told in CUTS:
            if n_told < len(answer.ids):
                comparison.add(answer, recovered(*starter, question, answer, n_told))
    comparison.check("prefilled again against decoded")
