import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.bus import MAX_EXAMINED, MAX_MERGED_TOKENS, Envelope, EventBus, Subscription, merge
from engine.events import (
    BaseEvent,
    CustomMetric,
    Event,
    GenerationDelta,
    GenerationEvent,
    LogLine,
    PromptProgress,
    ReasoningDelta,
    StepMetrics,
    SystemMetrics,
    TokenEvent,
    ToolCallDelta,
)
from engine.types import Token


def token(index: int) -> Token:
    return {"id": index % 50, "index": index, "text": f"<{index}>", "t": index / 10}


def delta(generation: str, *indices: int) -> GenerationDelta:
    tokens = [token(index) for index in indices]
    return GenerationDelta(generation_id=generation, text="".join(t["text"] for t in tokens), tokens=tokens)


def reasoning(generation: str, index: int) -> ReasoningDelta:
    return ReasoningDelta(generation_id=generation, text=f"<{index}>", tokens=[token(index)])


def tool_call(generation: str, call: str, index: int) -> ToolCallDelta:
    return ToolCallDelta(generation_id=generation, call_id=call, text=f"<{index}>", tokens=[token(index)])


def step(batch: int = 1) -> StepMetrics:
    return StepMetrics(
        batch_size=batch, prefill_tokens=0, decode_tokens=1, pre_ms=0, decode_ms=1, sample_ms=0, emit_ms=0,
        kv_used=1, kv_total=9, waiting=0,
    )  # fmt: skip


def system() -> SystemMetrics:
    return SystemMetrics(
        cpu_percent=1, app_cpu_percent=1, worker_cpu_percent=1, ram_used=1, ram_total=2, app_rss=1,
        worker_rss=1, gpus=[],
    )  # fmt: skip


def log(message: str = "x") -> LogLine:
    return LogLine(level="info", message=message)


def subscribe(
    bus: EventBus, *patterns: str, own: Iterable[str] = (), since: int | None = None
) -> Subscription:
    subscription = bus.subscribe(set(own), lambda: None)
    subscription.select(patterns, since=since)
    return subscription


def shape(envelopes: list[Envelope]) -> list[tuple[int, int, str]]:
    return [(envelope.first_seq, envelope.seq, envelope.event.type) for envelope in envelopes]


def test_numbers_rise_by_one_from_one() -> None:
    bus = EventBus()
    assert [bus.publish(log()) for _ in range(3)] == [1, 2, 3]
    assert bus.seq == 3


def test_a_frame_is_the_event_with_its_number() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish(GenerationDelta(generation_id="g", text="a", tokens=[token(0)], t=1.5))
    (envelope,) = reader.drain()
    assert json.loads(envelope.encode()) == {
        "seq": 1,
        "type": "generation.delta",
        "t": 1.5,
        "generation_id": "g",
        "text": "a",
        "tokens": [{"id": 0, "index": 0, "text": "<0>", "t": 0.0}],
    }
    assert envelope.encode() is envelope.encode()


def test_a_merged_frame_says_where_it_begins() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([delta("g", 0), delta("g", 1), delta("g", 2, 3)])
    (envelope,) = reader.drain()
    frame = json.loads(envelope.encode())
    assert (frame["first_seq"], frame["seq"], frame["text"]) == (1, 3, "<0><1><2><3>")
    assert [t["index"] for t in frame["tokens"]] == [0, 1, 2, 3]


def test_merged_pieces_of_a_call_have_all_its_arguments() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    for name, arguments in ((None, ""), ("clock", "{"), ("clock", "}"), ("clock", "")):
        event = ToolCallDelta(
            generation_id="g", call_id="t", text="x", tokens=[], name=name, arguments=arguments
        )
        bus.publish(event)
    (envelope,) = reader.drain()
    frame = json.loads(envelope.encode())
    assert (frame["name"], frame["arguments"], frame["text"]) == ("clock", "{}", "xxxx")


def test_what_stands_between_keeps_deltas_apart() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([delta("g", 0), delta("h", 0), delta("g", 1), reasoning("g", 2), log(), delta("g", 3)])
    assert [first for first, _, _ in shape(reader.drain())] == [1, 2, 3, 4, 5, 6]


