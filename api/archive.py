"""What is read from the conversations' database for a file, and put into it from one. In its thread only."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel

from api import exchange
from api.conversations import Conversations, Rows, default_title, new_id
from api.migrations import transaction


def export(
    store: Conversations, conversation_id: str | None, limit: int | None = exchange.MAX_EXPORT_BYTES
) -> list[exchange.File]:
    """One conversation, or all of them (the one used last first), with all branches.

    Raises TokenglassError: `not_found`, or `invalid_argument` where the texts are longer than `limit`.
    """
    rows = [store.conversation(conversation_id)] if conversation_id is not None else store.list(-1, 0)
    left = limit
    found = []
    for conversation in rows:
        messages = []
        for message in store.messages(conversation["id"]):
            messages.append(message)
            if left is not None:
                left -= len(message["content"]) + len(message["reasoning"])
                if left < 0:
                    raise exchange.too_large(len(rows))
        found.append(exchange.archived(conversation, messages))
    return found


def store_all(store: Conversations, conversations: Sequence[exchange.ArchivedConversation]) -> Rows:
    """Put checked conversations in, with ids of their own: all or none. Answers them as they are now."""
    with transaction(store.db):
        # the first is then the one used last
        keys = [_store(store, conversation) for conversation in reversed(conversations)]
    return [store.conversation(key) for key in reversed(keys)]


def _store(store: Conversations, conversation: exchange.ArchivedConversation) -> str:
    key, now, db = new_id("conv"), time.time(), store.db
    messages = conversation.messages
    ids = {message.id: new_id("msg") for message in messages}
    leaf = conversation.leaf or (messages[-1].id if messages else None)
    first = next((message.content for message in messages if message.role == "user"), "")
    created = now if conversation.created is None else conversation.created
    db.execute(
        "INSERT INTO conversation (id, title, system, model, leaf, created, updated, touched)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            conversation.title or default_title(first),
            conversation.system,
            conversation.model,
            None,
            created,
            created if conversation.updated is None else conversation.updated,
            store.next_touch(),
        ),
    )
    db.executemany(
        "INSERT INTO message (id, conversation_id, parent_id, role, content, reasoning, tool_calls,"
        " tool_call_id, status, model, origin, finish_reason, usage, timings, error, created)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                ids[message.id],
                key,
                ids[message.parent_id] if message.parent_id is not None else None,
                message.role,
                message.content,
                message.reasoning,
                f"[{','.join(call.model_dump_json() for call in message.tool_calls)}]",
                message.tool_call_id,
                message.status,
                message.model,
                message.origin,
                message.finish_reason,
                _dump(message.usage),
                _dump(message.timings),
                _dump(message.error),
                created if message.created is None else message.created,
            )
            for message in messages
        ),
    )
    db.execute("UPDATE conversation SET leaf = ? WHERE id = ?", (ids[leaf] if leaf else None, key))
    return key


def _dump(value: BaseModel | None) -> str | None:
    return None if value is None else value.model_dump_json()
