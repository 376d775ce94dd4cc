"""Finished responses in SQLite. Writer thread only.

Each keeps its own input and what it answered; what went before stands in the one that it continues. The ones
that were used longest ago go first where there are too many; using one is using all that it continues.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from api.migrations import transaction

Items = list[dict[str, Any]]

MAX_RESPONSES = 10_000
MAX_BYTES = 256 << 20
_CHAIN = """
    WITH RECURSIVE chain (id, parent, depth) AS (
        SELECT id, parent, 0 FROM response WHERE id = ?
        UNION ALL
        SELECT r.id, r.parent, chain.depth + 1 FROM chain JOIN response r ON r.id = chain.parent
    )
"""


_ITEMS = f"{_CHAIN} SELECT r.parent, r.items, r.body FROM chain JOIN response r USING (id) ORDER BY depth"  # noqa: S608
_USE = f"{_CHAIN} UPDATE response SET used = ? WHERE id IN (SELECT id FROM chain)"  # noqa: S608
_DROP = """
    DELETE FROM response WHERE id IN
        (SELECT id FROM response WHERE used = (SELECT min(used) FROM response) LIMIT 1)
"""


class Stored(NamedTuple):
    """One response."""

    parent: str | None
    """The response whose items go before its own."""
    items: Items
    """Its own input."""
    response: dict[str, Any]
    owner: str
    """`Grant.key` of the token that asked for it."""


class ResponseTable:
    """The use cases. Raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def put(self, stored: Stored) -> None:
        """Keep a response; what it continues counts as used."""
        items, body = _dump(stored.items), _dump(stored.response)
        with transaction(self._db):
            used = self._touch(stored.parent) + 1
            self._db.execute(
                "INSERT INTO response (id, parent, owner, used, bytes, items, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    stored.response["id"],
                    stored.parent,
                    stored.owner,
                    used,
                    len(items) + len(body),
                    items,
                    body,
                ),
            )
            self._make_room()

    def context(self, response_id: str) -> Items | None:
        """All items up to this response's output, oldest first; None where one of the chain isn't kept."""
        rows = self._db.execute(_ITEMS, (response_id,)).fetchall()
        if not rows or rows[-1]["parent"] is not None:
            return None
        context: Items = []
        for row in reversed(rows):
            context += json.loads(row["items"])
            context += json.loads(row["body"])["output"]
        return context

    def get(self, response_id: str) -> Stored | None:
        row = self._db.execute(
            "SELECT parent, items, body, owner FROM response WHERE id = ?", (response_id,)
        ).fetchone()
        if row is None:
            return None
        return Stored(row["parent"], json.loads(row["items"]), json.loads(row["body"]), row["owner"])

    def owner(self, response_id: str) -> str | None:
        """Whose it is; None where there is none."""
        row = self._db.execute("SELECT owner FROM response WHERE id = ?", (response_id,)).fetchone()
        return None if row is None else str(row["owner"])

    def delete(self, response_id: str) -> bool:
        """Whether there was one. What continues it can't be continued any more."""
        with transaction(self._db):
            return self._db.execute("DELETE FROM response WHERE id = ?", (response_id,)).rowcount > 0

    def _touch(self, response_id: str | None) -> int:
        """Count the chain as used now; answers the count."""
        used = int(self._db.execute("SELECT coalesce(max(used), 0) + 1 FROM response").fetchone()[0])
        if response_id is not None:
            self._db.execute(_USE, (response_id, used))
        return used

    def _make_room(self) -> None:
        while True:
            count, size = self._db.execute("SELECT count(*), total(bytes) FROM response").fetchone()
            if count <= MAX_RESPONSES and size <= MAX_BYTES:
                return
            self._db.execute(_DROP)


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()  # no half of a surrogate pair can be stored
