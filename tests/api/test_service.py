import asyncio
from pathlib import Path
from typing import Any

import pytest

from api.core import Core
from api.local import LocalClient
from api.starts import MAX_INPUT_SHOWN, shown_input
from engine.errors import TokenglassError
from engine.types import ChatMessage
from tests.api.harness import ENDLESS, WAIT_S, CommandError, Frame, Wire, app, client, eventually, run

ECHO = "fake:echo=1"


async def turn(wire: Wire, conversation_id: str, **arguments: object) -> tuple[Frame, Frame]:
    """Ask within a conversation; answers the reply and `finished`."""
    result = await wire.command("generate", conversation_id=conversation_id, **arguments)
    return result, await wire.finished(result["generation_id"])


async def stored(core: Core, message_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {}
    async with asyncio.timeout(WAIT_S):
        while message.get("status") in (None, "streaming"):
            message = await core.history.message(message_id)
            await asyncio.sleep(0.01)
    return message


def test_a_conversation_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            await wire.command("subscribe", events=["conversation.*"])
            created = (await wire.command("conversations.create", system="Be brief."))["conversation"]
            result, finished = await turn(wire, created["id"], content="Good morning")
            assert result["conversation_id"] == created["id"]
            queued = await wire.event("generation.queued")
            assert (queued["conversation_id"], queued["message_id"]) == (created["id"], result["message_id"])
            assert queued["input"] == "Good morning"
            answer = await stored(core, result["message_id"])
            assert (answer["content"], answer["status"]) == (finished["text"], "complete")
            got = await wire.command("conversations.get", conversation_id=created["id"])
            assert [m["role"] for m in got["messages"]] == ["user", "assistant"]
            assert got["messages"][0]["id"] == result["user_message_id"]
            assert got["conversation"]["title"] == "Good morning"
            names = [f["type"] for f in wire.frames if f["type"].startswith("conversation.")]
            assert names[:4] == [
                "conversation.created",
                "conversation.message",
                "conversation.message",
                "conversation.updated",
            ]
            await wire.until(
                lambda f: f["type"] == "conversation.message" and f["message"]["status"] == "complete"
            )
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            (listed,) = (await wire.command("conversations.list"))["conversations"]
            assert listed["id"] == created["id"]

    run(test())


def test_the_reply_means_that_it_is_on_the_disk(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=60000") as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            result = await wire.command("generate", conversation_id=created["id"], content="keep me")
            got = await core.history.get(created["id"])
            assert [m["content"] for m in got["messages"]] == ["keep me", ""]
            assert got["messages"][1]["id"] == result["message_id"]
            assert got["messages"][1]["generation_id"] == result["generation_id"]

    run(test())


def test_the_second_turn_sees_the_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            first, _ = await turn(wire, created["id"], content="one")
            await stored(core, first["message_id"])
            second, _ = await turn(wire, created["id"], content="two")
            starts = [
                await wire.event("generation.started", generation_id=r["generation_id"])
                for r in (first, second)
            ]
            assert starts[1]["prompt_tokens"] > starts[0]["prompt_tokens"]
            assert starts[1]["cached_tokens"] > 0
            got = await wire.command("conversations.get", conversation_id=created["id"])
            assert [m["content"] for m in got["messages"] if m["role"] == "user"] == ["one", "two"]

    run(test())


def test_another_variant(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            first, _ = await turn(wire, created["id"], content="one")
            second, finished = await turn(wire, created["id"], parent=first["user_message_id"])
            assert finished["text"] == "one"
            assert second["user_message_id"] == first["user_message_id"]
            assert second["message_id"] != first["message_id"]
            await stored(core, second["message_id"])
            got = await wire.command("conversations.get", conversation_id=created["id"])
            assert got["messages"][1]["id"] == second["message_id"]
            assert got["messages"][1]["variants"] == [first["message_id"], second["message_id"]]

    run(test())


def test_a_deleted_conversation_is_not_written_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            other = await wire.generate()
            created = (await wire.command("conversations.create", title="Rivers"))["conversation"]
            where = {"conversation_id": created["id"]}
            told = await wire.command("generate", **where, content="hi")
            await wire.event("generation.delta", generation_id=told["generation_id"])
            await wire.command("conversations.delete", **where)
            finished = await wire.finished(told["generation_id"])
            assert finished["finish_reason"] == "cancelled"
            assert core.supervisor.knows(other)
            await wire.command("conversations.restore", **where)
            (_, answer) = (await wire.command("conversations.get", **where))["messages"]
            assert (answer["status"], answer["content"]) == ("cancelled", finished["text"])

    run(test())


def test_conversations_are_renamed_deleted_and_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            await wire.command("subscribe", events=["conversation.*"])
            created = (await wire.command("conversations.create", title="Rivers"))["conversation"]
            where = {"conversation_id": created["id"]}
            renamed = (await wire.command("conversations.rename", **where, title="Lakes"))["conversation"]
            assert renamed["title"] == "Lakes"
            (found,) = (await wire.command("conversations.search", query="lakes"))["results"]
            assert found["id"] == created["id"]
            assert await wire.command("conversations.delete", **where) == {}
            assert (await wire.command("conversations.list"))["conversations"] == []
            restored = (await wire.command("conversations.restore", **where))["conversation"]
            assert restored["title"] == "Lakes"
            await wire.command("ping")
            assert [f["type"] for f in wire.events()] == [
                "conversation.created",
                "conversation.updated",
                "conversation.deleted",
                "conversation.created",
            ]

    run(test())


@pytest.mark.parametrize(
    ("name", "arguments"),
    (
        ("conversations.get", {}),
        ("conversations.rename", {"title": "x"}),
        ("conversations.delete", {}),
        ("conversations.restore", {}),
        ("generate", {"content": "x"}),
        ("generate", {"parent": "msg_x"}),
    ),
)
def test_what_is_not_there(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            with pytest.raises(CommandError) as caught:
                await wire.command(name, conversation_id="conv_nothing", **arguments)
            assert caught.value.code == "not_found"
            assert core.supervisor._generations._reserved == 0
            assert core.state.generations == {}

    run(test())


def test_a_turn_that_cannot_begin_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            original = core.history.prompt_messages

            async def broken(message_id: str) -> list[ChatMessage]:
                raise TokenglassError("storage", "the disk is gone")

            monkeypatch.setattr(core.history, "prompt_messages", broken)
            with pytest.raises(CommandError, match="storage"):
                await wire.command("generate", conversation_id=created["id"], content="one")
            assert core.supervisor._generations._reserved == 0
            monkeypatch.setattr(core.history, "prompt_messages", original)
            _, finished = await turn(wire, created["id"], content="two")
            assert finished["text"] == "two"

    run(test())


def test_new_conversations_get_the_settings_system_prompt(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            await wire.command("settings.set", settings={"system_prompt": "Be kind."})
            default = (await wire.command("conversations.create"))["conversation"]
            own = (await wire.command("conversations.create", system=""))["conversation"]
            assert default["system"] == "Be kind."
            assert not own["system"]

    run(test())


def test_tools_can_be_switched_off(tmp_path: Path) -> None:
    call = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    tools = [{"type": "function", "function": {"name": "clock"}}]

    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            with_tools = await wire.finished(await wire.generate(call, tools=tools))
            assert with_tools["finish_reason"] == "tool_calls"
            assert with_tools["tool_calls"][0]["name"] == "clock"
            without = await wire.finished(await wire.generate(call, tools=tools, tool_choice="none"))
            assert without["tool_calls"] == []

    run(test())


def test_a_raw_prompt(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            result = await wire.command("generate", prompt="Once upon")
            assert (await wire.finished(result["generation_id"]))["text"] == "Once upon"
            assert (await wire.event("generation.queued"))["input"] == "Once upon"

    run(test())


def test_only_tokens_of_the_model_can_be_biased(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await eventually(lambda: core.state.model is not None)
            n_vocab = core.state.model.n_vocab  # type: ignore[union-attr]  # just waited for
            for key in ("-1", "1.0", " 1", "1_0", "01", "x", "9" * 20, str(n_vocab)):
                with pytest.raises(CommandError) as refused:
                    await wire.command("generate", prompt="x", sampling={"logit_bias": {key: 1}})
                assert refused.value.code == "invalid_argument", key
                assert refused.value.error["path"].startswith("sampling.logit_bias"), key
            biased = {"logit_bias": {"0": -100, str(n_vocab - 1): 1}}
            result = await wire.command("generate", prompt="x", sampling=biased)
            await wire.command("pause", generation_id=result["generation_id"])
            with pytest.raises(CommandError, match="has no token"):
                await wire.command(
                    "update",
                    generation_id=result["generation_id"],
                    sampling={"logit_bias": {str(n_vocab): 1}},
                )

    run(test())


def test_adding_a_bad_file(tmp_path: Path) -> None:
    async def test() -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"GG")
        async with app(tmp_path / "home", ECHO) as core, client(core) as wire:
            with pytest.raises(CommandError, match="model_damaged"):
                await wire.command("models.add", path=str(bad))
            with pytest.raises(CommandError, match="invalid_argument") as caught:
                await wire.command("models.add", path=bad.name)
            assert caught.value.error["path"] == "path"
            with pytest.raises(CommandError, match="not_found"):
                await wire.command("models.load", model=str(bad))

    run(test())


def test_what_is_shown_of_a_question() -> None:
    messages = [
        ChatMessage(role="user", content="first"),
        ChatMessage(role="user", content="last" * 1000),
        ChatMessage(role="assistant", content="an answer"),
    ]
    assert shown_input(messages, None) == ("last" * 1000)[:MAX_INPUT_SHOWN]
    assert shown_input(None, "prompt") == "prompt"
    assert shown_input([ChatMessage(role="user")], None) == ""
    assert shown_input([ChatMessage(role="system", content="s")], None) == ""


# ---- client zero


async def drained(local: LocalClient, name: str) -> list[Any]:
    seen: list[Any] = []
    async with asyncio.timeout(WAIT_S):
        while not any(envelope.event.type == name for envelope in seen):
            seen += local.subscription.drain()
            await asyncio.sleep(0.01)
    return seen


def test_the_local_client_is_a_client_like_any(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=10,delay_ms=2") as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*", "generation.*"])
            ready: list[int] = []
            local = core.connect_local("window", "window", lambda: ready.append(core.bus.seq))
            assert (await wire.event("client.connected"))["origin"] == "window"
            result = await local.request("generate", messages=[{"role": "user", "content": "hi"}])
            seen = await drained(local, "generation.finished")
            assert ready
            finished = await wire.finished(result["generation_id"])
            indices = [t["index"] for e in seen if e.event.type == "generation.delta" for t in e.event.tokens]
            assert indices == list(range(10)) == wire.indices(result["generation_id"])
            assert seen[-1].seq == finished["seq"]
            assert (await wire.event("generation.queued"))["client_id"] == local.client_id
            with pytest.raises(TokenglassError) as caught:
                await local.request("generate", messages="hi")
            assert caught.value.code == "invalid_argument"
            with pytest.raises(TokenglassError) as caught:
                await local.request("generate", prompt="\udcff")
            assert caught.value.code == "invalid_json"
            local.close()
            local.close()
            assert (await wire.event("client.disconnected"))["reason"] == "closed"
            with pytest.raises(TokenglassError) as caught:
                await local.request("ping")
            assert caught.value.code == "shutting_down"

    run(test())


def test_the_local_client_subscribes_as_a_socket_does(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core) as wire:
            await eventually(lambda: core.supervisor.phase == "ready")
            local = core.connect_local("window", "window")
            for request, arguments in (("subscribe", {"since": 0}), ("unsubscribe", {}), ("snapshot", {})):
                before = core.bus.seq  # others publish meanwhile
                result = await local.request(request, **arguments)
                assert before <= result["seq"] <= core.bus.seq
                if request == "subscribe":
                    assert local.subscription.drain()[0].seq == 1
            await wire.finished(await wire.generate())
            assert local.subscription.drain() == []
            await local.request("subscribe", events=["generation.*"], generations=["gen_x"])
            await wire.finished(await wire.generate())
            assert local.subscription.drain() == []
            with pytest.raises(TokenglassError) as caught:
                await local.request("subscribe", since=core.bus.seq + 1000)
            assert caught.value.code == "bad_state"
            local.close()

    run(test())


def test_raising_the_window(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ECHO) as core, client(core) as wire:
            with pytest.raises(CommandError, match="not_found"):
                await wire.command("window.raise")
            raised: list[bool] = []
            core.service.raise_window = lambda: raised.append(True)
            await wire.command("window.raise")
            assert raised == [True]

    run(test())
