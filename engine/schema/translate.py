"""JSON Schema to GBNF: one rule for each schema, white space where models are used to it.

What comes out is valid JSON that fulfils the schema. It may be narrower than the schema (see
`engine.schema`), never wider.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, Final

from engine.gbnf import MAX_REPETITION
from engine.schema import formats, numbers, patterns
from engine.schema.keywords import MAX_SCHEMA_DEPTH, OF_TYPE, TYPES, Flattener, Nothing, Schema, types
from engine.schema.objects import Member, Objects
from engine.schema.writer import MAX_REPEATED, Writer

MAX_ENUM_CHARS: Final = 100_000
_NUMBER_LIMIT: Final = 10**14
_INTEGER_LIMIT: Final = 10**numbers.MAX_DIGITS
_NUMBER_FORMATS: Final = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
    "float": None,
    "double": None,
}


class Translator:
    """Translates the schemas of one document into rules of one writer."""

    def __init__(self, writer: Writer, root: Any, path: str) -> None:
        self._writer = writer
        self._root = root
        self._flattener = Flattener(root, path)
        self._refuse = self._flattener.refuse
        self._objects = Objects(writer)
        self._referred: dict[str, str] = {}
        """Rules of what references point to."""

    def translate(self) -> str:
        """The rule for the document's own schema. Raises TokenglassError."""
        return self._needed(self._root, "", 0)

    def _needed(self, value: Any, where: str, depth: int) -> str:
        try:
            return self._rule(value, where, depth)
        except Nothing:
            self._refuse(where, "no value can fulfil this")

    def _rule(self, value: Any, where: str, depth: int) -> str:
        """Raises Nothing where no value fulfils the schema."""
        schema = self._flattener.schema(value, where)
        if set(schema) == {"$ref"}:
            return self._reference(schema["$ref"], f"{where}.$ref", depth)
        if depth > MAX_SCHEMA_DEPTH:
            self._refuse(where, "schemas are nested too deeply")
        return self._flat(self._flattener.flat(schema, where, depth), where, depth + 1)

    def _reference(self, reference: Any, where: str, depth: int) -> str:
        target = self._flattener.resolve(reference, where)
        if reference not in self._referred:
            name = self._referred[reference] = self._writer.reserve(reference.rpartition("/")[2] or "value")
            # deep only where references lead on without anything between
            inner = depth + 1 if isinstance(target, dict) and "$ref" in target else 0
            if inner > MAX_SCHEMA_DEPTH:
                self._refuse(where, "references lead on and on")
            self._writer.define(name, self._needed(target, where, inner))
        return self._referred[reference]

    def _flat(self, schema: Schema, where: str, depth: int) -> str:
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                rest = {key: item for key, item in schema.items() if key != keyword}
                return self._any_of(schema[keyword], rest, f"{where}.{keyword}", depth)
        if "const" in schema or "enum" in schema:
            return self._listed(schema, where)
        alternatives = []
        for name in self._types(schema, where):
            try:
                alternatives.append(self._of_type(name, schema, where, depth))
            except Nothing:
                continue
        if not alternatives:
            raise Nothing
        return self._writer.choice("value", alternatives)

    def _any_of(self, listed: Any, rest: Schema, where: str, depth: int) -> str:
        """One of them; what stands beside them goes for each."""
        alternatives = []
        for i, branch in enumerate(self._flattener.listed(listed, where)):
            place = f"{where}.{i}"
            try:
                if rest:
                    flat = self._flattener.flat(branch, place, depth)
                    flat = self._flattener.merge(rest, flat, place)
                    alternatives.append(self._flat(flat, place, depth + 1))
                else:
                    alternatives.append(self._rule(branch, place, depth))
            except Nothing:
                continue
        if not alternatives:
            raise Nothing
        return self._writer.choice("any", alternatives)

    def _types(self, schema: Schema, where: str) -> list[str]:
        """Those that it names, else those that its keywords are about, else all."""
        if "type" in schema:
            named = types(schema["type"])
            if not named or any(name not in TYPES for name in named):
                self._refuse(f"{where}.type", f"must be one or more of {', '.join(TYPES)}")
        else:
            named = [name for name, keywords in OF_TYPE.items() if any(each in schema for each in keywords)]
            if not named:
                named = ["any"]
            elif "format" in schema:  # it alone doesn't tell
                named = ["number" if schema["format"] in list(_NUMBER_FORMATS) else "string"]
        return [name for name in dict.fromkeys(named) if not (name == "integer" and "number" in named)]

    def _of_type(self, name: str, schema: Schema, where: str, depth: int) -> str:
        if name == "object":
            return self._object(schema, where, depth)
        if name == "array":
            return self._array(schema, where, depth)
        if name == "string":
            return self._string(schema, where)
        if name in ("number", "integer"):
            return self._number(name, schema, where)
        if name == "boolean":
            return self._writer.rule("boolean", '"true" | "false"')
        return '"null"' if name == "null" else self._objects.any_value()

    # ---- listed values

    def _listed(self, schema: Schema, where: str) -> str:
        for keyword in schema:
            if keyword not in ("const", "enum", "type"):
                self._refuse(f"{where}.{keyword}", f"{keyword} beside a list of values can't be enforced")
        values = self._flattener.listed(schema["enum"], f"{where}.enum") if "enum" in schema else None
        place = f"{where}.enum" if "enum" in schema else f"{where}.const"
        texts = None if values is None else [self._text(value, place) for value in values]
        if "const" in schema:
            only = self._text(schema["const"], place)
            texts = [only] if texts is None or only in texts else []
        assert texts is not None
        if "type" in schema:
            allowed = self._types(schema, where)
            texts = [text for text in texts if _has_type(json.loads(text), allowed)]
        if not texts:
            raise Nothing
        if sum(map(len, texts)) > MAX_ENUM_CHARS:
            self._refuse(place, f"more than {MAX_ENUM_CHARS} characters")
        return self._writer.one_of("enum", sorted(set(texts)))

    def _text(self, value: Any, where: str) -> str:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, TypeError):
            self._refuse(where, "must be JSON: no NaN, no infinity, no half of a surrogate pair")
        return text

    # ---- objects and arrays

    def _object(self, schema: Schema, where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            self._refuse(f"{where}.properties", "must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse(f"{where}.required", "must be a list of names")
        rest = schema.get("additionalProperties", not properties)
        members = []
        for name, value in properties.items():
            member = self._member(name, value, f"{where}.properties.{name}", name in required, depth)
            members += [] if member is None else [member]
        for name in dict.fromkeys(name for name in required if name not in properties):
            if rest is False:
                self._refuse(f"{where}.required", f"{name} isn't among the properties")
            member = self._member(name, rest, f"{where}.additionalProperties", True, depth)
            assert member is not None
            members.append(member)
        others: str | None = None
        if rest is not False:
            try:
                others = self._rule(rest, f"{where}.additionalProperties", depth)
            except Nothing:
                others = None
        self._count(schema, where, members, others)
        return self._objects.object(members, others, properties)

    def _member(self, name: str, value: Any, where: str, required: bool, depth: int) -> Member | None:
        try:
            return Member(name, self._rule(value, where, depth), required)
        except Nothing:
            if required:
                raise
            return None

    def _count(self, schema: Schema, where: str, members: list[Member], others: str | None) -> None:
        """Refuse a number of properties that isn't certain anyway."""
        fewest = sum(member.required for member in members)
        if self._size(schema, "minProperties", where, 0) > fewest:
            self._refuse(f"{where}.minProperties", "minProperties can't be enforced; use required")
        if "maxProperties" in schema:
            most = self._size(schema, "maxProperties", where, 0)
            if others is not None or most < len(members):
                self._refuse(f"{where}.maxProperties", "maxProperties can't be enforced")

    def _array(self, schema: Schema, where: str, depth: int) -> str:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):  # as drafts before 2020-12 write it
            first, rest = rest, schema.get("additionalItems", True)
        if not isinstance(first, list):
            self._refuse(f"{where}.prefixItems", "must be a list")
        if first and "items" not in schema:
            rest = False
        low = self._size(schema, "minItems", where, 0)
        high = self._size(schema, "maxItems", where, None)
        for keyword, bound in (("minItems", low), ("maxItems", high)):
            if bound is not None and bound > MAX_REPETITION:
                self._refuse(f"{where}.{keyword}", f"more than {MAX_REPETITION} items can't be counted")
        items: list[str] = []
        for i, value in enumerate(first if high is None else first[:high]):
            try:
                items.append(self._rule(value, f"{where}.prefixItems.{i}", depth))
            except Nothing:
                rest = False
                break
        others: str | None = None
        try:
            if high is None or high > len(items):
                others = self._rule(rest, f"{where}.items", depth)
        except Nothing:
            others = None
        if others is None:
            high = min(len(items), len(items) if high is None else high)
        if high is not None and low > high:
            raise Nothing
        unique = schema.get("uniqueItems", False)
        if not isinstance(unique, bool):
            self._refuse(f"{where}.uniqueItems", "must be true or false")
        if unique and (high is None or high > 1):
            self._refuse(f"{where}.uniqueItems", "uniqueItems can't be enforced")
        return self._objects.array(items, others, low, high)

    def _size(self, schema: Schema, keyword: str, where: str, default: Any) -> Any:
        if keyword not in schema:
            return default
        value = schema[keyword]
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < 0:
            self._refuse(f"{where}.{keyword}", "must be a whole number from 0 on")
        return int(value)

    # ---- strings and numbers

    def _string(self, schema: Schema, where: str) -> str:
        low = self._size(schema, "minLength", where, 0)
        high = self._size(schema, "maxLength", where, None)
        if high is not None and high < low:
            raise Nothing
        if "pattern" in schema and "format" in schema:
            self._refuse(f"{where}.format", "format and pattern can't be enforced together")
        for keyword in ("pattern", "format"):
            if keyword in schema:
                return self._pattern(keyword, schema[keyword], low, high, where)
        for keyword, bound in (("minLength", low), ("maxLength", high)):
            if bound is not None and bound > MAX_REPEATED:
                self._refuse(f"{where}.{keyword}", f"more than {MAX_REPEATED} characters can't be counted")
        text = self._writer.repeat(patterns.string_character(self._writer), low, high)
        return self._writer.rule("string", f'"\\"" {text} "\\""')

    def _pattern(self, keyword: str, value: Any, low: int, high: int | None, where: str) -> str:
        place = f"{where}.{keyword}"
        if not isinstance(value, str):
            self._refuse(place, "must be a string")
        if keyword == "format" and value not in formats.FORMATS:
            self._refuse(place, f"the format {value[:100]!r} isn't known; {', '.join(formats.FORMATS)} are")
        pattern = formats.FORMATS[value] if keyword == "format" else value
        try:
            part = patterns.translate(pattern, self._writer)
        except patterns.PatternError as error:
            self._refuse(place, f"this expression can't be enforced: {error}")
        fits = part.shortest >= low and (high is None or (part.longest is not None and part.longest <= high))
        if not fits:
            bound = "minLength" if part.shortest < low else "maxLength"
            self._refuse(f"{where}.{bound}", f"{bound} and {keyword} can't be enforced together")
        return self._writer.rule("text", f'"\\"" {part.expression} "\\""')

    def _number(self, name: str, schema: Schema, where: str) -> str:
        step = schema.get("multipleOf", 1)
        if isinstance(step, bool) or step != 1:
            self._refuse(f"{where}.multipleOf", "multipleOf can't be enforced")
        whole = name == "integer" or "multipleOf" in schema
        bounds = self._bounds(schema, where)
        known = schema.get("format", "double")
        if not isinstance(known, str) or known not in _NUMBER_FORMATS:
            self._refuse(f"{where}.format", f"the format {str(known)[:100]!r} isn't known for numbers")
        if span := _NUMBER_FORMATS[known]:
            inner = numbers.Bounds(Decimal(span[0]), Decimal(span[1]))
            bounds, whole = _narrower(bounds, inner), True
        if bounds.empty:
            raise Nothing
        if bounds.low is None and bounds.high is None:
            return self._writer.rule("integer", numbers.INTEGER) if whole else self._objects.any_number()
        limit = _INTEGER_LIMIT if whole else _NUMBER_LIMIT
        if any(bound is not None and abs(bound) >= limit for bound in (bounds.low, bounds.high)):
            self._refuse(where, f"bounds from {limit:.0e} on can't be enforced")
        body = numbers.integers(bounds) if whole else numbers.decimals(bounds)
        if body is None:
            raise Nothing
        return self._writer.rule(name, body)

    def _bounds(self, schema: Schema, where: str) -> numbers.Bounds:
        values: dict[str, Decimal | None] = {}
        excluded = {}
        for keyword in ("minimum", "maximum"):
            out = f"exclusive{keyword.capitalize()}"
            excluded[keyword] = schema.get(out) is True  # as draft 4 writes it
            values[keyword] = self._decimal(schema, keyword, where)
            draft_4 = isinstance(schema.get(out), bool)
            values[out] = None if draft_4 else self._decimal(schema, out, where)
        return _narrower(
            numbers.Bounds(values["minimum"], values["maximum"], excluded["minimum"], excluded["maximum"]),
            numbers.Bounds(values["exclusiveMinimum"], values["exclusiveMaximum"], True, True),
        )

    def _decimal(self, schema: Schema, keyword: str, where: str) -> Decimal | None:
        if keyword not in schema:
            return None
        value, place = schema[keyword], f"{where}.{keyword}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._refuse(place, "must be a number")
        number = Decimal(value) if isinstance(value, int) else Decimal(repr(value))
        if number and number.adjusted() < -numbers.DIGITS:
            self._refuse(place, "a bound this close to 0 can't be enforced")
        return number


def _narrower(a: numbers.Bounds, b: numbers.Bounds) -> numbers.Bounds:
    """Between both; an excluded bound is narrower than the same one included."""
    lows = [(bounds.low, bounds.above) for bounds in (a, b) if bounds.low is not None]
    highs = [(-bounds.high, bounds.below) for bounds in (a, b) if bounds.high is not None]
    low, above = max(lows, default=(None, False))
    high, below = max(highs, default=(None, False))
    return numbers.Bounds(low, None if high is None else -high, above, below)


def _has_type(value: Any, names: list[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in names
    if isinstance(value, int | float):
        return "number" in names or ("integer" in names and float(value).is_integer())
    if value is None:
        return "null" in names
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object") in names