def test_an_event_that_nobody_wants_does_not_keep_deltas_apart() -> None:
    bus = EventBus()
    reader = subscribe(bus, "generation.*")
    bus.publish_all([delta("g", 0), log(), delta("g", 1)])
    assert shape(reader.drain()) == [(1, 3, "generation.delta")]


def test_calls_are_merged_each_for_itself() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([tool_call("g", "a", 0), tool_call("g", "a", 1), tool_call("g", "b", 2)])
    assert [(first, seq) for first, seq, _ in shape(reader.drain())] == [(1, 2), (3, 3)]


def test_a_metric_is_replaced_by_a_later_one_of_its_name() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([step(1), delta("g", 0), system(), step(2), delta("g", 1), step(3), log()])
    assert shape(reader.drain()) == [
        (2, 2, "generation.delta"),
        (3, 3, "metrics.system"),
        (5, 5, "generation.delta"),
        (6, 6, "metrics.step"),
        (7, 7, "log"),
    ]


def test_deltas_around_a_replaced_metric_become_neighbours() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([system(), delta("g", 0), step(1), delta("g", 1), step(2), system()])
    assert shape(reader.drain()) == [
        (2, 4, "generation.delta"),
        (5, 5, "metrics.step"),
        (6, 6, "metrics.system"),
    ]


def test_replacing_goes_on_rightly_after_a_merge() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([delta("g", 0), step(1), delta("g", 1), system(), step(2), system()])
    assert shape(reader.drain()) == [
        (1, 3, "generation.delta"),
        (5, 5, "metrics.step"),
        (6, 6, "metrics.system"),
    ]


def test_only_live_events_are_backlog() -> None:
    bus = EventBus()
    reader = bus.subscribe(set(), lambda: None)
    bus.publish_all([log() for _ in range(10)])
    reader.select(["*"], since=0)
    assert reader.backlog_bytes == 0
    bus.publish(log("x" * 1000))
    live = reader.backlog_bytes
    assert live > 1000
    assert len(reader.drain(max_bytes=1)) == 1
    assert reader.backlog_bytes == live
    while reader.pending:
        reader.drain()
    assert reader.backlog_bytes == 0
    bus.publish(log())
    assert 0 < reader.backlog_bytes < 1000


def test_a_series_of_a_client_is_never_thinned_out() -> None:
    bus = EventBus()
    reader = subscribe(bus, "metrics.*")
    bus.publish_all([CustomMetric(client_id="c", series="loss", value=value) for value in (1.0, 2.0)])
    assert len(reader.drain()) == 2


def test_a_delta_grows_to_a_limit() -> None:
    many = Envelope(1, delta("g", *range(MAX_MERGED_TOKENS)), 1)
    assert merge(many, Envelope(2, delta("g", MAX_MERGED_TOKENS), 2)) is None


def test_patterns() -> None:
    bus = EventBus()
    readers = {p: subscribe(bus, p) for p in ("*", "metrics.*", "*.delta", "generation.delta", "nothing")}
    bus.publish_all([step(), delta("g", 0), tool_call("g", "c", 1), log()])
    seen = {p: [e.event.type for e in reader.drain()] for p, reader in readers.items()}
    assert seen == {
        "*": ["metrics.step", "generation.delta", "generation.tool_call.delta", "log"],
        "metrics.*": ["metrics.step"],
        "*.delta": ["generation.delta", "generation.tool_call.delta"],
        "generation.delta": ["generation.delta"],
        "nothing": [],
    }


def test_generation_filters_touch_only_generations() -> None:
    bus = EventBus()
    own, some = bus.subscribe({"mine"}, lambda: None), bus.subscribe({"mine"}, lambda: None)
    own.select(["*"], "own")
    some.select(["*"], frozenset({"h"}))
    bus.publish_all([delta("mine", 0), delta("g", 0), delta("h", 0), log()])
    assert [e.seq for e in own.drain()] == [1, 4]
    assert [e.seq for e in some.drain()] == [1, 3, 4]


