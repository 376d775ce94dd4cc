"""Learns a template's format from the template: render known conversations, and see what surrounds them.

A template is a program by whoever made the model. Whatever it does here, at worst nothing is learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

from engine.errors import TokenglassError
from engine.formats.format import CallSyntax, Format
from engine.formats.markers import skip_space
from engine.formats.named import named_calls, named_format
from engine.formats.parser import SHORTEST_MARK
from engine.formats.split import common_prefix, common_suffix, first_tag, up_to_counterpart, without_end
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall


class Render(Protocol):
    """Renders the template, as `ChatTemplate.render`. Raises TokenglassError where it refuses."""

    def __call__(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str: ...


class Learned(NamedTuple):
    """What was found out; without a form, all that the model writes is plain text."""

    format: Format | None
    reason: str = ""
    """Why calls or reasoning aren't understood, for the log."""


_ASKED: Final = "Whatisitthen"
_CONTENT: Final = "Thiswassaid"
_THOUGHT: Final = "Thiswasthought"
_FIELDS: Final = {"a_place": "Reykjavik", "b_label": "Ultramarine", "c_count": 71077}
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        name: {"type": "string" if isinstance(value, str) else "integer", "description": "A value."}
        for name, value in _FIELDS.items()
    },
    "required": list(_FIELDS),
}
_NAMES: Final = ("probe_alpha", "look_beta")
_TOOLS: Final = [
    Tool(type="function", function=FunctionSpec(name=name, description="Looks it up.", parameters=_SCHEMA))
    for name in _NAMES
]
_CALLS: Final = [
    ToolCall(id=f"ab12cd34{i}", name=name, arguments=json.dumps(_FIELDS)) for i, name in enumerate(_NAMES)
]
_PAIRS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
)
"""Reasoning markers to look for in a template that doesn't render past reasoning."""
_TAG: Final = re.compile(r"<[^<>\s][^<>]*>|\[[^\[\]]+\]")


def learn(render: Render, source: str | None = None) -> Learned:
    """Find a template's format. `source` is its text, where it tells more than its renderings."""
    source = source or ""
    if (form := named_format(source)) is not None:
        return Learned(form)
    probe = _Probe(render)
    if probe.text is None or _CONTENT not in probe.text:
        return Learned(None, "the template doesn't render an answer")
    reasoning = _reasoning(probe) or _reasoning_in_source(source)
    form = Format("learned", *(reasoning or ("", "")))
    reason = ""
    try:
        calls = _calls(probe, form)
    except _UnknownError as error:
        calls, reason = None, str(error)
    if calls is not None and calls.kind == "json" and not (calls.open or calls.section_open):
        # Llama 3 writes bare objects, and sometimes its tag for code before them
        form = replace(form, name="llama3-json", skip=("<|python_tag|>",))
    end_of_turn = first_tag(probe.text.split(_CONTENT, 1)[1])
    if calls is not None and end_of_turn and end_of_turn in calls.section_open + calls.open:
        form = replace(form, skip=(end_of_turn,))  # it doesn't end the answer, then
    if calls is None and (known := named_calls(source)) is not None:
        form, calls = replace(form, name=known.name, skip=known.skip), known.calls
    if calls is None and reasoning is None:
        return Learned(None, reason)
    return Learned(replace(form, calls=calls), reason if calls is None else "")


class _UnknownError(Exception):
    """Calls are written in a way that isn't understood."""


class _Probe:
    """Renderings of known conversations, from the user's words on; None where the template refuses."""

    def __init__(self, render: Render) -> None:
        self._render = render
        answer = ChatMessage(role="assistant", content=_CONTENT)
        self.text = self._after_user([answer])
        self.prompt = self.reasoned = self.one = self.two = self.reasoned_call = None
        if self.text is None or _CONTENT not in self.text:
            return
        self.prompt = self._after_user([], add_generation_prompt=True)
        self.reasoned = self._after_user([answer.model_copy(update={"reasoning": _THOUGHT})])
        one = ChatMessage(role="assistant", tool_calls=_CALLS[:1])
        self.one = self._after_user([one])
        self.two = self._after_user([ChatMessage(role="assistant", tool_calls=_CALLS)])
        self.reasoned_call = self._after_user([one.model_copy(update={"reasoning": _THOUGHT})])

    def _after_user(self, answer: list[ChatMessage], add_generation_prompt: bool = False) -> str | None:
        user = ChatMessage(role="user", content=_ASKED)
        try:
            text = self._render([user, *answer], _TOOLS, add_generation_prompt=add_generation_prompt)
        except TokenglassError:
            return None
        return text[text.rindex(_ASKED) + len(_ASKED) :] if _ASKED in text else None


