"""What a script sees of generations: others' tokens, shared batches, cached turns, pipelined requests."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from pathlib import Path

import pytest

from tests.api.harness import Frame, Wire, run
from tests.e2e.harness import Serve, command, eventually, held, serve, start

GREEDY = {"temperature": 0}
ENDLESS = r'root ::= [a-zA-Z ,.]+ "\x01"'
"""A grammar of texts whose end no model comes to."""
QUESTIONS = ("What is a token?", "Tell me a story.", "What is 2 + 2?", "What does temperature mean?")
STEP_TIMES = ("pre_ms", "decode_ms", "sample_ms", "emit_ms")
TIMES = ("queue_ms", "prefill_ms", "ttft_ms", "decode_ms", "tokens_per_second", "itl_p50_ms", "itl_p99_ms")


async def loaded(wire: Wire) -> None:
    """Wait until the model is there, so that times don't count its load."""
    while True:
        snapshot = await wire.command("snapshot")
        if snapshot["model"] is not None:
            return
        await asyncio.sleep(0.02)


def check_whole(wire: Wire, finished: Frame) -> None:
    """Every token came once, in order, and together they are the answer."""
    generation_id = finished["generation_id"]
    assert wire.indices(generation_id) == list(range(finished["usage"]["completion_tokens"]))
    assert wire.text(generation_id) == finished["text"]
    assert len(wire.events("generation.finished", generation_id)) == 1
    numbers = [event["seq"] for event in wire.events()]
    assert all(before < after for before, after in itertools.pairwise(numbers))


def check_timings(finished: Frame) -> None:
    timings = finished["timings"]
    assert all(timings[name] >= 0 for name in TIMES)
    parts = timings["queue_ms"] + timings["prefill_ms"]
    assert timings["ttft_ms"] >= parts - 0.001  # tests/engine/test_core.py: the rest is the first sampling
    assert timings["itl_p50_ms"] <= timings["itl_p99_ms"]
    gaps = finished["usage"]["completion_tokens"] - 1
    assert timings["tokens_per_second"] == pytest.approx(gaps / timings["decode_ms"] * 1e3, rel=0.01)


def in_one_step(frames: list[Frame], n: int) -> bool:
    """Whether so many generations got a token in the same step.

    A step's tokens have numbers in a row, and its `metrics.step` has the next, though a later one replace it.
    """
    deltas = [frame for frame in frames if frame["type"] == "generation.delta"]
    rows = (deltas[i : i + n] for i in range(len(deltas)))
    return any(
        len({delta["generation_id"] for delta in row}) == n and row[-1]["seq"] - row[0]["seq"] == n - 1
        for row in rows
    )


def check_step(step: Frame) -> None:
    assert all(step[name] >= 0 for name in (*STEP_TIMES, "waiting", "prefill_tokens", "decode_tokens"))
    assert step["batch_size"] >= 1
    assert 0 < step["kv_used"] <= step["kv_total"]
    assert step["prefill_tokens"] + step["decode_tokens"] >= 1


def read(script: subprocess.Popen[bytes], lines: list[str]) -> None:
    """What a script prints, until its end."""
    assert script.stdout is not None
    lines.extend(line.decode() for line in script.stdout)


@pytest.mark.real
def test_script_follows_chat(tmp_path: Path) -> None:
    async def follow(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            await loaded(wire)
            # the script of the README, on the same stream
            script = start("-u", "assets/examples/follow.py", str(app.server_file))
            lines: list[str] = []
            reading = asyncio.create_task(asyncio.to_thread(read, script, lines))
            try:
                # nothing tells when its subscription stands, but that it follows
                while not lines:
                    await wire.finished(await wire.generate(max_tokens=1))
                place = len(wire.frames)
                chat = command(tmp_path, "chat", "--seed", "7", "--max-tokens", "40", QUESTIONS[0])
                answer, problems = await asyncio.to_thread(chat.communicate)
                assert (chat.returncode, problems) == (0, b"")
                finished = await wire.until(lambda frame: frame["type"] == "generation.finished", place)
                check_whole(wire, finished)
                check_timings(finished)
                assert answer.decode().strip() == finished["text"].strip()
                queued = await wire.until(lambda frame: frame["type"] == "generation.queued", place)
                assert queued["client_id"] != wire.frames[0]["client_id"]
                assert queued["input"] == QUESTIONS[0]
                for step in wire.events("metrics.step"):
                    check_step(step)
                system = await wire.event("metrics.system")
                assert 0 < system["ram_used"] <= system["ram_total"]
                assert 0 < system["app_rss"] < system["ram_total"]
                await eventually(lambda: "tokens_per_second" in "".join(lines).partition(finished["text"])[2])
            finally:
                script.terminate()
                await reading
                await asyncio.to_thread(script.communicate)

    with serve(tmp_path, None) as app:
        run(follow(app))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("fake:delay_ms=20", id="fake"),
        pytest.param(None, id="starter", marks=pytest.mark.real),
    ],
)
def test_four_at_once_share_a_batch(tmp_path: Path, model: str | None) -> None:
    lasting: Frame = {"max_tokens": 60} if model else {"max_tokens": 300, "grammar": ENDLESS}

    async def compare(app: Serve) -> None:
        async with app.client() as wire:
            await wire.command("subscribe")
            await loaded(wire)

            async def ask(question: str) -> str:
                """A long answer, as they don't begin all at once: threads of the worker have their turns.

                To a prompt as it is: while one is rendered, those before it would go ahead.
                """
                prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
                asked = await wire.command("generate", prompt=prompt, sampling=GREEDY, **lasting)
                return str(asked["generation_id"])

            alone = [(await wire.finished(await ask(question)))["text"] for question in QUESTIONS]
            assert {step["batch_size"] for step in wire.events("metrics.step")} == {1}
            start = len(wire.frames)
            async with held(wire):
                sent = [await ask(question) for question in QUESTIONS]
            together = []
            for generation_id in sent:
                finished = await wire.finished(generation_id)
                check_whole(wire, finished)
                check_timings(finished)
                together.append(finished["text"])
            for frame in wire.frames[start:]:
                if frame["type"] == "metrics.step":
                    check_step(frame)
            assert in_one_step(wire.frames[start:], 4)
            equal = sum(a == b for a, b in zip(alone, together, strict=True))
            print(f"{equal} of {len(QUESTIONS)} texts of a batch of four equal those of single runs")
            if model is not None:  # of a real model tests/engine/test_equality.py shows where they part
                assert equal == len(QUESTIONS)

    with serve(tmp_path, model) as app:
        run(compare(app))


