"""Hands on a real core with the fake model, and deaths at any place between them: the rest is as it would be.

No process and no socket: a worker here is an `EngineCore` that does at once what it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bus import Envelope, EventBus
from api.generations import Generations
from api.state import State
from engine.backends import fake
from engine.commands import (
    Cancel,
    Continue,
    Control,
    ControlCommand,
    Fork,
    Generate,
    Inject,
    Pause,
    Rewind,
    StepTokens,
    Update,
    WorkerCommand,
)
from engine.core import EngineCore
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationForked,
    GenerationQueued,
    GenerationRecovered,
    GenerationRewound,
    GenerationStarted,
)
from engine.prepare import Preparer
from engine.replies import ControlDone
from engine.types import ChatMessage, SamplingParams, WorkerConfig

LOST = ErrorInfo(code="engine_lost", message="the engine ended")
MAX_TOKENS = 40


class Worker:
    """As the app sees one: takes commands, and answers with messages when it is asked to step."""

    def __init__(self, tell: Callable[[Any], None], spec: str) -> None:
        config = WorkerConfig(model_id="m", model_path=spec, n_slots=2)
        backend = fake.load(config, lambda _: True)
        self.core = EngineCore(backend, config)
        self._preparer = Preparer(backend)
        self._tell = tell
        self.waiting: list[Any] = []

    def send(self, command: WorkerCommand) -> None:
        if isinstance(command, Generate):
            self.core.add(self._preparer.prepare(command))
        elif isinstance(command, Cancel):
            self.core.cancel(command.generation_id)
        elif isinstance(command, ControlCommand):
            self.waiting += self.core.control(command)

    def hear(self) -> None:
        """Let the app hear what controls brought."""
        while self.waiting:
            self._tell(self.waiting.pop(0))

    def step(self) -> None:
        self.hear()
        for message in self.core.step():
            self._tell(message)
        self.hear()


class Bench:
    """Generations, a bus and one worker after the other."""

    def __init__(self, spec: str) -> None:
        self.bus, self.state = EventBus(), State()
        self.bus.add_fold(self.state.fold)
        self.events: list[Event] = []
        self.bus.add_fold(self._keep)
        self.generations = Generations(self.bus, self.state, lambda: None)
        self.spec = spec
        self.answers: dict[str, ControlDone] = {}
        self.worker = Worker(self._tell, spec)
        self.generations.take_worker(self.worker)  # type: ignore[arg-type]
        self.n_deaths = 0

    def _keep(self, envelope: Envelope) -> None:
        self.events.append(envelope.event)

    def _tell(self, message: Any) -> None:
        if self.generations.take(message):
            self.bus.publish(message)

    def generate(self, key: str, sampling: SamplingParams) -> None:
        self.generations.reserve(100)
        self._queued(key)
        self.generations.submit(
            Generate(
                generation_id=key,
                received_t=0.0,
                client_id="c",
                origin="live",
                messages=[ChatMessage(role="user", content="hi")],
                sampling=sampling,
                max_tokens=MAX_TOKENS,
            )
        )

    def _queued(self, key: str) -> None:
        self.bus.publish(
            GenerationQueued(generation_id=key, client_id="c", client_name="n", origin="live", model="m")
        )

    def control(self, command: Control) -> None:
        def done(answer: ControlDone) -> None:
            assert command.request_id not in self.answers
            self.answers[command.request_id] = answer
            if isinstance(command, Fork) and answer.error is None:
                self._queued(command.branch_id)

        if isinstance(command, Fork):
            self.generations.reserve(100)
        try:
            self.generations.control(command, done)
        except TokenglassError as error:
            if isinstance(command, Fork):
                self.generations.release()
            self.answers[command.request_id] = ControlDone(request_id=command.request_id, error=error.info)

    def check(self) -> None:
        """What the app keeps is what the worker has, but for what it hasn't told yet."""
        here = self.worker.core._roster.by_id
        assert set(here) == set(self.generations._active)
        for key, active in self.generations._active.items():
            there = here[key]
            assert there.paused == (active.paused and active.steps_left is None)
            assert there.steps_left == active.steps_left
            assert there.completion[: len(active.tokens)] == active.tokens.tolist()
            if active.has_slot:
                assert len(there.completion) == len(active.tokens)
                assert there.injected == set(active.injected)
                assert there.marks.times == active.times.tolist()
            if active.started is not None:
                assert there.n_drawn == active.n_drawn
                assert there.seed == active.seed

    def die(self) -> None:
        """End the worker."""
        self.worker.hear()
        self.check()
        self.n_deaths += 1
        self.generations.lose_worker(LOST, "", blame=False)
        for active in self.generations._active.values():
            active.deaths = 0  # what is tried here is not the guard

    def revive(self) -> None:
        self.worker = Worker(self._tell, self.spec)
        self.generations.take_worker(self.worker)  # type: ignore[arg-type]
        self.worker.hear()

    def run(self, n_tokens: int) -> None:
        """Step until "g" has drawn so many more tokens, or nothing is left to do."""
        goal = self.n_tokens + n_tokens
        while self.worker.core.has_work and self.n_tokens < goal:
            self.worker.step()

    @property
    def n_tokens(self) -> int:
        deltas = (event for event in self.events if isinstance(event, GenerationDelta))
        own = (token for event in deltas if event.generation_id == "g" for token in event.tokens)
        return sum("injected" not in token for token in own)

    def end(self) -> None:
        for key in list(self.generations._active):
            self.control(Continue(request_id=f"end-{key}", generation_id=key))
        self.worker.hear()
        for _ in range(2000):
            if not self.worker.core.has_work:
                break
            self.worker.step()
        assert len(self.generations) == 0

    def answer(self, key: str) -> tuple[list[int], str]:
        """Ids and text as a client has them; checks that nothing is missing, doubled or out of order."""
        ids: list[int] = []
        text, place, began, ended = "", 0, 0, 0
        for event in self.events:
            if isinstance(event, GenerationForked) and event.branch_id == key:
                text, place = event.text, event.at_token
                ids = [-1] * place
            if getattr(event, "generation_id", None) != key:
                continue
            assert ended == 0, "nothing comes after the end"
            if isinstance(event, GenerationStarted):
                began += 1
            elif isinstance(event, GenerationRecovered):
                assert event.at_token == len(ids)
            elif isinstance(event, GenerationDelta):
                assert [token["index"] for token in event.tokens] == [
                    *range(place, place + len(event.tokens))
                ]
                place += len(event.tokens)
                ids += [token["id"] for token in event.tokens]
                text += event.text
            elif isinstance(event, GenerationRewound):
                place, text = event.at_token, event.text
                del ids[place:]
            elif isinstance(event, GenerationFinished):
                ended += 1
                assert event.error is None
                assert (event.text, event.usage.completion_tokens) == (text, place)
        assert ended == 1
        assert began <= 1
        return ids, text


