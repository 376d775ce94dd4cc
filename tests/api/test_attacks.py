"""Attacks on the doors, byte by byte, from a bare socket.

Each attack holds valid values for every defence but the one that it aims at. It is shown to be stopped, to
get in with that one value made valid, and to get in where that one defence is switched off: so the attack is
real and nothing else stops it by chance.
"""

import asyncio
import contextlib
import logging
import string
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from api import core as core_module
from api import guard as doors
from api import heads, http, permissions, strangers
from api.core import Core
from api.guard import Guard
from api.permissions import OWNER
from api.tokens import TokenFile
from engine.errors import TokenglassError
from tests.api.harness import ENDLESS, TOKEN, Wire, app, client, eventually, rises, run
from tests.conftest import SOAK

HALF_OPEN = 300
MALFORMED = 5000 if SOAK else 500
WRONG_TOKENS = 10_000 if SOAK else 400
ORIGIN = "http://localhost:3000"
KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="


@dataclass(frozen=True)
class Ask:
    """A request with every value valid; an attack replaces one of them."""

    target: str = "/v1/models"
    method: str = "GET"
    version: str = "1.1"
    host: str = "Host: 127.0.0.1:PORT"
    origin: str = f"Origin: {ORIGIN}"
    token: str = f"Authorization: Bearer {TOKEN}"
    more: str = ""
    """Further lines."""
    body: str = ""
    upgrade: bool = False
    line_end: str = "\r\n"

    def stream(self) -> "Ask":
        """The same, asking for the stream."""
        target = self.target.replace("/v1/models", "/v1/live")
        return replace(self, target=target, upgrade=True)

    def text(self) -> str:
        lines = [f"{self.method} {self.target} HTTP/{self.version}", self.host, self.origin, self.token]
        if self.upgrade:
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY]
        lines += self.more.split("\n")
        return self.line_end.join([line for line in lines if line] + ["", ""]) + self.body


def port_of(core: Core) -> int:
    return int(core.url.split(":")[2].split("/")[0])


async def opened(core: Core) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port_of(core))


