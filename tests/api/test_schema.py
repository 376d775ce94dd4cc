"""The documents of the contract: made from the types, kept in the repository, and true of real traffic."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api import frames, protocol, schema
from api.client import LiveClient
from api.client.typed import parse_frame
from engine.errors import TokenglassError
from tests.api.harness import HI, CommandError, Frame, Wire, app, client, run

DOCUMENT: dict[str, Any] = json.loads(schema.schema())
ASYNCAPI: dict[str, Any] = json.loads(schema.asyncapi())
CHECKED = frozenset(
    (
        "$ref", "anyOf", "oneOf", "const", "enum", "type", "properties", "required", "additionalProperties",
        "items", "minItems", "maxItems", "minLength", "maxLength", "pattern",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    )
)  # fmt: skip
NOTES = frozenset(("title", "description", "default", "discriminator", "format"))
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


class MismatchError(Exception):
    """A value isn't what the document says."""


def check(value: Any, rule: Any, document: dict[str, Any], place: str = "") -> None:
    """A JSON Schema validator for what the document uses, and stricter: no field that it doesn't know.

    Raises MismatchError; AssertionError for a keyword that it can't check.
    """
    if rule is True:
        return
    assert rule.keys() <= CHECKED | NOTES, rule.keys() - CHECKED - NOTES

    def demand(holds: bool) -> None:
        if not holds:
            raise MismatchError(f"{place}: {value!r:.200} against {json.dumps(rule)[:300]}")

    if "$ref" in rule:
        target: Any = document
        for part in rule["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        check(value, target, document, place)
    for union in ("anyOf", "oneOf"):
        if union in rule:
            demand(any(matches(value, each, document) for each in rule[union]))
    if "const" in rule:
        demand(value == rule["const"])
    if "enum" in rule:
        demand(value in rule["enum"])
    kind = rule.get("type")
    if kind in ("integer", "number"):
        demand(isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool))
        demand(value >= rule.get("minimum", value) and value <= rule.get("maximum", value))
        demand("exclusiveMinimum" not in rule or value > rule["exclusiveMinimum"])
        demand("exclusiveMaximum" not in rule or value < rule["exclusiveMaximum"])
    elif kind is not None:
        demand(isinstance(value, TYPES[kind]))
    if isinstance(value, str):
        demand(rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value)))
        demand("pattern" not in rule or re.search(rule["pattern"], value) is not None)
    if isinstance(value, list):
        demand(rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)))
        for number, item in enumerate(value):
            check(item, rule.get("items", True), document, f"{place}[{number}]")
    if isinstance(value, dict):
        demand(set(rule.get("required", ())) <= value.keys())
    if isinstance(value, dict) and kind == "object":
        known = rule.get("properties", {})
        others = rule.get("additionalProperties", not known)
        for name, item in value.items():
            if name not in known:
                demand(others is not False)
            check(item, known.get(name, others), document, f"{place}.{name}")


def matches(value: Any, rule: Any, document: dict[str, Any]) -> bool:
    try:
        check(value, rule, document)
    except MismatchError:
        return False
    return True


