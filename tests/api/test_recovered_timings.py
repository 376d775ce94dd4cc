"""Times of generations that were injected into, rewound, and went on in other workers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from api.recovery import Active
from engine.commands import Generate, Inject, Rewind
from engine.core import EngineCore, Prepared
from engine.events import GenerationEvent, GenerationFinished, GenerationStarted
from engine.fakespec import FakeSpec
from engine.replies import ControlDone, Message, PromptReady
from engine.types import SamplingParams, Timings, WorkerConfig
from tests.engine.harness import Clock, WatchedBackend

PROMPT = [3, 40, 41, 42]
CONFIG = WorkerConfig(model_id="m", model_path="fake:tokens=30", n_slots=1)
ACTS = st.one_of(
    st.tuples(st.just("inject"), st.integers(1, 4)),
    st.tuples(st.just("rewind"), st.integers(1, 4)),
    st.tuples(st.just("steps"), st.integers(1, 6)),
    st.tuples(st.just("die"), st.just(0)),
)


class Life:
    """One generation in one core after another, with what the app keeps of it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.active = Active(self.generate("g0"))
        self.finished: GenerationFinished | None = None
        self.started: GenerationStarted | None = None
        self.begin()

    def generate(self, name: str) -> Generate:
        return Generate(
            generation_id=name,
            received_t=self.clock(),
            client_id="c",
            origin="live",
            prompt="the river",
            sampling=SamplingParams(seed=1),
        )

    def begin(self, *before: str) -> None:
        """A new core, in which others come first."""
        self.core = EngineCore(WatchedBackend(FakeSpec.parse(CONFIG.model_path), CONFIG), CONFIG, self.clock)
        for name in before:
            self.core.add(Prepared(self.generate(name), PROMPT))
        self.core.add(Prepared(self.active.to_send(), PROMPT))

    def hear(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, GenerationEvent | PromptReady) and message.generation_id == "g0":
                self.active.fold(message)
            if isinstance(message, GenerationFinished) and message.generation_id == "g0":
                self.finished = message
            if isinstance(message, GenerationStarted) and message.generation_id == "g0":
                self.started = message

    def act(self, act: str, n: int) -> None:
        if act == "die":
            self.active.lose_worker(blame=True)
            self.begin("other")
        elif act == "steps":
            for _ in range(n):
                self.hear(self.core.step())
        else:
            command: Inject | Rewind = Rewind(request_id="r", generation_id="g0", tokens=n)
            if act == "inject":
                command = Inject(request_id="r", generation_id="g0", text=" silver" * n)
            done, *events = self.core.control(command)
            assert isinstance(done, ControlDone)
            self.hear(events)


@given(st.lists(ACTS, max_size=12))
def test_no_time_is_ever_negative(acts: list[tuple[str, int]]) -> None:
    life = Life(Clock())
    for act, n in acts:
        if life.finished is None:
            life.act(act, n)
    while life.finished is None:
        life.hear(life.core.step())
        if life.active.paused:
            life.act("die", 0)
            life.active.paused = False
    for figure in life.finished.timings.model_dump().values():
        assert figure is None or (math.isfinite(figure) and figure >= 0)


def test_a_token_injected_before_the_start_is_not_the_first_one() -> None:
    """Else the prompt would have been computed before it was begun."""
    life = Life(Clock())
    life.act("inject", 2)
    life.act("steps", 3)
    assert life.started is not None
    assert life.active.times[0] < life.started.t
    life.act("die", 0)
    life.act("steps", 60)
    assert life.finished is not None
    timings: Timings = life.finished.timings
    assert timings.prefill_ms is not None
    assert timings.prefill_ms > 0
