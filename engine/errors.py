"""Errors that a client of the stream may see, each with a stable code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ErrorCode = Literal[
    # a command that can't be carried out
    "invalid_json",  # the frame isn't a JSON object
    "unknown_command",  # no command of this name
    "not_implemented",  # a command or argument of the contract that isn't built yet
    "invalid_argument",  # an argument is missing, of the wrong type or out of range (`path` names it)
    "not_found",  # no such generation, conversation, message or model
    "bad_state",  # the command doesn't fit the present state
    "busy",  # too many unanswered commands, a full queue, or generations that run
    "forbidden",  # this token may not do that
    "shutting_down",  # the app is quitting
    "internal",  # a bug; the log has the details
    # what ends a generation or a load
    "context_overflow",  # the prompt doesn't fit into the context
    "invalid_prompt",  # the tokenizer or the chat template can't take this input
    "invalid_output",  # the model gave NaN or infinite logits, or broke off what a stream had begun to tell
    "engine_lost",  # the worker ended before a command was done, or twice while this was running
    "engine_failed",  # the worker ended too often and is no longer restarted
    "no_model",  # no model is loaded, and none is being loaded
    "model_damaged",  # the file isn't a GGUF model, or is cut short
    "model_unsupported",  # llama.cpp doesn't know this architecture or tokenizer
    "out_of_memory",  # weights or context don't fit into memory
    "load_failed",  # the model can't be loaded, for another reason
    "load_cancelled",  # another load or the user stopped it
    # what keeps the app from its files
    "storage",  # the database or a file can't be read or written
]


class ErrorInfo(BaseModel):
    """An error as it goes over the wire: what happened, where, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    code: ErrorCode
    message: str
    path: str | None = None
    """Which argument is wrong, e.g. `sampling.temperature`."""
    hint: str | None = None
    """What the user can do."""


class TokenglassError(Exception):
    """A command, a load or a generation can't be carried out; carries what the client is told."""

    def __init__(
        self, code: ErrorCode, message: str, *, path: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.info = ErrorInfo(code=code, message=message, path=path, hint=hint)

    @staticmethod
    def of(info: ErrorInfo) -> TokenglassError:
        """What was told over the wire, or by an event, to be raised here."""
        return TokenglassError(info.code, info.message, path=info.path, hint=info.hint)

    @property
    def code(self) -> ErrorCode:
        return self.info.code
