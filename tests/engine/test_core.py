"""The core: what each generation gets, alone and together with others."""

from __future__ import annotations

from functools import cache
from urllib.parse import quote

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.events import GenerationDelta, GenerationFinished, GenerationStarted
from engine.types import ToolCall
from tests.engine.harness import Bench, Record


def scripted(text: str | bytes, *more: str) -> str:
    return ",".join([f"fake:script={quote(text, safe='')}", *more])


def only(bench: Bench) -> Record:
    (record,) = bench.records.values()
    return record


# ---- one generation


def test_a_generation_from_start_to_stop() -> None:
    bench = Bench("fake:tokens=5")
    bench.add("hello world")
    first = bench.step()
    assert isinstance(first[0], GenerationStarted)
    assert first[0].seed == 1
    assert isinstance(first[1], GenerationDelta)
    bench.run()
    end = only(bench).end
    assert end.finish_reason == "stop"
    assert end.usage.completion_tokens == 5
    assert end.error is None
    assert bench.n_steps == 6  # the prompt's step gives the first token, the last one the end token
    assert not only(bench).progress  # the prompt took one step


def test_the_end_token_is_neither_delivered_nor_counted() -> None:
    bench = Bench("fake:tokens=0")
    bench.add()
    bench.run()
    record = only(bench)
    assert (record.end.finish_reason, record.end.text, record.tokens) == ("stop", "", [])
    assert record.end.timings.ttft_ms is None
    assert record.end.timings.prefill_ms is not None


def test_max_tokens() -> None:
    bench = Bench()
    bench.add(max_tokens=3)
    bench.run()
    assert only(bench).end.finish_reason == "length"
    assert len(only(bench).tokens) == 3
    assert bench.n_steps == 3  # nothing is decoded after the last token


def test_a_seed_is_made_up_where_none_is_given() -> None:
    bench = Bench(n_slots=2)
    bench.add(seed=None)
    bench.add(seed=None)
    bench.step()
    seeds = {record.started.seed for record in bench.records.values() if record.started}
    assert len(seeds) == 2


def test_a_prompt_in_chunks_reports_its_progress() -> None:
    bench = Bench("fake:bytes=1,tokens=2", n_batch=4)
    bench.add("ninebytes")  # and the start token
    bench.run()
    assert only(bench).progress == [4, 8, 10]


def test_a_prompt_whose_rest_takes_one_step_reports_no_progress() -> None:
    bench = Bench("fake:bytes=1,tokens=2", n_slots=1, n_batch=8)
    bench.add("ninebytes")
    bench.run()
    bench.add("ninebytes, ok")
    bench.run()
    assert [record.progress for record in bench.records.values()] == [[8, 10], []]


def test_samplers_see_the_prompt() -> None:
    bench = Bench("fake:bytes=1,tokens=1")
    bench.add("x" * 200)
    bench.run()
    assert [sampler.n_prompt for sampler in bench.backend.samplers] == [201]


def test_a_prompt_too_long_is_refused_with_both_numbers() -> None:
    bench = Bench("fake:bytes=1", n_ctx=8)
    bench.add("1234567")
    bench.add("123456")
    bench.run()
    refused, taken = (record.end for record in bench.records.values())
    assert refused.finish_reason == "error"
    assert refused.error is not None
    assert refused.error.code == "context_overflow"
    assert "8" in refused.error.message
    assert refused.error.hint
    assert bench.records["g0"].started is None
    assert (taken.finish_reason, taken.usage.completion_tokens) == ("context_full", 1)


def test_an_empty_prompt_is_refused() -> None:
    bench = Bench()
    command = bench.records[bench.add()].command
    bench.run()
    bench.records["empty"] = Record(command.model_copy(update={"generation_id": "empty"}), [])
    from engine.core import Prepared

    bench.core.add(Prepared(bench.records["empty"].command, []))
    bench.run()
    error = bench.records["empty"].end.error
    assert error is not None
    assert error.code == "invalid_prompt"


def test_the_context_runs_full() -> None:
    bench = Bench("fake:tokens=100", n_ctx=16)
    bench.add("the a of")
    bench.run()
    end = only(bench).end
    assert end.finish_reason == "context_full"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == 16


