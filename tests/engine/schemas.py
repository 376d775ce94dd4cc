"""What the tests of JSON Schema share: random schemas, values that fulfil them, and a small validator.

The validator knows the keywords that `engine.schema` does, and shares no code with it. It reads schemas as
the specification does: properties that aren't declared are allowed unless the schema says otherwise.
"""

from __future__ import annotations

import ipaddress
import json
import math
import random
import re
import uuid
from datetime import date, datetime, time
from typing import Any

from hypothesis import strategies as st

Json = Any


def valid(value: Json, schema: Json, root: Json = None) -> bool:
    """Whether a value fulfils a schema."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    return all(
        check(value, schema[keyword], schema, root) for keyword, check in _CHECKS.items() if keyword in schema
    )


def _same(a: Json, b: Json) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _is_type(value: Json, name: str) -> bool:
    if name == "integer":
        return _is_number(value) and float(value).is_integer()
    if name == "number":
        return _is_number(value)
    kinds = {"null": type(None), "boolean": bool, "string": str, "array": list, "object": dict}
    return isinstance(value, kinds[name])


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _reference(value: Json, target: str, _schema: Json, root: Json) -> bool:
    found = root
    for part in target.split("/")[1:]:
        found = found[part]
    return valid(value, found, root)


def _additional(value: Json, rest: Json, schema: Json, root: Json) -> bool:
    others = (
        [name for name in value if name not in schema.get("properties", {})]
        if isinstance(value, dict)
        else []
    )
    return all(valid(value[name], rest, root) for name in others)


def _format(value: Json, name: str, _schema: Json, _root: Json) -> bool:
    if name in ("int32", "int64"):
        bits = int(name[3:]) - 1
        return not _is_number(value) or (float(value).is_integer() and -(2**bits) <= value < 2**bits)
    if not isinstance(value, str):
        return True
    try:
        if name == "date":
            date.fromisoformat(value)
        elif name == "time":
            assert time.fromisoformat(value).tzinfo
        elif name == "date-time":
            assert datetime.fromisoformat(value).tzinfo
            assert value[10] == "T"
        elif name == "uuid":
            assert str(uuid.UUID(value)) == value.lower()
        elif name == "ipv4":
            ipaddress.IPv4Address(value)
        elif name == "ipv6":
            ipaddress.IPv6Address(value)
        elif name == "email":
            assert re.fullmatch(r"[^@\s]+@[^@\s.-][^@\s]*\.[^@\s]+", value)
        elif name == "duration":
            assert re.fullmatch(r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+S)?)?)", value)
        elif name == "uri":
            assert re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#]+[^\s]*", value)
        else:
            assert name == "hostname"
            assert len(value) <= 253
            assert all(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", part) for part in value.split("."))
    except (ValueError, AssertionError):
        return False
    return True


def _at_least(kind: Any) -> Any:
    return lambda value, bound, *_: not isinstance(value, kind) or len(value) >= bound


def _at_most(kind: Any) -> Any:
    return lambda value, bound, *_: not isinstance(value, kind) or len(value) <= bound


def _excludes(value: Json, excluded: bool, bound: Json) -> bool:
    """As draft 4 writes it: the keyword says of the other one's bound whether it is left out."""
    return not excluded or value != bound


_CHECKS: dict[str, Any] = {
    "type": lambda value, names, *_: any(
        _is_type(value, name) for name in ([names] if isinstance(names, str) else names)
    ),
    "$ref": _reference,
    "enum": lambda value, values, *_: any(_same(value, other) for other in values),
    "const": lambda value, other, *_: _same(value, other),
    "anyOf": lambda value, branches, _, root: any(valid(value, branch, root) for branch in branches),
    "oneOf": lambda value, branches, _, root: any(valid(value, branch, root) for branch in branches),
    "allOf": lambda value, branches, _, root: all(valid(value, branch, root) for branch in branches),
    "properties": lambda value, inner, _, root: (
        not isinstance(value, dict)
        or all(valid(value[name], inner[name], root) for name in inner if name in value)
    ),
    "required": lambda value, names, *_: not isinstance(value, dict) or all(name in value for name in names),
    "additionalProperties": _additional,
    "prefixItems": lambda value, inner, _, root: (
        not isinstance(value, list) or all(map(lambda each, one: valid(each, one, root), value, inner))
    ),
    "items": lambda value, inner, schema, root: (
        not isinstance(value, list)
        or all(valid(each, inner, root) for each in value[len(schema.get("prefixItems", ())) :])
    ),
    "minItems": _at_least(list),
    "maxItems": _at_most(list),
    "minLength": _at_least(str),
    "maxLength": _at_most(str),
    "minProperties": _at_least(dict),
    "pattern": lambda value, pattern, *_: not isinstance(value, str) or bool(re.search(pattern, value)),
    "format": _format,
    "minimum": lambda value, bound, *_: not _is_number(value) or value >= bound,
    "maximum": lambda value, bound, *_: not _is_number(value) or value <= bound,
    "exclusiveMinimum": lambda value, bound, schema, _: (
        not _is_number(value)
        or (_excludes(value, bound, schema.get("minimum")) if isinstance(bound, bool) else value > bound)
    ),
    "exclusiveMaximum": lambda value, bound, schema, _: (
        not _is_number(value)
        or (_excludes(value, bound, schema.get("maximum")) if isinstance(bound, bool) else value < bound)
    ),
}

