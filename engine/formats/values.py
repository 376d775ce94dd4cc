"""What models write for a call's name and arguments, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from engine.formats.literals import parse_literal

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CDATA = "<![CDATA["


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder: Any = json.JSONDecoder(parse_constant=_refuse)
_lenient: Any = json.JSONDecoder(parse_constant=_refuse, strict=False)


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, and RecursionError for what is nested too deep."""
    return _decoder.decode(text)


def parse_lenient(text: str) -> Any:
    """The same, where strings may have line breaks: models leave them as they are."""
    return _lenient.decode(text)


def is_object(text: str) -> bool:
    """Whether it is the text of a JSON object."""
    try:
        return isinstance(parse_json(text), dict)
    except (ValueError, RecursionError):
        return False


def dump_json(value: Any) -> str:
    """Raises ValueError for infinite numbers, which JSON can't say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can say it
        text = json.dumps(value, allow_nan=False)
    return text


def unwrapped(text: str) -> str:
    """The text of a string that may be marked as such, so that it may hold tags."""
    return text[len(CDATA) : -3] if text.startswith(CDATA) and text.endswith("]]>") else text


def value_of(text: str, schema: Any, is_string: bool | None = None) -> Any:
    """The value of an argument that is written without quotes; `is_string` where the syntax tells."""
    types = {"string"} if is_string else _types(schema)
    if (inner := unwrapped(text)) != text:
        return inner
    if is_string is False:
        types.discard("string")
    if types == {"string"}:
        return text
    try:
        value = _parsed(text)
        dump_json(value)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return text if "string" in types or not types else value
    return value if "string" not in types or _type_of(value) in types else text


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return parse_literal(text)


def is_text(schema: Any, is_string: bool | None = None) -> bool:
    """Whether a value that is written without quotes is a string, whatever it says."""
    return is_string or (is_string is None and _types(schema) == {"string"})


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
