"""What each keyword of JSON Schema is here: an annotation, understood, or refused; and schemas made one.

`flat` takes `$ref` and `allOf` out of a schema by merging what they stand for with what stands beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from engine.errors import TokenglassError

Schema = dict[str, Any]

MAX_SCHEMA_DEPTH: Final = 64
"""Schemas inside each other, references followed."""
MAX_SCHEMAS: Final = 10_000
"""Looked at, with those that references lead to."""

_ANNOTATIONS: Final = frozenset(
    (
        "$anchor",
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "externalDocs",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    )
)
"""They say nothing about which values are valid."""
OF_TYPE: Final = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"),
}
"""Keywords that say something about values of one type only."""
TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
_UNDERSTOOD: Final = frozenset(
    (
        "$ref",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "nullable",
        "oneOf",
        "type",
        *(keyword for keywords in OF_TYPE.values() for keyword in keywords),
    )
)


_POSITIONAL: Final = frozenset(("prefixItems", "additionalItems"))


class Nothing(Exception):  # noqa: N818 - no error: an alternative that falls away
    """No value fulfils this schema."""


class Flattener:
    """Knows the whole schema, which references point into."""

    def __init__(self, root: Schema | bool, path: str) -> None:
        self._root = root
        self._path = path
        self._n_schemas = 0

    def refuse(self, where: str, message: str) -> NoReturn:
        """Raises TokenglassError `invalid_argument`; `where` is below the schema's own path."""
        path = self._path + where
        raise TokenglassError("invalid_argument", f"{path}: {message}", path=path)

    def schema(self, value: object, where: str) -> Schema:
        """A schema as an object without annotations. Raises Nothing for `false`."""
        self._n_schemas += 1
        if self._n_schemas > MAX_SCHEMAS:
            self.refuse("", f"more than {MAX_SCHEMAS} schemas, references followed")
        if value is True:
            return {}
        if value is False:
            raise Nothing
        if not isinstance(value, dict):
            self.refuse(where, "a schema must be an object, true or false")
        for keyword in value:
            if keyword not in _UNDERSTOOD and keyword not in _ANNOTATIONS and not keyword.startswith("x-"):
                self.refuse(f"{where}.{keyword}", f"{keyword} can't be enforced")
        return {keyword: item for keyword, item in value.items() if keyword in _UNDERSTOOD}

    def resolve(self, reference: object, where: str) -> Any:
        """What a `$ref` points to: a JSON pointer as a URI's fragment, so percent signs are undone first.

        Raises TokenglassError where that isn't in this schema.
        """
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            self.refuse(where, "only references into the same schema (#/…) can be followed")
        target: Any = self._root
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name in map(str, range(len(target))):
                target = target[int(name)]
            else:
                self.refuse(where, f"there is no {reference}")
        return target

    def flat(self, value: object, where: str, depth: int) -> Schema:
        """The schema with `$ref`, `allOf` and `nullable` resolved; `anyOf` and `oneOf` may be left.

        Raises Nothing where its parts contradict each other.
        """
        if depth > MAX_SCHEMA_DEPTH:
            self.refuse(where, "references lead back to themselves, or schemas are nested too deeply")
        schema = self.schema(value, where)
        nullable = schema.pop("nullable", False)
        if not isinstance(nullable, bool):
            self.refuse(f"{where}.nullable", "must be true or false")
        if nullable:
            return {"anyOf": [schema, {"type": "null"}]}
        parts: list[tuple[Any, str]] = []
        if "$ref" in schema:
            place = f"{where}.$ref"
            parts.append((self.resolve(schema.pop("$ref"), place), place))
        if "allOf" in schema:
            inner = self.listed(schema.pop("allOf"), f"{where}.allOf")
            parts += [(part, f"{where}.allOf.{i}") for i, part in enumerate(inner)]
        for part, place in parts:
            schema = self.merge(schema, self.flat(part, place, depth + 1), where)
        return schema

    def listed(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            self.refuse(where, "must be a list that isn't empty")
        return value

    # ---- two schemas that must both be fulfilled

    def merge(self, a: Schema, b: Schema, where: str) -> Schema:
        """Raises Nothing where no value fulfils both."""
        if not a or not b:
            return a or b
        if any(_POSITIONAL & set(schema) or isinstance(schema.get("items"), list) for schema in (a, b)):
            a, b = self._in_line(a, b, where)
        merged = dict(a)
        for keyword, value in b.items():
            if keyword not in a or _same(a[keyword], value):
                merged[keyword] = value
            elif combine := _COMBINE.get(keyword):
                try:
                    merged[keyword] = combine(a[keyword], value)
                except (TypeError, AttributeError):
                    self.refuse(where, f"{keyword} isn't of the right type")
            else:
                self.refuse(where, f"two different {keyword} for the same value can't be enforced together")
        if "properties" in a or "properties" in b or "additionalProperties" in merged:
            self._close(a, b, merged, where)
        return merged

    def _in_line(self, a: Schema, b: Schema, where: str) -> tuple[Schema, Schema]:
        """Both with as many items told one by one: what one says of the rest goes for those of the other."""
        first_a, first_b = self._first_items(a, where), self._first_items(b, where)
        n = max(len(first_a), len(first_b))
        return _with_first(a, first_a, n), _with_first(b, first_b, n)

    def _first_items(self, schema: Schema, where: str) -> list[Any]:
        items = schema.get("items")
        first = items if isinstance(items, list) else schema.get("prefixItems", [])
        if not isinstance(first, list):
            self.refuse(f"{where}.prefixItems", "must be a list")
        return first

    def _close(self, a: Schema, b: Schema, merged: Schema, where: str) -> None:
        """What one part says of further properties goes for those that only the other declares."""
        properties = merged.get("properties", {})
        for one, other in ((a, b), (b, a)):
            if (rest := one.get("additionalProperties", True)) is True:
                continue
            if not isinstance(properties, dict):
                self.refuse(f"{where}.properties", "must be an object")
            own, others = one.get("properties", {}), other.get("properties", {})
            for name in [name for name in others if name not in own]:
                if rest is not False:
                    properties = {**properties, name: {"allOf": [properties[name], rest]}}
                elif name in merged.get("required", ()):
                    raise Nothing
                else:
                    properties = {each: value for each, value in properties.items() if each != name}
        if properties or "properties" in merged:
            merged["properties"] = properties


def _with_first(schema: Schema, first: list[Any], n: int) -> Schema:
    """The schema, in words of the present draft, with its first `n` items told one by one."""
    old = isinstance(schema.get("items"), list)  # as drafts before 2020-12 write it
    keyword = "additionalItems" if old else "items"
    told = {"items": schema[keyword]} if keyword in schema else {}
    others = {key: value for key, value in schema.items() if key not in ("items", *_POSITIONAL)}
    return others | told | {"prefixItems": [*first, *[told.get("items", True)] * (n - len(first))]}


def _same(a: object, b: object) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def types(value: object) -> list[str]:
    """Of a `type` keyword: a name or a list of names."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


def _common_types(a: object, b: object) -> list[str]:
    one, other = types(a), types(b)
    found = [name for name in one if name in other or (name == "integer" and "number" in other)]
    found += [name for name in other if name == "integer" and "number" in one and name not in found]
    if not found:
        raise Nothing
    return found


def _common_values(a: Any, b: Any) -> list[Any]:
    found = [value for value in a if any(_same(value, other) for other in b)]
    if not found:
        raise Nothing
    return found


def _both(a: object, b: object) -> Schema:
    return {"allOf": [a, b]}


def _both_rest(a: object, b: object) -> Any:
    if a is False or b is False:
        return False
    return a if b is True else b if a is True else _both(a, b)


def _contradict(_a: object, _b: object) -> NoReturn:
    raise Nothing


def _larger(a: Any, b: Any) -> Any:
    return max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return min(a, b)


_COMBINE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "type": _common_types,
    "enum": _common_values,
    "const": _contradict,
    "properties": lambda a, b: {
        name: _both(a[name], b[name]) if name in a and name in b else a.get(name, b.get(name))
        for name in [*a, *(name for name in b if name not in a)]
    },
    "required": lambda a, b: [*a, *(name for name in b if name not in a)],
    "additionalProperties": _both_rest,
    "items": _both_rest,
    "prefixItems": lambda a, b: [_both_rest(one, other) for one, other in zip(a, b, strict=True)],
    "minProperties": _larger,
    "minItems": _larger,
    "minLength": _larger,
    "minimum": _larger,
    "exclusiveMinimum": _larger,
    "maxProperties": _smaller,
    "maxItems": _smaller,
    "maxLength": _smaller,
    "maximum": _smaller,
    "exclusiveMaximum": _smaller,
    "uniqueItems": lambda a, b: a or b,
}
