"""Hands on a running generation through the API: a real worker with the fake model behind a real socket."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from api import generations as module
from api.client import LiveClient
from api.core import Core
from engine.commands import Control
from engine.events import GenerationDelta, GenerationFinished
from engine.replies import ControlDone
from tests.api.harness import ENDLESS, TOKEN, CommandError, Frame, Wire, app, client, eventually, run


async def answering(wire: Wire, n_tokens: int = 3, **arguments: Any) -> str:
    generation_id = await wire.generate(**arguments)
    await eventually(lambda: len(wire.indices(generation_id)) >= n_tokens)
    return generation_id


async def held(wire: Wire, n_tokens: int, n_slots: int, **arguments: Any) -> str:
    """Start a generation that is paused after so many tokens, on an `ENDLESS` model with so many slots.

    It is paused before it begins, while others have all slots: so it can't run ahead of a slow machine.
    """
    others = [await wire.generate() for _ in range(n_slots)]
    generation_id = await wire.generate(**arguments)
    await wire.command("pause", generation_id=generation_id)
    for other in others:
        await ended(wire, other)
    await wire.command("step", generation_id=generation_id, tokens=n_tokens)
    await wire.event("generation.paused", generation_id=generation_id, at_token=n_tokens)
    return generation_id


async def ended(wire: Wire, generation_id: str) -> Frame:
    """Cancel a generation and wait for its end."""
    await wire.command("cancel", generation_id=generation_id)
    return await wire.finished(generation_id)


def hand(generation_id: str, wire: Wire) -> Any:
    def do(command: str, **arguments: Any) -> Any:
        return wire.command(command, generation_id=generation_id, **arguments)

    return do


def names(wire: Wire, generation_id: str) -> list[str]:
    """What happened to a generation, its deltas left out."""
    wanted = wire.events(generation_id=generation_id)
    return [frame["type"].split(".", 1)[1] for frame in wanted if not frame["type"].endswith("delta")]


def stored(wire: Wire, status: str) -> set[str]:
    """Ids of the messages that were told to be so."""
    told = [frame["message"] for frame in wire.events("conversation.message")]
    return {message["id"] for message in told if message["status"] == status}


def shown(core: Core, generation_id: str) -> Frame:
    (found,) = (g for g in core.state.snapshot()["generations"] if g["generation_id"] == generation_id)
    return dict(found)


def test_pause_step_resume(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await answering(wire)
            do = hand(generation, wire)
            at = (await do("pause"))["at_token"]
            paused = await wire.event("generation.paused", generation_id=generation)
            assert paused["at_token"] == at == len(wire.indices(generation))
            assert shown(core, generation)["state"] == "paused"
            assert await do("pause") == {"at_token": at}  # again: nothing changes
            await asyncio.sleep(0.1)
            assert len(wire.indices(generation)) == at
            assert await do("step", tokens=3) == {"at_token": at}
            again = await wire.event("generation.paused", generation_id=generation, at_token=at + 3)
            assert wire.indices(generation) == list(range(at + 3))
            assert again["seq"] > paused["seq"]
            assert await do("resume") == {"at_token": at + 3}
            assert (await wire.event("generation.resumed"))["at_token"] == at + 3
            with pytest.raises(CommandError, match="bad_state"):
                await do("step")
            await eventually(lambda: len(wire.indices(generation)) > at + 10)
            finished = await ended(wire, generation)
            assert finished["finish_reason"] == "cancelled"
            assert wire.indices(generation) == list(range(finished["usage"]["completion_tokens"]))
            assert names(wire, generation) == [
                "queued", "started", "paused", "paused", "resumed", "finished"
            ]  # fmt: skip

    run(test())


def test_update(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await answering(wire, sampling={"temperature": 0.5, "seed": 7})
            do = hand(generation, wire)
            result = await do("update", sampling={"temperature": 0.0, "top_k": 3})
            updated = await wire.event("generation.updated", generation_id=generation)
            assert result["sampling"] == updated["sampling"] == shown(core, generation)["sampling"]
            assert result["at_token"] == updated["at_token"] > 0
            now = updated["sampling"]
            assert (now["temperature"], now["top_k"], now["seed"]) == (0.0, 3, 7)
            with pytest.raises(CommandError, match="invalid_argument") as caught:
                await do("update", sampling={"temperature": -1})
            assert caught.value.error["path"] == "sampling.temperature"

    run(test())


def test_rewind_replaces_what_was_given(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS, parallel=1) as core, client(core) as wire:
            at = 6
            generation = await held(wire, at, 1, max_tokens=30)
            do = hand(generation, wire)
            whole = wire.text(generation)
            result = await do("rewind", tokens=4)
            assert result == {"at_token": at - 4, "removed": 4}
            rewound = await wire.event("generation.rewound")
            assert (rewound["at_token"], rewound["removed"]) == (at - 4, 4)
            assert whole.startswith(rewound["text"])
            assert len(rewound["text"]) < len(whole)
            state = shown(core, generation)
            assert (state["text"], state["completion_tokens"]) == (rewound["text"], at - 4)
            with pytest.raises(CommandError, match="invalid_argument") as caught:
                await do("rewind", tokens=at)
            assert caught.value.error["path"] == "tokens"
            place = wire.frames.index(rewound)
            await do("resume")
            finished = await wire.finished(generation)
            later = [frame for frame in wire.frames[place:] if frame["type"] == "generation.delta"]
            assert rewound["text"] + "".join(frame["text"] for frame in later) == finished["text"]
            indices = [token["index"] for frame in later for token in frame["tokens"]]
            assert indices == list(range(at - 4, 30))
            assert finished["usage"]["completion_tokens"] == 30

    run(test())


def test_inject(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            generation = await answering(wire)
            do = hand(generation, wire)
            at = (await do("inject", text=" river glass"))["at_token"]
            await eventually(lambda: len(wire.indices(generation)) > at + 10)
            finished = await ended(wire, generation)
            assert " river glass" in finished["text"] == wire.text(generation)
            tokens = [t for f in wire.events("generation.delta", generation) for t in f["tokens"]]
            assert [token["index"] for token in tokens if token.get("injected")] == [at - 2, at - 1]
            assert len(tokens) == finished["usage"]["completion_tokens"]

    run(test())


def test_fork_makes_a_generation_of_ones_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, ENDLESS, parallel=2) as core,
            client(core) as wire,
            client(core, "?name=me") as other,
        ):
            source = await held(wire, 8, 2, max_tokens=60)
            result = await other.command("fork", generation_id=source, at_token=5, token_id=300)
            branch = result["generation_id"]
            assert result == {"generation_id": branch, "at_token": 5}
            await wire.command("resume", generation_id=source)
            finished = await other.finished(branch)  # without any subscription: it is the caller's own
            names = [frame["type"] for frame in other.events()]
            assert names[:3] == ["generation.queued", "generation.forked", "generation.started"]
            queued, forked = other.events()[:2]
            assert (queued["client_name"], queued["input"]) == ("me", "hi")
            assert (forked["generation_id"], forked["branch_id"]) == (source, branch)
            assert (forked["at_token"], forked["token_id"]) == (5, 300)
            assert other.indices(branch) == list(range(5, 60))
            first = other.events("generation.delta", branch)[0]["tokens"][0]
            assert (first["id"], first["index"], first["injected"]) == (300, 5, True)
            assert finished["text"] == forked["text"] + other.text(branch)
            assert finished["usage"]["completion_tokens"] == 60
            reply = next(i for i, f in enumerate(other.frames) if f["type"] == "reply")
            assert reply < other.frames.index(queued)
            whole = await wire.finished(source)  # it goes on, too
            assert wire.indices(source) == list(range(60))
            assert whole["text"].startswith(forked["text"])

    run(test())


@pytest.mark.parametrize(
    ("arguments", "code", "path"),
    (
        ({"at_token": 100_000}, "invalid_argument", "at_token"),
        ({"at_token": 1, "token_id": 1_000_000}, "invalid_argument", "token_id"),
        ({"at_token": 1, "token_id": 1}, "invalid_argument", "token_id"),
        ({"at_token": -1}, "invalid_argument", "at_token"),
    ),
)
def test_a_fork_that_cannot_be(tmp_path: Path, arguments: Frame, code: str, path: str) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            asked = await wire.command("generate", conversation_id=created["id"], content="hi")
            source = asked["generation_id"]
            await eventually(lambda: len(wire.indices(source)) > 2)
            with pytest.raises(CommandError, match=code) as caught:
                await wire.command("fork", generation_id=source, **arguments)
            assert caught.value.error["path"] == path
            assert set(core.state.generations) == {source}
            assert core.supervisor._generations._reserved == 0
            kept = await wire.command("conversations.get", conversation_id=created["id"])
            assert kept["conversation"]["leaf"] == asked["message_id"]
            assert kept["messages"][-1]["variants"] == [asked["message_id"]]

    run(test())


def test_a_fork_that_ends_with_its_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            source = await answering(wire)
            async with client(core) as other:
                forked = await other.command("fork", generation_id=source, at_token=1, on_disconnect="cancel")
            await wire.command("subscribe", since=0)
            finished = await wire.finished(forked["generation_id"])
            assert finished["finish_reason"] == "cancelled"
            assert core.supervisor.knows(source)

    run(test())


def test_a_fork_of_a_conversations_answer_is_another_variant(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe")
            created = (await wire.command("conversations.create"))["conversation"]
            asked = await wire.command("generate", conversation_id=created["id"], content="hi")
            source = asked["generation_id"]
            await eventually(lambda: len(wire.indices(source)) > 9)
            told = await wire.command("fork", generation_id=source, at_token=9)
            branch = told["generation_id"]
            assert told["conversation_id"] == created["id"]
            forked = await wire.event("generation.forked")
            await eventually(lambda: len(wire.indices(branch)) > 3)
            halfway = await core.history.message(told["message_id"])
            assert halfway["content"].startswith(forked["text"])
            assert (await wire.event("generation.queued", generation_id=branch))["message_id"] == told[
                "message_id"
            ]
            ends = [await ended(wire, key) for key in (source, branch)]
            for key, end in zip((asked["message_id"], told["message_id"]), ends, strict=True):
                await eventually(lambda: len(stored(wire, "cancelled")) >= 2)
                assert (await core.history.message(key))["content"] == end["text"]
            kept = await wire.command("conversations.get", conversation_id=created["id"])
            assert kept["messages"][-1]["variants"] == [asked["message_id"], told["message_id"]]
            assert kept["conversation"]["leaf"] == told["message_id"]

    run(test())


def test_what_is_stored_follows_a_rewind(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            created = (await wire.command("conversations.create"))["conversation"]
            asked = await wire.command("generate", conversation_id=created["id"], content="hi")
            do = hand(asked["generation_id"], wire)
            await eventually(lambda: len(wire.indices(asked["generation_id"])) > 9)
            await do("pause")
            await do("rewind", tokens=7)
            rewound = await wire.event("generation.rewound")
            stored = await core.history.message(asked["message_id"])
            assert (stored["content"], stored["status"]) == (rewound["text"], "streaming")
            await do("inject", text=" river")
            stored = await core.history.message(asked["message_id"])
            assert stored["content"] == rewound["text"] + " river"

    run(test())


@pytest.mark.parametrize(
    ("command", "arguments"),
    (
        ("pause", {}),
        ("resume", {}),
        ("step", {}),
        ("update", {"sampling": {"top_k": 1}}),
        ("rewind", {}),
        ("inject", {"text": "x"}),
        ("fork", {"at_token": 0}),
    ),
)
def test_what_is_not_there_or_is_over(tmp_path: Path, command: str, arguments: Frame) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core, client(core) as wire:
            generation = await wire.generate()
            await wire.finished(generation)
            for key, code in ((generation, "bad_state"), ("gen_none", "not_found")):
                with pytest.raises(CommandError) as caught:
                    await wire.command(command, generation_id=key, **arguments)
                assert (caught.value.code, caught.value.error["path"]) == (code, "generation_id")
            assert core.supervisor._generations._reserved == 0

    run(test())


def test_hands_on_one_that_waits_for_the_model(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:load_ms=5000,tokens=30") as core, client(core) as wire:
            generation = await wire.generate(sampling={"temperature": 0.4})
            do = hand(generation, wire)
            assert core.state.model is None
            assert await do("pause") == {"at_token": 0}
            assert shown(core, generation)["state"] == "paused"
            result = await do("update", sampling={"top_k": 2})
            assert (result["sampling"]["top_k"], result["sampling"]["temperature"]) == (2, 0.4)
            with pytest.raises(CommandError, match="invalid_argument"):  # answered by the worker
                await do("rewind", tokens=1)
            await asyncio.sleep(0.2)
            assert wire.indices(generation) == []
            assert len(wire.events("generation.paused")) == 1
            await do("inject", text=" river")
            await do("resume")
            finished = await wire.finished(generation)
            assert finished["text"].startswith(" river")
            assert wire.indices(generation) == list(range(finished["usage"]["completion_tokens"]))
            assert len(wire.events("generation.paused")) == len(wire.events("generation.resumed")) == 1

    run(test())


def test_cancel_of_one_that_is_paused_or_waits_paused(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS, parallel=1) as core, client(core) as wire:
            first = await answering(wire)
            second = await wire.generate()
            for key in (first, second):
                await wire.command("pause", generation_id=key)
            for key in (second, first):
                await wire.command("cancel", generation_id=key)
                assert (await wire.finished(key))["finish_reason"] == "cancelled"
            assert (await wire.finished(await wire.generate(max_tokens=1)))["finish_reason"] == "length"

    run(test())


def test_commands_sent_in_a_row_are_done_in_that_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            key = {"generation_id": await answering(wire, 8)}
            sent = [
                await wire.send("pause", **key),
                await wire.send("rewind", tokens=5, **key),
                await wire.send("inject", text=" river", **key),
                await wire.send("step", tokens=2, **key),
            ]
            replies = [(await wire.reply(command_id))["result"] for command_id in sent]
            at = replies[0]["at_token"]
            assert [reply["at_token"] for reply in replies] == [at, at - 5, at - 4, at - 4]
            await wire.event("generation.paused", at_token=at - 2)

    run(test())


def test_a_cancel_overtakes_what_was_asked_before(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            for _ in range(10):
                key = {"generation_id": await answering(wire)}
                sent = [await wire.send("inject", text=" river", **key) for _ in range(6)]
                sent.append(await wire.send("fork", at_token=1, **key))
                await wire.send("cancel", **key)
                replies = [await wire.reply(command_id) for command_id in sent]
                assert all(reply["ok"] or reply["error"]["code"] == "bad_state" for reply in replies)
                assert (await wire.finished(key["generation_id"]))["finish_reason"] == "cancelled"
                if replies[-1]["ok"]:
                    await wire.command("cancel", generation_id=replies[-1]["result"]["generation_id"])

    run(test())


def test_a_cancel_that_the_worker_does_not_hear_is_carried_out_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_S", 0.2)

    async def test() -> None:
        async with app(tmp_path, "fake:delay_ms=2,hang_after=20") as core, client(core) as wire:
            generation = await answering(wire, 20)
            waiting = await wire.generate()
            asked = await wire.send("pause", generation_id=generation)
            assert await wire.command("cancel", generation_id=generation) == {"state": "cancelling"}
            finished = await wire.finished(generation)
            assert finished["finish_reason"] == "cancelled"
            assert finished["text"] == wire.text(generation)
            assert finished["usage"]["completion_tokens"] == 20
            await wire.command("cancel", generation_id=waiting)
            assert (await wire.finished(waiting))["finish_reason"] == "cancelled"
            assert core.supervisor._generations.has_work  # so the watch goes on
            assert core.supervisor._client is not None
            core.supervisor._client.kill()
            reply = await wire.reply(asked)
            assert reply["error"]["code"] == "engine_lost"
            assert reply["error"]["hint"]
            assert len(wire.events("generation.finished")) == 2

    run(test())


def test_late_words_of_one_that_was_ended_here_are_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_S", 0.1)

    async def test() -> None:
        async with app(tmp_path, "fake:delay_ms=800,tokens=9") as core, client(core) as wire:
            generation = await answering(wire, 1)
            assert core.supervisor.worker_pid is not None
            os.kill(core.supervisor.worker_pid, signal.SIGSTOP)  # in the middle of a step
            await wire.command("cancel", generation_id=generation)
            finished = await wire.finished(generation)
            assert finished["usage"]["completion_tokens"] == len(wire.indices(generation))
            assert core.supervisor._generations._left == {generation}
            os.kill(core.supervisor.worker_pid, signal.SIGCONT)
            await eventually(lambda: not core.supervisor._generations._left)
            assert wire.events(generation_id=generation)[-1] == finished
            assert not core.supervisor._generations.has_work

    run(test())


def test_a_branch_whose_source_was_ended_here_is_ended_too(tmp_path: Path) -> None:
    """The worker has made it, and nobody could go on with it after the worker's death."""

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            source = await answering(wire)
            generations = core.supervisor._generations
            asked: list[Control] = []
            original = generations._answered

            def late(message: ControlDone) -> None:
                asked.extend(command for command, _ in generations._asked.values())
                generations.finish(source, "cancelled")
                original(message)

            generations._answered = late  # type: ignore[method-assign]
            with pytest.raises(CommandError, match="bad_state"):
                await wire.command("fork", generation_id=source, at_token=1)
            assert len(asked) == 1
            await eventually(lambda: generations._left == {source})  # the branch's end was heard
            assert set(core.state.generations) == set()
            assert generations._reserved == 0

    run(test())


