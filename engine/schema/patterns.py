"""Regular expressions to GBNF: the part on which ECMAScript and Python agree, over the text of JSON strings.

Where the two differ in what they match (`\\w` and `.` beyond ASCII), the expression allows what both match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from engine.gbnf import LAST_CHARACTER, Ranges, others
from engine.schema.writer import Writer, character_class, literal

UNESCAPED: Final[Ranges] = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, LAST_CHARACTER))
"""What may stand in a JSON string as it is."""
_ESCAPES: Final = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_MAX_REPETITION: Final = 1000
_MAX_NESTING: Final = 32
_ASCII: Final[Ranges] = ((1, 127),)
_DIGIT: Final[Ranges] = ((48, 57),)
_WORD: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Final[Ranges] = ((9, 13), (32, 32))
_ANY_SPACE: Final[Ranges] = (
    (9, 13),
    (28, 32),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
"""Whatever one of the two languages takes for white space."""
_LINE_ENDS: Final[Ranges] = ((10, 10), (13, 13), (0x2028, 0x2029))
_SETS: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_QUANTIFIER: Final = re.compile(r"\{([0-9]{1,6})(,([0-9]{1,6})?)?\}")


class PatternError(Exception):
    """A regular expression that can't be translated, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A translated piece: an expression that may stand in a sequence, and its length in characters."""

    expression: str
    shortest: int
    longest: int | None
    """None: there is no longest."""


def string_character(writer: Writer) -> str:
    """Any character of a JSON string. Escaped surrogates are left out: they come in pairs, or are none."""
    hexadecimal = '"u" ([0-9a-cA-CeEfF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})'
    escape = writer.rule("escape", f'["\\\\/bfnrt] | {hexadecimal}')
    return writer.rule("char", f'{character_class(UNESCAPED)} | "\\\\" {escape}')


def translate(pattern: str, writer: Writer) -> Part:
    """What stands between the quotes of a string that matches. Raises PatternError."""
    return _Pattern(pattern, writer).parse()


