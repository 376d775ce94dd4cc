"""Further tokens: made, listed, revoked; and what each may do, command by command and path by path."""

import asyncio
import hmac
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api import cli, guard, logs, permissions, protocol, tokens
from api.clients import Clients
from api.core import Core
from api.permissions import GRANTABLE, NOBODY, OWNER, PERMISSIONS, Grant
from api.tokens import TokenFile, Tokens
from engine.errors import TokenglassError
from tests.api.harness import (
    ENDLESS,
    HI,
    TOKEN,
    WAIT_S,
    CommandError,
    Wire,
    app,
    client,
    eventually,
    run,
)

PROTOCOL = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text()


def made(core: Core, name: str, *can: str) -> str:
    return TokenFile(core.paths.tokens_file).add(name, can)


# ---- the file


def test_a_token_is_made_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    assert file.entries() == []
    token = file.add("grafana", ["observe", "generate"])
    assert len(token) == 3 + 43
    assert len({file.add(f"t{number}", ["observe"]) for number in range(20)}) == 20
    entry = file.entries()[0]
    assert (entry.name, entry.can) == ("grafana", ["observe", "generate"])
    assert token not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    known = Tokens("owner", file.path)
    digest = bytes.fromhex(entry.sha256)
    assert known.find([token]) == Grant("grafana", frozenset(("observe", "generate")), digest)
    file.revoke("grafana")
    assert known.refresh()
    assert known.find([token]) is None
    assert len(file.entries()) == 20


@pytest.mark.parametrize("name", ("", "a b", "../x", "-x", ".x", "a" * 65, "é", "a\n", "a,b"))
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        TokenFile(tmp_path / "tokens.json").add(name, ["observe"])
    assert caught.value.code == "invalid_argument"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("can", ([], ["owner"], ["observe", "owner"], [""], ["all"], ["Observe"]))
def test_permissions_that_cannot_be_given(tmp_path: Path, can: list[str]) -> None:
    with pytest.raises(TokenglassError) as caught:
        TokenFile(tmp_path / "tokens.json").add("x", can)
    assert caught.value.info.path == "can"


