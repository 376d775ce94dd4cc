"""Items: what a conversation consists of here, and how it becomes the messages of a chat template.

An item is a plain dict, as it goes over the wire. Those kept have a type, and texts in parts; what was
null is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from api.openai import fields
from api.openai.errors import Refused

Item = dict[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "reasoning_text": "text",
    "summary_text": "text",
}
_ID = re.compile(r"[a-z]+_([0-9a-f]{16})_(?:in)?[0-9]{1,6}")
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def read(given: Any) -> list[Item]:
    """A request's `input`. Raises Refused."""
    if given is None:
        return []
    if isinstance(given, str):
        return [_message({"role": "user", "content": given}, "input")]
    if not isinstance(given, list):
        raise Refused(400, "invalid_type", "input: a text, or a list of items", "input")
    return [_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _item(given: Any, where: str) -> Item:
    if not isinstance(given, dict):
        raise Refused(400, "invalid_type", f"{where}: an item is an object", where)
    item = {name: value for name, value in given.items() if value is not None}
    kind = item.get("type", "message" if "role" in item else None)
    taken: Item
    match kind:
        case "message":
            return _message(item, where)
        case "function_call":
            taken = {name: _string(item, name, where) for name in ("call_id", "name", "arguments")}
            if item.get("status") == "incomplete":
                return _with_id({"type": kind, **taken, "status": "incomplete"}, item)
        case "function_call_output":
            output = item.get("output")
            if not isinstance(output, str | list):
                raise Refused(400, "invalid_type", f"{where}.output: a text, or parts of text", where)
            _text(output, f"{where}.output")
            taken = {"call_id": _string(item, "call_id", where), "output": output}
        case "reasoning":
            # what a cloud service has encrypted can't be read here
            taken = {"summary": item.get("summary", []), "content": item.get("content", [])}
            for name, parts in taken.items():
                _text(parts, f"{where}.{name}")
        case "item_reference":
            return {"type": kind, "id": _string(item, "id", where)}
        case _:
            message = f"{where}: items of type {str(kind)[:100]!r} can't be taken"
            raise Refused(400, "unsupported_value", message, f"{where}.type")
    return _with_id({"type": kind, **taken, "status": "completed"}, item)


def _message(item: Item, where: str) -> Item:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(400, "invalid_value", f"{where}.role: one of {', '.join(_ROLES)}", f"{where}.role")
    content = item.get("content")
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        content = [{"type": kind, "text": content}]
    elif not isinstance(content, list):
        raise Refused(400, "invalid_type", f"{where}.content: a text, or parts of text", f"{where}.content")
    else:
        _text(content, f"{where}.content")
    return _with_id({"type": "message", "role": role, "content": content, "status": "completed"}, item)


def _with_id(taken: Item, item: Item) -> Item:
    return {"id": item["id"], **taken} if isinstance(item.get("id"), str) else taken


def _string(item: Item, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise Refused(400, "invalid_type", f"{where}.{name}: a text", f"{where}.{name}")
    return value


def _text(content: Any, where: str) -> str:
    """The text of what may come in parts. Raises Refused for parts that aren't text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, "invalid_type", f"{where}: a text, or a list of parts", where)
    return fields.joined_text(content, where, _TEXT_PARTS)


def numbered(items: Sequence[Item], key: str) -> list[Item]:
    """The items of a request, each with an id; `key` is the one in the response's id."""
    return [
        item if "id" in item else {"id": f"{_PREFIXES[item['type']]}_{key}_in{i}", **item}
        for i, item in enumerate(items)
    ]


def response_of(item_id: str) -> str | None:
    """Id of the response that an item came with; None where the id isn't one of ours."""
    match = _ID.fullmatch(item_id)
    return None if match is None else f"resp_{match[1]}"


def messages(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """The messages that a chat template takes.

    System messages at the beginning are joined, as many templates take one only; a call stands in the
    message that it follows. Raises Refused where a result's call is missing.
    """
    told: list[dict[str, Any]] = []
    if instructions:
        told.append({"role": "system", "content": instructions})
    thoughts: list[str] = []
    names: dict[str, str] = {}
    for item in items:
        match item["type"]:
            case "reasoning":
                if thought := _text(item["content"] or item["summary"], "reasoning"):
                    thoughts.append(thought)
                continue
            case "message":
                role, text = _ROLES[item["role"]], _text(item["content"], "content")
                if role == "system" and [message["role"] for message in told] == ["system"]:
                    told[0]["content"] += f"\n\n{text}"
                else:
                    told.append({"role": role, "content": text})
            case "function_call" if item["status"] == "incomplete":
                pass  # it was cut short: its arguments are no JSON, and nobody has answered it
            case "function_call":
                names[item["call_id"]] = item["name"]
                if thoughts or not told or told[-1]["role"] != "assistant":
                    told.append({"role": "assistant"})
                call = {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
                told[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                told.append(_result(item, names))
        if thoughts and told and told[-1]["role"] == "assistant":
            told[-1]["reasoning"] = "\n".join(thoughts)
        thoughts.clear()
    return told


def _result(item: Item, names: dict[str, str]) -> dict[str, Any]:
    call_id = item["call_id"]
    if call_id not in names:
        message = f"No tool call found for function call output with call_id {call_id[:200]}."
        raise Refused(400, "invalid_value", message, "input")
    content = _text(item["output"], "output")
    return {"role": "tool", "tool_call_id": call_id, "name": names[call_id], "content": content}
