"""Reading one call, from behind the marker that opens it up to the one that closes it.

Each reader leaves `Reader.at` at the end of what is certainly part of the call, and answers None for what
turns out to be no call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.formats.elements import arguments_of_elements
from engine.formats.format import CallSyntax
from engine.formats.literals import LiteralSyntaxError, parse_arguments, parse_literal
from engine.formats.markers import NO, Marker, MarkerSet
from engine.formats.reader import Reader, Reading
from engine.formats.values import (
    NAME,
    Body,
    arguments_as_written,
    body_of_object,
    dump_json,
    value_of,
)

MAX_HEADER = 256
"""Characters of a name with what stands around it."""
_NAME_AND_REST = re.compile(r"\s*\"?([A-Za-z0-9_.-]{1,64})(.*)", re.DOTALL)
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9_.-]*")
_TYPE = re.compile(r"\b(?:string|type)=\"?(\w+)")


class BodyReader:
    """Reads the calls of one syntax. `schemas` has the JSON Schema of each tool's arguments."""

    def __init__(self, syntax: CallSyntax, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._syntax = syntax
        self._schemas = schemas
        self._close = MarkerSet([(syntax.close, "close")])
        self._after = MarkerSet([(syntax.section_close, "close"), (syntax.open, "open")])
        self._name_close = MarkerSet([(syntax.name_close, "close")])
        self._inner = MarkerSet([(syntax.parameter_open, "parameter"), (syntax.close, "close")])
        self._value_open = MarkerSet([(syntax.value_open, "open")])
        self._value_close = Marker(syntax.value_close) if syntax.value_close.strip() else None

    def read(self, reader: Reader) -> Reading[Body | None]:
        """One call with what closes it, as far as it has come."""
        kind = self._syntax.kind
        if kind == "json":
            body = yield from self._json(reader)
        elif kind == "name_json":
            body = yield from self._name_json(reader)
        elif kind == "parameters":
            body = yield from self._parameters(reader)
        elif kind == "elements":
            body = yield from self._elements(reader)
        else:
            body = yield from self._pythonic(reader)
        return body

    def close(self, reader: Reader) -> Reading[bool]:
        """Pass what closes a call, or stay before what closes all or opens the next; False elsewhere."""
        if not self._close:
            return True
        start, end, _ = yield from reader.peek(self._close)
        if end == NO:
            # the text's end may cut the marker short
            rest = reader.text[start:]
            if not (reader.ended and (not rest or self._syntax.close.strip().startswith(rest))):
                _, after, _ = yield from reader.peek(self._after)
                return after != NO
            end = len(reader.text)
        reader.at = end
        return True

    def _json(self, reader: Reader) -> Reading[Body | None]:
        start = reader.at
        if not (yield from _object(reader)):
            return None
        syntax = self._syntax
        return body_of_object(reader.text[start : reader.at], syntax.name_key, syntax.arguments_key)

    def _header(self, reader: Reader) -> Reading[str | None]:
        """The name, with `reader.at` after what closes it."""
        yield from reader.space()
        start = reader.at
        if not self._name_close:
            while True:
                found = _NAME_CHARACTERS.match(reader.text, start)
                end = found.end() if found else start
                if end < len(reader.text) or not (yield from reader.more()):
                    break
            name = reader.text[start:end]
            reader.at = end
            return name if NAME.fullmatch(name) else None
        at, end, _ = yield from reader.find(self._name_close, start + MAX_HEADER)
        header = reader.text[start:at]
        if end == NO:
            return None
        mark = self._syntax.name_open.strip()
        if mark and mark in header:
            header = header.split(mark)[-1]
        found = _NAME_AND_REST.fullmatch(header)
        if found is None:
            return None
        reader.at = end
        return found.group(1)

    def _name_json(self, reader: Reader) -> Reading[Body | None]:
        name = yield from self._header(reader)
        if name is None or not (yield from reader.space()):
            return None
        start = reader.at
        if not (yield from _object(reader)):
            return None
        try:
            return Body(name, arguments_as_written(reader.text[start : reader.at]))
        except (ValueError, RecursionError):
            return None

    def _parameters(self, reader: Reader) -> Reading[Body | None]:
        name = yield from self._header(reader)
        if name is None:
            return None
        properties = self._schemas.get(name, {}).get("properties")
        if not isinstance(properties, Mapping):
            properties = {}
        arguments: dict[str, Any] = {}
        while True:
            _, end, role = yield from reader.peek(self._inner)
            if end == NO or role == "close":
                # no more arguments, or something that is no argument: what closes the call is checked next
                return Body(name, dump_json(arguments))
            reader.at = start = end
            at, end, _ = yield from reader.find(self._value_open, start + MAX_HEADER)
            found = _NAME_AND_REST.fullmatch(reader.text[start:at])
            if end == NO or found is None:
                return None
            reader.at = end
            value = yield from self._value(reader)
            if value is None:
                return None
            told = _TYPE.search(found.group(2))
            is_string = told.group(1) in ("true", "string") if told else None
            arguments[found.group(1)] = value_of(value, properties.get(found.group(1)), is_string)

    def _value(self, reader: Reader) -> Reading[str | None]:
        """The text of a value. What closes it counts only before another one or the call's end."""
        assert self._value_close is not None
        syntax, start = self._syntax, reader.at
        while True:
            found = self._value_close.search(reader.text, reader.at, reader.ended)
            if found is None:
                reader.at = len(reader.text)
                if not (yield from reader.more()):
                    return None
                continue
            reader.at = found[0]
            if found[1] < 0:
                yield
                continue
            reader.at = found[1]
            _, end, _ = yield from reader.peek(self._inner)
            if end != NO or not self._close or reader.ended:
                break
            reader.at = found[0] + 1
        text = reader.text[start : found[0]]
        reader.at = found[1]
        for literal, at_start in ((syntax.value_open, True), (syntax.value_close, False)):
            # white space that the syntax itself puts around values
            white = literal[len(literal.rstrip()) :] if at_start else literal[: -len(literal.lstrip())]
            if white and at_start:
                text = text.removeprefix(white)
            elif white:
                text = text.removesuffix(white)
        return text

    def _elements(self, reader: Reader) -> Reading[Body | None]:
        name = yield from self._header(reader)
        if name is None:
            return None
        start = reader.at
        at, _, _ = yield from reader.find(self._close)
        value = arguments_of_elements(
            reader.text[start:at], self._syntax.parameter_open, self._schemas.get(name)
        )
        return None if value is None else Body(name, dump_json(value))

    def _pythonic(self, reader: Reader) -> Reading[Body | None]:
        """`name(a=1)` or `name{a:1}`."""
        opening = "(" if self._syntax.kind == "python" else "{"
        name = yield from self._header(reader)
        if name is None or not (yield from reader.space()):
            return None
        if reader.text[reader.at] != opening:
            return None
        start = reader.at
        if not (yield from _brackets(reader, self._syntax.string_open)):
            return None
        text = reader.text[start : reader.at]
        try:
            if opening == "(":
                return Body(name, dump_json(parse_arguments(text[1:-1])))
            return Body(name, dump_json(parse_literal(text, self._syntax.string_open)))
        except LiteralSyntaxError:
            return None


def _object(reader: Reader) -> Reading[bool]:
    """Move over a JSON object."""
    if not (yield from reader.space()) or reader.text[reader.at] != "{":
        return False
    return (yield from reader.json_value())


_BRACKET_OR_QUOTE = re.compile(r"[\"'()\[\]{}]")


def _brackets(reader: Reader, string_mark: str) -> Reading[bool]:
    """Move over what the bracket at `reader.at` encloses, with regard to strings."""
    depth = 0
    special = re.compile(re.escape(string_mark) + r"|[()\[\]{}]") if string_mark else _BRACKET_OR_QUOTE
    while True:
        found = special.search(reader.text, reader.at)
        if found is None:
            keep = len(string_mark) - 1 if string_mark else 0
            reader.at = max(reader.at, len(reader.text) - keep)
            if not (yield from reader.more()):
                return False
            continue
        mark = found.group()
        reader.at = found.end()
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
            if depth == 0:
                return True
        elif not (yield from _string(reader, mark)):
            return False


def _string(reader: Reader, mark: str) -> Reading[bool]:
    """Move over the rest of a string that `mark` has opened."""
    while True:
        if len(mark) > 1:
            at = reader.text.find(mark, reader.at)
            if at >= 0:
                reader.at = at + len(mark)
                return True
            reader.at = max(reader.at, len(reader.text) - len(mark) + 1)
            if not (yield from reader.more()):
                return False
            continue
        while reader.at < len(reader.text):
            character = reader.text[reader.at]
            if character == "\\":
                if reader.at + 1 == len(reader.text):
                    break
                reader.at += 1
            reader.at += 1
            if character == mark:
                return True
        if not (yield from reader.more()):
            return False
