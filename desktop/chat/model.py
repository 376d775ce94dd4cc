"""The transcript: the turns on screen, in order. The only truth that the view paints from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PySide6.QtCore import QAbstractListModel, QByteArray, QModelIndex, QObject, QPersistentModelIndex, Qt

from engine.errors import ErrorInfo
from engine.types import Timings, Token, ToolCall, Usage

Status = Literal["complete", "streaming", "interrupted", "cancelled", "error"]
Phase = Literal["", "queued", "prompt", "decoding"]

Index = QModelIndex | QPersistentModelIndex

_ROOT = QModelIndex()


class Role:
    """Item roles beside Qt's own."""

    ID = int(Qt.ItemDataRole.UserRole) + 1
    TEXT = ID + 1
    ROLE = ID + 2
    STATUS = ID + 3
    MODEL = ID + 4
    ORIGIN = ID + 5
    CLIENT_NAME = ID + 6
    GENERATION_ID = ID + 7
    USAGE = ID + 8
    TIMINGS = ID + 9
    VARIANTS = ID + 10
    VARIANT = ID + 11
    ERROR = ID + 12
    TURN = ID + 13
    """The whole `Turn`."""


_NAMES = {
    Role.ID: "id",
    Role.TEXT: "text",
    Role.ROLE: "role",
    Role.STATUS: "status",
    Role.MODEL: "model",
    Role.ORIGIN: "origin",
    Role.CLIENT_NAME: "client_name",
    Role.GENERATION_ID: "generation_id",
    Role.USAGE: "usage",
    Role.TIMINGS: "timings",
    Role.VARIANTS: "variants",
    Role.VARIANT: "variant",
    Role.ERROR: "error",
}


Message = Mapping[str, Any]
"""A stored message, as `conversations.get` answers it."""


def is_shown(message: Message) -> bool:
    """Whether the transcript has a row for a stored message. What calls gave stands with the calls."""
    return message.get("role") in ("user", "assistant")


def with_results(messages: Iterable[Message]) -> list[Message]:
    """Those of a branch that have a row, each answer with its `tool_results`: pairs of call id and text."""
    shown: list[Message] = []
    for message in messages:
        if is_shown(message):
            shown.append(message)
        elif message.get("role") == "tool" and shown and (call_id := message.get("tool_call_id")):
            results = (*shown[-1].get("tool_results", ()), (call_id, message.get("content") or ""))
            shown[-1] = {**shown[-1], "tool_results": results}
    return shown


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as the transcript shows it."""

    id: str
    role: Literal["user", "assistant"]
    text: str = ""
    status: Status = "complete"
    parent_id: str | None = None
    model: str = ""
    origin: str = ""
    client_name: str = ""
    """Who asked, where that is known and wasn't this window."""
    generation_id: str = ""
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorInfo | None = None
    finish_reason: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[tuple[str, str], ...] = ()
    """What the calls gave, each with its call's id."""
    reasoning: str = ""
    variants: tuple[str, ...] = ()
    """Ids of all answers to the same message, this one among them."""
    variant: int = 0
    """Place of this one in `variants`."""
    phase: Phase = ""
    """How far a streaming answer is."""
    done: int = 0
    total: int = 0
    """Prompt tokens computed so far, and all of them."""
    trimmed: int = 0
    """Oldest messages of the conversation that didn't fit into the context."""
    paused: bool = False
    tokens: tuple[Token, ...] = ()
    """Of the text, where they are known one by one."""

    loose: bool = False
    """Belongs to no conversation: a generation of another program, in the live view."""

    @property
    def foreign(self) -> bool:
        """Whether somebody else than this window asked."""
        return self.origin not in ("", "window")

    @staticmethod
    def from_message(message: Message) -> Turn:
        """The turn of a stored message; `is_shown` says which have one."""
        usage, timings, error = (message.get(name) for name in ("usage", "timings", "error"))
        calls = message.get("tool_calls") or ()
        return Turn(
            id=str(message["id"]),
            role=message["role"],
            text=message.get("content") or "",
            status=message.get("status") or "complete",
            parent_id=message.get("parent_id"),
            model=message.get("model") or "",
            origin=message.get("origin") or "",
            generation_id=message.get("generation_id") or "",
            usage=Usage.model_validate(usage) if usage else None,
            timings=Timings.model_validate(timings) if timings else None,
            error=ErrorInfo.model_validate(error) if error else None,
            finish_reason=message.get("finish_reason") or "",
            tool_calls=tuple(ToolCall.model_validate(call) for call in calls),
            tool_results=tuple(message.get("tool_results") or ()),
            reasoning=message.get("reasoning") or "",
            variants=tuple(_id(variant) for variant in message.get("variants") or ()),
            variant=int(message.get("variant") or 0),
        )


def _id(variant: object) -> str:
    return str(variant["id"]) if isinstance(variant, Mapping) else str(variant)


