import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from api import client as module
from api.client import LiveClient, live, opening, running_app
from api.client.generation import Answer
from api.paths import Paths
from engine.errors import TokenglassError
from tests.api.harness import ENDLESS, HI, TOKEN, app, eventually, run

Frame = dict[str, Any]


async def text_of(generation: module.Generation) -> tuple[str, Frame]:
    text, last = "", {}
    async for event in generation:
        last = event
        if event["type"] == "generation.delta":
            text += event["text"]
    return text, last


async def code(call: Awaitable[object]) -> str:
    with pytest.raises(TokenglassError) as caught:
        await call
    return caught.value.code


async def enter(context: Any) -> None:
    async with context:
        pass


def test_a_generation_from_start_to_end(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            app(tmp_path, "fake:script=Hello%20there"),
            LiveClient.discover(tmp_path, name="me") as client,
        ):
            assert client.hello["type"] == "hello"
            generation = client.generate(messages=HI, sampling={"temperature": 0})
            text, last = await text_of(generation)
            assert text == last["text"] == "Hello there"
            assert last["type"] == "generation.finished"
            assert generation.result is not None
            assert generation.result["generation_id"] == last["generation_id"]
            assert [event async for event in generation] == []

    run(body())


def test_many_at_once_each_get_their_own(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path, "fake:echo=1,delay_ms=1"), LiveClient.discover(tmp_path) as client:
            questions = [f"question number {number}" for number in range(12)]
            answers = await asyncio.gather(
                *(
                    text_of(client.generate(messages=[{"role": "user", "content": question}]))
                    for question in questions
                )
            )
            assert [text for text, _ in answers] == questions

    run(body())


def test_the_text_alone(tmp_path: Path) -> None:
    async def body() -> None:
        script = "one two three four five six"
        async with app(tmp_path, f"fake:script={script}"), LiveClient.discover(tmp_path) as client:
            pieces = [piece async for piece in client.generate(messages=HI).text()]
            assert "".join(pieces) == script

    run(body())


def test_the_text_of_one_that_runs(tmp_path: Path) -> None:
    """It comes in pieces; a branch begins with what it has of its source."""

    async def body() -> None:
        async with app(tmp_path, ENDLESS), LiveClient.discover(tmp_path) as client:
            generation = client.generate(messages=HI)
            pieces = []
            async for piece in generation.text():
                pieces.append(piece)
                if len(pieces) == 3:
                    await generation.cancel()
            assert len(pieces) >= 3
            assert "".join(pieces) == (await generation.finished())["text"]
            source = client.generate(prompt="hi")
            at = (await source.pause())["at_token"]
            await source.step(6)
            while (event := await anext(source))["type"] != "generation.paused" or event["at_token"] < at + 6:
                pass
            branch = await source.fork(at + 5)
            pieces = []
            async for piece in branch.text():
                pieces.append(piece)
                await branch.cancel()
            text = (await branch.finished())["text"]
            assert "".join(pieces) == text
            await source.cancel()

    run(body())


def test_text_over_a_gap_and_a_rewind() -> None:
    """What a snapshot brings is added, what was taken back isn't given again."""
    answer = Answer()

    def delta(text: str) -> Frame:
        return {"type": "generation.delta", "text": text}

    def snapshot(text: str) -> Frame:
        return {"type": "snapshot", "generations": [{"generation_id": "g", "text": text}]}

    assert answer.take(delta("ab"), "g") == "ab"
    assert answer.take({"type": "reset", "reason": "too_old"}, "g") == ""
    assert answer.take(snapshot("abcd"), "g") == "cd"
    assert answer.take(snapshot("abcd"), "other") == ""
    assert answer.take({"type": "generation.rewound", "text": "a"}, "g") == ""
    assert answer.take(delta("x"), "g") == "x"
    assert answer.take(snapshot("axy"), "g") == "y"
    assert answer.take(snapshot("a"), "g") == "", "taken back in the gap"
    assert answer.take(delta("z"), "g") == "z"
    assert answer.take({"type": "generation.finished", "text": "az!"}, "g") == "!"


def test_events_need_no_subscribe_before(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path, "fake:tokens=5"), LiveClient.discover(tmp_path) as client:
            first = await anext(client.events())
            assert "seq" in first
            await client.request("subscribe", events=["generation.*"])
            await client.generate(messages=HI).finished()
            async for event in client.events():
                if event["type"] == "generation.finished":
                    break

    run(body())


