"""Conversations as files: out and in again, other programs' files, and what must not get in."""

import asyncio
import contextlib
import copy
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import exchange, foreign, protocol
from api.archive import export, store_all
from api.conversations import Conversations
from api.exchange import FORMAT, archive, encoded, read
from api.history import History
from api.markdown import markdown
from api.migrations import open_database
from engine.errors import ErrorInfo, TokenglassError
from tests.api.harness import CommandError, app, client, run
from tests.api.test_history import finished

DATA: dict[str, Any] = {
    "format": FORMAT,
    "version": 1,
    "conversations": [
        {
            "title": "Lakes",
            "created": 1_700_000_000.5,
            "leaf": "a",
            "messages": [
                {"id": "q", "role": "user", "content": "How deep?"},
                {"id": "a", "parent_id": "q", "role": "assistant", "content": "Deep."},
                {"id": "b", "parent_id": "q", "role": "assistant", "content": "Very.", "status": "cancelled"},
            ],
        }
    ],
}


def store() -> Conversations:
    return Conversations(open_database(None))


def wrong(data: object) -> ErrorInfo:
    with pytest.raises(TokenglassError) as caught:
        read(data)
    assert caught.value.code == "invalid_argument"
    return caught.value.info


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    change(data["conversations"][0])
    return data


def without_ids(conversations: list[exchange.File]) -> list[exchange.File]:
    """With places in the list instead of ids."""
    told = []
    for conversation in conversations:
        places = {message["id"]: n for n, message in enumerate(conversation["messages"])}
        messages = [
            message | {"id": places[message["id"]]}
            | ({"parent_id": places[message["parent_id"]]} if message.get("parent_id") else {})
            for message in conversation["messages"]
        ]  # fmt: skip
        leaf = {"leaf": places[conversation["leaf"]]} if conversation.get("leaf") else {}
        told.append(conversation | {"id": None, "messages": messages} | leaf)
    return told


# ---- round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
times = st.floats(0, 4e9)
optional = {
    "content": texts,
    "reasoning": texts.filter(bool),
    "status": st.sampled_from(("interrupted", "cancelled", "error")),
    "model": texts.filter(bool),
    "origin": st.sampled_from(("window", "live", "cli")),
    "finish_reason": st.sampled_from(("stop", "length", "error")),
    "tool_call_id": st.just("call_1"),
    "tool_calls": st.lists(
        st.fixed_dictionaries({"id": st.just("call_1"), "name": texts, "arguments": texts}), min_size=1
    ),
    "usage": st.fixed_dictionaries(
        dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "completion_tokens", "draft_tokens", "accepted_tokens"),
            st.integers(0, 10**9),
        )
    ),
    "timings": st.dictionaries(
        st.sampled_from(("queue_ms", "ttft_ms", "tokens_per_second")), times, min_size=1
    ),
    "error": st.fixed_dictionaries({"code": st.just("engine_lost"), "message": texts}),
}  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> exchange.File:
    messages: list[exchange.File] = []
    for number in range(draw(st.integers(0, 8))):
        above = [None, *(message["id"] for message in messages)]
        message = draw(
            st.fixed_dictionaries(
                {
                    "parent_id": st.sampled_from(above),
                    "role": st.sampled_from(("system", "user", "assistant", "tool")),
                    "created": times,
                },
                optional=optional,
            )
        )
        messages.append({"id": f"m{number}", "content": ""} | message)
    told: exchange.File = {"id": "c", "title": draw(texts.map(str.strip).filter(bool)), "messages": messages}
    told |= {"created": draw(times), "updated": draw(times)}
    if messages:
        told["leaf"] = draw(st.sampled_from(messages))["id"]
    extra = {"system": texts.filter(bool), "model": texts.filter(bool)}
    return told | draw(st.fixed_dictionaries({}, optional=extra))


@settings(max_examples=150, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=3))
def test_what_is_imported_is_exported_as_it_was(given_: list[exchange.File]) -> None:
    data = json.loads(encoded(archive(given_)).text)["data"]
    first = store()
    stored = store_all(first, read(data))
    once = export(first, None)
    assert without_ids(once) == without_ids(given_)
    assert [conversation["id"] for conversation in stored] == [row["id"] for row in once]
    ids = {message["id"] for conversation in once for message in conversation["messages"]}
    assert len(ids) == sum(len(conversation["messages"]) for conversation in given_)
    second = store()
    store_all(second, read(archive(once)))
    assert without_ids(export(second, None)) == without_ids(once)
    for row in stored:
        got = first.get(row["id"], None)
        assert markdown(got["conversation"], got["messages"]).startswith("# ")