def test_own_generations_come_without_asking() -> None:
    bus = EventBus()
    own = {"mine"}
    reader = bus.subscribe(own, lambda: None)
    bus.publish_all([delta("mine", 0), delta("g", 0), log()])
    own.add("later")
    bus.publish(delta("later", 0))
    assert [e.seq for e in reader.drain()] == [1, 4]


def test_a_new_choice_replaces_the_old_one() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish(log())
    assert [e.seq for e in reader.drain()] == [1]
    reader.select(["metrics.*"])
    bus.publish_all([log(), step()])
    assert [e.seq for e in reader.drain()] == [3]


def test_replay_then_live() -> None:
    bus = EventBus()
    bus.publish_all([log(str(n)) for n in range(10)])
    ready: list[int] = []
    reader = bus.subscribe(set(), lambda: ready.append(bus.seq))
    reader.select(["*"], since=4)
    assert ready == [10]
    assert reader.backlog_bytes == 0
    bus.publish(log("live"))
    assert reader.backlog_bytes > 0
    assert [e.seq for e in reader.drain()] == [5, 6, 7, 8, 9, 10, 11]
    assert reader.backlog_bytes == 0


def test_nothing_is_handed_out_twice() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([log(), log()])
    reader.drain()
    reader.select(["*"], since=0)
    assert reader.drain() == []


def test_a_drain_may_stop_at_a_number() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([log(), log(), log()])
    assert [e.seq for e in reader.drain(until=2)] == [1, 2]
    assert reader.read_up_to == 2
    assert reader.pending
    assert [e.seq for e in reader.drain()] == [3]


def test_the_reader_is_called_once_until_it_has_read_everything() -> None:
    bus = EventBus()
    calls: list[int] = []
    reader = bus.subscribe(set(), lambda: calls.append(bus.seq))
    reader.select(["*"])
    bus.publish_all([log(), log()])
    assert calls == [1]
    assert len(reader.drain(max_bytes=1)) == 1
    bus.publish(log())
    assert calls == [1]
    while reader.pending:
        reader.drain()
    bus.publish(log())
    assert calls == [1, 4]


def test_a_portion_is_bounded() -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.publish_all([log("x" * 200) for _ in range(100)])
    sizes = []
    while reader.pending:
        sizes.append(len(reader.drain(max_bytes=3000)))
    assert sum(sizes) == 100
    assert max(sizes) == 10


def test_a_long_replay_is_looked_through_in_parts() -> None:
    bus = EventBus()
    bus.publish_all([log() for _ in range(MAX_EXAMINED + 10)])
    bus.publish(step())
    reader = subscribe(bus, "metrics.*", since=0)
    assert reader.drain() == []
    assert (reader.read_up_to, reader.pending) == (MAX_EXAMINED, True)
    assert [e.seq for e in reader.drain()] == [MAX_EXAMINED + 11]
    assert not reader.pending


def test_an_overrun_reader_is_told() -> None:
    bus = EventBus(ring_size=4)
    reader, late = subscribe(bus, "*"), bus.subscribe(set(), lambda: None)
    told = []
    for _ in range(5):
        bus.publish(log())
        told.append(reader.overrun)
    assert told == [False, False, False, False, True]
    reader.skip_to_now()
    assert reader.drain() == []
    bus.publish(log())
    assert [e.seq for e in reader.drain()] == [6]
    late.select(["*"], since=1)
    assert late.overrun


def test_a_reader_that_waits_for_nothing_stays_in_the_ring() -> None:
    bus = EventBus(ring_size=4)
    reader = bus.subscribe({"mine"}, lambda: None)
    bus.publish_all([log() for _ in range(100)])
    assert not reader.overrun
    bus.publish(delta("mine", 0))
    assert [e.seq for e in reader.drain()] == [101]