def test_stop_strings_across_tokens() -> None:
    bench = Bench(scripted("one two STOP three", "bytes=1"))
    bench.add(stop=("nothing", "STOP"))
    bench.run()
    record = only(bench)
    assert (record.end.finish_reason, record.end.text) == ("stop", "one two ")
    assert len(record.tokens) == len("one two STOP")
    assert [token["text"] for token in record.tokens[-4:]] == ["", "", "", ""]


@pytest.mark.parametrize("max_tokens", (None, 6))
def test_withheld_text_comes_at_the_end(max_tokens: int | None) -> None:
    bench = Bench(scripted("one ST", "bytes=1"))
    bench.add(stop=("STOP",), max_tokens=max_tokens)
    bench.run()
    assert only(bench).end.text == "one ST"


def test_characters_split_between_tokens() -> None:
    bench = Bench(scripted("é🌱", "bytes=1"))
    bench.add()
    bench.run()
    assert [token["text"] for token in only(bench).tokens] == ["", "é", "", "", "", "🌱"]


def test_bytes_left_over_are_replaced() -> None:
    bench = Bench(scripted(b"a\xf0\x9f", "bytes=1"))
    bench.add()
    bench.run()
    record = only(bench)
    assert record.end.text == "a\ufffd"
    assert len(record.tokens) == 3


def test_log_probabilities_where_asked_for() -> None:
    bench = Bench("fake:tokens=3")
    bench.add(logprobs=2)
    bench.add(logprobs=0)
    bench.add()
    bench.run()
    with_top, without_top, plain = (record.tokens for record in bench.records.values())
    for token in with_top:
        assert token["logprob"] < 0
        assert token["top"][0]["id"] == token["id"]
        assert len(token["top"]) == 2
    assert all(token["top"] == [] for token in without_top)
    assert all("top" not in token for token in plain)


def test_timings_are_those_of_the_clock() -> None:
    bench = Bench("fake:tokens=10")
    bench.add()
    bench.run()
    record = only(bench)
    timings, times = record.end.timings, [token["t"] for token in record.tokens]
    assert record.started is not None
    assert timings.queue_ms == pytest.approx((record.started.t - record.command.received_t) * 1000)
    assert timings.prefill_ms is not None
    assert timings.ttft_ms is not None
    assert timings.queue_ms is not None
    assert timings.queue_ms + timings.prefill_ms < timings.ttft_ms
    first = timings.ttft_ms - timings.queue_ms - timings.prefill_ms
    assert first <= bench.metrics[0].sample_ms, "what is left is the sampling of the first token"
    assert timings.tokens_per_second == pytest.approx(9 / (times[-1] - times[0]))
    assert timings.itl_p50_ms == pytest.approx((times[5] - times[4]) * 1000)
    assert bench.metrics[0].emit_ms == 0
    assert bench.metrics[1].emit_ms > 0


# ---- tool calls

CALL = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>'


@pytest.mark.parametrize("mode", ("bytes=0", "bytes=1"))
def test_a_tool_call(mode: str) -> None:
    bench = Bench(scripted(f"A moment.\n{CALL}", mode))
    bench.add(tools=True)
    bench.run()
    record = only(bench)
    call = ToolCall(id="call_g0_0", name="clock", arguments='{"zone": "UTC"}')
    assert record.end.finish_reason == "tool_calls"
    assert record.end.text == "A moment."
    assert record.end.tool_calls == [call]
    assert record.call_texts == {call.id: '{"name": "clock", "arguments": {"zone": "UTC"}}'}


def test_without_tools_a_call_is_text() -> None:
    bench = Bench(scripted(CALL))
    bench.add()
    bench.run()
    assert only(bench).end.finish_reason == "stop"
    assert only(bench).end.text == CALL


def test_a_malformed_call_is_text_in_the_end() -> None:
    text = "so <tool_call>{nonsense}</tool_call> it is "
    bench = Bench(scripted(text, "bytes=1"))
    bench.add(tools=True)
    bench.run()
    record = only(bench)
    assert (record.end.finish_reason, record.end.text, record.end.tool_calls) == ("stop", text, [])
    assert len(record.tokens) == len(text)


def test_a_call_cut_by_max_tokens_keeps_its_reason() -> None:
    bench = Bench(scripted(CALL + "and more", "bytes=1"))
    bench.add(tools=True, max_tokens=len(CALL) + 2)
    bench.run()
    assert only(bench).end.finish_reason == "length"
    assert len(only(bench).end.tool_calls) == 1