@given(conversations())
def test_the_text_is_the_value(conversation: exchange.File) -> None:
    file = archive([conversation, conversation])
    result = encoded(file)
    assert json.loads(result.text) == {"data": file} == result
    reply = json.loads(protocol.reply_ok("x", result))
    assert reply == {"type": "reply", "id": "x", "ok": True, "result": {"data": file}}


def test_a_lived_conversation(tmp_path: Path) -> None:
    """Everything that the app itself writes is told, and comes back."""

    async def body(history: History) -> None:
        key = (await history.create("Lakes", "Be brief."))["id"]
        user, answer = await history.add_turn(key, "How deep?", "g1", "starter", "live")
        call = {"id": "call_1", "name": "depth", "arguments": '{"of": "lake"}'}
        await history.finish(finished("g1", "Let me see.", "tool_calls", reasoning="hm", tool_calls=[call]))
        await history.add_results(answer["id"], [("call_1", "12 m ``` x")], "g2", "starter", "live")
        (streaming,) = await history.export(key)
        assert streaming["messages"][-1]["status"] == "interrupted"
        await history.finish(finished("g2", "12 m.", "length"))
        await history.add_variant(key, user["id"], "g3", "starter")
        await history.finish(finished("g3", "Half", "error", ErrorInfo(code="engine_lost", message="gone")))
        (told,) = await history.export(key)
        roles = [message["role"] for message in told["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "assistant"]
        assert told["messages"][1]["tool_calls"] == [call]
        assert told["messages"][2]["tool_call_id"] == "call_1"
        assert told["messages"][4]["error"] == {"code": "engine_lost", "message": "gone"}
        assert told["messages"][1]["usage"]["prompt_tokens"] == 3
        assert not any("generation_id" in message for message in told["messages"])
        await history.store_all(read(archive([told])))
        copied = (await history.export(None))[0]
        assert without_ids([copied]) == without_ids([told])
        again = copied["leaf"]
        assert [m.role for m in await history.prompt_messages(again)] == ["system", "user"]
        text = markdown(**await history.get(key, answer["id"]))
        assert text.splitlines()[0] == "# Lakes"
        for part in (
            "## System\n\nBe brief.",
            "## User",
            "## starter\n\n> hm\n\nLet me see.",
            "Calls `depth`:",
        ):
            assert part in text
        assert "````\n12 m ``` x\n````" in text
        assert text.endswith("12 m.\n")

    asyncio.run(with_history(tmp_path / "history.db", body))


async def with_history(path: Path, body: Callable[[History], Awaitable[None]]) -> None:
    history = await History.open(path)
    try:
        await body(history)
    finally:
        await history.close()


# ---- what must not get in


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda c: c["messages"][0].update(role="wizard"), "messages.0.role"),
        (lambda c: c["messages"][0].update(role=None), "messages.0.role"),
        (lambda c: c["messages"][0].update(content=5), "messages.0.content"),
        (lambda c: c["messages"][0].update(extra=5), "messages.0.extra"),
        (lambda c: c["messages"][0].pop("id"), "messages.0.id"),
        (lambda c: c["messages"][0].update(id=""), "messages.0.id"),
        (lambda c: c["messages"][0].update(parent_id="q"), "messages.0.parent_id"),
        (lambda c: c["messages"][0].update(parent_id="a"), "messages.0.parent_id"),
        (lambda c: c["messages"][1].update(parent_id="nobody"), "messages.1.parent_id"),
        (lambda c: c["messages"][2].update(id="a"), "messages.2.id"),
        (lambda c: c["messages"].reverse(), "messages.0.parent_id"),
        (lambda c: c["messages"][0].update(created=-1), "messages.0.created"),
        (lambda c: c["messages"][0].update(created=1e300), "messages.0.created"),
        (lambda c: c["messages"][0].update(created=float("nan")), "messages.0.created"),
        (lambda c: c["messages"][0].update(created="today"), "messages.0.created"),
        (lambda c: c["messages"][0].update(status="streaming"), "messages.0.status"),
        (lambda c: c["messages"][0].update(usage={"prompt_tokens": -1}), "messages.0.usage.prompt_tokens"),
        (lambda c: c["messages"][0].update(timings={"x": 1}), "messages.0.timings.x"),
        (lambda c: c["messages"][0].update(error={"code": "nope", "message": ""}), "messages.0.error.code"),
        (lambda c: c["messages"][0].update(content="\ud800"), "messages.0.content"),
        (lambda c: c.update(title="\udfff"), "title"),
        (lambda c: c.update(title="x" * 501), "title"),
        (lambda c: c.update(leaf="nobody"), "leaf"),
        (lambda c: c.update(messages="none"), "messages"),
        (lambda c: c.update(deleted=True), "deleted"),
    ],
)  # fmt: skip
def test_a_wrong_place_is_named(change: Callable[[dict[str, Any]], object], path: str) -> None:
    assert wrong(changed(change)).path == f"data.conversations.0.{path}"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({}, "data"),
        ([], "data"),
        ([1], "data"),
        ({"format": "other"}, "data"),
        (DATA | {"version": 2}, "data.version"),
        (DATA | {"version": "1"}, "data.version"),
        (DATA | {"conversations": []}, "data.conversations"),
        (DATA | {"conversations": DATA["conversations"] * 1001}, "data.conversations"),
        (DATA | {"more": 1}, "data.more"),
        ([{"role": "user", "content": 5}], "data.0.content"),
        ([{"role": "wizard", "content": ""}], "data.0.role"),
        ([{"role": "user", "content": "a"}, 5], "data.1"),
        ([{"role": "system", "content": "a"}], "data"),
        ({"messages": [{"role": "user"}, {"role": 5}]}, "data.messages.1.role"),
        ([{"mapping": 5}], "data.0.mapping"),
        ({"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}}, "data.mapping"),
    ],
)
def test_a_wrong_file_is_named(data: object, path: str) -> None:
    assert wrong(data).path == path


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    """Some value anywhere in a file is replaced by any other."""
    chance = random.Random(data.draw(st.integers()))
    damaged: Any = copy.deepcopy(data.draw(st.sampled_from((DATA, CHATGPT, PLAIN))))
    place = damaged
    while isinstance(place, dict | list) and place:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.2:
            place[key] = data.draw(values)
            break
        place = place[key]
    found: list[exchange.ArchivedConversation] = []
    with contextlib.suppress(TokenglassError):
        found = read(damaged)
    if not found:
        assert (wrong(damaged).path or "").startswith("data")
        return
    taken = store()
    store_all(taken, found)
    for conversation in taken.list(10, 0):
        json.dumps(taken.get(conversation["id"], None), ensure_ascii=False).encode()


