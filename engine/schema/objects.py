"""JSON's containers as GBNF rules, and values of any kind.

White space is bounded everywhere, so that no model can lose itself in it: a space after a colon; a space or a
new line with up to 20 spaces after an opening bracket or a comma and before a closing bracket.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from engine.schema import numbers
from engine.schema.patterns import UNESCAPED, string_character
from engine.schema.writer import Writer, character_class, literal

_COLON: Final = '":" " "?'


@dataclass(frozen=True, slots=True)
class Member:
    """A property that an object may or must have."""

    name: str
    rule: str
    required: bool


class Objects:
    """Writes rules for objects and arrays."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._any: str | None = None

    @property
    def _space(self) -> str:
        return self._writer.rule("ws", '(" " | "\\n" " "{0,20})?')

    def any_value(self) -> str:
        """Any JSON value."""
        if self._any is None:
            self._any = self._writer.reserve("value")
            others = (self.any_object(), self.array([], self._any, 0, None), self.any_string())
            words = ('"true"', '"false"', '"null"')
            self._writer.define(self._any, " | ".join((*others, self.any_number(), *words)))
        return self._any

    def any_object(self) -> str:
        return self.object([], self.any_value())

    def any_string(self) -> str:
        return self._writer.rule("string", f'"\\"" {string_character(self._writer)}* "\\""')

    def any_number(self) -> str:
        return self._writer.rule("number", numbers.NUMBER)

    def object(self, members: list[Member], others: str | None, taken: Iterable[str] = ()) -> str:
        """Properties in this order, optional ones perhaps left out, then any others with values like this.

        `taken`: names that the others don't have, members or not.
        """
        write, space = self._writer.rule, self._space
        following: str | None = None
        """What may come next after a comma, or as the first; None: nothing can."""
        tail = '""'
        """What may come after a property."""
        optional = True
        if others is not None:
            key = self._other_key([*taken, *(member.name for member in members)])
            other = write("other", f"{key} {_COLON} {others}")
            more = write("more", f'"," {space} {other}')
            following, tail = write("others", f"{other} {more}*"), write("tail", f"{more}*")
        for member in reversed(members):
            key = literal(json.dumps(member.name, ensure_ascii=False))
            own = f"{key} {_COLON} {member.rule}" + ("" if tail == '""' else f" {tail}")
            later = None if member.required else following
            following = write("next", own if later is None else f"{own} | {later}")
            optional = optional and not member.required
            tail = write("tail", f'"," {space} {following}' + (' | ""' if optional else ""))
        if following is None:
            inner = ""
        elif optional:
            inner = " " + write("members", f'{following} {space} | ""')
        else:
            inner = f" {following} {space}"
        return write("object", f'"{{" {space}{inner} "}}"')

    def array(self, items: list[str], others: str | None, low: int, high: int | None) -> str:
        """Items in this order, then others; from `low` to `high` of them all together (None: any number)."""
        write, space = self._writer.rule, self._space
        n = len(items)
        rest = ""
        """What may come after the last of `items`, each with its comma."""
        if others is not None and (high is None or high > n):
            more = write("more", f'"," {space} {others}')
            n_listed = max(n, 1)  # the first of all has no comma
            fewest, most = max(low - n_listed, 0), None if high is None else high - n_listed
            rest = _times(more, fewest, most)
            if not items:
                first = f"{others} {rest} {space}"
                inner = first if low else write("items", f'{first} | ""')
                return write("array", f'"[" {space} {inner} "]"')
        for i in range(n - 1, 0, -1):
            one = f'"," {space} {items[i]} {rest}'.rstrip()
            rest = write("rest", one if i < low else f'{one} | ""')
        if not items:
            return write("array", f'"[" {space} "]"')
        first = f"{items[0]} {rest} {space}"
        inner = first if low else write("items", f'{first} | ""')
        return write("array", f'"[" {space} {inner} "]"')

    def _other_key(self, names: list[str]) -> str:
        """Any key but these, in JSON. It has no escapes, so that none of these can be written otherwise."""
        plain = character_class(UNESCAPED)
        nexts: dict[str, set[str]] = {}
        """What follows each beginning of a name."""
        for name in filter(_is_plain, names):
            for length in range(len(name) + 1):
                nexts.setdefault(name[:length], set()).update(name[length : length + 1])
        rules: dict[str, str] = {}
        for start in sorted(nexts, key=len, reverse=True):
            alternatives = [f"{literal(each)} {rules[start + each]}" for each in sorted(nexts[start])]
            if differing := _without(sorted(nexts[start])):
                alternatives.append(f"{differing} {plain}*")
            if start not in names:
                alternatives.append('""')
            rules[start] = self._writer.rule("key", " | ".join(alternatives))
        return self._writer.rule("key", f'"\\"" {rules.get("", f"{plain}*")} "\\""')


def _times(item: str, low: int, high: int | None) -> str:
    if high is None:
        return f"{item}{{{low},}}" if low else f"{item}*"
    return f"{item}{{{low},{high}}}" if high else ""


def _is_plain(name: str) -> bool:
    """Whether JSON may write the name without escapes."""
    return all(any(low <= ord(character) <= high for low, high in UNESCAPED) for character in name)


def _without(characters: list[str]) -> str:
    """A class of what may stand in a string as it is, but none of these."""
    ranges = []
    for low, high in UNESCAPED:
        for character in sorted(characters):
            code = ord(character)
            if low <= code <= high:
                if low < code:
                    ranges.append((low, code - 1))
                low = code + 1
        if low <= high:
            ranges.append((low, high))
    return character_class(tuple(ranges)) if ranges else ""