@dataclass(slots=True)
class _Rows:
    turns: list[Turn | Message] = field(default_factory=list)
    """Stored messages become turns when they are first looked at."""
    places: dict[str, int] = field(default_factory=dict)
    """Row by message id."""
    generations: dict[str, int] = field(default_factory=dict)
    streaming: set[int] = field(default_factory=set)
    """Rows of answers that aren't finished."""


class TranscriptModel(QAbstractListModel):
    """Turns by row. Rows are appended, replaced in place, or cut off at the end."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows = _Rows()

    # Qt's side

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows.turns)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self._rows.turns):
            return None
        turn = self.turn(index.row())
        if role == Qt.ItemDataRole.DisplayRole:
            return turn.text
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{'You' if turn.role == 'user' else turn.model or 'Answer'}: {turn.text}"
        if role == Role.TURN:
            return turn
        name = _NAMES.get(role)
        return getattr(turn, name) if name else None

    def roleNames(self) -> dict[int, QByteArray]:
        return {**super().roleNames(), **{role: QByteArray(name.encode()) for role, name in _NAMES.items()}}

    # ours

    def __len__(self) -> int:
        return len(self._rows.turns)

    def turn(self, row: int) -> Turn:
        found = self._rows.turns[row]
        if not isinstance(found, Turn):
            found = self._rows.turns[row] = Turn.from_message(found)
        return found

    @property
    def turns(self) -> list[Turn]:
        """All of them; for short conversations and tests."""
        return [self.turn(row) for row in range(len(self))]

    @property
    def running(self) -> Turn | None:
        """The last answer that isn't finished."""
        return self.turn(max(self._rows.streaming)) if self._rows.streaming else None

    def id_at(self, row: int) -> str:
        found = self._rows.turns[row]
        return found.id if isinstance(found, Turn) else str(found["id"])

    def size(self, row: int) -> tuple[bool, int, int]:
        """Whether a row is the user's, its characters and its line breaks; cheap, for guessing heights."""
        found = self._rows.turns[row]
        if isinstance(found, Turn):
            return found.role == "user", len(found.text), found.text.count("\n")
        text = found.get("content") or ""
        return found["role"] == "user", len(text), text.count("\n")

    def row_of(self, message_id: str) -> int | None:
        return self._rows.places.get(message_id)

    def row_of_generation(self, generation_id: str) -> int | None:
        return self._rows.generations.get(generation_id)

    def reset(self, turns: Iterable[Turn | Message]) -> None:
        self.beginResetModel()
        self._rows = _Rows()
        for turn in turns:
            self._add(turn)
        self.endResetModel()

    def append(self, turn: Turn | Message) -> None:
        row = len(self._rows.turns)
        self.beginInsertRows(_ROOT, row, row)
        self._add(turn)
        self.endInsertRows()

    def truncate(self, count: int) -> None:
        """Drop the rows from `count` on."""
        last = len(self._rows.turns) - 1
        if count > last:
            return
        self.beginRemoveRows(_ROOT, count, last)
        for row in range(count, last + 1):
            self._rows.places.pop(self.id_at(row), None)
            self._rows.streaming.discard(row)
        self._rows.generations = {key: row for key, row in self._rows.generations.items() if row < count}
        del self._rows.turns[count:]
        self.endRemoveRows()

    def change(self, row: int, **changes: Any) -> None:
        """Replace fields of a row; tells the view only of real changes."""
        self.put(row, replace(self.turn(row), **changes))

    def refresh(self, row: int, message: Message) -> None:
        """Replace a row by another state of its stored message."""
        if self._rows.turns[row] is not message and self._rows.turns[row] != message:
            self.put(row, replace(Turn.from_message(message), client_name=self.turn(row).client_name))

    def put(self, row: int, turn: Turn) -> None:
        """Replace a row by a turn with the same id."""
        old = self.turn(row)
        assert turn.id == old.id
        if turn == old:
            return
        self._rows.turns[row] = turn
        if turn.status == "streaming":
            self._rows.streaming.add(row)
        else:
            self._rows.streaming.discard(row)
        if turn.generation_id != old.generation_id:
            self._rows.generations.pop(old.generation_id, None)
            if turn.generation_id and turn.role == "assistant":
                self._rows.generations[turn.generation_id] = row
        index = self.index(row)
        self.dataChanged.emit(index, index)

    def _add(self, turn: Turn | Message) -> None:
        row = len(self._rows.turns)
        self._rows.turns.append(turn)
        if isinstance(turn, Turn):
            identifier, role, status, generation = turn.id, turn.role, turn.status, turn.generation_id
        else:
            identifier, role, status = str(turn["id"]), turn["role"], turn.get("status") or "complete"
            generation = turn.get("generation_id") or ""
        self._rows.places[identifier] = row
        if status == "streaming":
            self._rows.streaming.add(row)
        if generation and role == "assistant":
            self._rows.generations[generation] = row
