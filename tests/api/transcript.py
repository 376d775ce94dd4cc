"""The session that PROTOCOL.md tells frame by frame: written from a real app, and played against another.

    python -m tests.api.transcript      writes it into PROTOCOL.md anew

Neighbouring deltas are told as one, since how many tokens come in a frame is a matter of timing, and metrics
once, since they come at any time.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from api import protocol
from tests.api.harness import TOKEN, app

Frame = dict[str, Any]
Told = list[tuple[str, Frame]]
"""Directions and frames."""

DOCUMENT = Path(protocol.__file__).with_name("PROTOCOL.md")
MODEL = "fake:script= the quiet river carries the early light through the garden,prefill_ms=100,delay_ms=150"
BLOCK = re.compile(r"(## A session, frame by frame\n.*?```text\n)(.*?)(```)", re.DOTALL)
SENT, GOT = "→ ", "← "
DELTA = "generation.delta"
STEPS: tuple[tuple[Frame, str], ...] = (
    ({"type": "subscribe", "events": ["generation.*", "metrics.step"]}, "reply"),
    (
        {
            "type": "generate",
            "messages": [{"role": "user", "content": "Tell me a story"}],
            "max_tokens": 9,
            "sampling": {"temperature": 0, "seed": 7},
        },
        "generation.started",
    ),
    ({"type": "pause", "generation_id": "?"}, "generation.paused"),
    ({"type": "step", "generation_id": "?", "tokens": 4}, "generation.paused"),
    ({"type": "update", "generation_id": "?", "sampling": {"top_k": 20}}, "generation.updated"),
    ({"type": "rewind", "generation_id": "?", "tokens": 2}, "generation.rewound"),
    ({"type": "resume", "generation_id": "?"}, "generation.finished"),
    ({"type": "step", "generation_id": "?"}, "reply"),
)
"""Each command, and the event or reply after which the next one is sent."""


@asynccontextmanager
async def connected(home: Path) -> AsyncIterator[ClientConnection]:
    """A client of an app of its own, whose model is loaded: what is told begins there."""
    async with app(home, MODEL) as core:
        while core.state.engine != "ready":  # noqa: ASYNC110 - no event tells a test of it
            await asyncio.sleep(0.01)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with connect(
            f"{core.url}?name=demo", additional_headers=headers, proxy=None, compression=None
        ) as connection:
            yield connection


def join(first: Frame, second: Frame) -> Frame:
    """Two neighbouring deltas as one, as the app itself merges them."""
    tokens, text = first["tokens"] + second["tokens"], first["text"] + second["text"]
    return second | {"text": text, "tokens": tokens, "first_seq": first.get("first_seq", first["seq"])}


def joined(told: Told) -> Told:
    """With neighbouring deltas as one; replies and metrics, which may come between them, aside."""
    found: Told = []
    place: int | None = None
    for way, frame in told:
        if way == GOT and frame["type"] == DELTA:
            if place is not None:
                frame = join(found.pop(place)[1], frame)
            place = len(found)
        elif way == SENT or frame["type"] not in ("reply", "metrics.step"):
            place = None
        found.append((way, frame))
    return found


# ---- writing


async def record(home: Path) -> Told:
    """The session as it goes now: the direction and the frame."""
    told: Told = []
    generation_id = ""
    async with connected(home) as connection:

        async def take() -> Frame:
            frame: Frame = json.loads(await connection.recv())
            if frame["type"] != "metrics.step" or all(each["type"] != frame["type"] for _, each in told):
                told.append((GOT, frame))
            return frame

        await take()
        for number, (command, wanted) in enumerate(STEPS, 1):
            frame = {"id": number, **command}
            if "generation_id" in command:
                frame["generation_id"] = generation_id
            await connection.send(json.dumps(frame))
            told.append((SENT, frame))
            replied = came = False
            while not (replied and came):
                got = await take()
                replied |= got["type"] == "reply"
                came |= got["type"] == wanted
                if command["type"] == "generate" and got["type"] == "reply":
                    generation_id = got["result"]["generation_id"]
    return joined(told)


def written(told: Told) -> str:
    """As text, one frame a line, numbers that only timing decides cut to what can be read."""

    def short(value: Any) -> Any:
        match value:
            case float():
                return round(value, 3)
            case dict():
                return {name: short(each) for name, each in value.items()}
            case list():
                return [short(each) for each in value]
            case _:
                return value

    return "".join(f"{way}{json.dumps(short(frame), ensure_ascii=False)}\n" for way, frame in told)


# ---- playing

IDS = frozenset(("generation_id", "client_id", "run_id", "id"))
VOLATILE = frozenset(
    (
        "t", "seq", "first_seq", "pid", "epoch", "version", "seed",
        "queue_ms", "prefill_ms", "ttft_ms", "decode_ms", "tokens_per_second", "itl_p50_ms", "itl_p99_ms",
        "pre_ms", "sample_ms", "emit_ms",
        "batch_size", "prefill_tokens", "decode_tokens", "kv_used", "waiting",
    )
)  # fmt: skip
"""Fields whose value timing, chance or the version decides; their type is compared."""


class MismatchError(AssertionError):
    """A frame isn't the one that is told."""


