"""Conversations as a file: the format `tokenglass.conversations`, and what may stand in one that is taken in.

What is written can be read again, and then is the same but for its ids. What is read is checked wholly before
anything is stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from api import foreign
from api.protocol import Encoded, Id, Title
from api.refusals import refusal
from api.version import VERSION as APP_VERSION
from engine.errors import ErrorCode, TokenglassError
from engine.types import Argument, FinishReason, Origin

FORMAT = "tokenglass.conversations"
VERSION = 1
MAX_EXPORT_BYTES = 16 << 20
MAX_CONVERSATIONS = 1000
MAX_MESSAGES = 50_000
"""Of one conversation."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Measured = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)] | None
UnixTime = Annotated[float, Field(ge=0, le=4_102_444_800, allow_inf_nan=False)]
"""Seconds; up to the year 2100."""
ModelName = Annotated[str, Field(max_length=500)]


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair isn't a character") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
File = dict[str, Any]


class ArchivedCall(Argument):
    id: Id
    name: str = Field(max_length=200)
    arguments: Text


class ArchivedUsage(Argument):
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    draft_tokens: Count = 0
    accepted_tokens: Count = 0


class ArchivedTimings(Argument):
    queue_ms: Measured = None
    prefill_ms: Measured = None
    ttft_ms: Measured = None
    decode_ms: Measured = None
    tokens_per_second: Measured = None
    itl_p50_ms: Measured = None
    itl_p99_ms: Measured = None


class ArchivedError(Argument):
    code: ErrorCode
    message: Text
    path: Text | None = None
    hint: Text | None = None


class ArchivedMessage(Argument):
    """What is left out has the default."""

    id: Id
    parent_id: Id | None = None
    """A message further up in the list; null begins a branch of its own."""
    role: Literal["system", "user", "assistant", "tool"]
    content: Text = ""
    reasoning: Text = ""
    tool_calls: list[ArchivedCall] = Field([], max_length=1000)
    tool_call_id: Id | None = None
    status: Literal["complete", "interrupted", "cancelled", "error"] = "complete"
    model: ModelName | None = None
    origin: Origin | None = None
    finish_reason: FinishReason | None = None
    usage: ArchivedUsage | None = None
    timings: ArchivedTimings | None = None
    error: ArchivedError | None = None
    created: UnixTime | None = None
    """Null: now."""


class ArchivedConversation(Argument):
    """One conversation with all its branches. Times: Unix seconds."""

    id: Id | None = None
    title: Title = ""
    """Empty: it gets one from its first message."""
    system: str | None = Field(None, max_length=100_000)
    model: ModelName | None = None
    created: UnixTime | None = None
    updated: UnixTime | None = None
    leaf: Id | None = None
    """Last message of the branch that is shown; null: the last of the list."""
    messages: list[ArchivedMessage] = Field([], max_length=MAX_MESSAGES)


class Archive(Argument):
    """The file."""

    format: Literal["tokenglass.conversations"]
    version: Literal[1]
    app: str | None = Field(None, max_length=200)
    """Version of the app that wrote it."""
    exported: UnixTime | None = None
    conversations: list[ArchivedConversation] = Field(min_length=1, max_length=MAX_CONVERSATIONS)


# ---- out


def archived(conversation: Mapping[str, Any], messages: list[dict[str, Any]]) -> File:
    """A stored conversation with all its messages, as it stands in the file."""
    names = ("id", "title", "system", "model", "created", "updated", "leaf")
    told = {name: conversation[name] for name in names if conversation[name] is not None}
    return told | {"messages": list(map(_message, messages))}


def _message(message: Mapping[str, Any]) -> File:
    told = {name: message[name] for name in ("id", "parent_id", "role", "content")}
    told |= {name: message[name] for name in _OPTIONAL if message[name]}
    for name in ("timings", "error"):
        if name in told:
            told[name] = {key: value for key, value in told[name].items() if value is not None}
    if message["status"] != "complete":
        told["status"] = "interrupted" if message["status"] == "streaming" else message["status"]
    return told | {"created": message["created"]}


