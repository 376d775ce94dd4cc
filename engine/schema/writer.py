"""Writes a GBNF grammar rule by rule; equal rules are written once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from engine.gbnf import MAX_REPETITION, Ranges

BLOCK: Final = 64
MAX_REPEATED: Final = 100_000
"""Of one character."""
_MAX_FACTORED: Final = 40


class Writer:
    """Rules under construction. An expression is GBNF text that may stand in a sequence as it is."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """By body."""

    def rule(self, hint: str, body: str) -> str:
        """The name of a rule with this body: an expression that a repetition may follow."""
        if (known := self._names.get(body)) is None:
            known = self._names[body] = self.reserve(hint)
            self._bodies[known] = body
        return known

    def reserve(self, hint: str) -> str:
        """A name for a rule that is defined later, so that it may refer to itself."""
        word = re.sub(r"[^a-zA-Z0-9]+", "-", hint)[:30].strip("-") or "rule"
        # a name that ends in a number can't meet another word's
        name = f"{word}-{len(self._bodies)}"
        self._bodies[name] = '""'
        return name

    def define(self, name: str, body: str) -> None:
        self._bodies[name] = body

    def text(self, root: str) -> str:
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._bodies.items())])

    def choice(self, hint: str, expressions: Iterable[str]) -> str:
        """One of these, as an expression that a repetition may follow."""
        distinct = list(dict.fromkeys(expressions))
        if len(distinct) == 1 and distinct[0] in self._bodies:
            return distinct[0]
        return self.rule(hint, " | ".join(distinct))

    def repeat(self, item: str, low: int, high: int | None) -> str:
        """From `low` to `high` times (None: any number) one character: a rule's name or a class.

        Long repetitions are made of blocks, so that few rules are needed and few ways stand open at a time.
        """
        if high is None:
            return f"{self._exactly(item, low)} {item}*".lstrip()
        return f"{self._exactly(item, low)} {self._at_most(item, high - low)}".strip() or '""'

    def _block(self, item: str) -> str:
        return self.rule("block", f"{item}{{{BLOCK}}}")

    def _exactly(self, item: str, times: int) -> str:
        blocks, rest = divmod(times, BLOCK)
        assert blocks <= MAX_REPETITION
        parts = [f"{self._block(item)}{{{blocks}}}"] if blocks else []
        if rest:
            parts.append(f"{item}{{{rest}}}")
        return " ".join(parts)

    def _at_most(self, item: str, times: int) -> str:
        if times <= BLOCK:
            return f"{item}{{0,{times}}}" if times else ""
        blocks, rest = divmod(times, BLOCK)
        fewer = self.rule("fewer", f"{item}{{0,{BLOCK - 1}}}")
        tail = self.rule("upto", f"{item}{{0,{rest}}}" if rest else '""')
        for _ in range(blocks):
            tail = self.rule("upto", f"{fewer} | {self._block(item)} {tail}")
        return tail

    def one_of(self, hint: str, texts: Sequence[str], depth: int = 0) -> str:
        """One of these texts, common beginnings written once."""
        if len(texts) == 1:
            return literal(texts[0])
        start = _common_start(min(texts), max(texts))
        groups: dict[str, list[str]] = {}
        for text in sorted(set(texts)):
            rest = text[len(start) :]
            groups.setdefault(rest[:1], []).append(rest)
        if depth == _MAX_FACTORED:
            inner = [literal(text) for group in groups.values() for text in group]
        else:
            inner = [
                self.one_of(hint, group, depth + 1) if first else '""' for first, group in groups.items()
            ]
        name = self.rule(hint, " | ".join(inner))
        return f"{literal(start)} {name}" if start else name


def _common_start(a: str, b: str) -> str:
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:n]


def literal(text: str) -> str:
    """A string that stands for exactly this text."""
    return '"' + "".join(_escaped(character, '"\\') for character in text) + '"'


def character_class(ranges: Ranges) -> str:
    """One character of these ranges, which begin and end with characters."""
    written = []
    for low, high in ranges:
        written.append(_escaped(chr(low), None))
        if high > low:
            written.append("-" + _escaped(chr(high), None))
    return f"[{''.join(written)}]"


def _escaped(character: str, special: str | None) -> str:
    """`special`: the printable characters that need a backslash; None: all but ASCII letters and digits."""
    code = ord(character)
    if special is not None and character.isprintable():
        return f"\\{character}" if character in special else character
    if special is None and character.isascii() and character.isalnum():
        return character
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