# ---- many generations


def test_generations_share_a_batch_and_answer_as_if_alone() -> None:
    prompts = ["the river", "a stone", "quiet morning", "silver window"]
    together = Bench()
    for prompt in prompts:
        together.add(prompt)
    together.run()
    assert max(metrics.batch_size for metrics in together.metrics) == 4
    for prompt, record in zip(prompts, together.records.values(), strict=True):
        alone = Bench(n_slots=1)
        alone.add(prompt)
        alone.run()
        assert record.end.text == only(alone).end.text


def test_first_come_first_served() -> None:
    bench = Bench("fake:tokens=3", n_slots=2)
    for i in range(6):
        bench.add(f"prompt {i}")
    order: list[str] = []
    while bench.core.has_work:
        order += [event.generation_id for event in bench.step() if isinstance(event, GenerationStarted)]
    assert order == [f"g{i}" for i in range(6)]
    assert bench.metrics[0].waiting == 4


def test_a_long_prompt_does_not_hold_up_those_who_decode() -> None:
    bench = Bench("fake:bytes=1,tokens=200", n_batch=8)
    bench.add("a")
    bench.step()
    bench.add("b" * 100)
    while not bench.records["g1"].tokens:
        before = len(bench.records["g0"].tokens)
        bench.step()
        assert len(bench.records["g0"].tokens) == before + 1
        assert bench.metrics[-1].prefill_tokens <= 7
    assert bench.records["g1"].progress[-1] == 101


def test_the_queue_has_a_limit() -> None:
    bench = Bench("fake:tokens=2", n_slots=1, queue_limit=2)
    for _ in range(5):
        bench.add()
    bench.run()
    ends = [record.end for record in bench.records.values()]
    assert [end.finish_reason for end in ends] == ["stop"] * 3 + ["error"] * 2
    assert all(end.error is not None and end.error.code == "busy" for end in ends[3:])


# ---- the prefix cache


def test_the_second_turn_computes_only_what_is_new() -> None:
    bench = Bench("fake:tokens=20", n_slots=2)
    first = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    bench.add(first)
    bench.run()
    bench.add("something else entirely")
    bench.run()
    again = f"{first}{bench.records['g0'].end.text}<|im_end|>\n<|im_start|>user\nand you?<|im_end|>\n"
    bench.add(again)
    bench.run()
    started, before = bench.records["g2"].started, bench.records["g0"].end.usage
    assert started is not None
    assert started.slot == 0
    assert started.cached_tokens == before.prompt_tokens + before.completion_tokens
    assert bench.records["g1"].started is not None
    assert bench.records["g1"].started.slot == 1


def test_a_reused_prefix_changes_no_text() -> None:
    bench = Bench(n_slots=1)
    for _ in range(2):
        bench.add("the same prompt")
        bench.run()
    first, second = (record.end for record in bench.records.values())
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert first.text == second.text


def test_a_recurrent_model_computes_again_what_it_cannot_keep() -> None:
    bench = Bench("fake:recurrent=1", n_slots=1)
    for _ in range(2):
        bench.add("the same prompt")
        bench.run()
    first, second = (record.end for record in bench.records.values())
    assert second.usage.cached_tokens == 0
    assert first.text == second.text


def test_cached_tokens_count_as_used() -> None:
    bench = Bench("fake:tokens=4", n_slots=2, n_ctx=32)
    bench.add("hello")
    bench.run()
    held = bench.metrics[-1].kv_used
    assert held == only(bench).n_prompt + 4
    bench.add("unlike it", max_tokens=1)
    bench.run()
    assert bench.metrics[-1].kv_used == held + bench.records["g1"].n_prompt
    assert bench.metrics[-1].kv_total == 64


# ---- cancel


def test_cancel_while_waiting() -> None:
    bench = Bench(n_slots=1)
    bench.add()
    name = bench.add()
    bench.core.cancel(name)
    events = bench.step()
    ended = [event for event in events if isinstance(event, GenerationFinished)]
    assert [event.generation_id for event in ended] == [name]
    assert ended[0].finish_reason == "cancelled"
    assert bench.records[name].started is None


