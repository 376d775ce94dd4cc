"""What an answer must be: a command's `grammar`, `response_format` or forced tool, as one grammar.

The app calls `check_wanted` before it replies, so that what can't be enforced is the command's own error. The
worker calls `answer_grammar`, which knows how its model writes reasoning and calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine.errors import TokenglassError
from engine.gbnf import others
from engine.grammar import check
from engine.schema import Writer, add_schema, any_object, finished, to_grammar
from engine.schema.writer import character_class, literal
from engine.types import NamedToolChoice, ResponseFormat, Tool, ToolChoice

if TYPE_CHECKING:
    from engine.commands import Generate
    from engine.formats import Format

MAX_CALLS: Final = 8
"""In one answer, where `tool_choice` is `required`."""
_ROOT = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\r\n]*|(?<![a-zA-Z0-9-])(root)(?![a-zA-Z0-9-])', re.DOTALL
)
"""The name of the rule root; strings, classes and remarks are passed over."""
_SPACE: Final = "[ \\n]{0,4}"
"""White space around markers, which models write as they like."""


def check_wanted(
    grammar: str | None,
    response_format: ResponseFormat | None,
    tool_choice: ToolChoice,
    tools: Sequence[Tool],
) -> None:
    """Raises TokenglassError `invalid_argument` where it can't be enforced; may take a second."""
    formatted = response_format if response_format is not None and response_format.type != "text" else None
    forced = tool_choice not in ("auto", "none")
    if (grammar is not None) + (formatted is not None) + forced > 1:
        path = "tool_choice" if forced else "response_format"
        raise TokenglassError(
            "invalid_argument",
            f"{path}: only one of grammar, response_format and a forced tool can be obeyed",
            path=path,
        )
    if grammar is not None:
        check(grammar)
    elif formatted is not None:
        _format_grammar(formatted, stressed=True)
    elif forced:
        for i, tool in _chosen(tool_choice, tools):
            to_grammar(tool.function.parameters or {"type": "object"}, _parameters_path(i))


def is_forced(command: Generate) -> bool:
    """Whether the command says what the answer must be."""
    text = command.response_format is None or command.response_format.type == "text"
    return command.grammar is not None or not text or command.tool_choice not in ("auto", "none")


def answer_grammar(command: Generate, form: Format | None, reasoning_open: bool) -> str | None:
    """The grammar of the whole answer, reasoning included; None where anything may be answered.

    Raises TokenglassError `invalid_argument` where this model can't be held to it.
    """
    if not is_forced(command):
        return None
    if command.tool_choice not in ("auto", "none"):
        source = _calls(command, form)
    elif command.grammar is not None:
        source = command.grammar
    else:
        assert command.response_format is not None
        source = _format_grammar(command.response_format, stressed=False)
    if form is None or command.messages is None or not form.reasoning_close.strip():
        return source
    return _after_reasoning(source, form, reasoning_open)


def _format_grammar(wanted: ResponseFormat, *, stressed: bool) -> str:
    if wanted.type == "json_object":
        return any_object()
    if wanted.json_schema is None:
        path = "response_format.json_schema"
        raise TokenglassError("invalid_argument", f"{path}: Field required", path=path)
    return to_grammar(wanted.json_schema.json_schema, stressed=stressed)


def _parameters_path(i: int) -> str:
    return f"tools.{i}.function.parameters"


def _chosen(choice: ToolChoice, tools: Sequence[Tool]) -> list[tuple[int, Tool]]:
    """The tools of which one must be called, and their places."""
    if isinstance(choice, NamedToolChoice):
        name = choice.function.name
        found = [(i, tool) for i, tool in enumerate(tools) if tool.function.name == name]
        if not found:
            path = "tool_choice.function.name"
            raise TokenglassError("invalid_argument", f"{path}: there is no tool {name!r}", path=path)
        return found[:1]
    if not tools:
        message = "tool_choice: there are no tools to call"
        raise TokenglassError("invalid_argument", message, path="tool_choice")
    return list(enumerate(tools))


# ---- calls


def _calls(command: Generate, form: Format | None) -> str:
    """One call of a named tool, or some of any tools, as the model's template writes them."""
    from engine.formats import call_grammar  # the worker's own: the app needs none of it

    writer = Writer()
    tools = [tool for _, tool in _chosen(command.tool_choice, command.tools)]
    calls = None
    if form is not None:
        several = command.tool_choice == "required" and command.parallel_tool_calls
        most = MAX_CALLS if several else 1
        calls = call_grammar(
            form, tools, lambda _, schema: add_schema(writer, dict(schema), "tools"), most=most
        )
    if calls is None:
        raise TokenglassError(
            "invalid_argument",
            "tool_choice: the way in which this model's template writes calls can't be enforced",
            path="tool_choice",
            hint="use auto, or a response_format with a JSON schema",
        )
    return finished(writer, calls, "tool_choice", stressed=False)


# ---- reasoning


def _after_reasoning(source: str, form: Format, reasoning_open: bool) -> str:
    """The same grammar after a block of reasoning: one that the prompt has opened, or one that may come."""
    opening, closing = form.reasoning_open.strip(), form.reasoning_close.strip()
    if not reasoning_open and not opening:
        return source
    own = "reasoning"
    while own in source:
        own += "-x"
    inner = f"{own}-answer"
    block = f"{own}-0 {_SPACE}"
    lines = [f"root ::= {block} {inner}"]
    if not reasoning_open:
        lines = [f"root ::= {own}-block? {inner}", f"{own}-block ::= {literal(opening)} {block}"]
    lines += _up_to(closing, own)
    return "\n".join([*lines, _ROOT.sub(lambda found: inner if found[1] else found[0], source)])


def _up_to(mark: str, name: str) -> list[str]:
    """Rules for any text that ends with the first occurrence of `mark`; the first is called `name`-0.

    Rule i has seen the first i characters of the mark, as in the algorithm of Knuth, Morris and Pratt.
    """
    lines = []
    for seen in range(len(mark)):
        alternatives = []
        for character in sorted(set(mark)):
            text = mark[:seen] + character
            reached = next(n for n in range(len(text), -1, -1) if text.endswith(mark[:n]))
            rest = "" if reached == len(mark) else f" {name}-{reached}"
            alternatives.append(literal(character) + rest)
        different = others([(ord(character), ord(character)) for character in mark])
        lines.append(f"{name}-{seen} ::= {' | '.join(alternatives)} | {character_class(different)} {name}-0")
    return lines
