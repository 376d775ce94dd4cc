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
    GenerationPaused,
    GenerationQueued,
    GenerationRecovered,
    GenerationResumed,
    GenerationRewound,
    GenerationStarted,
    GenerationUpdated,
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
                first = len(active.tokens) - len(active.times)
                times = [t for index, t in enumerate(active.times, first) if index not in there.injected]
                assert there.marks.times == times
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

    def told(self, key: str) -> list[str]:
        """What it was told that hands on it have brought, in order."""
        return [
            event.type
            for event in self.events
            if isinstance(event, GenerationPaused | GenerationResumed | GenerationUpdated | GenerationRewound)
            and event.generation_id == key
        ]

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


async def compare(
    spec: str, sampling: SamplingParams, script: list[Action], deaths: set[int], *, waits: bool
) -> None:
    calm, stormy = Bench(spec), Bench(spec)
    for bench in (calm, stormy):
        if waits:
            bench.generate("x", sampling)
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
    assert calm.told("g") == stormy.told("g")
    for bench in (calm, stormy):
        assert {f"r{number}" for number, action in enumerate(script) if action[0] != "run"} <= set(
            bench.answers
        )
    for number, action in enumerate(script):
        if action[0] not in ("run", "fork"):  # while it waits for a slot, fewer tokens can be forked
            ours, theirs = calm.answers[f"r{number}"], stormy.answers[f"r{number}"]
            assert (ours.error and ours.error.code) == (theirs.error and theirs.error.code)
            at, there = ours.result.get("at_token"), theirs.result.get("at_token")
            if action[0] in ("rewind", "inject"):
                assert at == there
            elif there is not None:  # those count the told ones
                assert there <= at
    for event in stormy.events:
        if isinstance(event, GenerationForked):
            ids, _ = stormy.answer(event.branch_id)
            if event.token_id is not None:
                assert ids[event.at_token] == event.token_id


@pytest.mark.timeout(900)
@given(
    script=actions,
    deaths=st.sets(st.integers(0, 11), max_size=4),
    temperature=st.sampled_from((0.0, 0.8)),
    spec=st.sampled_from(("fake:tokens=30", "fake:tokens=60", "fake:bytes=1,tokens=35", "fake:recurrent=1")),
    waits=st.booleans(),
)
def test_an_answer_is_the_same_with_deaths_and_without(
    script: list[Action], deaths: set[int], temperature: float, spec: str, waits: bool
) -> None:
    if waits:
        spec = f"{spec},slots=1"
    asyncio.run(compare(spec, SamplingParams(temperature=temperature, seed=3), script, deaths, waits=waits))


# ---- while it waits for a slot

WAITS = "fake:tokens=30,slots=1"
SAMPLING = SamplingParams(temperature=0.0)


def fork(number: int, source: str, at_token: int, token_id: int | None = None) -> Fork:
    return Fork(
        request_id=f"f{number}",
        generation_id=source,
        branch_id=f"b{number}",
        client_id="c",
        origin="live",
        received_t=0.0,
        at_token=at_token,
        token_id=token_id,
    )


def die(bench: Bench) -> None:
    bench.worker.hear()
    bench.die()
    bench.revive()


def test_a_branch_of_one_that_waits_keeps_its_token() -> None:
    async def test() -> None:
        bench = Bench(WAITS)
        bench.generate("x", SAMPLING)
        bench.generate("g", SAMPLING)
        bench.control(fork(1, "g", 0, 300))
        for _ in range(3):
            die(bench)
        bench.control(fork(2, "b1", 0, 299))
        die(bench)
        bench.end()
        assert bench.answer("b1")[0][0] == 300
        assert bench.answer("b2")[0][0] == 299
        assert bench.answer("x")[0] == bench.answer("g")[0]

    asyncio.run(test())


def test_a_branch_that_waits_is_as_long_as_it_was_told() -> None:
    """Rewound, held and branched again before it has a slot."""

    async def test() -> None:
        bench = Bench(WAITS)
        bench.generate("g", SAMPLING)
        bench.run(12)
        bench.control(fork(1, "g", 9, 300))
        bench.worker.hear()
        bench.control(fork(2, "b1", 7))
        bench.worker.hear()
        for number, tokens in enumerate((1, 4)):
            bench.control(Rewind(request_id=f"r{number}", generation_id="b1", tokens=tokens))
        bench.control(Pause(request_id="p", generation_id="b2"))
        die(bench)
        bench.worker.step()
        assert [event.at_token for event in bench.events if isinstance(event, GenerationRewound)] == [9, 5]
        die(bench)
        bench.control(Pause(request_id="p1", generation_id="b1"))
        bench.worker.hear()
        assert len(bench.told("b1")) == 3
        bench.end()
        assert bench.answers["r1"].result["at_token"] == 5
        ids = bench.answer("g")[0]
        assert bench.answer("b1")[0][5:] == ids[5:]
        assert bench.answer("b2")[0][7:] == ids[7:]

    asyncio.run(test())


def test_what_was_done_while_it_waited_is_told_once() -> None:
    async def test() -> None:
        bench = Bench(WAITS)
        bench.generate("x", SAMPLING)
        bench.generate("g", SAMPLING)
        bench.control(Inject(request_id="i", generation_id="g", text=" river glass"))
        bench.control(Rewind(request_id="r", generation_id="g", tokens=1))
        die(bench)  # before the next one has answered anything, too
        bench.generations.lose_worker(LOST, "", blame=False)
        bench.revive()
        bench.end()
        assert bench.answer("g")[1].startswith(" river")
        assert not bench.answer("g")[1].startswith(" river glass")
        assert bench.told("g") == ["generation.rewound"]

    asyncio.run(test())


def test_what_is_done_again_is_not_forgotten_by_a_worker_that_ends_before_it_answers() -> None:
    async def test() -> None:
        bench = Bench(WAITS)
        bench.generate("x", SAMPLING)
        bench.generate("g", SAMPLING)
        bench.control(Inject(request_id="i", generation_id="g", text=" river glass"))
        die(bench)
        bench.generations.lose_worker(LOST, "", blame=False)
        bench.worker = Worker(bench._tell, WAITS)
        bench.generations.take_worker(bench.worker)  # type: ignore[arg-type]
        bench.generations.lose_worker(LOST, "", blame=False)  # its answers are never heard
        bench.revive()
        bench.end()
        assert bench.answer("g")[1].startswith(" river glass")

    asyncio.run(test())