class Reader:
    """Takes frames apart as they come: replies, metrics, and other events with their deltas joined."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._events: deque[tuple[int, Frame]] = deque()
        self._came = 0
        self.replies: dict[object, tuple[int, Frame]] = {}
        """By id, each with its place among all frames."""
        self.metrics: list[Frame] = []

    async def reply(self, number: object) -> tuple[int, Frame]:
        while number not in self.replies:
            await self._take()
        return self.replies[number]

    async def event(self) -> tuple[int, Frame]:
        """The next one, a delta with all that follow it, and its place among all frames."""
        while not self._events or (len(self._events) == 1 and self._events[0][1]["type"] == DELTA):
            await self._take()
        return self._events.popleft()

    async def _take(self) -> None:
        frame = json.loads(await self._connection.recv())
        self._came += 1
        match frame["type"]:
            case "reply":
                self.replies[frame["id"]] = self._came, frame
            case "metrics.step":
                self.metrics.append(frame)
            case "generation.delta" if self._events and self._events[-1][1]["type"] == DELTA:
                self._events.append((self._came, join(self._events.pop()[1], frame)))
            case _:
                self._events.append((self._came, frame))


class Player:
    """Sends what the text says is sent, and holds against it what comes.

    A reply may overtake deltas that are under way; it never comes after what follows from its command.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._reader = Reader(connection)
        self._ids: dict[str, str] = {}
        """The told ones' real ones."""
        self._last_seq = 0

    async def play(self, told: Told) -> None:
        replied = 0
        for way, frame in joined(told):
            kind = frame["type"]
            if way == SENT:
                await self._connection.send(json.dumps(self._real(frame)))
            elif kind == "reply":
                replied, got = await self._reader.reply(frame["id"])
                self._compare(frame, got, kind)
            elif kind != "metrics.step":
                place, got = await self._reader.event()
                self._compare(frame, got, kind)
                if kind not in ("hello", DELTA) and place < replied:
                    raise MismatchError(f"{kind} comes before the reply")
                self._check_seq(got)
        for frame in (frame for _, frame in told if frame["type"] == "metrics.step"):
            self._compare(frame, self._reader.metrics[0], "metrics.step")

    def _real(self, frame: Frame) -> Frame:
        return {name: self._ids.get(str(value), value) for name, value in frame.items()}

    def _check_seq(self, frame: Frame) -> None:
        if "t" not in frame:  # not an event
            return
        first: int = frame["first_seq"] if "first_seq" in frame else frame["seq"]
        if not self._last_seq < first <= frame["seq"]:
            raise MismatchError(f"the numbers don't rise: {frame}")
        self._last_seq = frame["seq"]

    def _compare(self, told: Any, got: Any, place: str) -> None:
        def demand(holds: bool) -> None:
            if not holds:
                raise MismatchError(f"{place}: told {told!r:.300}, came {got!r:.300}")

        match told:
            case dict():
                demand(isinstance(got, dict))
                demand(told.keys() - {"first_seq"} == got.keys() - {"first_seq"})
                for name in told.keys() & got.keys():
                    self._field(name, told[name], got[name], f"{place}.{name}")
            case list():
                demand(isinstance(got, list) and len(got) == len(told))
                for number, (one, other) in enumerate(zip(told, got, strict=True)):
                    self._compare(one, other, f"{place}[{number}]")
            case _:
                demand(told == got and type(told) is type(got))

    def _field(self, name: str, told: Any, got: Any, place: str) -> None:
        if name in IDS and isinstance(told, str):
            if not isinstance(got, str) or self._ids.setdefault(told, got) != got:
                raise MismatchError(f"{place}: {told} stands for {self._ids.get(told)}, came {got!r}")
        elif name in VOLATILE and not isinstance(told, dict | list):
            numbers = (int, float) if isinstance(told, int | float) else (type(told),)
            if not isinstance(got, numbers):
                raise MismatchError(f"{place}: told {told!r}, came {got!r}")
        else:
            self._compare(told, got, place)


def parse(block: str) -> Told:
    """The text's frames."""
    return [(line[:2], json.loads(line[2:])) for line in block.splitlines()]


def told_in_document() -> str:
    match = BLOCK.search(DOCUMENT.read_text(encoding="utf-8"))
    assert match is not None, "PROTOCOL.md tells no session"
    return match[2]


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        text = written(asyncio.run(record(Path(home))))
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(BLOCK.sub(lambda match: match[1] + text + match[3], document), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
