"""GBNF, llama.cpp's notation for grammars: source text to the rules that llama.cpp makes of it.

The parser follows `src/llama-grammar.cpp` step by step, repetitions and their helper rules included, so that
what is counted here is what is built there. It refuses what that one rejects, what it takes in a sense nobody
means (a bound of more than 2,000 stands for no bound there), and what ends its process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from engine.errors import TokenglassError

MAX_SOURCE: Final = 65_536
"""Bytes of UTF-8 in a client's grammar."""
MAX_GENERATED: Final = 262_144
"""Bytes of a grammar that was made here, of a schema or of tools."""
MAX_NESTING: Final = 64
MAX_REPETITION: Final = 2000
"""llama.cpp's own limit, of one bound and of rules times bounds."""
MAX_RULES: Final = 20_000
"""With the helper rules of groups and repetitions."""
MAX_ELEMENTS: Final = 200_000
"""Characters, ranges and references in all rules together."""
LAST_CHARACTER: Final = 0x10FFFF
MAX_CLASS: Final = 256
"""Characters and ranges in one class; each step compares many tokens with all of them."""
_SURROGATES: Final = (0xD800, 0xDFFF)

Ranges = tuple[tuple[int, int], ...]
"""Code points that match one character: ascending inclusive ranges."""
Element = int | Ranges | None
"""Of a rule: a reference to another, one character, or the end of an alternative."""

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_INTEGER = re.compile(r"[0-9]+")
_PLAIN = re.compile(r'[^"\\]+')
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
ANY: Final[Ranges] = ((1, LAST_CHARACTER),)


@dataclass(frozen=True, slots=True)
class Rules:
    """A parsed grammar. A position is an index into `elements`; a None there ends an alternative."""

    elements: list[Element]
    alternatives: list[list[int]]
    """For each rule the positions where its alternatives begin."""
    root: int
    names: dict[int, str]
    """Of the rules that the source names; the others are helpers."""


def parse(source: str, limit: int = MAX_SOURCE) -> Rules:
    """Raises TokenglassError `invalid_argument` with line and column; path `grammar`."""
    return _Parser(source, limit).parse()


def refuse(message: str) -> NoReturn:
    raise TokenglassError("invalid_argument", f"grammar: {message}", path="grammar")


