"""engine.schema: what is written under a translated schema is valid, and what is valid can be written."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.gbnf import MAX_GENERATED, Rules, parse
from engine.schema import any_object, to_grammar
from engine.stacks import Matcher
from tests.conftest import SOAK
from tests.engine.grammars import Child, Derivation, child
from tests.engine.schemas import NoValueError, schemas, valid, value_for, written

PATH = "response_format.json_schema.schema"
# Of a random schema no value may exist, or it may be more ambiguous than llama.cpp can take
TOLERATED = (
    "no value can fulfil this",
    "too ambiguous",
    "can't be enforced together",
    "beside a list of values",
    "bounds from",
    "be complete",
)


@pytest.fixture(scope="module")
def llama(starter_model: Path) -> Iterator[Child]:
    with child(starter_model) as process:
        yield process


def rules_of(schema: Any) -> Rules:
    return parse(to_grammar(schema), MAX_GENERATED)


def takes(schema: Any, text: str) -> bool:
    return Matcher(rules_of(schema)).matches(text)


@pytest.fixture(scope="module")
def counts() -> Iterator[dict[str, int]]:
    found = {"schemas": 0, "refused": 0, "texts": 0, "values": 0}
    yield found
    print(f"random schemas: {found}")


@pytest.mark.timeout(3600)
@settings(max_examples=3000 if SOAK else 60)
@given(schema=schemas, seed=st.integers(0, 10**6))
def test_random_schemas(llama: Child, counts: dict[str, int], schema: Any, seed: int) -> None:
    """Whatever the grammar derives parses and validates; valid values are taken; llama.cpp takes it too."""
    counts["schemas"] += 1
    dice = random.Random(seed)
    try:
        grammar = to_grammar(schema)
    except TokenglassError as error:
        counts["refused"] += 1
        assert any(reason in str(error) for reason in TOLERATED), error  # noqa: PT017
        return
    rules = parse(grammar, MAX_GENERATED)
    for brief in (20, 60, 200):
        derivation = Derivation(rules, dice, brief)
        for _ in range(4):
            text = derivation.text()
            assert valid(json.loads(text), schema), (schema, text)
            counts["texts"] += 1
    matcher = Matcher(rules)
    for _ in range(4):
        try:
            value = value_for(schema, schema, dice)
        except NoValueError:
            continue
        text = written(value, schema, dice)
        if valid(json.loads(text), schema):
            assert matcher.matches(text), (schema, text)
            counts["values"] += 1
    assert llama.ask(grammar, seed=seed, draw=4)["taken"]


PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "full name", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "friend": {"$ref": "#"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "taken"),
    (
        ('{"name": "Ann", "age": 7}', True),
        ('{"name":"Ann","age":7}', True),
        ('{\n  "name": "Ann",\n  "age": 7\n}', True),
        ('{"name": "Ann", "age": 7, "tags": ["a", "b"], "friend": {"name": "B", "age": 0}}', True),
        ('{"name": "Ann", "age": 7, "friend": {"name": "B", "age": 0}}', True),
        ('{"age": 7, "name": "Ann"}', False),
        ('{"name": "Ann"}', False),
        ('{"name": "", "age": 7}', False),
        ('{"name": "Ann", "age": 151}', False),
        ('{"name": "Ann", "age": 07}', False),
        ('{"name": "Ann", "age": 7, "tags": ["a", "b", "a"]}', False),
        ('{"name": "Ann", "age": 7, "tags": ["ab"]}', False),
        ('{"name": "Ann", "age": 7, "more": 1}', False),
        ('{"name": "Ann", "age": 7,}', False),
        ('{ \t"name": "Ann", "age": 7}', False),
        ('{\n\n"name": "Ann", "age": 7}', False),
        ("{\n" + " " * 21 + '"name": "Ann", "age": 7}', False),
        ('{"name" : "Ann", "age": 7}', False),
        ('{"name": "\\ud83d", "age": 7}', False),
        ('{"name": "\\u00e9\\n", "age": 7}', True),
        ('{"name": "a\nb", "age": 7}', False),
        ('{"name": "Ann", "age": 7} ', False),
    ),
)
def test_a_usual_schema(text: str, taken: bool) -> None:
    assert takes(PERSON, text) == taken


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    (
        (
            {"type": "integer", "minimum": -5, "maximum": 13},
            ("-5", "-1", "0", "13"),
            ("-6", "14", "-0", "1.0"),
        ),
        ({"type": "integer", "exclusiveMinimum": 99}, ("100", "999", "123456789012345"), ("99", "-100", "7")),
        ({"type": "integer", "maximum": -17}, ("-17", "-18", "-100000"), ("-16", "0", "17")),
        ({"type": "integer", "minimum": 1.5, "maximum": 2.5}, ("2",), ("1", "3", "1.5")),
        ({"type": "integer", "minimum": 10, "exclusiveMinimum": True}, ("11",), ("10",)),
        ({"type": "integer", "format": "int32"}, ("2147483647", "-2147483648"), ("2147483648",)),
        ({"type": "integer", "multipleOf": 1}, ("5",), ("5.5",)),
        (
            {"type": "number", "minimum": 0, "maximum": 1},
            ("0", "0.5", "1", "1.0"),
            ("1.1", "-0", "-0.1", "1e0"),
        ),
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ("0.001", "0.99"),
            ("0", "0.0", "1"),
        ),
        (
            {"type": "number", "minimum": -1.25, "maximum": -1.2},
            ("-1.25", "-1.23", "-1.2"),
            ("-1.26", "-1.19"),
        ),
        ({"type": "number", "minimum": 0.1, "maximum": 0.1}, ("0.1",), ("0.10001", "0", "0.09")),
        ({"type": "number", "minimum": 12.5}, ("12.5", "12.75", "13", "9000.25"), ("12.4", "12", "9")),
        ({"type": "number"}, ("-0.5", "1e5", "-1.5E-3", "0"), ("01", "1.", ".5", "1e100", "+1")),
        ({"type": "string", "maxLength": 2}, ('""', '"\\n\\""', '"é😀"'), ('"abc"', '"\\ud83d\\ude00"')),
        (
            {"type": "string", "minLength": 200, "maxLength": 300},
            ('"' + "x" * 300 + '"',),
            ('"' + "x" * 301 + '"',),
        ),
        ({"enum": ["a", 1, None, [1, {"b": 2}]]}, ('"a"', "1", "null", '[1, {"b": 2}]'), ('"b"', "2", "[1,")),
        ({"enum": [1, "1", True], "type": ["string", "boolean"]}, ('"1"', "true"), ("1",)),
        ({"const": 1.5}, ("1.5",), ("1", "1.50")),
        ({"type": "array", "items": False}, ("[]",), ("[1]",)),
        ({"type": "array", "maxItems": 0}, ("[]", "[ ]"), ("[1]",)),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, ("[null,null]",), ("[null]", "[]")),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]},
            ("[]", "[1]", "[1, 2]"),
            ("[2]", "[1,2,3]"),
        ),
        (
            {"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 1},
            ("[1]", "[1,2,2]"),
            ("[]", "[2]"),
        ),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ("[]", "[5]"), ("[5,5]",)),
        ({"type": "object"}, ("{}", '{"a": [1, {"b": null}]}'), ("[]", '{"a"}')),
        ({"type": "object", "properties": {}}, ("{}", '{"a": 1}'), ("[]",)),
        ({"type": "object", "additionalProperties": False}, ("{}",), ('{"a": 1}',)),
        (
            {"properties": {"ab": {"const": 1}}, "additionalProperties": {"const": 2}},
            ("{}", '{"ab": 1}', '{"a": 2}', '{"ab": 1, "abc": 2, "": 2}'),
            ('{"ab": 2}', '{"ab": 1, "ab": 2}', '{"a\\u0062": 2}', '{"c": 1}'),
        ),
        ({"required": ["x"], "type": "object"}, ('{"x": 5}',), ("{}",)),
        ({"properties": {"a": False, "b": True}}, ('{"b": 1}', "{}"), ('{"a": 1}',)),
        ({"properties": {"a": False}, "additionalProperties": True}, ('{"b": 1}',), ('{"a": 1}',)),
        ({"anyOf": [{"const": 1}, {"const": 2}, False]}, ("1", "2"), ("3",)),
        (
            {"type": "object", "properties": {"k": {"enum": [1, 2]}}, "anyOf": [{"required": ["k"]}]},
            ('{"k": 1}',),
            ("{}",),
        ),
        (
            {"allOf": [{"type": ["string", "integer"]}, {"minimum": 3, "maximum": 9}, {"type": "number"}]},
            ("3", "9"),
            ('"a"', "10", "3.5"),
        ),
        (
            {"allOf": [{"properties": {"a": {"minimum": 1}}}, {"properties": {"a": {"type": "integer"}}}]},
            ('{"a": 1}',),
            ('{"a": 0}',),
        ),
        # what one says of all items goes for those that the other tells one by one
        (
            {
                "allOf": [
                    {"prefixItems": [{"minimum": 5}], "items": {"minimum": 7}},
                    {"items": {"maximum": 9}},
                ]
            },
            ("[]", "[5]", "[9, 7, 7]"),
            ("[4]", "[10]", "[5, 6]"),
        ),
        (
            {"allOf": [{"items": {"maximum": 9}}, {"prefixItems": [{"minimum": 5}], "items": False}]},
            ("[]", "[5]", "[9]"),
            ("[4]", "[10]", "[5, 5]"),
        ),
        (
            {
                "prefixItems": [{"minimum": 5}, {"const": "a"}],
                "allOf": [
                    {"prefixItems": [{"maximum": 9}]},
                    {"items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
                ],
            },
            ("[]", "[5]", '[9, "a"]', '[9, "a", "x"]'),
            ("[4]", "[10]", "[5.5]", "[5, 5]", '[9, "b"]', '[9, "a", 1]'),
        ),
        ({"type": "string", "nullable": True}, ('"a"', "null"), ("1",)),
        ({"$ref": "#/definitions/a~1b/0", "definitions": {"a/b": [{"const": 1}]}}, ("1",), ("2",)),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"const": 1}}}, ("1",), ("2",)),
        ({"$ref": "#/$defs/List[int]", "$defs": {"List[int]": {"const": 1}}}, ("1",), ("2",)),
        ({"$ref": "#/%24defs/%C3%A9%7E1~0%25", "$defs": {"é/~%": {"const": 1}}}, ("1",), ("2",)),
        ({"$ref": "#/$defs%2Fa/b~01", "$defs": {"a": {"b~1": {"const": 1}}}}, ("1",), ("2",)),
        ({"$ref": "#/$defs/50%", "$defs": {"50%": {"const": 1}}}, ("1",), ("2",)),
        ({"type": "string", "pattern": "^[^x]{2}$"}, ('"ab"', '"\\\\\\""', '"é\\n"'), ('"ax"', '"a"')),
        ({"type": "string", "pattern": "x"}, ('"x"', '"axb"'), ('"ab"',)),
        ({"type": "string", "pattern": "^a|b$"}, ('"abc"', '"xb"'), ('"xa"', '"bx"')),
        ({"type": "string", "pattern": "^a{2,3}?$", "maxLength": 3}, ('"aa"',), ('"a"',)),
        (
            {"type": "string", "format": "date"},
            ('"2024-02-29"', '"1999-12-31"'),
            ('"2023-02-29"', '"1999-04-31"'),
        ),
        (True, ("1", '"a"', "[]", '{"a": {"b": [true]}}'), ("", "undefined")),
    ),
)
def test_what_is_taken(schema: Any, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    for text in good:
        assert takes(schema, text), text
    for text in bad:
        assert not takes(schema, text), text


def refusal(schema: Any) -> tuple[str, str]:
    """Place below the schema, and reason."""
    with pytest.raises(TokenglassError) as caught:
        to_grammar(schema)
    info = caught.value.info
    assert info.code == "invalid_argument"
    assert info.path is not None
    assert info.path.startswith(PATH)
    assert info.message.startswith(f"{info.path}: ")
    return info.path.removeprefix(PATH), info.message.removeprefix(f"{info.path}: ")


# Which alternative was meant is told only after the inner one
AMBIGUOUS = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "anyOf": [
                *(
                    {
                        "properties": {"child": {"$ref": "#/$defs/node"}, "kind": {"const": kind}},
                        "required": ["child", "kind"],
                    }
                    for kind in (1, 2)
                ),
                {"type": "null"},
            ]
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    (
        *(
            ({"properties": {"a": {keyword: {}}}}, f".properties.a.{keyword}", f"{keyword} can't")
            for keyword in (
                "not",
                "if",
                "patternProperties",
                "propertyNames",
                "contains",
                "dependentRequired",
                "unevaluatedProperties",
                "$dynamicRef",
                "made-up",
            )
        ),
        ({"type": "text"}, ".type", "must be one or more of"),
        ({"type": []}, ".type", "must be one or more of"),
        ({"type": 5}, ".type", "must be one or more of"),
        ([], "", "a schema must be an object"),
        (False, "", "no value can fulfil"),
        ({"enum": []}, ".enum", "must be a list that isn't empty"),
        ({"enum": [1, float("inf")]}, ".enum", "must be JSON"),
        ({"const": "\ud800"}, ".const", "must be JSON"),
        ({"enum": ["abc"], "minLength": 2}, ".minLength", "minLength beside a list"),
        ({"enum": ["x" * 100_001]}, ".enum", "more than 100000 characters"),
        ({"type": "string", "pattern": "(?=a)b"}, ".pattern", "lookaround, flags and named groups"),
        ({"type": "string", "pattern": r"(a)\1"}, ".pattern", r"\1 isn't supported"),
        ({"type": "string", "pattern": r"\bword"}, ".pattern", r"\b isn't supported"),
        ({"type": "string", "pattern": "a**"}, ".pattern", "a repetition of a repetition"),
        ({"type": "string", "pattern": "(a*)*"}, ".pattern", "can be empty"),
        ({"type": "string", "pattern": "(a"}, ".pattern", "isn't closed"),
        ({"type": "string", "pattern": "a)"}, ".pattern", "a closing parenthesis too many"),
        ({"type": "string", "pattern": "[z-a]"}, ".pattern", "ends before it begins"),
        ({"type": "string", "pattern": "[a"}, ".pattern", "isn't closed"),
        ({"type": "string", "pattern": "a^b"}, ".pattern", "^ inside the expression"),
        ({"type": "string", "pattern": r"\p{L}"}, ".pattern", r"\p isn't supported"),
        ({"type": "string", "pattern": "[]a]"}, ".pattern", "begins with ]"),
        ({"type": "string", "pattern": "{a"}, ".pattern", "a brace that begins no repetition"),
        ({"type": "string", "pattern": "(ab){5000}"}, ".pattern", "more than 1000 repetitions"),
        ({"type": "string", "pattern": r"^\x01$"}, ".pattern", "can't stand in JSON"),
        ({"type": "string", "pattern": 5}, ".pattern", "must be a string"),
        ({"type": "string", "pattern": "(" * 40 + ")" * 40}, ".pattern", "more than 32 groups"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 5}, ".maxLength", "maxLength and pattern"),
        ({"type": "string", "pattern": "^a$", "format": "date"}, ".format", "format and pattern"),
        ({"type": "string", "format": "password"}, ".format", "'password' isn't known"),
        ({"type": "string", "maxLength": 10**6}, ".maxLength", "more than 100000 characters"),
        ({"type": "string", "maxLength": -1}, ".maxLength", "must be a whole number"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "", "no value"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "", "no value"),
        ({"type": "integer", "minimum": "5"}, ".minimum", "must be a number"),
        ({"type": "integer", "minimum": float("nan")}, ".minimum", "must be a number"),
        ({"type": "integer", "maximum": 10**30}, "", "bounds from 1e+25 on"),
        ({"type": "number", "maximum": 1e300}, "", "bounds from 1e+14 on"),
        ({"type": "number", "minimum": 1e-300}, ".minimum", "this close to 0"),
        # null is no way to leave a keyword out: nothing is known of what was meant
        *(
            ({"type": kind, keyword: None}, f".{keyword}", "must be a ")
            for kind, keywords in {
                "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
                "string": ("minLength", "maxLength", "pattern", "format"),
                "array": ("minItems", "maxItems", "prefixItems"),
            }.items()
            for keyword in keywords
        ),
        ({"type": "object", "maxProperties": None}, ".maxProperties", "must be a whole number"),
        ({"type": "number", "format": None}, ".format", "isn't known for numbers"),
        ({"type": "array", "uniqueItems": None}, ".uniqueItems", "must be true or false"),
        ({"type": "array", "uniqueItems": "yes"}, ".uniqueItems", "must be true or false"),
        ({"type": "string", "nullable": 1}, ".nullable", "must be true or false"),
        ({"type": "number", "multipleOf": 0.5}, ".multipleOf", "can't be enforced"),
        ({"format": ["date"]}, ".format", "must be a string"),
        ({"type": "number", "format": ["half"]}, ".format", "isn't known for numbers"),
        ({"type": "number", "format": "half"}, ".format", "isn't known for numbers"),
        ({"type": "array", "maxItems": 5000}, ".maxItems", "more than 2000 items"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems", "can't be enforced"),
        ({"type": "array", "prefixItems": {}}, ".prefixItems", "must be a list"),
        ({"type": "array", "minItems": 2, "items": False}, "", "no value"),
        ({"type": "object", "properties": []}, ".properties", "must be an object"),
        ({"type": "object", "required": "a"}, ".required", "must be a list of names"),
        ({"properties": {"a": {}}, "required": ["b"]}, ".required", "b isn't among the properties"),
        ({"type": "object", "minProperties": 1}, ".minProperties", "use required"),
        ({"type": "object", "maxProperties": 1}, ".maxProperties", "can't be enforced"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "", "no value"),
        ({"anyOf": []}, ".anyOf", "must be a list that isn't empty"),
        ({"anyOf": [False]}, "", "no value"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "", "no value"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "", "two different pattern"),
        ({"allOf": [{"prefixItems": 1}, {"items": {}}]}, ".prefixItems", "must be a list"),
        (
            {"allOf": [{"prefixItems": [{}]}, {"items": None}]},
            ".prefixItems.0.allOf.1",
            "a schema must be an object",
        ),
        ({"allOf": [{"minimum": "a"}, {"minimum": 1}]}, "", "minimum isn't of the right type"),
        ({"$ref": "https://example.org/schema"}, ".$ref", "only references into the same schema"),
        ({"$ref": "#/$defs/none"}, ".$ref", "there is no #/$defs/none"),
        ({"$ref": 5}, ".$ref", "only references"),
        ({"$ref": "#"}, "", "a reference leads back to itself"),
        ({"anyOf": [{"$ref": "#"}, {"const": 1}]}, "", "a reference leads back to itself"),
        ({"allOf": [{"$ref": "#"}], "minimum": 1}, ".allOf.0.$ref.allOf.0.$ref", "lead back to"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "", "no answer could ever be complete"),
        (
            {
                "properties": {"a": {"anyOf": [{"const": 1}, {"$ref": "#/$defs/endless"}]}},
                "$defs": {"endless": {"properties": {"b": {"$ref": "#/$defs/endless"}}, "required": ["b"]}},
            },
            "",
            "some answers could never be complete",
        ),
        (AMBIGUOUS, "", "too ambiguous"),
    ),
)
def test_what_is_refused_by_name(schema: Any, place: str, reason: str) -> None:
    found, message = refusal(schema)
    assert found.startswith(place) if "allOf.0.$ref" in place else found == place
    assert reason in message


def test_any_object_is_json() -> None:
    rules = parse(any_object())
    derivation = Derivation(rules, random.Random(1), brief=100)
    for _ in range(200):
        assert isinstance(json.loads(derivation.text()), dict)
    value = {"a": [1, -2.5e10, None, True, {"": "\u2028\\"}], "é": {}}
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, indent=2, ensure_ascii=False)):
        assert Matcher(rules).matches(text)
    assert not Matcher(rules).matches("[1]")


@pytest.mark.parametrize(("low", "high"), ((-3, 12), (95, 1203), (-1050, -87), (7, 7), (0, 100000), (-9, 0)))
def test_whole_numbers_are_bounded_exactly(low: int, high: int) -> None:
    matcher = Matcher(rules_of({"type": "integer", "minimum": low, "maximum": high}))
    step = max(1, (high - low) // 500)
    near = {n + d for n in (low, high, 0, 9, 10, 99, 100, 999, 1000) for d in (-2, -1, 0, 1, 2)}
    for n in {*range(low - 5, high + 6, step), *near}:
        assert matcher.matches(str(n)) == (low <= n <= high), n


def test_hostile_sizes_end_in_words_or_a_grammar_and_soon() -> None:
    """CPU time, with much room: this runs in a thread of the app, beside its loop."""
    deep: Any = {"type": "null"}
    for _ in range(900):
        deep = {"type": "array", "items": deep}
    hostile: tuple[Any, ...] = (
        deep,
        {"enum": ["a" * n for n in range(400)]},
        {"enum": [f"{n:x}-{n * 7919 % 65536:x}" for n in range(8000)]},
        {"properties": {f"p{n}": {"type": "string", "maxLength": n} for n in range(1500)}},
        {"properties": {f"p{n}": {} for n in range(400)}, "additionalProperties": True},
        {"anyOf": [{"properties": {f"p{n}": {}}, "required": [f"p{n}"]} for n in range(2000)]},
        {"allOf": [{"properties": {f"p{n}": {}}} for n in range(3000)]},
        {"$ref": "#/$defs/n0", "$defs": {f"n{n}": {"$ref": f"#/$defs/n{n + 1}"} for n in range(3000)}},
        {
            "$defs": {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(60)},
            "$ref": "#/$defs/n0",
        },
        {"type": "string", "pattern": "(" + "|".join(f"a{{{n},200}}" for n in range(150)) + ")"},
        {"type": "string", "pattern": "((a?){100}){100}"},
        {"type": "string", "pattern": "[" + "".join(map(chr, range(0x100, 0xD000, 3))) + "]"},
        {"properties": {"x" * 20_000: {}}, "additionalProperties": True},
        {"type": "array", "prefixItems": [{"type": "integer"}] * 1500},
    )
    for schema in hostile:
        start = time.thread_time()
        try:
            grammar = to_grammar(schema)
        except TokenglassError as error:
            assert error.code == "invalid_argument"  # noqa: PT017
        else:
            assert len(grammar.encode()) <= MAX_GENERATED
        assert time.thread_time() - start < 10, str(schema)[:100]


def mutated(schema: Any, dice: random.Random) -> Any:
    """The schema with one place in it changed."""
    if not isinstance(schema, dict | list) or not schema or dice.random() < 0.15:
        return dice.choice(ODD)
    if isinstance(schema, list):
        place = dice.randrange(len(schema))
        return [mutated(item, dice) if i == place else item for i, item in enumerate(schema)]
    keyword = dice.choice(list(schema))
    changed = {**schema, keyword: mutated(schema[keyword], dice)}
    if dice.random() < 0.3:
        changed[dice.choice(KEYWORDS)] = changed.pop(keyword)
    return changed


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1e400, 10**40, 0.1, "", "#", "\ud800", "x" * 300, [], {}, [[]]),
    *(["string", 5], {"$ref": "#"}, {"type": "object"}, {"anyOf": [{"$ref": "#"}, {}]}),
    *({"enum": list(range(500))}, {"pattern": "(a|b){1,9}[^c]+"}, {"maxLength": 10**9}),
    *({"minItems": 1999}, {"allOf": [{"$ref": "#"}] * 3}),
)
KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems"),
    *("maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "multipleOf", "anyOf", "oneOf", "allOf", "$ref", "enum", "const", "nullable"),
    *("not", "title", "uniqueItems", "minProperties", "$defs"),
)


@pytest.mark.timeout(3600)
def test_mutated_schemas_are_refused_or_work(llama: Child) -> None:
    """Also as the app does it: no other exception than ours, and llama.cpp takes what comes out."""
    dice = random.Random(5)
    taken = refused = 0
    for seed in range(5000 if SOAK else 100):
        schema: Any = dice.choice((PERSON, AMBIGUOUS, {"oneOf": [PERSON, {"enum": [1, "a"]}]}, LARGE))
        for _ in range(dice.randint(1, 3)):
            schema = mutated(schema, dice)
        try:
            grammar = to_grammar(schema)
        except TokenglassError as error:
            assert error.code == "invalid_argument"  # noqa: PT017
            refused += 1
            continue
        taken += 1
        text = Derivation(parse(grammar, MAX_GENERATED), dice, brief=60).text()
        assert valid(json.loads(text), schema), (schema, text)
        assert llama.ask(grammar, seed=seed, draw=3)["taken"], schema
    print(f"mutated schemas: {taken} taken, {refused} refused")
    assert taken > refused / 20
    assert refused


LARGE = {
    "type": "object",
    "properties": {
        "when": {"type": "string", "format": "date-time"},
        "list": {
            "type": "array",
            "prefixItems": [{"type": "number", "minimum": 0.5}],
            "items": {"type": "null"},
        },
        "code": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"},
        "more": {"allOf": [{"properties": {"a": {"const": [1]}}}, {"required": ["a"]}]},
    },
    "required": ["when"],
    "additionalProperties": {"type": ["integer", "boolean"]},
}
