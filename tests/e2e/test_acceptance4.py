"""What a sceptical user finds out about the stream and its dialects, with raw frames and bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.api.harness import Frame, Wire, run
from tests.e2e.harness import (
    END_LIMIT_S,
    LASTING,
    LIMIT_S,
    ROOT,
    START_LIMIT_S,
    Serve,
    command,
    eventually,
    program,
    serve,
)

LONG = f"{LASTING},slots=8"
PERMISSIONS = ("observe", "generate", "control", "manage")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """An app for the tests that leave it as it was."""
    with serve(tmp_path_factory.mktemp("home"), "fake:tokens=40,delay_ms=2") as served:
        yield served
        assert "Traceback" not in served.stderr


def http(app: Serve, token: str | None = None) -> httpx.AsyncClient:
    """A client of the app's HTTP, with the owner's token or another."""
    return httpx.AsyncClient(
        base_url=app.ready["base_url"].removesuffix("/v1"),
        headers={"Authorization": f"Bearer {token or app.token}"},
        timeout=LIMIT_S,
        trust_env=False,
    )


def make_token(app: Serve, name: str, can: str) -> str:
    made = command(app.home, "token", "add", name, "--can", can)
    out, err = made.communicate(timeout=LIMIT_S)
    assert made.returncode == 0, err
    return out.decode().strip()


async def responses(app: Serve) -> ClientConnection:
    return await connect(
        app.ready["url"].replace("/v1/live", "/v1/responses"),
        additional_headers={"Authorization": f"Bearer {app.token}"},
        proxy=None,
        open_timeout=START_LIMIT_S,
        ping_timeout=None,
    )


# --- commands made from the schema ---

WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    1e300,
    10**40,
    2**63,
    "",
    [],
    {},
    "x" * 3000,
    [[]],
    {"a": {}},
    -0.5,
    "\0",
]
UNSAFE = {"models.unload", "models.load", "models.add", "settings.set"}


class Maker:
    """Values that a JSON Schema allows, and some that it doesn't."""

    def __init__(self, schema: Frame, seed: int) -> None:
        self.schema, self.random = schema, random.Random(seed)
        self.generations: list[str] = ["gen_none"]

    def resolved(self, node: Frame) -> Frame:
        while "$ref" in node:
            target: Any = self.schema
            for key in node["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            node = target
        return node

    def commands(self) -> dict[str, Frame]:
        found = {}
        for node in self.schema["$defs"].values():
            fields = node.get("properties", {})
            name = self.resolved(fields.get("type", {})).get("const")
            if name and "id" in fields and name not in UNSAFE | {"reply"}:
                found[name] = node
        return found

    def value(self, node: Frame, name: str = "", depth: int = 0) -> Any:
        node = self.resolved(node)
        if name == "generation_id":
            return self.random.choice(self.generations[-5:])
        for key in ("anyOf", "oneOf"):
            if key in node:
                return self.value(self.random.choice(node[key]), name, depth)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return self.random.choice(node["enum"])
        match node.get("type"):
            case "object":
                return {
                    key: self.value(field, key, depth + 1)
                    for key, field in node.get("properties", {}).items()
                    if key in node.get("required", ()) or self.random.random() < 0.3
                }
            case "array":
                least = node.get("minItems", 0)
                return [self.value(node.get("items", {}), name, depth + 1) for _ in range(max(least, 2))]
            case "integer" | "number":
                low: Any = node.get("minimum", node.get("exclusiveMinimum", 0))
                return int(low) + self.random.randint(0, 20)
            case "boolean":
                return self.random.random() < 0.5
            case "null":
                return None
        return self.random.choice(("abc", "hello", "😀", "a b"))

    def command(self, shapes: dict[str, Frame]) -> Frame:
        name = self.random.choice(
            [*shapes, *("generate", "rewind", "inject", "fork", "pause", "step", "resume") * 2]
        )
        made: Frame = self.value(shapes[name]) | {"type": name}
        if name == "generate" and self.random.random() < 0.7:
            made = {"type": name, "prompt": "hi", "max_tokens": self.random.randint(1, 60)}
        if self.random.random() < 0.35:
            made[self.random.choice(list(made))] = self.random.choice(WRONG)
        if self.random.random() < 0.05:
            made["bogus"] = 1
        return made


def test_every_command_is_answered_once_and_every_generation_finishes_once(app: Serve) -> None:
    async def work() -> None:
        async with http(app) as web, app.client("?name=sender") as wire, app.client("?name=other") as other:
            maker = Maker((await web.get("/v1/schema")).json(), seed=4)
            shapes = maker.commands()
            assert len(shapes) > 20
            await other.command(
                "subscribe", events=["generation.queued", "generation.finished", "metrics.custom"]
            )

            def replies_so_far() -> list[Frame]:
                return [frame for frame in wire.frames if frame["type"] == "reply"]

            sent: Counter[str] = Counter()
            for number in range(500):
                made = maker.command(shapes)
                made["id"] = maker.random.choice([f"n{number}", [number], {"n": number}])
                sent[json.dumps(made["id"])] += 1
                await wire.connection.send(json.dumps(made))
                if number % 25 == 24:  # below 64 unanswered ones
                    await wire.until(lambda _: len(replies_so_far()) == sent.total())
                replies = [frame for frame in wire.frames[-60:] if frame["type"] == "reply" and frame["ok"]]
                maker.generations += [
                    r["result"]["generation_id"] for r in replies if "generation_id" in r["result"]
                ]
            await wire.command("publish", series="all queued", value=1)
            await other.event("metrics.custom", series="all queued")
            for generation in {frame["generation_id"] for frame in other.events("generation.queued")}:
                await wire.command("cancel", generation_id=generation)
            answered = Counter(json.dumps(frame["id"]) for frame in replies_so_far())
            assert {key: answered[key] for key in sent} == sent
            codes = Counter(frame["error"]["code"] for frame in replies_so_far() if not frame["ok"])
            assert not codes["internal"], codes
            assert codes["invalid_argument"] > 50
            assert len(replies_so_far()) - codes.total() > 50
            queued = [frame["generation_id"] for frame in other.events("generation.queued")]
            for generation in queued:
                await other.finished(generation)
            assert sorted(queued) == sorted(f["generation_id"] for f in other.events("generation.finished"))
            assert len(queued) == len(set(queued)) > 3

    run(work(), LIMIT_S)


def test_a_flood_is_answered_to_the_last_frame_and_disturbs_nobody(app: Serve) -> None:
    async def work() -> None:
        async with app.client() as flooder, app.client() as other:
            generation = await other.generate(max_tokens=40)
            for number in range(2000):
                await flooder.connection.send(f'{{"id": {number}, "type": "unsubscribe"}}')
            assert len((await other.finished(generation))["text"]) > 0
            assert other.indices(generation) == list(range(40))
            await eventually(lambda: len(flooder.frames) > 2000, LIMIT_S)  # the hello, and a reply each
            replies = [frame for frame in flooder.frames if frame["type"] == "reply"]
            assert sorted(frame["id"] for frame in replies) == list(range(2000))
            assert {frame["error"]["code"] for frame in replies if not frame["ok"]} <= {"busy"}

    run(work(), LIMIT_S)


def test_an_engine_faster_than_the_app_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Answers are so long that they end well after the replies, unless these wait for them."""

    async def work(app: Serve) -> None:
        async with app.client() as asker, app.client("?hold=1") as other:
            await other.command("subscribe", events=["generation.started", "generation.finished"])
            asked = [await asker.generate(f"n{n}", max_tokens=900_000) for n in range(3)]
            for generation in asked:
                await other.event("generation.started", generation_id=generation)
            await other.command("ping")
            for generation in asked:
                await other.command("cancel", generation_id=generation)
            for generation in asked:
                assert (await other.finished(generation))["finish_reason"] == "cancelled"

    with serve(tmp_path, "fake:tokens=1000000,ctx=2000000,slots=4") as app:
        run(work(app), LIMIT_S)


# --- coming back ---


def told(frames: list[Frame]) -> tuple[dict[str, list[tuple[int, int]]], list[int]]:
    """The tokens of each generation, and the numbers of all events that are never merged or replaced."""
    tokens: dict[str, list[tuple[int, int]]] = {}
    others = []
    for frame in frames:
        if frame["type"] == "generation.delta":
            told = tokens.setdefault(frame["generation_id"], [])
            told += [(token["index"], token["id"]) for token in frame["tokens"]]
        elif frame["type"] not in ("metrics.step", "metrics.system", "metrics.clients"):
            others.append(frame["seq"])
    return tokens, others


def test_who_comes_back_at_any_point_is_told_everything_once_also_over_a_death_of_the_engine(
    tmp_path: Path,
) -> None:
    async def work(app: Serve) -> None:
        chance = random.Random(7)
        async with app.client("?hold=1") as steady, app.client() as asker:
            since: int = 0
            run_id = (await steady.event("hello"))["run_id"]
            await steady.command("subscribe", since=since, run_id=run_id)
            asked = [await asker.generate(f"n{n}", max_tokens=300) for n in range(6)]
            seen: list[Frame] = []
            for turn in range(60):
                async with app.client("?client=wanderer&hold=1") as wire:
                    await wire.send("subscribe", since=since, run_id=run_id)
                    await asyncio.sleep(chance.random() * 0.05)
                    if chance.random() < 0.5:
                        wire.connection.transport.abort()
                    fresh = wire.events()
                assert not any(frame["type"] == "reset" for frame in wire.frames)
                for frame in fresh:
                    assert frame["first_seq" if "first_seq" in frame else "seq"] > since, "told twice"
                    since = frame["seq"]
                seen += fresh
                if turn == 20:
                    await asker.event("generation.delta")
                    os.kill((await asker.command("snapshot"))["engine"]["pid"], signal.SIGKILL)
                if turn % 10 == 5:
                    asked.append(await asker.generate(f"m{turn}", max_tokens=60))
            for generation in asked:
                await asker.finished(generation)
            async with app.client("?client=wanderer&hold=1") as wire:
                until = (await wire.command("subscribe", since=since, run_id=run_id))["seq"]
                for client in (steady, wire):
                    await client.until(lambda f: f["type"] not in ("hello", "reply") and f["seq"] >= until)
                seen += wire.events()
            mine, theirs = ([f for f in frames if f["seq"] <= until] for frames in (seen, steady.events()))
            assert told(mine) == told(theirs)
            assert len(told(seen)[0]) == len(asked)

    with serve(tmp_path, "fake:tokens=400,delay_ms=4") as app:
        run(work(app), LIMIT_S)


# --- the dialects ---

HI = [{"role": "user", "content": "hi"}]
WRONG_MESSAGES: list[Any] = [
    *([], "x", [1], [{}], [{"role": "x", "content": "y"}], [{"role": "user", "content": 5}]),
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
]
WRONG_OPTIONS: dict[str, list[Any]] = {
    "max_tokens": [0, "a", 1.5],
    "temperature": [-1, "hot", 1e308],
    "top_p": [2, -1],
    "n": [0, 33, "x"],
    "stop": [5, [""], ["a"] * 17],
    "logit_bias": [{"x": 1}, {"1": 2000}, [], {"9" * 20: 1}],
    "seed": ["x"],
    "logprobs": ["x"],
    "top_logprobs": [5],
    "tools": [[{}], "x", [{"type": "web_search"}]],
    "tool_choice": ["required", "sometimes", {"type": "function", "function": {"name": "q"}}],
    "response_format": ["json", {"type": "xml"}, {"type": "json_schema"}],
    "grammar": ["root ::= (", 5],
    "functions": [[{"name": "x"}]],
    "stream": ["yes"],
    "min_p": [9],
    "repeat_penalty": [-3],
    "chat_template_kwargs": [5],
}
WRONG_PROMPTS: list[Any] = [5, [], [-1], [10**12], ["a"] * 33, {"a": 1}, [[]]]
WRONG_INPUTS: list[Any] = [5, [], ["a"] * 2049, [[10**12]], [["a"]], {"a": 1}]
WRONG_RESPONSES: list[Any] = [
    *({}, {"input": 5}, {"input": []}, {"input": [{"type": "zz"}]}),
    {"input": "x", "previous_response_id": "resp_x"},
    {"input": "x", "max_output_tokens": 0},
    {"input": [{"type": "function_call_output", "call_id": "zz", "output": "1"}]},
]
WRONG_BODIES = [
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'{"messages":NaN}',
        b'{"a":1,"a":2}',
        b"\xff\xfe",
        b'{"messages":1e400}',
    ),
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b"[" * 20_000,
]


def wrong_requests() -> Iterator[tuple[str, bytes]]:
    """Path and body of each."""
    chat = "/v1/chat/completions"
    yield from ((chat, body) for body in WRONG_BODIES)
    bodies: list[tuple[str, Frame]] = [(chat, {}), ("/v1/completions", {}), ("/v1/embeddings", {})]
    bodies += [(chat, {"messages": messages}) for messages in WRONG_MESSAGES]
    bodies += [
        (chat, {"messages": HI, name: value}) for name in WRONG_OPTIONS for value in WRONG_OPTIONS[name]
    ]
    bodies += [("/v1/completions", {"prompt": prompt}) for prompt in WRONG_PROMPTS]
    bodies += [("/v1/embeddings", {"input": text}) for text in WRONG_INPUTS]
    bodies += [("/v1/responses", body) for body in WRONG_RESPONSES]
    yield from ((path, json.dumps(body).encode()) for path, body in bodies)


def test_what_is_wrong_with_a_request_is_a_400_that_says_what(app: Serve) -> None:
    async def work() -> None:
        async with http(app) as web:
            asked = list(wrong_requests())
            assert len(asked) > 70
            for path, body in asked:
                answer = await web.post(path, content=body, headers={"Content-Type": "application/json"})
                assert answer.status_code == 400, (path, body[:80], answer.text)
                error = answer.json()["error"]
                assert set(error) >= {"message", "type", "param", "code"}, (path, body[:80])
                assert error["message"], (path, body[:80])
            for method, path, status in (
                ("GET", "/nope", 404),
                ("GET", "/v1/chat/completions", 405),
                ("GET", "/v1/models/nope", 404),
                ("GET", "/v1/live", 426),
                ("DELETE", "/v1/responses/resp_none", 404),
            ):
                assert (await web.request(method, path)).status_code == status, path

    run(work(), LIMIT_S)


def test_who_leaves_any_dialect_frees_the_slot(tmp_path: Path) -> None:
    """One slot only, so that the next one's turn shows that it is free."""
    paths: dict[str, Frame] = {
        "/v1/chat/completions": {"messages": HI},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
    }

    async def leaves_http(web: httpx.AsyncClient, wire: Wire, path: str, body: Frame, origin: str) -> None:
        asking = asyncio.create_task(web.post(path, json=body))
        await begun(wire, origin)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

    async def begun(wire: Wire, origin: str) -> None:
        queued = await wire.event("generation.queued", origin=origin)
        await wire.event("generation.delta", generation_id=queued["generation_id"])

    async def work(app: Serve) -> None:
        for path, stream, websocket in [
            *itertools.product(paths, (False, True), (False,)),
            ("/v1/responses", False, True),
        ]:
            async with http(app) as web, app.client() as wire:
                await wire.command("subscribe", events=["generation.*"])
                origin = path.removeprefix("/v1/").replace("/", "_")
                if websocket:
                    connection = await responses(app)
                    for text in ("first", "waits"):
                        await connection.send(json.dumps({"type": "response.create", "input": text}))
                    await begun(wire, origin)
                    await connection.close()
                else:
                    await leaves_http(web, wire, path, paths[path] | {"stream": stream}, origin)
                ended = await wire.event("generation.finished")
                assert ended["finish_reason"] == "cancelled", (path, stream)
                mine = await wire.generate(max_tokens=1)
                assert (await wire.finished(mine))["finish_reason"] == "length"

    with serve(tmp_path, f"{LASTING},slots=1") as app:
        run(work(app), LIMIT_S)


# --- permissions ---

ALLOWED_BY: dict[str, tuple[Frame, str | None]] = {
    "ping": ({}, None),
    "snapshot": ({}, None),
    "unsubscribe": ({}, None),
    "models.list": ({}, "observe"),
    "conversations.list": ({}, "observe"),
    "conversations.export": ({"all": True}, "observe"),
    "settings.get": ({}, "observe"),
    "generate": ({"prompt": "x", "max_tokens": 2}, "generate"),
    "embed": ({"input": "x"}, "generate"),
    "publish": ({"series": "x", "value": 1}, "generate"),
    "models.load": ({"model": "none"}, "manage"),
    "conversations.create": ({"title": "x"}, "manage"),
    "conversations.delete": ({"conversation_id": "none"}, "manage"),
    "conversations.import": ({"data": HI}, "manage"),
    "settings.set": ({"settings": {"theme": "dark"}}, "manage"),
    "models.add": ({"path": "/none.gguf"}, "owner"),
    "pause": ({}, "control"),
    "update": ({"sampling": {"top_k": 3}}, "control"),
    "inject": ({"text": "x"}, "control"),
    "rewind": ({"tokens": 1}, "control"),
    "resume": ({}, "control"),
    "fork": ({"at_token": 0}, "control+observe"),
    "tool_result": ({"call_id": "x", "content": "x"}, "control+observe"),
}
"""Command, its arguments (on somebody else's generation) and what it takes."""


def test_each_set_of_permissions_opens_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    secret = "a prompt that is nobody else's"
    sets = [("observe",), ("generate",), ("control",), ("manage",), ("generate", "control"), PERMISSIONS]

    async def commands(app: Serve, can: tuple[str, ...], token: str) -> None:
        async with app.client("?name=owner") as owner, app.client(token=token) as wire:
            theirs = await owner.generate(secret, max_tokens=1_000_000)
            assert (await wire.event("hello"))["permissions"] == list(can)
            await wire.command("subscribe", since=0)
            for name, (arguments, need) in ALLOWED_BY.items():
                if need in ("control", "control+observe"):
                    arguments = arguments | {"generation_id": theirs}
                reply = await wire.reply(await wire.send(name, **arguments))
                forbidden = not reply["ok"] and reply["error"]["code"] == "forbidden"
                assert forbidden != (need is None or set(need.split("+")) <= set(can)), (name, can, reply)
                if name == "fork" and reply["ok"]:
                    await owner.command("cancel", generation_id=reply["result"]["generation_id"])
            if "observe" in can:
                await wire.until(lambda frame: secret in json.dumps(frame))
            else:
                await wire.command("ping")
                assert secret not in json.dumps(wire.frames), can
            await owner.command("cancel", generation_id=theirs)

    async def dialects(app: Serve, can: tuple[str, ...], token: str) -> None:
        async with http(app) as owner, http(app, token) as web:
            for path, body in (("/v1/chat/completions", {"messages": HI}), ("/v1/responses", {"input": "x"})):
                limit = {"max_tokens": 1} if "messages" in body else {"max_output_tokens": 1}
                assert ((await web.post(path, json=body | limit)).status_code == 403) == (
                    "generate" not in can
                )
            assert ((await web.get("/metrics")).status_code == 403) == ("observe" not in can)
            assert (await web.get("/v1/models")).status_code == 200
            made = (await owner.post("/v1/responses", json={"input": secret, "max_output_tokens": 2})).json()[
                "id"
            ]
            more = {"input": "x", "max_output_tokens": 1}
            for answer in (
                await web.get(f"/v1/responses/{made}/input_items"),
                await web.post("/v1/responses", json=more | {"previous_response_id": made}),
                await web.delete(f"/v1/responses/{made}"),
            ):
                if not {"observe", "generate"} <= set(can):
                    assert answer.status_code in (400, 403, 404), (can, answer.text)
                    assert secret not in answer.text, can

    with serve(tmp_path, LONG) as app:
        for can in sets:
            token = make_token(app, "-".join(can), ",".join(can))
            run(commands(app, can, token), LIMIT_S)
            run(dialects(app, can, token), LIMIT_S)


def test_a_damaged_list_of_tokens_lets_nobody_but_the_owner_in(tmp_path: Path) -> None:
    async def status(app: Serve, token: str) -> int:
        async with http(app, token) as web:
            return (await web.get("/v1/models")).status_code

    def write(kept: Path, data: bytes | None) -> None:
        kept.unlink(missing_ok=True)
        if data is not None:
            kept.write_bytes(data)

    async def work(app: Serve, token: str, kept: Path, good: bytes) -> None:
        for damage in (b"", good[: len(good) // 2], b"\xff" * 200, b"null", b"[" * 100_000, None):
            write(kept, damage)
            await unless(app, token, 200)
            assert await status(app, app.token) == 200
            if damage is not None:
                listed = command(app.home, "token", "list")
                _, err = listed.communicate(timeout=LIMIT_S)
                assert listed.returncode == 1, err
                assert err.count(b"\n") == 1, err
            write(kept, good)
            await unless(app, token, 401)

    async def unless(app: Serve, token: str, old: int) -> None:
        """Until the app has seen the file's change."""
        for _ in range(int(END_LIMIT_S / 0.05)):
            if await status(app, token) != old:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"still {old}")

    with serve(tmp_path) as app:
        token = make_token(app, "reader", "observe")
        kept = app.home / "config" / "tokens.json"
        assert token.encode() not in kept.read_bytes()
        run(work(app, token, kept, kept.read_bytes()), LIMIT_S)


# --- the doors ---


def test_one_right_value_doesnt_open_a_door_that_another_keeps_shut(app: Serve) -> None:
    async def status(query: str = "", **options: Any) -> int:
        try:
            async with connect(app.ready["url"] + query, proxy=None, open_timeout=START_LIMIT_S, **options):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    async def work() -> None:
        token = app.token
        right = {"Authorization": f"Bearer {token}"}
        assert await status(f"?token={token}") == 101
        assert await status(subprotocols=["tokenglass.v1", f"bearer.{token}"]) == 101
        for query, options, wanted in (
            ("", {}, 401),
            ("?token=", {}, 401),
            (f"?token={token}x", {}, 401),
            (f"?token={token}&token=x", {}, 401),
            ("", {"subprotocols": ["tokenglass.v1", "bearer.x"]}, 401),
            (f"?token={token}", {"origin": "null"}, 403),
            (f"?token={token}", {"origin": "http://127.0.0.1:8000"}, 403),
            (f"?token={token}", {"origin": app.ready["base_url"].removesuffix("/v1") + ".evil.example"}, 403),
            ("/", {"additional_headers": right}, 404),
        ):
            assert await status(query, **options) == wanted, (query.replace(token, "T"), options)
        async with http(app) as web:
            assert (await web.get("/v1/models", headers={"Host": "evil.example"})).status_code == 421
            assert (await web.get("/health", headers={"Host": "evil.example"})).status_code == 421
            assert (await web.get("/health", headers={"Authorization": ""})).status_code == 200

    run(work(), LIMIT_S)


# --- the end ---


def stuck(app: Serve) -> Iterator[socket.socket]:
    """Clients of every kind that never read, or never say the rest."""
    port = httpx.URL(app.ready["base_url"]).port
    door = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {app.token}\r\n"
    key = base64.b64encode(bytes(16)).decode()
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
    upgrade += "Sec-WebSocket-Version: 13\r\n"

    def frame(text: bytes) -> bytes:
        return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text  # masked with zeros

    def post(path: str, body: Frame) -> bytes:
        data = json.dumps(body).encode()
        return f"POST {path} HTTP/1.1\r\n{door}Content-Length: {len(data)}\r\n\r\n".encode() + data

    live = f"GET /v1/live HTTP/1.1\r\n{door}{upgrade}\r\n".encode()
    for said in (
        b"",
        b"GET /v1/li",
        f"POST /v1/responses HTTP/1.1\r\n{door}Content-Length: 500\r\n\r\n{{".encode(),
        live + frame(b'{"id":1,"type":"subscribe"}'),
        live + frame(b'{"id":1,"type":"ping"}')[:-5],
        f"GET /v1/responses HTTP/1.1\r\n{door}{upgrade}\r\n".encode()
        + frame(b'{"type":"response.create","input":"x"}'),
        post("/v1/chat/completions", {"messages": HI, "stream": True}),
        post("/v1/responses", {"input": "x", "stream": True}),
        post("/v1/responses", {"input": "x"}),
    ):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(said)
        yield client


def test_it_quits_though_clients_of_every_kind_are_stuck(tmp_path: Path) -> None:
    async def wait_for_work(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe", since=0)
            await eventually(lambda: len(wire.events("generation.started")) >= 4, LIMIT_S)

    with serve(tmp_path, LONG) as app, contextlib.ExitStack() as open_:
        for _ in range(3):
            for client in stuck(app):
                open_.enter_context(client)
        run(wait_for_work(app), LIMIT_S)
        app.signal(signal.SIGTERM)
        assert app.wait() == 0
        assert not app.server_file.exists()


def test_a_response_that_quitting_cuts_says_so(tmp_path: Path) -> None:
    async def work(app: Serve) -> None:
        connection = await responses(app)
        await connection.send(json.dumps({"type": "response.create", "input": "x"}))
        seen = []
        async for text in connection:
            seen.append(json.loads(text)["type"])
            if seen.count("response.output_text.delta") == 3:
                app.signal(signal.SIGTERM)
        assert seen[-1] in ("response.failed", "response.incomplete"), seen[-3:]
        assert connection.close_code == 1001

    with serve(tmp_path, LONG, program=program("server.LAST_WORDS_S = 30.0")) as app:
        run(work(app), LIMIT_S)
        assert app.wait() == 0


def test_neither_token_nor_prompt_is_in_logs_arguments_or_environments(tmp_path: Path) -> None:
    with serve(tmp_path) as app:
        token, owner = make_token(app, "reader", "observe,generate"), app.token

        async def work() -> None:
            async with http(app, token) as web, app.client(f"?token={owner}") as wire:
                await web.post(
                    "/v1/chat/completions", json={"messages": [{"role": "user", "content": "my diary"}]}
                )
                await web.get(f"/v1/models?token={owner}", headers={"Authorization": "Bearer wrong"})
                await wire.finished(await wire.generate("my diary"))

        run(work(), LIMIT_S)
        app.signal(0)
        if sys.platform == "linux":
            for child in app.children:
                for name in ("cmdline", "environ"):
                    said = Path(f"/proc/{child.pid}/{name}").read_bytes()
                    assert owner.encode() not in said
                    assert token.encode() not in said
        diagnostics = subprocess.run(
            [sys.executable, "-m", "desktop", "diagnostics", "--home", str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
        )
        logs = b"".join(file.read_bytes() for file in tmp_path.rglob("*.log*")) + diagnostics.stdout
        for secret in (owner, token, "my diary"):
            assert secret.encode() not in logs
            assert secret not in app.stderr
        assert b"Tokenglass" in logs
