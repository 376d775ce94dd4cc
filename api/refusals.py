"""What is wrong with a client's arguments, said in the contract's own words.

The types find it out, and what pydantic says of it speaks of its own types and of all the branches of a
union. Here is what a person needs: which argument it is, and what may stand there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.errors import TokenglassError

MAX_NAME_CHARS = 100
"""How much of a name that a client made up is shown."""

Place = tuple[int | str, ...]

_KINDS = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a string",
}
"""What should have stood there, by the error that says it is of another kind."""

_RULES = {
    "extra_forbidden": "there is no such argument",
    "finite_number": "must be finite",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing_size": "is too large",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "missing": "is missing",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_unicode": "has characters that are none",
    "too_long": "may have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "value_error": "{error}",
}


def refusal(
    error: ValidationError, data: Mapping[str, Any], above: Place = (), inside: str = ""
) -> TokenglassError:
    """`invalid_argument` with the first wrong argument's path in `data`.

    `above` begins all places of the error and stands nowhere in `data`; `inside` is to stand before the path.
    """
    errors = error.errors(include_url=False, include_input=False)
    for details in errors:
        if details["loc"][: len(above)] == above:
            details["loc"] = details["loc"][len(above) :]
    wrong = _narrowed(errors, data)
    parts = [inside] if inside else []
    parts += [str(part)[:MAX_NAME_CHARS] for part in _path(wrong[0], data)]
    path, message = ".".join(parts), _message(wrong)
    return TokenglassError("invalid_argument", f"{path}: {message}" if path else message, path=path or None)


def _narrowed(errors: Sequence[ErrorDetails], data: Mapping[str, Any]) -> Sequence[ErrorDetails]:
    """Those that say what is wrong at the first place, more than one only where a union has branches.

    Of a union's branches the one counts that fits from outside, and fails further inside.
    """
    start = 0
    while (branch := _branch(errors[0], data, start)) is not None:
        union = errors[0]["loc"][:branch]
        here = len(_path(errors[0], data, branch))
        errors = [details for details in errors if details["loc"][:branch] == union]
        inner = [details for details in errors if len(_path(details, data)) > here]
        if not inner:
            return errors
        errors, start = inner, branch + 1
    return errors[:1]


def _branch(details: ErrorDetails, data: Mapping[str, Any], start: int) -> int | None:
    """Where in its place, from `start` on, the name of a union's branch stands."""
    real = _real(details, data)
    places = range(start, len(real))
    return next((at for at in places if not real[at] and details["loc"][at] != "[key]"), None)


def _path(details: ErrorDetails, data: Mapping[str, Any], end: int | None = None) -> Place:
    """The names of arguments and the numbers of items in an error's place, up to `end`."""
    real = _real(details, data)[:end]
    return tuple(part for part, stands in zip(details["loc"], real, strict=False) if stands)


def _real(details: ErrorDetails, data: Mapping[str, Any]) -> list[bool]:
    """Which parts of its place stand in what the client sent; the others are names of our types."""
    real: list[bool] = []
    value: Any = data
    for at, part in enumerate(details["loc"]):
        if isinstance(value, Mapping):
            stands = part in value or (details["type"] == "missing" and at == len(details["loc"]) - 1)
            inner = value.get(part) if stands else value
        else:
            stands = isinstance(value, list) and isinstance(part, int)
            inner = value[part] if stands else value
        real.append(stands)
        value = inner
    return real


def _message(wrong: Sequence[ErrorDetails]) -> str:
    """What may stand there: the rule that was broken, or the kinds of all branches."""
    kinds: dict[str, None] = {}
    for details in wrong:
        kind, context = details["type"], details.get("ctx", {})
        if kind == "literal_error":
            kinds |= dict.fromkeys(str(context["expected"]).replace(" or ", ", ").split(", "))
        elif kind in _KINDS:
            kinds[_KINDS[kind]] = None
        else:
            return _rule(kind, context)
    *others, last = kinds
    must = f"must be {', '.join(others)} or {last}" if others else f"must be {last}"
    return f"its name {must}" if wrong[0]["loc"][-1:] == ("[key]",) else must


def _rule(kind: str, context: Mapping[str, Any]) -> str:
    if context.get("min_length") == 1:
        return "must not be empty"
    return _RULES.get(kind, "can't be taken").format_map(context)
