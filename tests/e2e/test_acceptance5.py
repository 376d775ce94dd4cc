"""What a newcomer and a patient tester find out from outside: every hand in every state, and mistakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import CommandError, Frame, Wire, run
from tests.e2e.harness import END_LIMIT_S, ROOT, Serve, held, let_all_finish, serve

LIMIT_S = 240.0
SLOW = "fake:tokens=120,delay_ms=15,prefill_ms=6"


class Told:
    """One generation as a client sees it; asserts the contract's order and sums at each event."""

    def __init__(self) -> None:
        self.tokens: list[Frame] = []
        self.text = ""
        self.queued = self.started = self.finished = False
        self.paused = False

    def fork(self, source: Told, event: Frame) -> None:
        """It is a branch: what it keeps is its source's."""
        self.tokens = source.tokens[: event["at_token"]]
        self.text = event["text"]
        assert "".join(token["text"] for token in self.tokens) == self.text

    def take(self, event: Frame) -> None:
        assert not self.finished, "finished comes once, as the last event"
        kind = event["type"].removeprefix("generation.")
        if kind == "queued":
            assert not self.queued
            self.queued = True
        elif kind == "started":
            assert self.queued
            assert not self.started
            assert event["cached_tokens"] <= event["prompt_tokens"]
            self.started = True
        elif kind == "delta":
            assert self.started
            for token in event["tokens"]:
                assert token["index"] == len(self.tokens)
                self.tokens.append(token)
            self.text += event["text"]
        elif kind == "rewound":
            assert event["at_token"] + event["removed"] == len(self.tokens)
            del self.tokens[event["at_token"] :]
            self.text = event["text"]
            assert "".join(token["text"] for token in self.tokens) == self.text
        elif kind in ("paused", "resumed", "updated", "recovered"):
            assert event["at_token"] == len(self.tokens)
            self.paused = kind == "paused" or (self.paused and kind != "resumed")
        elif kind == "finished":
            self.finished = True
            if self.started:
                assert event["text"] == self.text
                assert event["usage"]["completion_tokens"] == len(self.tokens)
            assert (event["finish_reason"] == "error") == (event["error"] is not None)


def told(wire: Wire) -> dict[str, Told]:
    """All generations that a client has been told of, folded from what it got."""
    known: dict[str, Told] = {}
    last = 0
    for event in wire.events():
        assert (event.get("first_seq") or event["seq"]) > last, "seq strictly rises"
        last = event["seq"]
        if not event["type"].startswith("generation."):
            continue
        if event["type"] == "generation.forked":
            branch = known.setdefault(event["branch_id"], Told())
            if event["generation_id"] in known:
                branch.fork(known[event["generation_id"]], event)
        else:
            known.setdefault(event["generation_id"], Told()).take(event)
    return known


async def in_state(wire: Wire, state: str) -> Frame:
    """The snapshot, once the engine is in this state."""
    while True:
        snapshot = await wire.command("snapshot")
        if snapshot["engine"]["state"] == state:
            return snapshot
        await asyncio.sleep(0.02)


async def let_finish(wire: Wire) -> None:
    """Resume whatever is paused until nothing is left, and see that all has been told."""
    await let_all_finish(wire)
    for key in told(wire):
        await wire.finished(key)
    assert all(generation.finished for generation in told(wire).values())


# ---- a generation in each state


async def holds(wire: Wire, count: int = 3, content: str = "Tell me", **arguments: object) -> str:
    """A generation that is paused, however slow this machine is, once it has written just so many tokens."""
    async with held(wire):
        key = await wire.generate(content, **({"sampling": {"seed": 4}, "max_tokens": 40} | arguments))
        pause = await wire.send("pause", generation_id=key)
    early = (await wire.reply(pause))["result"]["at_token"]
    await wire.command("step", generation_id=key, tokens=count - early)
    await wire.event("generation.paused", generation_id=key, at_token=count)
    return key


async def written(wire: Wire) -> str:
    key = await holds(wire)
    await wire.command("resume", generation_id=key)
    return key


async def in_the_prompt(wire: Wire) -> str:
    key = await wire.generate("word " * 200, sampling={"seed": 4}, max_tokens=40)
    await wire.event("generation.started", generation_id=key)
    return key


async def waits(wire: Wire) -> str:
    await holds(wire)  # which keeps its slot
    return await wire.generate("And then", sampling={"seed": 4}, max_tokens=40)


async def waits_paused(wire: Wire) -> str:
    key = await waits(wire)
    await wire.command("pause", generation_id=key)
    return key


async def steps(wire: Wire) -> str:
    key = await holds(wire)
    await wire.command("step", generation_id=key, tokens=20)
    return key


async def is_being_cancelled(wire: Wire) -> str:
    key = await written(wire)
    await wire.command("cancel", generation_id=key)
    return key


async def has_finished(wire: Wire) -> str:
    key = await wire.generate("hi", max_tokens=2)
    await wire.finished(key)
    return key