def test_typed_events_leave_out_what_has_no_model() -> None:
    """A newer app may tell of things that this client has never heard of."""

    async def handler(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello"}')
        frame = json.loads(await connection.recv())
        reply = {"type": "reply", "id": frame["id"], "ok": True, "result": {"seq": 0}}
        await connection.send(json.dumps(reply))
        for seq, kind in enumerate(("brand.new", "model.unloaded", "generation.sung"), 1):
            event = {"type": kind, "seq": seq, "t": 1.0, "model": "m", "generation_id": "g", "more": [1]}
            await connection.send(json.dumps(event))
        await connection.close(1001)

    async def body() -> None:
        async with serve_with(handler) as server:
            port = server.sockets[0].getsockname()[1]
            async with LiveClient.connect(f"ws://127.0.0.1:{port}/", "t", reconnect=False) as client:
                assert [event.type async for event in client.typed_events()] == ["model.unloaded"]

    run(body())


def test_events_of_everybody(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=20"),
            LiveClient.discover(tmp_path, name="watcher") as watcher,
            LiveClient.discover(tmp_path, name="asker") as asker,
        ):
            await watcher.request("subscribe", events=["generation.*", "client.*"])
            text, last = await text_of(asker.generate(messages=HI))
            seen, names = "", []
            async for event in watcher.events():
                names.append(event["type"])
                if event["type"] == "generation.delta":
                    seen += event["text"]
                if event["type"] == "generation.finished":
                    break
            assert seen == text == last["text"]
            assert names[0] == "generation.queued"

    run(body())


def test_errors_are_the_servers(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path), LiveClient.discover(tmp_path) as client:
            assert await code(client.request("nonsense")) == "unknown_command"
            assert await code(client.request("pause")) == "invalid_argument"
            assert await code(client.request("conversations.get", conversation_id="x")) == "not_found"
            assert await code(text_of(client.generate(messages=[]))) == "invalid_argument"
            assert await code(client.request("generate", prompt="x" * 2_000_000)) == "invalid_argument"
            with pytest.raises(ValueError, match="JSON compliant"):
                await client.request("generate", prompt="x", sampling={"temperature": float("nan")})
            assert (await client.request("ping"))["seq"] > 0

    run(body())


def test_cancel(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            app(tmp_path, ENDLESS),
            LiveClient.discover(tmp_path) as client,
        ):
            generation = client.generate(messages=HI)
            await generation.cancel()
            async for event in generation:
                if event["type"] == "generation.delta":
                    await generation.cancel()
                    break
            rest = [event async for event in generation]
            assert rest[-1]["finish_reason"] == "cancelled"

    run(body())


def test_the_app_quits(tmp_path: Path) -> None:
    async def body() -> None:
        opened = app(tmp_path, ENDLESS)
        core = await opened.__aenter__()
        async with LiveClient.discover(tmp_path, reconnect=False) as client:
            await client.request("subscribe", events=["generation.started"])
            generation = client.generate(messages=HI)
            assert (await anext(generation))["type"] == "generation.queued"
            core.quit.set()
            stop = asyncio.create_task(opened.__aexit__(None, None, None))
            try:  # it may still hear how its generation ended
                assert [event async for event in generation][-1]["type"] == "generation.finished"
            except TokenglassError as error:
                lost = error.code
            else:
                lost = "shutting_down"
            assert lost == "shutting_down"
            await stop
            async for _ in client.events():
                pass
            async for _ in client.events():
                raise AssertionError("nothing comes any more")
            assert client.lost is not None
            assert client.lost.info.message == "the app has quit"
            assert await code(client.request("ping")) == "shutting_down"

    run(body())


def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path) as core:
            assert await code(enter(LiveClient.connect(core.url, "wrong"))) == "forbidden"
            async with LiveClient.connect(core.url, TOKEN, key="k") as client:
                first = client.hello["client_id"]
            async with LiveClient.connect(core.url, TOKEN, key="k") as client:
                assert client.hello["client_id"] == first

    run(body())


