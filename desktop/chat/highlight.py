"""Light syntax colours for code, one line at a time, so that code can grow without being read again.

Not a parser: strings, comments, numbers and keywords, which is what the eye looks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    KEYWORD = "keyword"
    STRING = "string"
    COMMENT = "comment"
    NUMBER = "number"
    NAME = "name"
    """A JSON key, a shell variable, a function where it is defined."""


Mark = tuple[int, int, Kind]
"""Start, length and what it is; in Python's string positions."""


@dataclass(frozen=True, slots=True)
class Language:
    """`line` finds the marks within a line; `opens` what may run on over its end."""

    line: re.Pattern[str]
    opens: dict[str, str]
    """What begins something longer than a line, and what ends it."""


def _pattern(keywords: str, *parts: str) -> re.Pattern[str]:
    words = rf"(?P<keyword>\b(?:{'|'.join(keywords.split())})\b)"
    number = r"(?P<number>(?<![\w.])(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b)"
    return re.compile("|".join([*parts, words, number]))


_QUOTED = r"(?P<string>[rRbBfFuU]{0,2}(?:\"(?:[^\"\\]|\\.)*(?:\"|$)|'(?:[^'\\]|\\.)*(?:'|$)))"
_HASH = r"(?P<comment>(?:(?<=\s)|^)#.*)"
_SLASHES = r"(?P<comment>//.*)"

_PYTHON = Language(
    _pattern(
        "and as assert async await break case class continue def del elif else except finally for from "
        "global if import in is lambda match nonlocal not or pass raise return try while with yield "
        "None True False self",
        r"(?P<open>[rRbBfFuU]{0,2}(?:\"\"\"|'''))",
        r"(?P<comment>#.*)",
        _QUOTED,
        r"(?P<name>(?<=\bdef )\w+|(?<=\bclass )\w+|^\s*@[\w.]+)",
    ),
    {'"""': '"""', "'''": "'''"},
)
_JSON = Language(
    _pattern(
        "true false null",
        r"(?P<name>\"(?:[^\"\\]|\\.)*\"(?=\s*:))",
        r"(?P<string>\"(?:[^\"\\]|\\.)*(?:\"|$))",
    ),
    {},
)
_SHELL = Language(
    _pattern(
        "if then else elif fi for in do done while until case esac function return export local set cd echo "
        "sudo source exit",
        _HASH,
        r"(?P<string>\"(?:[^\"\\]|\\.)*(?:\"|$)|'[^']*(?:'|$))",
        r"(?P<name>\$\{[^}]*\}?|\$\w+)",
    ),
    {},
)
_C_LIKE = Language(
    _pattern(
        "async auto await bool break case catch char class const continue default delete do double else enum "
        "export extends extern false final finally float fn for from func function if impl import in int "
        "interface let long match mut namespace new null nullptr package private protected pub public return "
        "short signed sizeof static struct super switch template this throw true try type typedef typeof "
        "undefined unsigned use using var virtual void volatile while yield",
        r"(?P<open>/\*)",
        _SLASHES,
        r"(?P<string>\"(?:[^\"\\]|\\.)*(?:\"|$)|'(?:[^'\\]|\\.)*(?:'|$)|`(?:[^`\\]|\\.)*(?:`|$))",
    ),
    {"/*": "*/"},
)
_GENERIC = Language(
    _pattern(
        "if else for while return true false null and or not in function end let var const "
        "select from where insert update SELECT FROM WHERE INSERT UPDATE INTO "
        "VALUES JOIN ON GROUP ORDER BY LIMIT CREATE TABLE",
        r"(?P<string>\"(?:[^\"\\]|\\.)*\")",
        r"(?P<comment>(?:(?<=\s)|^)(?:#|//|-- ).*)",
    ),
    {},
)
_PLAIN = Language(re.compile(r"(?!)"), {})

_LANGUAGES = {
    **dict.fromkeys(("python", "py", "python3", "pycon"), _PYTHON),
    **dict.fromkeys(("json", "jsonc", "json5", "jsonl"), _JSON),
    **dict.fromkeys(("bash", "sh", "shell", "zsh", "console", "dockerfile", "makefile"), _SHELL),
    **dict.fromkeys(
        (
            *("c", "cpp", "c++", "h", "cs", "csharp", "java", "javascript", "js", "jsx", "ts", "tsx"),
            *("typescript", "go", "rust", "rs", "kotlin", "swift", "php", "css"),
        ),
        _C_LIKE,
    ),
    **dict.fromkeys(("", "text", "txt", "plain", "markdown", "md", "output"), _PLAIN),
}


def marks(language: str, line: str, inside: str = "") -> tuple[list[Mark], str]:
    """The marks of one line, and what it leaves open for the next; `inside` is what the line before left."""
    rules = _LANGUAGES.get(language, _GENERIC)
    found: list[Mark] = []
    at = 0
    if inside:
        end = line.find(inside)
        kind = Kind.COMMENT if inside == "*/" else Kind.STRING
        if end < 0:
            return ([(0, len(line), kind)] if line else []), inside
        at = end + len(inside)
        found.append((0, at, kind))
    while match := rules.line.search(line, at):
        name = match.lastgroup
        if name == "open":
            opening = next(key for key in rules.opens if match.group().endswith(key))
            closing = rules.opens[opening]
            kind = Kind.COMMENT if closing == "*/" else Kind.STRING
            end = line.find(closing, match.end())
            if end < 0:
                found.append((match.start(), len(line) - match.start(), kind))
                return found, closing
            at = end + len(closing)
            found.append((match.start(), at - match.start(), kind))
            continue
        if match.end() > match.start():
            found.append((match.start(), match.end() - match.start(), Kind(name)))
        at = max(match.end(), at + 1)
    return found, ""
