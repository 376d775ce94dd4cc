"""`tool_result`: calls and their results, and the generation that goes on from them."""

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from api import toolresults
from api.client import LiveClient, SyncClient
from api.core import Core
from engine.commands import Generate
from tests.api.harness import CommandError, Frame, Wire, app, client, run
from tests.e2e.harness import serve

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("clock", "sum")
]
CLOCK = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
SUM = '<tool_call>{"name": "sum", "arguments": {"a": 2}}</tool_call>'
ASK = [{"role": "user", "content": "what time is it?"}]


def script(text: str, more: str = "") -> str:
    return f"fake:{more}script={quote(text)}"


TWO = script(f"Let me look. {CLOCK}\n{SUM}")


def works(core: Core, monkeypatch: pytest.MonkeyPatch) -> list[Generate]:
    """What the engine is given from now on."""
    seen: list[Generate] = []
    submit = core.supervisor.submit

    def watched(command: Generate) -> None:
        seen.append(command)
        submit(command)

    monkeypatch.setattr(core.supervisor, "submit", watched)
    return seen


async def called(wire: Wire, **arguments: Any) -> tuple[str, list[str]]:
    """A finished generation and the ids of its calls."""
    source = {} if {"conversation_id", "prompt"} & arguments.keys() else {"messages": ASK}
    result = await wire.command("generate", **({"tools": TOOLS} | source | arguments))
    finished = await wire.finished(result["generation_id"])
    return result["generation_id"], [call["id"] for call in finished["tool_calls"]]


async def give(wire: Wire, generation_id: str, call_id: str, content: str = "12:30") -> Frame:
    return await wire.command("tool_result", generation_id=generation_id, call_id=call_id, content=content)


async def refused(wire: Wire, generation_id: str, call_id: str = "c", **more: Any) -> tuple[str, str]:
    with pytest.raises(CommandError) as caught:
        await wire.command(
            "tool_result", **({"generation_id": generation_id, "call_id": call_id, "content": ""} | more)
        )
    return caught.value.code, caught.value.error["path"]


def test_two_calls_and_their_results_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, TWO) as core, client(core, "?name=first") as wire, client(core) as other:
            seen = works(core, monkeypatch)
            first, (clock, add) = await called(
                other, sampling={"temperature": 0.3, "seed": 7}, stop=["never"], max_tokens=900, logprobs=1
            )
            assert await give(wire, first, add, "5") == {"pending": [clock]}
            reply = await give(wire, first, clock)
            second = reply.pop("generation_id")
            assert reply == {"pending": []}
            queued = await wire.event("generation.queued", generation_id=second)
            assert (queued["continues"], queued["client_name"]) == (first, "first")
            assert queued["input"] == "what time is it?"
            finished = await wire.finished(second)
            assert finished["finish_reason"] == "tool_calls"
            before, after = seen
            assert after.messages is not None
            question, said, *results = after.messages
            assert question == (before.messages or [])[0]
            assert (said.role, said.content) == ("assistant", "Let me look.")
            assert [call.name for call in said.tool_calls or ()] == ["clock", "sum"]
            assert [(m.role, m.content, m.tool_call_id, m.name) for m in results] == [
                ("tool", "12:30", clock, "clock"),
                ("tool", "5", add, "sum"),
            ]
            same = {"sampling", "stop", "max_tokens", "logprobs", "tools", "tool_choice", "trim", "grammar"}
            assert after.model_dump(include=same) == before.model_dump(include=same)
            # it may call again, and go on again
            calls = [call["id"] for call in finished["tool_calls"]]
            assert not {clock, add} & set(calls)
            for call in calls:
                reply = await give(wire, second, call, "again")
            assert (await wire.event("generation.queued", continues=second))["generation_id"] == reply[
                "generation_id"
            ]
            await wire.finished(reply["generation_id"])
            assert [m.role for m in seen[-1].messages or ()] == [
                "user", *["assistant", "tool", "tool"] * 2,
            ]  # fmt: skip

    run(test())