States = Callable[[Wire], Awaitable[str]]
STATES: tuple[States, ...] = (
    waits,
    waits_paused,
    in_the_prompt,
    written,
    holds,
    steps,
    is_being_cancelled,
    has_finished,
)
HANDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pause", {}),
    ("resume", {}),
    ("step", {"tokens": 2}),
    ("update", {"sampling": {"top_k": 7}}),
    ("rewind", {"tokens": 1}),
    ("inject", {"text": " put in"}),
    ("fork", {"at_token": 0}),
    ("cancel", {}),
)
STEPPABLE = {"waits_paused", "holds"}
OVER = {"is_being_cancelled", "has_finished"}


def expected(state: str, hand: str) -> set[str]:
    """How a hand may be answered in a state; `ok`, or the error's code."""
    if hand == "cancel":
        return {"ok"}
    if state in OVER:
        return {"bad_state"}
    if hand == "step":
        return {"ok"} if state in STEPPABLE else {"bad_state"}
    if hand == "rewind":
        return {"invalid_argument"} if state.startswith("waits") else {"ok", "invalid_argument"}
    return {"ok"}


def test_every_hand_in_every_state(tmp_path: Path) -> None:
    """Each is done or refused by a typed error; whatever it was, the generation ends once, whole."""

    async def test(app: Serve) -> None:
        for state in STATES:
            name = getattr(state, "__name__", "")
            for hand, arguments in HANDS:
                async with app.client() as wire:
                    await in_state(wire, "ready")
                    key = await state(wire)
                    reply = await wire.reply(await wire.send(hand, generation_id=key, **arguments))
                    answer = "ok" if reply["ok"] else reply["error"]["code"]
                    # a machine that is slow to ask may find it finished, or a step done
                    late = {"ok", "bad_state"} if name in ("steps", "in_the_prompt", "written") else set()
                    assert answer in expected(name, hand) | late, (name, hand, reply)
                    await let_finish(wire)
                    if hand == "cancel" and reply["result"]["state"] == "cancelling":
                        assert (await wire.finished(key))["finish_reason"] in ("cancelled", "length")
                    replies = [frame["id"] for frame in wire.frames if frame["type"] == "reply"]
                    assert len(replies) == len(set(replies))

    with serve(tmp_path, SLOW, "--parallel", "1") as app:
        run(test(app), LIMIT_S)


@pytest.mark.parametrize("state", STATES[:6], ids=lambda state: state.__name__)
def test_a_killed_worker_leaves_each_state_as_it_was(tmp_path: Path, state: States) -> None:
    """The answer is the one that an undisturbed generation gave, and what was paused stays so."""

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            await in_state(wire, "ready")
            if state is in_the_prompt:
                whole = await wire.generate("word " * 200, sampling={"seed": 4}, max_tokens=40)
            else:
                content = "And then" if state in (waits, waits_paused) else "Tell me"
                whole = await wire.generate(content, sampling={"seed": 4}, max_tokens=40)
            undisturbed = await wire.finished(whole)
            key = await state(wire)
            pid = (await in_state(wire, "ready"))["engine"]["pid"]
            os.kill(pid, signal.SIGKILL)
            await wire.event("engine.exited", signal="SIGKILL")
            await wire.until(lambda frame: frame["type"] == "engine.started" and frame["epoch"] == 2)
            again = await in_state(wire, "ready")
            if state in (holds, waits_paused):
                states = {other["generation_id"]: other["state"] for other in again["generations"]}
                assert states[key] == "paused"
            await let_finish(wire)
            assert (await wire.finished(key))["text"] == undisturbed["text"]
            assert len({token["index"] for token in told(wire)[key].tokens}) == 40

    with serve(tmp_path, SLOW, "--parallel", "1") as app:
        run(test(app), LIMIT_S)


def test_sixty_commands_sent_at_once_are_carried_out_in_their_order(tmp_path: Path) -> None:
    """Each once; and every change that was said to be done has its event."""

    async def test(app: Serve) -> None:
        rng = random.Random(5)
        async with app.client() as wire:
            await in_state(wire, "ready")
            for _ in range(4):
                key = await holds(wire, max_tokens=400, logprobs=2)
                sent: list[tuple[int, str]] = []
                for _ in range(60):
                    hand, arguments = rng.choice(
                        (
                            ("pause", {}),
                            ("rewind", {"tokens": rng.randint(1, 3)}),
                            ("inject", {"text": rng.choice((" abc", "😀", "\n"))}),
                            ("update", {"sampling": {"temperature": rng.random()}}),
                        )
                    )
                    sent.append((await wire.send(hand, generation_id=key, **arguments), hand))
                replies = {number: await wire.reply(number) for number, _ in sent}
                came = [frame["id"] for frame in wire.frames if frame["type"] == "reply"]
                mine = [number for number in came if number in replies]
                assert sorted(mine) == [number for number, _ in sent], "one reply each"
                length = None
                for number, hand in sent:  # replies may come in another order, what is done may not
                    result = replies[number].get("result", {})
                    if hand == "rewind" and length is not None and result:
                        assert result["at_token"] == length - result["removed"]
                    if hand == "inject" and length is not None:
                        assert result["at_token"] > length
                    if hand in ("rewind", "inject") and result:
                        length = result["at_token"]
                await let_finish(wire)
                done = [hand for number, hand in sent if replies[number]["ok"]]
                for hand, event in (("rewind", "rewound"), ("update", "updated")):
                    assert len(wire.events(f"generation.{event}", key)) == done.count(hand)
                assert done.count("inject") == [hand for _, hand in sent].count("inject")

    with serve(tmp_path, SLOW) as app:
        run(test(app), LIMIT_S)