def test_nothing_is_half_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = store()
    data = DATA | {"conversations": DATA["conversations"] * 3}
    calls = iter(("conv", "msg", "msg", "msg", "conv", "msg"))

    def ids(kind: str) -> str:
        next(calls, None)
        return f"{kind}_{random.random()}" if next(calls, None) else "same"

    monkeypatch.setattr("api.archive.new_id", ids)
    with pytest.raises(Exception, match="UNIQUE"):
        store_all(taken, read(data))
    assert taken.list(10, 0) == []
    assert taken.db.execute("SELECT count(*) FROM message").fetchone()[0] == 0


def test_a_deep_conversation_comes_goes_and_is_deleted(tmp_path: Path) -> None:
    """10,000 messages below each other, which SQLite can't delete as parents and children at once."""
    chain = [
        {"id": f"m{n}", "parent_id": f"m{n - 1}" if n else None, "role": ("user", "assistant")[n % 2]}
        for n in range(10_000)
    ]

    async def come(history: History) -> None:
        (kept,) = await history.store_all(read(archive([{"title": "Deep", "messages": chain}])))
        (told,) = await history.export(kept["id"])
        assert told["messages"][-1]["parent_id"] == told["messages"][-2]["id"]
        assert len((await history.get(kept["id"]))["messages"]) == 10_000
        await history.delete(kept["id"])

    async def gone(history: History) -> None:
        assert await history.list() == []

    path = tmp_path / "history.db"
    asyncio.run(with_history(path, come))
    asyncio.run(with_history(path, gone))


def test_too_much_is_refused_before_it_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = store()
    (kept,) = store_all(taken, read(DATA))
    for conversation_id, path in ((kept["id"], "conversation_id"), (None, "conversation_id")):
        with pytest.raises(TokenglassError) as caught:
            export(taken, conversation_id, limit=10)
        assert caught.value.info.path == path
    store_all(taken, read(DATA))
    with pytest.raises(TokenglassError) as caught:
        export(taken, None, limit=10)
    assert caught.value.info.path == "all"
    monkeypatch.setattr(exchange, "MAX_EXPORT_BYTES", 300)
    with pytest.raises(TokenglassError) as caught:
        encoded(archive(export(taken, kept["id"], None)))
    assert caught.value.info.path == "conversation_id"