def test_what_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        # it loads for so long that what is asked first hasn't ended when it is cancelled
        async with app(tmp_path, script(CLOCK, "load_ms=2000,")) as core, client(core) as wire:
            assert await refused(wire, "gen_x") == ("not_found", "generation_id")
            running = await wire.generate(tools=TOOLS)
            assert await refused(wire, running) == ("bad_state", "generation_id")
            await wire.command("cancel", generation_id=running)
            await wire.finished(running)
            assert await refused(wire, running) == ("bad_state", "generation_id")
            without = await wire.generate()
            await wire.finished(without)
            assert await refused(wire, without) == ("bad_state", "generation_id")
            raw, calls = await called(wire, prompt="what time is it?")
            assert calls
            assert await refused(wire, raw, calls[0]) == ("bad_state", "generation_id")
            fine, (clock,) = await called(wire)
            assert await refused(wire, fine, "call_x") == ("not_found", "call_id")
            long = "x" * 262_145
            assert await refused(wire, fine, clock, content=long) == ("invalid_argument", "content")
            assert await refused(wire, fine, clock, content=5) == ("invalid_argument", "content")
            assert "generation_id" in await give(wire, fine, clock, "")
            assert await refused(wire, fine, clock) == ("bad_state", "call_id")

    run(test())


def test_cancelled_between(tmp_path: Path) -> None:
    """What was cancelled isn't gone on with, however whole its calls are; later nothing is left to cancel."""

    async def test() -> None:
        long = script(f"{CLOCK}{SUM} and so on {'over ' * 80}", "delay_ms=20,")
        async with app(tmp_path, long) as core, client(core) as wire:
            stopped = await wire.generate(tools=TOOLS)
            call = (await wire.event("generation.tool_call", generation_id=stopped))["call"]["id"]
            await wire.command("cancel", generation_id=stopped)
            finished = await wire.finished(stopped)
            assert (finished["finish_reason"], bool(finished["tool_calls"])) == ("cancelled", True)
            assert await refused(wire, stopped, call) == ("bad_state", "generation_id")
            first, (clock, add) = await called(wire)
            await give(wire, first, add)
            assert (await wire.command("cancel", generation_id=first))["state"] == "finished"
            second = (await give(wire, first, clock))["generation_id"]
            await wire.command("cancel", generation_id=second)
            assert (await wire.finished(second))["finish_reason"] == "cancelled"

    run(test())


def test_a_forced_call_answers_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, script(CLOCK)) as core, client(core) as wire:
            seen = works(core, monkeypatch)
            for choice in ("required", {"type": "function", "function": {"name": "clock"}}):
                first, calls = await called(wire, tool_choice=choice)
                replies = [await give(wire, first, call) for call in calls]
                await wire.finished(replies[-1]["generation_id"])
                assert (seen[-2].tool_choice, seen[-1].tool_choice) != ("auto", "auto")
                assert seen[-1].tool_choice == "auto"

    run(test())


def test_a_last_result_that_is_refused_is_not_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, TWO) as core, client(core) as wire:
            first, (clock, add) = await called(wire)
            await give(wire, first, clock)
            await wire.command("models.unload")
            with pytest.raises(CommandError) as caught:
                await give(wire, first, add)
            assert caught.value.code == "no_model"
            await wire.command("models.load", model="starter")
            with pytest.raises(CommandError) as caught:
                await give(wire, first, add)
            assert (caught.value.code, "fake" in caught.value.error["message"]) == ("bad_state", True)
            await wire.command("models.load", model="fake:", force=True)
            second = (await give(wire, first, add))["generation_id"]
            assert (await wire.finished(second))["finish_reason"] == "stop"
            assert core.supervisor._generations._reserved == 0

    run(test())