def test_the_client_has_hands_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, LiveClient.connect(core.url, TOKEN) as live:
            generation = live.generate(messages=[{"role": "user", "content": "hi"}])
            await generation.start()
            at = (await generation.pause())["at_token"]
            await generation.step(12)
            async for frame in generation:
                if frame["type"] == "generation.paused" and frame["at_token"] == at + 12:
                    break
            assert (await generation.rewind(2))["removed"] == 2
            assert (await generation.inject(" river"))["at_token"] == at + 11
            assert (await generation.update(top_k=1))["sampling"]["top_k"] == 1
            branch = await generation.fork(3)
            await generation.resume()
            seen = []
            async for frame in branch:
                seen.append(frame)
                if frame["type"] == "generation.delta":
                    await branch.cancel()
            names = [frame["type"] for frame in seen]
            assert names[:3] == ["generation.queued", "generation.forked", "generation.started"]
            assert (
                seen[1]["text"]
                + "".join(frame["text"] for frame in seen if frame["type"] == "generation.delta")
                == (seen[-1]["text"])
            )
            await generation.cancel()
            assert [frame async for frame in generation][-1]["finish_reason"] == "cancelled"

    run(test())


def test_state_at_the_end_is_what_the_worker_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app would tell of a generation is what its worker tells, after any hands."""
    monkeypatch.setattr(module, "CANCEL_S", 600.0)  # however late it does

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            ends: list[tuple[Frame, GenerationFinished]] = []

            def compare(envelope: Any) -> None:
                event = envelope.event
                if isinstance(event, GenerationFinished):
                    ends.append((before[event.generation_id], event))
                elif isinstance(event, GenerationDelta):
                    before[event.generation_id] = shown(core, event.generation_id)

            before: dict[str, Frame] = {}
            core.bus.add_fold(compare)
            source = await answering(wire, 10)
            await wire.command("rewind", generation_id=source, tokens=3)
            branch = (await wire.command("fork", generation_id=source, at_token=4))["generation_id"]
            await wire.command("inject", generation_id=branch, text=" glass")
            await eventually(lambda: all(wire.indices(key)[-1:] > [20] for key in (source, branch)))
            for key in (source, branch):
                await ended(wire, key)
            assert len(ends) == 2
            for state, finished in ends:
                assert state["text"] == finished.text
                assert state["completion_tokens"] == finished.usage.completion_tokens > 20

    run(test())


# ---- embeddings


def length(vector: list[float]) -> float:
    return sum(value * value for value in vector)


def test_embeddings(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:embedding=1,load_ms=300") as core, client(core) as wire:
            waiting = await wire.send("embed", input="river")  # there is no worker yet
            one = (await wire.reply(waiting))["result"]
            assert one["model"] == core.supervisor.model_id
            assert one["prompt_tokens"] > 0
            many = await wire.command("embed", input=["glass", "river"])
            assert many["embeddings"][1] == pytest.approx(one["embeddings"][0])
            assert many["embeddings"][0] != many["embeddings"][1]
            assert [length(vector) for vector in many["embeddings"]] == pytest.approx([1, 1])
            assert many["prompt_tokens"] > one["prompt_tokens"]
            for wrong in ([], ["x"] * 2049, [7], None):
                with pytest.raises(CommandError, match="invalid_argument") as caught:
                    await wire.command("embed", input=wrong)
                assert caught.value.error["path"].startswith("input")
            with pytest.raises(CommandError, match="context_overflow"):
                await wire.command("embed", input="river " * 5000)

    run(test())


def test_embeddings_without_a_model(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("models.unload")
            with pytest.raises(CommandError, match="no_model"):
                await wire.command("embed", input="river")

    run(test())


def test_embeddings_that_die_with_their_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:embedding=1") as core, client(core) as wire:
            await wire.command("embed", input="river")
            assert core.supervisor.worker_pid is not None
            os.kill(core.supervisor.worker_pid, signal.SIGSTOP)
            asked = await wire.send("embed", input="glass")
            await eventually(lambda: len(core.supervisor._generations._embeds) == 1)
            os.kill(core.supervisor.worker_pid, signal.SIGKILL)
            assert (await wire.reply(asked))["error"]["code"] == "engine_lost"
            assert len((await wire.command("embed", input="glass"))["embeddings"]) == 1

    run(test())
