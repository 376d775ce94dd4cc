"""Calls written as one JSON object, with the name and the arguments among its fields."""

from __future__ import annotations

import re
from typing import Any

from engine.formats.call import Call
from engine.formats.reader import Reader, Reading
from engine.formats.values import NAME, is_object, parse_lenient

_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")
_REST_OF_WORD = re.compile(r"[^\s,}\]]*")


class ObjectReader:
    """Reads such objects. Fields of the usual other names are understood too; the first of each counts."""

    def __init__(self, name_key: str, arguments_key: str) -> None:
        """Without a `name_key` the only key is the name, and the arguments are its value."""
        self._name_keys = {name_key, *_NAME_KEYS} if name_key else set()
        self._argument_keys = {arguments_key, *_ARGUMENT_KEYS}

    def read(self, reader: Reader, call: Call) -> Reading[bool]:
        """The object that comes next; False for one that is no call."""
        start = reader.at
        if (yield from reader.next()) != "{" or not (yield from self._fields(reader, call)):
            return False
        if not call.name:
            return False
        if not call.arguments:
            call.write("{}")
        try:
            parse_lenient(reader.text[start : reader.at])
        except (ValueError, RecursionError):
            return False
        return is_object(call.arguments)

    def _fields(self, reader: Reader, call: Call, within: bool = False) -> Reading[bool]:
        """From the brace that opens an object to the one that closes it. What is amiss shows at the end."""
        reader.at += 1
        while True:
            character = yield from reader.next()
            if character == "}":
                reader.at += 1
                return True
            if character == ",":
                reader.at += 1
                continue
            key = yield from _string(reader)
            if key is None or (yield from reader.next()) != ":":
                return False
            reader.at += 1
            character = yield from reader.next()
            if character == "{" and key == "function" and self._name_keys and not within:
                whole = yield from self._fields(reader, call, within=True)
            else:
                whole = yield from self._value(reader, call, key, character)
            if not whole:
                return False

    def _value(self, reader: Reader, call: Call, key: str, character: str) -> Reading[bool]:
        if not self._name_keys:
            if call.name or not NAME.fullmatch(key) or character != "{":
                return False
            call.name = key
            return (yield from reader.json_value(call.write))
        if key in self._name_keys and not call.name:
            name = yield from _string(reader)
            call.name = name if name is not None and NAME.fullmatch(name) else ""
            return bool(call.name)
        if key in self._argument_keys and not call.arguments:
            return (yield from _arguments(reader, call, character))
        if character in ("{", "[", '"'):
            return (yield from reader.json_value())
        return (yield from _word(reader))


def _arguments(reader: Reader, call: Call, character: str) -> Reading[bool]:
    """An object, which is told as it comes; some models write its text into a string."""
    if character == "{":
        return (yield from reader.json_value(call.write))
    text = yield from _string(reader)
    if text is None:
        return False
    inner = Reader()
    inner.text, inner.ended = text.strip(), True
    if not inner.text.startswith("{"):
        return False
    for _ in inner.json_value(call.write):
        pass
    return inner.at == len(inner.text)


def _string(reader: Reader) -> Reading[str | None]:
    """The string that comes next; None: there is none."""
    if (yield from reader.next()) != '"':
        return None
    start = reader.at
    if not (yield from reader.json_value()):
        return None
    try:
        text: Any = parse_lenient(reader.text[start : reader.at])
        text.encode()
    except ValueError:
        return None
    return str(text)


def _word(reader: Reader) -> Reading[bool]:
    """Move over a number, or true, false or null."""
    while True:
        found = _REST_OF_WORD.match(reader.text, reader.at)
        reader.at = found.end() if found else reader.at
        if reader.at < len(reader.text):
            return True
        if not (yield from reader.more()):
            return False