# ---- other programs

PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "How deep?"}]},
    {"role": "assistant", "content": "Deep."},
]


def said(role: str, parent: str, **content: Any) -> dict[str, Any]:
    """A node of ChatGPT's tree."""
    return {"parent": parent, "message": {"author": {"role": role}, "content": content, "create_time": None}}


CHATGPT = [
    {
        "title": "Lakes",
        "create_time": 1_700_000_000.5,
        "update_time": 1_700_000_100,
        "current_node": "tool",
        "mapping": {
            "root": {"id": "root", "message": None, "parent": None, "children": ["sys"]},
            "a2": said("assistant", "u", content_type="text", parts=["Very."]),
            "sys": said("system", "root", content_type="text", parts=[""]),
            "u": {
                "parent": "sys",
                "message": {
                    "author": {"role": "user"},
                    "create_time": 1_700_000_001.0,
                    "content": {"content_type": "multimodal_text", "parts": [{"image": 1}, "How", "deep?"]},
                },
            },
            "a1": said("assistant", "u", content_type="code", text="deep()"),
            "tool": said("tool", "a1", content_type="text", parts=["12"]),
        },
    }
]


def test_a_list_of_messages() -> None:
    for data in (PLAIN, {"messages": PLAIN}):
        taken = store()
        (kept,) = store_all(taken, read(data))
        assert (kept["title"], kept["system"]) == ("How deep?", "Be brief.")
        assert [m["content"] for m in taken.get(kept["id"], None)["messages"]] == ["How deep?", "Deep."]


def test_chatgpts_export() -> None:
    assert foreign.converted(DATA, "data") is None
    taken = store()
    (kept,) = store_all(taken, read(CHATGPT))
    assert (kept["title"], kept["created"], kept["updated"]) == ("Lakes", 1_700_000_000.5, 1_700_000_100)
    got = taken.get(kept["id"], None)["messages"]
    assert [(m["role"], m["content"]) for m in got] == [("user", "How\n\ndeep?"), ("assistant", "deep()")]
    assert got[0]["created"] == 1_700_000_001.0
    assert len(got[1]["variants"]) == 2


# ---- over the stream


def test_over_the_stream(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire, client(core) as other:
            await other.command("subscribe", events=["conversation.*"])
            stored = (await wire.command("conversations.import", data=DATA))["conversations"]
            created = await other.event("conversation.created")
            assert created["conversation"] == stored[0]
            key = stored[0]["id"]
            told = await wire.command("conversations.export", conversation_id=key)
            assert without_ids(told["data"]["conversations"])[0]["messages"][2]["status"] == "cancelled"
            assert (await wire.command("conversations.export", all=True))["data"]["conversations"] == told[
                "data"
            ]["conversations"]
            shown = await wire.command("conversations.export", conversation_id=key, format="markdown")
            assert "## User\n\nHow deep?\n\n## Assistant\n\nDeep.\n" in shown["markdown"]
            local = core.connect_local("window", "window")
            assert (await local.request("conversations.export", conversation_id=key))["data"][
                "conversations"
            ] == told["data"]["conversations"]
            local.close()
            for arguments in (
                {},
                {"all": False},
                {"conversation_id": key, "all": True},
                {"all": True, "format": "markdown"},
                {"conversation_id": key, "format": "pdf"},
            ):
                with pytest.raises(CommandError) as caught:
                    await wire.command("conversations.export", **arguments)
                assert caught.value.code == "invalid_argument"
            with pytest.raises(CommandError) as caught:
                await wire.command("conversations.export", conversation_id="nobody")
            assert caught.value.code == "not_found"
            bad = DATA | {"conversations": [*DATA["conversations"], {"leaf": "x"}]}
            with pytest.raises(CommandError) as caught:
                await wire.command("conversations.import", data=bad)
            assert caught.value.error["path"] == "data.conversations.1.leaf"
            assert len((await wire.command("conversations.list"))["conversations"]) == 1
            # an answer in an imported conversation, below the branch that is shown
            result = await wire.command("generate", conversation_id=key, content="And the others?")
            await wire.finished(result["generation_id"])
            got = (await wire.command("conversations.get", conversation_id=key))["messages"]
            assert [m["content"] for m in got[:3]] == ["How deep?", "Deep.", "And the others?"]

    run(test())
