"""Death is a hiccup: what runs goes on in the next worker as though nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from api import generations as generations_module
from api import supervisor as supervisor_module
from api import watchdog
from api.core import Core
from engine.replies import Message, PromptReady
from engine.types import Resume, Token
from tests.api.harness import CommandError, Frame, Wire, app, client, eventually, run
from tests.engine.test_equality import QUESTIONS, Answer, Comparison

CALM = "fake:tokens=120"
PACE = f"{CALM},delay_ms=30"
"""Takes almost four seconds, so that a busy machine finds it in mid-answer."""
SEEDED = {"temperature": 0.8, "seed": 11}


def kill(core: Core, number: int = signal.SIGKILL) -> None:
    pid = core.supervisor.worker_pid
    assert pid is not None
    os.kill(pid, number)


def tokens(wire: Wire, generation_id: str) -> list[Frame]:
    """The tokens as a client has them, after rewinds."""
    kept: list[Frame] = []
    for frame in wire.events(generation_id=generation_id):
        if frame["type"] == "generation.rewound":
            del kept[frame["at_token"] :]
        kept += frame.get("tokens", ())
    return kept


async def ask_seeded(wire: Wire) -> str:
    return await wire.generate(sampling=SEEDED)


async def undisturbed(home: Path, model: str, ask: Callable[[Wire], Awaitable[str]]) -> tuple[list[int], str]:
    """Token ids and text of a run in which no worker dies."""
    async with app(home, model) as core, client(core) as wire:
        generation = await ask(wire)
        finished = await wire.finished(generation)
        return [token["id"] for token in tokens(wire, generation)], finished["text"]


def check(wire: Wire, generation: str, ids: list[int], text: str, n_recovered: int) -> None:
    """Nothing lost, nothing twice, the same answer."""
    got = tokens(wire, generation)
    assert [token["index"] for token in got] == list(range(len(ids)))
    assert [token["id"] for token in got] == ids
    (finished,) = wire.events("generation.finished", generation)
    assert finished["text"] == text
    assert finished["usage"]["completion_tokens"] == len(ids)
    assert len(wire.events("generation.recovered", generation)) == n_recovered
    assert len(wire.events("generation.started", generation)) == 1
    times = [token["t"] for token in got]
    assert times == sorted(times)
    assert finished["timings"]["decode_ms"] == pytest.approx((times[-1] - times[0]) * 1000)


@pytest.mark.parametrize("how", ("SIGKILL", "SIGABRT", "SIGTERM", "SIGSEGV", "abort_after", "exit_after"))
def test_an_answer_goes_on_after_its_last_token(tmp_path: Path, how: str) -> None:
    async def test() -> None:
        ids, text = await undisturbed(tmp_path / "a", CALM, ask_seeded)
        outside = how.startswith("SIG")
        async with (
            app(tmp_path / "b", PACE if outside else f"{PACE},{how}=70") as core,
            client(core) as wire,
            client(core) as other,
        ):
            await other.command("subscribe")
            generation = await ask_seeded(wire)
            if outside:
                await eventually(lambda: len(wire.indices(generation)) > 10)
                kill(core, signal.Signals[how])
            for client_ in (wire, other):
                await client_.finished(generation)
                check(client_, generation, ids, text, 1)
            recovered = await wire.event("generation.recovered")
            got = tokens(wire, generation)
            assert 0 < recovered["at_token"] < len(ids)
            assert got[recovered["at_token"]]["t"] > recovered["t"]
            exited = await other.event("engine.exited")
            assert exited["signal"] == (how if outside else "SIGABRT" if how == "abort_after" else None)
            order = [f["type"] for f in other.events() if f["type"].startswith(("engine", "generation.rec"))]
            assert order[-4:] == [
                "engine.exited",
                "engine.restarting",
                "engine.started",
                "generation.recovered",
            ]

    run(test())


def test_a_death_in_the_prompt(tmp_path: Path) -> None:
    async def ask(wire: Wire) -> str:
        return await wire.generate("river " * 900, sampling=SEEDED)

    async def test() -> None:
        ids, text = await undisturbed(tmp_path / "a", "fake:tokens=20", ask)
        async with app(tmp_path / "b", "fake:tokens=20,prefill_ms=4") as core, client(core) as wire:
            generation = await ask(wire)
            await wire.event("generation.prompt_progress")
            kill(core)
            await wire.finished(generation)
            check(wire, generation, ids, text, 1)
            assert (await wire.event("generation.recovered"))["at_token"] == 0

    run(test())


def test_a_death_before_the_first_sign_of_a_start(tmp_path: Path) -> None:
    async def ask(wire: Wire) -> str:
        return await wire.generate("river " * 400, sampling=SEEDED)

    async def test() -> None:
        ids, text = await undisturbed(tmp_path / "a", "fake:tokens=20", ask)
        async with app(tmp_path / "b", "fake:tokens=20,prefill_ms=10") as core, client(core) as wire:
            await eventually(lambda: core.supervisor.phase == "ready")
            generation = await ask(wire)
            await asyncio.sleep(0.5)  # it is in the middle of its first step
            kill(core)
            await wire.finished(generation)
            check(wire, generation, ids, text, 0)

    run(test())


def test_many_at_once_and_those_that_wait(tmp_path: Path) -> None:
    async def test() -> None:
        texts = []
        async with app(tmp_path / "a", "fake:tokens=40", parallel=2) as core, client(core) as wire:
            for n in range(6):
                generation = await wire.generate(f"{n}", sampling=SEEDED)
                texts.append((await wire.finished(generation))["text"])
        slow = "fake:tokens=40,delay_ms=50"
        async with app(tmp_path / "b", slow, parallel=2) as core, client(core) as wire:
            asked = [await wire.generate(f"{n}", sampling=SEEDED) for n in range(6)]
            await eventually(lambda: len(wire.indices(asked[1])) > 2)
            kill(core)
            for n, generation in enumerate(asked):
                finished = await wire.finished(generation)
                assert (finished["text"], finished["error"]) == (texts[n], None)
                assert wire.indices(generation) == list(range(40))
                assert len(wire.events("generation.queued", generation)) == 1
                assert len(wire.events("generation.recovered", generation)) == (n < 2)
            started = [frame["generation_id"] for frame in wire.events("generation.started")]
            assert started == asked  # in the order of their arrival

    run(test())


def test_whoever_is_paused_stays_so_and_steps_on(tmp_path: Path) -> None:
    async def test() -> None:
        ids, text = await undisturbed(tmp_path / "a", CALM, ask_seeded)
        async with app(tmp_path / "b", PACE) as core, client(core) as wire:
            generation = await ask_seeded(wire)
            key = {"generation_id": generation}
            await eventually(lambda: len(wire.indices(generation)) > 10)
            at = (await wire.command("pause", **key))["at_token"]
            kill(core)
            await wire.event("generation.recovered")
            await asyncio.sleep(0.2)
            assert len(wire.indices(generation)) == at
            assert core.state.generations[generation].paused
            await wire.command("step", **key, tokens=40)
            await eventually(lambda: len(wire.indices(generation)) > at + 10)
            kill(core)  # the second death: it counts as long as it has a slot
            finished = await wire.finished(generation)
            assert finished["error"]["code"] == "engine_lost"
            assert finished["text"] == text[: len(finished["text"])]
            assert [token["id"] for token in tokens(wire, generation)] == ids[: len(tokens(wire, generation))]

    run(test())


def test_a_step_is_finished_by_the_next_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, PACE) as core, client(core) as wire:
            key = {"generation_id": await wire.generate()}
            generation = key["generation_id"]
            await eventually(lambda: len(wire.indices(generation)) > 10)
            at = (await wire.command("pause", **key))["at_token"]
            await wire.command("step", **key, tokens=40)
            await eventually(lambda: len(wire.indices(generation)) > at + 10)
            kill(core)
            await wire.event("generation.paused", at_token=at + 40)
            await asyncio.sleep(0.1)
            assert wire.indices(generation) == list(range(at + 40))

    run(test())


def test_what_was_done_to_it_holds_on(tmp_path: Path) -> None:
    async def ask(wire: Wire) -> str:
        """Updated, rewound, written into; all at fixed places."""
        generation = await wire.generate(sampling={"temperature": 0.0})
        key = {"generation_id": generation}
        await wire.command("pause", **key)
        at = (await wire.event("generation.paused"))["at_token"]
        await wire.command("step", **key, tokens=70 - at)
        await wire.event("generation.paused", at_token=70)
        await wire.command("rewind", **key, tokens=50)
        await wire.command("inject", **key, text=" glass river")
        await wire.command("update", **key, sampling=SEEDED)
        return generation

    async def calm(wire: Wire) -> str:
        generation = await ask(wire)
        await wire.command("resume", generation_id=generation)
        return generation

    async def test() -> None:
        ids, text = await undisturbed(tmp_path / "a", PACE, calm)
        async with app(tmp_path / "b", PACE) as core, client(core) as wire:
            generation = await ask(wire)
            kill(core)
            await wire.event("generation.recovered", generation_id=generation)
            await wire.command("resume", generation_id=generation)
            finished = await wire.finished(generation)
            got = tokens(wire, generation)
            assert [token["id"] for token in got] == ids
            assert [token["index"] for token in got] == list(range(len(ids)))
            assert [token["index"] for token in got if token.get("injected")] == [20, 21]
            assert finished["text"] == text

    run(test())


def test_prompt_lookup_goes_on_too(tmp_path: Path) -> None:
    text = "small green river " * 12

    async def test() -> None:
        async with app(tmp_path, "fake:echo=1,delay_ms=150") as core, client(core) as wire:
            generation = await wire.generate(text, prompt_lookup_num_tokens=3)
            await eventually(lambda: len(wire.indices(generation)) > 8)
            kill(core)
            finished = await wire.finished(generation)
            assert finished["text"] == text
            assert wire.indices(generation) == list(range(finished["usage"]["completion_tokens"]))
            assert finished["usage"]["draft_tokens"] >= finished["usage"]["accepted_tokens"] > 0
            assert len(wire.events("generation.recovered")) == 1

    run(test())


def test_a_branch_is_recovered_as_well(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, PACE) as core, client(core) as wire:
            source = await wire.generate(sampling={"temperature": 0.0})
            await eventually(lambda: len(wire.indices(source)) > 9)
            branch = (await wire.command("fork", generation_id=source, at_token=9, token_id=300))[
                "generation_id"
            ]
            await eventually(lambda: len(wire.indices(branch)) > 2)
            kill(core)
            for key in (source, branch):
                await wire.finished(key)
                assert len(wire.events("generation.recovered", key)) == 1
            assert wire.indices(source) == list(range(120))
            n = len(wire.indices(branch))
            assert wire.indices(branch) == list(range(9, 9 + n))
            forked = await wire.event("generation.forked")
            finished = await wire.finished(branch)
            assert finished["text"] == forked["text"] + wire.text(branch)
            assert finished["usage"]["completion_tokens"] == 9 + n

    run(test())


def test_a_branch_that_waits_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, PACE, parallel=1) as core, client(core) as wire:
            source = await wire.generate(sampling={"temperature": 0.0})
            await eventually(lambda: len(wire.indices(source)) > 9)
            branch = (await wire.command("fork", generation_id=source, at_token=9, token_id=300))[
                "generation_id"
            ]
            kill(core)
            await wire.finished(source)
            finished = await wire.finished(branch)
            first = tokens(wire, branch)[0]
            assert (first["index"], first["id"], first["injected"]) == (9, 300, True)
            forked = await wire.event("generation.forked")
            assert finished["text"] == forked["text"] + wire.text(branch)
            assert len(wire.events("generation.started", branch)) == 1

    run(test())


def test_what_was_injected_while_it_waited_is_not_lost(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, PACE, parallel=1) as core, client(core) as wire:
            first = await wire.generate()
            await eventually(lambda: len(wire.indices(first)) > 3)
            second = await wire.generate(sampling={"temperature": 0.0})
            assert (await wire.command("inject", generation_id=second, text=" glass river"))["at_token"] == 2
            assert (await wire.command("rewind", generation_id=second, tokens=1))["at_token"] == 1
            kill(core)
            finished = await wire.finished(second)
            assert finished["text"].startswith(" glass")
            assert not finished["text"].startswith(" glass river")
            got = tokens(wire, second)
            assert [token["index"] for token in got if token.get("injected")] == [0]
            assert [token["index"] for token in got] == list(range(len(got)))
            assert wire.events("generation.resumed") == []

    run(test())


def test_hands_while_the_engine_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "BACKOFF_S", (3.0,))

    async def test() -> None:
        async with app(tmp_path, PACE) as core, client(core) as wire:
            await wire.command("subscribe")
            generation = await wire.generate(sampling=SEEDED)
            key = {"generation_id": generation}
            await eventually(lambda: len(wire.indices(generation)) > 20)
            kill(core)
            await wire.event("engine.restarting")
            at = len(wire.indices(generation))
            assert await wire.command("pause", **key) == {"at_token": at}
            assert await wire.command("pause", **key) == {"at_token": at}
            result = await wire.command("update", **key, sampling={"top_k": 9})
            assert (result["sampling"]["top_k"], result["sampling"]["seed"]) == (9, 11)
            assert core.supervisor.phase == "restarting"
            waiting = [
                await wire.send("rewind", **key, tokens=5),
                await wire.send("step", **key, tokens=2),
            ]
            replies = [(await wire.reply(command_id))["result"] for command_id in waiting]
            assert [reply["at_token"] for reply in replies] == [at - 5, at - 5]
            await wire.event("generation.paused", at_token=at - 3)
            assert len(wire.events("generation.paused")) == 2
            await wire.command("resume", **key)
            await wire.finished(generation)
            got = tokens(wire, generation)
            assert [token["index"] for token in got] == list(range(len(got)))

    run(test())


def test_what_the_dead_worker_was_asked_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:delay_ms=2,hang_after=30") as core, client(core) as wire:
            generation = await wire.generate()
            await eventually(lambda: len(wire.indices(generation)) == 30)
            sent = [
                await wire.send("pause", generation_id=generation),
                await wire.send("inject", generation_id=generation, text=" river"),
                await wire.send("fork", generation_id=generation, at_token=3),
            ]
            await wire.command("ping")
            await eventually(lambda: len(core.supervisor._generations._asked) == 3)
            kill(core)
            for command_id in sent:
                error = (await wire.reply(command_id))["error"]
                assert error["code"] == "engine_lost"
                assert "not done" in error["hint"]
            finished = await wire.finished(generation)
            assert " river" not in finished["text"][-6:]
            assert wire.indices(generation) == list(range(len(wire.indices(generation))))
            assert core.supervisor._generations._reserved == 0
            assert wire.events("generation.paused") == []

    run(test())


def test_cancel_while_the_engine_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "BACKOFF_S", (60.0,))

    async def test() -> None:
        async with app(tmp_path, PACE, parallel=1) as core, client(core) as wire:
            await wire.command("subscribe")
            running, waiting = await wire.generate(), await wire.generate()
            await eventually(lambda: len(wire.indices(running)) > 3)
            stuck = await wire.generate()
            await wire.command("pause", generation_id=stuck)
            kill(core)
            await wire.event("engine.restarting")
            asked = await wire.send("rewind", generation_id=running)
            for key in (running, waiting, stuck):
                await wire.command("cancel", generation_id=key)
                finished = await wire.finished(key)
                assert (finished["finish_reason"], finished["text"]) == ("cancelled", wire.text(key))
            assert (await wire.reply(asked))["error"]["code"] == "bad_state"

    run(test())


def test_a_cancel_that_dies_with_its_worker_is_carried_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:delay_ms=2,hang_after=30") as core, client(core) as wire:
            generation = await wire.generate()
            await eventually(lambda: len(wire.indices(generation)) == 30)
            await wire.command("cancel", generation_id=generation)
            kill(core)
            assert (await wire.finished(generation))["finish_reason"] == "cancelled"
            assert wire.events("generation.recovered") == []

    run(test())


def test_what_ran_in_two_deaths_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=50,abort_after=9,delay_ms=3") as core, client(core) as wire:
            await wire.command("subscribe", events=["engine.*"])
            generation = await wire.generate()
            finished = await wire.finished(generation)
            assert finished["finish_reason"] == "error"
            error = finished["error"]
            assert error["code"] == "engine_lost"
            assert "the second time" in error["message"]
            assert "\n" not in error["message"], "a reason, and no stack"
            second = await wire.event("engine.exited", epoch=2)
            assert "Fatal Python error: Aborted" in second["log_tail"]
            assert error["message"].endswith("Fatal Python error: Aborted")
            assert finished["text"] == wire.text(generation)
            assert wire.indices(generation) == list(range(18))
            await wire.event("engine.started", epoch=3)  # the engine itself goes on
            assert (await wire.finished(await wire.generate(max_tokens=5)))["finish_reason"] == "length"

    run(test())


def test_a_prompt_that_ends_workers_is_found_among_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its start nobody sees whose prompt it was, so the second time they are tried one by one."""
    monkeypatch.setattr(supervisor_module, "BACKOFF_S", (0.01,))

    async def test() -> None:
        async with app(tmp_path, PACE, parallel=1) as core, client(core) as wire:
            running = await wire.generate()
            await eventually(lambda: len(wire.indices(running)) > 3)
            others = [await wire.generate(f"{n}", max_tokens=4) for n in range(4)]
            poison = others[1]
            generations = core.supervisor._generations
            kill(core, signal.SIGABRT)
            # a scripted end: the worker dies as soon as it is given this one once more
            send = generations._send

            def deadly(worker: Any, active: Any) -> None:
                send(worker, active)
                if active.generation_id == poison:
                    os.kill(worker.pid, signal.SIGABRT)

            generations._send = deadly  # type: ignore[method-assign]
            finished = await wire.finished(poison)
            assert finished["error"]["code"] == "engine_lost"
            assert "the second time" in finished["error"]["message"]
            for generation in (others[0], *others[2:]):
                assert (await wire.finished(generation))["finish_reason"] == "length"
            assert core.supervisor.epoch == 3

    run(test())


