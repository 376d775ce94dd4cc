"""Structured output through the app: what can't be enforced is the reply, what can is obeyed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import CommandError, Wire, app, client, run

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"properties": {"zone": {"enum": ["UTC"]}}, "required": ["zone"]},
    },
}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


async def refused(wire: Wire, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(CommandError) as caught:
        await wire.generate(**arguments)
    assert caught.value.code == "invalid_argument"
    return caught.value.error["path"], caught.value.error["message"]


def test_what_cannot_be_enforced_is_refused_in_the_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            path, message = await refused(wire, grammar='root ::= "a"\nx ::= [')
            assert (path, "line 2, column 7" in message) == ("grammar", True)
            assert (await refused(wire, grammar="root ::= " + "(" * 30_000))[0] == "grammar"
            path, message = await refused(wire, response_format=schema_format({"items": {"not": {}}}))
            assert path == "response_format.json_schema.schema.items.not"
            assert "not can't be enforced" in message
            assert (await refused(wire, response_format={"type": "json_schema"}))[
                0
            ] == "response_format.json_schema"
            assert (await refused(wire, response_format={"type": "yaml"}))[0] == "response_format.type"
            assert (await refused(wire, tool_choice="required"))[0] == "tool_choice"
            unknown = {"type": "function", "function": {"name": "x"}}
            assert (await refused(wire, tool_choice=unknown, tools=[TOOL]))[0] == "tool_choice.function.name"
            both = {"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}
            assert (await refused(wire, **both))[0] == "response_format"
            assert wire.events("generation.queued") == []
            # none of it is left reserved, and the text format forces nothing
            generation = await wire.generate(response_format={"type": "text"}, tool_choice="none")
            assert (await wire.finished(generation))["finish_reason"] == "stop"

    run(scenario())


def test_a_grammar_that_takes_long_to_check_holds_nobody_up(tmp_path: Path) -> None:
    """Checked beside the loop: a ping sent after it is answered before it."""
    large = "root ::= " + " | ".join(f'"{n:x}" [a-z]{{0,20}} "."' for n in range(900))

    async def scenario() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            messages = [{"role": "user", "content": "hi"}]
            slow = await wire.send("generate", messages=messages, grammar=large)
            quick = await wire.send("ping")
            first = await wire.until(lambda frame: frame["type"] == "reply")
            assert first["id"] == quick
            await wire.reply(slow)

    run(scenario())


def test_answers_obey(tmp_path: Path, starter_model: Path) -> None:
    async def scenario() -> None:
        async with app(tmp_path, str(starter_model)) as core, client(core) as wire:
            schema = await wire.generate("Where is it warm?", response_format=schema_format(SCHEMA))
            grammar = await wire.generate("Yes or no?", grammar='root ::= "Yes." | "No."')
            call = await wire.generate("What time is it?", tools=[TOOL], tool_choice="required")
            answer = json.loads((await wire.finished(schema))["text"])
            assert list(answer) == ["city", "warm"]
            assert isinstance(answer["warm"], bool)
            assert (await wire.finished(grammar))["text"] in ("Yes.", "No.")
            finished = await wire.finished(call)
            assert finished["finish_reason"] == "tool_calls"
            assert all(json.loads(each["arguments"]) == {"zone": "UTC"} for each in finished["tool_calls"])

    run(scenario())


def chat(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", "--home", str(home), "chat", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_chat_takes_a_schema_or_a_grammar_from_a_file(tmp_path: Path, starter_model: Path) -> None:
    schema, grammar, broken = (tmp_path / name for name in ("schema.json", "answer.gbnf", "broken.json"))
    schema.write_text(json.dumps(SCHEMA))
    grammar.write_text('root ::= "four" | "five"')
    broken.write_text("{")
    model = ("--model", str(starter_model), "--max-tokens", "200")
    done = chat(tmp_path, "Where?", "--json-schema", str(schema), *model)
    assert (done.returncode, set(json.loads(done.stdout))) == (0, {"city", "warm"}), done.stderr
    done = chat(tmp_path, "2+2?", "--grammar", str(grammar), *model)
    assert (done.returncode, done.stdout.strip() in ("four", "five")) == (0, True), done.stderr
    for option, file, reason in (
        ("--json-schema", broken, "isn't JSON"),
        ("--grammar", tmp_path / "none", "can't be read: No such file"),
    ):
        done = chat(tmp_path, "x", option, str(file), *model)
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert chat(tmp_path, "x", "--grammar", "a", "--json-schema", "b").returncode == 2
