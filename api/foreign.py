"""Other programs' conversations in our file's form: ChatGPT's export, and plain lists of messages.

What they hold beside the words of user, assistant and system is left out. What is given here is checked
by `api.exchange` like a file of our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import TokenglassError

Converted = dict[str, Any]

_ROLES = ("system", "user", "assistant")


def converted(data: object, inside: str) -> list[Converted] | None:
    """The conversations of a file in a form that is known; None: it isn't another program's.

    Raises TokenglassError `invalid_argument` where it is, and can't be read.
    """
    if isinstance(data, Mapping) and "mapping" in data:
        return [_tree(data, inside)]
    if isinstance(data, Mapping) and "format" not in data and isinstance(data.get("messages"), list):
        return [_list(data["messages"], f"{inside}.messages")]
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(item, Mapping) and "mapping" in item for item in data):
        return [_tree(item, f"{inside}.{number}") for number, item in enumerate(data)]
    if isinstance(data[0], Mapping) and "role" in data[0]:
        return [_list(data, inside)]
    return None


def _wrong(place: str, what: str) -> TokenglassError:
    return TokenglassError("invalid_argument", f"{place}: {what}", path=place)


# ---- a list of messages


def _list(messages: list[Any], place: str) -> Converted:
    """One branch; a system message at its beginning is the conversation's own."""
    told: list[Converted] = []
    system = None
    for number, message in enumerate(messages):
        where = f"{place}.{number}"
        if not isinstance(message, Mapping):
            raise _wrong(where, "must be an object")
        role, content = message.get("role"), _content(message.get("content"), f"{where}.content")
        role = "system" if role == "developer" else role
        if role not in _ROLES:
            raise _wrong(f"{where}.role", "must be 'system', 'user' or 'assistant'")
        if role == "system" and number == 0:
            system = content
            continue
        parent = told[-1]["id"] if told else None
        told.append({"id": f"m{number}", "parent_id": parent, "role": role, "content": content})
    if not told:
        raise _wrong(place, "there is no message of a user or an assistant in it")
    return {"system": system, "messages": told}


def _content(content: object, place: str) -> str:
    """A text, or a list of parts of text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise _wrong(place, "must be a string or a list of parts with text")


# ---- ChatGPT's tree


def _tree(data: Mapping[str, Any], place: str) -> Converted:
    nodes = data["mapping"]
    if not isinstance(nodes, Mapping) or not all(isinstance(node, Mapping) for node in nodes.values()):
        raise _wrong(f"{place}.mapping", "must be an object of objects")
    kept: dict[str, str | None] = {}
    """By node: its message, or the nearest one above it."""
    told: list[Converted] = []
    for key, node in _parents_first(nodes):
        above = kept.get(_above(node) or "")
        message = _words(node, f"{place}.mapping.{key[:100]}")
        kept[key] = above if message is None else key
        if message is not None:
            told.append({"id": key, "parent_id": above} | message)
    if len(kept) < len(nodes):
        raise _wrong(f"{place}.mapping", "some of its messages lie below none that is there")
    found = {"title": data.get("title") or "", "messages": told}
    current = data.get("current_node")
    leaf = kept.get(current) if isinstance(current, str) else None
    times = {"created": data.get("create_time"), "updated": data.get("update_time")}
    return found | times | ({"leaf": leaf} if leaf else {})


def _parents_first(nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each node that hangs on a root, after the one above it, in the order of the file among equals."""
    children: dict[str | None, list[str]] = {}
    for key, node in nodes.items():
        children.setdefault(_above(node), []).append(key)
    rest = children.get(None, [])[::-1]
    while rest:
        key = rest.pop()
        yield key, nodes[key]
        rest.extend(reversed(children.get(key, ())))


def _above(node: Mapping[str, Any]) -> str | None:
    parent = node.get("parent")
    return parent if isinstance(parent, str) else None


def _words(node: Mapping[str, Any], place: str) -> Converted | None:
    """What a node says; None where that isn't anybody's words."""
    message = node.get("message")
    if message is None:
        return None
    if not isinstance(message, Mapping):
        raise _wrong(f"{place}.message", "must be an object")
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, Mapping) else None
    if role not in _ROLES or not isinstance(content, Mapping):
        return None
    parts = content.get("parts")
    texts = [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else []
    text = "\n\n".join(filter(None, texts)) or content.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    told = {"role": role, "content": text}
    created = message.get("create_time")
    return told | ({"created": created} if created is not None else {})
