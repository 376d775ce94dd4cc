"""How a chat template's model writes reasoning and tool calls: plain data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.backend import Backend
from engine.errors import TokenglassError

CallKind = Literal["json", "name_json", "parameters", "elements", "python", "dict"]
"""How name and arguments of a call are written:

- `json`: one JSON object with both: `{"name": "f", "arguments": {"a": 1}}`
- `name_json`: the name, then the arguments as a JSON object: `f[ARGS]{"a": 1}`
- `parameters`: the name, then each argument between markers: `<function=f><parameter=a>1</parameter>…`
- `elements`: the same with a tag of its own name for each argument and item: `<a>1</a>`
- `python`: `f(a=1)`
- `dict`: `f{a:1}`, with strings between markers of their own
"""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What stands around calls and in them.

    Literals are as the template writes them, white space included; in answers that white space is optional.
    """

    kind: CallKind = "json"
    section_open: str = ""
    """Before all calls; empty: calls stand by themselves."""
    section_close: str = ""
    open: str = ""
    """Before each call."""
    close: str = ""
    separator: str = ""
    """Between two calls of a section."""
    name_key: str = "name"
    """`json`: the field with the name; empty: the name is the only key and the arguments are its value."""
    arguments_key: str = "arguments"
    before_name: str = ""
    """`json`: the object's text before the name's value."""
    before_arguments: str = ""
    """`json`: its text between name and arguments."""
    after_arguments: str = ""
    name_open: str = ""
    """Between `open` and the name, after an id; empty: the name comes at once."""
    name_close: str = ""
    """After the name and what may follow it (an id)."""
    id_open: str = ""
    """Between the name and an id that follows it."""
    id_rule: str = ""
    """GBNF of an id beside the name."""
    parameter_open: str = ""
    value_open: str = ""
    """Between an argument's name (and type) and its value."""
    value_close: str = ""
    string_open: str = ""
    """`parameters`: what tells a string's type, after the argument's name. `dict`: around a string."""
    other_open: str = ""
    """`parameters`: what tells any other type."""


@dataclass(frozen=True, slots=True)
class Header:
    """An answer made of messages, each with a header that says what the message is."""

    open: str
    """Before each header but the first, which the prompt may have opened."""
    begins: tuple[str, ...]
    """What a header begins with; empty: a name."""
    close: str
    """After a header; white space counts."""
    ends: tuple[str, ...]
    """After a message."""
    reasoning: str
    """Pattern of headers of reasoning."""
    call: str
    """Pattern of headers of a call; its group is the name. Its message is the arguments in JSON."""
    call_header: str = ""
    """A call's first header with what closes it, and `{name}` for the name; empty: calls can't be forced."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a chat template's model writes around reasoning and calls."""

    name: str
    """A named format, or `learned`."""
    reasoning_open: str = ""
    """Empty, and the close isn't: the prompt opens the reasoning."""
    reasoning_close: str = ""
    calls: CallSyntax | None = None
    skip: tuple[str, ...] = ()
    """Markers around content, which are no part of it."""
    header: Header | None = None
    reasoning_tokens: frozenset[int] = frozenset()
    """Control tokens with a text that tells reasoning or content apart (`bind`)."""
    call_tokens: frozenset[int] = frozenset()
    """Control tokens with a text that belongs to calls."""

    @property
    def reasons(self) -> bool:
        """Reasoning is told apart."""
        return bool(self.reasoning_close) or self.header is not None

    @property
    def has_calls(self) -> bool:
        return self.calls is not None or (self.header is not None and bool(self.header.call))

    @property
    def told(self) -> dict[str, Any]:
        """What `ModelInfo` says of it."""
        return {"format": self.name, "tools": self.has_calls, "reasoning": self.reasons}

    def leaves_reasoning_open(self, prompt: str) -> bool:
        """Whether the prompt ends inside a reasoning block."""
        mark = self.reasoning_open.strip()
        return bool(mark) and prompt.rstrip().endswith(mark)

    def shown_tokens(self, tools: bool) -> frozenset[int]:
        """Control tokens whose text the parser must see."""
        return self.reasoning_tokens | self.call_tokens if tools else self.reasoning_tokens

    def bind(self, backend: Backend) -> Format:
        """The format with the model's control tokens that its markers are made of."""

        def control(literals: Iterator[str]) -> frozenset[int]:
            tokens: set[int] = set()
            for literal in filter(None, literals):
                with contextlib.suppress(TokenglassError):  # it can't be spelt, so it won't be
                    tokens.update(backend.tokenize(literal, add_special=False, parse_special=True))
            return frozenset(t for t in tokens if not backend.piece(t) and backend.piece(t, special=True))

        return replace(
            self,
            reasoning_tokens=control(self._answer_literals()),
            call_tokens=control(self._call_literals()),
        )

    def _answer_literals(self) -> Iterator[str]:
        yield self.reasoning_open
        yield self.reasoning_close
        yield from self.skip
        if self.header is not None:
            yield self.header.open
            yield from self.header.begins
            yield self.header.close
            yield from self.header.ends

    def _call_literals(self) -> Iterator[str]:
        calls = self.calls
        if calls is not None:
            yield from (calls.section_open, calls.section_close, calls.open, calls.close, calls.separator)
            yield from (calls.name_open, calls.name_close, calls.id_open)
            yield from (calls.parameter_open, calls.value_open, calls.value_close)
            yield from (calls.string_open, calls.other_open)


HERMES = Format(
    "hermes",
    reasoning_open="<think>\n",
    reasoning_close="\n</think>\n\n",
    calls=CallSyntax(
        open="<tool_call>\n",
        close="\n</tool_call>",
        separator="\n",
        before_name='{"name": ',
        before_arguments=', "arguments": ',
        after_arguments="}",
    ),
)
"""The most common one, taken where tools are given and the template tells nothing."""