def test_updates_and_branches_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        slow = script(f"Let me look at that clock. {CLOCK}", "delay_ms=80,")
        async with app(tmp_path, slow) as core, client(core) as wire:
            seen = works(core, monkeypatch)
            source = await wire.generate(tools=TOOLS, sampling={"temperature": 0.5})
            await wire.event("generation.delta", generation_id=source)
            await wire.command("update", generation_id=source, sampling={"top_k": 3, "seed": 5})
            branch = (await wire.command("fork", generation_id=source, at_token=1))["generation_id"]
            for generation_id in (source, branch):
                finished = await wire.finished(generation_id)
                (call,) = finished["tool_calls"]
                following = (await give(wire, generation_id, call["id"]))["generation_id"]
                await wire.command("cancel", generation_id=following)
                await wire.finished(following)
                sampling = seen[-1].sampling
                assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 3, None)
                assert (seen[-1].messages or [])[-2].content == "Let me look at that clock."

    run(test())


def test_the_worker_dies_between(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, TWO) as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*"])
            first, (clock, add) = await called(wire)
            await give(wire, first, clock)
            pid = core.supervisor.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await wire.event("engine.exited", signal="SIGKILL")
            second = (await give(wire, first, add))["generation_id"]
            assert (await wire.finished(second))["finish_reason"] == "tool_calls"

    run(test())


def test_it_ends_with_its_connection_as_the_one_before(tmp_path: Path) -> None:
    async def test() -> None:
        slow = script(f"{CLOCK} and so on {'over ' * 60}", "delay_ms=20,")
        async with app(tmp_path, slow) as core, client(core) as wire:
            await wire.command("subscribe", events=["generation.*"])
            for wish, reason in (("cancel", "cancelled"), ("continue", "tool_calls")):
                async with client(core) as other:
                    first, (clock,) = await called(other, on_disconnect=wish)
                    second = (await give(other, first, clock))["generation_id"]
                    await wire.event("generation.delta", generation_id=second)
                assert (await wire.finished(second))["finish_reason"] == reason

    run(test())


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with app(tmp_path, script(CLOCK)) as core, client(core) as wire:
            made = [await called(wire) for _ in range(4)]
            assert await refused(wire, made[0][0], made[0][1][0]) == ("bad_state", "generation_id")
            assert (await give(wire, made[1][0], made[1][1][0]))["pending"] == []
            monkeypatch.setattr(toolresults, "MAX_KEPT_CHARS", 10)
            assert await refused(wire, made[3][0], made[3][1][0]) == ("bad_state", "generation_id")
            assert core.service.tool_results._n_chars == 0
            monkeypatch.setattr(toolresults, "MAX_KEPT_CHARS", 1 << 20)
            monkeypatch.setattr(toolresults, "KEPT_S", 0.0)
            late, (clock,) = await called(wire)
            assert await refused(wire, late, clock) == ("bad_state", "generation_id")

    monkeypatch.setattr(toolresults, "MAX_KEPT", 3)
    run(test())


@pytest.mark.parametrize("kept", [False, True])
def test_all_at_once_in_any_order_and_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Each call takes one result, whoever's comes first, and one generation goes on."""

    async def once(core: Core, wires: list[Wire], seen: list[Generate], chance: random.Random) -> None:
        place: dict[str, Any] = {}
        if kept:
            key = (await wires[0].command("conversations.create"))["conversation"]["id"]
            place = {"conversation_id": key, "content": "go"}
        first, calls = await called(wires[0], **place)
        sends = [(wire, call) for wire in wires for call in calls]
        chance.shuffle(sends)

        async def send(wire: Wire, call: str) -> Frame:
            content = f"{call} by {wires.index(wire)}"
            frame = {"generation_id": first, "call_id": call, "content": content}
            return await wire.reply(await wire.send("tool_result", **frame)) | {"content": content}

        replies = await asyncio.gather(*(send(*each) for each in sends))
        taken = [reply for reply in replies if reply["ok"]]
        assert {reply["error"]["code"] for reply in replies if not reply["ok"]} == {"bad_state"}
        assert sorted(len(reply["result"]["pending"]) for reply in taken) == list(range(len(calls)))
        (last,) = [reply for reply in taken if "generation_id" in reply["result"]]
        asked = next(w for w in seen if w.generation_id == last["result"]["generation_id"]).messages or []
        assert [message.tool_call_id for message in asked[-len(calls) :]] == calls
        assert {message.content for message in asked[-len(calls) :]} == {reply["content"] for reply in taken}
        for wire in wires:
            await wire.event("generation.finished", generation_id=last["result"]["generation_id"])
        if kept:
            got = (await wires[0].command("conversations.get", conversation_id=place["conversation_id"]))[
                "messages"
            ]
            assert [m["role"] for m in got] == ["user", "assistant", *["tool"] * len(calls), "assistant"]

    async def test() -> None:
        four = script(CLOCK + SUM + CLOCK + SUM)
        async with app(tmp_path, four) as core, client(core) as one, client(core) as two:
            for wire in (one, two):
                await wire.command("subscribe", events=["generation.finished"])
            seen = works(core, monkeypatch)
            for seed in range(8):
                await once(core, [one, two], seen, random.Random(seed))

    run(test())


