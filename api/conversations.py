"""Conversations and their messages in SQLite: what each use case reads and writes. One thread only.

The messages of a conversation form a tree: a user message's children are the variants of its answer,
and the conversation's `leaf` is the end of the branch that was shown last.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from api.migrations import transaction
from engine.errors import TokenglassError
from engine.events import GenerationFinished
from engine.types import ChatMessage, Origin, ToolCall

Row = dict[str, Any]
Rows = list[Row]
Prompt = list[ChatMessage]

MAX_TITLE = 60
_SNIPPET = 60

_CONVERSATION = """
    SELECT c.*, (SELECT count(*) FROM message m WHERE m.conversation_id = c.id) AS message_count
    FROM conversation c
"""
_WHERE_FOUND = """
    WHERE NOT c.deleted AND (found(c.title, :needle) OR EXISTS (
        SELECT 1 FROM message m WHERE m.conversation_id = c.id AND found(m.content, :needle)))
    ORDER BY c.touched DESC LIMIT :limit
"""
_DELETED = "conversation_id IN (SELECT id FROM conversation WHERE deleted)"
_COLUMNS = (
    "id",
    "conversation_id",
    "parent_id",
    "role",
    "content",
    "reasoning",
    "tool_calls",
    "tool_call_id",
    "status",
    "model",
    "origin",
    "generation_id",
    "finish_reason",
    "usage",
    "timings",
    "error",
    "created",
)
_MESSAGES = f"SELECT {', '.join(_COLUMNS)} FROM message"  # noqa: S608 - constants only


class Conversations:
    """The use cases. Raises TokenglassError `not_found`, `bad_state`, and sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection
        connection.create_function("found", 2, _found, deterministic=True)

    def recover(self) -> None:
        """After opening and before closing: what was being written is marked, what was deleted goes."""
        with transaction(self.db):
            self.db.execute("UPDATE message SET status = 'interrupted' WHERE status = 'streaming'")
            # alone, each message: SQLite deletes no more than 1,000 levels of children with their parent
            self.db.execute(f"UPDATE message SET parent_id = NULL WHERE {_DELETED}")  # noqa: S608
            self.db.execute("DELETE FROM conversation WHERE deleted")

    def list(self, limit: int, offset: int) -> Rows:
        rows = self.db.execute(
            f"{_CONVERSATION} WHERE NOT c.deleted ORDER BY c.touched DESC LIMIT ? OFFSET ?", (limit, offset)
        )
        return [_conversation(row) for row in rows]

    def conversation(self, conversation_id: str, *, deleted: bool = False) -> Row:
        row = self.db.execute(
            f"{_CONVERSATION} WHERE c.id = ? AND c.deleted = ?", (conversation_id, deleted)
        ).fetchone()
        if row is None:
            raise TokenglassError("not_found", f"there is no conversation {conversation_id[:100]!r}")
        return _conversation(row)

    def get(self, conversation_id: str, leaf: str | None) -> Row:
        conversation = self.conversation(conversation_id)
        parents = self._parents(conversation_id)
        siblings: dict[str | None, list[str]] = {}
        for message_id, parent_id in parents.items():
            siblings.setdefault(parent_id, []).append(message_id)
        if leaf is not None:
            if leaf not in parents:
                raise TokenglassError(
                    "not_found", f"this conversation has no message {leaf[:100]!r}", path="leaf"
                )
            while children := siblings.get(leaf):
                leaf = children[-1]
            if leaf != conversation["leaf"]:
                with transaction(self.db):
                    self.db.execute("UPDATE conversation SET leaf = ? WHERE id = ?", (leaf, conversation_id))
                conversation["leaf"] = leaf
        branch = _branch(parents, conversation["leaf"])
        messages = []
        for row in self.db.execute(
            f"{_MESSAGES} WHERE conversation_id = ? ORDER BY number", (conversation_id,)
        ):
            if row["id"] in branch:
                variants = siblings[row["parent_id"]]
                message = _message(row)
                message["variants"], message["variant"] = variants, variants.index(row["id"])
                messages.append(message)
        return {"conversation": conversation, "messages": messages}

    def _parents(self, conversation_id: str) -> dict[str, str | None]:
        """Each message's parent; in the order of their making, so that parents come before children."""
        rows = self.db.execute(
            "SELECT id, parent_id FROM message WHERE conversation_id = ? ORDER BY number", (conversation_id,)
        )
        return dict(rows.fetchall())

    def create(self, title: str, system: str | None) -> Row:
        conversation_id, now = new_id("conv"), time.time()
        with transaction(self.db):
            self.db.execute(
                "INSERT INTO conversation (id, title, system, created, updated, touched)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (conversation_id, _clean(title), system and _clean(system), now, now, self.next_touch()),
            )
        return self.conversation(conversation_id)

    def rename(self, conversation_id: str, title: str) -> Row:
        self.conversation(conversation_id)
        with transaction(self.db):
            self.db.execute(
                "UPDATE conversation SET title = ? WHERE id = ?", (_clean(title), conversation_id)
            )
        return self.conversation(conversation_id)

    def set_deleted(self, conversation_id: str, deleted: bool) -> Row:
        conversation = self.conversation(conversation_id, deleted=not deleted)
        with transaction(self.db):
            self.db.execute("UPDATE conversation SET deleted = ? WHERE id = ?", (deleted, conversation_id))
        return conversation

    def search(self, query: str, limit: int) -> Rows:
        needle = _clean(query)
        rows = self.db.execute(_CONVERSATION + _WHERE_FOUND, {"needle": needle, "limit": limit}).fetchall()
        return [_conversation(row) | {"match": self._match(row["id"], needle)} for row in rows]

    def _match(self, conversation_id: str, needle: str) -> dict[str, str] | None:
        row = self.db.execute(
            "SELECT id, content FROM message WHERE conversation_id = ? AND found(content, ?)"
            " ORDER BY number LIMIT 1",
            (conversation_id, needle),
        ).fetchone()
        if row is None:
            return None
        content = row["content"]
        words = needle.split()
        place = max(0, content.casefold().find(words[0].casefold()) if words else 0)
        start = max(0, place - _SNIPPET // 2)
        snippet = " ".join(content[start : place + _SNIPPET].split())
        return {"message_id": row["id"], "snippet": ("…" if start else "") + snippet}

    def add_turn(
        self, conversation_id: str, content: str, generation_id: str, model: str, origin: Origin
    ) -> tuple[Row, Row]:
        conversation = self.conversation(conversation_id)
        leaf = conversation["leaf"]
        if leaf is not None:
            row = self.db.execute("SELECT status FROM message WHERE id = ?", (leaf,)).fetchone()
            if row["status"] == "streaming":
                raise TokenglassError(
                    "bad_state",
                    "this conversation's last answer is still being written",
                    hint="wait or cancel it",
                )
        content = _clean(content)
        with transaction(self.db):
            user = self._insert(conversation_id, leaf, "user", content, "complete", model, origin, None)
            answer = self._insert(
                conversation_id, user, "assistant", "", "streaming", model, origin, generation_id
            )
            title = conversation["title"] or default_title(content)
            self.db.execute("UPDATE conversation SET title = ? WHERE id = ?", (title, conversation_id))
            self._touch(conversation_id, answer, model)
        return self.message(user), self.message(answer)

    def add_variant(
        self, conversation_id: str, user_message_id: str, generation_id: str, model: str, origin: Origin
    ) -> Row:
        self.conversation(conversation_id)
        row = self.db.execute(
            "SELECT role FROM message WHERE id = ? AND conversation_id = ?",
            (user_message_id, conversation_id),
        ).fetchone()
        if row is None:
            raise TokenglassError(
                "not_found", f"this conversation has no message {user_message_id[:100]!r}", path="parent"
            )
        if row["role"] not in ("user", "tool") or self._is_answered_by_a_tool(user_message_id):
            raise TokenglassError(
                "bad_state",
                "only a user message, or the last result of an answer's calls, can get another answer",
                path="parent",
            )
        with transaction(self.db):
            answer = self._insert(
                conversation_id, user_message_id, "assistant", "", "streaming", model, origin, generation_id
            )
            self._touch(conversation_id, answer, model)
        return self.message(answer)

    def _is_answered_by_a_tool(self, message_id: str) -> bool:
        """Another result comes first."""
        query = "SELECT 1 FROM message WHERE parent_id = ? AND role = 'tool'"
        return self.db.execute(query, (message_id,)).fetchone() is not None

    def add_results(
        self,
        answer_id: str,
        results: Sequence[tuple[str, str]],
        generation_id: str,
        model: str,
        origin: Origin,
    ) -> tuple[Rows, Row]:
        answer = self.message(answer_id)
        conversation_id = answer["conversation_id"]
        self.conversation(conversation_id)
        if answer["status"] == "streaming":
            raise TokenglassError("bad_state", "the answer with these calls isn't stored yet")
        new, where = [answer_id], (model, origin)
        with transaction(self.db):
            for call_id, content in results:
                told = ("tool", _clean(content), "complete", *where, None, call_id)
                new.append(self._insert(conversation_id, new[-1], *told))
            place = ("assistant", "", "streaming", *where, generation_id)
            new.append(self._insert(conversation_id, new[-1], *place))
            self._touch(conversation_id, new[-1], model)
        return [self.message(key) for key in new[1:]], self.conversation(conversation_id)

    def add_branch(self, answer_id: str, generation_id: str, model: str, origin: Origin) -> Row:
        answer = self.message(answer_id)
        return self.add_variant(answer["conversation_id"], answer["parent_id"], generation_id, model, origin)

    def withdraw(self, generation_id: str) -> None:
        row = self.db.execute(
            "SELECT id, conversation_id, parent_id FROM message WHERE generation_id = ?", (generation_id,)
        ).fetchone()
        if row is None:
            return
        with transaction(self.db):
            others = self.db.execute(
                "SELECT max(number), id FROM message WHERE parent_id = ? AND id != ?",
                (row["parent_id"], row["id"]),
            ).fetchone()
            self.db.execute(
                "UPDATE conversation SET leaf = ? WHERE id = ? AND leaf = ?",
                (others["id"] or row["parent_id"], row["conversation_id"], row["id"]),
            )
            self.db.execute("DELETE FROM message WHERE id = ?", (row["id"],))

    def messages(self, conversation_id: str) -> Iterator[Row]:
        """All of a conversation, each after its parent."""
        query = f"{_MESSAGES} WHERE conversation_id = ? ORDER BY number"
        yield from map(_message, self.db.execute(query, (conversation_id,)))

    def message(self, message_id: str) -> Row:
        row = self.db.execute(f"{_MESSAGES} WHERE id = ?", (message_id,)).fetchone()
        if row is None:
            raise TokenglassError("not_found", f"there is no message {message_id[:100]!r}")
        return _message(row)

    def prompt_messages(self, message_id: str) -> Prompt:
        row = self.db.execute(
            "SELECT m.role, m.parent_id, m.conversation_id, c.system FROM message m"
            " JOIN conversation c ON c.id = m.conversation_id WHERE m.id = ?",
            (message_id,),
        ).fetchone()
        if row is None:
            raise TokenglassError("not_found", f"there is no message {message_id[:100]!r}")
        leaf = row["parent_id"] if row["role"] == "assistant" else message_id
        branch = _branch(self._parents(row["conversation_id"]), leaf)
        messages = [ChatMessage(role="system", content=row["system"])] if row["system"] else []
        for key, role, content, why, stored, call_id in self.db.execute(
            "SELECT id, role, content, reasoning, tool_calls, tool_call_id FROM message"
            " WHERE conversation_id = ? ORDER BY number",
            (row["conversation_id"],),
        ):
            if key in branch:
                calls = [ToolCall.model_validate(call) for call in _load(stored)] or None
                messages.append(
                    ChatMessage(
                        role=role,
                        content=content,
                        reasoning=why or None,
                        tool_calls=calls,
                        tool_call_id=call_id,
                    )
                )
        return messages

    def write(self, texts: dict[str, tuple[str, str, bool]]) -> None:
        """Add (content, reasoning) to the answers of these generations; True: put it in their place."""
        with transaction(self.db):
            self.db.executemany(
                "UPDATE message SET content = iif(:anew, '', content) || :text,"
                " reasoning = iif(:anew, '', reasoning) || :why"
                " WHERE generation_id = :key AND status = 'streaming'",
                [
                    {"key": key, "text": _clean(text), "why": _clean(why), "anew": anew}
                    for key, (text, why, anew) in texts.items()
                ],
            )

    def finish(self, event: GenerationFinished) -> tuple[Row, Row | None] | None:
        """The message, and its conversation where that isn't deleted; None where there is no such message."""
        row = self.db.execute(
            "SELECT * FROM message WHERE generation_id = ?", (event.generation_id,)
        ).fetchone()
        if row is None:
            return None
        content, reasoning = _clean(event.text), _clean(event.reasoning)
        if event.finish_reason == "error":  # whoever reports a crash may know less than was streamed
            content = max(content, row["content"], key=len)
            reasoning = max(reasoning, row["reasoning"], key=len)
        status = event.finish_reason if event.finish_reason in ("cancelled", "error") else "complete"
        with transaction(self.db):
            self.db.execute(
                "UPDATE message SET content = ?, reasoning = ?, tool_calls = ?, status = ?,"
                " finish_reason = ?, usage = ?, timings = ?, error = ? WHERE number = ?",
                (
                    content,
                    reasoning,
                    json.dumps([call.model_dump() for call in event.tool_calls]),
                    status,
                    event.finish_reason,
                    _dump(event.usage),
                    _dump(event.timings),
                    _dump(event.error),
                    row["number"],
                ),
            )
            self._touch(row["conversation_id"], None, None)
        conversation = self.db.execute(
            f"{_CONVERSATION} WHERE c.id = ? AND NOT c.deleted", (row["conversation_id"],)
        ).fetchone()
        return self.message(row["id"]), conversation and _conversation(conversation)

    def _insert(
        self,
        conversation_id: str,
        parent_id: str | None,
        role: str,
        content: str,
        status: str,
        model: str,
        origin: Origin,
        generation_id: str | None,
        tool_call_id: str | None = None,
    ) -> str:
        message_id = new_id("msg")
        self.db.execute(
            "INSERT INTO message (id, conversation_id, parent_id, role, content, status, model, origin,"
            " generation_id, tool_call_id, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                message_id,
                conversation_id,
                parent_id,
                role,
                content,
                status,
                model,
                origin,
                generation_id,
                tool_call_id,
                time.time(),
            ),
        )
        return message_id

    def _touch(self, conversation_id: str, leaf: str | None, model: str | None) -> None:
        self.db.execute(
            "UPDATE conversation SET updated = ?, touched = ?, leaf = coalesce(?, leaf),"
            " model = coalesce(?, model) WHERE id = ?",
            (time.time(), self.next_touch(), leaf, model, conversation_id),
        )

    def next_touch(self) -> int:
        """The list's order: a counter, since the wall clock may jump."""
        return int(self.db.execute("SELECT coalesce(max(touched), 0) + 1 FROM conversation").fetchone()[0])


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def _clean(text: str) -> str:
    """Lone surrogates can't be stored, nor sent to anyone."""
    return text.encode("utf-8", "replace").decode()


def default_title(content: str) -> str:
    """Of a conversation that nobody has named: its first words."""
    line = next((line for line in content.splitlines() if line.strip()), "").strip()
    return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1].rstrip() + "…"


def _found(text: str, needle: str) -> bool:
    """Whether every word of `needle` is in the text, in whatever case and script."""
    folded = text.casefold()
    return all(word in folded for word in needle.casefold().split())


def _dump(value: BaseModel | None) -> str | None:
    return None if value is None else value.model_dump_json()


def _load(text: str | None) -> Any:
    if text is None:
        return None
    return [] if text == "[]" else json.loads(text)


def _branch(parents: dict[str, str | None], leaf: str | None) -> set[str]:
    """The messages from the root to `leaf`."""
    branch = set()
    while leaf is not None:
        branch.add(leaf)
        leaf = parents[leaf]
    return branch


def _conversation(row: sqlite3.Row) -> Row:
    names = ("id", "title", "created", "updated", "model", "system", "leaf", "message_count")
    return {name: row[name] for name in names}


def _message(row: sqlite3.Row) -> Row:
    message = dict(zip(_COLUMNS, row, strict=True))
    for name in ("tool_calls", "usage", "timings", "error"):
        message[name] = _load(message[name])
    return message