def test_a_hung_worker_is_found_out_and_tells_where_it_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.1)
    monkeypatch.setattr(watchdog, "HANG_S", 4.0)
    monkeypatch.setattr("engine.client.ABORT_S", 60.0)

    async def test() -> None:
        model = "fake:tokens=60,delay_ms=4"
        ids, text = await undisturbed(tmp_path / "a", model, ask_seeded)
        async with app(tmp_path / "b", f"{model},hang_after=40") as core, client(core) as wire:
            await wire.command("subscribe")
            generation = await ask_seeded(wire)
            exited = await wire.event("engine.exited")
            said = await wire.event("log", level="error")
            assert "gave no sign" in said["message"]
            assert said["seq"] < exited["seq"]  # the bar of 50 ms is measured in tests/e2e
            assert exited["signal"] == "SIGABRT"
            assert "_hang" in exited["log_tail"]
            assert "core.py" in exited["log_tail"]
            assert exited["will_restart"] is True
            await wire.finished(generation)
            check(wire, generation, ids, text, 1)

    run(test())


def test_a_stopped_worker_is_killed_though_it_cannot_answer_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.1)
    monkeypatch.setattr(watchdog, "HANG_S", 4.0)

    async def test() -> None:
        # 20 of its steps, or a full batch of prompt at this pace, take less than HANG_S
        async with app(tmp_path, "fake:tokens=700,delay_ms=3") as core, client(core) as wire:
            await wire.command("subscribe")
            generation = await wire.generate()
            await eventually(lambda: len(wire.indices(generation)) > 10)
            kill(core, signal.SIGSTOP)
            assert (await wire.event("engine.exited"))["signal"] == "SIGKILL"
            assert (await wire.finished(generation))["finish_reason"] == "stop"
            assert wire.indices(generation) == list(range(700))

    run(test())


