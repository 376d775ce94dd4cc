"""Reading one call, from behind the marker that opens it up to the one that closes it.

Each reader fills a `Call`, leaves `Reader.at` at the end of what is certainly part of it, and answers False
for what turns out to be no call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.formats.call import Call
from engine.formats.elements import arguments_of_elements
from engine.formats.format import CallSyntax
from engine.formats.literals import parse_arguments
from engine.formats.markers import NO, Marker, MarkerSet
from engine.formats.objects import ObjectReader
from engine.formats.reader import Reader, Reading
from engine.formats.values import CDATA, NAME, dump_json, is_object, is_text, unwrapped, value_of

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
        self._object = ObjectReader(syntax.name_key, syntax.arguments_key)
        self._close = MarkerSet([(syntax.close, "close")])
        self._after = MarkerSet([(syntax.section_close, "close"), (syntax.open, "open")])
        self._name_close = MarkerSet([(syntax.name_close, "close")])
        self._inner = MarkerSet([(syntax.parameter_open, "parameter"), (syntax.close, "close")])
        self._value_open = MarkerSet([(syntax.value_open, "open")])
        self._value_close = Marker(syntax.value_close) if syntax.value_close.strip() else None
        self._element_ends = MarkerSet([(syntax.parameter_open + "/", "element"), (syntax.close, "close")])

    def read(self, reader: Reader, call: Call) -> Reading[bool]:
        """One call, as far as it has come; without what closes it."""
        kind = self._syntax.kind
        if kind == "json":
            return (yield from self._object.read(reader, call))
        name = yield from self._header(reader)
        if name is None:
            return False
        call.name = name
        if kind == "name_json":
            return (yield from read_arguments(reader, call))
        if kind == "parameters":
            return (yield from self._parameters(reader, call))
        if kind == "elements":
            return (yield from self._elements(reader, call))
        return (yield from self._pythonic(reader, call))

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

    # ---- arguments between markers

    def _parameters(self, reader: Reader, call: Call) -> Reading[bool]:
        properties = self._schemas.get(call.name, {}).get("properties")
        if not isinstance(properties, Mapping):
            properties = {}
        while True:
            _, end, role = yield from reader.peek(self._inner)
            if end == NO or role == "close":
                # no more arguments, or something that is no argument: what closes the call is checked next
                call.end_fields()
                return True
            reader.at = start = end
            at, end, _ = yield from reader.find(self._value_open, start + MAX_HEADER)
            found = _NAME_AND_REST.fullmatch(reader.text[start:at])
            if end == NO or found is None:
                return False
            reader.at = end
            name = found.group(1)
            told = _TYPE.search(found.group(2))
            is_string = told.group(1) in ("true", "string") if told else None
            if not (yield from self._parameter(reader, call, name, properties.get(name), is_string)):
                return False

    def _parameter(
        self, reader: Reader, call: Call, name: str, schema: Any, is_string: bool | None
    ) -> Reading[bool]:
        """One value: a text as it comes, anything else when it is whole."""
        new = call.key(name)
        if new and is_text(schema, is_string):
            call.write('"')
            value = yield from self._value(reader, call.write_text)
            call.write('"')
            return value is not None
        value = yield from self._value(reader)
        if new and value is not None:
            call.write(dump_json(value_of(value, schema, is_string)))
        return value is not None

    def _value(self, reader: Reader, tell: Callable[[str], None] | None = None) -> Reading[str | None]:
        """The text of a value, told as it comes; None where it doesn't end.

        What closes it counts only before another one or the call's end.
        """
        assert self._value_close is not None
        start, n_told = reader.at, 0
        while True:
            found = self._value_close.search(reader.text, reader.at, reader.ended)
            reader.at = found[0] if found else len(reader.text)
            if found is None or found[1] < 0:
                if tell is not None and (piece := self._certain(reader, start)[n_told:]):
                    tell(piece)
                    n_told += len(piece)
                if not (yield from reader.more()) and found is None:
                    return None
                continue
            reader.at = found[1]
            _, end, _ = yield from reader.peek(self._inner)
            if end != NO or not self._close or reader.ended:
                break
            reader.at = found[0] + 1
        reader.at = found[1]
        before, after = self._white
        text = reader.text[start : found[0]].removeprefix(before).removesuffix(after)
        if tell is not None:
            tell(unwrapped(text)[n_told:])
        return text

    def _certain(self, reader: Reader, start: int) -> str:
        """What is certainly part of the value's text, whatever comes."""
        before, after = self._white
        text = reader.text[start : max(start, reader.at - len(after))]
        if len(text) < len(before) + len(CDATA):
            return ""
        text = text.removeprefix(before)
        return "" if text.startswith(CDATA) else text

    @property
    def _white(self) -> tuple[str, str]:
        """White space that the syntax itself puts before and after values."""
        before, after = self._syntax.value_open, self._syntax.value_close
        return before[len(before.rstrip()) :], after[: len(after) - len(after.lstrip())]

    def _elements(self, reader: Reader, call: Call) -> Reading[bool]:
        """Each argument is told when its own tag has closed."""
        schema, mark = self._schemas.get(call.name), self._syntax.parameter_open
        first_tag = re.compile(re.escape(mark) + r"([^<>\s/]+)>")
        begin = reader.at
        while True:
            at, end, role = yield from reader.find(self._element_ends)
            if role == "element":
                reader.at = end
                _, stop, _ = yield from reader.find(_TAG_END, end + MAX_HEADER)
                reader.at = end
                tag = first_tag.search(reader.text, begin, at)
                if tag is None or reader.text[at:stop] != f"{mark}/{tag.group(1)}>":
                    continue
                reader.at = at = stop
            fields = arguments_of_elements(reader.text[begin:at], mark, schema)
            if fields:
                call.fields(fields)
                begin = at
            if role != "element":
                reader.at = begin if end == NO else at  # where nothing closes it, the rest is no argument
                call.end_fields()
                return fields is not None

    # ---- arguments as code

    def _pythonic(self, reader: Reader, call: Call) -> Reading[bool]:
        """`name(a=1)` or `name{a:1}`. Each argument is told when the comma behind it has come."""
        opening, colon = ("(", "=") if self._syntax.kind == "python" else ("{", ":")
        mark = self._syntax.string_open
        if (yield from reader.next()) != opening:
            return False
        begin = reader.at + 1

        def take(end: int) -> bool:
            nonlocal begin
            try:
                fields = parse_arguments(reader.text[begin:end], mark, colon)
                call.fields(fields)
            except ValueError:
                return False
            begin = end + 1 if fields else begin
            return bool(fields)

        if not (yield from _brackets(reader, mark, take)):
            return False
        end = reader.at - 1
        if reader.text[begin:end].strip() and not take(end):
            return False
        call.end_fields()
        return True


def read_arguments(reader: Reader, call: Call) -> Reading[bool]:
    """Arguments that are a JSON object, told as it comes."""
    if (yield from reader.next()) != "{" or not (yield from reader.json_value(call.write)):
        return False
    return is_object(call.arguments)


_TAG_END = MarkerSet([(">", "end")])
_MARKS = re.compile(r"[\"'()\[\]{},]")


def _brackets(reader: Reader, string_mark: str, comma: Callable[[int], bool]) -> Reading[bool]:
    """Move over what the bracket at `reader.at` encloses, with regard to strings.

    `comma` gets the place of each comma between its parts, until it says no: that was no such comma.
    """
    depth = 0
    special = re.compile(re.escape(string_mark) + r"|[()\[\]{},]") if string_mark else _MARKS
    splits = True
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
        elif mark == ",":
            splits = splits and (depth > 1 or comma(found.start()))
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
