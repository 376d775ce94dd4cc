"""The front for plain HTTP, byte by byte: framing, limits, keep-alive, the doors."""

import asyncio
import json
from pathlib import Path

import pytest

from api import http
from api.core import Core
from api.guard import METHODS
from tests.api.harness import ENDLESS, HI, TOKEN, app, client, eventually, run

BEARER = f"Authorization: Bearer {TOKEN}\r\n"
ORIGIN = "http://localhost:3000"


class Raw:
    """A bare connection that reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader, self.writer, self.port = reader, writer, port

    @classmethod
    async def open(cls, core: Core) -> "Raw":
        port = int(core.url.split(":")[2].split("/")[0])
        return cls(*await asyncio.open_connection("127.0.0.1", port), port)

    def send(self, text: str | bytes) -> None:
        data = text.encode("latin-1") if isinstance(text, str) else text
        self.writer.write(data.replace(b"PORT", str(self.port).encode()))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ")[1])
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, value in lines}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return status, headers, body

    async def ended(self) -> bool:
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.transport.abort()


async def ask(core: Core, text: str | bytes) -> tuple[int, dict[str, str], bytes]:
    raw = await Raw.open(core)
    raw.send(text)
    try:
        return await raw.answer()
    finally:
        raw.close()


HEALTH = "GET /health HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"


def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            raw = await Raw.open(core)
            for _ in range(3):
                raw.send(f"{HEALTH}\r\n")
                status, _, body = await raw.answer()
                assert (status, json.loads(body)["status"]) == (200, "ok")
            raw.send(f"{HEALTH}\r\n" * 20)  # pipelined
            for _ in range(20):
                assert (await raw.answer())[0] == 200
            raw.send(f"{HEALTH}Connection: close\r\n\r\n")
            assert (await raw.answer())[0] == 200
            assert await raw.ended()
            raw.close()
            status, headers, _ = await ask(core, HEALTH.replace("1.1", "1.0", 1) + "\r\n")
            assert (status, headers["connection"]) == (200, "close")

    run(test())


BAD = (
    ("two lengths", f"{HEALTH}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    ("both framings", f"{HEALTH}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked twice", f"{HEALTH}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    ("another coding", f"{HEALTH}Transfer-Encoding: gzip\r\n\r\n", 501),
    ("a negative length", f"{HEALTH}Content-Length: -1\r\n\r\n", 400),
    ("a signed length", f"{HEALTH}Content-Length: +1\r\n\r\na", 400),
    ("a space before the colon", f"{HEALTH}Content-Length : 1\r\n\r\na", 400),
    ("a bad chunk", f"{HEALTH}Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n", 400),
    ("a chunk longer than told", f"{HEALTH}Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400),
    ("a huge chunk head", f"{HEALTH}Transfer-Encoding: chunked\r\n\r\n1;{'x' * 70000}", 431),
    ("a zero byte", f"{HEALTH}X: a\0b\r\n\r\n", 400),
    ("garbage", "\x16\x03\x01\x02\x00\r\n\r\n", 400),
    ("no version", "GET /health\r\n\r\n", 400),
    ("no host", "GET /health HTTP/1.1\r\n\r\n", 421),
    ("no host in 1.0", "GET /health HTTP/1.0\r\n\r\n", 421),
    ("two hosts", f"{HEALTH}Host: evil.test\r\n\r\n", 421),
    ("a huge head", f"{HEALTH}X: {'y' * 70000}\r\n\r\n", 431),
    ("an endless head", f"{HEALTH}X: {'y' * 70000}", 431),
    ("a huge address", f"GET /{'x' * 9000} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 414),
    ("a huge body", f"{HEALTH}Content-Length: {(16 << 20) + 1}\r\n\r\n", 413),
    ("a body beyond all numbers", f"{HEALTH}Content-Length: {'9' * 19}\r\n\r\n", 413),
)


def test_what_is_not_clean_http_is_refused_and_ends_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            for name, text, wanted in BAD:
                raw = await Raw.open(core)
                raw.send(text)
                status, headers, body = await raw.answer()
                assert (status, headers.get("connection")) == (wanted, "close"), (name, body)
                error = json.loads(body)["error"]
                assert set(error) == {"message", "type", "param", "code"}, name
                raw.send(f"{HEALTH}\r\n")  # a smuggled request
                assert await raw.ended(), name
                raw.close()
            async with client(core) as wire:
                await wire.command("ping")

    run(test())


def test_chunks_and_expectations(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            raw = await Raw.open(core)
            raw.send(f"{HEALTH}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: x\r\n\r\n")
            assert (await raw.answer())[0] == 200
            raw.send(f"{HEALTH}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert (await raw.answer())[0] == 100
            raw.send("{}")
            assert (await raw.answer())[0] == 200
            raw.close()
            # who isn't let in is told so before it sends a body
            refused = "POST /nothing HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nExpect: 100-continue\r\n"
            assert (await ask(core, f"{refused}Content-Length: 9\r\n\r\n"))[0] == 401

    run(test())


def test_a_large_chunked_body_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)

    async def test() -> None:
        async with app(tmp_path) as core:
            chunk = f"1f4\r\n{'x' * 500}\r\n"
            status, _, _ = await ask(core, f"{HEALTH}Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
            assert status == 413

    run(test())


def test_slow_clients_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEAD_S", 0.2), ("BODY_S", 0.3), ("KEEP_ALIVE_S", 0.2), ("LINGER_S", 0.2)):
        monkeypatch.setattr(http, name, seconds)

    async def test() -> None:
        async with app(tmp_path) as core:
            silent, slow_head = await Raw.open(core), await Raw.open(core)
            slow_head.send("GET /health HT")
            slow_body = await Raw.open(core)
            slow_body.send(f"{HEALTH}Content-Length: 100\r\n\r\nabc")
            assert (await slow_body.answer())[0] == 408
            idle, dripping = await Raw.open(core), await Raw.open(core)
            idle.send(f"{HEALTH}\r\n")
            dripping.send(f"{HEALTH}\r\n")
            for raw in (idle, dripping):
                assert (await raw.answer())[0] == 200
            dripping.send("G")
            for _ in range(500):
                if dripping.reader.at_eof() or dripping.writer.transport.is_closing():
                    break
                dripping.send("X")
                await asyncio.sleep(0.02)
            else:
                pytest.fail("a head may not come for ever")
            for raw in (silent, slow_head, slow_body, idle, dripping):
                assert await raw.ended()
                raw.close()
            await eventually(lambda: not core._server._open)

    run(test())


def test_who_only_half_closes_gets_what_is_there_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            raw = await Raw.open(core)
            raw.send(f"{HEALTH}\r\n")
            raw.writer.write_eof()
            assert (await raw.answer())[0] == 200
            assert await raw.ended()
            raw.close()

    run(test())


def test_an_old_client_reads_a_stream_to_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=5") as core:
            raw = await Raw.open(core)
            body = json.dumps({"messages": HI, "stream": True})
            raw.send(
                "POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1:PORT\r\n"
                f"{BEARER}Content-Length: {len(body)}\r\n\r\n{body}"
            )
            answer = (await raw.reader.read()).decode()
            head, _, stream = answer.partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 200 OK")
            assert "chunked" not in head.lower()
            frames = stream.removesuffix("\n\n").split("\n\n")
            assert all(frame.startswith("data: ") for frame in frames)
            assert frames[-1] == "data: [DONE]"
            assert json.loads(frames[-2][6:])["choices"][0]["finish_reason"] == "stop"
            raw.close()

    run(test())


def test_each_path_keeps_its_doors(tmp_path: Path) -> None:
    """Each request is right but for one thing, and that one thing is what stops it."""

    async def test() -> None:
        async with app(tmp_path) as core:
            for path, methods in METHODS.items():
                method = methods.rpartition(" ")[2]
                other = next(name for name in ("GET", "POST", "PUT") if name not in methods)
                right = "Host: 127.0.0.1:PORT\r\n"
                for wanted, line, headers in (
                    (421, method, f"Host: evil.test:PORT\r\n{BEARER}"),
                    (421, method, f"Host: 127.0.0.1\r\n{BEARER}"),
                    (403, method, f"{right}{BEARER}Origin: null\r\n"),
                    (403, method, f"{right}{BEARER}Origin: http://127.0.0.1:PORT\r\n"),
                    (401, method, f"{right}Authorization: Bearer {TOKEN}x\r\n"),
                    (401, method, right),
                    (405, other, right + BEARER),
                ):
                    if wanted == 401 and path == "/health":
                        continue
                    text = f"{line} {path} HTTP/1.1\r\n{headers}Content-Length: 2\r\n\r\n{{}}"
                    status, told, body = await ask(core, text)
                    assert (status, told["connection"]) == (wanted, "close"), (path, headers)
                    assert TOKEN.encode() not in body
                    assert "access-control-allow-origin" not in told
            assert not core.state.generations

    run(test())


def test_the_number_of_connections_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.protocol.MAX_CLIENTS", 2)
    models = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{BEARER}\r\n"
    body = json.dumps({"messages": HI, "stream": True})
    chat = models.replace("GET /v1/models", "POST /v1/chat/completions").removesuffix("\r\n")
    chat += f"Content-Length: {len(body)}\r\n\r\n{body}"

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core:
            held: list[Raw] = []
            for _ in range(3):  # who only waits goes, oldest first
                held.append(await Raw.open(core))
                held[-1].send(models)
                assert (await held[-1].answer())[0] == 200
            assert await held[0].ended()
            held[1].send(models)
            assert (await held[1].answer())[0] == 200
            for raw in held[1:]:
                raw.send(chat)
                await raw.reader.readuntil(b"\r\n\r\n")
            assert (await ask(core, models))[0] == 503
            assert (await ask(core, f"{HEALTH}\r\n"))[0] == 200  # it takes no place
            held[1].close()
            await eventually(lambda: len(core._server._open) == 1)
            assert (await ask(core, models))[0] == 200
            for raw in held:
                raw.close()

    run(test())


def test_pages_of_allowed_origins_may_ask_and_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, allow_origins=(ORIGIN,)) as core:
            options = "OPTIONS /health HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
            asked = (
                "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization,x-a\r\n"
                "Access-Control-Request-Private-Network: true\r\n"
            )
            status, headers, _ = await ask(core, f"{options}Origin: {ORIGIN}\r\n{asked}\r\n")
            assert status == 204
            assert headers["access-control-allow-origin"] == ORIGIN
            assert headers["access-control-allow-methods"] == "GET"
            assert headers["access-control-allow-headers"] == "authorization,x-a"
            assert headers["access-control-allow-private-network"] == "true"
            assert (await ask(core, f"{options}Origin: http://evil.test\r\n{asked}\r\n"))[0] == 403
            assert (await ask(core, f"{options}{asked}\r\n"))[0] == 401
            assert (await ask(core, f"{options}Origin: {ORIGIN}\r\n\r\n"))[0] == 401
            for origin, status in ((ORIGIN, 200), ("null", 403), ("http://localhost:3001", 403)):
                got, headers, _ = await ask(core, f"{HEALTH}Origin: {origin}\r\n\r\n")
                assert (got, headers.get("access-control-allow-origin")) == (
                    status,
                    ORIGIN if status == 200 else None,
                )
            # an error can be read by the page as well
            lost = f"GET /lost HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{BEARER}Origin: {ORIGIN}\r\n\r\n"
            status, headers, _ = await ask(core, lost)
            assert (status, headers["access-control-allow-origin"]) == (404, ORIGIN)

    run(test())
