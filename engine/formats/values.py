"""What models write for a call's name and arguments, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from engine.formats.literals import LiteralSyntaxError, parse_literal

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SPACE = re.compile(r"[ \t\n\r]*")
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")


class Body(NamedTuple):
    """A call without its id; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder: Any = json.JSONDecoder(parse_constant=_refuse)
_lenient: Any = json.JSONDecoder(parse_constant=_refuse, strict=False)


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, and RecursionError for what is nested too deep."""
    return _decoder.decode(text)


def _valid(text: str) -> str:
    """The text, or the same value in valid JSON: models leave line breaks in strings as they are.

    Raises ValueError, RecursionError.
    """
    try:
        parse_json(text)
    except ValueError:
        return dump_json(_lenient.decode(text))
    return text


def dump_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can say it
        text = json.dumps(value)
    return text


def body_of_object(text: str, name_key: str = "name", arguments_key: str = "arguments") -> Body | None:
    """The call that a JSON object describes, or None. Arguments stay as they are written.

    Fields of the usual other names are understood too; without a `name_key` the only key is the name.
    """
    try:
        text = _valid(text)
        data = parse_json(text)
        if isinstance(data, dict) and isinstance(data.get("function"), dict):
            text = _value_as_written(text, "function")
            data = data["function"]
        if not isinstance(data, dict):
            return None
        if not name_key:
            if len(data) != 1:
                return None
            name = key = next(iter(data))
        else:
            name = next((data[k] for k in (name_key, *_NAME_KEYS) if k in data), None)
            key = next((k for k in (arguments_key, *_ARGUMENT_KEYS) if k in data), None)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return None
        arguments = arguments_as_written(_value_as_written(text, key) if key is not None else "{}")
    except (ValueError, RecursionError):
        return None
    return Body(name, arguments)


def arguments_as_written(text: str) -> str:
    """The text of a JSON object; some models write it as a string. Raises ValueError, RecursionError."""
    text = _valid(text)
    value = parse_json(text)
    if isinstance(value, str):
        value.encode()
        text = _valid(value)
        value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return text


def _value_as_written(text: str, wanted: str) -> str:
    """The JSON text of one field (the last of that name) of a valid JSON object that has it."""
    place = _skip(text, text.index("{") + 1)
    written = ""
    while text[place] != "}":
        key, place = _decoder.raw_decode(text, place)
        start = _skip(text, _skip(text, place) + 1)  # past the colon
        _, end = _decoder.raw_decode(text, start)
        if key == wanted:
            written = text[start:end]
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return written


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def value_of(text: str, schema: Any, is_string: bool | None = None) -> Any:
    """The value of an argument that is written without quotes; `is_string` where the syntax tells."""
    types = {"string"} if is_string else _types(schema)
    if text.startswith("<![CDATA[") and text.endswith("]]>"):
        return text[9:-3]  # so that a string may hold tags
    if is_string is False:
        types.discard("string")
    if types == {"string"}:
        return text
    try:
        value = parse_json(text)
    except (ValueError, RecursionError):
        try:
            value = parse_literal(text)
        except LiteralSyntaxError:
            return text
    if isinstance(value, str):
        return text if "string" in types or not types else value
    return value if "string" not in types or _type_of(value) in types else text


def _types(schema: Any) -> set[str]:
    """JSON types that a schema allows, as far as it is plain to see; empty: any."""
    if not isinstance(schema, Mapping):
        return set()
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {item for item in kind if isinstance(item, str)}
    if isinstance(schema.get("enum"), list):
        return {_type_of(value) for value in schema["enum"]}
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return set().union(*(_types(part) for part in schema[key]))
    return set()


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"
