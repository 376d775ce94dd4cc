"""The chat pane: transcript, empty state and composer, fed with the events of the bus once per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QColor,
    QGuiApplication,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QShortcut,
)
from PySide6.QtWidgets import QFrame, QLabel, QStackedWidget, QVBoxLayout, QWidget

from api.bus import Envelope
from desktop.chat.alternatives import Alternatives
from desktop.chat.composer import Composer
from desktop.chat.empty import EmptyState
from desktop.chat.live import Generation, Generations
from desktop.chat.model import Message, TranscriptModel, Turn, is_shown, with_results
from desktop.chat.view import TranscriptView
from desktop.theme import BODY, Theme
from engine.events import (
    ConversationDeleted,
    ConversationMessage,
    EngineRestarting,
    EngineStarted,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
)
from engine.types import Token

_REASONS = {
    "stopped": "The engine isn't running",
    "starting": "The engine is starting…",
    "loading": "The model is loading…",
    "restarting": "The engine is restarting…",
    "failed": "The engine has failed",
    "no_model": "Load a model to begin",
}
"""Why nothing can be sent, by engine state; `ready` isn't among them."""

MAX_LIVE_ROWS = 1000
"""Of the live view; then it begins again with what is remembered."""


class ChatPane(QWidget):
    """One conversation, or the generations that other programs run (`show_live`)."""

    sendRequested = Signal(str)
    stopRequested = Signal(str)
    """Of the generation with this id."""
    regenerateRequested = Signal(str)
    """Another answer to the user message with this id."""
    variantRequested = Signal(str)
    """Show the branch through the message with this id."""
    injectRequested = Signal(str, str)
    """Into the paused generation with this id: a text."""
    forkRequested = Signal(str, int, object)
    """Of the generation with this id: the token to branch at, and the id to take there."""
    runningChanged = Signal()
    """`running_turn` is another one, or in another state."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._generations = Generations()
        self._conversation_id: str | None = None
        self._live = False
        self._live_client: str | None = None
        self._callers: dict[str, str] = {}
        """The answer whose call gave a result, by the result's message."""
        self._drafts: dict[str | None, str] = {}
        self._busy = False
        self._shown: tuple[str, bool, bool] | None = None
        """Generation, whether it is paused, whether it has text: as told last."""
        self._waiting = ""
        """Why the engine takes nothing now, though it will."""
        self._reason = _REASONS["starting"]
        self.model = TranscriptModel(self)
        self.view = TranscriptView(self.model, theme)
        self.empty = EmptyState(theme)
        self.quiet = QLabel("Nothing yet. What other programs ask the model appears here as it happens.")
        self.quiet.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.quiet.setWordWrap(True)
        self.composer = Composer(theme)
        self._line = QFrame()
        self._line.setFixedHeight(1)
        self._stack = QStackedWidget()
        self._stack.addWidget(self.empty)
        self._stack.addWidget(self.view)
        self._stack.addWidget(self.quiet)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._stack, 1)
        layout.addWidget(self._line)
        layout.addWidget(self.composer)
        self.composer.sendRequested.connect(self._send)
        self.composer.stopRequested.connect(self._stop)
        self.composer.injectRequested.connect(self._inject)
        self.empty.chosen.connect(self._send)
        self.view.regenerateRequested.connect(self._regenerate)
        self.view.variantRequested.connect(self.variantRequested)
        self.view.tokenPressed.connect(self._token_pressed)
        copy = QShortcut(QKeySequence("Ctrl+Shift+C"), self)
        copy.setContext(Qt.ShortcutContext.WindowShortcut)
        copy.activated.connect(self.copy_last_answer)
        self.view.typed.connect(self.composer.take)
        stop = QShortcut(QKeySequence(Qt.Key.Key_Escape), self)
        stop.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        stop.activated.connect(self._stop)
        self.setFocusProxy(self.composer.input)
        self.set_theme(theme)
        self._show()

    # what the window calls

    @property
    def conversation_id(self) -> str | None:
        return self._conversation_id

    @property
    def running(self) -> str | None:
        """Id of a generation that is being shown and hasn't ended."""
        turn = self.running_turn
        return turn.generation_id if turn is not None else None

    @property
    def running_turn(self) -> Turn | None:
        """The answer that is being shown and hasn't ended."""
        turn = self.model.running
        return turn if turn is not None and turn.generation_id else None

    def show_conversation(self, data: Mapping[str, Any] | None) -> None:
        """Show what `conversations.get` answered; None: a conversation that doesn't exist yet."""
        identifier = str(data["conversation"]["id"]) if data is not None else None
        self._keep_draft()
        former, was_live = self._conversation_id, self._live
        same = identifier == former and not was_live
        self._conversation_id, self._live = identifier, False
        messages = with_results(data["messages"]) if data is not None else []
        self._callers.clear()
        for message in data["messages"] if data is not None else ():
            self._caller(message)
        if same:
            self._branch(messages)
        else:
            self.model.reset(map(self._row, messages))
            # A new conversation gets its id while its first message is being sent: the draft goes on.
            if not (self._busy and former is None and not was_live):
                self.composer.set_text(self._drafts.get(identifier, ""))
        self._show()

    def show_live(self, client_id: str | None = None) -> None:
        """Show what other programs ask and get, all of them or one client, as far as remembered."""
        self._keep_draft()
        self._conversation_id, self._live, self._live_client = None, True, client_id
        self.model.reset(self._live_turns())
        self._show()

    def consume(self, envelopes: Sequence[Envelope]) -> None:
        """Take in one frame's events."""
        touched: dict[str, Generation] = {}
        for envelope in envelopes:
            event = envelope.event
            generation = self._generations.fold(event)
            if generation is not None:
                touched[generation.id] = generation
                if event.type == "generation.queued":
                    self._begin(generation)
            elif isinstance(event, ConversationMessage):
                self._message(event)
            elif isinstance(event, ModelLoading):
                self._waiting = f"waiting for the model to load · {event.progress:.0%}"
            elif isinstance(event, EngineStarted | EngineRestarting):
                self._waiting = "waiting for the engine to start"
            elif isinstance(event, ModelLoaded | ModelFailed):
                self._waiting = ""
            elif isinstance(event, ConversationDeleted) and event.conversation_id == self._conversation_id:
                self.show_conversation(None)
        for generation in touched.values():
            row = self.model.row_of_generation(generation.id)
            if row is not None and not generation.partial:
                self.model.change(row, **generation.fields())
                if generation.finished is not None:
                    self._announce(generation.text)
        self._show()

    def reset_stream(self, snapshot: Mapping[str, Any] | None = None) -> None:
        """Start again from a snapshot, after events were missed; the conversation is to be shown anew."""
        self._generations.restore(snapshot)
        if self._live:
            self.show_live(self._live_client)

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.view.set_theme(theme)
        self.empty.set_theme(theme)
        self.composer.set_theme(theme)
        self.quiet.setStyleSheet(f"color: {theme.muted}; font-size: {BODY}px;")
        self._line.setStyleSheet(f"background: {theme.border}; border: none;")
        self.update()

    def set_engine_state(self, state: str, detail: str = "") -> None:
        """`ready`, or why nothing can be sent; `detail` says more, for people."""
        detail = detail[:1].upper() + detail[1:]
        self._reason = "" if state == "ready" else detail or _REASONS.get(state, f"The engine is {state}")
        self._show()

    def set_busy(self, busy: bool) -> None:
        """True from sending until the first event of the answer: nothing more is sent meanwhile."""
        self._busy = busy
        self._show()

    def focus_composer(self) -> None:
        self.composer.input.setFocus()

    def copy_last_answer(self) -> None:
        """Put the text of the last answer on the clipboard."""
        for row in range(len(self.model) - 1, -1, -1):
            turn = self.model.turn(row)
            if turn.role == "assistant" and turn.text:
                QGuiApplication.clipboard().setText(turn.text)
                return

    def _announce(self, text: str) -> None:
        """Have a finished answer read out, where a screen reader runs."""
        if QAccessible.isActive():
            QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self.view, text))

    # events

    def _foreign(self, generation: Generation) -> bool:
        queued = generation.queued
        if queued is None or queued.conversation_id is not None or queued.origin == "window":
            return False
        return self._live_client is None or queued.client_id == self._live_client

    def _begin(self, generation: Generation) -> None:
        queued = generation.queued
        assert queued is not None
        if self._live:
            if self._foreign(generation):
                if len(self.model) > MAX_LIVE_ROWS:
                    self.model.reset(self._live_turns())
                else:
                    self._append_live(generation)
        elif queued.message_id is not None:
            row = self.model.row_of(queued.message_id)
            if row is not None:
                self.model.change(row, **generation.fields())
                if row and queued.origin != "window":
                    self.model.change(row - 1, client_name=queued.client_name)

    def _append_live(self, generation: Generation) -> None:
        for turn in generation.turns():
            self.model.append(turn)

    def _live_turns(self) -> list[Turn]:
        """Question and answer of each generation that other programs asked for."""
        return [
            turn
            for generation in self._generations
            if self._foreign(generation)
            for turn in generation.turns()
        ]

    def _message(self, event: ConversationMessage) -> None:
        if self._live or event.conversation_id != self._conversation_id:
            return
        if not is_shown(event.message):
            self._result(event.message)
            return
        turn = Turn.from_message(event.message)
        row = self.model.row_of(turn.id)
        if row is not None:
            old = self.model.turn(row)
            turn = replace(turn, tool_results=old.tool_results)
            if not turn.variants:
                turn = replace(turn, variants=old.variants, variant=old.variant)
            self.model.put(row, replace(self._known(turn), client_name=old.client_name))
            return
        self._place(self._known(turn))

    def _caller(self, message: Message) -> str | None:
        """The answer whose call gave this result; None for another message."""
        parent = message.get("parent_id")
        if message.get("role") != "tool" or parent is None:
            return None
        caller = self._callers[message["id"]] = self._callers.get(str(parent), str(parent))
        return caller

    def _result(self, message: Message) -> None:
        """Put what a call gave with the call."""
        caller = self._caller(message)
        row = self.model.row_of(caller) if caller is not None else None
        if row is not None:
            results = dict(self.model.turn(row).tool_results) | {message["tool_call_id"]: message["content"]}
            self.model.change(row, tool_results=tuple(results.items()))

    def _place(self, turn: Turn) -> None:
        """Put a new message where it belongs: at the end, or in place of another branch."""
        above = self._callers.get(turn.parent_id, turn.parent_id) if turn.parent_id else None
        parent = self.model.row_of(above) if above else -1
        if parent is None:
            return
        below = parent + 1
        if below < len(self.model):
            other = self.model.turn(below)
            if not turn.variants and turn.role == other.role:
                variants = (*(other.variants or (other.id,)), turn.id)
                turn = replace(turn, variants=variants, variant=len(variants) - 1)
            self.model.truncate(below)
        self.model.append(turn)

    def _known(self, turn: Turn) -> Turn:
        """The turn with what the stream has told of its generation."""
        generation = self._generations.get(turn.generation_id) if turn.generation_id else None
        if generation is None or generation.partial or (turn.role, turn.status) != ("assistant", "streaming"):
            return turn
        return replace(turn, **generation.fields())

    def _row(self, message: Message) -> Turn | Message:
        """What the model gets for a stored message: a turn at once only where the stream knows more."""
        return self._known(Turn.from_message(message)) if message.get("status") == "streaming" else message

    def _branch(self, messages: list[Message]) -> None:
        """Show another state of the same conversation; rows that stay don't move."""
        shared = 0
        most = min(len(self.model), len(messages))
        while shared < most and self.model.id_at(shared) == messages[shared]["id"]:
            shared += 1
        self.model.truncate(shared)
        for number, message in enumerate(messages):
            row = self._row(message)
            if number >= shared:
                self.model.append(row)
            elif isinstance(row, Turn):
                self.model.put(number, row)
            else:
                self.model.refresh(number, row)

    # the composer

    def _send(self, text: str) -> None:
        if self._reason or self._busy or self.running:
            return
        self._drafts.pop(self._conversation_id, None)
        self.view.scroll_to_newest()
        self.sendRequested.emit(text)

    def _stop(self) -> None:
        running = self.running
        if running:
            self.stopRequested.emit(running)

    def _inject(self, text: str) -> None:
        running = self.running
        if running:
            self.injectRequested.emit(running, text)

    def _token_pressed(self, generation_id: str, token: Token, where: QPoint) -> None:
        generation = self._generations.get(generation_id)
        if generation is None:
            return
        before = next((t for t in reversed(generation.written) if t["index"] < token["index"]), None)
        popup = Alternatives(self, self._theme, token, before, generation.finished is None)
        popup.chosen.connect(lambda index, token_id: self.forkRequested.emit(generation_id, index, token_id))
        popup.open_at(where)

    def _regenerate(self, answer_id: str) -> None:
        row = self.model.row_of(answer_id)
        if row is None or self._reason or self.running:
            return
        parent = self.model.turn(row).parent_id or (self.model.turn(row - 1).id if row else None)
        if parent:
            self.regenerateRequested.emit(parent)

    def _keep_draft(self) -> None:
        if not self._live:
            self._drafts[self._conversation_id] = self.composer.text

    def _show(self) -> None:
        page = self.view if len(self.model) else self.quiet if self._live else self.empty
        self._stack.setCurrentWidget(page)
        self.composer.setVisible(not self._live)
        self._line.setVisible(not self._live)
        turn = self.running_turn
        running, paused = turn is not None, turn is not None and turn.paused
        self.composer.set_state(running=running, reason=self._reason, held=self._busy, paused=paused)
        state = (turn.generation_id, paused, bool(turn.text)) if turn is not None else None
        if state != self._shown:
            self._shown = state
            self.runningChanged.emit()
        idle = not running and not self._reason and not self._busy
        self.view.block(frozenset() if idle else frozenset({"regenerate"}), self._waiting)
        self.empty.set_enabled(not self._reason and not self._busy)

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(self._theme.window))
        bottom = self.composer.geometry()
        if self.composer.isVisible():
            painter.fillRect(bottom, QColor(self._theme.panel))
