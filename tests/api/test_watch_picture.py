"""The picture of `watch`, without a terminal: its cells, its figures, any size with the worst of texts."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.watch.cells import Flow, clip, columns, harmless
from api.watch.gauges import figure
from api.watch.live import Live
from api.watch.model import Model
from api.watch.pace import Pace, Rate
from api.watch.picture import picture
from api.watch.terminal import ENTER, LEAVE, rendered
from tests.api.harness import eventually
from tests.api.vt import Screen

Frame = dict[str, Any]

NASTY = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x00\u202egnirts\u2066\u200f漢字🦙👩\u200d🚀e\u0334\u0322\u031b\u0317\u033f"
    "a\u0301\u0301\u0301\u0301\u0301\ufeff\ud800\u2028end\x7f"
)
TEXT = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="ab 漢🦙\n\t\x1b[;mé\u0301", max_size=300),
    st.sampled_from([NASTY, NASTY * 20, "word " * 400, "x" * 3000, "漢" * 900, "\n" * 90]),
)


# ---- cells


@given(TEXT)
def test_harmless_text_steers_nothing(text: str) -> None:
    shown = harmless(text)
    for char in shown.replace("\n", ""):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"), repr(char)
    screen = Screen(120, 50)
    screen.feed(shown.replace("\n", " ")[:2000])  # raises at whatever it shouldn't see
    assert harmless(shown) == shown


def test_what_was_there_can_still_be_told() -> None:
    assert harmless("a\x1b[31mb\x07\r\n\tc\x9b\x7f\u202e!") == "a␛[31mb␇\n    c\ufffd␡!"
    assert harmless("Größe 漢字 🦙") == "Größe 漢字 🦙"
    assert columns(harmless("漢字🦙e\u0301")) == 7
    assert harmless("e" + "\u0301" * 50) == "e" + "\u0301" * 3


@given(TEXT, st.integers(-1, 60))
def test_clipped_text_fits(text: str, width: int) -> None:
    line = harmless(text).replace("\n", " ")
    cut = clip(line, width)
    assert columns(cut) <= max(0, width)
    assert cut == line or width < 1 or (cut.endswith("…") and line.startswith(cut[:-1]))


@given(
    st.lists(st.tuples(TEXT, st.sampled_from(["text", "reasoning", "tool"])), max_size=6), st.integers(1, 90)
)
def test_a_text_in_pieces_is_wrapped_as_a_whole(pieces: list[tuple[str, str]], width: int) -> None:
    """The lines fit, hold all that was written, and are the same when wrapped anew for this width."""
    flow = Flow(width)
    for text, kind in pieces:
        flow.feed(text, kind)
    lines = flow.tail(10_000, width)
    assert all(columns(line) <= max(width, 2) for line, _ in lines)
    again = Flow(width + 7)
    for text, kind in pieces:
        again.feed(text, kind)
    assert again.tail(10_000, width) == lines
    if sum(len(text) for text, _ in pieces) < 3000 and len(lines) < 300:
        written = "".join(harmless(text) for text, _ in pieces)
        assert re.sub(r"\s", "", "".join(line for line, _ in lines)) == re.sub(r"\s", "", written)


def test_words_stay_whole_and_chinese_breaks_anywhere() -> None:
    flow = Flow(12)
    flow.feed("the quick brown fox ")
    flow.feed("jum")
    flow.feed("ps over")
    assert [line for line, _ in flow.tail(9, 12)] == ["the quick", "brown fox", "jumps over"]
    flow.replace(("漢字漢字漢字漢字", "text"))
    assert [line for line, _ in flow.tail(9, 12)] == ["漢字漢字漢字", "漢字"]
    flow.replace(("thinking", "reasoning"), ("saying", "text"))
    assert flow.tail(9, 12) == [("thinking", "reasoning"), ("saying", "text")]
    assert flow.tail(1, 12) == [("saying", "text")]
    assert flow.tail(0, 12) == []


def test_a_long_text_takes_no_more_memory() -> None:
    flow = Flow(40)
    for _ in range(3000):
        flow.feed("some words " * 10)
    assert sum(len(text) for text, _ in flow._pieces) < 50_000
    assert len(flow.tail(10_000, 40)) <= 401
    assert flow.tail(5, 30)[-1][0]


# ---- figures


def test_speed_and_latency() -> None:
    rate, pace = Rate(), Pace()
    for n in range(100):
        t = 1000 + n * 0.01
        pace.add(t, rate.add(t))
    assert rate.value(1001) == pytest.approx(100)
    assert rate.value(1004) is None
    assert pace.quantiles(1001) == pytest.approx((0.01, 0.01))
    assert pace.rates(1001, 4) == [0, 0, 100, 100]
    assert pace.gaps(1001, 3) == [None, pytest.approx(0.01), pytest.approx(0.01)]
    assert pace.rates(2000, 3) == [0, 0, 0]
    assert pace.quantiles(2000) is None
    rate.break_off()
    assert rate.add(1005) is None, "after a pause the distance says nothing"


def test_old_ticks_are_forgotten() -> None:
    pace = Pace()
    for n in range(5000):
        pace.add(float(n), 0.1)
    assert len(pace._counts) <= 481
    assert len(pace._worst) <= 481


def test_figures() -> None:
    assert [figure(n) for n in (None, 0.613, 12.34, 123.4, 2961.2)] == ["–", "0.61", "12.3", "123", "2,961"]


# ---- the model


def snapshot(seq: int = 0, **more: Any) -> Frame:
    return {
        "seq": seq,
        "engine": {"state": "ready", "epoch": 1, "pid": 1, "error": None},
        "model": {"name": "Starter", "architecture": "llama", "n_slots": 4, "n_ctx": 1024, "load_ms": 5.0},
        "loading": None,
        "generations": [],
        "clients": [{"client_id": "c1", "name": "window", "origin": "window"}],
        "metrics": {"step": None, "system": None},
    } | more


class Feed:
    """Frames with rising numbers."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seq = itertools.count(1)
        model.begin({"app": {}}, snapshot())

    def __call__(self, kind: str, **fields: Any) -> None:
        self.model.take({"type": kind, "seq": next(self.seq), "t": time.monotonic(), **fields})

    def queued(self, name: str, text: str = "hi", client: str = "me") -> None:
        fields = {"client_id": "c1", "client_name": client, "origin": "live", "model": "starter"}
        self("generation.queued", generation_id=name, input=text, **fields)

    def delta(self, name: str, *texts: str, at: int = 0, kind: str = "generation.delta") -> None:
        t = time.monotonic()
        tokens = [{"id": 1, "index": at + n, "text": text, "t": t} for n, text in enumerate(texts)]
        self(kind, generation_id=name, text="".join(texts), tokens=tokens)

    def finished(self, name: str, text: str, reason: str = "stop", **more: Any) -> None:
        usage = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 2}
        timings = {"tokens_per_second": 50.0, "ttft_ms": 5.5}
        fields = {"reasoning": "", "tool_calls": [], "usage": usage, "timings": timings, "error": None} | more
        self("generation.finished", generation_id=name, finish_reason=reason, text=text, **fields)


