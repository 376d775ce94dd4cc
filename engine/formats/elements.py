"""Arguments written as nested tags: `<city>Oslo</city><days><item>1</item></days>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.formats.values import value_of

MAX_DEPTH = 64
_ITEM = "item"


def arguments_of_elements(text: str, mark: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The object that the tags describe; each begins with `mark`. None: they don't match."""
    tag = re.compile(re.escape(mark) + r"(/?)([^<>\s/]+)>")
    stack: list[tuple[str, list[tuple[str, Any]], int]] = [("", [], 0)]
    schemas: list[Any] = [schema]
    for found in tag.finditer(text):
        closes, name = found.groups()
        if not closes:
            if len(stack) > MAX_DEPTH:
                return None
            if not stack[-1][1] and text[stack[-1][2] : found.start()].strip():
                continue  # a tag within a text
            stack.append((name, [], found.end()))
            schemas.append(_inner(schemas[-1], name))
            continue
        if len(stack) < 2 or stack[-1][0] != name:
            continue
        _, fields, start = stack.pop()
        inner = schemas.pop()
        value: Any
        if not fields:
            value = value_of(text[start : found.start()], inner)
        elif all(key == _ITEM for key, _ in fields):
            value = [item for _, item in fields]
        else:
            value = dict(fields)
        stack[-1][1].append((name, value))
    return dict(stack[0][1]) if len(stack) == 1 else None


def _inner(schema: Any, name: str) -> Any:
    if not isinstance(schema, Mapping):
        return None
    if name == _ITEM and "items" in schema:
        return schema["items"]
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None
