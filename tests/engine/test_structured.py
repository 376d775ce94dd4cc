"""Answers under a grammar, a schema or a forced call: a real model in a real worker obeys."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine.commands import Generate
from engine.errors import TokenglassError
from engine.events import GenerationFinished
from engine.formats import HERMES, Format
from engine.gbnf import MAX_GENERATED, parse
from engine.grammar import check
from engine.stacks import Matcher
from engine.structured import answer_grammar, check_wanted
from engine.types import (
    ChatMessage,
    FunctionSpec,
    JsonSchemaSpec,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
    SamplingParams,
    Tool,
    ToolChoice,
)
from tests.conftest import SOAK
from tests.engine.schemas import valid
from tests.engine.test_client import Recorder

WORD = {"type": "string", "maxLength": 12}
NODE = {
    "type": "object",
    "properties": {"v": {"enum": [1, 2]}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["v"],
}
LATITUDE = {"type": "number", "minimum": -90, "maximum": 90}
SCHEMAS: tuple[Any, ...] = (
    {"properties": {"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 120}}},
    {"properties": {"answer": WORD, "sure": {"type": "boolean"}}, "required": ["answer", "sure"]},
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    {"type": "array", "prefixItems": [WORD, {"type": "number"}], "minItems": 2},
    {"enum": ["yes", "no", "maybe", None, 42]},
    {"const": {"fixed": [1, 2, {"a": "b"}]}},
    {"type": "integer", "minimum": -17, "maximum": 4711},
    {"type": "integer", "exclusiveMinimum": 10**9},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": ["string", "null"], "maxLength": 20, "minLength": 3},
    {"type": "string", "pattern": r"^[A-Z]{2}-\d{4}$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "email"},
    {"anyOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"type": "boolean"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            {"properties": {"y": {"type": "integer", "minimum": 5, "maximum": 6}}, "required": ["y"]},
        ]
    },
    {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 3, "$defs": {"a": {"enum": [1, [2]]}}},
    {
        "properties": {
            "title": {"type": "string", "minLength": 1, "maxLength": 40},
            "tags": {"type": "array", "items": WORD, "maxItems": 3},
            "place": {"properties": {"lat": LATITUDE, "lon": LATITUDE}, "required": ["lat"]},
        },
        "required": ["title", "tags", "place"],
    },
    {"properties": {f"p{i}": {"type": "boolean"} for i in range(12)}, "required": ["p3", "p11"]},
    {"properties": {"id": {"const": 1}, "é": WORD}, "required": ["id"], "additionalProperties": False},
)
SEEDS = 10
AT_ONCE = 200
"""As many as may wait."""
MAX_TOKENS = 800
QUESTION = [ChatMessage(role="user", content="Tell me about it in JSON.")]
TOOLS = [
    Tool(
        type="function",
        function=FunctionSpec(
            name="calculator",
            parameters={
                "type": "object",
                "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": 12}},
                "required": ["expression"],
            },
        ),
    ),
    Tool(
        type="function",
        function=FunctionSpec(
            name="clock", parameters={"properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]}
        ),
    ),
]


def schema_format(schema: Any) -> ResponseFormat:
    return ResponseFormat(type="json_schema", json_schema=JsonSchemaSpec(schema=schema))


def command(generation_id: str, seed: int = 1, **wanted: Any) -> Generate:
    arguments: dict[str, Any] = {"messages": QUESTION, "max_tokens": MAX_TOKENS} | wanted
    return Generate(
        generation_id=generation_id,
        received_t=0,
        client_id="c",
        origin="live",
        sampling=SamplingParams(temperature=1.0, seed=seed),
        **arguments,
    )


def named(name: str) -> NamedToolChoice:
    return NamedToolChoice(type="function", function=NamedFunction(name=name))


def answers(tmp_path: Path, model: Path | str, wanted: list[Generate]) -> dict[str, GenerationFinished]:
    """What a worker makes of these commands."""

    async def scenario() -> dict[str, GenerationFinished]:
        worker = Recorder(tmp_path, str(model), n_slots=8, n_ctx=1024, n_threads=1)
        await worker.started()
        for start in range(0, len(wanted), AT_ONCE):
            portion = wanted[start : start + AT_ONCE]
            for each in portion:
                worker.client.send(each)

            def told(n: int = start + len(portion)) -> bool:
                return worker.exit is not None or len(worker.of(GenerationFinished)) == n

            await worker.until(told, timeout_s=600)
            assert worker.exit is None, worker.exit
        await worker.client.stop()
        return {event.generation_id: event for event in worker.of(GenerationFinished)}

    return asyncio.run(scenario())


@pytest.mark.timeout(3600 if SOAK else 900)
def test_every_answer_under_a_schema_parses_and_validates(tmp_path: Path, starter_model: Path) -> None:
    seeds = 50 if SOAK else SEEDS
    wanted = [
        command(f"{i}/{seed}", seed, response_format=schema_format(schema))
        for i, schema in enumerate(SCHEMAS)
        for seed in range(seeds)
    ]
    for name, finished in answers(tmp_path, starter_model, wanted).items():
        schema = SCHEMAS[int(name.partition("/")[0])]
        assert finished.finish_reason == "stop", (schema, finished)
        assert valid(json.loads(finished.text), schema), (schema, finished.text)


def test_json_objects_grammars_and_calls(tmp_path: Path, starter_model: Path) -> None:
    anything = ResponseFormat(type="json_object")
    wanted = [
        *(command(f"object/{i}", i, response_format=anything, max_tokens=200) for i in range(8)),
        *(command(f"grammar/{i}", i, grammar='root ::= ("one" | "two")') for i in range(4)),
        *(command(f"any/{i}", i, tools=TOOLS, tool_choice="required") for i in range(6)),
        *(command(f"named/{i}", i, tools=TOOLS, tool_choice=named("clock")) for i in range(6)),
        command("free", 1, response_format=ResponseFormat(type="text"), max_tokens=5),
        command("raw", 1, messages=None, prompt="Say", grammar='root ::= "x"+ "y"'),
    ]
    endless = {"$ref": "#/$defs/node", "$defs": {"node": NODE}}
    wanted += [
        command(f"node/{i}", i, response_format=schema_format(endless), max_tokens=200) for i in range(8)
    ]
    ended = {"object": 0, "node": 0}
    for name, finished in answers(tmp_path, starter_model, wanted).items():
        kind = name.partition("/")[0]
        assert finished.error is None, finished
        if kind == "object" and finished.finish_reason == "stop":
            ended[kind] += 1
            assert isinstance(json.loads(finished.text), dict)
        elif kind == "node" and finished.finish_reason == "stop":
            ended[kind] += 1
            assert valid(json.loads(finished.text), endless)
        elif kind == "grammar":
            assert (finished.finish_reason, finished.text) in (("stop", "one"), ("stop", "two"))
        elif kind in ("any", "named"):
            assert finished.finish_reason == "tool_calls", finished
            assert finished.text == ""
            assert 1 <= len(finished.tool_calls) <= (8 if kind == "any" else 1)
            for call in finished.tool_calls:
                tool = next(tool for tool in TOOLS if tool.function.name == call.name)
                assert kind == "any" or call.name == "clock"
                assert valid(json.loads(call.arguments), tool.function.parameters)
        elif kind == "raw" and finished.finish_reason == "stop":
            assert finished.text.strip("x") == "y"
    assert all(ended.values())


def test_what_a_model_cannot_be_held_to_ends_that_generation_alone(tmp_path: Path) -> None:
    """The fake model has no grammar; what is wrong in a command that came unchecked is told as its end."""
    wanted = [
        command("bad", response_format=schema_format({"type": "text"})),
        command("nobody", tools=TOOLS, tool_choice=named("nobody")),
        command("good"),
    ]
    found = answers(tmp_path, "fake:tokens=5", wanted)
    assert found["good"].finish_reason == "stop"
    places = {"bad": "response_format.json_schema.schema.type", "nobody": "tool_choice.function.name"}
    for name, path in places.items():
        error = found[name].error
        assert error is not None
        assert (error.code, error.path) == ("invalid_argument", path)


# ---- the grammar of a whole answer


def takes(grammar: str | None, text: str) -> bool:
    assert grammar is not None
    return Matcher(parse(grammar, MAX_GENERATED)).matches(text)


def test_reasoning_may_come_first_or_must_be_closed() -> None:
    wanted = command("g", grammar='root ::= "yes" | rooted\nrooted ::= "root" [^root] # root\n')
    free = answer_grammar(wanted, HERMES, reasoning_open=False)
    assert takes(free, "yes")
    assert takes(free, "rootx")
    assert takes(free, "<think>\nhm < </ </thin k> ok</think>\n\nyes")
    assert not takes(free, "<think>\nhm</think>\n\nno")
    assert not takes(free, "<think>\nhm yes")
    opened = answer_grammar(wanted, HERMES, reasoning_open=True)
    assert takes(opened, "hm</think>\n\nrootx")
    assert takes(opened, "</think>yes")
    assert takes(opened, "a</thi</think>yes")
    assert not takes(opened, "yes")
    assert not takes(opened, "hm</think>\n\nrootr")
    for grammar in (free, opened):
        assert grammar is not None
        check(grammar)
    raw = command("g", messages=None, prompt="p", grammar='root ::= "yes"')
    assert answer_grammar(raw, HERMES, reasoning_open=False) == 'root ::= "yes"'
    assert answer_grammar(wanted, None, reasoning_open=False) == wanted.grammar
    assert answer_grammar(wanted, Format("plain"), reasoning_open=False) == wanted.grammar


def test_names_of_a_grammar_do_not_clash_with_those_of_reasoning() -> None:
    source = 'root ::= reasoning-0 | reasoning-answer\nreasoning-0 ::= "a"\nreasoning-answer ::= "b"'
    grammar = answer_grammar(command("g", grammar=source), HERMES, reasoning_open=True)
    assert takes(grammar, "x</think>b")
    assert not takes(grammar, "x</think>x")


@pytest.mark.parametrize("mark", ("</think>", "aab", "abab", "[/THINK]", "x"))
def test_reasoning_ends_at_the_first_mark(mark: str) -> None:
    form = Format("f", reasoning_open="<", reasoning_close=mark)
    grammar = answer_grammar(command("g", grammar='root ::= "!"'), form, reasoning_open=True)
    dice = random.Random(1)
    for _ in range(300):
        text = "".join(dice.choice([*mark, mark, mark[:-1], "?"]) for _ in range(dice.randrange(9)))
        assert takes(grammar, f"{text}{mark}!") == ((text + mark).find(mark) == len(text)), text


def test_calls_are_written_as_the_format_does() -> None:
    grammar = answer_grammar(command("g", tools=TOOLS, tool_choice="required"), HERMES, reasoning_open=False)
    clock = '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>'
    assert takes(grammar, clock)
    assert takes(grammar, f"<think>\nhm\n</think>\n\n{clock}")
    assert takes(grammar, "\n".join([clock] * 8))
    assert not takes(grammar, "\n".join([clock] * 9))
    assert not takes(grammar, clock.replace("UTC", "GMT"))
    assert not takes(grammar, f"Well. {clock}")
    one = answer_grammar(command("g", tools=TOOLS, tool_choice=named("clock")), HERMES, reasoning_open=False)
    assert takes(one, clock)
    assert not takes(one, f"{clock}\n{clock}")
    assert not takes(one, clock.replace("clock", "calculator"))
    for form in (None, Format("plain")):
        with pytest.raises(TokenglassError, match="can't be enforced"):
            answer_grammar(command("g", tools=TOOLS, tool_choice="required"), form, reasoning_open=False)


def refused(
    grammar: str | None = None,
    response_format: ResponseFormat | None = None,
    tool_choice: ToolChoice = "auto",
    tools: list[Tool] | None = None,
) -> str | None:
    with pytest.raises(TokenglassError) as caught:
        check_wanted(grammar, response_format, tool_choice, tools or [])
    assert caught.value.code == "invalid_argument"
    return caught.value.info.path


def test_what_is_refused_before_the_reply() -> None:
    schema = schema_format({"type": "integer"})
    bad_tool = Tool(type="function", function=FunctionSpec(name="f", parameters={"not": {}}))
    assert refused("root ::= [") == "grammar"
    assert refused('root ::= "a"', schema) == "response_format"
    assert refused(None, schema, "required", TOOLS) == "tool_choice"
    assert refused('root ::= "a"', None, named("clock"), TOOLS) == "tool_choice"
    assert refused(None, schema_format({"not": {}})) == "response_format.json_schema.schema.not"
    assert refused(None, ResponseFormat(type="json_schema")) == "response_format.json_schema"
    assert refused(None, None, "required") == "tool_choice"
    assert refused(None, None, named("nobody"), TOOLS) == "tool_choice.function.name"
    assert refused(None, None, "required", [*TOOLS, bad_tool]) == "tools.2.function.parameters.not"
    check_wanted(None, ResponseFormat(type="text"), "none", [])
    check_wanted('root ::= "a"', ResponseFormat(type="text"), "none", TOOLS)
    check_wanted(None, None, named("clock"), [*TOOLS, bad_tool])
    check_wanted(None, ResponseFormat(type="json_object"), "auto", [bad_tool])
