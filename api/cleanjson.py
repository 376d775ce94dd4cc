"""JSON as it comes from outside: one clean object, or an error that says what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

from engine.errors import TokenglassError

MAX_DEPTH = 64
MAX_VALUES = 50_000
"""In one frame. Parsing holds up the whole app, and many small values take far longer than long texts."""
PARSE_INLINE_CHARS = 1 << 16
"""Longer texts are parsed in a thread."""

_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def decode(text: str) -> dict[str, Any]:
    """The object in a frame. Raises TokenglassError `invalid_json`.

    Stricter than JSON in what some parser down the line could take otherwise: no name twice in an
    object, no NaN or infinity, no unpaired surrogates, nesting at most 64 deep, at most 50,000 values.
    """
    if text.count(",") >= MAX_VALUES and _TEXT.sub("", text).count(",") >= MAX_VALUES:
        raise TokenglassError("invalid_json", f"more than {MAX_VALUES} values in one message")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise TokenglassError("invalid_json", "nested too deeply") from None
    except UnicodeEncodeError:
        raise TokenglassError("invalid_json", "half of a surrogate pair isn't a character") from None
    except json.JSONDecodeError as error:
        what = "begins with a byte order mark" if text.startswith("\ufeff") else f"not JSON: {error}"
        raise TokenglassError("invalid_json", what) from None
    except _UncleanError as error:
        raise TokenglassError("invalid_json", f"not JSON: {error}") from None
    except ValueError:  # Python's limit for whole numbers, which speaks of Python
        raise TokenglassError("invalid_json", "a number has too many digits") from None
    if not isinstance(data, dict):
        raise TokenglassError("invalid_json", "it must be one JSON object")
    if _too_deep(data):
        raise TokenglassError("invalid_json", "nested too deeply")
    return data


async def decode_aside(text: str) -> dict[str, Any]:
    """As `decode`, in a thread where it may take long."""
    if len(text) > PARSE_INLINE_CHARS:
        return await asyncio.to_thread(decode, text)
    return decode(text)


class _UncleanError(ValueError):
    """What some parser might take for JSON."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise _UncleanError("a name stands twice in one object")
    return data


def _no_constant(name: str) -> Any:
    raise _UncleanError(f"{name} isn't a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _UncleanError("a number is too large")
    return value


def _too_deep(data: object) -> bool:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
        if not level:
            return False
    return True