async def status(core: Core, text: str | bytes) -> int:
    """What a request is answered with; 0 where the connection ends without an answer."""
    reader, writer = await opened(core)
    try:
        data = text.encode("latin-1", "replace") if isinstance(text, str) else text
        writer.write(data.replace(b"PORT", str(port_of(core)).encode()))
        line = await reader.readline()
        return int(line.split(b" ")[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def guarded(home: Path, model: str = "fake:", **options: Any) -> AsyncIterator[Core]:
    """An app that is ready, and lets pages of one origin in."""
    async with app(home, model, allow_origins=(ORIGIN,), **options) as core:
        await eventually(lambda: core.supervisor.phase == "ready")
        yield core


# ---- one defence at a time


def off(owner: object, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Switches one defence off."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def always(_self: object, *_: object) -> bool:
    return True


def some_grant(_self: object, *_: object) -> Any:
    return OWNER


def nothing(*_: object) -> None:
    return None


NO_HOST = off(Guard, "knows_host", always)
NO_ORIGIN = off(Guard, "knows_origin", always)
NO_TOKEN = off(Guard, "grant", some_grant)
NO_ADDRESS = off(Guard, "is_address", always)
NO_HEADS = off(heads, "problem", nothing)


@dataclass(frozen=True)
class Attack:
    name: str
    status: int
    ask: Ask
    off: Callable[[pytest.MonkeyPatch], None]
    stream: bool = True
    """Whether it is tried on the stream, too."""


def valid(**values: Any) -> Ask:
    return replace(Ask(), **values)


EVIL = "evil.test:PORT"
ATTACKS = (
    # a page whose name was rebound to this address: no Origin on a plain GET, its own with the rest
    Attack("rebound name", 421, valid(host=f"Host: {EVIL}", origin=""), NO_HOST),
    Attack("rebound name, allowed origin", 421, valid(host=f"Host: {EVIL}"), NO_HOST),
    Attack("no port", 421, valid(host="Host: 127.0.0.1"), NO_HOST),
    Attack("another port", 421, valid(host="Host: 127.0.0.1:80"), NO_HOST),
    Attack("0.0.0.0", 421, valid(host="Host: 0.0.0.0:PORT"), NO_HOST),
    Attack("a name before ours", 421, valid(host="Host: 127.0.0.1:PORT.evil.test"), NO_HOST),
    Attack("a name after ours", 421, valid(host="Host: evil.test@127.0.0.1:PORT"), NO_HOST),
    Attack("a dot", 421, valid(host="Host: localhost.:PORT"), NO_HOST),
    Attack("a space that is none", 421, valid(host="Host: 127.0.0.1:PORT\xa0"), NO_HOST),
    Attack("another page", 403, valid(origin="Origin: http://evil.test"), NO_ORIGIN),
    Attack("our own address as a page", 403, valid(origin="Origin: http://127.0.0.1:PORT"), NO_ORIGIN),
    Attack("a sandboxed frame or a file", 403, valid(origin="Origin: null"), NO_ORIGIN),
    Attack("a page on another port", 403, valid(origin="Origin: http://localhost:3001"), NO_ORIGIN),
    Attack("a page over https", 403, valid(origin="Origin: https://localhost:3000"), NO_ORIGIN),
    Attack("a page that begins alike", 403, valid(origin=f"Origin: {ORIGIN}.evil.test"), NO_ORIGIN),
    Attack("an empty origin", 403, valid(origin="Origin: "), NO_ORIGIN),
    Attack("two origins", 403, valid(more="Origin: http://evil.test"), NO_ORIGIN, stream=False),
    Attack("an origin in capitals", 403, valid(origin="Origin: HTTP://LOCALHOST:3000"), NO_ORIGIN),
    Attack("no token", 401, valid(token=""), NO_TOKEN),
    Attack("an empty token", 401, valid(token="Authorization: Bearer "), NO_TOKEN),
    Attack("a wrong token", 401, valid(token=f"Authorization: Bearer {TOKEN[:-1]}8"), NO_TOKEN),
    Attack("a token cut short", 401, valid(token=f"Authorization: Bearer {TOKEN[:-1]}"), NO_TOKEN),
    Attack("a token and more", 401, valid(token=f"Authorization: Bearer {TOKEN}x"), NO_TOKEN),
    Attack("a token in capitals", 401, valid(token=f"Authorization: Bearer {TOKEN.upper()}"), NO_TOKEN),
    Attack("another scheme", 401, valid(token=f"Authorization: Basic {TOKEN}"), NO_TOKEN),
    Attack("a token in a cookie", 401, valid(token=f"Cookie: token={TOKEN}"), NO_TOKEN),
    Attack("a token in the address", 401, valid(token="", target=f"/v1/models?token={TOKEN}"), NO_TOKEN,
           stream=False),  # there it is one of its three places
    Attack("a whole address", 400, valid(target="http://evil.test/v1/models"), NO_ADDRESS),
    Attack("another host in the path", 400, valid(target="//evil.test/v1/models"), NO_ADDRESS),
    Attack("a fragment", 400, valid(target="/v1/models#/v1/live"), NO_ADDRESS),
    Attack("bare line feeds", 400, valid(line_end="\n"), NO_HEADS, stream=False),
    Attack("a folded header", 400, valid(more="X: a\n b"), NO_HEADS, stream=False),
    Attack("two tokens", 400, valid(more="Authorization: Bearer x"), NO_HEADS),
    Attack("both framings", 400, valid(more="Content-Length: 5\nTransfer-Encoding: chunked",
           body="0\r\n\r\n"), NO_HEADS, stream=False),
    Attack("a length twice", 400, valid(more="Content-Length: 0\nContent-Length: 0"), NO_HEADS, stream=False),
    Attack("too many headers", 431, valid(more="\n".join(f"X{n}: y" for n in range(110))), NO_HEADS),
    Attack("a long header", 431, valid(more="X: " + "y" * 8190), NO_HEADS, stream=False),
    Attack("chunks of HTTP/1.0", 400, valid(version="1.0", more="Transfer-Encoding: chunked",
           body="0\r\n\r\n"), NO_HEADS, stream=False),
)  # fmt: skip


def tries(attack: Attack) -> Iterator[tuple[Ask, int]]:
    """The attack on a path and on the stream, each with what it means to be let in there."""
    yield attack.ask, 200
    if attack.stream:
        yield attack.ask.stream(), 101


def test_every_attack_is_stopped_by_the_defence_it_aims_at(tmp_path: Path) -> None:
    async def test() -> None:
        n = 0
        async with guarded(tmp_path) as core:
            for attack in ATTACKS:
                for ask, let_in in tries(attack):
                    assert await status(core, ask.text()) == attack.status, (attack.name, ask)
                    right = Ask().stream() if ask.upgrade else Ask()
                    assert await status(core, right.text()) == let_in, attack.name
                    n += 1
            assert not core.state.generations
        print(f"\n{n} attacks stopped, each gets in with the one value made valid")

    run(test())


@pytest.mark.parametrize("switch", (NO_HOST, NO_ORIGIN, NO_TOKEN, NO_ADDRESS, NO_HEADS),
                         ids=("host", "origin", "token", "address", "head"))  # fmt: skip
def test_with_that_defence_alone_switched_off_they_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: Callable[[pytest.MonkeyPatch], None]
) -> None:
    switch(monkeypatch)

    async def test() -> None:
        n = 0
        async with guarded(tmp_path) as core:
            for attack in ATTACKS:
                for ask, let_in in tries(attack):
                    got = await status(core, ask.text())
                    if attack.off is switch:
                        assert got == let_in, (attack.name, ask)
                        n += 1
                    else:
                        assert got == attack.status, (attack.name, ask)
        print(f"\n{n} attacks get in, the others don't")
        assert n

    run(test())


def test_an_unguarded_build_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What getting in means: a page with nothing right reads what the model says to somebody else."""
    for name in ("knows_host", "knows_origin"):
        monkeypatch.setattr(Guard, name, always)
    monkeypatch.setattr(Guard, "grant", some_grant)

    async def test() -> None:
        async with app(tmp_path, "fake:script=the secret answer") as core:
            evil = Ask(host=f"Host: {EVIL}", origin=f"Origin: http://{EVIL}", token="").stream()
            reader, writer = await opened(core)
            writer.write(evil.text().encode().replace(b"PORT", str(port_of(core)).encode()))
            assert b" 101 " in await reader.readline()
            subscribe = b'{"type":"subscribe"}'
            writer.write(bytes((0x81, 0x80 | len(subscribe))) + bytes(4) + subscribe)
            await reader.readuntil(b'"reply"')
            async with client(core) as wire:
                await wire.finished(await wire.generate())
            await reader.readuntil(b"the secret answer")
            writer.transport.abort()

    run(test())


@pytest.mark.parametrize("switched_off", (False, True))
def test_a_token_does_no_more_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switched_off: bool
) -> None:
    if switched_off:
        monkeypatch.setattr(permissions, "check", nothing)
        monkeypatch.setattr("api.routes.path_refusal", nothing)

    async def test() -> None:
        async with guarded(tmp_path) as core:
            token = TokenFile(core.paths.tokens_file).add("eye", ["observe"])
            body = '{"prompt":"x"}'
            ask = Ask("/v1/completions", "POST", body=body, more=f"Content-Length: {len(body)}")
            assert await status(core, ask.text()) == 200
            held = replace(ask, token=f"Authorization: Bearer {token}")
            assert await status(core, held.text()) == (200 if switched_off else 403)
            async with client(core, token=token) as wire:
                frame = await wire.reply(await wire.send("generate", prompt="x"))
                assert frame["ok"] is switched_off

    run(test())


def test_the_service_alone_stops_what_the_door_lets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.path_refusal", nothing)

    async def test() -> None:
        async with guarded(tmp_path) as core:
            token = TokenFile(core.paths.tokens_file).add("eye", ["observe"])
            for path, body in (
                ("/v1/completions", '{"prompt":"x"}'),
                ("/v1/chat/completions", '{"messages":[{"role":"user","content":"x"}]}'),
                ("/v1/embeddings", '{"input":"x"}'),
            ):
                ask = Ask(path, "POST", body=body, more=f"Content-Length: {len(body)}")
                assert await status(core, replace(ask, token=f"Authorization: Bearer {token}").text()) == 403
            assert not core.state.finished

    run(test())


# ---- requests in a request


SMUGGLED = "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
FRAMINGS = (
    ("chunked under another name", "Transfer-Encoding: xchunked", "0\r\n\r\n"),
    ("chunked after a space", "Transfer-Encoding : chunked", "0\r\n\r\n"),
    ("chunked in a fold", "Transfer-Encoding:\n chunked", "0\r\n\r\n"),
    ("chunked after a tab", "Transfer-Encoding:\tchunked\nContent-Length: 5", "0\r\n\r\n"),
    ("chunked with a vertical tab", "Transfer-Encoding: \x0bchunked", "0\r\n\r\n"),
    ("identity too", "Transfer-Encoding: identity, chunked", "0\r\n\r\n"),
    ("two codings", "Transfer-Encoding: chunked\nTransfer-Encoding: identity", "0\r\n\r\n"),
    ("two lengths", "Content-Length: 0\nContent-Length: 60", ""),
    ("two lengths in one", "Content-Length: 0, 60", ""),
    ("a length with a sign", "Content-Length: +0", ""),
    ("a length with a space", "Content-Length: 0 0", ""),
    ("a length in hexadecimal", "Content-Length: 0x0", ""),
    ("a length with an underscore", "Content-Length: 1_0", ""),
    ("other digits", "Content-Length: \xb2", ""),
    ("a length and chunks", "Content-Length: 0\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ("a chunk's size with a sign", "Transfer-Encoding: chunked", "+0\r\n\r\n"),
    ("a chunk's size of 0x", "Transfer-Encoding: chunked", "0x0\r\n\r\n"),
    ("a chunk's size that overflows", "Transfer-Encoding: chunked", f"1{'0' * 32}\r\n\r\n"),
    ("a chunk that ends with LF", "Transfer-Encoding: chunked", "1\r\na\n0\r\n\r\n"),
    ("a chunk's size that ends with LF", "Transfer-Encoding: chunked", "1\na\r\n0\r\n\r\n"),
    ("a chunk without its end", "Transfer-Encoding: chunked", "1\r\naXX0\r\n\r\n"),
    ("a bare CR before a name", "X: y\rContent-Length: 60", ""),
    ("a zero byte", "X: \0", ""),
)


def test_no_request_hides_in_another(tmp_path: Path) -> None:
    """What follows is read as a request of its own by nobody: one answer that refuses, then the end."""

    async def test() -> None:
        async with guarded(tmp_path) as core:
            for name, lines, body in FRAMINGS:
                for end in ("\r\n\r\n", "\n\n"):
                    ask = Ask("/v1/embeddings", "POST", more=lines, body=body + SMUGGLED)
                    text = ask.text().replace("\r\n\r\n", end, 1)
                    reader, writer = await opened(core)
                    writer.write(text.encode("latin-1").replace(b"PORT", str(port_of(core)).encode()))
                    answer = await reader.read()
                    writer.transport.abort()
                    assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
                    assert int(answer.split(b" ")[1]) in (400, 413, 431, 501), (name, answer)
        print(f"\n{2 * len(FRAMINGS)} requests with another one hidden in them: each refused, none answered")

    run(test())


def test_a_clean_request_of_that_form_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path, "fake:embedding=1") as core:
            for lines, body in (
                ("Content-Length: 13", '{"input":"x"}'),
                ("Transfer-Encoding: chunked", '1\r\n{\r\nC\r\n"input":"x"}\r\n0\r\n\r\n'),
            ):
                ask = Ask("/v1/embeddings", "POST", more=lines, body=body)
                reader, writer = await opened(core)
                right = SMUGGLED.replace("\r\n\r\n", f"\r\n{Ask().token}\r\nConnection: close\r\n\r\n")
                writer.write((ask.text() + right).replace("PORT", str(port_of(core))).encode())
                answer = await reader.read()
                writer.transport.abort()
                assert answer.count(b"HTTP/1.1 200 OK") == 2, answer

    run(test())


# ---- while another client follows a generation


@contextlib.asynccontextmanager
async def followed(core: Core) -> AsyncIterator[Wire]:
    """A client that follows a long generation meanwhile; it must miss nothing and see nothing else end."""
    async with client(core) as wire:
        await wire.command("subscribe", events=["*"])
        generation_id = await wire.generate(max_tokens=90_000)
        await wire.event("generation.started", generation_id=generation_id)
        yield wire
        await wire.until(lambda frame: any(token["index"] >= 30 for token in frame.get("tokens", ())))
        await wire.command("cancel", generation_id=generation_id)
        finished = await wire.finished(generation_id)
        indices = wire.indices(generation_id)
        assert indices == list(range(finished["usage"]["completion_tokens"]))
        assert len(indices) > 30
        assert finished["finish_reason"] == "cancelled"
        assert rises(wire.events())
        for came in wire.events("client.connected"):
            await wire.event("client.disconnected", client_id=came["client_id"])


def quiet(core: Core, before: int = 0) -> str:
    """The log, which must have no traceback and not more than a few lines for all that."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    text = core.paths.log_file.read_text()
    assert "Traceback" not in text
    assert TOKEN not in text
    assert len(text) - before < 20_000
    assert not list(core.paths.log_file.parent.glob("*.1"))
    return text


SCHEMES = ("Bearer ", "bearer\t", "")


def malformed(chance: Random) -> Ask:
    """A request with one header that can't be what it should be, whatever the others are."""
    letters = string.printable[:95] + "\t\x00\x0b\x7f\x80\xa0\xe9\xff"

    def garbage() -> str:
        kind = chance.randrange(8)
        if kind == 0:
            return ""
        if kind == 1:
            return chance.choice(letters) * chance.choice((1, 8000, 8192, 70_000))
        if kind == 2:
            return chance.choice(
                ("http://[", "[::1", "%00", "\\", "//", "@", ":", "127.0.0.1:99999", "null", "*")
            )
        return "".join(chance.choices(letters, k=chance.randint(1, 200)))

    place = chance.randrange(5)
    ask = Ask()
    if place == 0:
        ask = replace(ask, host=f"Host: {garbage()}.")
    elif place == 1:
        ask = replace(ask, origin=f"Origin: {garbage()}!")
    elif place == 2:
        ask = replace(ask, token=f"Authorization: {chance.choice(SCHEMES)}{garbage()}!")
    elif place == 3:
        ask = replace(
            ask, more=chance.choice((f"\x01{garbage()}: x", f" {garbage()}", f"a {garbage()}: x", ":"))
        )
    else:
        ask = replace(ask, more=chance.choice((f"{ask.host}\nX: {garbage()}", f"{ask.token}\nX: {garbage()}",
                                               f"{ask.origin}\nX: {garbage()}")))  # fmt: skip
    return ask.stream() if chance.random() < 0.5 else ask


@pytest.mark.timeout(1800 if SOAK else 300)
def test_malformed_headers(tmp_path: Path) -> None:
    seed = 20_261_121
    chance = Random(seed)

    async def test() -> None:
        counts: dict[int, int] = {}
        async with guarded(tmp_path, ENDLESS) as core:
            async with followed(core):
                for _ in range(MALFORMED):
                    ask = malformed(chance)
                    got = await status(core, ask.text())
                    assert got == 0 or 400 <= got < 500, (got, ask)
                    counts[got] = counts.get(got, 0) + 1
            quiet(core)
        print(f"\n{MALFORMED} malformed heads (seed {seed}): {dict(sorted(counts.items()))}")
        assert counts.get(0, 0) == 0
        assert set(counts) >= {400, 401, 403, 421}

    run(test(), 1700 if SOAK else 240)


def wrong(chance: Random) -> str:
    """A token that is almost right."""
    place = chance.randrange(len(TOKEN))
    other = chance.choice(string.ascii_letters.replace(TOKEN[place], ""))
    return chance.choice((
        TOKEN[:place], TOKEN[:place] + other + TOKEN[place + 1 :], TOKEN + other, other + TOKEN,
        TOKEN[place + 1 :], "".join(chance.choices(string.ascii_letters, k=len(TOKEN))), f"tg_{TOKEN}",
        TOKEN.swapcase(),
    ))  # fmt: skip


@pytest.mark.timeout(1800 if SOAK else 300)
def test_wrong_tokens(tmp_path: Path) -> None:
    chance = Random(7)

    async def test() -> None:
        async with guarded(tmp_path, ENDLESS) as core:
            TokenFile(core.paths.tokens_file).add("other", ["observe"])
            async with followed(core) as wire:
                waited = await times(wire, 20)
                started = time.monotonic()
                meanwhile: list[float] = []
                for number in range(WRONG_TOKENS):
                    token = f"Authorization: Bearer {wrong(chance)}"
                    ask = Ask(token=token) if number % 2 else Ask(token=token).stream()
                    assert await status(core, ask.text()) == 401
                    if number % 20 == 0:
                        meanwhile += await times(wire, 1)
                seconds = time.monotonic() - started
                right = await status(core, Ask().text())
            text = quiet(core)
        lines = text.count("refused: 401")
        assert right == 200
        assert lines <= strangers.TOLD_BURST + seconds * strangers.TOLD_PER_S + 1
        print(
            f"\n{WRONG_TOKENS} wrong tokens in {seconds:.1f} s, 0 accepted, {lines} lines in the log; "
            f"a client's ping, median: {middle(waited):.2f} ms before, {middle(meanwhile):.2f} meanwhile"
        )

    run(test(), 1700 if SOAK else 240)


async def times(wire: Wire, n: int) -> list[float]:
    """How long pings take, in ms."""
    taken = []
    for _ in range(n):
        started = time.monotonic()
        await wire.command("ping")
        taken.append(1000 * (time.monotonic() - started))
    return taken


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


# ---- half-open


def half(kind: str) -> str:
    """As much of a request as comes at once."""
    ask = Ask("/v1/completions", "POST", more="Content-Length: 100").text()
    return {
        "silent": "",
        "half a head": ask[:60],
        "a byte a second": "G",
        "half a body": ask + "{",
        "half a body without a token": ask.replace(TOKEN, "x") + "{",
        "half a handshake": Ask().stream().text()[:-2],
        "TLS": "\x16\x03\x01\x02\x00\x01\x00",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ("silent", "half a head", "a byte a second", "half a body", "half a body without a token",
     "half a handshake", "TLS"),
)  # fmt: skip
def test_half_open_connections_leave_room_and_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(http, "BODY_S", 3.0)

    async def test() -> None:
        async with guarded(tmp_path, ENDLESS) as core, followed(core):
            data = half(kind).encode("latin-1").replace(b"PORT", str(port_of(core)).encode())
            held = []
            for _ in range(HALF_OPEN):
                reader, writer = await opened(core)
                writer.write(data)
                held.append((reader, writer))
            dripping = asyncio.create_task(drip([writer for _, writer in held])) if kind[0] == "a" else None
            started = time.monotonic()
            async with client(core) as good:
                await good.command("ping")
            assert await status(core, Ask().text()) == 200
            body = '{"prompt":"x","max_tokens":1}'
            post = Ask("/v1/completions", "POST", more=f"Content-Length: {len(body)}", body=body)
            assert await status(core, post.text()) == 200
            good_ms = 1000 * (time.monotonic() - started)
            for reader, _ in held:
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            await eventually(lambda: len(core._server._open) <= 4)  # those told why are last
            ended_s = time.monotonic() - started
            if dripping is not None:
                dripping.cancel()
            for _, writer in held:
                writer.transport.abort()
            quiet(core)
        print(
            f"\n{HALF_OPEN} × {kind}: good clients served in {good_ms:.0f} ms, all ended in {ended_s:.1f} s"
        )

    run(test())


async def drip(writers: list[asyncio.StreamWriter]) -> None:
    for byte in b"ET /v1/models HTTP/1.1\r\nX: " + b"y" * 1000:
        await asyncio.sleep(1)
        for writer in writers:
            if not writer.transport.is_closing():
                writer.write(bytes((byte,)))


def test_who_waits_longest_without_a_token_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MAX_STRANGERS", 3)
    monkeypatch.setattr("api.handshake.FIRST_HEAD_S", 30.0)

    async def test() -> None:
        async with guarded(tmp_path) as core, client(core) as wire:
            held = [await opened(core) for _ in range(3)]
            await eventually(lambda: len(core._server.strangers) == 3)
            for reader, writer in held[:2]:
                newer = await opened(core)
                assert await reader.read() == b""
                writer.transport.abort()
                held.append(newer)
            assert len(core._server.strangers) == 3
            assert await status(core, Ask().text()) == 200  # in the place of another one
            await wire.command("ping")  # who has shown a token isn't counted
            for _, writer in held:
                writer.transport.abort()

    run(test())


def test_without_the_limits_they_all_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is the limits that end them, and not they themselves."""
    monkeypatch.setattr(strangers, "MAX_STRANGERS", 100_000)
    monkeypatch.setattr("api.handshake.FIRST_HEAD_S", 3600.0)

    async def test() -> None:
        async with guarded(tmp_path) as core:
            held = [await opened(core) for _ in range(HALF_OPEN)]
            await eventually(lambda: len(core._server._open) == HALF_OPEN)
            await asyncio.sleep(3)
            assert len(core._server._open) == len(core._server.strangers) == HALF_OPEN
            for _, writer in held:
                writer.transport.abort()

    run(test())


def test_a_flood_of_strangers_lets_a_good_client_in(tmp_path: Path) -> None:
    """Connections come faster than their time limit ends them: the limit of their number has to do it."""

    async def test() -> None:
        async with guarded(tmp_path, ENDLESS) as core, followed(core):
            held: list[asyncio.StreamWriter] = []
            done = asyncio.Event()

            async def flood() -> None:
                while not done.is_set():
                    _, writer = await opened(core)
                    held.append(writer)

            floods = [asyncio.create_task(flood()) for _ in range(4)]
            await eventually(lambda: len(held) > 2 * strangers.MAX_STRANGERS)
            served = 0
            for _ in range(10):
                async with client(core) as good:
                    await good.command("ping")
                    served += 1
                served += await status(core, Ask().text()) == 200
            done.set()
            await asyncio.gather(*floods)
            assert len(core._server._open) <= strangers.MAX_STRANGERS + 10
            print(f"\n20 of 20 good clients served ({served}) beside {len(held)} that said nothing")
            for writer in held:
                writer.transport.abort()
            assert served == 20
            quiet(core)

    run(test())


def test_30_requests_at_once_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path, ENDLESS) as core, followed(core):
            reader, writer = await opened(core)
            asks = [Ask(f"/v1/models/{n}") if n % 3 else Ask("/v1/models/fake") for n in range(29)]
            text = "".join(ask.text() for ask in asks) + Ask(more="Connection: close").text()
            writer.write(text.encode().replace(b"PORT", str(port_of(core)).encode()))
            answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
            writer.transport.abort()
            assert len(answers) == 30
            for number, answer in enumerate(answers[:29]):
                wanted = b"404 " if number % 3 else b"200 "
                assert answer.startswith(wanted), number
                if number % 3:
                    assert f"'{number}'".encode() in answer
            quiet(core)

    run(test())


def test_many_subprotocols_cost_nothing(tmp_path: Path) -> None:
    """Each offered token is compared with all there are, so few are looked at."""

    async def test() -> None:
        async with guarded(tmp_path) as core:
            file = TokenFile(core.paths.tokens_file)
            for number in range(20):
                file.add(f"t{number}", ["observe"])
            line = "Sec-WebSocket-Protocol: " + ",".join(["bearer.a"] * 850)
            ask = Ask(token="", more="\n".join([line] * 7)).stream()
            assert await status(core, ask.text()) == 401
            assert await status(core, replace(ask, more=f"{line},bearer.{TOKEN}").text()) == 401
            few = f"Sec-WebSocket-Protocol: tokenglass.v1, bearer.x, bearer.{TOKEN}"
            assert await status(core, replace(ask, more=few).text()) == 101
            assert doors.MAX_OFFERED < 10

    run(test())


def test_it_fails_closed(tmp_path: Path) -> None:
    """No token, no server: nothing listens, and no file says that anything does."""

    async def test() -> None:
        for token in ("", " ", "\n"):
            with pytest.raises(TokenglassError) as caught:
                async with Core.open(core_module.Options(home=tmp_path, port=0, model="fake:", token=token)):
                    pytest.fail("it runs without a token")
            assert caught.value.code == "invalid_argument"
            assert not (tmp_path / "runtime" / "server.json").exists()

    run(test())