class _Pattern:
    def __init__(self, pattern: str, writer: Writer) -> None:
        self._pattern = pattern
        self._writer = writer
        self._pos = 0
        self._depth = 0

    def parse(self) -> Part:
        part = self._alternatives(outermost=True)
        if self._pos < len(self._pattern):
            self._fail("a closing parenthesis too many")
        return part

    def _fail(self, message: str) -> NoReturn:
        raise PatternError(f"{message} (character {self._pos + 1})")

    def _peek(self) -> str:
        return self._pattern[self._pos : self._pos + 1]

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._pos)
        self._pos += len(text) if found else 0
        return found

    def _alternatives(self, *, outermost: bool) -> Part:
        parts = [self._sequence(outermost=outermost)]
        while self._take("|"):
            parts.append(self._sequence(outermost=outermost))
        if len(parts) == 1:
            return parts[0]
        lengths = [part.longest for part in parts]
        longest = None if None in lengths else max(length for length in lengths if length is not None)
        expression = self._writer.choice("either", [part.expression for part in parts])
        return Part(expression, min(part.shortest for part in parts), longest)

    def _sequence(self, *, outermost: bool) -> Part:
        parts: list[Part] = []
        open_start = outermost and not self._take("^")
        open_end = outermost
        while self._peek() not in ("", "|", ")"):
            if outermost and self._pattern[self._pos :][:2] in ("$", "$|"):
                self._pos += 1
                open_end = False
                break
            parts.append(self._repeated())
        anything = Part(f"{string_character(self._writer)}*", 0, None)
        parts = [anything] * open_start + parts + [anything] * open_end
        lengths = [part.longest for part in parts]
        return Part(
            " ".join(part.expression for part in parts) or '""',
            sum(part.shortest for part in parts),
            None if None in lengths else sum(length for length in lengths if length is not None),
        )

    def _repeated(self) -> Part:
        part = self._atom()
        if self._take("*"):
            low, high = 0, None
        elif self._take("+"):
            low, high = 1, None
        elif self._take("?"):
            low, high = 0, 1
        elif found := _QUANTIFIER.match(self._pattern, self._pos):
            self._pos = found.end()
            low = int(found[1])
            high = low if found[2] is None else int(found[3]) if found[3] else None
        else:
            return part
        self._take("?")  # a lazy one matches the same texts
        if self._peek() in ("*", "+", "?") or _QUANTIFIER.match(self._pattern, self._pos):
            self._fail("a repetition of a repetition")
        return self._times(part, low, high)

    def _times(self, part: Part, low: int, high: int | None) -> Part:
        if high is not None and high < low:
            self._fail("a repetition that ends before it begins")
        if high is None and part.shortest == 0:
            self._fail("what is repeated without end can be empty")
        longest = None if high is None or part.longest is None else part.longest * high
        if (part.shortest, part.longest) == (1, 1):
            if max(low, high or 0) > 100_000:
                self._fail("more than 100000 repetitions")
            item = part.expression
            item = item if item.startswith("[") else self._writer.rule("any", item)
            return Part(self._writer.repeat(item, low, high), low, longest)
        if max(low, high or 0) > _MAX_REPETITION:
            self._fail(f"more than {_MAX_REPETITION} repetitions of a group")
        bounds = f"{{{low},{'' if high is None else high}}}"
        name = self._writer.rule("group", part.expression)
        return Part('""' if high == 0 else f"{name}{bounds}", part.shortest * low, longest)

    def _atom(self) -> Part:
        character = self._peek()
        if character == "(":
            return self._group()
        if character == "[":
            return self._characters(self._class())
        if character == ".":
            self._pos += 1
            return self._characters(others(list(_LINE_ENDS)))
        if character in "*+?":
            self._fail("nothing stands before this repetition")
        if character == "{":
            self._fail("a brace that begins no repetition must be escaped")
        if character in "^$":
            self._fail(f"{character} inside the expression")
        if character == "\\":
            return self._characters(self._escape(in_class=False))
        self._pos += 1
        return self._characters(((ord(character), ord(character)),))

    def _group(self) -> Part:
        self._pos += 1
        if self._take("?:"):
            pass
        elif self._peek() == "?":
            self._fail("lookaround, flags and named groups aren't supported: (?")
        if self._depth == _MAX_NESTING:
            self._fail(f"more than {_MAX_NESTING} groups inside each other")
        self._depth += 1
        part = self._alternatives(outermost=False)
        self._depth -= 1
        if not self._take(")"):
            self._fail("a parenthesis isn't closed")
        return part

    # ---- characters

    def _characters(self, ranges: Ranges) -> Part:
        """One character of these as JSON writes it: unescaped where it may be, else by a short escape."""
        written = []
        if plain := _common(ranges, UNESCAPED):
            written.append(character_class(plain))
        escaped = [letter for each, letter in _ESCAPES.items() if _common(ranges, ((ord(each), ord(each)),))]
        if escaped:
            letters = tuple((ord(letter), ord(letter)) for letter in sorted(escaped))
            written.append(f"{literal(chr(92))} {character_class(letters)}")
        if not written:
            self._fail("a character that can't stand in JSON in a short form")
        expression = written[0] if len(written) == 1 else self._writer.rule("any", " | ".join(written))
        return Part(expression, 1, 1)

    def _class(self) -> Ranges:
        self._pos += 1
        inverse = self._take("^")
        if self._peek() == "]":
            self._fail("a character class that is empty, or begins with ]")
        ranges: list[tuple[int, int]] = []
        ascii_only = False
        while not self._take("]"):
            if not self._peek():
                self._fail("a character class isn't closed")
            low, is_set = self._class_member(inverse=inverse)
            ascii_only = ascii_only or (inverse and is_set in ("d", "w"))
            ranges += low
            if self._peek() == "-" and self._pattern[self._pos + 1 : self._pos + 2] not in ("]", ""):
                self._pos += 1
                high, high_set = self._class_member(inverse=inverse)
                if is_set or high_set:
                    self._fail("a range that begins or ends with a set of characters")
                if high[0][0] < low[0][0]:
                    self._fail("a range of characters that ends before it begins")
                ranges[-1] = (low[0][0], high[0][0])
        if not inverse:
            return tuple(sorted(ranges))
        found = others(ranges)
        return _common(found, _ASCII) if ascii_only else found

    def _class_member(self, *, inverse: bool) -> tuple[Ranges, str]:
        """Its characters, and the letter of a set such as `\\d`."""
        character = self._peek()
        if character != "\\":
            self._pos += 1
            return ((ord(character), ord(character)),), ""
        letter = self._pattern[self._pos + 1 : self._pos + 2]
        if letter in ("D", "W", "S") and inverse:
            self._fail(f"\\{letter} in an inverse class")
        if letter == "s" and inverse:
            self._pos += 2
            return _ANY_SPACE, letter
        return self._escape(in_class=True), letter if letter.lower() in _SETS else ""

    def _escape(self, *, in_class: bool) -> Ranges:
        letter = self._pattern[self._pos + 1 : self._pos + 2]
        if letter in _SETS:
            self._pos += 2
            return _SETS[letter]
        if letter == "S":
            self._pos += 2
            return others(list(_ANY_SPACE))
        if letter in ("D", "W"):  # beyond ASCII the two languages disagree
            self._pos += 2
            return _common(others(list(_SETS[letter.lower()])), _ASCII)
        if letter in _CONTROLS:
            self._pos += 2
            code = ord(_CONTROLS[letter])
        elif found := re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})").match(self._pattern, self._pos):
            code = int(found[1] or found[2], 16)
            if 0xD800 <= code <= 0xDFFF:
                self._fail("half of a surrogate pair")
            self._pos = found.end()
        elif letter and not letter.isalnum() and letter.isascii():
            self._pos += 2
            code = ord(letter)
        else:
            what = "in a character class" if in_class else ""
            self._fail(f"\\{letter} {what}".rstrip() + " isn't supported")
        return ((code, code),)


def _common(ranges: Ranges, others_: Ranges) -> Ranges:
    """The characters that are in both."""
    return tuple((max(a, c), min(b, d)) for a, b in ranges for c, d in others_ if max(a, c) <= min(b, d))