def test_a_worker_with_nothing_but_paused_work_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.05)
    monkeypatch.setattr(watchdog, "PROBE_S", 0.1)
    monkeypatch.setattr(watchdog, "HANG_S", 4.0)

    async def test() -> None:
        # its pace explains no silence longer than HANG_S
        async with app(tmp_path, "fake:tokens=700,delay_ms=3", parallel=1) as core, client(core) as wire:
            generation = await wire.generate()
            await eventually(lambda: len(wire.indices(generation)) > 3)
            await wire.command("pause", generation_id=generation)
            waiting = await wire.generate(max_tokens=3)
            await asyncio.sleep(6)
            assert core.supervisor.epoch == 1
            await wire.command("resume", generation_id=generation)
            for key in (generation, waiting):
                assert (await wire.finished(key))["error"] is None

    run(test())


def test_random_hands_and_deaths_leave_every_answer_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many generations, any commands in any order, kills at any moment: one end and one reply each."""
    monkeypatch.setattr(supervisor_module, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(supervisor_module, "MAX_DEATHS", 1000)
    monkeypatch.setattr(generations_module, "MAX_DEATHS", 1000)
    monkeypatch.setattr(generations_module, "MAX_SENDS", 1000)
    chance = random.Random(3)

    async def meddle(wire: Wire, key: str, sent: list[int]) -> None:
        for _ in range(8):
            await asyncio.sleep(chance.random() * 0.15)
            choices: list[tuple[str, Frame]] = [
                ("pause", {}),
                ("resume", {}),
                ("resume", {}),
                ("step", {"tokens": 3}),
                ("rewind", {"tokens": chance.randint(1, 6)}),
                ("inject", {"text": " river glass"}),
                ("update", {"sampling": {"temperature": 0.0}}),
                ("fork", {"at_token": chance.randint(0, 10), "token_id": 300}),
                ("fork", {"at_token": chance.randint(0, 10)}),
            ]
            command, arguments = chance.choice(choices)
            sent.append(await wire.send(command, generation_id=key, **arguments))
        await asyncio.sleep(0.1)
        sent.append(await wire.send("resume", generation_id=key))

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=60,delay_ms=3", parallel=3) as core, client(core) as wire:
            await wire.command("subscribe")
            sent: list[int] = []
            asked = [await wire.generate(f"{n}", max_tokens=80) for n in range(8)]
            meddling = [asyncio.create_task(meddle(wire, key, sent)) for key in asked]
            for _ in range(6):
                await asyncio.sleep(0.2 + chance.random() * 0.2)
                if core.supervisor.worker_pid is not None:
                    with contextlib.suppress(ProcessLookupError):  # it has ended, and it isn't told yet
                        kill(core)
            await asyncio.gather(*meddling)
            codes = set()
            for command_id in sent:
                reply = await wire.reply(command_id)
                codes.add("ok" if reply["ok"] else reply["error"]["code"])
            # nothing but what may be: a death, too late, not paused, nothing left to remove
            assert codes <= {"ok", "engine_lost", "bad_state", "invalid_argument", "context_overflow"}
            everyone = {frame["generation_id"] for frame in wire.events("generation.queued")}
            for key in everyone:
                if core.supervisor.knows(key):
                    await wire.send("resume", generation_id=key)
                finished = await wire.finished(key)
                assert finished["error"] is None
                forked = [f for f in wire.events("generation.forked") if f["branch_id"] == key]
                begin = forked[0]["at_token"] if forked else 0
                text = forked[0]["text"] if forked else ""
                place = begin
                for frame in wire.events(generation_id=key):
                    if frame["type"] == "generation.rewound":
                        place, text = frame["at_token"], frame["text"]
                        assert place >= 0
                    elif "tokens" in frame:
                        assert [t["index"] for t in frame["tokens"]] == list(
                            range(place, place + len(frame["tokens"]))
                        )
                        place += len(frame["tokens"])
                        text += frame["text"]
                assert place == finished["usage"]["completion_tokens"]
                assert text == finished["text"]
            assert core.supervisor._generations._reserved == 0
            assert core.state.generations == {}

    run(test())


def test_giving_up_ends_everything_with_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "MAX_DEATHS", 0)

    async def test() -> None:
        async with app(tmp_path, PACE, parallel=1) as core, client(core) as wire:
            running, waiting = await wire.generate(), await wire.generate()
            await eventually(lambda: len(wire.indices(running)) > 5)
            asked = await wire.send("fork", generation_id=waiting, at_token=0)
            kill(core)
            for key in (running, waiting):
                finished = await wire.finished(key)
                assert finished["error"]["code"] == "engine_failed"
                assert finished["text"] == wire.text(key)
            reply = await wire.reply(asked)
            if reply["ok"]:
                branch = reply["result"]["generation_id"]
                assert (await wire.finished(branch))["error"]["code"] == "engine_failed"
            with pytest.raises(CommandError, match="engine_failed"):
                await wire.generate()

    run(test())


@pytest.mark.real
def test_the_starter_goes_on_where_it_was_cut(tmp_path: Path, starter_model: Path) -> None:
    """The next worker is given exactly what was delivered; where greedy texts part, two tokens are level."""
    greedy = {"sampling": {"temperature": 0}, "logprobs": 8, "max_tokens": 60}
    prompts: dict[str, list[int]] = {}
    sent: dict[str, Resume] = {}

    def answer(prompt: list[int], got: list[Frame]) -> Answer:
        return Answer(prompt, [cast(Token, token) for token in got])

    def listen(core: Core) -> None:
        generations = core.supervisor._generations
        take, send = generations.take, generations._send

        def taken(message: Message) -> bool:
            if isinstance(message, PromptReady):
                prompts[message.generation_id] = message.prompt_tokens
            return take(message)

        def sending(worker: Any, active: Any) -> None:
            resume = active.to_send().resume
            if resume is not None:
                sent[active.generation_id] = resume
            send(worker, active)

        generations.take = taken  # type: ignore[method-assign]
        generations._send = sending  # type: ignore[method-assign]

    async def test() -> None:
        comparison = Comparison()
        async with app(tmp_path, str(starter_model)) as core, client(core) as wire:
            listen(core)
            calm = {}
            for question in QUESTIONS:
                generation = await wire.generate(question, **greedy)
                finished = await wire.finished(generation)
                if finished["usage"]["completion_tokens"] > 25:
                    calm[question] = answer(prompts[generation], tokens(wire, generation))
            for number, question in enumerate(list(calm)[:6]):
                core.supervisor._deaths.clear()  # or the app would give up: six deaths are many
                generation = await wire.generate(question, **greedy)
                await eventually(lambda: len(wire.indices(generation)) > 2 * number)  # noqa: B023
                kill(core)
                finished = await wire.finished(generation)
                assert finished["error"] is None
                got = tokens(wire, generation)
                assert [token["index"] for token in got] == list(range(len(got)))
                if generation in sent:  # else it had ended before the kill
                    resume = sent[generation]
                    recovered = await wire.event("generation.recovered", generation_id=generation)
                    assert resume.prompt_tokens == prompts[generation] == calm[question].prompt
                    assert len(resume.tokens) == resume.n_drawn == recovered["at_token"]
                    assert resume.tokens == [token["id"] for token in got[: len(resume.tokens)]]
                    assert resume.times == [token["t"] for token in got[: len(resume.tokens)]]
                comparison.add(calm[question], answer(prompts[generation], got))
        assert sent
        comparison.check(f"{len(sent)} times killed in mid-answer")

    run(test())
