"""Values as Python writes them, and as some models do: either kind of quotes, `True` or `true`, bare keys."""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 64

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\s\"'{}\[\](),:=]+")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n)|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_CLOSES = {"[": "]", "(": ")", "{": "}"}


class LiteralSyntaxError(ValueError):
    """The text is no value."""


def parse_literal(text: str, string_mark: str = "") -> Any:
    """The value of the whole text. `string_mark` stands around strings, beside the usual quotes."""
    parser = _Parser(text, string_mark)
    try:
        value = parser.value(0)
        parser.space()
    except (ValueError, OverflowError) as error:
        raise LiteralSyntaxError(str(error)) from None
    if parser.at != len(text):
        raise LiteralSyntaxError("there is more than a value")
    return value


def parse_arguments(text: str, string_mark: str = "", colon: str = "=") -> dict[str, Any]:
    """What stands between the brackets of a call, all by name: `a=1, b='x'`. Also without commas."""
    parser = _Parser(text, string_mark)
    try:
        arguments = parser.fields(colon, "", 0)
    except (ValueError, OverflowError) as error:
        raise LiteralSyntaxError(str(error)) from None
    return arguments


class _Parser:
    def __init__(self, text: str, string_mark: str) -> None:
        self.text = text
        self.at = 0
        self._mark = string_mark

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise LiteralSyntaxError("nested too deep")
        self.space()
        if self._mark and self.text.startswith(self._mark, self.at):
            return self._marked()
        character = self.text[self.at : self.at + 1]
        if character in ('"', "'"):
            return self._string(character)
        if character == "{":
            self.at += 1
            return self.fields(":", "}", depth)
        if character in ("[", "("):
            self.at += 1
            return self._items(_CLOSES[character], depth)
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            digits = found.group().replace("_", "")
            return float(digits) if any(c in digits for c in ".eE") else int(digits)
        word = self._word()
        if word not in _CONSTANTS:
            raise LiteralSyntaxError(f"{word[:20]!r} is no value")
        return _CONSTANTS[word]

    def fields(self, colon: str, close: str, depth: int) -> dict[str, Any]:
        """Pairs up to `close`, or up to the text's end where that is empty."""
        fields: dict[str, Any] = {}
        while True:
            self.space()
            if self._closed(close):
                return fields
            key = self._key(depth)
            self.space()
            if not self.text.startswith(colon, self.at):
                raise LiteralSyntaxError(f"{colon!r} is missing after a name")
            self.at += len(colon)
            fields[key] = self.value(depth + 1)
            self._comma(close)

    def _items(self, close: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while True:
            self.space()
            if self._closed(close):
                return items
            items.append(self.value(depth + 1))
            self._comma(close)

    def _closed(self, close: str) -> bool:
        if not close:
            return self.at == len(self.text)
        if self.text.startswith(close, self.at):
            self.at += 1
            return True
        return False

    def _comma(self, close: str) -> None:
        self.space()
        if self.text.startswith(",", self.at):
            self.at += 1
        elif self.at < len(self.text) and not (close and self.text.startswith(close, self.at)):
            raise LiteralSyntaxError("a comma is missing")
        elif close and self.at == len(self.text):
            raise LiteralSyntaxError(f"{close!r} is missing")

    def _key(self, depth: int) -> str:
        if self.text[self.at : self.at + 1] in ('"', "'") or (
            self._mark and self.text.startswith(self._mark, self.at)
        ):
            key = self.value(depth)
            assert isinstance(key, str)
            return key
        return self._word()

    def _word(self) -> str:
        found = _WORD.match(self.text, self.at)
        if found is None:
            raise LiteralSyntaxError("a value is missing")
        self.at = found.end()
        return found.group()

    def _marked(self) -> str:
        start = self.at + len(self._mark)
        end = self.text.find(self._mark, start)
        if end < 0:
            raise LiteralSyntaxError("a string doesn't end")
        self.at = end + len(self._mark)
        return self.text[start:end]

    def _string(self, quote: str) -> str:
        start = at = self.at + 1
        while True:
            at = next((i for i in range(at, len(self.text)) if self.text[i] in (quote, "\\")), -1)
            if at < 0:
                raise LiteralSyntaxError("a string doesn't end")
            if self.text[at] == quote:
                break
            at += 2
        self.at = at + 1
        return _ESCAPE.sub(_unescaped, self.text[start:at])


def _unescaped(found: re.Match[str]) -> str:
    code = found.group(1) or found.group(2) or found.group(3)
    if code:
        return chr(int(code, 16))
    if found.group(4):
        return ""
    return _ESCAPED.get(found.group(5), found.group(5) if found.group(5) in "\\'\"/" else found.group())