Action = tuple[str, int]
actions = st.lists(
    st.tuples(
        st.sampled_from(
            ("run", "run", "run", "pause", "resume", "step", "rewind", "inject", "update", "fork")
        ),
        st.integers(0, 8),
    ),
    max_size=12,
)


def do(bench: Bench, number: int, action: Action, n_before: int) -> None:
    name, value = action
    where = {"request_id": f"r{number}", "generation_id": "g"}
    match name:
        case "run":
            bench.run(value)
        case "pause":
            bench.control(Pause(**where))
        case "resume":
            bench.control(Continue(**where))
        case "step":
            bench.control(StepTokens(**where, tokens=value + 1))
        case "rewind":
            bench.control(Rewind(**where, tokens=value + 1))
        case "inject":
            bench.control(Inject(**where, text=" river" * (value % 3 + 1)))
        case "update":
            bench.control(
                Update(**where, sampling=[{"seed": 5}, {"temperature": 0.0}, {"top_k": 3}][value % 3])
            )
        case "fork":
            more = {"token_id": 300} if value % 2 else {}
            bench.control(
                Fork(
                    **where,
                    branch_id=f"b{number}",
                    client_id="c",
                    origin="live",
                    received_t=0.0,
                    at_token=value,
                    **more,
                )
            )


async def compare(spec: str, sampling: SamplingParams, script: list[Action], deaths: set[int]) -> None:
    calm, stormy = Bench(spec), Bench(spec)
    for bench in (calm, stormy):
        bench.generate("g", sampling)
        for number, action in enumerate(script):
            do(bench, number, action, 0)
            bench.worker.hear()
            if bench is stormy and number in deaths:
                bench.die()
                bench.revive()
        bench.end()
    assert stormy.n_deaths == len([number for number in deaths if number < len(script)])
    assert calm.answer("g") == stormy.answer("g")
    for bench in (calm, stormy):
        assert {f"r{number}" for number, action in enumerate(script) if action[0] != "run"} <= set(
            bench.answers
        )
    for number, action in enumerate(script):
        if action[0] not in ("run", "fork"):  # while it waits for a slot, fewer tokens can be forked
            ours, theirs = calm.answers[f"r{number}"], stormy.answers[f"r{number}"]
            assert (ours.error and ours.error.code) == (theirs.error and theirs.error.code)
            assert ours.result.get("at_token") == theirs.result.get("at_token")
    for event in stormy.events:
        if isinstance(event, GenerationForked):
            stormy.answer(event.branch_id)


@pytest.mark.timeout(900)
@given(
    script=actions,
    deaths=st.sets(st.integers(0, 11), max_size=4),
    temperature=st.sampled_from((0.0, 0.8)),
    spec=st.sampled_from(("fake:tokens=30", "fake:tokens=60", "fake:bytes=1,tokens=35", "fake:recurrent=1")),
)
def test_an_answer_is_the_same_with_deaths_and_without(
    script: list[Action], deaths: set[int], temperature: float, spec: str
) -> None:
    asyncio.run(compare(spec, SamplingParams(temperature=temperature, seed=3), script, deaths))