def test_large_events_shorten_the_ring() -> None:
    bus = EventBus(ring_size=100, n_objects=4, max_bytes=10_000)
    bus.publish_all([log() for _ in range(50)])
    assert bus.oldest_seq == 1
    bus.publish_all([log("x" * 3000) for _ in range(3)])
    assert 1 < bus.oldest_seq < 51
    kept = list(bus.between(0, bus.seq))
    assert [envelope.seq for envelope in kept] == list(range(bus.oldest_seq, 54))
    bus.publish(log("x" * 50_000))  # the last one is kept however large
    assert bus.oldest_seq == bus.seq == 54
    bus.publish_all([log() for _ in range(10)])
    assert bus.oldest_seq == 55
    assert sum(kept is not None for kept in bus._ring) == 10
    bus.publish_all([log() for _ in range(200)])
    assert bus._bytes == sum(
        len(kept) if isinstance(kept, bytes) else kept.size for kept in bus._ring if kept
    )
    assert bus._bytes < 10_000


def test_readers_at_the_same_place_share_a_portion() -> None:
    bus = EventBus()
    first, second, other = subscribe(bus, "*"), subscribe(bus, "*"), subscribe(bus, "generation.*")
    late = subscribe(bus, "*", own=["g"])
    bus.publish_all([delta("g", 0), log(), delta("g", 1), delta("g", 2)])
    portion = first.take()
    assert (portion.n_events, len(portion.envelopes)) == (4, 3)
    assert second.take() is portion
    assert (second.read_up_to, second.last_seq, second.backlog_bytes) == (4, 4, 0)
    assert other.take() is not portion
    assert late.take() is portion  # it gets all of them, whose generation it ever is
    bus.publish(delta("g", 3))
    assert first.take() is second.take() is not portion


def test_a_portion_is_shared_only_with_those_who_get_the_same() -> None:
    bus = EventBus()
    plain, owner = bus.subscribe(set(), lambda: None), bus.subscribe({"g"}, lambda: None)
    plain.select(["log"])
    owner.select(["log"])
    bus.publish_all([delta("g", 0), log()])
    assert [e.seq for e in plain.drain()] == [2]
    assert [e.seq for e in owner.drain()] == [1, 2]
    small = subscribe(bus, "log")
    large = subscribe(bus, "log")
    bus.publish_all([log("x" * 500) for _ in range(10)])
    assert len(large.drain()) == 10
    assert len(small.drain(max_bytes=1000)) == 2


def test_a_reset_reader_is_called_again() -> None:
    bus = EventBus()
    calls: list[int] = []
    reader = bus.subscribe(set(), lambda: calls.append(bus.seq))
    reader.select(["*"])
    bus.publish(log())
    reader.skip_to_now()
    bus.publish(log())
    assert calls == [1, 2]


def test_a_closed_subscription_hears_nothing() -> None:
    bus = EventBus()
    calls: list[int] = []
    reader = bus.subscribe(set(), lambda: calls.append(1))
    reader.select(["*"])
    reader.close()
    reader.close()
    bus.publish(log())
    assert calls == []


def test_folds_see_events_before_readers_do() -> None:
    bus = EventBus()
    order: list[str] = []
    reader = bus.subscribe(set(), lambda: order.append("reader"))
    reader.select(["*"])
    bus.add_fold(lambda envelope: order.append(f"fold {envelope.seq}"))
    bus.publish(log())
    assert order == ["fold 1", "reader"]


def test_old_events_are_kept_as_text_and_come_back_the_same() -> None:
    bus = EventBus(ring_size=100, n_objects=3)
    published: list[Event] = [delta("g", n) if n % 2 else log(str(n)) for n in range(20)]
    bus.publish_all(published)
    assert sum(isinstance(kept, Envelope) for kept in bus._ring) == 3
    envelopes = list(bus.between(0, bus.seq))
    assert [envelope.event for envelope in envelopes] == published
    assert [envelope.seq for envelope in envelopes] == list(range(1, 21))
    assert json.loads(envelopes[1].encode())["tokens"] == [token(1)]


def test_text_that_is_no_unicode_harms_nobody() -> None:
    bus = EventBus(ring_size=100, n_objects=1)
    bus.publish_all([log("name \udcff"), log("fine")])
    frames = [json.loads(envelope.encode()) for envelope in bus.between(0, bus.seq)]
    assert [(frame["seq"], frame["message"]) for frame in frames] == [(1, "name ?"), (2, "fine")]


