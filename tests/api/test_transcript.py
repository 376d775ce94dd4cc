"""The session that PROTOCOL.md tells is a real one: it is played against an app, frame by frame."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.harness import run
from tests.api.test_schema import DOCUMENT as SCHEMA
from tests.api.test_schema import check, check_frame, definition
from tests.api.transcript import GOT, SENT, MismatchError, Player, Told, connected, parse, told_in_document

TOLD = parse(told_in_document())


def test_it_goes_as_it_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        async with connected(tmp_path) as connection:
            await Player(connection).play(TOLD)

    run(body(), 100)


def test_it_has_all_that_it_promises() -> None:
    commands = [frame["type"] for way, frame in TOLD if way == SENT]
    events = [frame["type"] for way, frame in TOLD if way == GOT]
    assert commands == ["subscribe", "generate", "pause", "step", "update", "rewind", "resume", "step"]
    assert events[0] == "hello"
    told = ("queued", "started", "delta", "paused", "updated", "rewound", "resumed", "finished")
    assert {"reply", "metrics.step", *(f"generation.{name}" for name in told)} <= set(events)
    deltas = [frame for _, frame in TOLD if frame["type"] == "generation.delta"]
    assert any("first_seq" in frame and len(frame["tokens"]) > 1 for frame in deltas), "some are merged"
    assert not all(frame["ok"] for _, frame in TOLD if frame["type"] == "reply"), "an error is shown"


def test_its_frames_fit_the_schema() -> None:
    sent = {frame["id"]: frame["type"] for way, frame in TOLD if way == SENT}
    for way, frame in TOLD:
        if way == SENT:
            check(frame, definition("Command"), SCHEMA)
        else:
            check_frame(frame, sent.get(frame.get("id")))


def drop_text(told: Told) -> None:
    next(frame for _, frame in told if frame["type"] == "generation.rewound")["text"] = "something else"


def drop_field(told: Told) -> None:
    del next(frame for _, frame in told if frame["type"] == "generation.started")["cached_tokens"]


def drop_frame(told: Told) -> None:
    told.remove(next(each for each in told if each[1]["type"] == "generation.updated"))


def other_token(told: Told) -> None:
    next(frame for _, frame in told if frame["type"] == "generation.delta")["tokens"][0]["index"] += 1


def other_id(told: Told) -> None:
    finished = next(frame for _, frame in told if frame["type"] == "generation.finished")
    finished["generation_id"] = told[0][1]["run_id"]


class Replay:
    """A connection on which just what is told comes."""

    def __init__(self, told: Told) -> None:
        self._frames = [frame for way, frame in told if way == GOT]

    async def send(self, text: str) -> None:
        assert json.loads(text)["type"]

    async def recv(self) -> str:
        if not self._frames:
            raise MismatchError("nothing more comes")
        return json.dumps(self._frames.pop(0))


@pytest.mark.parametrize("change", [None, drop_text, drop_field, drop_frame, other_token, other_id])
def test_another_session_is_noticed(change: Callable[[Told], None] | None) -> None:
    told = copy.deepcopy(TOLD)
    player = Player(Replay(TOLD))  # type: ignore[arg-type]
    if change is None:
        asyncio.run(player.play(told))
        return
    change(told)
    with pytest.raises(MismatchError):
        asyncio.run(player.play(told))