# ---- in a conversation


def test_a_conversation_keeps_results_and_the_next_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with app(tmp_path, TWO) as core, client(core) as wire:
            await wire.command("subscribe", events=["conversation.*", "generation.*"])
            conversation = (await wire.command("conversations.create", system="Be brief."))["conversation"]
            key = conversation["id"]
            first, (clock, add) = await called(wire, conversation_id=key, content="what time is it?")
            await give(wire, first, add, "5")
            reply = await give(wire, first, clock)
            got = (await wire.command("conversations.get", conversation_id=key))["messages"]
            assert [m["role"] for m in got] == ["user", "assistant", "tool", "tool", "assistant"]
            assert [(m["content"], m["tool_call_id"]) for m in got[2:4]] == [("12:30", clock), ("5", add)]
            assert reply["conversation_id"] == key
            assert (got[-1]["id"], got[-1]["generation_id"]) == (reply["message_id"], reply["generation_id"])
            told = [frame["message"]["role"] for frame in wire.events("conversation.message")]
            assert told[-3:] == ["tool", "tool", "assistant"] or told[-4:-1] == ["tool", "tool", "assistant"]
            await wire.finished(reply["generation_id"])
            # the next turn, another answer to the results, and a branch are asked with all of it
            seen = works(core, monkeypatch)
            await eventually_stored(core, reply["message_id"])
            again = await wire.command("generate", conversation_id=key, parent=got[3]["id"], tools=TOOLS)
            await wire.finished(again["generation_id"])
            asked = seen[-1].messages or []
            assert [m.role for m in asked] == ["system", "user", "assistant", "tool", "tool"]
            assert [m.tool_call_id for m in asked[3:]] == [clock, add]
            assert [call.id for call in asked[2].tool_calls or ()] == [clock, add]
            with pytest.raises(CommandError) as caught:
                await wire.command("generate", conversation_id=key, parent=got[2]["id"])
            assert caught.value.code == "bad_state"

    run(test())


async def eventually_stored(core: Core, message_id: str) -> None:
    async with asyncio.timeout(30):
        message: dict[str, Any] = {}
        while message.get("status") in (None, "streaming"):
            message = await core.history.message(message_id)
            await asyncio.sleep(0.01)


def test_the_conversation_may_have_gone_on_another_way(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, script(CLOCK)) as core, client(core) as wire:
            key = (await wire.command("conversations.create"))["conversation"]["id"]
            first, (clock,) = await called(wire, conversation_id=key, content="one")
            other, _ = await called(wire, conversation_id=key, content="never mind")
            assert other != first
            reply = await give(wire, first, clock)
            got = await wire.command("conversations.get", conversation_id=key)
            assert [m["role"] for m in got["messages"]] == ["user", "assistant", "tool", "assistant"]
            assert got["conversation"]["leaf"] == reply["message_id"]
            await wire.finished(reply["generation_id"])
            await wire.command("conversations.delete", conversation_id=key)
            third, (clock,) = await called(wire)
            assert (await give(wire, third, clock))["pending"] == []
            assert (await refused(wire, other, "call_x"))[0] == "not_found"

    run(test())


