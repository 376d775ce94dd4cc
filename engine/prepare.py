"""From a command to prompt tokens: render the template, tokenize, trim. Runs beside the step loop."""

from __future__ import annotations

from engine.backend import Backend
from engine.commands import Generate
from engine.core import Prepared
from engine.templates import ChatTemplate
from engine.types import ChatMessage

MAX_ANSWER_ROOM = 512


class Preparer:
    """Turns `Generate` commands into what the scheduler takes. Used by one thread."""

    def __init__(self, backend: Backend) -> None:
        """Raises TokenglassError where the model's template can't be compiled."""
        self._backend = backend
        self._template = ChatTemplate(
            backend.chat_template, bos_text=backend.bos_text, eos_text=backend.eos_text
        )

    def prepare(self, command: Generate) -> Prepared:
        """Raises TokenglassError `invalid_prompt`. A prompt that is too long is the scheduler's to refuse."""
        if command.messages is None:
            tokens = self._backend.tokenize(command.prompt or "", add_special=True, parse_special=True)
            return Prepared(command, tokens, trimmed_messages=0)
        messages = command.messages
        tokens = self._tokens(command, messages)
        if command.trim:
            n_ctx = self._backend.info.n_ctx
            room = min(command.max_tokens or MAX_ANSWER_ROOM, MAX_ANSWER_ROOM, n_ctx // 4)
            while len(tokens) > n_ctx - room and (shorter := _without_oldest_turn(messages)) is not None:
                messages = shorter
                tokens = self._tokens(command, messages)
        return Prepared(command, tokens, trimmed_messages=len(command.messages) - len(messages))

    def _tokens(self, command: Generate, messages: list[ChatMessage]) -> list[int]:
        text = self._template.render(messages, command.tools)
        bos = self._backend.bos_text
        # a template that writes the start token itself must not get a second one
        return self._backend.tokenize(
            text, add_special=not (bos and text.startswith(bos)), parse_special=True
        )


def _without_oldest_turn(messages: list[ChatMessage]) -> list[ChatMessage] | None:
    """Drop the first user message and its answer; never a system message, never the last turn."""
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if len(users) < 2:
        return None
    first, second = users[:2]
    return [
        message for i, message in enumerate(messages) if message.role == "system" or not first <= i < second
    ]
