"""Numbers between bounds, digit by digit, as GBNF expressions."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

DIGITS: Final = 15
"""Decimal numbers of so many digits are told apart by a double, and whole ones are exact in one."""
MAX_DIGITS: Final = 25
"""Of a whole number's bound."""
INTEGER: Final = '"-"? ("0" | [1-9] [0-9]{0,14})'
NUMBER: Final = f'{INTEGER} ("." [0-9]{{1,15}})? ([eE] [-+]? [0-9]{{1,2}})?'


@dataclass(frozen=True, slots=True)
class Bounds:
    """Smallest and largest value; None: there is none."""

    low: Decimal | None = None
    high: Decimal | None = None
    above: bool = False
    """`low` itself is excluded."""
    below: bool = False
    """`high` itself is excluded."""

    @property
    def empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.above or self.below))


def integers(bounds: Bounds) -> str | None:
    """Exactly the whole numbers between the bounds; None where there are none.

    Where a bound is missing, those of `DIGITS` digits, or of one more than the other bound has.
    """
    low = None if bounds.low is None else int(bounds.low.to_integral_value("ROUND_CEILING"))
    high = None if bounds.high is None else int(bounds.high.to_integral_value("ROUND_FLOOR"))
    if low is not None and bounds.above and low == bounds.low:
        low += 1
    if high is not None and bounds.below and high == bounds.high:
        high -= 1
    if low is None:
        low = -_most(high or 0)
    if high is None:
        high = _most(low)
    parts = []
    if low < 0 and (negative := _natural(max(1, -high), -low)):
        parts.append(f'"-" ({negative})')
    if high >= 0 and (positive := _natural(max(low, 0), high)):
        parts.append(positive)
    return " | ".join(parts) or None


def _most(other: int) -> int:
    return int("9" * max(DIGITS, len(str(abs(other))) + 1))


def _natural(low: int, high: int) -> str:
    """Whole numbers from `low` to `high`, neither of them negative; empty where there are none."""
    parts: list[str] = []
    whole: list[int] = []
    """Lengths of which all numbers belong to it."""
    for length in range(len(str(low)), len(str(high)) + 1):
        first = 0 if length == 1 else int(10 ** (length - 1))
        a, b = max(low, first), min(high, 10**length - 1)
        if length > 1 and a == first and b == 10**length - 1:
            whole.append(length)
        elif a <= b:
            parts.append(_between(str(a), str(b)))
    if whole:
        parts.append(f"[1-9] [0-9]{{{whole[0] - 1},{whole[-1] - 1}}}")
    return " | ".join(parts)