def test_a_name_stands_for_one_token(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    file.add("x", ["observe"])
    with pytest.raises(TokenglassError, match="already"):
        file.add("x", ["manage"])
    with pytest.raises(TokenglassError) as caught:
        file.revoke("y")
    assert caught.value.code == "not_found"
    assert [entry.can for entry in file.entries()] == [["observe"]]


def test_their_number_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    file = TokenFile(tmp_path / "tokens.json")
    file.add("a", ["observe"])
    file.add("b", ["observe"])
    with pytest.raises(TokenglassError, match="2 tokens already"):
        file.add("c", ["observe"])


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LOCK_S", 60.0)
    file = TokenFile(tmp_path / "tokens.json")
    threads = [threading.Thread(target=file.add, args=(f"t{n}", ["observe"])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in file.entries()} == {f"t{n}" for n in range(8)}


BROKEN = (
    b"",
    b"{",
    b"[]",
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"version": 2, "tokens": []}',
    b'{"version": 1, "tokens": [{"name": "x", "can": ["owner"], "sha256": "%s", "created": 1}]}'
    % (b"0" * 64),
    b'{"version": 1, "tokens": [{"name": "x", "can": ["observe"], "sha256": "", "created": 1}]}',
    b'{"version": 1, "tokens": [], "x": 1}',
    b" " * (2 << 20),
)


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: content[:20].decode("latin-1").strip())
def test_a_broken_file_lets_only_the_owner_in(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokens.json"
    token = TokenFile(file).add("x", ["observe"])
    known = Tokens("owner", file)
    assert known.find([token]) is not None
    file.write_bytes(content)
    assert known.refresh()
    assert known.find([token]) is None
    assert known.find(["owner"]) is OWNER
    with pytest.raises(TokenglassError) as caught:
        TokenFile(file).add("y", ["observe"])
    assert caught.value.code == "storage"
    assert file.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_nobody_waits_for_a_pipe_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    token = TokenFile(file).add("x", ["observe"])
    file.unlink()
    os.mkfifo(file)
    known = Tokens("owner", file)
    assert known.find([token]) is None
    assert known.find(["owner"]) is OWNER
    with pytest.raises(TokenglassError, match="isn't a file"):
        TokenFile(file).entries()


def test_a_removed_file_revokes_all(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    token = TokenFile(file).add("x", ["observe"])
    known = Tokens("owner", file)
    grant = known.find([token])
    assert grant is not None
    assert known.valid(grant)
    assert not known.refresh()
    file.unlink()
    assert known.refresh()
    assert not known.valid(grant)
    assert known.valid(OWNER)
    assert known.valid(NOBODY)


@pytest.mark.parametrize("empty", ("", " ", "\n\t"))
def test_without_an_owners_token_there_is_nothing(tmp_path: Path, empty: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        Tokens(empty, tmp_path / "tokens.json")
    assert caught.value.info.path == "token"


def test_every_token_is_compared_with_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However good the first guess is: time must not tell how far a comparison came."""
    file = TokenFile(tmp_path / "tokens.json")
    further = [file.add(f"t{n}", ["observe"]) for n in range(3)]
    known = Tokens("owner", file.path)
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for offered in (["owner"], [further[0]], [further[2]], ["wrong"], ["owner", "wrong"], ["", "owner"]):
        compared.clear()
        known.find(offered)
        assert len(compared) == 4 * len(offered)
        assert all(len(a) == len(b) == 32 for a, b in compared)  # so nor does its length


@given(st.lists(st.text(max_size=60), max_size=4))
def test_nothing_but_a_token_is_one(offered: list[str]) -> None:
    known = Tokens("owner-0123456789")
    assert known.find(offered) is None
    assert known.find([*offered, "owner-0123456789"]) is OWNER


def test_the_same_key_with_another_token_is_another_client() -> None:
    clients = Clients(lambda _event: None)
    one, two = (Grant(name, frozenset(("generate",)), name.encode()) for name in ("one", "two"))
    first = clients.connect("a", "live", "key", one)
    assert clients.connect("a", "live", "key", two) is not first
    assert clients.connect("a", "live", "key") is not first
    assert clients.connect("a", "live", "key", one) is first


# ---- the table


def commands() -> set[str]:
    (union, *_) = get_args(protocol.Command)
    return {get_args(model.model_fields["type"].annotation)[0] for model in get_args(union)}


def test_every_command_and_path_is_in_the_table() -> None:
    assert set(permissions.COMMANDS) == commands()
    assert set(permissions.PATHS) == set(guard.METHODS)


def test_what_the_table_does_not_have_is_the_owners() -> None:
    everything = Grant("x", frozenset(GRANTABLE))
    for path in ("/v1/other", "/", "/v1/modelsx", "/v1"):
        refusal = permissions.path_refusal(everything, path)
        assert refusal is not None
        assert (refusal.code, "owner" in refusal.message) == ("forbidden", True)
        assert permissions.path_refusal(OWNER, path) is None
    assert permissions.path_refusal(everything, "/v1/models/any") is None

    class Other(protocol.BaseCommand):
        type: str = "other"

    with pytest.raises(TokenglassError, match="owner"):
        permissions.check(everything, Other(), set())


def test_the_table_is_told() -> None:
    section = PROTOCOL[PROTOCOL.index("### Permissions") : PROTOCOL.index("## Frames")]
    rows = {line.split("|")[1].strip(" `"): line for line in section.splitlines() if line.startswith("| ")}
    assert set(rows) == {"permission", "none", *PERMISSIONS}
    for table in (permissions.COMMANDS, permissions.PATHS):
        for name, needed in table.items():
            hand = table is permissions.COMMANDS and "control" in needed
            place = "generate" if hand else next((p for p in PERMISSIONS if p in needed), "none")
            if name != "/health":
                assert f"`{name}`" in rows[place], name
    for name in permissions.OWNER_SETTINGS:
        assert f"`{name}`" in rows["owner"]


THERE = {"generation_id": "gen_of_somebody_else"}
TALK = {"conversation_id": "conv_0"}
SAMPLES: dict[str, dict[str, Any]] = {
    "ping": {},
    "subscribe": {},
    "unsubscribe": {},
    "snapshot": {},
    "models.list": {},
    "models.estimate": {"model": "nothing"},
    "conversations.list": {},
    "conversations.get": TALK,
    "conversations.search": {"query": "x"},
    "conversations.export": TALK,
    "settings.get": {},
    "generate": {"prompt": "x", "max_tokens": 1},
    "embed": {"input": "x"},
    "publish": {"series": "x", "value": 1},
    "cancel": THERE,
    "pause": THERE,
    "resume": THERE,
    "step": THERE,
    "update": {**THERE, "sampling": {}},
    "rewind": THERE,
    "inject": {**THERE, "text": "x"},
    "fork": {**THERE, "at_token": 0},
    "tool_result": {**THERE, "call_id": "call_0", "content": "x"},
    "models.load": {"model": "nothing"},
    "conversations.create": {},
    "conversations.import": {"data": {}},
    "conversations.rename": {**TALK, "title": "x"},
    "conversations.delete": TALK,
    "conversations.restore": TALK,
    "settings.set": {"settings": {"theme": "dark"}},
    "window.raise": {},
    "models.add": {"path": "/nothing.gguf"},
    "models.unload": {},
}
"""A well-formed call of each command."""


async def answered(wire: Wire, name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Code and message of the answer; `ok` where it is none of an error."""
    frame = await wire.reply(await wire.send(name, **arguments))
    return ("ok", "") if frame["ok"] else (frame["error"]["code"], frame["error"]["message"])


@pytest.mark.parametrize("can", [*GRANTABLE, "owner"])
def test_each_permission_opens_its_commands_and_no_others(tmp_path: Path, can: str) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core:
            token = TOKEN if can == "owner" else made(core, "x", can)
            async with client(core, token=token) as wire:
                hello = await wire.until(lambda frame: frame["type"] == "hello")
                granted = set(PERMISSIONS) if can == "owner" else {can}
                assert set(hello["permissions"]) == granted
                for name in sorted(commands(), key=lambda name: name == "models.unload"):
                    code, message = await answered(wire, name, SAMPLES[name])
                    missing = permissions.COMMANDS[name] - granted
                    assert (code == "forbidden") == bool(missing), (name, code, message)
                    assert all(permission in message for permission in missing), (name, message)
                    assert code != "internal", name

    run(test())


def test_a_conversation_needs_more_and_some_settings_are_the_owners(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            turn = {**TALK, "content": "hi"}
            for can, code in (
                (("generate",), "forbidden"),
                (("generate", "observe"), "forbidden"),
                (("generate", "manage"), "forbidden"),
                (("generate", "observe", "manage"), "not_found"),
            ):
                async with client(core, token=made(core, "-".join(can), *can)) as wire:
                    assert (await answered(wire, "generate", turn))[0] == code, can
            async with client(core, token=made(core, "all", *GRANTABLE)) as wire:
                for name, value in (("allow_origins", ["http://evil.test"]), ("model", "/etc/passwd")):
                    code, message = await answered(wire, "settings.set", {"settings": {name: value}})
                    assert (code, "owner" in message) == ("forbidden", True)
                assert (await answered(wire, "models.add", {"path": "/x.gguf"}))[0] == "forbidden"
            assert core.settings.current.allow_origins == []

    run(test())


# ---- whose generations


def test_generate_has_hands_on_its_own_generations_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, ENDLESS) as core,
            client(core) as owner,
            client(core, token=made(core, "script", "generate")) as script,
            client(core, token=made(core, "hand", "control")) as hand,
        ):
            theirs, own = await owner.generate(), await script.generate()
            for name in ("pause", "resume", "cancel"):
                with pytest.raises(CommandError) as caught:
                    await script.command(name, generation_id=theirs)
                assert caught.value.code == "forbidden"
                assert "control" in caught.value.error["message"]
            # whether there is one by that name isn't told either
            assert (await answered(script, "pause", THERE))[0] == "forbidden"
            await script.command("pause", generation_id=own)
            await script.command("resume", generation_id=own)
            await script.event("generation.delta", generation_id=own)
            branch = (await script.command("fork", generation_id=own, at_token=1))["generation_id"]
            await script.command("cancel", generation_id=branch)
            with pytest.raises(CommandError) as caught:
                await hand.command("fork", generation_id=own, at_token=1)
            assert "observe" in caught.value.error["message"]
            await hand.command("cancel", generation_id=theirs)
            await hand.command("cancel", generation_id=own)
            assert (await owner.finished(theirs))["finish_reason"] == "cancelled"
            assert (await script.finished(own))["finish_reason"] == "cancelled"

    run(test())


def test_the_log_knows_a_token_by_its_looks(tmp_path: Path) -> None:
    token = TokenFile(tmp_path / "tokens.json").add("x", ["observe"])
    formatter = logs.RedactingFormatter()
    for text in (token, f"it was {token}.", f"Authorization: Basic {token}", f"/v1/live?x={token}&y=1"):
        shown = formatter.format(logging.makeLogRecord({"msg": text, "levelname": "INFO", "name": "x"}))
        assert token not in shown
        assert token[10:] not in shown


def test_who_has_nothing_of_its_own_sees_nothing(tmp_path: Path) -> None:
    """Whoever stands at the same place in the stream gets the same bytes: but not across permissions."""

    async def test() -> None:
        async with (
            app(tmp_path, "fake:tokens=30") as core,
            client(core) as owner,
            client(core, token=made(core, "eye", "observe")) as eye,
            client(core, token=made(core, "script", "generate", "control", "manage")) as script,
        ):
            for wire in (eye, script):
                await wire.command("subscribe")
            for _ in range(3):
                generation_id = await owner.generate()
                await eye.finished(generation_id)
                await script.command("ping")
            assert {frame["type"] for frame in script.frames} == {"hello", "reply"}

    run(test())


def test_without_observe_only_ones_own_is_seen(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=30,delay_ms=2") as core:
            token = made(core, "script", "generate")
            async with (
                client(core) as owner,
                client(core, "?client=me", token=token) as script,
                client(core, token=made(core, "eye", "observe")) as eye,
            ):
                for wire in (script, eye):
                    await wire.command("subscribe", events=["*"], generations="all")
                theirs, own = await owner.generate("their secret"), await script.generate("mine")
                shown = await script.command("snapshot")
                assert [frame["generation_id"] for frame in shown["generations"]] in ([own], [])
                assert len(shown["clients"]) == 1
                assert not any(shown["metrics"].values())
                assert len((await eye.command("snapshot"))["clients"]) == 3
                await eye.finished(theirs)
                await eye.finished(own)
                await script.finished(own)
                # the owner's keeps running meanwhile, in every way of choosing
                for chosen in ("all", "own", [theirs, own]):
                    await script.command("subscribe", generations=chosen, since=0)
                await script.command("ping")
                assert {frame["type"].partition(".")[0] for frame in script.events()} == {"generation"}
                assert {frame["generation_id"] for frame in script.events()} == {own}
                assert script.indices(own) == list(range(30))
                assert "their secret" not in json.dumps(script.frames)
                assert "their secret" in json.dumps(eye.frames)
            # what was missed comes once the same client is back, and still nothing else
            async with client(core, "?client=me&hold=1", token=token) as script:
                await script.command("subscribe", since=0)
                await script.finished(own)
                assert {frame["generation_id"] for frame in script.events()} == {own}
            async with client(core, "?client=me&hold=1", token=token) as script:
                await script.command("subscribe", since=1 << 40)  # a reset brings a snapshot
                frame = await script.until(lambda frame: frame["type"] == "snapshot")
                assert len(frame["clients"]) == 1
            async with client(core, "?client=me&hold=1", token=made(core, "other", "generate")) as other:
                await other.command("subscribe", since=0)
                await other.command("ping")
                assert other.events() == []

    run(test())


# ---- HTTP


def test_http_asks_for_the_same_permissions(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, httpx2.AsyncClient(timeout=WAIT_S) as http:
            await eventually(lambda: core.supervisor.phase == "ready")
            base = core.base_url
            for can in GRANTABLE:
                headers = {"Authorization": f"Bearer {made(core, can, can)}"}

                async def status(path: str, body: object = None, headers: Any = headers) -> tuple[int, str]:
                    url = base.removesuffix("/v1") + path
                    answer = (
                        await http.get(url, headers=headers)
                        if body is None
                        else await http.post(url, headers=headers, json=body)
                    )
                    return answer.status_code, answer.text

                chat = await status("/v1/chat/completions", {"messages": HI})
                prompt = await status("/v1/completions", {"prompt": "x"})
                response = await status("/v1/responses", {"input": "x"})
                vectors = await status("/v1/embeddings", {"input": "x"})
                metrics = await status("/metrics")
                assert (await status("/v1/models"))[0] == 200
                assert (await status("/health"))[0] == 200
                for got in (chat, prompt, response):
                    assert got[0] == (200 if can == "generate" else 403), can
                assert (vectors[0] == 403) == (can != "generate")
                assert metrics[0] == (200 if can == "observe" else 403)
                if can != "generate":
                    error = json.loads(chat[1])["error"]
                    assert (error["code"], "generate" in error["message"]) == ("forbidden", True)
            assert len(core.state.finished) == 3

    run(test())


async def to_the_end(stream: ClientConnection) -> None:
    async for _ in stream:
        pass


def test_the_responses_socket_asks_for_them_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core:
            url = core.url.replace("/v1/live", "/v1/responses")
            eye, script = made(core, "eye", "observe"), made(core, "script", "generate")
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, additional_headers={"Authorization": f"Bearer {eye}"}, proxy=None)
            assert caught.value.response.status_code == 403
            assert b"generate" in bytes(caught.value.response.body or b"")
            async with connect(
                url, additional_headers={"Authorization": f"Bearer {script}"}, proxy=None
            ) as stream:
                await stream.send('{"type": "response.create", "input": "hi"}')
                assert json.loads(await stream.recv())["type"] == "response.created"
                TokenFile(core.paths.tokens_file).revoke("script")
                with pytest.raises(ConnectionClosed):
                    await to_the_end(stream)
                assert (stream.close_code, stream.close_reason) == (1008, "the token was revoked")

    run(test())


def test_responses_are_their_tokens_own(tmp_path: Path) -> None:
    """One can read and continue one's own; others' with observe; and forget them with control, too."""

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, httpx2.AsyncClient(timeout=WAIT_S) as http:
            await eventually(lambda: core.supervisor.phase == "ready")
            base = f"{core.base_url}/responses"
            tokens = {
                "mine": made(core, "mine", "generate"),
                "other": made(core, "other", "generate"),
                "seeing": made(core, "seeing", "generate", "observe"),
                "strong": made(core, "strong", "generate", "observe", "control"),
            }

            async def ask(who: str, method: str, url: str, body: Any = None) -> httpx2.Response:
                headers = {"Authorization": f"Bearer {tokens[who]}"}
                return await http.request(method, url, headers=headers, json=body)

            first = (await ask("mine", "POST", base, {"input": "a secret"})).json()["id"]
            item = (await ask("mine", "GET", f"{base}/{first}/input_items")).json()["data"][0]["id"]
            for who, status in (("mine", 200), ("other", 404), ("seeing", 200), ("strong", 200)):
                for method, path in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel")):
                    assert (await ask(who, method, f"{base}/{first}{path}")).status_code == status, who
                refused = 400 if status == 404 else 200
                next_one = {"input": "go on", "previous_response_id": first, "store": False}
                assert (await ask(who, "POST", base, next_one)).status_code == refused, who
                referring = {"input": [{"type": "item_reference", "id": item}], "store": False}
                assert (await ask(who, "POST", base, referring)).status_code == status, who
            for who, status in (("other", 404), ("seeing", 403), ("strong", 200), ("mine", 404)):
                assert (await ask(who, "DELETE", f"{base}/{first}")).status_code == status, who

    run(test())


def test_a_body_of_who_may_not_is_never_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            port = int(core.url.split(":")[2].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer "
                f"{made(core, 'x', 'observe')}\r\nContent-Length: 16000000\r\n\r\n".encode()
            )
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
            writer.transport.abort()

    run(test())


def test_one_token_leaves_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_OF_TOKEN", 2)

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core:
            many, other = made(core, "many", "generate"), made(core, "other", "observe")
            for token, found in ((many, 503), (other, 200), (TOKEN, 200)):
                async with (
                    client(core, token=many),
                    client(core, token=many),
                    httpx2.AsyncClient(headers={"Authorization": f"Bearer {many}"}, timeout=WAIT_S) as busy,
                    httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=WAIT_S) as http,
                ):
                    chat = f"{core.base_url}/chat/completions"
                    async with (
                        busy.stream("POST", chat, json={"messages": HI, "stream": True}) as one,
                        busy.stream("POST", chat, json={"messages": HI, "stream": True}) as two,
                    ):
                        assert (one.status_code, two.status_code) == (200, 200)
                        assert (await http.get(f"{core.base_url}/models")).status_code == found
                    if found == 200:
                        async with client(core, token=token) as wire:
                            await wire.command("ping")
                    else:
                        with pytest.raises(InvalidStatus) as caught:
                            await connect(f"{core.url}?token={token}", proxy=None)
                        assert caught.value.response.status_code == 503
                await eventually(lambda: not core._server._open)

    run(test())


# ---- while the app runs


def test_a_new_token_works_at_once_and_a_revoked_one_no_longer(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as owner:
            token, other = made(core, "x", *GRANTABLE), made(core, "y", "observe", "generate")
            generation_id = ""
            async with (
                client(core, "?client=k", token=token) as first,
                client(core, "?client=k", token=token) as second,
                client(core, token=other) as kept,
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=WAIT_S) as http,
            ):
                generation_id = await first.generate()
                await kept.command("ping")
                request = {"messages": HI, "stream": True}
                async with http.stream("POST", f"{core.base_url}/chat/completions", json=request) as answer:
                    lines = answer.aiter_lines()
                    assert (await anext(lines)).startswith("data: ")
                    TokenFile(core.paths.tokens_file).revoke("x")
                    with pytest.raises(InvalidStatus) as caught:
                        await connect(f"{core.url}?token={token}", proxy=None)
                    assert caught.value.response.status_code == 401
                    with pytest.raises(httpx2.TransportError):
                        async for _ in lines:
                            pass
                for wire in (first, second):
                    await eventually(lambda wire=wire: wire.closed)  # type: ignore[misc]  # a default isn't typed
                    assert (wire.connection.close_code, wire.connection.close_reason) == (
                        1008,
                        "the token was revoked",
                    )
                    with pytest.raises(ConnectionClosed):
                        await wire.connection.send("{}")
                assert (await http.get(f"{core.base_url}/models")).status_code == 401
                await kept.command("ping")
                await owner.command("ping")
                assert generation_id in core.state.generations
                # the same name again is another token, and another client
                again = made(core, "x", "generate")
                async with client(core, "?client=k", token=again) as third:
                    code, _ = await answered(third, "cancel", {"generation_id": generation_id})
                    assert code == "forbidden"
            await owner.command("cancel", generation_id=generation_id)

    run(test())


def test_nothing_is_carried_out_between_the_sweep_and_the_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            token = made(core, "x", *GRANTABLE)
            async with client(core, token=token) as wire:
                await wire.command("ping")
                TokenFile(core.paths.tokens_file).revoke("x")
                codes = set()
                while not wire.closed:
                    try:
                        codes.add((await answered(wire, "models.list", {}))[0])
                        await asyncio.sleep(0.02)
                    except (AssertionError, ConnectionClosed):
                        break
                assert codes <= {"ok", "forbidden"}
                assert wire.connection.close_code == 1008

    run(test())


# ---- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["token", *arguments, "--home", str(tmp_path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert said("list")[:2] == (0, "no tokens but the app's own (server.json has it)\n")
    code, out, err = said("add", "grafana", "--can", "observe, manage")
    assert code == 0
    token = out.removesuffix("\n")
    assert token.startswith("tg_")
    assert token not in err
    assert "observe, manage" in err
    known = Tokens("owner", tmp_path / "config" / "tokens.json")
    grant = known.find([token])
    assert grant is not None
    assert grant.permissions == {"observe", "manage"}
    code, out, err = said("list")
    assert out.splitlines()[1].split()[:2] == ["grafana", "observe,manage"]
    assert token not in out + err
    assert said("add", "grafana", "--can", "observe")[0] == 2
    assert said("add", "x", "--can", "everything")[0] == 2
    assert said("add", "x y", "--can", "observe")[0] == 2
    assert said("add", "x")[0] == 2
    assert said("revoke", "nobody")[0] == 1
    assert said("revoke", "grafana")[0] == 0
    assert said()[1].startswith("no tokens")
