"""What the user does to the answer that runs: hold, step, rewind, write into it, branch, other sampling."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject

from api.local import LocalClient
from desktop.tasks import Tasks
from desktop.window import Window
from engine.errors import TokenglassError

ALTERNATIVES = 6
"""Of each token, while Tokens is on."""


class Steering(QObject):
    """Joins the buttons and the transcript's tokens to the commands, for the generation that is shown."""

    def __init__(self, window: Window, client: LocalClient, tasks: Tasks) -> None:
        super().__init__()
        self._window = window
        self._client = client
        self._tasks = tasks
        chat, top = window.chat, window.top
        top.hands.pauseRequested.connect(lambda: self._do("pause"))
        top.hands.resumeRequested.connect(lambda: self._do("resume"))
        top.hands.stepRequested.connect(lambda: self._do("step", tokens=1))
        top.hands.rewindRequested.connect(self._rewind)
        top.tokens_button.toggled.connect(chat.view.show_tokens)
        chat.runningChanged.connect(self._show)
        chat.injectRequested.connect(lambda key, text: self._tasks.spawn(self._inject(key, text)))
        chat.forkRequested.connect(self._fork)

    @property
    def logprobs(self) -> int | None:
        """How many alternatives a new answer is to tell with each token."""
        return ALTERNATIVES if self._window.top.tokens_button.isChecked() else None

    async def update(self, sampling: dict[str, Any]) -> None:
        """Give the answer that runs other sampling from its next token on."""
        running = self._window.chat.running
        if running is not None:
            await self._request("update", generation_id=running, sampling=sampling)

    def _show(self) -> None:
        turn, top = self._window.chat.running_turn, self._window.top
        running, paused = turn is not None, turn is not None and turn.paused
        top.hands.show_state(running=running, paused=paused, written=turn is not None and bool(turn.text))
        top.popover.show_running(running=running)

    def _do(self, command: str, **arguments: Any) -> None:
        running = self._window.chat.running
        if running is not None:
            self._tasks.spawn(self._request(command, generation_id=running, **arguments))

    def _rewind(self, tokens: int) -> None:
        turn = self._window.chat.running_turn
        if turn is not None:
            written = turn.tokens[-1]["index"] + 1 if turn.tokens else 1
            self._do("rewind", tokens=min(tokens, written))

    async def _inject(self, generation_id: str, text: str) -> None:
        composer = self._window.chat.composer
        try:
            await self._client.request("inject", generation_id=generation_id, text=text)
        except TokenglassError:
            if not composer.text:
                composer.set_text(text)
            raise

    def _fork(self, generation_id: str, at_token: int, token_id: int | None) -> None:
        arguments = {"generation_id": generation_id, "at_token": at_token, "token_id": token_id}
        self._tasks.spawn(self._request("fork", **arguments))

    async def _request(self, command: str, **arguments: Any) -> None:
        try:
            await self._client.request(command, **arguments)
        except TokenglassError as error:
            if error.code not in ("bad_state", "not_found"):  # it ended under the user's hand
                raise