# ---- reasoning


def _reasoning(probe: _Probe) -> tuple[str, str] | None:
    """What opens and what closes reasoning."""
    head = (probe.text or "").split(_CONTENT, 1)[0]
    for text, after in ((probe.reasoned, _CONTENT), (probe.reasoned_call, _NAMES[0])):
        if text is None or _THOUGHT not in text:
            continue
        start = text.index(_THOUGHT)
        end = start + len(_THOUGHT)
        closing = _TAG.search(text, end, max(text.find(after, end), end))
        if closing is None:
            continue
        close = text[end : skip_space(text, closing.end())]
        before = text[:start]
        opening = [tag for tag in _TAG.finditer(before) if tag.start() >= len(common_prefix(head, before))]
        twin = _counterpart(closing.group())
        if twin in before:
            return before[before.rindex(twin) :], close
        if opening:
            return before[opening[-1].start() :], close
        if probe.prompt is not None:  # nothing but the prompt for the answer opens it
            return probe.prompt[len(common_prefix(probe.prompt, before)) :], close
    return None


def _counterpart(closing: str) -> str:
    return closing.replace("/", "", 1) if "/" in closing else closing.replace("END", "START")


def _reasoning_in_source(source: str) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[1] in source), None)


# ---- calls


@dataclass(frozen=True, slots=True)
class _Found:
    """One call in a text, from the name or the object that has it."""

    start: int
    end: int
    syntax: CallSyntax


def _calls(probe: _Probe, form: Format) -> CallSyntax | None:
    """How calls are written. Raises _UnknownError."""
    assert probe.text is not None
    head, end_of_turn = probe.text.split(_CONTENT, 1)
    text = probe.one
    if text is None:
        raise _UnknownError("the template refuses tool calls")
    if _NAMES[0] not in text:
        raise _UnknownError("the template leaves tool calls out")
    found = _find(text, _NAMES[0], 0)
    if found is None:
        raise _UnknownError("name and arguments of a call are written in an unknown way")
    before = text[len(common_prefix(head, text)) : found.start]
    for mark in (form.reasoning_open, form.reasoning_close):
        before = before.replace(mark.strip(), "", 1)
    before = before.lstrip()
    after = without_end(text[found.end :], end_of_turn)
    between = None
    if probe.two is not None and _NAMES[1] in probe.two:
        first = _find(probe.two, _NAMES[0], 0)
        second = first and _find(probe.two, _NAMES[1], first.end)
        if first and second:
            between = probe.two[first.end : second.start]
            after = without_end(probe.two[second.end :], end_of_turn)
    syntax = _around(found.syntax, before, between, after)
    mark = (syntax.section_open or syntax.open).strip()
    if len(mark) < SHORTEST_MARK and not (syntax.kind == "json" and not mark):
        raise _UnknownError("nothing marks where calls begin")
    return syntax


def _around(syntax: CallSyntax, before: str, between: str | None, after: str) -> CallSyntax:
    """Tell what surrounds each call from what surrounds them all."""
    if between is None:
        return replace(syntax, open=before, close=after.rstrip())
    opening = common_suffix(before, between)
    if not opening.strip():
        opening = ""
    section = before.removesuffix(opening)
    between = between.removesuffix(opening)
    close = common_prefix(between, after)
    if not close.strip():
        close = ""
    section_close = up_to_counterpart(after[len(close) :].rstrip(), section)
    return replace(
        syntax,
        section_open=section if section.strip() else "",
        section_close=section_close if section.strip() else "",
        open=opening,
        close=close,
        separator=between[len(close) :],
    )


def _find(text: str, name: str, start: int) -> _Found | None:
    """The first call of a tool from `start` on."""
    place = text.find(_FIRST_VALUE, text.find(name, start))
    if place < 0:
        return None
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text[:place]):
        if brace.start() < start:
            continue
        try:
            value, end = decoder.raw_decode(text, brace.start())
        except ValueError:
            continue
        if end <= place:
            continue
        if value == _FIELDS:
            return _named_object(text, name, start, brace.start(), end)
        if isinstance(value, dict):
            return _whole_object(text, name, value, brace.start(), end)
    return _in_own_syntax(text, name, start)


_FIRST_KEY, _SECOND_KEY, _THIRD_KEY = _FIELDS
_FIRST_VALUE, _SECOND_VALUE, _THIRD_VALUE = (str(value) for value in _FIELDS.values())