def shown(model: Model, width: int = 100, height: int = 30) -> str:
    """The screen, after all checks that hold for every picture."""
    screen = Screen(width + 1, height)
    screen.feed("\x1b[?7l")
    lines = picture(model, width, height, time.monotonic())
    assert len(lines) == height
    for row, line in enumerate(lines, 1):
        text = rendered(line, width)
        assert columns(re.sub(r"\x1b\[[\d;]*m", "", text)) <= width
        screen.feed(f"\x1b[{row};1H{text}\x1b[K")
    return screen.text


def test_a_generation_from_start_to_end() -> None:
    model = Model()
    feed = Feed(model)
    assert "Nothing is being written" in shown(model)
    feed.queued("gen_1", "who is\nthere?")
    assert "waits for a slot" in shown(model)
    feed("generation.started", generation_id="gen_1", cached_tokens=3, prompt_tokens=9)
    assert "reads the prompt, 3 of 9" in shown(model)
    feed.delta("gen_1", "Hello", " there")
    text = shown(model)
    assert "› who is there?" in text
    assert "Hello there▌" in text
    assert "2 tok" in text
    assert "generating" in text
    feed("generation.paused", generation_id="gen_1", at_token=2)
    assert "paused" in shown(model)
    feed(
        "generation.rewound",
        generation_id="gen_1",
        at_token=1,
        removed=1,
        text="Hello",
        reasoning="",
        tool_calls=[],
    )
    feed.delta("gen_1", " you", at=1)
    assert "Hello you▌" in shown(model)
    feed.finished("gen_1", "Hello you", "length")
    text = shown(model)
    assert "Hello you" in text
    assert "▌" not in text
    assert "first 5.50 ms · token limit" in text
    feed.queued("gen_2")
    text = shown(model)
    assert "■" in text, "what has ended is in the list below"
    assert (model.count, model.tokens) == (1, 3)


