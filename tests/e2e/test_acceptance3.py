"""What a demanding user finds out from outside: hands, deaths, forced answers, a cache that is too small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import CommandError, Frame, Wire, run
from tests.e2e.harness import LIMIT_S, Serve, held, let_all_finish, serve

REFUSALS = {"bad_state", "invalid_argument", "context_overflow", "engine_lost"}
TEXTS = ("a", " hello", "😀", "ß∂", "<|im_end|>", "\n\n", '"', " x" * 30)


class Seen:
    """What a client makes of one generation's events; asserts what must hold for each."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[Frame] = []
        self.calls: list[Frame] = []
        self.finished: Frame | None = None
        self.started = False
        self.recovered = 0

    def take(self, event: Frame) -> None:
        assert self.finished is None, "finished is the last event"
        for token in event.get("tokens", ()):
            assert token["index"] == len(self.tokens), "no token is lost or comes twice"
            self.tokens.append(token)
        match event["type"]:
            case "generation.started":
                self.started = True
            case "generation.delta":
                self.text += event["text"]
            case "generation.rewound":
                assert len(self.tokens) - event["at_token"] == event["removed"]
                self.text = event["text"]
                del self.tokens[event["at_token"] :]
            case "generation.recovered":
                assert event["at_token"] == len(self.tokens)
                self.recovered += 1
            case "generation.finished":
                self.finished = event
                if not self.started and event["text"].startswith(self.text):
                    self.text = event[
                        "text"
                    ]  # what was injected while it waited is told with its start or end
                else:
                    assert event["usage"]["completion_tokens"] == len(self.tokens)
                assert event["text"] == self.text
                assert event["usage"]["cached_tokens"] <= event["usage"]["prompt_tokens"]


def seen(wire: Wire) -> dict[str, Seen]:
    """All generations that a client knows of, folded from what it got."""
    by_id: dict[str, Seen] = {}
    for event in wire.events():
        if event["type"] == "generation.forked":
            branch, source = by_id.setdefault(event["branch_id"], Seen()), by_id[event["generation_id"]]
            branch.text, branch.tokens = event["text"], source.tokens[: event["at_token"]]
        elif "generation_id" in event:
            by_id.setdefault(event["generation_id"], Seen()).take(event)
    return by_id


async def kill_worker(wire: Wire) -> None:
    """As the system's killer does it; everybody knows of it when this returns."""
    n_exits = len(wire.events("engine.exited"))
    engine = (await wire.command("snapshot"))["engine"]
    assert engine["state"] == "ready"
    os.kill(engine["pid"], signal.SIGKILL)
    await wire.until(lambda _: len(wire.events("engine.exited")) > n_exits)


async def ready(wire: Wire) -> Frame:
    """The snapshot once a model is loaded."""
    await wire.command("subscribe")
    state = await wire.command("snapshot")
    if state["engine"]["state"] != "ready":
        await wire.until(lambda frame: frame["type"] == "model.loaded" and frame["seq"] > state["seq"])
        state = await wire.command("snapshot")
    return state


def some_command(rng: random.Random) -> tuple[str, dict[str, Any]]:
    name = rng.choice(("pause", "resume", "resume", "step", "update", "rewind", "inject", "fork"))
    arguments: dict[str, Any] = {}
    match name:
        case "step":
            arguments["tokens"] = rng.randint(1, 5)
        case "update":
            arguments["sampling"] = rng.choice(({"temperature": 1.5}, {"top_k": 3}, {"temperature": -1}))
        case "rewind":
            arguments["tokens"] = rng.choice((1, 2, 5, 1000))
        case "inject":
            arguments["text"] = rng.choice(TEXTS)
        case "fork":
            arguments["at_token"] = rng.choice((0, 1, 3, 1000))
            if rng.random() < 0.4:
                arguments["token_id"] = rng.randint(3, 300)
    return name, arguments