def _between(low: str, high: str) -> str:
    """Digits between two texts of the same length."""
    if not low:
        return '""'
    first, last, n_rest = int(low[0]), int(high[0]), len(low) - 1
    if first == last:
        return f'"{first}"' + (f" ({_between(low[1:], high[1:])})" if n_rest else "")
    parts = []
    if n_rest and low[1:].strip("0"):
        parts.append(f'"{first}" ({_between(low[1:], "9" * n_rest)})')
        first += 1
    if n_rest and high[1:].strip("9"):
        parts.append(f'"{last}" ({_between("0" * n_rest, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f" [0-9]{{{n_rest}}}" if n_rest else ""))
    return " | ".join(parts)


def decimals(bounds: Bounds) -> str | None:
    """Decimal numbers between the bounds, without exponents; None where there are none.

    As many digits as a double tells apart, so that what is read is between the bounds too.
    """
    low, high = bounds.low, bounds.high
    parts = []
    if low is None or low < 0:
        a, a_out = (Decimal(0), True) if high is None or high >= 0 else (-high, bounds.below)
        if negative := _magnitudes(a, None if low is None else -low, a_out, bounds.above):
            parts.append(f'"-" ({negative})')
    if high is None or high >= 0:
        a, a_out = (Decimal(0), False) if low is None or low < 0 else (low, bounds.above)
        if positive := _magnitudes(a, high, a_out, bounds.below):
            parts.append(positive)
    return " | ".join(parts) or None


def _magnitudes(low: Decimal, high: Decimal | None, above: bool, below: bool) -> str | None:
    """Numbers from `low` to `high`, neither of them negative."""
    whole_low, rest_low = _split(low)
    n_digits = len(str(whole_low))
    if high is None:
        after = _natural(whole_low + 1, _most(whole_low))
        n_rest = max(1, DIGITS - n_digits)
        parts = [f'"{whole_low}" ({_rest(rest_low, None, above, False, n_rest)})']
        return " | ".join([*parts, f'({after}) ("." [0-9]{{1,{n_rest}}})?'])
    whole_high, rest_high = _split(high)
    n_rest = max(1, DIGITS - len(str(whole_high)), len(rest_low), len(rest_high))
    if whole_low > whole_high:
        return None
    if whole_low == whole_high:
        rest = _rest(rest_low, rest_high, above, below, n_rest)
        return f'"{whole_low}" ({rest})' if rest else None
    parts = [f'"{whole_low}" ({_rest(rest_low, None, above, False, n_rest)})']
    if between := _natural(whole_low + 1, whole_high - 1):
        parts.append(f'({between}) ("." [0-9]{{1,{n_rest}}})?')
    if rest := _rest("", rest_high, False, below, n_rest):
        parts.append(f'"{whole_high}" ({rest})')
    return " | ".join(parts)


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits after the point without closing zeros."""
    whole, _, rest = f"{value:f}".partition(".")
    return int(whole), rest.rstrip("0")


def _rest(low: str, high: str | None, above: bool, below: bool, n: int) -> str:
    """What may follow the whole part: nothing, or a point and digits between these; empty: not even nothing.

    `high` None: up to the next whole number.
    """
    parts = []
    if not low and not above and (high or not below):
        parts.append('""')
    digits = _digits_above(low, above, n) if high is None else _digits(low, high, above, below, n)
    if digits:
        parts.append(f'"." ({digits})')
    return " | ".join(parts)


def _digits(low: str, high: str, above: bool, below: bool, n: int) -> str:
    """At least one digit, so that the whole is between `low` and `high`; empty where that can't be."""
    if not high:
        return "" if below or above or low or n <= 0 else f'"0"{{1,{n}}}'
    first, last = int(low[:1] or 0), int(high[0])
    if first == last:
        inner = _digits(low[1:], high[1:], above, below, n - 1)
        enough = not low[1:] and not above and (high[1:] or not below)
        if not inner:
            return f'"{first}"' if enough else ""
        return f'"{first}" ({inner})' + ("?" if enough else "")
    if first > last:
        return ""
    parts = []
    if inner := _digits_above(low[1:], above, n - 1):
        optional = "?" if not low[1:] and not above else ""
        parts.append(f'"{first}" ({inner}){optional}')
    elif not low[1:] and not above:
        parts.append(f'"{first}"')
    if first + 1 <= last - 1:
        parts.append(f"[{first + 1}-{last - 1}]" + _any(n - 1))
    if high[1:]:
        inner = _digits("", high[1:], False, below, n - 1)
        parts.append(f'"{last}"' + (f" ({inner})?" if inner else ""))
    elif not below:
        parts.append(f'"{last}"')
    return " | ".join(parts)


def _digits_above(low: str, above: bool, n: int) -> str:
    """At least one digit, so that the whole isn't below `low` (and isn't `low` if `above`)."""
    if n <= 0:
        return ""
    if not low:
        if not above:
            return f"[0-9]{{1,{n}}}"
        zeros = n // 2
        return f'"0"{{0,{zeros}}} [1-9]{_any(n - 1 - zeros)}'
    first = int(low[0])
    parts = []
    if first < 9:
        parts.append(f"[{first + 1}-9]" + _any(n - 1))
    inner = _digits_above(low[1:], above, n - 1)
    enough = not low[1:] and not above
    if inner:
        parts.append(f'"{first}" ({inner})' + ("?" if enough else ""))
    elif enough:
        parts.append(f'"{first}"')
    return " | ".join(parts)


def _any(n: int) -> str:
    return f" [0-9]{{0,{n}}}" if n > 0 else ""