async def two_turns(wire: Wire, topic: str) -> list[Frame]:
    """A conversation with a long first turn; answers both `generation.finished`."""
    created = await wire.command("conversations.create")
    finished = []
    for content in (f"{topic}: " + "one two three four five six seven eight nine ten " * 40, "And then?"):
        reply = await wire.command(
            "generate",
            conversation_id=created["conversation"]["id"],
            content=content,
            max_tokens=16,
            sampling=GREEDY,
        )
        finished.append(await wire.finished(reply["generation_id"]))
        assert finished[-1]["error"] is None
    return finished


def computed(wire: Wire, finished: Frame) -> int:
    """Prompt tokens of the steps that came while a generation ran."""
    ids = [frame.get("generation_id") for frame in wire.frames]
    place = ids.index(finished["generation_id"])
    during = wire.frames[place : wire.frames.index(finished)]
    return sum(frame["prefill_tokens"] for frame in during if frame["type"] == "metrics.step")


@pytest.mark.real
def test_second_turn_is_cached(tmp_path: Path) -> None:
    async def talk(app: Serve) -> None:
        async with app.client() as wire:
            await loaded(wire)
            await wire.command("subscribe", events=["generation.*", "metrics.step"])
            talks = [await two_turns(wire, topic) for topic in ("apples", "the sea", "snow")]
            assert talks[0][0]["usage"]["cached_tokens"] == 0
            for first, second in talks:
                cached = second["usage"]["cached_tokens"]
                assert cached >= first["usage"]["prompt_tokens"] > 200
                assert second["usage"]["prompt_tokens"] > cached
                # what the steps say of it, as far as later ones haven't replaced them
                assert computed(wire, second) <= second["usage"]["prompt_tokens"] - cached
            first_ms, second_ms = (
                min(talk[turn]["timings"]["prefill_ms"] for talk in talks) for turn in (0, 1)
            )
            print(f"prefill of a first turn {first_ms:.1f} ms, of the second {second_ms:.1f} ms")

    with serve(tmp_path, None) as app:
        run(talk(app))


def test_a_long_conversation_drops_its_oldest_turns(tmp_path: Path) -> None:
    async def talk(app: Serve) -> None:
        async with app.client() as wire:
            created = await wire.command("conversations.create", system="be good")
            conversation_id = created["conversation"]["id"]
            trimmed = []
            for turn in range(4):
                reply = await wire.command(
                    "generate", conversation_id=conversation_id, content=f"turn {turn} " + "w " * 8
                )
                finished = await wire.finished(reply["generation_id"])
                assert finished["finish_reason"] == "stop"
                started = await wire.event("generation.started", generation_id=reply["generation_id"])
                trimmed.append(started["trimmed_messages"])
            assert trimmed[0] == 0
            assert trimmed[-1] > 0
            kept = await wire.command("conversations.get", conversation_id=conversation_id)
            assert len(kept["messages"]) == 8  # only the model forgets
            # one turn that can't fit by itself has nothing but its end, and spoils nothing
            reply = await wire.command("generate", conversation_id=conversation_id, content="w " * 400)
            finished = await wire.finished(reply["generation_id"])
            assert (finished["finish_reason"], finished["error"]["code"]) == ("error", "context_overflow")
            names = [event["type"] for event in wire.events(generation_id=reply["generation_id"])]
            assert names == ["generation.queued", "generation.finished"]
            reply = await wire.command("generate", conversation_id=conversation_id, content="short")
            assert (await wire.finished(reply["generation_id"]))["finish_reason"] == "stop"

    with serve(tmp_path, "fake:ctx=200,tokens=10") as app:
        run(talk(app))


def test_thirty_pipelined_requests(tmp_path: Path) -> None:
    async def ask(app: Serve) -> None:
        async with app.client() as wire:
            sent = [
                await wire.send("generate", messages=[{"role": "user", "content": f"question {number}"}])
                for number in range(30)
            ]
            for number in sent:
                reply = await wire.reply(number)
                generation_id = reply["result"]["generation_id"]
                finished = await wire.finished(generation_id)
                assert finished["usage"]["completion_tokens"] == 20
                check_whole(wire, finished)
                mine = [frame for frame in wire.frames if frame.get("generation_id") == generation_id]
                assert wire.frames.index(reply) < wire.frames.index(mine[0])

    with serve(tmp_path, "fake:tokens=20,delay_ms=1") as app:
        run(ask(app))
