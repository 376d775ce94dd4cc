"""The form in which a chat template wants its messages.

Templates agree on roles and contents and on little else. What one wants is learned when it is loaded, by
rendering small conversations and looking whether all that was said stands in the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

from engine.rendering import OVERRUNS, TemplateFailedError
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall

MAX_ARGUMENTS_DEPTH = 32

Dicts = list[dict[str, Any]]
Render = Callable[[Dicts, Dicts | None], str]
"""Messages and tools to text, without a generation prompt. Raises TemplateFailedError."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What is special about the messages of a template; by default, nothing."""

    tools_list: bool = False
    """No tools at all are an empty list and not None."""
    system_in_user: bool = False
    """It has no system messages: what they say is put before the first user message."""
    arguments_as_text: bool = False
    """Arguments of calls are JSON text and not objects."""
    content_none: bool = False
    """Beside calls, no content is None and not an empty text."""
    calls_alone: bool = False
    """Calls are left out where there is content beside them, so that is left out instead."""
    short_ids: bool = False
    """Ids of calls have nine letters and digits."""
    one_text: bool = False
    """Beside calls, it refuses to have both reasoning and content."""
    reasoning_in_content: bool = False
    """The content is a list of parts, and reasoning is one of them."""


def as_wanted(messages: Sequence[ChatMessage], wants: Wants) -> Dicts:
    """Messages as the template gets them; by default as `apply_chat_template` is usually called."""
    if wants.system_in_user:
        messages = _without_system(messages)
    names = {call.id: call.name for message in messages for call in message.tool_calls or ()}
    return [_as_wanted(message, names, wants) for message in messages]


def tools_as_wanted(tools: Sequence[Tool], wants: Wants) -> Dicts | None:
    """Tools as templates expect them; a function without arguments says so."""
    dicts = [tool.model_dump(mode="json") for tool in tools]
    for tool in dicts:
        function = tool["function"]
        function["parameters"] = function["parameters"] or {"type": "object", "properties": {}}
    return dicts if dicts or wants.tools_list else None


def _as_wanted(message: ChatMessage, names: dict[str, str], wants: Wants) -> dict[str, Any]:
    content, reasoning = message.content or "", message.reasoning
    if wants.calls_alone and message.tool_calls:
        content = ""
    if wants.one_text and message.tool_calls and content and reasoning:
        content, reasoning = "", f"{reasoning}\n\n{content}"
    seen: dict[str, Any] = {"role": message.role, "content": content}
    if reasoning and wants.reasoning_in_content:
        parts = [{"type": "thinking", "thinking": reasoning}, {"type": "text", "text": content}]
        seen["content"] = parts if content else parts[:1]
    elif reasoning:
        # the last is what Hugging Face passes; the others are what some templates read instead
        seen |= dict.fromkeys(("reasoning", "thinking", "reasoning_content"), reasoning)
    if message.tool_calls:
        seen["tool_calls"] = [
            {
                "id": _short(call.id) if wants.short_ids else call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call, wants)},
            }
            for call in message.tool_calls
        ]
        if wants.content_none and not content:
            seen["content"] = None
    if message.tool_call_id is not None:
        seen["tool_call_id"] = _short(message.tool_call_id) if wants.short_ids else message.tool_call_id
    # clients of OpenAI's form give results no name, and many templates want it
    name = message.name or names.get(message.tool_call_id or "")
    if name is not None:
        seen["name"] = name
    return seen


def _arguments(call: ToolCall, wants: Wants) -> Any:
    """An object, or the text as the model wrote it where that is none."""
    if wants.arguments_as_text:
        return call.arguments
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    return value if isinstance(value, dict) and depth(value) <= MAX_ARGUMENTS_DEPTH else call.arguments


def _short(call_id: str) -> str:
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """What system messages say, put before the first user message."""
    said = [message.content for message in messages if message.role == "system" and message.content]
    system = "\n\n".join(said)
    others = [message for message in messages if message.role != "system"]
    if not system:
        return others
    for i, message in enumerate(others):
        if message.role == "user":
            content = f"{system}\n\n{message.content}" if message.content else system
            others[i] = message.model_copy(update={"content": content})
            return others
    return [ChatMessage(role="user", content=system), *others]