def test_cancel_in_the_prompt_frees_the_slot_and_keeps_what_was_computed() -> None:
    bench = Bench("fake:bytes=1", n_slots=1, n_batch=4)
    name = bench.add("0123456789")
    bench.step()
    bench.core.cancel(name)
    bench.step()
    assert bench.records[name].end.finish_reason == "cancelled"
    bench.add("0123456789", max_tokens=1)
    bench.run()
    assert bench.records["g1"].end.usage.cached_tokens == 4


def test_cancel_while_decoding() -> None:
    bench = Bench()
    name = bench.add()
    for _ in range(3):
        bench.step()
    bench.core.cancel(name)
    bench.core.cancel(name)
    bench.step()
    assert bench.records[name].end.finish_reason == "cancelled"
    assert len(bench.records[name].tokens) == 3
    bench.core.cancel(name)
    bench.run()


def test_cancel_during_the_decode_takes_effect_in_the_same_step() -> None:
    bench = Bench()
    name, other = bench.add("one"), bench.add("two")
    bench.step()
    bench.backend.during_decode = lambda: bench.core.cancel(name)
    bench.step()
    assert bench.records[name].end.finish_reason == "cancelled"
    assert len(bench.records[name].tokens) == 1
    assert len(bench.records[other].tokens) == 2


def test_a_cancel_that_comes_before_its_generation() -> None:
    bench = Bench()
    bench.core.cancel("later")
    assert bench.step() == []
    bench.add(name="later")
    bench.run()
    assert bench.records["later"].end.finish_reason == "cancelled"
    assert bench.records["later"].started is None


def test_cancels_of_unknown_generations_are_forgotten_in_time() -> None:
    bench = Bench("fake:tokens=1")
    for i in range(5000):
        bench.core.cancel(f"unknown {i}")
    bench.add(name="unknown 0")
    bench.add(name="unknown 4999")
    bench.run()
    assert bench.records["unknown 0"].end.finish_reason == "stop"
    assert bench.records["unknown 4999"].end.finish_reason == "cancelled"


def test_cancel_delivers_withheld_text() -> None:
    bench = Bench(scripted("one STx", "bytes=1"))
    name = bench.add(stop=("STOP",))
    for _ in range(6):
        bench.step()
    bench.core.cancel(name)
    bench.step()
    assert bench.records[name].end.text == "one ST"


# ---- failures


def test_numbers_that_are_none_end_one_generation() -> None:
    bench = Bench("fake:nan_after=2")
    bench.add("one")
    bench.add("two", max_tokens=2)
    bench.run()
    broken, fine = (record.end for record in bench.records.values())
    assert broken.error is not None
    assert broken.error.code == "invalid_output"
    assert broken.usage.completion_tokens == 2
    assert fine.finish_reason == "length"


def test_a_failed_decode_ends_its_batch_and_nothing_else() -> None:
    bench = Bench("fake:fail_after=3,tokens=10", n_slots=1)
    bench.add("one")
    bench.add("two")
    bench.run()
    broken, fine = (record.end for record in bench.records.values())
    assert broken.error is not None
    assert broken.error.code == "out_of_memory"
    assert broken.usage.completion_tokens == 3
    assert (fine.finish_reason, fine.usage.completion_tokens) == ("stop", 10)


def test_a_sampler_that_cannot_be_made_ends_its_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.errors import TokenglassError

    bench = Bench()

    def refuse(*_: object) -> None:
        raise TokenglassError("invalid_argument", "no such token", path="sampling.logit_bias")

    with monkeypatch.context() as patch:
        patch.setattr(bench.backend, "new_sampler", refuse)
        bench.add()
        bench.step()
    error = only(bench).end.error
    assert error is not None
    assert error.path == "sampling.logit_bias"
    bench.add()
    bench.run()
    assert bench.records["g1"].end.finish_reason == "stop"


# ---- anything at any moment

PREFIXES = ("", "the river ", "the river and the stone ", "水 naïve ")
STOPS = (" the", " a ", "\n", "e", " 水", " silver window", "s s")
SPECS = (
    "fake:",
    "fake:bytes=1",
    "fake:recurrent=1",
    "fake:nan_after=50",
    scripted(f"the e {CALL}\n{CALL} a the", "bytes=1"),
)


