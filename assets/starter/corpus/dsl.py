"""Tiny language of the corpus: alternation, topics, sloppy spelling, and turns that follow each other.

`[a|b|]` picks one of its parts (nesting allowed), `$NAME` is replaced by the caller. Topics are text:

    = key                     a topic
    n: name | other name      the names by which people ask for it
    what: / good: / ...       answers to that aspect follow, one per line beginning with "- "
    ? pattern                 a question of a topic that has no aspects; its answers follow as "- "
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass, field

Turn = tuple[str, str]
Message = dict[str, str]


@functools.cache
def _parse(text: str) -> tuple:
    """Nested tuples: a sequence of strings and of alternations ('|', parts)."""
    pos = 0

    def sequence(depth: int) -> tuple:
        nonlocal pos
        parts: list[tuple] = []
        now: list = []
        buf = ""
        while pos < len(text):
            c = text[pos]
            pos += 1
            if c == "[":
                if buf:
                    now.append(buf)
                    buf = ""
                now.append(sequence(depth + 1))
            elif c == "]" and depth:
                break
            elif c == "|" and depth:
                if buf:
                    now.append(buf)
                    buf = ""
                parts.append(tuple(now))
                now = []
            else:
                buf += c
        if buf:
            now.append(buf)
        parts.append(tuple(now))
        return ("|", tuple(parts)) if depth else tuple(now)

    return sequence(0)


def _walk(node: tuple, rng: random.Random, out: list[str]) -> None:
    for item in node:
        if isinstance(item, str):
            out.append(item)
        else:
            _walk(rng.choice(item[1]), rng, out)


def expand(text: str, rng: random.Random) -> str:
    """One random reading of a pattern, with doubled spaces closed."""
    out: list[str] = []
    _walk(_parse(text), rng, out)
    return re.sub(r"(?<=\S) {2,}", " ", "".join(out)).strip()


@dataclass
class Topic:
    """What is known about one subject, by aspect."""

    key: str
    names: list[str] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)
    weight: float = 1.0


def parse_topics(text: str) -> list[Topic]:
    """Reads the topics of one module."""
    topics: list[Topic] = []
    aspect = "plain"
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            continue
        if line.startswith("= "):
            key, _, weight = line[2:].partition(" *")
            topics.append(Topic(key.strip(), weight=float(weight or 1)))
            aspect = "plain"
        elif line.startswith("n: "):
            topics[-1].names = [n.strip() for n in line[3:].split(" | ")]
        elif line.startswith("? "):
            topics[-1].questions.setdefault(aspect, []).append(line[2:])
        elif line.startswith("- "):
            topics[-1].answers.setdefault(aspect, []).append(line[2:].replace("\\n", "\n"))
        elif re.fullmatch(r"[a-z0-9_]+:", line):
            aspect = line[:-1]
        else:
            raise ValueError(f"line of no kind in a topic: {line!r}")
    return topics


LETTERS = "abcdefghijklmnopqrstuvwxyz"
NEAR = {
    "a": "s",
    "e": "r",
    "i": "o",
    "o": "p",
    "t": "r",
    "n": "m",
    "s": "d",
    "r": "t",
    "l": "k",
    "h": "g",
    "u": "y",
    "c": "v",
}


def typo(text: str, rng: random.Random) -> str:
    """One slip of the fingers: swapped, lost, doubled or neighbouring letter; never in a digit."""
    places = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i - 1].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    kind = rng.random()
    if kind < 0.35:
        return text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :]
    if kind < 0.65:
        return text[:i] + text[i + 1 :]
    if kind < 0.85:
        return text[:i] + text[i] + text[i:]
    return text[:i] + NEAR.get(text[i].lower(), text[i]) + text[i + 1 :]


BEFORE = [
    "hey, ",
    "hi, ",
    "hello, ",
    "ok, ",
    "okay ",
    "so ",
    "well, ",
    "please ",
    "quick question: ",
    "question: ",
    "sorry, ",
    "hm, ",
    "one thing: ",
    "i have a question: ",
    "can you help me? ",
    "i am new here. ",
    "help: ",
    "and ",
    "now ",
    "hey tokenglass, ",
    "um ",
]
AFTER = [
    " please",
    " pls",
    " plz",
    ", please",
    " thanks",
    " thx",
    "??",
    "!",
    " in short",
    " for me",
    " then",
    " exactly",
    " actually",
    ", thank you",
]
SHORT = [
    ("what is ", "whats "),
    ("What is ", "What's "),
    ("how do i ", "how to "),
    ("please", "pls"),
    (" you ", " u "),
    ("because", "cuz"),
    (" are ", " r "),
    ("tell me", "tell me pls"),
    ("do not ", "dont "),
    ("I ", "i "),
    ("could you ", "can u "),
    ("what does ", "wat does "),
]


def sloppy(text: str, rng: random.Random, dress: bool = True) -> str:
    """A question as people really type it."""
    if dress and len(text) < 90:
        if rng.random() < 0.14:
            text = rng.choice(BEFORE) + (text[0].lower() + text[1:] if text[:2] != "I " else text)
        if rng.random() < 0.10:
            text = text.rstrip("?.! ") + rng.choice(AFTER)
    style = rng.random()
    if style < 0.5:
        text = text.lower()
    elif style < 0.9:
        text = text[0].upper() + text[1:]
    elif style < 0.92:
        text = text.upper() if len(text) < 60 else text
    if rng.random() < 0.45:
        text = text.rstrip("?.")
    elif text[-1].isalnum() and rng.random() < 0.5 and dress:
        text += rng.choice(["?", "?", "."])
    if rng.random() < 0.35:
        text = text.replace("'", "")
    if rng.random() < 0.12:
        text = text.replace(*rng.choice(SHORT))
    if rng.random() < 0.12:
        text = typo(text, rng)
        if rng.random() < 0.3:
            text = typo(text, rng)
    return text.strip() or "hi"