def test_a_snapshot_and_the_events_it_has_already() -> None:
    """What lies between the subscription and the snapshot comes in both."""
    model = Model()
    entry = {
        "generation_id": "gen_1", "client_name": "me", "origin": "live", "input": "hi", "state": "running",
        "started_t": 1.0, "prompt_done": 5, "prompt_total": 5, "text": "ab", "reasoning": "",
        "tool_calls": [], "completion_tokens": 2,
    }  # fmt: skip
    model.begin({}, snapshot(10, generations=[entry]))
    token = {"id": 1, "t": 1.0}
    tokens = [token | {"index": 1, "text": "b"}, token | {"index": 2, "text": "c"}]
    delta = {"type": "generation.delta", "generation_id": "gen_1", "t": 1.0}
    model.take(delta | {"seq": 9, "text": "b", "tokens": tokens[:1]})
    assert "ab▌" in shown(model)
    model.take(delta | {"seq": 11, "first_seq": 9, "text": "bc", "tokens": tokens})
    assert "abc▌" in shown(model)
    assert model.running["gen_1"].tokens == 3


def test_between_short_answers_the_speed_is_the_last_half_seconds() -> None:
    model = Model()
    feed = Feed(model)
    feed.queued("gen_1")
    tokens = [{"id": 1, "index": n, "text": text, "t": 1000.0} for n, text in enumerate("abc")]
    feed("generation.delta", generation_id="gen_1", text="abc", tokens=tokens)
    feed.finished("gen_1", "abc")
    rates = [model.rate(1000 + n * 0.1) for n in range(12)]
    assert max(rate or 0 for rate in rates) == 6.0
    assert rates[-1] is None
    assert model.best == 6.0


def test_the_app_goes_and_comes() -> None:
    model = Model()
    feed = Feed(model)
    feed.queued("gen_1")
    feed.delta("gen_1", "never ended")
    model.take({"type": "connection.lost", "reason": "the app has quit"})
    assert "waiting for the app…" in shown(model)
    model.take({"type": "connection.restored", "hello": {"app": {"name": "tokenglass"}}})
    model.take({"type": "reset", "seq": 1, "reason": "run"})
    model.take({"type": "snapshot", **snapshot(1)})
    text = shown(model)
    assert "never ended" in text
    assert "its end was missed" in text
    assert "waiting" not in text
    feed.seq = itertools.count(2)
    feed.queued("gen_2")
    feed.delta("gen_2", "Back again")
    assert "Back again" in shown(model)


def test_the_engine_dies_and_a_branch_grows() -> None:
    model = Model()
    feed = Feed(model)
    feed("engine.exited", epoch=1, expected=False, exit_code=None, signal="SIGSEGV", will_restart=True)
    assert "engine died: SIGSEGV" in shown(model)
    assert "restarting" in shown(model)
    feed("model.loading", model="starter", progress=0.4)
    assert "loading 40 %" in shown(model)
    feed("model.loaded", model="starter", info=snapshot()["model"])
    assert "ready" in shown(model)
    feed.queued("gen_1")
    feed.delta("gen_1", "one", " two")
    feed.queued("gen_2")
    feed(
        "generation.forked",
        generation_id="gen_1",
        branch_id="gen_2",
        at_token=1,
        text="one",
        reasoning="",
        tool_calls=[],
    )
    feed.delta("gen_2", " three", at=1)
    assert {"one two▌", "one three▌"} <= {line.strip() for line in shown(model).splitlines()}


def test_kinds_of_text_and_calls() -> None:
    model = Model()
    feed = Feed(model)
    feed.queued("gen_1")
    feed.delta("gen_1", "let me think", kind="generation.reasoning_delta")
    feed.delta("gen_1", "so:", at=1)
    feed.delta("gen_1", '{"name"', at=2, kind="generation.tool_call.delta")
    (flow,) = [generation.flow for generation in model.running.values()]
    assert flow.tail(9, 80) == [("let me think", "reasoning"), ("so:", "text"), ('{"name"', "tool")]
    call = {"id": "1", "name": "clock", "arguments": "{}"}
    feed.finished("gen_1", "so:", "tool_calls", reasoning="let me think", tool_calls=[call])
    assert "clock({})" in shown(model)
    assert "calls tools" in shown(model)


