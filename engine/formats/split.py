"""Comparing renderings, in whole tags and words."""

from __future__ import annotations

import re
from itertools import takewhile

_TOKEN = re.compile(r"<[^<>\s\]][^<>]*>|\[[^\[\]\s]+\]|\s+|[^<>\[\]\s]+|.", re.DOTALL)
_DIRECTION = re.compile(r"begin|start|open|prefix|end|close|suffix|[^a-z]")


def tokens_of(text: str) -> list[str]:
    return _TOKEN.findall(text)


def common_prefix(a: str, b: str) -> str:
    shared: list[str] = []
    for one, other in zip(tokens_of(a), tokens_of(b), strict=False):
        if one != other:
            break
        shared.append(one)
    return "".join(shared)


def common_suffix(a: str, b: str) -> str:
    shared: list[str] = []
    for one, other in zip(reversed(tokens_of(a)), reversed(tokens_of(b)), strict=False):
        if one != other:
            break
        shared.append(one)
    return "".join(reversed(shared))


def first_tag(text: str) -> str:
    return next((part for part in tokens_of(text) if _is_tag(part)), "")


def without_end(text: str, end_of_turn: str) -> str:
    """The text before what ends the turn."""
    end = first_tag(end_of_turn) or end_of_turn.strip()
    return text[: text.index(end)] if end and end in text else text


def up_to_counterpart(close: str, opening: str) -> str:
    """The part of `close` up to the tag that belongs to the first one of `opening`, or up to any tag."""
    parts = tokens_of(close)
    tags = [token for token in tokens_of(opening) if _is_tag(token)]
    if not tags:
        return "".join(takewhile(lambda part: not _is_tag(part), parts)).rstrip()
    stem = _DIRECTION.sub("", tags[0].lower())
    for i, part in enumerate(parts):
        if _is_tag(part) and _DIRECTION.sub("", part.lower()) == stem:
            return "".join(parts[: i + 1])
    return close


def _is_tag(token: str) -> bool:
    return len(token) > 2 and token[0] in "<["
