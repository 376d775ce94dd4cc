"""Any hands on any generations at any moment, against runs that nobody disturbs.

What a generation becomes after the last hand on it is what a fresh run over the same tokens becomes, in a
core of its own. The fake backend and the harness check on the way what is fed (tokens, positions, free cells,
what samplers have seen), what each sequence holds, and that each token comes once with a whole index.
"""

from __future__ import annotations

from functools import cache
from urllib.parse import quote

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.backends.fake import N_VOCAB
from engine.commands import Generate
from engine.replies import ControlDone
from engine.types import Resume, SamplingParams
from tests.conftest import SOAK
from tests.engine.harness import Bench, Record

CALL = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>'
SPECS = (
    "fake:tokens=30",
    "fake:tokens=30,recurrent=1",
    "fake:tokens=40,bytes=1",
    "fake:nan_after=25",
    f"fake:script={quote(' the river and the light' * 9, safe='')}",
    f"fake:script={quote(f'the e {CALL} a 水 the', safe='')},bytes=1",
)
PROMPTS = ("", "the river ", "the river and the stone and the light of the window ", "水 naïve ")
TEXTS = ("", " the", " silver window", "é", CALL, CALL[:20], " the stone.\n" * 4)
STOPS = ((), (" the",), ("e", " window"))
CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 1.2, "top_k": 5},
    {"seed": 5},
    {"seed": None},
    {"top_p": 7},
)
NAMES = st.integers(0, 12).map(lambda i: f"g{i}")
WHICH = st.integers(0, 40)


@cache
def undisturbed(spec: str, n_ctx: int, command_json: str, resume_json: str, sampling_json: str) -> Record:
    """The run of one generation that begins with these tokens, in a core of its own."""
    bench = Bench(spec, n_slots=1, n_ctx=n_ctx)
    resume = Resume.model_validate_json(resume_json)
    source = Record(
        Generate.model_validate_json(command_json),
        resume.prompt_tokens,
        sampling=SamplingParams.model_validate_json(sampling_json),
    )
    name = bench.go_on(source, resume)
    bench.run()
    return bench.records[name]