def test_clients_and_how_they_read() -> None:
    model = Model()
    feed = Feed(model)
    feed("client.connected", client_id="c2", name="slow.py", origin="live")
    row = {"client_id": "c2", "bytes_per_s": 12_345.0, "events_per_s": 3.0, "backlog_bytes": 300_000,
           "behind": 5, "merged": 2, "cuts": 1}  # fmt: skip
    feed("metrics.clients", clients=[row])
    assert "● window  ▲ slow.py 12 KB/s · 300 KB behind · cut 1×" in shown(model)
    feed("metrics.clients", clients=[])
    assert "● slow.py" in shown(model)
    for n in range(40):
        feed("client.connected", client_id=f"d{n}", name=f"script number {n}", origin="live")
    assert re.search(r"\+\d\d more$", shown(model), re.MULTILINE)
    feed("client.disconnected", client_id="c2", name="slow.py", reason="slow")
    assert "- slow.py (slow)" in shown(model)


def test_own_series_have_their_line() -> None:
    model = Model()
    feed = Feed(model)
    for n in range(200):
        feed("metrics.custom", client_id="c", series=f"s{n}", value=float(n), unit="°C")
    assert len(model.series) == 50
    assert "s199" in shown(model)
    assert "199 °C" in shown(model)


# ---- any size, any text


@given(
    st.integers(1, 150),
    st.integers(1, 60),
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=12),
    st.integers(0, 12),
)
def test_every_picture_fits(width: int, height: int, talks: list[tuple[str, str, str]], ended: int) -> None:
    """Whatever clients, prompts and answers hold: so many lines, so wide, and no sequence but our own."""
    model = Model()
    feed = Feed(model)
    system = {
        "cpu_percent": 40.0, "app_cpu_percent": 3.0, "worker_cpu_percent": 90.0, "ram_used": 3e9,
        "ram_total": 16e9, "app_rss": 1e8, "worker_rss": 1e8,
        "gpus": [{"name": NASTY, "load_percent": 5.0, "memory_used": None, "memory_total": None,
                  "temperature_c": 61.0, "power_w": None}],
    }  # fmt: skip
    feed("metrics.system", **system)
    feed("metrics.step", kv_used=100, kv_total=4096, batch_size=2, waiting=0)
    feed("metrics.custom", client_id="c", series=NASTY, value=-1e300, unit=NASTY)
    for n, (client, question, answer) in enumerate(talks):
        feed("client.connected", client_id=f"c{n}", name=client, origin="live")
        feed.queued(f"gen_{n}", question, client)
        feed.delta(f"gen_{n}", answer, kind=["generation.delta", "generation.reasoning_delta"][n % 2])
    for n in range(min(ended, len(talks))):
        error = {"code": "internal", "message": NASTY}
        feed.finished(f"gen_{n}", talks[n][2], ["stop", "error", "cancelled"][n % 3], error=error)
    feed("log", level="error", message=NASTY * 3)
    shown(model, width, height)


class Breaking:
    """A client whose frames can't be understood from the second on."""

    hello: Frame = {}  # noqa: RUF012 - stands for LiveClient's

    def __init__(self, out: io.StringIO) -> None:
        self._out = out
        self._batches: list[list[Frame]] = [
            [{"type": "log", "seq": 1, "level": "info", "message": "seen"}],
            [{"seq": 2}],
        ]

    async def request(self, command: str) -> Frame:
        return snapshot()

    async def batch(self, *, connection: bool) -> list[Frame]:
        await eventually(lambda: len(self._batches) == 2 or "seen" in self._out.getvalue())
        return self._batches.pop(0)


def test_a_mistake_of_ours_is_told_and_the_terminal_left() -> None:
    """Not a picture that stands still."""
    out = io.StringIO()
    with pytest.raises(KeyError):
        asyncio.run(Live(Breaking(out)).run(out))  # type: ignore[arg-type]
    text = out.getvalue()
    assert text.startswith(ENTER)
    assert text.endswith(LEAVE)
    assert "seen" in text
