"""Hands on a running generation: each command, in each state that a generation can be in."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

import pytest

from engine.backends import fake
from engine.commands import Continue, Fork, Inject, Pause, Update
from engine.events import (
    GenerationDelta,
    GenerationFinished,
    GenerationForked,
    GenerationPaused,
    GenerationResumed,
    GenerationStarted,
    GenerationUpdated,
)
from engine.replies import ControlDone
from engine.types import Resume, SamplingParams, Timings
from tests.engine.harness import Bench, Record

CALL = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'


def script(text: str, *more: str) -> str:
    return ",".join([f"fake:script={quote(text, safe='')}", *more])


def decoding(n_tokens: int = 3, model: str = "fake:tokens=20", **settings: int) -> Bench:
    """One generation with so many tokens."""
    bench = Bench(model, **settings)
    bench.add("the river and the stone")
    while len(bench.records["g0"].ids) < n_tokens:
        bench.step()
    return bench


def in_prompt() -> Bench:
    bench = Bench("fake:tokens=20,bytes=1", n_batch=4)
    bench.add("a prompt of some length")
    bench.step()
    assert bench.records["g0"].progress
    return bench


def waiting() -> Bench:
    """g0 waits for the only slot, which `other` has."""
    bench = Bench("fake:tokens=20", n_slots=1)
    bench.add("the glass", name="other")
    bench.add("the river and the stone", name="g0")
    bench.step()
    return bench


def paused() -> Bench:
    bench = decoding()
    bench.pause("g0")
    return bench


def finished() -> Bench:
    bench = decoding()
    bench.run()
    return bench


def unknown() -> Bench:
    return Bench()


ALIVE = (waiting, in_prompt, decoding, paused)
Make = Callable[[], Bench]


def undisturbed(record: Record) -> Record:
    """A run of its own that goes on from where this one stood after the last hand on it."""
    bench = Bench("fake:tokens=20", n_slots=1)
    name = bench.go_on(record, record.at_last_hand())
    bench.run()
    return bench.records[name]


def check_as_undisturbed(record: Record) -> None:
    other = undisturbed(record)
    assert (record.ids, record.end.text) == (other.ids, other.end.text)
    assert record.end.finish_reason == other.end.finish_reason


def refused(done: ControlDone, code: str, path: str | None = None) -> None:
    assert done.error is not None
    assert (done.error.code, done.error.path) == (code, path)


@pytest.mark.parametrize("make", (finished, unknown))
def test_what_does_not_run_is_not_found(make: Make) -> None:
    bench = make()
    for done in (
        bench.pause("g0"),
        bench.resume("g0"),
        bench.step_tokens("g0"),
        bench.update("g0", temperature=1.0),
        bench.rewind("g0", 1),
        bench.inject("g0", "x"),
        bench.fork("g0", 0),
    ):
        refused(done, "not_found")


# ---- pause, resume, step


@pytest.mark.parametrize("make", ALIVE)
def test_pause_and_resume_in_every_state(make: Make) -> None:
    bench = make()
    was = len(bench.records["g0"].ids)
    for _ in range(2):  # twice is as good as once
        assert bench.pause("g0").result == {"at_token": was}
    bench.run()
    record = bench.records["g0"]
    assert (len(record.ids), record.finished) == (was, None)
    assert not bench.core.has_work
    for _ in range(2):
        assert bench.resume("g0").result == {"at_token": was}
    bench.run()
    assert record.end.usage.completion_tokens == 20


def test_a_second_pause_or_resume_has_no_event() -> None:
    bench = decoding()
    events = [bench.core.control(command)[1:] for command in (*hold(), *hold())]
    assert [len(each) for each in events] == [1, 1, 1, 1]
    pause, resume = hold()
    assert [len(bench.core.control(command)) for command in (pause, pause)] == [2, 1]
    assert [len(bench.core.control(command)) for command in (resume, resume)] == [2, 1]


def hold() -> tuple[Pause, Continue]:
    return Pause(request_id="r", generation_id="g0"), Continue(request_id="r", generation_id="g0")


def test_others_pass_one_that_is_paused_while_it_waits() -> None:
    bench = waiting()
    bench.add("and another", name="later")
    bench.pause("g0")
    bench.run()
    assert bench.records["later"].finished
    assert bench.records["g0"].started is None
    bench.resume("g0")
    bench.run()
    assert bench.records["g0"].finished


def test_others_go_on_while_one_is_paused() -> None:
    bench = decoding()
    bench.add("the glass", name="other")
    bench.step()
    bench.pause("g0")
    bench.run()
    assert bench.records["other"].finished
    assert len(bench.records["g0"].ids) == 4


@pytest.mark.parametrize("make", (waiting, in_prompt, paused))
def test_steps_and_pauses_again(make: Make) -> None:
    bench = make()
    bench.pause("g0")
    record = bench.records["g0"]
    for n in (1, 3):
        before = len(record.ids)
        assert bench.step_tokens("g0", n).result == {"at_token": before}
        refused(bench.step_tokens("g0"), "bad_state")
        bench.run()
        assert (len(record.ids), record.paused) == (before + n, True)
    bench.resume("g0")
    bench.run()
    assert record.end.usage.completion_tokens == 20


def test_the_pause_after_a_step_comes_right_after_its_last_token() -> None:
    bench = paused()
    bench.step_tokens("g0", 2)
    assert not any(isinstance(event, GenerationPaused) for event in bench.step())
    delta, pause, _metrics = bench.step()
    assert isinstance(delta, GenerationDelta)
    assert isinstance(pause, GenerationPaused)
    assert pause.at_token == 5


def test_a_step_may_reach_the_end() -> None:
    bench = paused()
    bench.step_tokens("g0", 100)
    bench.run()
    assert bench.records["g0"].end.finish_reason == "stop"


def test_resume_lifts_the_limit_of_a_step_and_pause_ends_it() -> None:
    bench = paused()
    bench.step_tokens("g0", 2)
    bench.pause("g0")
    bench.run()
    assert len(bench.records["g0"].ids) == 3
    bench.step_tokens("g0", 2)
    bench.resume("g0")
    bench.run()
    assert bench.records["g0"].end.usage.completion_tokens == 20


def test_only_what_is_paused_can_step() -> None:
    refused(decoding().step_tokens("g0"), "bad_state")


@pytest.mark.parametrize("make", ALIVE)
def test_cancel_in_every_state_even_paused(make: Make) -> None:
    bench = make()
    bench.pause("g0")
    bench.core.cancel("g0")
    assert bench.core.has_work
    bench.run()
    assert bench.records["g0"].end.finish_reason == "cancelled"


def test_a_cancel_comes_before_a_later_command() -> None:
    bench = decoding()
    bench.core.cancel("g0")
    refused(bench.pause("g0"), "not_found")
    bench.run()
    assert bench.records["g0"].end.finish_reason == "cancelled"


# ---- update


@pytest.mark.parametrize("make", ALIVE)
def test_update_in_every_state(make: Make) -> None:
    bench = make()
    record = bench.records["g0"]
    was = len(record.ids)
    done = bench.update("g0", temperature=0.0, top_k=3)
    assert (done.result["at_token"], done.result["sampling"]["top_k"]) == (was, 3)
    assert record.sampling == SamplingParams(temperature=0.0, top_k=3, seed=1)
    bench.resume("g0")
    bench.run()
    if make is not in_prompt:
        check_as_undisturbed(record)


def test_update_changes_what_comes_next_and_nothing_before() -> None:
    before, after = decoding(5), decoding(5)
    after.update("g0", temperature=0.0)
    for bench in (before, after):
        bench.run()
    one, other = before.records["g0"].ids, after.records["g0"].ids
    assert one[:5] == other[:5]
    assert one != other


def test_an_update_that_changes_nothing_changes_nothing() -> None:
    before, after = decoding(5), decoding(5)
    after.update("g0", temperature=0.7)
    after.update("g0")
    for bench in (before, after):
        bench.run()
    assert before.records["g0"].ids == after.records["g0"].ids


def test_a_seed_is_changed_where_one_is_given() -> None:
    bench = decoding()
    assert bench.update("g0", top_k=2).result["sampling"]["seed"] == 1
    assert bench.update("g0", seed=7).result["sampling"]["seed"] == 7
    assert isinstance(bench.update("g0", seed=None).result["sampling"]["seed"], int)
    bench.run()
    check_as_undisturbed(bench.records["g0"])


@pytest.mark.parametrize(
    ("changes", "path"),
    (
        ({"temperature": -1}, "sampling.temperature"),
        ({"temperature": "hot"}, "sampling.temperature"),
        ({"warmth": 1}, "sampling.warmth"),
        ({"logit_bias": {"x": 1}}, "sampling.logit_bias.x"),
        ({"logit_bias": {"5": 1e9}}, "sampling.logit_bias.5"),
    ),
)
def test_wrong_parameters_are_named(changes: dict[str, object], path: str) -> None:
    bench = decoding()
    refused(bench.update("g0", **changes), "invalid_argument", path)
    bench.run()
    assert bench.records["g0"].sampling == SamplingParams(seed=1)


# ---- rewind


def test_rewind_goes_back_and_writes_something_else() -> None:
    bench = decoding(8)
    record = bench.records["g0"]
    first = record.ids
    assert bench.rewind("g0", 3).result == {"at_token": 5, "removed": 3}
    assert record.ids == first[:5]
    assert record.text == "".join(token["text"] for token in record.tokens)
    bench.run()
    assert record.ids[:5] == first[:5]
    assert record.ids[:8] != first
    assert record.end.usage.completion_tokens == 20
    check_as_undisturbed(record)


def test_without_temperature_the_same_comes_again() -> None:
    one, other = decoding(8), decoding(8)
    for bench in (one, other):
        bench.update("g0", temperature=0.0)
        for _ in range(4):
            bench.step()
    other.rewind("g0", 3)
    for bench in (one, other):
        bench.run()
    assert one.records["g0"].ids == other.records["g0"].ids


def test_rewind_computes_the_last_kept_token_again_and_nothing_else() -> None:
    bench = decoding(8)
    n_prompt = bench.records["g0"].n_prompt
    bench.rewind("g0", 3)
    bench.step()
    batch = bench.backend.batches[-1]
    assert (batch.positions, batch.wants_logits) == ([n_prompt + 4], [True])


def test_a_recurrent_model_computes_all_again_after_a_rewind() -> None:
    bench = decoding(8, "fake:tokens=20,recurrent=1")
    record = bench.records["g0"]
    bench.rewind("g0", 3)
    bench.step()
    assert bench.backend.batches[-1].positions == list(range(record.n_prompt + 5))
    bench.run()
    check_as_undisturbed(record)


@pytest.mark.parametrize("make", ALIVE)
def test_rewind_by_more_than_there_is(make: Make) -> None:
    bench = make()
    refused(bench.rewind("g0", 4), "invalid_argument", "tokens")
    bench.resume("g0")
    bench.run()
    assert bench.records["g0"].end.usage.completion_tokens == 20


def test_rewind_to_the_beginning() -> None:
    bench = paused()
    assert bench.rewind("g0", 3).result["at_token"] == 0
    assert bench.records["g0"].text == ""
    bench.resume("g0")
    bench.run()
    check_as_undisturbed(bench.records["g0"])


def test_rewind_into_a_character_a_stop_string_and_a_call() -> None:
    text = f"one é STO {CALL} two"
    bench = Bench(script(text, "bytes=1"))
    bench.add(stop=("STOP",), tools=True)
    record = bench.records["g0"]
    whole = text.encode()
    for n_tokens in (5, 9, 14, 30, len(whole) - 2):  # é is split, ST is withheld, then inside the call
        while len(record.ids) < n_tokens:
            bench.step()
        bench.rewind("g0", 1)
    bench.run()
    assert record.end.text == "one é STOtwo"
    assert [call.name for call in record.end.tool_calls] == ["clock"]
    assert len(record.ids) == len(whole)


def test_rewind_forgets_times() -> None:
    bench = decoding(8)
    bench.rewind("g0", 8)
    bench.run()  # the harness checks the first token's time
    assert bench.records["g0"].end.timings.ttft_ms is not None


# ---- inject


@pytest.mark.parametrize("make", ALIVE)
def test_inject_in_every_state(make: Make) -> None:
    bench = make()
    record = bench.records["g0"]
    was = len(record.ids)
    text = " silver window"
    tokens = bench.backend.tokenize(text, add_special=False, parse_special=False)
    assert bench.inject("g0", text).result == {"at_token": was + len(tokens)}
    bench.resume("g0")
    bench.run()
    assert record.ids[was : was + len(tokens)] == tokens
    assert record.injected == set(range(was, was + len(tokens)))
    assert text in record.end.text
    if make is not in_prompt:
        check_as_undisturbed(record)


def test_injected_tokens_go_with_the_last_one_into_one_batch() -> None:
    bench = decoding()
    n_prompt = bench.records["g0"].n_prompt
    bench.inject("g0", " silver window")
    bench.step()
    batch = bench.backend.batches[-1]
    assert batch.positions == list(range(n_prompt + 2, n_prompt + 5))
    assert batch.wants_logits == [False, False, True]


def test_what_waits_tells_its_injected_tokens_after_its_start() -> None:
    bench = waiting()
    bench.inject("g0", " silver window")
    bench.inject("g0", " garden.")
    bench.rewind("g0", 1)
    bench.core.cancel("other")
    bench.step()
    record = bench.records["g0"]
    assert isinstance(record.started, GenerationStarted)
    assert record.text.startswith(" silver window garden")
    assert record.injected == {0, 1, 2}
    bench.run()


def test_events_of_what_waits_count_the_tokens_that_were_delivered() -> None:
    bench = waiting()
    assert bench.inject("g0", " silver window garden").result == {"at_token": 3}
    for command in (*hold(), Update(request_id="r", generation_id="g0", sampling={"top_k": 3})):
        done, event = bench.core.control(command)
        assert isinstance(done, ControlDone)
        assert isinstance(event, GenerationPaused | GenerationResumed | GenerationUpdated)
        assert done.result["at_token"] == event.at_token == 0
    bench.records["g0"].sampling = SamplingParams(top_k=3, seed=1)
    assert bench.rewind("g0", 1).result == {"at_token": 2, "removed": 1}
    bench.run()
    assert bench.records["g0"].end.text.startswith(" silver window")
    check_as_undisturbed(bench.records["g0"])


@pytest.mark.parametrize("end", ("cancel", "stop string", "max_tokens"))
def test_of_what_ends_before_its_start_only_the_end_is_told(end: str) -> None:
    bench = Bench("fake:tokens=20", n_slots=1)
    bench.add("the glass", name="other")
    bench.add(
        "the river and the stone",
        name="g0",
        stop=(" garden",) if end == "stop string" else (),
        max_tokens=2 if end == "max_tokens" else None,
    )
    bench.step()
    text = " silver window" + (" garden" if end == "stop string" else "")
    events = bench.core.control(Inject(request_id="r", generation_id="g0", text=text))[1:]
    if end == "cancel":
        bench.core.cancel("g0")
        events += [event for event in bench.core.step() if getattr(event, "generation_id", "") == "g0"]
    (finished,) = events
    assert isinstance(finished, GenerationFinished)
    assert finished.text == " silver window"
    assert finished.usage.completion_tokens == (3 if end == "stop string" else 2)
    assert finished.timings == Timings()


def test_a_branch_that_ends_before_its_start_tells_only_its_end() -> None:
    bench = decoding(3, n_slots=1)
    (token,) = bench.backend.tokenize(" silver", add_special=False, parse_special=False)
    bench.fork("g0", 2, token, branch="b")
    bench.core.cancel("b")
    bench.step()
    assert bench.records["b"].end.text.endswith(" silver")
    assert bench.records["b"].end.usage.completion_tokens == 3
    bench.run()


@pytest.mark.parametrize("make", (waiting, decoding))
def test_injected_tokens_have_no_part_in_timings(make: Make) -> None:
    bench = make()
    record = bench.records["g0"]
    bench.inject("g0", " silver window garden")
    bench.rewind("g0", 1)
    bench.inject("g0", " the" * 5)
    bench.run()
    sampled = [token["t"] for token in record.tokens if not token.get("injected")]
    assert len(sampled) == len(record.tokens) - 7
    timings = record.end.timings
    assert timings.ttft_ms == pytest.approx((sampled[0] - record.command.received_t) * 1000)
    assert timings.decode_ms == pytest.approx((sampled[-1] - sampled[0]) * 1000)
    assert timings.tokens_per_second == pytest.approx((len(sampled) - 1) / (sampled[-1] - sampled[0]))
    gaps = [after - before for before, after in pairwise(sampled)]
    assert timings.itl_p50_ms == pytest.approx(statistics.median(gaps) * 1000)


def test_an_answer_of_injected_tokens_alone_has_no_rate() -> None:
    bench = Bench("fake:tokens=20", n_batch=1)
    bench.add("the river and the stone", max_tokens=3)
    bench.step()
    bench.inject("g0", " silver window")
    bench.rewind("g0", 1)
    bench.step()
    bench.inject("g0", " garden and")
    timings = bench.records["g0"].end.timings
    assert (timings.ttft_ms, timings.decode_ms, timings.tokens_per_second) == (None, None, None)


def test_a_recovered_generation_counts_from_its_first_sampled_token() -> None:
    bench = decoding(3)
    dead = bench.records["g0"]
    going_on = resume(dead).model_copy(update={"injected": [0], "n_drawn": 2})
    other = Bench("fake:tokens=20")
    timings = other.records[other.go_on(dead, going_on)]
    other.run()
    first = going_on.times[1]
    assert timings.end.timings.ttft_ms == pytest.approx((first - dead.command.received_t) * 1000)


def test_special_tokens_are_not_recognized() -> None:
    bench = decoding()
    bench.inject("g0", "<|im_end|>")
    assert fake.IM_END not in bench.records["g0"].ids
    assert bench.records["g0"].text.endswith("<|im_end|>")


def test_inject_nothing() -> None:
    bench = decoding()
    assert bench.inject("g0", "").result == {"at_token": 3}
    bench.run()


def test_inject_only_what_fits() -> None:
    bench = Bench("fake:tokens=20", n_ctx=16)
    bench.add("the a of", max_tokens=6)  # four prompt tokens
    bench.step()
    refused(bench.inject("g0", " the" * 6), "context_overflow")
    bench.inject("g0", " the" * 4)
    bench.run()
    assert bench.records["g0"].end.finish_reason == "length"
    bench.add("the a of", name="g1")
    bench.step()
    refused(bench.inject("g1", " the" * 12), "context_overflow")
    bench.inject("g1", " the" * 11)
    bench.run()
    assert bench.records["g1"].end.finish_reason == "context_full"


def test_an_injected_stop_string_ends_the_answer() -> None:
    bench = Bench("fake:tokens=20")
    bench.add(stop=(" window",))
    bench.step()
    assert bench.inject("g0", " silver window garden").result == {"at_token": 3}
    record = bench.records["g0"]
    assert record.end.finish_reason == "stop"
    assert record.end.text.endswith(" silver")
    bench.run()


def test_a_grammar_has_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = decoding()
    (forbidden,) = bench.backend.tokenize("#", add_special=False, parse_special=False)
    monkeypatch.setattr(fake.FakeSampler, "allows", lambda _, token: token != forbidden)
    for done in (bench.inject("g0", " silver #"), bench.fork("g0", 1, forbidden)):
        refused(done, "bad_state")
        assert done.error is not None
        assert "'#'" in done.error.message
    assert len(bench.records["g0"].ids) == 3
    assert list(bench.records) == ["g0"]
    bench.inject("g0", " silver")
    bench.run()


# ---- fork


@pytest.mark.parametrize("make", ALIVE)
def test_fork_in_every_state(make: Make) -> None:
    bench = make()
    source = bench.records["g0"]
    assert bench.fork("g0", 0, branch="b").result == {"at_token": 0}
    bench.resume("g0")
    bench.run()
    branch = bench.records["b"]
    assert branch.started is not None
    assert branch.end.usage.completion_tokens == source.end.usage.completion_tokens == 20
    assert branch.ids != source.ids
    if make is not in_prompt:
        check_as_undisturbed(branch)
        check_as_undisturbed(source)


def test_a_branch_shares_the_prefix_and_the_batch() -> None:
    bench = Bench("fake:tokens=60", n_kv=4096)  # cells for all together
    bench.add("the river " * 20)
    for _ in range(12):
        bench.step()
    source = bench.records["g0"]
    used = bench.metrics[-1].kv_used
    bench.fork("g0", 10, branch="b")
    events = bench.step()
    branch = bench.records["b"]
    assert isinstance(events[0], GenerationStarted)
    assert branch.started is not None
    assert branch.started.cached_tokens == source.n_prompt
    assert bench.metrics[-1].batch_size == 2
    # of the branch only its last token was computed again
    assert bench.backend.batches[-1].positions == [source.n_prompt + 11, source.n_prompt + 9]
    assert bench.metrics[-1].kv_used == used + 2
    assert branch.tokens[0]["index"] == 10
    bench.run()
    assert branch.ids[:10] == source.ids[:10]
    assert branch.end.text.startswith(source.end.text[: len("".join(t["text"] for t in source.tokens[:10]))])


def test_a_branch_with_another_token() -> None:
    bench = decoding(5)
    (token,) = bench.backend.tokenize(" window", add_special=False, parse_special=False)
    bench.fork("g0", 2, token, branch="b")
    bench.step()
    branch = bench.records["b"]
    first = branch.tokens[0]
    assert (first["id"], first["index"], first.get("injected")) == (token, 2, True)
    bench.run()
    check_as_undisturbed(branch)


def test_the_forked_event_says_what_the_branch_begins_with() -> None:
    bench = Bench(script(f"{CALL} one two three"))
    bench.add(tools=True)
    while not bench.records["g0"].text.endswith("two"):
        bench.step()
    at = len(bench.records["g0"].ids)
    command = Fork(
        request_id="r",
        generation_id="g0",
        branch_id="b",
        client_id="someone",
        origin="window",
        received_t=1.0,
        at_token=at - 1,
    )
    _, event = bench.core.control(command)
    assert isinstance(event, GenerationForked)
    assert (event.text, event.at_token, event.branch_id) == ("one", at - 1, "b")
    assert [call.id for call in event.tool_calls] == ["call_b_0"]


@pytest.mark.parametrize(
    ("at_token", "token_id", "path"),
    ((4, None, "at_token"), (0, -1, "token_id"), (0, fake.N_VOCAB, "token_id"), (0, fake.EOS, "token_id")),
)
def test_wrong_forks(at_token: int, token_id: int | None, path: str) -> None:
    bench = decoding()
    refused(bench.fork("g0", at_token, token_id), "invalid_argument", path)
    bench.run()


def test_a_branch_waits_for_a_slot_and_can_be_cancelled_there() -> None:
    bench = decoding(5, n_slots=1)
    bench.fork("g0", 3, branch="b")
    bench.fork("g0", 3, branch="c")
    bench.core.cancel("b")
    bench.step()
    assert bench.records["b"].end.finish_reason == "cancelled"
    assert bench.records["b"].end.usage.completion_tokens == 3
    bench.run()
    assert bench.records["c"].end.usage.completion_tokens == 20


def test_a_branch_that_was_cancelled_before_it_was_made() -> None:
    bench = decoding()
    bench.core.cancel("b")
    bench.step()
    bench.fork("g0", 3, branch="b")
    assert bench.records["b"].end.finish_reason == "cancelled"
    bench.run()


def test_a_full_queue_takes_no_branch() -> None:
    bench = decoding(n_slots=1, queue_limit=1)
    bench.fork("g0", 1, branch="b")
    refused(bench.fork("g0", 1, branch="c"), "busy")
    bench.run()


def test_hands_on_a_branch_that_waits() -> None:
    bench = decoding(5, n_slots=1)
    bench.fork("g0", 4, branch="b")
    bench.rewind("b", 2)
    bench.inject("b", " silver window")
    bench.update("b", temperature=0.0)
    refused(bench.fork("b", 3), "invalid_argument", "at_token")  # of its four tokens two are told
    bench.fork("b", 2, branch="c")
    bench.run()
    for name in ("b", "c"):
        check_as_undisturbed(bench.records[name])
    assert bench.records["b"].ids[:2] == bench.records["g0"].ids[:2]
    assert " silver window" in bench.records["b"].end.text


# ---- going on where another worker ended


@pytest.mark.parametrize("model", ("fake:tokens=20", "fake:tokens=20,recurrent=1"))
@pytest.mark.parametrize("cut", (0, 1, 7, 19))
def test_recovered_generations_go_on_as_they_would_have(model: str, cut: int) -> None:
    whole = decoding(20, model)
    whole.run()
    first = decoding(0, model)
    while len(first.records["g0"].ids) < cut:
        first.step()
    dead = first.records["g0"]
    second = Bench(model)
    name = second.go_on(dead, resume(dead))
    second.run()
    record = second.records[name]
    assert record.started is None
    assert record.recovered is not None
    assert record.recovered.at_token == cut
    assert record.ids == whole.records["g0"].ids
    assert record.end.text == whole.records["g0"].end.text


def resume(record: Record, *, paused: bool = False) -> Resume:
    started = record.started
    return Resume(
        kind="recovered",
        prompt_tokens=record.prompt,
        tokens=record.ids,
        injected=sorted(record.injected),
        times=[token["t"] for token in record.tokens],
        n_drawn=record.n_drawn,
        seed=1,
        cached_tokens=3,
        started_t=started.t if started else None,
        computed_t=started.t + 1 if started else None,
        paused=paused,
    )


def test_a_recovered_generation_keeps_its_times_and_its_count_of_cached_tokens() -> None:
    dead = decoding(4).records["g0"]
    assert dead.started is not None
    bench = Bench("fake:tokens=20")
    bench.clock.now += 100
    name = bench.go_on(dead, resume(dead))
    bench.run()
    end = bench.records[name].end
    times = [token["t"] for token in dead.tokens]
    assert end.usage.cached_tokens == 3
    assert end.timings.queue_ms == pytest.approx((dead.started.t - dead.command.received_t) * 1000)
    assert end.timings.ttft_ms == pytest.approx((times[0] - dead.command.received_t) * 1000)
    assert end.timings.prefill_ms == pytest.approx(1000)
    assert end.timings.decode_ms is not None
    assert end.timings.decode_ms > 100_000


def test_a_pause_outlives_the_worker() -> None:
    dead = decoding(4).records["g0"]
    bench = Bench("fake:tokens=20")
    name = bench.go_on(dead, resume(dead, paused=True))
    bench.run()
    record = bench.records[name]
    assert record.recovered is not None
    assert (len(record.ids), record.finished) == (4, None)
    bench.step_tokens(name)
    bench.run()
    assert len(record.ids) == 5
    bench.resume(name)
    bench.run()
    assert record.end.usage.completion_tokens == 20


def test_a_recovered_generation_that_was_at_its_end_ends() -> None:
    dead = decoding(4).records["g0"]
    bench = Bench("fake:tokens=20")
    dead.command = dead.command.model_copy(update={"max_tokens": 4})
    name = bench.go_on(dead, resume(dead))
    bench.run()
    assert bench.records[name].end.finish_reason == "length"
    assert bench.records[name].recovered is None


def test_recovered_withheld_text_is_not_lost() -> None:
    model = script("one STOne", "bytes=1")
    first = Bench(model)
    first.add(stop=("STOP",))
    while len(first.records["g0"].ids) < 7:
        first.step()
    dead = first.records["g0"]
    assert dead.text == "one "
    second = Bench(model)
    name = second.go_on(dead, resume(dead))
    assert second.records[name].text == "one "
    second.run()
    assert second.records[name].end.text == "one STOne"


def test_a_recovered_generation_tells_what_was_injected_while_it_waited() -> None:
    dead = decoding(4).records["g0"]
    bench = Bench("fake:tokens=20", n_slots=1)
    bench.add("the glass", name="other")
    bench.step()
    name = bench.go_on(dead, resume(dead))
    bench.inject(name, " silver window")
    bench.core.cancel("other")
    bench.step()
    record = bench.records[name]
    assert record.recovered is not None
    assert record.recovered.at_token == 4
    assert record.injected == {4, 5}
    bench.run()
    check_as_undisturbed(record)