# ---- any publishing, any reading: nothing lost, nothing doubled, only allowed merges

GENERATIONS = ("g", "h")
event_kinds = st.sampled_from(
    ("delta", "delta", "delta", "two", "reasoning", "call a", "call b", "step", "step", "system", "custom",
     "log", "progress")
)  # fmt: skip
operations = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), event_kinds, st.sampled_from(GENERATIONS)),
        st.tuples(st.just("drain"), st.integers(1, 3000), st.booleans()),
        st.tuples(st.just("drain all"), st.integers(1, 3000), st.booleans()),
        st.tuples(st.just("reconnect"), st.booleans(), st.just(None)),
    ),
    max_size=80,
)
choices = st.tuples(
    st.sampled_from((("*",), ("generation.*",), ("metrics.*", "log"), ("generation.delta",), ())),
    st.sampled_from(("all", "own", frozenset({"h"}))),
    st.sampled_from((frozenset[str](), frozenset({"g"}), frozenset({"g", "h"}))),
)


class Writer:
    def __init__(self) -> None:
        self._next = dict.fromkeys(GENERATIONS, 0)

    def make(self, kind: str, generation: str) -> Event:
        simple: dict[str, Callable[[], Event]] = {
            "step": step,
            "system": system,
            "log": log,
            "custom": lambda: CustomMetric(client_id="c", series="s", value=1.0),
            "progress": lambda: PromptProgress(generation_id=generation, done=1, total=2),
        }
        if kind in simple:
            return simple[kind]()
        index = self._next[generation]
        self._next[generation] += 2 if kind == "two" else 1
        if kind == "reasoning":
            return reasoning(generation, index)
        if kind.startswith("call"):
            return tool_call(generation, kind[-1], index)
        return delta(generation, *range(index, self._next[generation]))


