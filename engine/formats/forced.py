"""Calls that a model has to make: a GBNF expression for one call or several, as the format writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.formats.format import CallSyntax, Format
from engine.types import Tool

SchemaRule = Callable[[str, Mapping[str, Any]], str]
"""From a hint for its name and a JSON Schema to an expression for values of the schema, in JSON."""

_DEFINITIONS = ("$defs", "definitions")


def call_grammar(
    form: Format,
    tools: Sequence[Tool],
    schema_rule: SchemaRule,
    *,
    most: int | None = None,
) -> str | None:
    """One call or several of these tools, at most so many, and nothing else.

    None: calls in this format can't be forced.
    """
    if form.calls is None:
        return _message(form, tools, schema_rule)
    return _section(form.calls, tools, schema_rule, most)


def _message(form: Format, tools: Sequence[Tool], schema_rule: SchemaRule) -> str | None:
    """One call; its message ends the generation."""
    header = form.header
    if header is None or not header.call_header:
        return None
    before, after = header.call_header.split("{name}")
    alternatives = [
        f"{_literal(before + tool.function.name + after)} {_arguments(tool, schema_rule)}" for tool in tools
    ]
    return _one_of(alternatives)


def _section(
    calls: CallSyntax, tools: Sequence[Tool], schema_rule: SchemaRule, most: int | None
) -> str | None:
    alternatives: list[str] = []
    for tool in tools:
        call = _call(calls, tool, schema_rule)
        if call is None:
            return None
        alternatives.append(call)
    call = _one_of(alternatives)
    times = "*" if most is None else f"{{0,{most - 1}}}"
    parts = [_literal(calls.section_open), call, f"( {_sequence(_literal(calls.separator), call)} ){times}"]
    if most == 1 or (not calls.section_open and not calls.open):
        parts = [_literal(calls.section_open), call]  # bare objects have nothing between them
    return _sequence(*parts, _literal(calls.section_close))


def _call(calls: CallSyntax, tool: Tool, schema_rule: SchemaRule) -> str | None:
    name = tool.function.name
    if calls.kind == "json":
        if not calls.before_name:
            return None
        before = calls.open + calls.before_name + json.dumps(name) + calls.before_arguments
        return _sequence(
            _literal(before), _arguments(tool, schema_rule), _literal(calls.after_arguments + calls.close)
        )
    if calls.kind == "name_json":
        return _sequence(
            _literal(calls.open),
            calls.id_rule if calls.name_open else "",
            _literal(calls.name_open + name + calls.id_open),
            "" if calls.name_open else calls.id_rule,
            _literal(calls.name_close),
            _arguments(tool, schema_rule),
            _literal(calls.close),
        )
    if calls.kind == "parameters":
        return _sequence(
            _literal(calls.open + name + calls.id_open),
            calls.id_rule,
            _literal(calls.name_close),
            *_parameters(calls, tool, schema_rule),
            _literal(calls.close),
        )
    return None


def _arguments(tool: Tool, schema_rule: SchemaRule) -> str:
    schema = tool.function.parameters or {"type": "object", "properties": {}}
    return schema_rule(tool.function.name, schema)


def _parameters(calls: CallSyntax, tool: Tool, schema_rule: SchemaRule) -> list[str]:
    """Each parameter in the order of the schema; those that aren't required may be left out."""
    schema = tool.function.parameters
    properties = schema.get("properties")
    required = schema.get("required") or ()
    shared = {key: schema[key] for key in _DEFINITIONS if key in schema}
    written: list[str] = []
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        inner = inner if isinstance(inner, Mapping) else {}
        is_text = inner.get("type") == "string"
        kind = calls.string_open if is_text else calls.other_open
        choices = inner.get("enum")
        if is_text and isinstance(choices, list):
            value = _one_of([_literal(str(choice)) for choice in choices])
        elif is_text:
            value = _until(calls.value_close.strip())
        else:
            value = schema_rule(f"{tool.function.name}-{name}", {**shared, **inner})
        parameter = _sequence(
            _literal(calls.parameter_open + name + kind + calls.value_open),
            value,
            _literal(calls.value_close),
        )
        written.append(parameter if name in required else f"( {parameter} )?")
    return written


def _until(marker: str) -> str:
    """Any text in which the marker's first two characters don't follow each other."""
    first, second = (_in_class(character) for character in marker[:2].ljust(2))
    return f"( [^{first}] | [{first}] [^{first}{second}] )*"


def _one_of(alternatives: Sequence[str]) -> str:
    return f"( {' | '.join(alternatives)} )"


def _sequence(*parts: str) -> str:
    return " ".join(part for part in parts if part and part != '""')


def _literal(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _in_class(character: str) -> str:
    return "\\" + character if character in "[]\\^-" else _ESCAPES.get(character, character)
