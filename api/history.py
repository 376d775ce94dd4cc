"""The conversations' database behind an async face: one thread owns the one connection.

SQLite before 3.51.3 can damage a WAL database that several connections use at once, so reading goes through
the same thread as writing. What a method answered is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from api import archive
from api.conversations import Conversations, Prompt, Row, Rows
from api.exchange import MAX_EXPORT_BYTES, ArchivedConversation
from api.migrations import open_database, readable
from api.responses.table import ResponseTable
from engine.errors import TokenglassError
from engine.events import ConversationChanged, ConversationMessage, Event, GenerationFinished
from engine.types import Origin

logger = logging.getLogger(__name__)

FLUSH_S = 0.25
"""Streamed text is on the disk at most this much later (plus one write)."""
RETRY_S = 1.0
CLOSE_S = 2.0
"""How long closing may take; what isn't written by then is left to the next start's recovery."""

T = TypeVar("T")
_Job = Callable[[], None]


@dataclass(slots=True)
class _Unsaved:
    """Streamed text of one answer that isn't written yet."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    anew: bool = False
    """It takes the place of what is stored, instead of being added to it."""

    def after(self, earlier: _Unsaved) -> _Unsaved:
        """Both together."""
        if self.anew:
            return self
        return _Unsaved(earlier.text + self.text, earlier.reasoning + self.reasoning, earlier.anew)