# ---- random schemas, and values for them

PATTERNS = {
    r"^[a-z]{2,5}-\d+$": "ab-12",
    r"^(foo|bar)*x?$": "foobarx",
    r"\d{3}": "a123b",
    r"^\w+\s\S+$": "ab c",
    r"^[^a-z]*$": 'A"\\é',
    r"^a.c$|^\(.\)$": "(\t)",
    r"^#[0-9a-fA-F]{6}$": "#00ffAA",
    r'^["\\\n]+$': '"\\\n',
    r"^(?:[A-Z][a-z]{0,9} ){1,3}\W?$": "Ab C ",
}
FORMATS = {
    "date": "2024-02-29",
    "time": "23:59:59Z",
    "date-time": "1999-12-31T00:00:00.5+01:30",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "ipv4": "127.0.0.1",
    "ipv6": "2001:db8:0:0:0:0:0:1",
    "email": "a.b@example.org",
    "hostname": "www.example.org",
    "uri": "https://example.org:80/a/b?c=d#e",
    "duration": "P1Y2M3D",
}
NAMES = ("a", "ab", "b", "name", "naïve", 'quo"te', "", "x y")

_bounds = st.integers(-3000, 3000) | st.sampled_from((0, 1, -1, 10**15, -(10**15), 99, 100, 2**53))
_fractions = st.decimals(-120, 120, places=3).map(float)


def _strings() -> st.SearchStrategy[Json]:
    sized = st.tuples(st.integers(0, 5), st.sampled_from((0, 1, 7, 63, 64, 65, 130, 300))).map(
        lambda pair: {"minLength": pair[0], "maxLength": pair[0] + pair[1]}
    )
    special = st.sampled_from(
        ({}, *({"pattern": each} for each in PATTERNS), *({"format": each} for each in FORMATS))
    )
    return (sized | special | st.just({"minLength": 2})).map(lambda rest: {"type": "string", **rest})


def _bounded(values: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[Json]:
    def schema(drawn: tuple[Any, Any, bool, bool, bool, bool]) -> Json:
        a, b, has_low, has_high, low_out, high_out = drawn
        result: dict[str, Any] = {"type": name}
        if has_low:
            result["exclusiveMinimum" if low_out else "minimum"] = min(a, b)
        if has_high:
            result["exclusiveMaximum" if high_out else "maximum"] = max(a, b)
        return result

    flags = [st.booleans()] * 4
    return st.tuples(values, values, *flags).map(schema)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from(("", "a", 'b"', "é\n", 1.5)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
_leaves = st.one_of(
    _strings(),
    _bounded(_bounds, "integer"),
    _bounded(_bounds | _fractions, "number"),
    st.sampled_from(({"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}, True, {})),
    st.lists(_values, min_size=1, max_size=5).map(lambda values: {"enum": values}),
    _values.map(lambda value: {"const": value}),
    st.sampled_from(
        ({"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}, {"title": "x", "$ref": "#/$defs/leaf"})
    ),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Json]) -> Json:
    properties = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=5))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = [name for name in properties if draw(st.booleans())]
    rest = draw(st.none() | st.booleans() | inner)
    return schema if rest is None else {**schema, "additionalProperties": rest}


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Json]) -> Json:
    schema: dict[str, Any] = {"type": "array"}
    first = draw(st.lists(inner, max_size=3))
    if first:
        schema["prefixItems"] = first
    if not first or draw(st.booleans()):
        schema["items"] = draw(inner)
    if draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, len(first) if "items" not in schema else 4))
    if draw(st.booleans()):
        schema["maxItems"] = schema.get("minItems", 0) + draw(st.integers(0, 4))
    return schema