@cache
def alone(
    spec: str, n_ctx: int, prompt: str, seed: int, stop: tuple[str, ...], limit: int | None, tools: bool
) -> GenerationFinished:
    """How a generation ends that is the only one."""
    bench = Bench(spec, n_slots=1, n_ctx=n_ctx)
    bench.add(prompt, name="g", seed=seed, stop=stop, max_tokens=limit, tools=tools)
    bench.run()
    return only(bench).end


def summary(end: GenerationFinished) -> tuple[object, ...]:
    """What doesn't depend on others' being there."""
    calls = [(call.name, call.arguments) for call in end.tool_calls]
    return end.finish_reason, end.text, calls, end.usage.completion_tokens, end.error


class CoreMachine(RuleBasedStateMachine):
    """Adds, cancels and steps in any order; `Bench` checks each event, the end checks each generation."""

    @initialize(
        spec=st.sampled_from(SPECS),
        n_slots=st.integers(1, 4),
        n_batch=st.sampled_from((1, 2, 3, 5, 16, 512)),
        n_ctx=st.sampled_from((24, 64, 4096)),
        queue_limit=st.sampled_from((1, 100)),
    )
    def start(self, spec: str, n_slots: int, n_batch: int, n_ctx: int, queue_limit: int) -> None:
        self.spec, self.n_ctx, self.n_slots = spec, n_ctx, n_slots
        self.bench = Bench(spec, n_slots=n_slots, n_ctx=n_ctx, n_batch=n_batch, queue_limit=queue_limit)
        self.n_cancelled = 0
        self.silence: dict[str, int] = {}

    @rule(
        prefix=st.sampled_from(PREFIXES),
        rest=st.text(alphabet="ab é", max_size=12),
        seed=st.integers(0, 2),
        stop=st.lists(st.sampled_from(STOPS), max_size=2, unique=True).map(tuple),
        max_tokens=st.sampled_from((None, 1, 7, 60)),
        tools=st.booleans(),
    )
    def add(
        self, prefix: str, rest: str, seed: int, stop: tuple[str, ...], max_tokens: int | None, tools: bool
    ) -> None:
        self.bench.add(prefix + rest, seed=seed, stop=stop, max_tokens=max_tokens, tools=tools)

    @rule(index=st.integers(0, 30), during_decode=st.booleans())
    def cancel(self, index: int, during_decode: bool) -> None:
        name = f"g{index}"  # known, ended, or yet to come
        if not during_decode:
            self.bench.core.cancel(name)
            return
        n_batches = len(self.bench.backend.batches)
        self.bench.backend.during_decode = lambda: self.bench.core.cancel(name)
        self.step()
        self.bench.backend.during_decode = lambda: None
        record = self.bench.records.get(name)
        if record and len(self.bench.backend.batches) > n_batches:
            assert record.finished

    @rule(n=st.integers(1, 12))
    def steps(self, n: int) -> None:
        for _ in range(n):
            self.step()

    def step(self) -> None:
        before = {name: len(record.tokens) for name, record in self.bench.records.items()}
        decoding = [name for name, n in before.items() if n and not self.bench.records[name].finished]
        self.bench.step()
        for name in decoding:
            record = self.bench.records[name]
            if record.finished or len(record.tokens) > before[name]:
                self.silence[name] = 0
            else:  # everyone who decodes gets a turn
                self.silence[name] = self.silence.get(name, 0) + 1
                assert self.silence[name] < self.n_slots

    @invariant()
    def slots_are_not_exceeded(self) -> None:
        if hasattr(self, "bench"):
            assert len(self.bench.active) <= self.n_slots

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        work = sum(record.n_prompt + 100 for record in self.bench.records.values())
        self.bench.run(limit=work + 10)
        for record in self.bench.records.values():
            self.check_end(record)

    def check_end(self, record: Record) -> None:
        command, end = record.command, record.end
        prompt, seed = str(command.prompt or ""), command.sampling.seed or 0
        if end.error is not None and end.error.code == "busy":
            assert record.started is None
            return
        tools = bool(command.tools)
        if end.finish_reason == "cancelled":
            if not tools:
                whole = alone(self.spec, self.n_ctx, prompt, seed, (), None, tools)
                assert whole.text.startswith(end.text.rstrip("\ufffd"))
            return
        other = alone(self.spec, self.n_ctx, prompt, seed, tuple(command.stop), command.max_tokens, tools)
        assert summary(end) == summary(other)


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(stateful_step_count=30)