_OPTIONAL = (
    "reasoning",
    "tool_calls",
    "tool_call_id",
    "model",
    "origin",
    "finish_reason",
    "usage",
    "timings",
    "error",
)


def archive(conversations: list[File]) -> File:
    """The file for these."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "app": APP_VERSION,
        "exported": time.time(),
        "conversations": conversations,
    }


def encoded(file: File) -> Encoded:
    """The result of `conversations.export`. Takes its time: not for the loop's thread.

    Raises TokenglassError where it is too large for a reply.
    """
    parts: list[bytes] = []
    for conversation in file["conversations"]:
        # one by one: a single long call would keep all threads waiting
        messages = b",".join(map(_text, conversation["messages"]))
        parts.append(_with(conversation, "messages", messages))
        if sum(map(len, parts)) > MAX_EXPORT_BYTES:
            raise too_large(len(file["conversations"]))
    return Encoded({"data": file}, b'{"data":%s}' % _with(file, "conversations", b",".join(parts)))


def too_large(n_conversations: int) -> TokenglassError:
    """What an export of so many gets whose text doesn't fit into a reply."""
    one = n_conversations == 1
    return TokenglassError(
        "invalid_argument",
        f"{'this conversation is' if one else 'together they are'} longer than {MAX_EXPORT_BYTES >> 20} MiB",
        path="conversation_id" if one else "all",
        hint="quit the app and use tokenglass conversations export" if one else "export them one by one",
    )


def _with(value: File, name: str, items: bytes) -> bytes:
    """An object as text with a list of that name, whose items are text already."""
    others = _text({key: value[key] for key in value if key != name})
    return b'%s,"%s":[%s]}' % (others[:-1], name.encode(), items)


def _text(value: File) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


# ---- in


def read(data: object, inside: str = "data") -> list[ArchivedConversation]:
    """The conversations of a file, which may be another program's (`api.foreign`).

    Raises TokenglassError `invalid_argument` with the first wrong place, whose path begins with `inside`.
    """
    theirs = foreign.converted(data, inside)
    if theirs is not None:
        data = {"format": FORMAT, "version": VERSION, "conversations": theirs}
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise TokenglassError(
            "invalid_argument",
            f"{inside}: no conversations that are known here",
            path=inside,
            hint=f"known are {FORMAT}, ChatGPT's conversations.json, and messages with role and content",
        )
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise TokenglassError(
            "invalid_argument",
            f"{inside}.version: written by a newer Tokenglass (format {version}, known: {VERSION})",
            path=f"{inside}.version",
        )
    try:
        conversations = Archive.model_validate(data).conversations
    except ValidationError as error:
        found = refusal(error, data, inside=inside)
        if theirs is None:
            raise found from None
        # what is wrong stands at another place in their file
        raise TokenglassError("invalid_argument", found.info.message, path=inside) from None
    for number, conversation in enumerate(conversations):
        _check_tree(conversation, f"{inside}.conversations.{number}")
    return conversations


def _check_tree(conversation: ArchivedConversation, place: str) -> None:
    """Each message once, below one that stands before it: so nothing can go round in a circle."""
    known: set[str] = set()

    def wrong(where: str, what: str) -> TokenglassError:
        return TokenglassError("invalid_argument", f"{place}.{where}: {what}", path=f"{place}.{where}")

    for number, message in enumerate(conversation.messages):
        if message.parent_id is not None and message.parent_id not in known:
            raise wrong(f"messages.{number}.parent_id", "must be the id of a message further up")
        if message.id in known:
            raise wrong(f"messages.{number}.id", "another message of this conversation has it")
        known.add(message.id)
    if conversation.leaf is not None and conversation.leaf not in known:
        raise wrong("leaf", "must be the id of one of the messages")