def _larger(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
        st.lists(_objects(inner), min_size=1, max_size=2).map(lambda parts: {"allOf": parts}),
        st.tuples(_objects(inner), st.lists(_objects(inner), min_size=1, max_size=2)).map(
            lambda pair: {**pair[0], "oneOf": pair[1]}
        ),
    )


_TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
    },
    "required": ["value"],
}
schemas = st.recursive(_leaves, _larger, max_leaves=8).map(
    lambda schema: (
        {**schema, "$defs": {"leaf": {"enum": ["l", 1]}, "tree": _TREE}}
        if isinstance(schema, dict)
        else {"anyOf": [schema], "$defs": {}}
    )
)


class NoValueError(Exception):
    """None is found easily."""


def value_for(schema: Json, root: Json, dice: random.Random, depth: int = 0) -> Json:
    """A random value that fulfils the schema, as far as that is easy to find; else NoValueError."""
    if depth > 12:
        raise NoValueError
    value = _attempt(schema, root, dice, depth)
    if not valid(value, schema, root):
        raise NoValueError
    return value


def _attempt(schema: Json, root: Json, dice: random.Random, depth: int) -> Json:
    if schema is True or schema == {}:
        return dice.choice((None, True, 7, -1.5, "té\u2028xt", [], {}, [1, [{"a": "\\"}]]))
    if schema is False:
        raise NoValueError
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return value_for(target, root, dice, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            value = value_for(dice.choice(schema[keyword]), root, dice, depth + 1)
            return _in_order(value, [schema, *(schema[keyword] if keyword == "allOf" else [])])
    if "enum" in schema:
        return dice.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema["type"] if isinstance(schema["type"], str) else dice.choice(schema["type"])
    return _SAMPLES[kind](schema, root, dice, depth)


def _in_order(value: Json, parts: list[Json]) -> Json:
    """Properties in the order in which schemas that must all be fulfilled declare them."""
    if not isinstance(value, dict):
        return value
    declared = [name for part in parts if isinstance(part, dict) for name in part.get("properties", {})]
    return {name: value[name] for name in dict.fromkeys((*declared, *value)) if name in value}


def _sample_string(schema: Json, _root: Json, dice: random.Random, _depth: int) -> str:
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    if "format" in schema:
        return FORMATS[schema["format"]]
    low = schema.get("minLength", 0)
    length = dice.randint(low, schema.get("maxLength", low + 9))
    return "".join(dice.choice('aé"\\\n\U0001f600/\u007f') for _ in range(length))


def _sample_number(schema: Json, _root: Json, dice: random.Random, _depth: int) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = -50 if high is None else high - dice.choice((0, 1, 70))
    if high is None:
        high = low + dice.choice((0, 1, 70))
    if schema["type"] == "number" and dice.random() < 0.5:
        return round(dice.uniform(low, high), 3)
    first, last = math.ceil(low), max(math.ceil(low), math.floor(high))
    return dice.choice((first, last, dice.randint(first, last)))


def _sample_array(schema: Json, root: Json, dice: random.Random, depth: int) -> list[Json]:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", not first)
    low = schema.get("minItems", 0)
    length = dice.randint(low, schema.get("maxItems", low + 3))
    inner = [*first, *[rest] * length][:length]
    return [value_for(each, root, dice, depth + 1) for each in inner]


def _sample_object(schema: Json, root: Json, dice: random.Random, depth: int) -> Json:
    value = {}
    for name, inner in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or dice.random() < 0.5:
            value[name] = value_for(inner, root, dice, depth + 1)
    rest = schema.get("additionalProperties", False)
    for name in ("n", "nam", "names", "é", "aba", "other") if rest is not False else ():
        if dice.random() < 0.3:
            value[name] = value_for(rest, root, dice, depth + 1)
    return value


_SAMPLES: dict[str, Any] = {
    "null": lambda *_: None,
    "boolean": lambda _schema, _root, dice, _depth: dice.random() < 0.5,
    "string": _sample_string,
    "integer": _sample_number,
    "number": _sample_number,
    "array": _sample_array,
    "object": _sample_object,
}


def written(value: Json, schema: Json, dice: random.Random) -> str:
    """JSON text in one of the usual forms; listed values must be in the plainest."""
    if any(f'"{word}": {start}' in json.dumps(schema) for word in ("const", "enum") for start in "[{"):
        return json.dumps(value, ensure_ascii=False)
    separators = dice.choice(((", ", ": "), (",", ":")))
    return json.dumps(value, ensure_ascii=False, separators=separators, indent=dice.choice((None, None, 2)))
