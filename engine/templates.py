"""A model's chat template: from a conversation to the prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from engine.errors import TokenglassError
from engine.renderer import Renderer
from engine.rendering import OVERRUNS, Failure, TemplateFailedError
from engine.types import ChatMessage, Tool
from engine.wants import Dicts, Wants, as_wanted, learn, tools_as_wanted

_SAYS: Final[Mapping[Failure, str]] = {
    "broken": "can't be read",
    "refused": "refuses these messages",
    "failed": "failed on these messages",
    "too_long": "failed on these messages",
    "memory": "failed on these messages",
    "too_slow": "took too long on these messages",
    "ended": "failed on these messages",
}


class Renders(Protocol):
    """Renders one compiled template: the renderer's process, or this one (`engine.sandbox`)."""

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises TemplateFailedError."""


class ChatTemplate:
    """One template. Without a source, messages are joined as plain text (base models)."""

    def __init__(
        self, source: str | None, *, bos_text: str, eos_text: str, renderer: Renderer | None = None
    ) -> None:
        """A source that can't be compiled is told at the first `render`: raw prompts still work.

        Without a renderer the template runs in this process, without a limit of time or memory.
        """
        self._variables = {"bos_token": bos_text, "eos_token": eos_text, "documents": None}
        self._template: Renders | None = None
        self._broken: str | None = None
        self._overran: TemplateFailedError | None = None
        self.wants = Wants()
        if source is None:
            return
        try:
            self._template = _in_this_process(source) if renderer is None else renderer.load(source)
        except TemplateFailedError as error:
            self._broken = str(error)
            return
        with contextlib.suppress(TemplateFailedError):  # each `render` will tell
            self.wants = learn(lambda messages, tools: self._try(messages, tools, False))

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt that asks for the next answer. Raises TokenglassError `invalid_prompt`.

        `variables` are further ones that some templates know, for example `enable_thinking`.
        """
        if self._broken is not None:
            raise TokenglassError(
                "invalid_prompt",
                f"the model's chat template can't be read: {self._broken}",
                hint="send a raw prompt, give the model another template, or load another model",
            )
        if self._template is None:
            return _joined(messages)
        variables["add_generation_prompt"] = add_generation_prompt
        try:
            return self._render(
                as_wanted(messages, self.wants), tools_as_wanted(tools, self.wants), variables
            )
        except TemplateFailedError as error:
            raise _told(error) from None

    def probe(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """As `render`, for learning from a template: one that overruns its limits is soon left alone."""
        if self._template is None:
            return self.render(messages, tools)
        try:
            wanted, listed = as_wanted(messages, self.wants), tools_as_wanted(tools, self.wants)
            return self._try(wanted, listed, add_generation_prompt)
        except TemplateFailedError as error:
            raise _told(error) from None

    def _try(self, messages: Dicts, tools: Dicts | None, add_generation_prompt: bool) -> str:
        """Once more where it overran, for the machine may have been busy; after that never again."""
        if self._overran is not None:
            raise self._overran
        variables = {"add_generation_prompt": add_generation_prompt}
        try:
            return self._render(messages, tools, variables)
        except TemplateFailedError as error:
            if error.failure not in OVERRUNS:
                raise
        try:
            return self._render(messages, tools, variables)
        except TemplateFailedError as error:
            if error.failure in OVERRUNS:
                self._overran = error
            raise

    def _render(self, messages: Dicts, tools: Dicts | None, variables: Mapping[str, Any]) -> str:
        assert self._template is not None
        return self._template.render({**self._variables, "messages": messages, "tools": tools, **variables})


def _told(error: TemplateFailedError) -> TokenglassError:
    return TokenglassError("invalid_prompt", f"the model's chat template {_SAYS[error.failure]}: {error}")


def _in_this_process(source: str) -> Renders:
    from engine.sandbox import SandboxedTemplate  # Jinja, which the worker doesn't load

    return SandboxedTemplate(source)


def _joined(messages: Sequence[ChatMessage]) -> str:
    """Paragraphs; an answer goes on where the model did, so that the next turn finds it in the KV cache."""
    text = ""
    for message in messages:
        text += ("\n\n" if text and message.role != "assistant" else "") + (message.content or "")
    return text
