"""Writes conversations' answers to the history while they stream, and tells everybody what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future

from api.bus import Envelope
from api.conversations import Row
from api.history import History, stored_events
from engine.errors import TokenglassError
from engine.events import (
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationForked,
    GenerationQueued,
    GenerationRewound,
    LogLine,
    ReasoningDelta,
)

logger = logging.getLogger(__name__)

RETRY_S = 1.0

_Stored = Future[tuple[Row, Row | None] | None]


class Recorder:
    """Folds the bus into the history. To be made on the running loop, and used on it only.

    Where something can't be stored, a `log` event says so once, and it is tried again until it works.
    """

    def __init__(self, history: History, publish: Callable[[Event], object]) -> None:
        self._history = history
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._recorded: set[str] = set()
        self._failing = False
        history.on_problem = self._on_problem

    def fold(self, envelope: Envelope) -> None:
        event = envelope.event
        match event:
            case GenerationDelta() | ReasoningDelta():
                if event.generation_id in self._recorded and event.text:
                    reasoning = isinstance(event, ReasoningDelta)
                    self._history.append_text(event.generation_id, event.text, reasoning=reasoning)
            case GenerationRewound():
                self._replace(event.generation_id, event.text, event.reasoning)
            case GenerationForked():
                self._replace(event.branch_id, event.text, event.reasoning)
            case GenerationQueued():
                if event.message_id is not None:
                    self._recorded.add(event.generation_id)
            case GenerationFinished():
                if event.generation_id in self._recorded:
                    self._recorded.discard(event.generation_id)
                    self._finish(event)
            case _:
                pass

    def _replace(self, generation_id: str, text: str, reasoning: str) -> None:
        if generation_id in self._recorded:
            self._history.replace_text(generation_id, text, reasoning)

    def _finish(self, event: GenerationFinished) -> None:
        def stored(future: _Stored) -> None:  # in the writer thread
            self._on_loop(lambda: self._stored(event, future))

        self._history.submit_finish(event).add_done_callback(stored)

    def _stored(self, event: GenerationFinished, future: _Stored) -> None:
        try:
            stored = future.result()
        except TokenglassError as error:
            if error.code != "storage":  # the app is quitting
                logger.warning("an answer was not stored: %s", error)
                return
            self._tell(str(error))
            self._loop.call_later(RETRY_S, self._finish, event)
            return
        self._tell(None)
        if stored is None:
            return
        message, conversation = stored
        if conversation is not None:
            for told in stored_events(conversation, [message]):
                self._publish(told)

    def _on_problem(self, message: str | None) -> None:  # in the writer thread
        self._on_loop(lambda: self._tell(message))

    def _on_loop(self, action: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the app has quit
            self._loop.call_soon_threadsafe(action)

    def _tell(self, message: str | None) -> None:
        if message is not None and not self._failing:
            logger.error("%s", message)
            self._publish(LogLine(level="error", message=f"conversations can't be saved: {message}"))
        elif message is None and self._failing:
            self._publish(LogLine(level="info", message="conversations are saved again"))
        self._failing = message is not None