def wanted(event: BaseEvent, choice: Any) -> bool:
    patterns, generations, own = choice
    if isinstance(event, GenerationEvent):
        if event.generation_id in own:
            return True
        if generations == "own" or (generations != "all" and event.generation_id not in generations):
            return False
    return any(
        pattern in ("*", event.type) or (pattern.endswith(".*") and event.type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def latest_wins(event: BaseEvent) -> bool:
    return event.type in ("metrics.step", "metrics.system", "metrics.clients")


class Reader:
    """One client over several connections, which keeps the number of the last frame it saw."""

    def __init__(self, bus: EventBus, choice: Any, history: list[Event]) -> None:
        self.bus, self.choice, self.history = bus, choice, history
        self.seen: list[Envelope] = []
        self.from_seq = self.up_to = bus.seq
        self.ready = 0
        self.connect(None)

    def connect(self, since: int | None) -> None:
        self.subscription = self.bus.subscribe(set(self.choice[2]), self._on_ready)
        self.subscription.select(self.choice[0], self.choice[1], since)
        self.up_to = self.bus.seq if since is None else since

    def _on_ready(self) -> None:
        self.ready += 1

    def reconnect(self, with_since: bool) -> None:
        self.subscription.close()
        last = self.seen[-1].seq if self.seen else self.from_seq
        if with_since and last >= self.bus.oldest_seq - 1:
            self.connect(last)
        else:
            self.start_again()
            self.connect(None)

    def start_again(self) -> None:
        self.check_all()
        self.seen.clear()
        self.from_seq = self.up_to = self.bus.seq

    def drain(self, max_bytes: int, until_earlier: bool) -> None:
        if self.subscription.overrun:
            self.start_again()
            self.subscription.skip_to_now()
            return
        until = (self.up_to + self.bus.seq) // 2 if until_earlier else None
        portion = self.subscription.drain(max_bytes, until)
        self.check_portion(portion, self.seen[-1].seq if self.seen else self.from_seq)
        self.seen += portion
        self.up_to = self.subscription.read_up_to

    def check_portion(self, portion: list[Envelope], last: int) -> None:
        for place, envelope in enumerate(portion):
            assert last < envelope.first_seq <= envelope.seq
            last = envelope.seq
            assert wanted(envelope.event, self.choice)
            inside = [
                event
                for event in self.history[envelope.first_seq - 1 : envelope.seq]
                if wanted(event, self.choice)
            ]
            later = {other.event.type for other in portion[place + 1 :]}
            tokens = [event for event in inside if isinstance(event, TokenEvent)]
            if envelope.first_seq != envelope.seq:
                event = envelope.event
                assert isinstance(event, TokenEvent)
                assert {(e.type, e.generation_id, getattr(e, "call_id", None)) for e in tokens} == {
                    (event.type, event.generation_id, getattr(event, "call_id", None))
                }
                assert event.text == "".join(e.text for e in tokens)
                assert event.tokens == [t for e in tokens for t in e.tokens]
                assert event.t == tokens[-1].t
                assert all(latest_wins(e) and e.type in later for e in inside if e not in tokens)
            else:
                assert envelope.event == self.history[envelope.seq - 1]
                assert json.loads(envelope.encode())["seq"] == envelope.seq

    def check_all(self) -> None:
        """Everything between the start and the place that was read up to has come."""
        missed = [
            (seq, event)
            for seq, event in enumerate(self.history[self.from_seq : self.up_to], self.from_seq + 1)
            if wanted(event, self.choice)
            and not any(envelope.first_seq <= seq <= envelope.seq for envelope in self.seen)
        ]
        assert all(latest_wins(event) for _, event in missed)
        for seq, event in missed:
            later = [e.seq for e in self.seen if e.event.type == event.type]
            assert later
            assert max(later) > seq
        for generation in GENERATIONS:
            got = [
                (t["index"], t["text"])
                for e in self.seen
                if isinstance(e.event, TokenEvent) and e.event.generation_id == generation
                for t in e.event.tokens
            ]
            given_ = [
                (t["index"], t["text"])
                for event in self.history[self.from_seq : self.up_to]
                if isinstance(event, TokenEvent) and event.generation_id == generation
                if wanted(event, self.choice)
                for t in event.tokens
            ]
            assert got == given_


@settings(max_examples=400, deadline=None)
@given(
    ring=st.integers(1, 40),
    objects=st.integers(0, 40),
    choices=st.lists(choices, min_size=1, max_size=3),
    alike=st.integers(1, 3),
    max_bytes=st.sampled_from((1 << 20, 1 << 20, 3000, 1)),
    operations=operations,
)
def test_any_reader_gets_everything_once_and_in_order(
    ring: int,
    objects: int,
    choices: list[Any],
    alike: int,
    max_bytes: int,
    operations: list[tuple[str, Any, Any]],
) -> None:
    """Readers that want the same share portions where they stand at the same place."""
    bus = EventBus(ring, objects, max_bytes)
    history: list[Event] = []
    writer = Writer()
    readers = [Reader(bus, choice, history) for choice in choices * alike]
    for number, (what, first, second) in enumerate(operations):
        reader = readers[number % len(readers)]
        if what == "publish":
            event = writer.make(first, second)
            history.append(event)
            bus.publish(event)
        elif what == "drain":
            reader.drain(first, second)
        elif what == "drain all":
            for each in readers:
                each.drain(first, second)
        else:
            reader.reconnect(first)
    for reader in readers:
        while reader.subscription.pending:
            reader.drain(1000, False)
        reader.check_all()
        before = reader.ready
        event = delta("g", 10_000)
        history.append(event)
        bus.publish(event)
        assert reader.ready == before + wanted(event, reader.choice)
        reader.drain(1000, False)


@pytest.mark.parametrize("n", (1, 3))
def test_publishing_from_a_fold_keeps_the_order(n: int) -> None:
    bus = EventBus()
    reader = subscribe(bus, "*")
    bus.add_fold(lambda e: bus.publish_all([log() for _ in range(n)]) if e.event.type != "log" else None)
    bus.publish(delta("g", 0))
    assert [e.seq for e in reader.drain()] == list(range(1, n + 2))
