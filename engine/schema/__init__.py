"""JSON Schema to a grammar that llama.cpp enforces: what a model writes under it parses and validates.

Of drafts 7 and 2020-12: types, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`,
`prefixItems`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern`, `format`, bounds of numbers,
`anyOf`, `oneOf`, `allOf`, `$ref` into the same schema (recursive ones too), `nullable`. Annotations are
ignored. Any other keyword, and a use of these that can't be enforced, is refused by name.

A grammar may be narrower than its schema, never wider:
- an object with `properties` has no others, unless `additionalProperties` says so; likewise an array with
  `prefixItems` and no `items`. Properties come in the order of the schema.
- a schema without `type` whose keywords speak of one type has this type
- `oneOf` is taken as `anyOf`: that alternatives exclude each other is the schema's own business
- numbers without bounds have up to 15 digits; those with bounds have no exponent
- formats match the usual forms (`engine.schema.formats`), names of undeclared properties have no escapes

Why not a library: llama-cpp-python's converter ignores keywords that it doesn't know and loads native code in
the app; so do outlines-core, xgrammar and llguidance, which also bring samplers of their own.
"""

from __future__ import annotations

from typing import Any, Final

from engine.errors import TokenglassError
from engine.grammar import MAX_GENERATED, check
from engine.schema.objects import Objects
from engine.schema.translate import Translator
from engine.schema.writer import Writer

__all__ = ["SCHEMA_PATH", "Writer", "add_schema", "any_object", "finished", "to_grammar"]

SCHEMA_PATH: Final = "response_format.json_schema.schema"


def to_grammar(schema: Any, path: str = SCHEMA_PATH, *, stressed: bool = True) -> str:
    """A grammar for values of this schema, checked (see `engine.grammar.check`).

    Raises TokenglassError `invalid_argument` that names the place and the keyword.
    """
    writer = Writer()
    return finished(writer, add_schema(writer, schema, path), path, stressed=stressed)


def any_object() -> str:
    """A grammar for any JSON object."""
    writer = Writer()
    return finished(writer, Objects(writer).any_object(), "response_format", stressed=False)


def add_schema(writer: Writer, schema: Any, path: str) -> str:
    """Write rules for a schema; answers an expression. Raises TokenglassError."""
    try:
        return Translator(writer, schema, path).translate()
    except RecursionError:
        raise TokenglassError("invalid_argument", f"{path}: nested too deeply", path=path) from None


def finished(writer: Writer, root: str, path: str, *, stressed: bool) -> str:
    """The whole grammar with this root, checked. Raises TokenglassError."""
    text = writer.text(root)
    try:
        check(text, MAX_GENERATED, stressed=stressed)
    except TokenglassError as error:
        reason = str(error).removeprefix("grammar: ")
        if "complete" in reason:
            which = "no answer could ever" if reason.startswith("no answer") else "some answers could never"
            reason = f"{which} be complete, since something required refers to itself"
        elif "left recursion" in reason:
            reason = "a reference leads back to itself with nothing between"
        raise TokenglassError("invalid_argument", f"{path}: can't be enforced: {reason}", path=path) from None
    return text