class HandsMachine(RuleBasedStateMachine):
    """Adds, cancels, steps, all hands, and deaths, in any order."""

    @initialize(
        spec=st.sampled_from(SPECS),
        n_slots=st.integers(1, 4),
        n_batch=st.sampled_from((1, 3, 16, 512)),
        n_ctx=st.sampled_from((48, 120, 4096)),
        n_kv=st.sampled_from((0, 40, 100, 200)),
        queue_limit=st.sampled_from((3, 100)),
    )
    def start(self, spec: str, n_slots: int, n_batch: int, n_ctx: int, n_kv: int, queue_limit: int) -> None:
        self.spec, self.n_ctx = spec, min(n_ctx, n_kv or n_ctx)
        self.settings = {
            "n_slots": n_slots,
            "n_ctx": n_ctx,
            "n_batch": n_batch,
            "queue_limit": queue_limit,
            "n_kv": n_kv,
        }
        self.bench = Bench(spec, **self.settings)
        self.bench.add("the stone", lookup=3)

    @rule(
        prompt=st.sampled_from(PROMPTS),
        seed=st.integers(0, 2),
        stop=st.sampled_from(STOPS),
        max_tokens=st.sampled_from((None, 1, 12)),
        tools=st.booleans(),
        lookup=st.sampled_from((0, 1, 4, 9)),
    )
    def add(
        self,
        prompt: str,
        seed: int,
        stop: tuple[str, ...],
        max_tokens: int | None,
        tools: bool,
        lookup: int,
    ) -> None:
        self.bench.add(prompt, seed=seed, stop=stop, max_tokens=max_tokens, tools=tools, lookup=lookup)

    @rule(n=st.integers(1, 12))
    def steps(self, n: int) -> None:
        for _ in range(n):
            self.bench.step()

    @rule(name=NAMES, during_decode=st.booleans())
    def cancel(self, name: str, during_decode: bool) -> None:
        if during_decode:
            self.bench.backend.during_decode = lambda: self.bench.core.cancel(name)
            self.bench.step()
            self.bench.backend.during_decode = lambda: None
        else:
            self.bench.core.cancel(name)

    @rule(which=st.integers(0, 3))
    def die(self, which: int) -> None:
        """The core is gone, sometimes; another one goes on with what was told."""
        if which:
            return
        dead, self.bench = self.bench, Bench(self.spec, **self.settings)
        for name, record in dead.records.items():
            if record.finished:
                self.bench.records[name] = record
                continue
            resume = Resume(
                kind="recovered",
                prompt_tokens=record.prompt,
                tokens=record.ids,
                injected=sorted(record.injected),
                n_drawn=record.n_drawn,
                seed=5 if record.seed is None else record.seed,
                paused=record.paused,
                times=[token["t"] for token in record.tokens],
                started_t=None if record.started is None else record.started.t,
            )
            self.bench.go_on(record, resume, name=name)
            self.bench.records[name].hand_at = min(record.hand_at, len(record.ids))

    def pick(self, which: int) -> str:
        """One that hasn't ended, mostly, and a few steps later."""
        for _ in range(which % 5):
            self.bench.step()
        names = [name for name, record in self.bench.records.items() if not record.finished]
        return names[which % len(names)] if names and which else "g0"

    def check(self, name: str, done: ControlDone, *codes: str) -> None:
        """Success, or an error that this command may have."""
        record = self.bench.records.get(name)
        if done.error is None:
            assert record is not None
        elif record is None or record.finished:
            assert done.error.code == "not_found"
        else:  # also one whose cancel waits
            assert done.error.code in (*codes, "not_found")

    @rule(which=WHICH)
    def pause(self, which: int) -> None:
        name = self.pick(which)
        self.check(name, self.bench.pause(name))

    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        name = self.pick(which)
        self.check(name, self.bench.resume(name))

    @rule(which=WHICH, n=st.integers(1, 5))
    def step_tokens(self, which: int, n: int) -> None:
        name = self.pick(which)
        self.check(name, self.bench.step_tokens(name, n), "bad_state")

    @rule(which=WHICH, changes=st.sampled_from(CHANGES))
    def update(self, which: int, changes: dict[str, object]) -> None:
        name = self.pick(which)
        self.check(name, self.bench.update(name, **changes), "invalid_argument")

    @rule(which=WHICH, n=st.integers(1, 9))
    def rewind(self, which: int, n: int) -> None:
        name = self.pick(which)
        self.check(name, self.bench.rewind(name, n), "invalid_argument")

    @rule(which=WHICH, text=st.sampled_from(TEXTS))
    def inject(self, which: int, text: str) -> None:
        name = self.pick(which)
        self.check(name, self.bench.inject(name, text), "context_overflow")

    @rule(which=WHICH, at_token=st.integers(0, 9), token_id=st.none() | st.integers(4, N_VOCAB + 1))
    @precondition(lambda self: len(self.bench.records) < 12)
    def fork(self, which: int, at_token: int, token_id: int | None) -> None:
        name = self.pick(which)
        self.check(name, self.bench.fork(name, at_token, token_id), "invalid_argument", "busy")

    @invariant()
    def an_idle_core_waits_for_nobody_but_the_paused(self) -> None:
        if hasattr(self, "bench") and not self.bench.core.has_work:
            records = self.bench.records.values()
            n_free = self.bench.backend.info.n_slots - len(self.bench.active)
            for record in records:
                assert record.finished or record.paused or (record.slot is None and n_free == 0)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        for name, record in bench.records.items():
            if not record.finished:
                bench.resume(name)
        bench.run()
        assert all(record.finished for record in bench.records.values())
        assert bench.core.waiting == 0
        for record in bench.records.values():
            self.check_end(record)

    def check_end(self, record: Record) -> None:
        end = record.end
        if record.seed is None or (end.error is not None and end.error.code != "invalid_output"):
            assert record.started is None  # a branch that ended before its start, or a refusal
            return
        other = undisturbed(
            self.spec,
            self.n_ctx,
            record.command.model_copy(
                update={"prompt_lookup_num_tokens": 0, "resume": None}
            ).model_dump_json(),
            record.at_last_hand().model_dump_json(),
            record.sampling.model_dump_json(),
        )
        if end.finish_reason == "cancelled":
            assert other.ids[: len(record.ids)] == record.ids
            return
        calls = [[(call.name, call.arguments) for call in each.end.tool_calls] for each in (record, other)]
        assert calls[0] == calls[1]
        assert record.ids == other.ids
        assert (end.text, end.reasoning) == (other.end.text, other.end.reasoning)
        assert end.finish_reason == other.end.finish_reason
        assert end.error == other.end.error


TestHandsMachine = HandsMachine.TestCase
TestHandsMachine.settings = settings(stateful_step_count=40, max_examples=2000 if SOAK else 100)