def _named_object(text: str, name: str, start: int, brace: int, end: int) -> _Found | None:
    """The name, then the arguments as an object."""
    place = text.rfind(name, start, brace)
    if place < 0:
        return None
    between = text[place + len(name) : brace]
    tags = list(_TAG.finditer(between))
    if not tags or not between[: tags[-1].start()].strip():
        return _Found(place, end, CallSyntax("name_json", name_close=between))
    # an id stands between, which is no part of a marker
    before, name_close = between[: tags[-1].start()], between[tags[-1].start() :]
    id_open = before.rstrip("0123456789abcdefghijklmnopqrstuvwxyz")
    id_rule = "[0-9]+" if before[len(id_open) :].isdigit() else "[a-zA-Z0-9]{9}"
    syntax = CallSyntax("name_json", name_close=name_close, id_open=id_open, id_rule=id_rule)
    return _Found(place, end, syntax)


def _whole_object(text: str, name: str, value: dict[str, Any], brace: int, end: int) -> _Found | None:
    """One object with name and arguments."""
    fields = value["function"] if isinstance(value.get("function"), dict) else value
    names = [key for key, field in fields.items() if field == name]
    keys = [key for key, field in fields.items() if field in (_FIELDS, json.dumps(_FIELDS))]
    if name in fields:
        names, keys = [""], [name]
    if not names or not keys:
        return None
    syntax = CallSyntax("json", name_key=names[0], arguments_key=keys[0] if names[0] else "")
    place = text.index(json.dumps(name), brace)
    after = place + len(name) + 2
    arguments = text.find("{", after)
    if 0 <= arguments < end:
        written, stop = json.JSONDecoder().raw_decode(text, arguments)
        if written == _FIELDS:
            syntax = replace(
                syntax,
                before_name=text[brace:place],
                before_arguments=text[after:arguments],
                # further fields, as an id, can be left out
                after_arguments=re.sub(r",.*(?=\}$)", "", text[stop:end], flags=re.DOTALL),
            )
    return _Found(brace, end, syntax)


def _in_own_syntax(text: str, name: str, start: int) -> _Found | None:
    """Arguments that are no JSON object."""
    key = text.find(_FIRST_KEY, text.find(name, start))
    place = text.rfind(name, start, key)
    if place < 0:
        return None
    places: list[tuple[int, int]] = []
    at = key
    for part in (_FIRST_KEY, _FIRST_VALUE, _SECOND_KEY, _SECOND_VALUE, _THIRD_KEY, _THIRD_VALUE):
        at = text.find(part, at)
        if at < 0:
            return None
        places.append((at, at + len(part)))
        at += len(part)
    gaps = [text[a[1] : b[0]] for a, b in pairwise(places)]
    to_key = text[place + len(name) : key]
    rest = text[at:]
    if to_key in ("(", "{"):
        close = {"(": ")", "{": "}"}[to_key]
        if not rest.startswith(close):
            return None
        string_open = gaps[0].lstrip(":=")
        kind = "python" if to_key == "(" else "dict"
        syntax = CallSyntax("python" if kind == "python" else "dict", string_open=string_open)
        if kind == "python":
            syntax = replace(syntax, string_open="")
        return _Found(place, at + 1, syntax)
    if (closes := gaps[1].find("/" + _FIRST_KEY)) >= 0:
        mark = gaps[1][:closes]
        if not to_key.endswith(mark):
            return None
        closing = f"{mark}/{_THIRD_KEY}>"
        if not rest.startswith(closing):
            return None
        syntax = CallSyntax("elements", name_close=to_key.removesuffix(mark), parameter_open=mark)
        return _Found(place, at + len(closing), syntax)
    if gaps[0] != gaps[2] or gaps[1] != gaps[3]:
        return None
    value_open = gaps[0]
    if gaps[4] != gaps[0]:
        value_open = _after_type(gaps[0], gaps[4])
    parameter_open = common_suffix(to_key, gaps[1])
    if not parameter_open.strip() or not value_open:
        return None
    value_close = gaps[1].removesuffix(parameter_open)
    if not rest.startswith(value_close):
        value_close = value_close.rstrip()
        if not rest.startswith(value_close):
            return None
    syntax = CallSyntax(
        "parameters",
        name_close=to_key.removesuffix(parameter_open),
        parameter_open=parameter_open,
        value_open=value_open,
        value_close=value_close,
        string_open=gaps[0].removesuffix(value_open),
        other_open=gaps[4].removesuffix(value_open),
    )
    return _Found(place, at + len(value_close), syntax)


def _after_type(of_string: str, of_number: str) -> str:
    """What follows a type between name and value: the common ending, from its last quote on."""
    n = 0
    while n < min(len(of_string), len(of_number)) and of_string[-1 - n] == of_number[-1 - n]:
        n += 1
    ending = of_string[len(of_string) - n :]
    return ending[ending.rfind('"') :] if '"' in ending else ending
