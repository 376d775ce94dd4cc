"""Floods and nonsense from one client: each command is answered, nobody else notices, memory is bounded."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import json
import logging
import multiprocessing
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
import pytest

from api import backpressure, outbox
from api.clients import COMMANDS_BURST
from api.core import Core
from tests.api.harness import ENDLESS, HI, TOKEN, Frame, Wire, app, client, eventually, flood, run
from tests.api.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, Raw, frame

T = TypeVar("T")
SOAK = "TOKENGLASS_SOAK" in os.environ
N_COMMANDS = 100_000 if SOAK else 10_000
N_PINGS = 100_000
N_MUTATIONS = 5_000 if SOAK else 400
HELD_UP_S = 0.25
"""CPU time without a turn for anybody else: at most. So a busy machine makes no difference, garbage does."""
COMMANDS_PER_S = 10.0
"""In place of 200: so that a slow machine, too, is asked for more than it allows."""


def figures(seconds: list[float]) -> str:
    p50, p99, most = (sorted(seconds)[int(share * (len(seconds) - 1))] * 1e3 for share in (0.5, 0.99, 1))
    return f"p50 {p50:.1f} p99 {p99:.1f} longest {most:.1f} ms"


class Bystander:
    """Somebody else: pings all the time, keeps how long replies took, and for how long it had no turn."""

    def __init__(self, wire: Wire) -> None:
        self.taken_s: list[float] = []
        self.held_up_s: list[float] = []
        self._wire = wire
        self._tasks = [asyncio.create_task(self._ping()), asyncio.create_task(self._look())]

    async def _ping(self) -> None:
        while True:
            began = time.monotonic()
            await self._wire.command("ping")
            self.taken_s.append(time.monotonic() - began)
            await asyncio.sleep(0.02)

    async def _look(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            self.held_up_s.append(time.thread_time() - began)

    async def __aenter__(self) -> Bystander:
        gc.collect()
        gc.freeze()  # what other tests have left isn't looked through in this one's time
        return self

    async def __aexit__(self, *_: object) -> None:
        gc.unfreeze()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        taken, held_up = figures(self.taken_s), figures(self.held_up_s)
        print(f"somebody else: {len(self.taken_s)} pings: {taken}; CPU time without a turn: {held_up}")
        assert max(self.held_up_s) < HELD_UP_S


def allow_few_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on to every new client."""
    monkeypatch.setattr("api.clients.COMMANDS_PER_S", COMMANDS_PER_S)


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """The process grows by so many bytes at most."""
    before = psutil.Process().memory_info().rss
    yield
    grown = psutil.Process().memory_info().rss - before
    print(f"memory grew by {grown / 1e6:.1f} MB")
    assert grown < most


async def outside(call: Callable[[str], T], url: str) -> T:
    """Do it in a process of its own, which shares nothing with the app."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, call, url)


async def aside(call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call)


def pour_commands(url: str) -> Counter[str]:
    with Raw(url, "?name=flood") as raw:
        messages = raw.messages()
        assert next(messages)["type"] == "hello"
        seen: Counter[str] = Counter()
        ids: set[int] = set()
        sent = 0
        while len(ids) < N_COMMANDS:
            if sent < N_COMMANDS:
                # ahead by no more than the kernel holds, or both sides would wait for each other
                n = min(1000, N_COMMANDS - sent)
                raw.send(
                    *(frame(b'{"id":%d,"type":"settings.get"}' % number) for number in range(sent, sent + n))
                )
                sent += n
            while len(ids) < sent - (1000 if sent < N_COMMANDS else 0):
                reply = next(messages)
                assert reply["id"] not in ids
                ids.add(reply["id"])
                seen["ok" if reply["ok"] else reply["error"]["code"]] += 1
                if not reply["ok"]:
                    assert reply["error"]["hint"].startswith("wait ")
        return seen


def test_a_burst_of_commands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the allowance lets through are carried out, the others are `busy`: one reply each."""

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as other:
            generation = await other.generate()
            allow_few_commands(monkeypatch)
            async with Bystander(other):
                began = time.monotonic()
                seen = await outside(pour_commands, core.url)
                took = time.monotonic() - began
            print(f"{N_COMMANDS} commands in {took:.1f} s: {dict(seen)}")
            assert set(seen) == {"ok", "busy"}
            assert COMMANDS_BURST <= seen["ok"] <= COMMANDS_BURST + took * COMMANDS_PER_S
            await other.command("cancel", generation_id=generation)
            await other.finished(generation)
            assert other.indices(generation) == list(range(len(other.indices(generation))))

    run(test())
    print(capfd.readouterr().out)