class History:
    """All conversations. Every method may be called on any asyncio-like loop; `append_text` on any thread.

    They raise TokenglassError: `storage` (nothing was changed), `not_found`, `bad_state`, `shutting_down`.
    Messages and conversations are plain dicts, as PROTOCOL.md describes them.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.on_problem: Callable[[str | None], None] = _log_problem
        """Called in the writer thread when streamed text can't be saved (it is tried again), and with None
        once it could."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[str, _Unsaved] = {}
        self._problem = False
        self._closing = False
        self._store: Conversations | None = None
        self._responses: ResponseTable | None = None
        self._closed: Future[None] = Future()
        self._closed.set_running_or_notify_cancel()

    @classmethod
    async def open(cls, path: Path | None) -> History:
        """Open or make the database; None: one in memory that ends with the app.

        Answers that were being written when the app died are `interrupted` now, with the text they had.
        Raises TokenglassError `storage`; the file is then untouched.
        """
        history = cls(path)
        opened: Future[None] = Future()
        opened.set_running_or_notify_cancel()  # the thread sets it, whatever becomes of the waiting task
        threading.Thread(target=history._run, args=(opened,), name="history-writer", daemon=True).start()
        await asyncio.wrap_future(opened)
        return history

    async def list(self, limit: int = 200, offset: int = 0) -> Rows:
        """Conversations, the one used last first."""
        return await self._do(lambda store: store.list(limit, offset))

    async def conversation(self, conversation_id: str) -> Row:
        return await self._do(lambda store: store.conversation(conversation_id))

    async def get(self, conversation_id: str, leaf: str | None = None) -> Row:
        """`conversation` and the `messages` of one branch, root first; it runs through `leaf` where given.

        That branch is then the one shown next time, and the one that the next turn goes on from.
        """
        return await self._do(lambda store: store.get(conversation_id, leaf))

    async def message(self, message_id: str) -> Row:
        return await self._do(lambda store: store.message(message_id))

    async def create(self, title: str = "", system: str | None = None) -> Row:
        """A new conversation; without a title it gets one from its first turn."""
        return await self._do(lambda store: store.create(title, system))

    async def rename(self, conversation_id: str, title: str) -> Row:
        return await self._do(lambda store: store.rename(conversation_id, title))

    async def delete(self, conversation_id: str) -> Row:
        """Take it out of the list; `restore` brings it back until the app quits."""
        return await self._do(lambda store: store.set_deleted(conversation_id, True))

    async def restore(self, conversation_id: str) -> Row:
        return await self._do(lambda store: store.set_deleted(conversation_id, False))

    async def export(self, conversation_id: str | None, limit: int | None = MAX_EXPORT_BYTES) -> Rows:
        """One conversation, or all, as they stand in a file (`api.exchange`).

        Raises TokenglassError `invalid_argument` where their texts are longer than `limit` characters.
        """
        return await self._do(lambda store: archive.export(store, conversation_id, limit))

    async def store_all(self, conversations: Sequence[ArchivedConversation]) -> Rows:
        """Store a file's conversations as new ones, all or none; answers them."""
        return await self._do(lambda store: archive.store_all(store, conversations))

    async def search(self, query: str, limit: int = 50) -> Rows:
        """Conversations whose title, or one of whose messages, has all the words of the query.

        Each has `match`: {`message_id`, `snippet`} of the first such message, None where only the title has.
        """
        return await self._do(lambda store: store.search(query, limit))

    async def add_turn(
        self, conversation_id: str, content: str, generation_id: str, model: str, origin: Origin = "window"
    ) -> tuple[Row, Row]:
        """The user's message after the present leaf, and the empty answer that the generation will fill."""
        return await self._do(
            lambda store: store.add_turn(conversation_id, content, generation_id, model, origin)
        )

    async def add_variant(
        self,
        conversation_id: str,
        user_message_id: str,
        generation_id: str,
        model: str,
        origin: Origin = "window",
    ) -> Row:
        """Another, still empty answer to the same user message."""
        return await self._do(
            lambda store: store.add_variant(conversation_id, user_message_id, generation_id, model, origin)
        )

    async def add_results(
        self,
        answer_id: str,
        results: Sequence[tuple[str, str]],
        generation_id: str,
        model: str,
        origin: Origin = "window",
    ) -> tuple[Rows, Row]:
        """What an answer's calls gave (call id, content) below it, and the empty answer that comes next.

        Answers these messages and the conversation.
        """
        return await self._do(
            lambda store: store.add_results(answer_id, results, generation_id, model, origin)
        )

    async def add_branch(
        self, answer_id: str, generation_id: str, model: str, origin: Origin = "window"
    ) -> Row:
        """Another, still empty variant of this answer, for a generation that branches off its own."""
        return await self._do(lambda store: store.add_branch(answer_id, generation_id, model, origin))

    async def withdraw(self, generation_id: str) -> None:
        """Take an answer out again that was never begun."""
        await self._do(lambda store: store.withdraw(generation_id))

    async def prompt_messages(self, message_id: str) -> Prompt:
        """What the model is asked: the system prompt and the branch up to this user message (or answer's)."""
        return await self._do(lambda store: store.prompt_messages(message_id))

    def append_text(self, generation_id: str, text: str, *, reasoning: bool = False) -> None:
        """Add streamed text to a generation's answer. Never blocks; written within `FLUSH_S`."""
        self._keep(generation_id, _Unsaved([], [text]) if reasoning else _Unsaved([text]))

    def replace_text(self, generation_id: str, text: str, reasoning: str) -> None:
        """Put this in the place of what an answer has so far (it was rewound). Otherwise as `append_text`."""
        self._keep(generation_id, _Unsaved([text], [reasoning], anew=True))

    def _keep(self, generation_id: str, news: _Unsaved) -> None:
        with self._lock:
            if self._closing:
                return
            first = not self._pending
            earlier = self._pending.get(generation_id)
            if earlier is None or news.anew:
                self._pending[generation_id] = news
            else:
                earlier.text += news.text
                earlier.reasoning += news.reasoning
        if first:
            self._jobs.put(None)

    async def finish(self, event: GenerationFinished) -> Row | None:
        """Store how a generation ended; answers its message, None where no conversation keeps it."""
        stored = await asyncio.wrap_future(self.submit_finish(event))
        return stored and stored[0]

    def submit_finish(self, event: GenerationFinished) -> Future[tuple[Row, Row | None] | None]:
        """As `finish`, but it is in the queue when this returns, so that a `close` right after waits for it.

        Gives the message and its conversation (None: deleted meanwhile).
        """
        return self._submit(lambda store: store.finish(event))

    async def responses(self, action: Callable[[ResponseTable], T]) -> T:
        """What `action` gives, done in the writer thread."""
        table = self._responses
        assert table is not None
        return await self._do(lambda _: action(table))

    async def close(self) -> None:
        """Write what is pending and let go of the file. May be called twice."""
        with self._lock:
            already, self._closing = self._closing, True
        if not already:
            self._jobs.put(None)
        await asyncio.wait([asyncio.wrap_future(self._closed)], timeout=CLOSE_S)

    async def _do(self, action: Callable[[Conversations], T]) -> T:
        return await asyncio.wrap_future(self._submit(action))

    def _submit(self, action: Callable[[Conversations], T]) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._store is None:
                    raise _closed()
                future.set_result(action(self._store))
            except sqlite3.Error as error:
                future.set_exception(readable(error, self.path))
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                future.set_exception(error)

        with self._lock:
            if self._closing:
                future.set_exception(_closed())
            else:
                self._jobs.put(job)
        return future

    # ---- in the writer thread ----

    def _run(self, opened: Future[None]) -> None:
        try:
            connection = open_database(self.path)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of open
            opened.set_exception(error)
            return
        try:
            self._store = Conversations(connection)
            self._responses = ResponseTable(connection)
            try:
                self._store.recover()
            except sqlite3.Error as error:
                opened.set_exception(readable(error, self.path))
                return
            opened.set_result(None)
            self._work()
            self._store.recover()
        except sqlite3.Error as error:
            logger.error("closing the conversations: %s", readable(error, self.path))
        finally:
            connection.close()
            self._store = None
            with self._lock:
                self._closing = True
            while not self._jobs.empty():  # only after an error: nobody may wait for ever
                if (job := self._jobs.get()) is not None:
                    job()
            self._closed.set_result(None)

    def _work(self) -> None:
        due: float | None = None
        while True:
            try:
                job = self._jobs.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except Empty:
                job = None
            if job is not None:
                self._flush()  # so that what is read, and the order of what is written, is right
                job()
            elif due is not None and time.monotonic() >= due:
                self._flush()
            with self._lock:
                waiting, closing = bool(self._pending), self._closing
            if closing and self._jobs.empty():
                self._flush()
                return
            if not waiting:
                due = None
            elif due is None or time.monotonic() >= due:
                due = time.monotonic() + (RETRY_S if self._problem else FLUSH_S)

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        if not pending:
            return
        assert self._store is not None
        try:
            self._store.write(
                {key: ("".join(new.text), "".join(new.reasoning), new.anew) for key, new in pending.items()}
            )
        except sqlite3.Error as error:
            with self._lock:  # in front of what came meanwhile
                for key, news in self._pending.items():
                    pending[key] = news.after(pending.get(key, _Unsaved()))
                self._pending = pending
            if not self._problem:
                self._problem = True
                self.on_problem(str(readable(error, self.path)))
        else:
            if self._problem:
                self._problem = False
                self.on_problem(None)


def _closed() -> TokenglassError:
    return TokenglassError("shutting_down", "the conversations are closed")


def _log_problem(message: str | None) -> None:
    if message is not None:
        logger.error("%s", message)


def stored_events(conversation: Row, messages: Iterable[Row]) -> list[Event]:
    """What everybody is told of messages that were added or finished, and of their conversation."""
    events: list[Event] = [
        ConversationMessage(conversation_id=conversation["id"], message=message) for message in messages
    ]
    return [*events, ConversationChanged(type="conversation.updated", conversation=conversation)]
