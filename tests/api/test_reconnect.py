"""A client whose connection goes comes back and misses nothing: cuts at random points, deaths, new apps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from api.bus import RING_SIZE, Envelope
from api.client import ConnectionLostError, Generation, LiveClient, opening
from api.core import Core
from engine.errors import TokenglassError
from engine.events import LogLine
from tests.api.harness import HI, TOKEN, Frame, app, eventually, run
from tests.api.proxy import Proxy, proxy

SOAK = "TOKENGLASS_SOAK" in os.environ
CUTS = 1000 if SOAK else 40
EVENTS = 1_000_000 if SOAK else 100_000
LOG_BYTES = 110
REPLACED = ("metrics.step", "metrics.system", "metrics.clients")
"""These may be replaced by later ones."""


class Ledger:
    """What the app published, beside what a client got of it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.published: list[Envelope] = []
        self.since = core.bus.seq
        self.place = 0
        """How many of `published` the client has got."""
        self.frames = self.merged = 0
        self.last_seq = 0
        self.resets: list[str] = []
        self.skipped = 0
        """Events that a snapshot stood for."""
        core.bus.add_fold(self._publish)

    def _publish(self, envelope: Envelope) -> None:
        if envelope.event.type not in REPLACED:
            self.published.append(envelope)

    def take(self, frame: Frame) -> None:
        """A frame must be the next event, or the next ones merged; a snapshot stands for all before it."""
        if frame["type"] == "reset":
            self.resets.append(frame["reason"])
            return
        if frame["type"] == "snapshot":
            assert self.resets
            while self.place < len(self.published) and self.published[self.place].seq <= frame["seq"]:
                self.place += 1
                self.skipped += 1
            self.last_seq = frame["seq"]
            return
        assert frame["seq"] > self.last_seq, "twice, or out of order"
        self.last_seq = frame["seq"]
        if frame["type"] in REPLACED:
            return
        self.frames += 1
        events = []
        while self.place < len(self.published) and self.published[self.place].seq <= frame["seq"]:
            events.append(self.published[self.place])
            self.place += 1
        assert events, "comes twice"
        assert events[0].seq >= (frame["first_seq"] if "first_seq" in frame else frame["seq"]), "a gap"
        assert events[-1].seq == frame["seq"]
        if len(events) > 1:
            self.merged += len(events) - 1
        if "tokens" in frame:
            told = [token for envelope in events for token in envelope.event.tokens]  # type: ignore[union-attr]
            assert frame["tokens"] == told
        else:
            (only,) = events
            assert only.event.type == frame["type"]
            if isinstance(only.event, LogLine):
                assert frame["message"] == only.event.message

    @property
    def complete(self) -> bool:
        return self.place == len(self.published)


async def follow(client: LiveClient, ledger: Ledger) -> None:
    async for frame in client.events():
        ledger.take(frame)


async def chatter(core: Core, client: LiveClient, n: int) -> None:
    """Publish `n` events of our own, as fast as the client takes them."""
    for number in range(n):
        core.bus.publish(LogLine(level="info", message=f"{number}"))
        if number % 100 == 0:
            await asyncio.sleep(0)
        while core.bus.seq - client.position[1] > 5_000:  # noqa: ASYNC110 - the ring holds 65,536
            await asyncio.sleep(0.005)


async def ask(client: LiveClient, asked: dict[str, str], until: asyncio.Event) -> None:
    """One question after the other; `asked` gets what became of each."""
    while not until.is_set():
        question = f"question {len(asked)}"
        asked[question] = "open"
        generation = client.generate(prompt=question, max_tokens=30)
        try:
            await whole(generation)
        except ConnectionLostError:
            asked[question] = "lost"
        else:
            asked[question] = "answered"


async def whole(generation: Generation) -> Frame:
    """Iterate to the end: every token once, the text as it ends. Answers the last event."""
    text, indices = "", []
    async for event in generation:
        if "tokens" in event:
            indices += [token["index"] for token in event["tokens"]]
        if event["type"] == "generation.delta":
            text += event["text"]
        if event["type"] == "generation.finished":
            assert text == event["text"]
            assert indices == list(range(event["usage"]["completion_tokens"]))
            return event
    raise AssertionError("no end")