def test_more_than_the_allowance_is_busy_and_then_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_few_commands(monkeypatch)

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await wire.generate()
            ids = [await wire.send("settings.get") for _ in range(700)]
            replies = [await wire.reply(number) for number in ids]
            refused = [reply["error"] for reply in replies if not reply["ok"]]
            assert refused
            assert {error["code"] for error in refused} == {"busy"}
            await wire.command("ping")
            assert (await wire.command("cancel", generation_id=generation))["state"] == "cancelling"
            await asyncio.sleep(2 / COMMANDS_PER_S)
            await wire.command("settings.get")

    run(test())


def test_pings_and_cancels_have_an_allowance_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_few_commands(monkeypatch)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            ids = [await wire.send("ping") for _ in range(1000)]
            replies = [await wire.reply(number) for number in ids]
            assert {reply["error"]["code"] for reply in replies if not reply["ok"]} == {"busy"}
            await wire.command("settings.get")

    run(test())


def pour_pings(url: str) -> None:
    with Raw(url, receive_buffer=4096) as raw:
        burst = frame(b"p" * 125, PING) * 1000
        try:
            for _ in range(N_PINGS // 1000):
                raw.send(burst)
            raw.close_code()
        except OSError:
            return


def test_a_flood_of_websocket_pings_whose_pongs_nobody_reads(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as other, client(core) as watcher:
            await watcher.command("subscribe", events=["client.*"])
            with bounded_memory(64 << 20):
                async with Bystander(other):
                    await outside(pour_pings, core.url)
                    assert (await watcher.event("client.disconnected"))["reason"] == "slow"

    run(test())


def pour_and_read_pings(url: str) -> int:
    n = N_PINGS // 10
    with Raw(url) as raw:
        frames = raw.frames()
        pongs = sent = 0
        while pongs < n:
            if sent < n:
                raw.send(frame(b"", PING) * 5000)
                sent += 5000
            while pongs < sent:
                pongs += next(frames)[0] == PONG
        return pongs


def test_a_flood_of_websocket_pings_that_are_read(tmp_path: Path) -> None:
    """They are all answered: it is its right, and disturbs nobody."""

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as other, Bystander(other):
            assert await outside(pour_and_read_pings, core.url) == N_PINGS // 10

    run(test())


# ---- commands that are nearly right

RIGHT: tuple[Frame, ...] = (
    {"type": "generate", "messages": HI, "max_tokens": 3, "sampling": {"temperature": 0.5, "seed": 1}},
    {"type": "generate", "prompt": "x", "max_tokens": 1, "stop": ["a"], "logprobs": 2},
    {
        "type": "generate",
        "messages": HI,
        "max_tokens": 1,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
    },
    {"type": "cancel", "generation_id": "gen_0"},
    {"type": "step", "generation_id": "gen_0", "tokens": 2},
    {"type": "update", "generation_id": "gen_0", "sampling": {"top_p": 0.5}},
    {"type": "fork", "generation_id": "gen_0", "at_token": 0},
    {"type": "inject", "generation_id": "gen_0", "text": "x"},
    {"type": "subscribe", "events": ["generation.*"], "generations": "own", "since": 0},
    {"type": "unsubscribe"},
    {"type": "snapshot"},
    {"type": "ping"},
    {"type": "publish", "series": "loss", "value": 1.5, "unit": "nat"},
    {"type": "models.list"},
    {"type": "models.estimate", "model": "starter", "ctx": 1024},
    {"type": "conversations.create", "title": "t", "system": "s"},
    {"type": "conversations.search", "query": "x", "limit": 3},
    {"type": "settings.set", "settings": {"theme": "dark"}},
)
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1.5, -0.0, 1e308, "", "x", "\x00",
    "\ud800", "a" * 5000, "\u202e", "😀", [], [[]], {}, {"": ""}, [None], ["x"] * 2000, {"type": "generate"},
    "__class__", "../../etc/passwd", "' OR 1=1 --", "{{7*7}}",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a command."""
    here = [path] if path else []
    if isinstance(value, dict):
        return here + [place for key in value for place in places(value[key], (*path, key))]
    if isinstance(value, list):
        return here + [place for i, item in enumerate(value) for place in places(item, (*path, i))]
    return here


def mutated(rng: random.Random, number: int) -> str:
    """A command with one to three things wrong, or not even JSON."""
    command = json.loads(json.dumps(rng.choice(RIGHT))) | {"id": number}
    for _ in range(rng.randint(1, 3)):
        *above, last = rng.choice(places(command))
        holder = command
        for key in above:
            holder = holder[key]
        match rng.randrange(4):
            case 0:
                holder[last] = copy.deepcopy(rng.choice(STRANGE))
            case 1 if isinstance(holder, dict):
                del holder[last]
                if not holder and holder is command:
                    holder["id"] = number
            case 2 if isinstance(holder, dict):
                holder[rng.choice(("x", "type ", "generation_id", "__proto__", "id"))] = copy.deepcopy(
                    rng.choice(STRANGE)
                )
            case _:
                holder[last] = [holder[last]] if rng.random() < 0.5 else {"x": holder[last]}
        if not places(command):
            break
    text = json.dumps(command)
    match rng.randrange(12):
        case 0:
            text = text.replace(": ", ": " + rng.choice(("1e400", "NaN", "-Infinity", "9" * 5000)) + ", ", 1)
        case 1:
            text = text.replace("1", rng.choice(("1e400", "NaN", "Infinity", "0x10", "01", "1e-999")), 1)
        case 2:
            text = text[:-1] + f', "type": "ping", "id": {number}}}'
        case 3:
            deep = rng.choice((63, 64, 65, 1000, 10_000))
            text = text[:-1] + ', "x": ' + "[" * deep + "]" * deep + "}"
        case 4:
            place = rng.randrange(len(text))
            extra = rng.choice(('"', "{", "}", "[", "\\", "\\ud800", "\x00", ","))
            text = text[:place] + extra + text[place:]
        case 5:
            text = text[: rng.randrange(len(text))]
        case 6:
            text = rng.choice(("[%s]", "[%s,%s]", '"%s"', "\ufeff%s", "%s%s", "/*x*/%s")).replace("%s", text)
    return text


def expected_id(text: str) -> tuple[Any, ...]:
    """The ids that the reply may have: the command's own, and null where it isn't clean JSON."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return (None,)
    return (None, data.get("id")) if isinstance(data, dict) else (None,)


def is_reply(command_id: int, to_it: bool, got: Frame) -> bool:
    """Whether a frame is a reply to that command, or to another one."""
    return got["type"] == "reply" and (got["id"] == command_id) is to_it


@pytest.mark.timeout(1800 if SOAK else 300)
def test_mutated_commands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each gets exactly one typed reply, nothing is logged as a bug, and nobody else notices."""
    rng = random.Random(4)
    codes: Counter[str] = Counter()

    async def some(core: Core, numbers: range) -> None:
        async with client(core) as wire:
            for number in numbers:
                text = mutated(rng, number)
                before = len(wire.frames)
                await wire.connection.send(text)
                end = await wire.send("ping")

                reply = await wire.until(functools.partial(is_reply, end, False), before)
                await wire.until(functools.partial(is_reply, end, True), before)
                assert reply["id"] in expected_id(text), text[:300]
                codes["ok" if reply["ok"] else reply["error"]["code"]] += 1
                if not reply["ok"]:
                    assert set(reply["error"]) == {"code", "message", "path", "hint"}
                    assert "Traceback" not in reply["error"]["message"]
            await asyncio.sleep(0.05)
            replies = [got for got in wire.frames if got["type"] == "reply"]
            assert len(replies) == 2 * len(numbers), "one each"

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as other, Bystander(other):
            await eventually(lambda: core.supervisor.phase == "ready")
            for start in range(0, N_MUTATIONS, 100):  # each connection has its allowance
                await some(core, range(start, min(start + 100, N_MUTATIONS)))
            async with client(core) as wire:
                await wire.finished(await wire.generate(max_tokens=3))

    with caplog.at_level(logging.INFO):
        run(test(), 1700 if SOAK else 250)
    print(f"{N_MUTATIONS} mutated commands: {dict(codes)}")
    assert codes["internal"] == 0
    assert {"invalid_json", "invalid_argument", "ok", "not_found"} <= set(codes)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in caplog.text


# ---- frames

COMMAND = b'{"id":"c","type":"ping"}'


def one_byte_at_a_time(between: bytes = b"") -> list[bytes]:
    pieces = [COMMAND[i : i + 1] for i in range(len(COMMAND))]
    frames = [frame(pieces[0], fin=False)]
    for piece in pieces[1:-1]:
        frames += [between, frame(piece, CONTINUATION, fin=False)]
    return [*frames, between, frame(pieces[-1], CONTINUATION)]


@pytest.mark.parametrize(
    "frames",
    (
        one_byte_at_a_time(),
        one_byte_at_a_time(frame(b"between", PING)),
        one_byte_at_a_time(frame(b"unasked", PONG)),
        [frame(COMMAND[:5], fin=False), *[frame(b"", CONTINUATION, fin=False)] * 4000, frame(COMMAND[5:], 0)],
    ),
    ids=("one byte each", "with pings", "with pongs", "with empty fragments"),
)
def test_fragments(tmp_path: Path, frames: list[bytes]) -> None:
    def ask(core: Core) -> Frame:
        with Raw(core.url) as raw:
            raw.send(*frames)
            return next(message for message in raw.messages() if message["type"] == "reply")

    async def test() -> None:
        async with app(tmp_path) as core:
            reply = await aside(lambda: ask(core))
            assert (reply["id"], reply["ok"]) == ("c", True)

    run(test())


QUARTER = 1 << 18
"""Of the largest message."""


@pytest.mark.parametrize(
    ("frames", "code"),
    (
        ([frame(b"x", fin=False), *[frame(b"", CONTINUATION, fin=False)] * 200_000], 1009),
        ([frame(b"x", fin=False), *[frame(b"x", CONTINUATION, fin=False)] * 200_000], 1009),
        ([frame(b"x" * QUARTER, fin=False), *[frame(b"x" * QUARTER, CONTINUATION, fin=False)] * 4], 1009),
        ([frame(b"x" * (4 * QUARTER + 1))], 1009),
        ([frame(b"{}", BINARY)], 1003),
        ([frame(b"{", BINARY, fin=False), frame(b"}", CONTINUATION)], 1003),
        ([frame(b'{"id":"\xc3"}')], 1007),
        ([frame(b'{"id":"\xc3', fin=False), frame(b'"}', CONTINUATION)], 1007),
        ([frame(b"\xed\xa0\x80")], 1007),
        ([frame(COMMAND, rsv=4)], 1002),
        ([frame(COMMAND, rsv=2)], 1002),
        ([frame(b"x", CONTINUATION)], 1002),
        ([frame(b"x", fin=False), frame(COMMAND)], 1002),
        ([frame(b"x" * 126, PING)], 1002),
        ([frame(b"x", PING, fin=False)], 1002),
        ([frame(b"", 3)], 1002),
        ([frame(b"", 11)], 1002),
        ([b"\x81\x02{}"], 1002),
        ([frame(b"\x00", CLOSE)], 1002),
        ([frame(b"\x03\xe8", CLOSE)], 1000),
    ),
    ids=(
        "empty fragments without an end", "one-byte fragments without an end", "too large in fragments",
        "a message too large", "binary", "binary in fragments", "not utf-8", "a character cut at a fragment",
        "a surrogate", "compressed", "a reserved bit", "a continuation of nothing", "a message in a message",
        "a long ping", "a ping in fragments", "a reserved opcode", "a reserved control", "unmasked",
        "half a close code", "a close",
    ),
)  # fmt: skip
def test_frames_that_end_the_connection(
    tmp_path: Path, frames: list[bytes], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(core: Core) -> int | None:
        with Raw(core.url) as raw:
            try:
                raw.send(*frames)
            except OSError:
                return code  # it had ended before it had taken all; what it said may be lost with that
            return raw.close_code()

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as other:
            with bounded_memory(64 << 20):
                told = await aside(lambda: ask(core))
            assert told in (code, None) if len(frames) > 100 else told == code
            await other.command("ping")

    with caplog.at_level(logging.INFO):
        run(test())
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


# ---- signs of life


def test_who_answers_pings_may_stay_and_who_does_not_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PING_S", 0.3)
    monkeypatch.setattr(outbox, "PONG_S", 4.0)

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as watcher, client(core, "?name=idle") as idle:
            await watcher.command("subscribe", events=["client.*"])
            mute = await aside(lambda: Raw(core.url, "?name=mute&client=MUTE"))
            went = await watcher.event("client.disconnected")
            assert (went["name"], went["reason"]) == ("mute", "lost")
            await asyncio.sleep(5.5)
            assert len(watcher.events("client.disconnected")) == 1
            await idle.command("ping")
            mute.socket.close()
            async with client(core, "?client=MUTE") as again:
                assert (await again.until(lambda _: True))["last_cut"] is None

    run(test())


def test_a_long_replay_may_be_read_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than any answer to a ping could take that waits behind it."""
    monkeypatch.setattr(outbox, "PING_S", 0.2)
    monkeypatch.setattr(outbox, "PONG_S", 4.0)
    monkeypatch.setattr("api.server.SWEEP_S", 0.05)  # a slow app, too, sees that something waits, and leaves
    n = 8_000

    def read(core: Core) -> int:
        with Raw(core.url, receive_buffer=1 << 16) as raw:
            raw.command("subscribe", events=["log"], since=0)
            got = 0
            for message in raw.messages():
                got += message["type"] == "log"
                if got % 500 == 499:
                    time.sleep(0.35)
                if got == n:
                    break
            return got

    async def test() -> None:
        async with app(tmp_path, "fake:") as core:
            flood(core, n)
            began = time.monotonic()
            assert await aside(lambda: read(core)) == n
            assert time.monotonic() - began > 4.2

    run(test())


def test_a_cancel_passes_ones_own_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies and a replay that a client doesn't take hold up neither its commands nor pongs."""
    monkeypatch.setattr(backpressure, "STALL_S", 600.0)

    def ask(core: Core, generation: str) -> tuple[list[Any], bool]:
        with Raw(core.url, "?client=K", receive_buffer=1 << 14) as raw:
            raw.command("subscribe", since=0)
            for number in range(60):
                raw.command("conversations.get", id=number, conversation_id=conversation)
            raw.send(frame(b"are you there", PING))
            raw.command("cancel", id="stop", generation_id=generation)
            raw.command("ping", id="p")
            assert stopped.wait(60)  # it was carried out while nothing had been read
            order: list[Any] = []
            ponged = False
            for opcode, payload in raw.frames():
                ponged |= (opcode, payload) == (PONG, b"are you there")
                if b'"id":"stop"' in payload:
                    order.append("stop")
                if b'"id":"p"' in payload:
                    order.append("p")
                if len(order) == 2 and ponged:
                    break
            return order, ponged

    stopped = threading.Event()
    conversation = ""

    async def test() -> None:
        nonlocal conversation
        async with app(tmp_path, ENDLESS) as core, client(core) as other:
            created = await core.history.create("big", None)
            conversation = created["id"]
            await core.history.add_turn(conversation, "y" * 200_000, "gen_x", "fake")
            flood(core, 20_000)
            generation = await other.generate()
            await other.event("generation.delta")
            asking = asyncio.create_task(aside(lambda: ask(core, generation)))
            assert (await other.finished(generation))["finish_reason"] == "cancelled"
            stopped.set()
            order, ponged = await asking
            assert sorted(order) == ["p", "stop"]
            assert ponged

    run(test())


# ---- the list of clients


def test_the_list_of_clients_tells_rate_lag_merged_and_cuts(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as watcher:
            await watcher.command("subscribe", events=["metrics.clients", "client.*"])
            async with client(core, "?client=K&name=follower") as follower:
                await follower.command("subscribe", events=["generation.*"])
                me = follower.frames[0]["client_id"]
                (session,) = [s for s in core._server._sessions if s.client.client_id == me]
                generation = await follower.generate()
                while not session.client.merged:
                    await asyncio.sleep(0.01)
                    time.sleep(0.05)  # noqa: ASYNC251 - the loop stands still, and what comes is merged

                def told(got: Frame) -> bool:
                    return got["type"] == "metrics.clients" and any(
                        row["client_id"] == me and row["bytes_per_s"] > 0 and row["merged"] > 0
                        for row in got["clients"]
                    )

                event = await watcher.until(told)
                (row,) = [row for row in event["clients"] if row["client_id"] == me]
                assert row["events_per_s"] > 0
                assert row["cuts"] == 0
                await follower.command("cancel", generation_id=generation)
                session.cut("slow")
                await eventually(lambda: follower.closed)
            async with client(core, "?client=K") as again:
                await again.command("subscribe")
                await watcher.until(
                    lambda got: (
                        got["type"] == "metrics.clients"
                        and any(row["client_id"] == me and row["cuts"] == 1 for row in got["clients"])
                    )
                )
                listed = (await again.command("snapshot"))["clients"]
                (row,) = [row for row in listed if row["client_id"] == me]
                assert row["cuts"] == 1
                assert row["name"] == "follower"
                assert row["merged"] > 0

    run(test())


def test_http_clients_are_in_the_list_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as watcher:
            await watcher.command("subscribe", events=["metrics.clients", "client.*"])
            body = json.dumps({"model": "any", "messages": HI, "stream": True}).encode()
            reader, writer = await http(core, "POST", "/v1/chat/completions", body)
            came = await watcher.event("client.connected", origin="chat_completions")
            await watcher.until(
                lambda got: (
                    got["type"] == "metrics.clients"
                    and any(
                        row["client_id"] == came["client_id"]
                        and row["bytes_per_s"] > 0
                        and row["events_per_s"] > 0
                        for row in got["clients"]
                    )
                )
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await watcher.event("client.disconnected", client_id=came["client_id"])

    run(test())


# ---- HTTP


async def http(
    core: Core, method: str, path: str, body: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(core.base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request(core, method, path, body))
    return reader, writer


def request(core: Core, method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(core.base_url).netloc}\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_thirty_requests_in_a_pipe_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:echo=1") as core, client(core) as other, Bystander(other):
            reader, writer = await http(core, "GET", "/v1/models")
            for number in range(30):
                message = [{"role": "user", "content": f"number {number}"}]
                body = json.dumps({"model": "any", "messages": message}).encode()
                writer.write(request(core, "POST", "/v1/chat/completions", body))
            for number in range(-1, 30):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                answer = json.loads(await reader.readexactly(size))
                if number >= 0:
                    assert answer["choices"][0]["message"]["content"] == f"number {number}"
            writer.close()
            await writer.wait_closed()

    run(test())


def test_half_open_sockets_keep_nobody_out(tmp_path: Path) -> None:
    """Some say nothing, some stop in the middle of a head, some close their sending side at once."""

    async def test() -> None:
        async with app(tmp_path) as core, client(core) as other:
            parts = urlsplit(core.base_url)
            sockets = []
            for number in range(240):
                half_open = socket.create_connection((parts.hostname or "", parts.port or 0))
                sockets.append(half_open)
                if number % 3 == 1:
                    half_open.sendall(b"GET /v1/live HTTP/1.1\r\nHost:")
                elif number % 3 == 2:
                    half_open.shutdown(socket.SHUT_WR)
                if number % 20 == 0:
                    await other.command("ping")
            async with client(core) as late:
                await late.command("ping")
            for half_open in sockets:  # all are let go within their 2 s
                half_open.setblocking(False)
            await eventually(lambda: all(is_gone(half_open) for half_open in sockets), 60)
            for half_open in sockets:
                half_open.close()

    run(test())


def is_gone(half_open: socket.socket) -> bool:
    try:
        return half_open.recv(1000) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