def test_four_clients_at_the_same_generations(tmp_path: Path) -> None:
    """Commands of four clients cross each other and a worker's death: one reply each, one truth."""

    async def commands(wire: Wire, ids: list[str], rng: random.Random) -> None:
        for _ in range(8):
            asked = []
            for _ in range(8):
                name, arguments = some_command(rng)
                asked.append(await wire.send(name, generation_id=rng.choice(ids[-6:]), **arguments))
            for number in asked:
                reply = await wire.reply(number)
                if not reply["ok"]:
                    assert reply["error"]["code"] in REFUSALS, reply
                    assert "\n" not in reply["error"]["message"]
                elif reply["result"].get("generation_id"):
                    ids.append(reply["result"]["generation_id"])

    async def test(app: Serve) -> None:
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(app.client()) for _ in range(4)]
            for wire in wires:
                await wire.command("subscribe")
            await ready(wires[0])
            lasting = await wires[0].generate("Not over before the death")
            await wires[0].until(lambda _: len(wires[0].indices(lasting)) >= 3)
            ids = [
                await wires[0].generate(f"Question {n}", sampling={"seed": n}, max_tokens=60)
                for n in range(4)
            ]
            await wires[0].until(lambda _: len(wires[0].indices(ids[0])) >= 3)
            working = [
                asyncio.create_task(commands(wire, ids, random.Random(n))) for n, wire in enumerate(wires)
            ]
            await kill_worker(wires[0])
            await asyncio.gather(*working)
            await wires[0].command("cancel", generation_id=lasting)
            await let_all_finish(wires[0])
            for wire in wires:
                for key in (lasting, *ids):
                    await wire.finished(key)
                replies = [frame["id"] for frame in wire.frames if frame["type"] == "reply"]
                assert len(replies) == len(set(replies)), "exactly one reply each"
            views = [seen(wire) for wire in wires]
            assert set(views[0]) == {lasting, *ids}
            assert len({view[lasting].text for view in views}) == 1
            for key in ids:
                finished = views[0][key].finished
                assert finished is not None
                assert finished["finish_reason"] in ("stop", "length")
                assert {view[key].text for view in views} == {finished["text"]}
            assert views[0][lasting].recovered
            for step in wires[0].events("metrics.step"):
                assert step["kv_used"] <= step["kv_total"]

    with serve(tmp_path, "fake:delay_ms=15,bytes=1,tokens=100000,ctx=200000", "--parallel", "4") as app:
        run(test(app), LIMIT_S)


TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
CALL = (
    "words first " * 4
    + '<tool_call>{"name": "clock"%2C "arguments": {"a": "'
    + "text " * 12
    + '"}}</tool_call>'
)


N_STEPS = 24


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("fake:delay_ms=15,bytes=1,echo=1", {"content": "žlutý 光 😀 река " * 3, "logprobs": 2}),
        ("fake:delay_ms=15,tokens=80", {"stop": ["window", "same s"], "sampling": {"seed": 3}}),
        (f"fake:delay_ms=15,script={CALL}", {"tools": TOOLS}),
        ("fake:delay_ms=15,tokens=60,recurrent=1", {"sampling": {"seed": 5}, "prompt_lookup_num_tokens": 4}),
    ],
    ids=["split characters", "stop strings", "tool calls", "recurrent"],
)
def test_a_death_leaves_no_trace_in_the_answer(tmp_path: Path, model: str, arguments: Frame) -> None:
    def said(wire: Wire, key: str) -> tuple[object, ...]:
        view = seen(wire)[key]
        assert view.finished is not None
        calls = [(call["name"], call["arguments"]) for call in view.finished["tool_calls"]]
        tokens = [
            (token["id"], token["text"], token.get("logprob"), token.get("top")) for token in view.tokens
        ]
        return view.finished["finish_reason"], view.text, calls, tokens

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            undisturbed = await wire.generate(**arguments)
            await wire.finished(undisturbed)
            # it stops by itself before its end, so that it can't be over before the death
            async with held(wire):
                key = await wire.generate(**arguments)
                pausing = await wire.send("pause", generation_id=key)
            assert (await wire.reply(pausing))["ok"]
            await wire.command("step", generation_id=key, tokens=N_STEPS)
            await wire.until(lambda _: len(wire.indices(key)) >= 10)
            await kill_worker(wire)
            await wire.event("generation.recovered", generation_id=key)
            await wire.command("resume", generation_id=key)
            await wire.finished(key)
            assert seen(wire)[key].recovered == 1
            assert said(wire, key) == said(wire, undisturbed)

    with serve(tmp_path, model) as app:
        run(test(app), LIMIT_S)


FORECAST: Frame = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
        },
    },
}
SCHEMA: Frame = {
    "type": "object",
    "properties": {
        "kids": {"type": "array", "items": {"enum": ["ä", 'b"c', 7]}, "minItems": 20, "maxItems": 30},
        "id": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
    },
    "required": ["kids", "id"],
}
FORCED: dict[str, Frame] = {
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
    "call": {"tools": [FORECAST], "tool_choice": "required"},
    "grammar": {"grammar": 'root ::= ("ab" [0-9]{1,3} " ")+ "."'},
}


def obeys(kind: str, finished: Frame) -> bool:
    text = finished["text"]
    match kind:
        case "schema":
            value = json.loads(text)
            kids = value["kids"]
            right = list(value) == ["kids", "id"] and re.fullmatch(r"[A-Z]{2}-\d{3}", value["id"])
            return bool(right) and 20 <= len(kids) <= 30 and all(kid in ("ä", 'b"c', 7) for kid in kids)
        case "call":
            values = [json.loads(call["arguments"]) for call in finished["tool_calls"]]
            names = {call["name"] for call in finished["tool_calls"]}
            fit = all(len(v["city"]) <= 30 and v["unit"] in ("c", "f") and len(v) == 2 for v in values)
            return names == {"forecast"} and fit and not text.strip()
        case _:
            return re.fullmatch(r"(ab[0-9]{1,3} )+\.", text) is not None