def definition(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def check_frame(frame: Frame, command: str | None = None) -> None:
    """Against exactly the type that it should have, so that a mismatch says where."""
    if frame["type"] == "reply":
        if frame["ok"]:
            assert command is not None
            check(frame["result"], DOCUMENT["results"][command], DOCUMENT, command)
        check(frame, definition("Reply"), DOCUMENT)
        return
    for model in (*schema.EVENTS, *schema.FRAMES):
        if frame["type"] in schema.names(model):
            check(frame, definition(model.__name__), DOCUMENT, frame["type"])
            check(frame, definition("Frame"), DOCUMENT, frame["type"])
            return
    raise AssertionError(f"no type for {frame['type']}")


def test_the_files_are_current() -> None:
    for file, text in schema.files():
        assert file.read_bytes() == text, f"{file.name}: run `python -m api.schema`"


def test_every_reference_leads_somewhere() -> None:
    for document in (DOCUMENT, ASYNCAPI):
        references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
        assert len(references) > 100
        for reference in set(references):
            target: Any = document
            for part in reference.split("/"):
                target = target[part]


def test_everything_is_in_it() -> None:
    commands = {name for model in schema.COMMANDS for name in schema.names(model)}
    assert commands == set(frames.RESULTS) == set(DOCUMENT["results"])
    messages = ASYNCAPI["channels"]["live"]["messages"]
    assert messages.keys() == ASYNCAPI["components"]["messages"].keys()
    for name in commands:
        assert f"command.{name}" in messages
        assert ASYNCAPI["operations"][f"command.{name}"]["action"] == "receive"
        assert f"reply.{name}" in messages
    events = {name for model in schema.EVENTS for name in schema.names(model)}
    assert {"hello", "reset", "snapshot", "error", *events} <= messages.keys()


class Session:
    """Sends commands and holds every frame of both directions against the document."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.sent: dict[int, str] = {}

    async def __call__(self, command: str, **arguments: Any) -> Frame:
        check({"id": 1, "type": command, **arguments}, definition("Command"), DOCUMENT, command)
        number = await self.wire.send(command, **arguments)
        self.sent[number] = command
        reply = await self.wire.reply(number)
        if not reply["ok"] and command == "step":  # the last one isn't done yet
            await asyncio.sleep(0.01)
            return await self(command, **arguments)
        if not reply["ok"]:
            raise CommandError(reply["error"])
        return dict(reply["result"])

    def check_all(self) -> set[str]:
        """Answers what was seen: events by name, and results as `→ command`."""
        for frame in self.wire.frames:
            check_frame(frame, self.sent.get(frame.get("id") or 0))
        events = {frame["type"] for frame in self.wire.frames if frame["type"] != "reply"}
        replies = {frame["id"] for frame in self.wire.frames if frame["type"] == "reply" and frame["ok"]}
        return events | {f"→ {command}" for number, command in self.sent.items() if number in replies}


CALL = '<tool_call>{"name": "clock", "arguments": {}}</tool_call> and so on'


async def every_command(do: Session, home: Path, seed: int) -> None:
    """A session that uses all of the contract, in places at random, with a model that echoes."""
    chance = random.Random(seed)
    await do("subscribe", events=["*"])
    conversation = (await do("conversations.create", title="t"))["conversation"]["id"]
    told = await do("generate", conversation_id=conversation, content="hello", logprobs=chance.randint(0, 3))
    await do.wire.finished(told["generation_id"])
    await do("generate", conversation_id=conversation, parent=told["user_message_id"])
    await do("conversations.rename", conversation_id=conversation, title="other")
    await do("conversations.get", conversation_id=conversation)
    await do("conversations.search", query="hello")
    file = (await do("conversations.export", conversation_id=conversation))["data"]
    await do("conversations.export", conversation_id=conversation, format="markdown")
    await do("conversations.import", data=file)
    await do("conversations.list")
    await do("conversations.delete", conversation_id=conversation)
    await do("conversations.restore", conversation_id=conversation)
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    asked = (await do("generate", messages=[{"role": "user", "content": CALL}], tools=tools))["generation_id"]
    (call,) = (await do.wire.finished(asked))["tool_calls"]
    following = await do("tool_result", generation_id=asked, call_id=call["id"], content="12:30")
    await do.wire.finished(following["generation_id"])
    long = [{"role": "user", "content": "over and " * 600}]
    generation = (await do("generate", messages=long, tools=tools, logprobs=2))["generation_id"]
    hands: list[tuple[str, dict[str, Any]]] = [
        ("step", {"tokens": 3}),
        ("inject", {"text": "over and"}),
        ("step", {}),
        ("update", {"sampling": {"temperature": 0.5, "logit_bias": {"7": -1}}}),
        ("rewind", {"tokens": 1}),
        ("fork", {"at_token": 1}),
        ("snapshot", {}),
    ]
    await do("pause", generation_id=generation)
    await do("step", generation_id=generation, tokens=2)
    for command, arguments in hands[:3] + chance.sample(hands[3:], 4):
        given = arguments if command == "snapshot" else arguments | {"generation_id": generation}
        await do(command, **given)
    await do("resume", generation_id=generation)
    await do("cancel", generation_id=generation)
    await do.wire.finished(generation)
    await do("ping")
    await do("publish", series="temperature", value=21.5, unit="°C")
    await do("settings.get")
    await do("settings.set", settings={"theme": "dark"})
    await do("models.list")
    await do("models.estimate", model="starter")
    await do("models.add", path=str(Path(__file__).parents[2] / "assets/starter/starter.gguf"))
    await do("unsubscribe")
    await do("subscribe", since=0, run_id="another")
    await do("embed", input=["one", "two"])
    with pytest.raises(CommandError):
        await do("window.raise")
    await do("models.load", model="starter", force=True)
    await do.wire.event("model.loaded", model="starter")
    await do("models.unload", force=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_real_traffic(tmp_path: Path, seed: int) -> None:
    async def body() -> None:
        async with app(tmp_path, "fake:echo=1,delay_ms=4") as core, client(core, "?name=schema") as wire:
            do = Session(wire)
            await every_command(do, tmp_path, seed)
            async with client(core, "?name=another"):
                pass
            await wire.until(lambda f: f["type"] == "client.disconnected" and f["name"] == "another")
            await wire.event("metrics.system")
            seen = do.check_all()
            untested = {f"→ {name}" for name in frames.RESULTS} - seen
            assert untested == {"→ window.raise"}
            assert {"hello", "reset", "snapshot", "generation.rewound", "generation.forked"} <= seen
            assert {
                "generation.tool_call.delta",
                "engine.exited",
                "client.disconnected",
                "metrics.custom",
                "metrics.system",
                "conversation.message",
            } <= seen

    run(body(), 120)


def test_typed_events_are_these(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            app(tmp_path, "fake:tokens=5") as core,
            client(core) as other,
            LiveClient.discover(tmp_path) as follower,
        ):
            await follower.request("subscribe", run_id="another")
            await other.finished(await other.generate())
            kinds = []
            async for event in follower.typed_events():
                kinds.append(event.type)
                if event.type == "generation.finished":
                    assert event.usage.completion_tokens == 5
                    break
            assert kinds[:2] == ["reset", "snapshot"]
            typed = [event async for event in follower.generate(messages=HI).typed()]
            assert typed[-1].type == "generation.finished"

    run(body())


def test_what_is_wrong_does_not_pass() -> None:
    """The validator of this test can say no."""
    token = {"id": 1, "index": 0, "text": "a", "t": 1.0}
    good = {
        "type": "generation.delta",
        "seq": 5,
        "t": 1.0,
        "generation_id": "g",
        "text": "a",
        "tokens": [token],
    }
    check_frame(good)
    for change in (
        {"seq": None},
        {"seq": "5"},
        {"text": 5},
        {"tokens": [token | {"id": "x"}]},
        {"tokens": [token | {"unknown": 1}]},
        {"unknown": 1},
        {"first_seq": 0},
    ):
        with pytest.raises(MismatchError):
            check_frame(good | change)
    with pytest.raises(MismatchError):
        check_frame({name: value for name, value in good.items() if name != "seq"})


LOOSE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = sorted({field for model in schema.COMMANDS for field in model.model_fields} - {"type"})


@given(
    st.sampled_from(sorted(frames.RESULTS)),
    st.dictionaries(st.sampled_from(ARGUMENTS), LOOSE, max_size=4),
)
def test_what_the_app_takes_the_document_allows(command: str, arguments: dict[str, Any]) -> None:
    """Any command that is accepted fits the document (nulls aside: they stand for what is left out)."""
    frame = {"type": command, **arguments}
    try:
        protocol.parse_command(frame)
    except TokenglassError:
        return
    given = {name: value for name, value in frame.items() if value is not None}
    check(given, definition("Command"), DOCUMENT)


def test_frames_of_a_newer_app_are_read() -> None:
    """Fields that this client doesn't know are ignored; an event that it doesn't know is an error to see."""
    frame = {"type": "reset", "seq": 3, "reason": "run", "new": 1}
    assert isinstance(parse_frame(frame), frames.Reset)
    with pytest.raises(ValidationError):
        parse_frame({"type": "brand.new", "seq": 1, "t": 1.0})