def test_a_branch_of_what_went_on_is_another_answer_to_the_results(tmp_path: Path) -> None:
    async def test() -> None:
        slow = script(f"{CLOCK} and so on {'over ' * 60}", "delay_ms=30,")
        async with app(tmp_path, slow) as core, client(core) as wire:
            key = (await wire.command("conversations.create"))["conversation"]["id"]
            first, (clock,) = await called(wire, conversation_id=key, content="one")
            second = (await give(wire, first, clock))["generation_id"]
            await wire.event("generation.tool_call", generation_id=second)
            branch = await wire.command("fork", generation_id=second, at_token=2)
            got = (await wire.command("conversations.get", conversation_id=key))["messages"]
            assert [m["role"] for m in got] == ["user", "assistant", "tool", "assistant"]
            assert (got[-1]["id"], len(got[-1]["variants"])) == (branch["message_id"], 2)
            for generation_id in (second, branch["generation_id"]):
                (call,) = (await wire.finished(generation_id))["tool_calls"]
                reply = await give(wire, generation_id, call["id"])
                await wire.command("cancel", generation_id=reply["generation_id"])
                await wire.finished(reply["generation_id"])
            got = (await wire.command("conversations.get", conversation_id=key))["messages"]
            assert [m["role"] for m in got] == ["user", *["assistant", "tool"] * 2, "assistant"]
            assert got[3]["id"] == branch["message_id"]

    run(test())


def test_a_deleted_conversation_takes_no_results(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, script(CLOCK)) as core, client(core) as wire:
            key = (await wire.command("conversations.create"))["conversation"]["id"]
            first, (clock,) = await called(wire, conversation_id=key, content="one")
            await wire.command("conversations.delete", conversation_id=key)
            assert (await refused(wire, first, clock))[0] == "not_found"
            await wire.command("conversations.restore", conversation_id=key)
            assert (await give(wire, first, clock))["pending"] == []

    run(test())


def test_acknowledged_results_survive_a_kill(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serve(home, script(f"{CLOCK} {'and ' * 60}", "delay_ms=30,")) as running:

        async def before() -> str:
            async with running.client() as wire:
                key = (await wire.command("conversations.create"))["conversation"]["id"]
                first, (clock,) = await called(wire, conversation_id=key, content="one")
                await give(wire, first, clock, "a quarter past nine")
                running.signal(signal.SIGKILL)
                return str(key)

        async def started() -> None:
            key.append(await before())

        key: list[str] = []
        run(started())
        running.wait()
    with serve(home) as running, SyncClient.discover(home) as live:
        got = live.request("conversations.get", conversation_id=key[0])["messages"]
        assert [m["role"] for m in got] == ["user", "assistant", "tool", "assistant"]
        assert (got[2]["content"], got[3]["status"]) == ("a quarter past nine", "interrupted")


# ---- the client, and a model that can


def test_with_the_client(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, TWO), LiveClient.discover(tmp_path) as live:
            first = live.generate(messages=ASK, tools=TOOLS)
            calls = (await first.finished())["tool_calls"]
            assert await first.tool_result(calls[0]["id"], "1") is None
            second = await first.tool_result(calls[1]["id"], "2")
            assert second is not None
            assert (await second.finished())["text"].startswith("Let me look.")

    run(test())


def test_the_starter_uses_a_result(tmp_path: Path) -> None:
    """A whole loop: the question, the call, its result, and an answer that has the figure."""
    calculator = {
        "name": "calculator",
        "description": "Evaluates an arithmetic expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    }
    tools = [{"type": "function", "function": calculator}]
    with serve(tmp_path / "home", "starter"), SyncClient.discover(tmp_path / "home") as live:
        asked = [{"role": "user", "content": "how much is 4821 + 977"}]
        first = live.generate(messages=asked, tools=tools, sampling={"temperature": 0}, max_tokens=100)
        finished = first.finished()
        (call,) = finished["tool_calls"]
        assert (finished["finish_reason"], call["name"]) == ("tool_calls", "calculator")
        assert "4821" in call["arguments"]
        second = first.tool_result(call["id"], "5798")
        assert second is not None
        answer = second.finished()
        assert answer["finish_reason"] == "stop"
        assert "5798" in answer["text"]
        assert answer["usage"]["cached_tokens"] > 0