def depth(value: Any) -> int:
    """Levels of lists and objects in a JSON value."""
    levels = 0
    level = [value]
    while level := [inner for item in level for inner in _inside(item)]:
        levels += 1
    return levels


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) or [None]
    if isinstance(value, list):
        return value or [None]
    return []


# ---- learning

_SYSTEM: Final = "Speakplainly"
_ASKED: Final = "Whatistheweather"
_THOUGHT: Final = "Letmelookitup"
_ANSWER: Final = "Waitaminute"
_VALUE: Final = "Reykjavik"
_RESULT: Final = "Ninedegrees"
_CALL: Final = ToolCall(id="call_1b2c3d4e", name="weather", arguments=f'{{"city": "{_VALUE}"}}')
_TOOL: Final = Tool(
    type="function",
    function=FunctionSpec(
        name="weather",
        description="The weather of a city.",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    ),
)
_SPELT_OUT: Final = re.compile(r"""["'](?:thinking|text)["']: ?["']""")
_USER: Final = ChatMessage(role="user", content=_ASKED)


def learn(render: Render) -> Wants:
    """Find out what a template wants. Where nothing helps, nothing special is.

    Raises TemplateFailedError where the template can't be rendered at all: `too_slow`, `memory`, `ended`.
    """
    wants = _first(render, [_USER], (Wants(), Wants(tools_list=True))) or Wants()
    folded = replace(wants, system_in_user=True)
    wants = _first(render, [ChatMessage(role="system", content=_SYSTEM), _USER], (wants, folded)) or wants
    wants = _learn_calls(render, wants)
    return _learn_reasoning(render, wants)


def _learn_calls(render: Render, wants: Wants) -> Wants:
    possible = None
    for short_ids, content_none, as_text in product((False, True), repeat=3):
        form = replace(wants, arguments_as_text=as_text, content_none=content_none, short_ids=short_ids)
        text = _rendered(render, form, _with_call())
        if text is None or _VALUE not in text or _RESULT not in text:
            continue
        # Python's own spelling of an object, or JSON text that was quoted as a text again
        possible = possible or form
        if f"'{_VALUE}'" not in text and f'\\"{_VALUE}' not in text:
            possible = form
            break
    if possible is not None and _VALUE not in (_rendered(render, possible, _with_call(_ANSWER)) or _VALUE):
        return replace(possible, calls_alone=True)
    return possible or wants


def _learn_reasoning(render: Render, wants: Wants) -> Wants:
    answer = ChatMessage(role="assistant", content=_ANSWER, reasoning=_THOUGHT)
    in_content = replace(wants, reasoning_in_content=True)
    wants = _first(render, [_USER, answer], (wants, in_content)) or wants
    both = _with_call(content=_ANSWER, reasoning=_THOUGHT)
    if _rendered(render, wants, both) is None:
        one_text = replace(wants, one_text=True)
        if _rendered(render, one_text, both) is not None:
            return one_text
    return wants


def _first(render: Render, messages: list[ChatMessage], forms: Sequence[Wants]) -> Wants | None:
    """The first form in which all that the messages say stands in the text, and no list is spelt out."""
    said = [text for message in messages for text in (message.content, message.reasoning) if text]
    for form in forms:
        text = _rendered(render, form, messages)
        if text is not None and all(part in text for part in said) and not _SPELT_OUT.search(text):
            return form
    return None


def _with_call(content: str | None = None, reasoning: str | None = None) -> list[ChatMessage]:
    call = ChatMessage(role="assistant", content=content, reasoning=reasoning, tool_calls=[_CALL])
    return [_USER, call, ChatMessage(role="tool", content=_RESULT, tool_call_id=_CALL.id)]


def _rendered(render: Render, wants: Wants, messages: list[ChatMessage]) -> str | None:
    """The text; None where the template refuses or fails."""
    tools = [_TOOL] if any(message.tool_calls for message in messages) else []
    try:
        return render(as_wanted(messages, wants), tools_as_wanted(tools, wants))
    except TemplateFailedError as error:
        if error.failure in OVERRUNS:
            raise
        return None