def test_branches_of_branches(tmp_path: Path) -> None:
    """Six deep, each parts where it was told to, goes on by itself and adds up."""

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await in_state(wire, "ready")
            family = [await holds(wire, 12, logprobs=3)]
            for depth in range(6):
                key = family[-1]
                await wire.until(
                    lambda _, key=key: (
                        len(wire.indices(key)) >= 2  # type: ignore[misc]
                        or bool(wire.events("generation.finished", key))
                    )
                )
                reply = await wire.reply(await wire.send("fork", generation_id=key, at_token=10 - depth))
                if not reply["ok"]:
                    assert reply["error"]["code"] == "bad_state", "only of one that has finished"
                    break
                family.append(reply["result"]["generation_id"])
            await let_finish(wire)
            answers = told(wire)
            for depth, key in enumerate(family):
                finished = await wire.finished(key)
                assert finished["finish_reason"] == "length"
                assert finished["usage"]["completion_tokens"] == 40
                indices = wire.indices(key)
                assert indices == list(range(11 - depth if depth else 0, 40)), depth
                assert all(len(token["top"]) == 3 for token in answers[key].tokens)
            with pytest.raises(CommandError, match="bad_state"):
                await wire.command("fork", generation_id=family[0], at_token=1)

    with serve(tmp_path, "fake:tokens=120,delay_ms=50", "--parallel", "8") as app:
        run(test(app), LIMIT_S)


CALL = 'Let me see now. <tool_call>\n{"name": "clock"%2C "arguments": {"zone": "CET and more"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("back", (1, 12, 45, 70))
def test_what_a_rewound_call_gives_can_be_told(tmp_path: Path, back: int) -> None:
    """Taken back within the call, before it and into the text: it is called once, and goes on."""

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await in_state(wire, "ready")
            key = await holds(wire, 72, "What time is it?", tools=TOOLS, max_tokens=400)
            await wire.command("rewind", generation_id=key, tokens=back)
            rewound = await wire.event("generation.rewound", generation_id=key)
            assert rewound["tool_calls"] == []
            await wire.command("resume", generation_id=key)
            finished = await wire.finished(key)
            (call,) = finished["tool_calls"]
            assert json.loads(call["arguments"]) == {"zone": "CET and more"}
            assert [event["call"] for event in wire.events("generation.tool_call", key)] == [call]
            result = await wire.command("tool_result", generation_id=key, call_id=call["id"], content="noon")
            following = await wire.event("generation.queued", generation_id=result["generation_id"])
            assert following["continues"] == key
            await wire.finished(result["generation_id"])

    with serve(tmp_path, f"fake:delay_ms=2,bytes=1,script={CALL}") as app:
        run(test(app), LIMIT_S)


# ---- mistakes


def tokenglass(home: Path, *arguments: str, out: str | None = None) -> tuple[int, str, str]:
    """Run a command to its end: exit code, stdout, stderr. `out`: a file that stdout is written to."""
    environment = os.environ | {"TOKENGLASS_HOME": str(home)}
    with contextlib.ExitStack() as stack:
        target: Any = subprocess.PIPE if out is None else stack.enter_context(Path(out).open("w"))
        done = subprocess.run(
            [sys.executable, "-m", "desktop", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            timeout=10 * END_LIMIT_S,
            check=False,
        )
    return done.returncode, done.stdout or "", done.stderr


LONG = "n" * 300
MISTAKES = (
    (("serve", "--port", "0", "--model", LONG), "there is no model"),
    (("serve", "--port", "0", "--model", f"/{LONG}.gguf"), "there is no file"),
    (("serve", "--port", "0", "--model", "~nobody-by-this-name/m.gguf"), "there is no file"),
    (("models", "add", f"/{LONG}"), "there is no file"),
    (("models", "estimate", f"/{LONG}"), "there is no model"),
    (("bench", "--model", "~nobody-by-this-name/m.gguf"), "there is no model"),
    (("bench", "--llama-server", "~nobody-by-this-name/s"), "there is no program"),
    (("chat", "--grammar", "~nobody-by-this-name/g", "hi"), "can't be read"),
    (("conversations", "list", "--home", f"/{LONG}"), "can't make the folder"),
    (("conversations", "list", "--home", "~nobody-by-this-name/x"), "there is no folder"),
)


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = tokenglass(tmp_path, *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1, err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "arguments", (("models", "list"), ("chat", "hi", "--model", "fake:"), ("serve", "--port", "0"))
)
def test_where_nothing_can_be_written_it_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = tokenglass(tmp_path, *arguments, out="/dev/full")
    assert code == 1
    assert err.splitlines()[-1] == "tokenglass: can't write: No space left on device"
    assert "Traceback" not in err