def test_forced_answers_obey_under_hands_and_deaths(tmp_path: Path) -> None:
    """Rewound, injected into, branched, carried over a worker's death: what is whole obeys."""

    async def disturb(wire: Wire, key: str, kinds: dict[str, str], rng: random.Random) -> None:
        for _ in range(5):
            name, arguments = some_command(rng)
            if name in ("pause", "step"):
                continue
            if name == "inject":
                arguments["text"] = rng.choice(
                    ("a", "ab1 ", '"', "{", "}", ",", "ä", "7", "<tool_call>", "\n")
                )
            with contextlib.suppress(CommandError):
                result = await wire.command(name, generation_id=key, **arguments)
                if name == "fork":
                    kinds[result["generation_id"]] = kinds[key]
            await asyncio.sleep(rng.random() * 0.02)

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            await ready(wire)
            kinds: dict[str, str] = {}
            rng = random.Random(3)
            for n in range(3):
                keys = []
                for kind, arguments in FORCED.items():
                    keys.append(
                        await wire.generate(
                            sampling={"temperature": 1, "seed": n}, max_tokens=600, **arguments
                        )
                    )
                    kinds[keys[-1]] = kind
                hands = [asyncio.create_task(disturb(wire, key, kinds, rng)) for key in keys]
                if n == 1:
                    await kill_worker(wire)
                await asyncio.gather(*hands)
                await let_all_finish(wire)
                await ready(wire)
            views, n_whole = seen(wire), 0
            for key, kind in kinds.items():
                finished = views[key].finished
                assert finished is not None
                assert finished["error"] is None
                if finished["finish_reason"] in ("stop", "tool_calls"):
                    assert obeys(kind, finished), (kind, finished)
                    n_whole += 1
            assert n_whole >= 6
            assert len(wire.events("engine.exited")) == 1, "no answer has ended a worker"

    with serve(tmp_path, "starter") as app:
        run(test(app), LIMIT_S)


@pytest.mark.parametrize("model", ["starter", "fake:tokens=120,delay_ms=1"])
def test_more_slots_than_the_cache_has_room_for(tmp_path: Path, model: str) -> None:
    """Everybody ends, after waiting for cells or with `context_full`; the figures stay true."""

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            state = await ready(wire)
            assert state["model"]["n_slots"] == 8
            keys = []
            for n in range(12):
                prompt = f"the cat sat {n} " * (2 + n % 4)
                result = await wire.command("generate", prompt=prompt, sampling={"seed": n}, max_tokens=70)
                keys.append(result["generation_id"])
            for key in keys:
                finished = await wire.finished(key)
                assert finished["finish_reason"] in ("stop", "length", "context_full")
                assert finished["error"] is None
            steps = wire.events("metrics.step")
            assert steps
            assert all(0 <= step["kv_used"] <= step["kv_total"] for step in steps)
            seen(wire)

    with serve(tmp_path, model, "--parallel", "8", "--kv", "300") as app:
        run(test(app), LIMIT_S)


def test_prompt_lookup_changes_no_text(tmp_path: Path) -> None:
    async def test(app: Serve) -> None:
        async with app.client() as wire:
            accepted = 0
            for n, text in enumerate(
                ("Repeat: red green blue red green blue.", "Count to ten.", "a b c a b c")
            ):
                answers = []
                for guesses in (0, 8):
                    key = await wire.generate(
                        f"{text} {n}",
                        max_tokens=100,
                        sampling={"temperature": 0},
                        prompt_lookup_num_tokens=guesses,
                    )
                    finished = await wire.finished(key)
                    answers.append((finished["text"], finished["finish_reason"]))
                    accepted += finished["usage"]["accepted_tokens"]
                assert answers[0] == answers[1]
            assert accepted

    with serve(tmp_path, "starter", "--parallel", "1") as app:
        run(test(app), LIMIT_S)


@pytest.mark.parametrize("name", ["stories260K-f32.gguf", "tiny-rwkv7-834K-f32.gguf"])
def test_the_second_turn_finds_the_first(tmp_path: Path, shared_models: Path, name: str) -> None:
    """Without a chat template, and of a recurrent state too, which can be gone on with only as a whole."""

    async def test(app: Serve) -> None:
        async with app.client() as wire:
            messages = [{"role": "user", "content": "Once upon a time there was a girl"}]
            key = await wire.generate(messages=messages, max_tokens=12, sampling={"temperature": 0})
            first = await wire.finished(key)
            messages += [
                {"role": "assistant", "content": first["text"]},
                {"role": "user", "content": "And then?"},
            ]
            key = await wire.generate(messages=messages, max_tokens=4)
            started = await wire.event("generation.started", generation_id=key)
            assert started["cached_tokens"] >= first["usage"]["prompt_tokens"] + 10
            assert started["prefix_break"] is None

    with serve(tmp_path, str(shared_models / name)) as app:
        run(test(app), LIMIT_S)
