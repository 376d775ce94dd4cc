"""The door, as seen from outside: what plain HTTP requests are answered."""

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from api import http as http_module
from api import protocol
from api.core import Core
from tests.api.harness import TOKEN, app, client, eventually, run


async def http(core: Core, request: str) -> tuple[int, str]:
    port = int(core.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace("PORT", str(port)).encode("latin-1"))
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(" ")[1]), answer


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
HOST = "Host: 127.0.0.1:PORT\r\n"
EVIL = "Host: evil.test:PORT\r\nOrigin: http://evil.test:PORT\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    (
        (f"GET /v1/live HTTP/1.1\r\n{EVIL}{UPGRADE}{BEARER}\r\n", 421),
        (f"GET /health HTTP/1.1\r\n{EVIL}\r\n", 421),
        (f"GET /v1/live HTTP/1.1\r\n{UPGRADE}{BEARER}\r\n", 421),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}Origin: null\r\n{UPGRADE}{BEARER}\r\n", 403),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}{UPGRADE}\r\n", 401),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}{UPGRADE}Authorization: Bearer x\r\n\r\n", 401),
        (f"GET /elsewhere HTTP/1.1\r\n{HOST}{UPGRADE}{BEARER}\r\n", 404),
        (f"POST /v1/live HTTP/1.1\r\n{HOST}{BEARER}Content-Length: 0\r\n\r\n", 405),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}{BEARER}\r\n", 426),
        (f"GET /v1/live HTTP/1.0\r\n{HOST}{UPGRADE}{BEARER}\r\n", 505),
        (f"GET /health HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n", 200),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}{'X: y' * 30000}\r\n\r\n", 431),
        (f"GET /{'x' * 9000} HTTP/1.1\r\n{HOST}\r\n", 414),
    ),
)
def test_what_the_door_answers(tmp_path: Path, request_: str, status: int) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            got, answer = await http(core, request_)
            assert got == status
            assert TOKEN not in answer
            assert "101" not in answer.splitlines()[0]

    run(test())


def test_health(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            await eventually(lambda: core.supervisor.phase == "ready")
            _, answer = await http(core, f"GET /health HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")
            body = json.loads(answer.split("\r\n\r\n")[1])
            assert body == {"status": "ok", "version": core.version, "engine": "ready"}

    run(test())


# ---- requests with a body


def post(path: str = "/v1/live", headers: str = HOST + BEARER, body: str = "{}") -> str:
    return f"POST {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"


def error_of(answer: str) -> Mapping[str, Any]:
    head, body = answer.split("\r\n\r\n")
    assert "connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["message"]
    assert isinstance(error, dict)
    return error


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    (
        (f"GET /v1/chat/completions HTTP/1.1\r\n{HOST}{BEARER}\r\n", 405, "method_not_allowed"),
        (f"POST /v1/live HTTP/1.1\r\n{HOST}{BEARER}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n",
         405, "method_not_allowed"),
        (f"GET /metrics HTTP/1.1\r\n{HOST}\r\n", 401, "unauthorized"),
        (post("/v1/schema"), 405, "method_not_allowed"),
        (f"GET /v1/models HTTP/1.1\r\n{HOST}{UPGRADE}{BEARER}\r\n", 400, "bad_request"),
        (post("/v1/nothing"), 404, "not_found"),
        (post("/v1/live"), 405, "method_not_allowed"),
        (post(headers=EVIL + BEARER), 421, "misdirected_request"),
        (post(headers=BEARER), 421, "misdirected_request"),
        (post(headers=f"{HOST}Origin: http://evil.test\r\n{BEARER}"), 403, "forbidden"),
        (post(headers=HOST), 401, "unauthorized"),
        (post("/v1/nothing", headers=HOST), 401, "unauthorized"),
        (f"GET /v1/live HTTP/1.1\r\n{HOST}{UPGRADE}{BEARER}Content-Length: 2\r\n\r\n{{}}",
         400, "bad_request"),
    ),
)  # fmt: skip
def test_every_request_is_answered(tmp_path: Path, request_: str, status: int, code: str) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            got, answer = await http(core, request_)
            assert (got, error_of(answer)["code"]) == (status, code)
            assert TOKEN not in answer

    run(test())


def test_a_body_in_pieces_is_dropped_and_the_answer_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "LINGER_S", 100.0)

    async def test() -> None:
        async with app(tmp_path) as core:
            port = int(core.url.split(":")[2].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = post(body="x" * 2_000_000).partition("\r\n\r\n")[0].replace("PORT", str(port))
            for piece in (head[:30], head[30:], "\r\n\r", "\n"):
                writer.write(piece.encode())
                await writer.drain()
                await asyncio.sleep(0.02)
            for _ in range(20):
                writer.write(b"x" * 100_000)
                await writer.drain()
            answer = (await reader.read()).decode()
            assert answer.startswith("HTTP/1.1 405 Method Not Allowed\r\n")
            assert error_of(answer)["code"] == "method_not_allowed"
            writer.close()
            await writer.wait_closed()
            await eventually(lambda: not core._server._open)
            async with client(core) as wire:
                await wire.command("ping")

    run(test())


def test_who_sends_a_body_for_ever_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            port = int(core.url.split(":")[2].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post().replace("PORT", str(port)).replace("th: 2", "th: 999999999").encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 405")
            while core._server._open:
                writer.write(b"x" * 1000)
                await asyncio.sleep(0.05)
            writer.transport.abort()

    run(test())


def test_sockets_elsewhere_are_refused_not_opened(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            address = core.url.replace("/v1/live", "/v1/models")
            with pytest.raises(InvalidStatus) as caught:
                await connect(address, proxy=None, additional_headers={"Authorization": f"Bearer {TOKEN}"})
            assert caught.value.response.status_code == 400

    run(test())


def test_a_token_is_not_held_back_by_the_kernel(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("ping")
            (connection,) = core._server._open
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    run(test())


def test_browsers_offer_the_token_as_a_subprotocol(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, allow_origins=("http://localhost:3000",)) as core:
            for protocols, agreed in (
                (["tokenglass.v1", f"bearer.{TOKEN}"], "tokenglass.v1"),
                ([f"bearer.{TOKEN}"], None),
            ):
                async with connect(
                    core.url, subprotocols=protocols, origin="http://localhost:3000", proxy=None  # type: ignore[arg-type]  # plain strings
                ) as connection:  # fmt: skip
                    assert connection.subprotocol == agreed
                    assert json.loads(await connection.recv())["type"] == "hello"
            async with connect(f"{core.url}?token={TOKEN}", proxy=None) as connection:
                assert json.loads(await connection.recv())["type"] == "hello"
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{core.url}?token={TOKEN}", origin="http://evil.test", proxy=None)  # type: ignore[arg-type]  # a plain string
            assert caught.value.response.status_code == 403

    run(test())


def test_the_number_of_clients_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CLIENTS", 3)

    async def test() -> None:
        async with app(tmp_path) as core:
            wires = [await connect(f"{core.url}?token={TOKEN}", proxy=None) for _ in range(3)]
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{core.url}?token={TOKEN}", proxy=None)
            assert caught.value.response.status_code == 503
            with pytest.raises(InvalidStatus) as caught:
                await connect(core.url, proxy=None)
            assert caught.value.response.status_code == 401
            await wires.pop().close()
            wires.append(await connect(f"{core.url}?token={TOKEN}", proxy=None))
            for wire in wires:
                await wire.close()

    run(test())