@pytest.mark.parametrize(
    "url",
    [
        "ws://localhost:1/v1/live",
        "ws://192.0.2.1:1/v1/live",
        "wss://127.0.0.1:1/v1/live",
        "ws://127.0.0.1.example.org/",
        "http://127.0.0.1:1/",
        "ws://0.0.0.0:1/",
        "ws://[::1/",
        "",
    ],
)
def test_the_token_goes_to_loopback_addresses_only(url: str) -> None:
    async def body() -> None:
        assert await code(enter(LiveClient.connect(url, TOKEN))) == "forbidden"

    run(body())


def test_nothing_answers() -> None:
    async def body() -> None:
        assert await code(enter(LiveClient.connect("ws://127.0.0.1:1/v1/live", TOKEN))) == "not_found"

    run(body())


def announce(home: Path, **values: object) -> Paths:
    paths = Paths.resolve(home)
    about = {"url": "ws://127.0.0.1:1/v1/live", "token": "t", "pid": os.getpid(), "started": time.time()}
    paths.server_file.write_text(json.dumps({**about, **values}))
    return paths


def test_no_app_or_a_dead_ones_file(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()

    async def body() -> None:
        assert await code(enter(LiveClient.discover(tmp_path))) == "not_found"
        for values in (
            {"pid": child.pid},
            {"pid": "1"},
            {"pid": -5},
            {"pid": 2**80},
            {"started": None},
            {"started": 1.0},  # the number belongs to a younger process now
            {"token": 5},
        ):
            paths = announce(tmp_path, **values)
            assert running_app(paths) is None, values
            assert await code(enter(LiveClient.discover(tmp_path))) == "not_found"
        paths = Paths.resolve(tmp_path)
        for text in ("", "{", "[]", "[" * 100_000, "\0"):
            paths.server_file.write_text(text)
            assert running_app(paths) is None
        assert running_app(announce(tmp_path)) is not None

    run(body())


def serve_with(handler: Callable[[ServerConnection], Awaitable[None]]) -> Any:
    return serve(handler, "127.0.0.1", 0)


def test_a_server_that_isnt_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "OPEN_TIMEOUT_S", 0.3)

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async def noise(connection: ServerConnection) -> None:
        await connection.send("what?")

    async def body() -> None:
        for handler in (silent, noise):
            async with serve_with(handler) as server:
                port = server.sockets[0].getsockname()[1]
                assert await code(enter(LiveClient.connect(f"ws://127.0.0.1:{port}/", "t"))) == "not_found"

    run(body())


def test_a_connection_that_breaks_ends_every_wait() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello"}')
        async for _ in connection:
            connection.transport.abort()

    async def body() -> None:
        async with serve_with(handler) as server:
            port = server.sockets[0].getsockname()[1]
            async with LiveClient.connect(f"ws://127.0.0.1:{port}/", "t", reconnect=False) as client:
                codes = await asyncio.gather(code(client.request("ping")), code(client.request("ping")))
                assert list(codes) == ["shutting_down"] * 2
                assert [event async for event in client.events()] == []

    run(body())


@pytest.mark.parametrize("frame", ["{", "[]", '{"no": "type"}', '{"type": "reply"}'])
def test_unreadable_frames_end_the_connection(frame: str) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello"}')
        async for _ in connection:
            await connection.send(frame)

    async def body() -> None:
        async with serve_with(handler) as server:
            port = server.sockets[0].getsockname()[1]
            async with LiveClient.connect(f"ws://127.0.0.1:{port}/", "t", reconnect=False) as client:
                assert await code(client.request("ping")) == "internal"

    run(body())


def test_a_caller_that_never_reads_events_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_WAITING", 50)

    async def handler(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello"}')
        frame = json.loads(await connection.recv())
        await connection.send(
            json.dumps({"type": "reply", "id": frame["id"], "ok": True, "result": {"seq": 0}})
        )
        for seq in range(100):
            await connection.send(json.dumps({"type": "log", "seq": seq}))
        await connection.wait_closed()

    async def body() -> None:
        async with serve_with(handler) as server:
            port = server.sockets[0].getsockname()[1]
            async with LiveClient.connect(f"ws://127.0.0.1:{port}/", "t", reconnect=False) as client:
                await client.request("subscribe")
                await eventually(lambda: client.lost is not None)
                assert await code(client.request("ping")) == "busy"
                assert len([event async for event in client.events()]) == 50

    run(body())