class _Parser:
    def __init__(self, source: str, limit: int) -> None:
        try:
            size = len(source.encode())
        except UnicodeEncodeError as error:
            self._source = source
            self._fail("half of a surrogate pair isn't a character", error.start)
        if size > limit:
            refuse(f"{size} bytes are more than {limit}")
        self._source = source
        self._pos = 0
        self._ids: dict[str, int] = {}
        self._n_symbols = 0
        self._used: dict[int, int] = {}
        """Where each name is met first."""
        self._rules: dict[int, list[list[Element]]] = {}
        self._n_elements = 0
        self._depth = 0

    def parse(self) -> Rules:
        if (place := self._source.find("\0")) >= 0:
            self._fail("a NUL character", place)
        self._skip(lines=True)
        while self._pos < len(self._source):
            self._rule()
        for name, number in self._ids.items():
            if number not in self._rules:
                self._fail(f"there is no rule {name}", self._used[number])
        if "root" not in self._ids:
            refuse("there is no rule root")
        elements: list[Element] = []
        starts: list[list[int]] = []
        for number in range(self._n_symbols):
            starts.append([])
            for alternative in self._rules[number]:
                starts[-1].append(len(elements))
                elements += alternative
                elements.append(None)
        names = {number: name for name, number in self._ids.items()}
        return Rules(elements, starts, self._ids["root"], names)

    def _fail(self, message: str, place: int | None = None) -> NoReturn:
        before = self._source[: self._pos if place is None else place]
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        refuse(f"line {line}, column {column}: {message}")

    def _skip(self, *, lines: bool) -> None:
        found = (_SPACE_OR_LINES if lines else _SPACE).match(self._source, self._pos)
        assert found is not None
        self._pos = found.end()

    def _peek(self) -> str:
        return self._source[self._pos : self._pos + 1]

    # ---- rules

    def _symbol(self) -> int:
        number = self._n_symbols
        if number >= MAX_RULES:
            self._fail(f"more than {MAX_RULES} rules")
        self._n_symbols += 1
        return number

    def _name(self) -> int:
        found = _NAME.match(self._source, self._pos)
        if found is None:
            self._fail("expected the name of a rule")
        name = found.group()
        if name not in self._ids:
            self._ids[name] = self._symbol()
            self._used[self._ids[name]] = self._pos
        self._pos = found.end()
        return self._ids[name]

    def _rule(self) -> None:
        place = self._pos
        number = self._name()
        self._skip(lines=False)
        if not self._source.startswith("::=", self._pos):
            self._fail("expected ::=")
        if number in self._rules:
            self._fail("this rule is defined twice", place)
        self._pos += 3
        self._skip(lines=True)
        self._alternatives(number, nested=False)
        if self._peek() not in ("", "\r", "\n"):
            self._fail(f"{self._peek()!r} doesn't belong here")
        self._skip(lines=True)

    def _alternatives(self, number: int, *, nested: bool) -> None:
        alternatives = [self._sequence(nested=nested)]
        while self._peek() == "|":
            self._pos += 1
            self._skip(lines=True)
            alternatives.append(self._sequence(nested=nested))
        self._rules[number] = alternatives

    def _add(self, elements: list[Element], times: int = 1) -> None:
        """Count what llama.cpp stores for these elements."""
        size = sum(2 * len(element) if isinstance(element, tuple) else 1 for element in elements)
        self._n_elements += (size + 1) * times
        if self._n_elements > MAX_ELEMENTS:
            self._fail(f"more than {MAX_ELEMENTS} elements, repetitions written out")

    def _sequence(self, *, nested: bool) -> list[Element]:
        sequence: list[Element] = []
        last = 0
        """Where the item begins that a repetition would repeat."""
        n_rules = 1
        """How many rules belong to that item, as llama.cpp counts."""
        while character := self._peek():
            if character in "*+?{":
                low, high = self._bounds(nested=nested)
                if last == len(sequence):
                    self._fail("nothing stands here that could be repeated")
                times = (high or 1) if high is not None else (low or 1)
                if n_rules * times > MAX_REPETITION:
                    self._fail(f"repeated more than {MAX_REPETITION} times, all levels together")
                n_rules *= times
                item = sequence[last:]
                del sequence[last:]
                sequence += self._repeated(item, low, high)
                continue
            start, n_before = self._pos, self._n_symbols
            if character == '"':
                item = self._literal()
            elif character == "[":
                item = [self._class()]
            elif character == ".":
                self._pos += 1
                item = [ANY]
            elif character == "(":
                item = [self._group()]
            elif _NAME.match(character):
                item = [self._name()]
                n_before = self._n_symbols
            elif character in "<!":
                self._fail("tokens can't be named here; write their text as a string")
            else:
                break
            assert self._pos > start
            self._add(item)
            last, n_rules = len(sequence), max(1, self._n_symbols - n_before)
            sequence += item
            self._skip(lines=nested)
        return sequence

    def _group(self) -> int:
        if self._depth == MAX_NESTING:
            self._fail(f"more than {MAX_NESTING} parentheses inside each other")
        self._depth += 1
        self._pos += 1
        self._skip(lines=True)
        number = self._symbol()
        self._alternatives(number, nested=True)
        if self._peek() != ")":
            self._fail("expected )")
        self._pos += 1
        self._depth -= 1
        return number

    # ---- repetitions

    def _bounds(self, *, nested: bool) -> tuple[int, int | None]:
        character = self._peek()
        self._pos += 1
        if character != "{":
            self._skip(lines=nested)
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        place = self._pos
        self._skip(lines=nested)
        low = self._integer()
        high: int | None = low
        self._skip(lines=nested)
        if self._peek() == ",":
            self._pos += 1
            self._skip(lines=nested)
            high = self._integer() if _INTEGER.match(self._peek()) else None
            self._skip(lines=nested)
        if self._peek() != "}":
            self._fail("expected }")
        if high is not None and high < low:
            self._fail(f"at least {low} and at most {high} times can't be", place)
        self._pos += 1
        self._skip(lines=nested)
        return low, high

    def _integer(self) -> int:
        found = _INTEGER.match(self._source, self._pos)
        if found is None:
            self._fail("expected a number")
        digits = found.group().lstrip("0") or "0"
        if len(digits) > 4 or int(digits) > MAX_REPETITION:
            self._fail(f"more than {MAX_REPETITION} repetitions")
        self._pos = found.end()
        return int(digits)

    def _repeated(self, item: list[Element], low: int, high: int | None) -> list[Element]:
        """S{m,n} is m times S and a chain of helpers S' ::= S S'' | nothing, the last one without S''."""
        n_optional = 1 if high is None else high - low
        self._add([*item, None], low + n_optional)
        sequence = item * low
        helper: int | None = None
        for _ in range(n_optional):
            number = self._symbol()
            rest: int | None = number if high is None else helper
            self._rules[number] = [item if rest is None else [*item, rest], []]
            helper = number
        return sequence if helper is None else [*sequence, helper]

    # ---- characters

    def _literal(self) -> list[Element]:
        elements: list[Element] = []
        start = self._pos
        self._pos += 1
        while (character := self._peek()) != '"':
            if not character:
                self._fail("this string doesn't end", start)
            if found := _PLAIN.match(self._source, self._pos):
                elements += [((ord(each), ord(each)),) for each in found.group()]
                self._pos = found.end()
            else:
                place = self._pos
                code = self._character()
                if code == 0:
                    self._fail("a NUL character", place)
                elements.append(((code, code),))
        self._pos += 1
        return elements

    def _class(self) -> Ranges:
        start = self._pos
        self._pos += 1
        inverse = self._peek() == "^"
        self._pos += inverse
        ranges: list[tuple[int, int]] = []
        while (character := self._peek()) != "]":
            if not character:
                self._fail("this character class doesn't end", start)
            place = self._pos
            low = high = self._character()
            if self._peek() == "-" and self._source[self._pos + 1 : self._pos + 2] != "]":
                self._pos += 1
                if not self._peek():
                    self._fail("this character class doesn't end", start)
                high = self._character()
            if high < low:
                self._fail("a range of characters that ends before it begins", place)
            ranges.append((low, high))
        if not ranges:
            self._fail("an empty character class", start)
        self._pos += 1
        if len(ranges) > MAX_CLASS:
            self._fail(f"more than {MAX_CLASS} characters and ranges in one class", start)
        found = others(ranges) if inverse else tuple(sorted(ranges))
        if all(high == 0 or (_SURROGATES[0] <= low and high <= _SURROGATES[1]) for low, high in found):
            self._fail("no character matches this class", start)
        return found

    def _character(self) -> int:
        place = self._pos
        character = self._peek()
        self._pos += 1
        if character != "\\":
            return ord(character)
        escape = self._peek()
        self._pos += 1
        if escape in _ESCAPES:
            return ord(_ESCAPES[escape])
        if escape not in _HEX:
            self._fail(f"\\{escape} stands for nothing", place)
        digits = self._source[self._pos : self._pos + _HEX[escape]]
        if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX[escape]}}}", digits):
            self._fail(f"\\{escape} needs {_HEX[escape]} hexadecimal digits", place)
        code = int(digits, 16)
        if code > LAST_CHARACTER or _SURROGATES[0] <= code <= _SURROGATES[1]:
            self._fail(f"U+{code:04X} isn't a character", place)
        self._pos += len(digits)
        return code


def others(ranges: list[tuple[int, int]]) -> Ranges:
    """The characters that are in none of these ranges."""
    found = []
    next_one = 1
    for low, high in sorted(ranges):
        if low > next_one:
            found.append((next_one, low - 1))
        next_one = max(next_one, high + 1)
    if next_one <= LAST_CHARACTER:
        found.append((next_one, LAST_CHARACTER))
    return tuple(found)