async def kill_worker(core: Core) -> None:
    pid = core.state.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: core.state.pid not in (None, pid) and core.state.engine == "ready", 60)


async def overrun(core: Core, client: LiveClient, cuts: Proxy, ledger: Ledger) -> None:
    """While the client is away more happens than the ring holds: told once, and then it goes on."""
    await eventually(lambda: ledger.complete, 60)
    made, left = cuts.made, cuts.cuts
    cuts.cuts = 0
    cuts.cut_all()
    for number in range(RING_SIZE + 100):
        core.bus.publish(LogLine(level="info", message=f"unseen {number}"))
    await eventually(lambda: ledger.resets != [] and ledger.complete, 60)
    cuts.made, cuts.cuts = made, left
    assert ledger.resets == ["too_old"]
    assert ledger.skipped > RING_SIZE
    assert client.lost is None


async def use_up(cuts: Proxy, core: Core, client: LiveClient) -> None:
    """Events until the last cut was made, and one more, so that all that came before is seen to arrive."""
    while cuts.cuts:
        await chatter(core, client, 10)
    core.bus.publish(LogLine(level="info", message="the last one"))


@pytest.mark.timeout(3000 if SOAK else 300)
def test_cut_at_random_points(tmp_path: Path) -> None:
    """Nothing missing, nothing twice, no command done twice: over many cuts, a worker's death, an overrun."""

    async def body() -> None:
        mean = EVENTS * LOG_BYTES // CUTS
        async with app(tmp_path, "fake:delay_ms=2") as core, proxy(core.url, 200, mean, seed=4) as cuts:
            began = time.monotonic()
            async with LiveClient.connect(cuts.url, TOKEN, name="follower") as client:
                await client.request("subscribe", events=["*"])
                ledger = Ledger(core)
                ended = asyncio.Event()
                asked: dict[str, str] = {}
                following = asyncio.create_task(follow(client, ledger))
                asking = asyncio.create_task(ask(client, asked, ended))
                cuts.cuts = CUTS
                await chatter(core, client, EVENTS // 2)
                await kill_worker(core)
                await chatter(core, client, EVENTS // 4)
                ended.set()
                await asking
                await overrun(core, client, cuts, ledger)
                ended.clear()
                asking = asyncio.create_task(ask(client, asked, ended))
                await chatter(core, client, EVENTS // 4)
                await use_up(cuts, core, client)
                ended.set()
                await asking
                await eventually(lambda: ledger.complete or following.done(), 60)
                if following.done():
                    following.result()
                following.cancel()
            prompts = [
                envelope.event.input
                for envelope in ledger.published
                if envelope.event.type == "generation.queued"
            ]
            assert len(set(prompts)) == len(prompts), "a command was done twice"
            assert {question for question, end in asked.items() if end == "answered"} <= set(prompts)
            assert "open" not in asked.values()
            assert cuts.made == CUTS
            lost = sum(end == "lost" for end in asked.values())
            print(
                f"\n{CUTS} cuts, {cuts.connections} connections, {len(ledger.published)} events in "
                f"{ledger.frames} frames ({ledger.merged} merged, {ledger.skipped} in the snapshot after the "
                f"overrun): 0 gaps, 0 doubles; {len(asked)} "
                f"generations asked for, {lost} replies lost; {time.monotonic() - began:.0f} s"
            )

    run(body(), 3000 if SOAK else 250)


def test_own_generations_without_a_subscription(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=200,delay_ms=15") as core,
            proxy(core.url, 500, 6000) as cuts,
            LiveClient.connect(cuts.url, TOKEN) as client,
        ):
            generation = client.generate(messages=HI)
            await generation.start()
            branch = await generation.fork(0)
            cuts.cuts = 5
            ends = await asyncio.gather(whole(generation), branch.finished())
            assert [end["finish_reason"] for end in ends] == ["stop", "stop"]
            assert cuts.made > 0

    run(body())


def test_a_text_over_cuts(tmp_path: Path) -> None:
    """The plain iterator of pieces gives the whole answer, each token once."""

    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=200,delay_ms=15") as core,
            proxy(core.url, 500, 6000, seed=2) as cuts,
            LiveClient.connect(cuts.url, TOKEN) as client,
        ):
            generation = client.generate(messages=HI)
            await generation.start()
            cuts.cuts = 5
            pieces = [piece async for piece in generation.text()]
            assert "".join(pieces) == (await generation.finished())["text"]
            assert len(pieces) > 10
            assert cuts.made > 0

    run(body())


def test_hands_after_a_cut(tmp_path: Path) -> None:
    """They wait for the connection; what the engine's death leaves is gone on with."""

    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=60,delay_ms=50") as core,
            proxy(core.url) as cuts,
            LiveClient.connect(cuts.url, TOKEN) as client,
        ):
            generation = client.generate(messages=HI, max_tokens=60)
            await generation.pause()
            hello = client.hello
            cuts.cut_all()
            await eventually(lambda: client.hello is not hello)
            held = await generation.step(3)
            await kill_worker(core)
            cuts.cut_all()
            await generation.resume()
            end = await whole(generation)
            assert end["usage"]["completion_tokens"] == 60 > held["at_token"]

    run(body(), 120)


def test_another_app(tmp_path: Path) -> None:
    """Found by its announcement, at another address with another token; the gap is told as such."""

    async def body() -> None:
        seen: list[Frame] = []
        first = app(tmp_path, "fake:tokens=100000,delay_ms=5")
        core = await first.__aenter__()
        async with LiveClient.discover(tmp_path, name="watcher") as client:
            run_id = client.hello["run_id"]
            await client.request("subscribe", events=["log", "model.*"])

            async def watch() -> None:
                async for frame in client.events(connection=True):
                    seen.append(frame)  # noqa: PERF401 - others look at it meanwhile

            watching = asyncio.create_task(watch())
            generation = client.generate(messages=HI)
            await generation.start()
            core.bus.publish(LogLine(level="info", message="before"))
            await eventually(lambda: any(frame.get("message") == "before" for frame in seen))
            await first.__aexit__(None, None, None)
            await eventually(lambda: seen[-1]["type"] == "connection.lost")
            waiting = asyncio.create_task(client.request("ping"))
            refused = asyncio.create_task(code(drain(generation)))
            async with app(tmp_path, "fake:"):
                await waiting
                assert client.hello["run_id"] != run_id
                assert await refused in ("shutting_down", None)  # its end may have been told before
                await eventually(lambda: any(frame["type"] == "snapshot" for frame in seen))
                kinds = [frame["type"] for frame in seen]
                place = kinds.index("connection.lost")
                assert kinds[place : place + 4] == [
                    "connection.lost",
                    "connection.restored",
                    "reset",
                    "snapshot",
                ]
                assert seen[kinds.index("reset")]["reason"] == "run"
                # and on from there, as though nothing had been
                end = await whole(client.generate(messages=HI))
                assert end["finish_reason"] == "stop"
                assert client.position[0] == client.hello["run_id"]
            watching.cancel()

    run(body(), 120)


async def drain(generation: Generation) -> None:
    async for _ in generation:
        pass


async def code(call: Any) -> str | None:
    try:
        await call
    except TokenglassError as error:
        return error.code
    return None


class Fickle:
    """A server that ends connections at chosen commands, and keeps all that it was sent."""

    def __init__(self, *fatal: str) -> None:
        self.fatal = list(fatal)
        self.taken: list[str] = []

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.send('{"type": "hello", "run_id": "r", "seq": 0}')
        async for text in connection:
            frame = json.loads(text)
            self.taken.append(frame["type"])
            if frame["type"] in self.fatal:
                self.fatal.remove(frame["type"])
                connection.transport.abort()
                return
            reply = {
                "type": "reply",
                "id": frame["id"],
                "ok": True,
                "result": {"seq": 0, "n": len(self.taken)},
            }
            await connection.send(json.dumps(reply))


def fickle(server: Fickle, body: Any) -> None:
    async def whole_test() -> None:
        async with serve(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with LiveClient.connect(f"ws://127.0.0.1:{port}/", "t") as client:
                await body(client)

    run(whole_test())


def test_what_may_have_been_done_is_not_done_again() -> None:
    server = Fickle("conversations.create", "ping")

    async def body(client: LiveClient) -> None:
        with pytest.raises(ConnectionLostError, match="may have been carried out"):
            await client.request("conversations.create", title="t")
        await client.request("ping")  # asks only: sent again
        await client.request("settings.set", settings={})
        assert server.taken.count("conversations.create") == 1
        assert server.taken.count("ping") == 2
        assert server.taken.count("settings.set") == 1

    fickle(server, body)


def test_what_was_not_sent_is_sent_later() -> None:
    server = Fickle("ping")

    async def body(client: LiveClient) -> None:
        await asyncio.gather(
            client.request("ping"),
            *(late(client, pause) for pause in (0.0, 0.01, 0.03, 0.05, 0.1)),
            return_exceptions=False,
        )
        created = server.taken.count("models.load")
        assert created == 5 - late.lost  # type: ignore[attr-defined]

    late.lost = 0  # type: ignore[attr-defined]
    fickle(server, body)


async def late(client: LiveClient, pause: float) -> None:
    """A command while the connection is going or gone: done once, or said not to be known."""
    await asyncio.sleep(pause)
    try:
        await client.request("models.load", model="m")
    except ConnectionLostError:
        late.lost += 1  # type: ignore[attr-defined]


def test_a_refused_token_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a fixed address another token can't be found; what waits gets told."""
    monkeypatch.setattr(opening, "MAX_DELAY_S", 0.2)

    async def body() -> None:
        first = app(tmp_path, "fake:")
        core = await first.__aenter__()
        async with proxy(core.url) as cuts, LiveClient.connect(cuts.url, TOKEN) as client:
            generation = client.generate(messages=HI)
            await generation.finished()
            await first.__aexit__(None, None, None)
            waiting = asyncio.create_task(code(client.request("ping")))
            async with another(tmp_path) as second:
                cuts.target = second.url
                assert await waiting == "forbidden"
                assert client.lost is not None
                assert await code(client.request("ping")) == "forbidden"
                assert [event async for event in client.events()] == []

    run(body(), 120)


def another(home: Path) -> Any:
    from api.core import Options

    return Core.open(Options(home=home, port=0, model="fake:", token="another-token-0123456789"))


def test_too_much_was_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the ring holds: a reset, a snapshot, and the generation goes on from there."""

    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=100000,delay_ms=5") as core,
            proxy(core.url) as cuts,
            LiveClient.connect(cuts.url, TOKEN) as client,
        ):
            generation = client.generate(messages=HI)
            assert (await anext(generation))["type"] == "generation.queued"
            await generation.pause()
            while (await anext(generation))["type"] != "generation.paused":
                pass
            cuts.cut_all()
            for number in range(70_000):
                core.bus.publish(LogLine(level="info", message=f"{number}"))
            await generation.resume()
            assert (await anext(generation))["reason"] == "too_old"
            (shown,) = (await anext(generation))["generations"]
            text, index = shown["text"], shown["completion_tokens"]
            while (event := await anext(generation))["type"] != "generation.delta":
                assert event["type"] not in ("reset", "snapshot")
            assert event["tokens"][0]["index"] == index
            await generation.cancel()
            assert (await generation.finished())["text"].startswith(text)

    run(body(), 120)


def test_pauses_double_up_to_half_a_minute() -> None:
    pauses = opening.delays()
    for step in range(20):
        most = min(0.1 * 2**step, 30.0)
        assert most / 2 <= next(pauses) <= most


def test_leaving_while_it_tries(tmp_path: Path) -> None:
    """The client can be left at any time: nothing waits for an app that may never come."""

    async def body() -> None:
        opened = app(tmp_path, "fake:")
        await opened.__aenter__()
        async with LiveClient.discover(tmp_path) as client:
            await opened.__aexit__(None, None, None)
            waiting = asyncio.create_task(client.request("ping"))
            await eventually(lambda: client._link is None)
        assert await code(waiting) == "shutting_down"

    run(body())


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    """A timeout around a wait loses no event, and starts nothing twice."""

    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=30,delay_ms=20") as core,
            LiveClient.discover(tmp_path) as client,
        ):
            generation = client.generate(messages=HI)
            events: list[Frame] = []
            while not events or events[-1]["type"] != "generation.finished":
                try:
                    async with asyncio.timeout(0.004):
                        events.append(await anext(generation))
                except TimeoutError:
                    continue
            indices = [token["index"] for event in events for token in event.get("tokens", ())]
            assert indices == list(range(30))
            assert len(core.state.finished) == 1

    run(body())
