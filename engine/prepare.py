"""From a command to prompt tokens: render the template, tokenize, trim. Runs beside the step loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from engine.backend import Backend
from engine.commands import Generate
from engine.core import Prepared
from engine.errors import TokenglassError
from engine.formats import Format, learn
from engine.renderer import Renderer
from engine.structured import answer_grammar
from engine.templates import ChatTemplate
from engine.types import ChatMessage, ModelInfo, Tool
from engine.wants import depth

MAX_ANSWER_ROOM = 512
MAX_INPUT_CHARS = 4 << 20
"""Of all messages and tools; more than that is no prompt either."""
MAX_DEPTH = 64
"""Levels in the JSON schema of a tool."""


@dataclass(slots=True)
class _Prompt:
    tokens: list[int]
    text: str = ""


class Preparer:
    """Turns `Generate` commands into what the scheduler takes. Used by one thread at a time."""

    def __init__(
        self, backend: Backend, chat_template: str | None = None, renderer: Renderer | None = None
    ) -> None:
        """Reads the model's template, or `chat_template` in its place.

        Without a renderer, templates run in this process, without a limit.
        """
        self._backend = backend
        source = backend.chat_template if chat_template is None else chat_template
        self._template = ChatTemplate(
            source, bos_text=backend.bos_text, eos_text=backend.eos_text, renderer=renderer
        )
        self.format: Format | None = None
        """How the model writes reasoning and tool calls."""
        if source is not None:
            learned = learn(self._template.probe, source)
            self.format = learned.format and learned.format.bind(backend)
            if learned.reason:
                print(f"tool calls won't be understood: {learned.reason}", file=sys.stderr)
        self.info: ModelInfo = backend.info.model_copy(
            update={"has_chat_template": source is not None, **(self.format.told if self.format else {})}
        )
        """What is known of the model, with what its template tells."""

    def prepare(self, command: Generate) -> Prepared:
        """Raises TokenglassError `invalid_prompt`, or `invalid_argument` where no grammar can be made.

        A prompt that is too long is the scheduler's to refuse.
        """
        prepared = self._prepare(command)
        grammar = answer_grammar(command, self.format, prepared.reasoning_open)
        return prepared if grammar is None else replace(prepared, grammar=grammar)

    def _prepare(self, command: Generate) -> Prepared:
        resume = command.resume
        if resume is not None and resume.prompt_tokens:
            return Prepared(
                command,
                resume.prompt_tokens,
                trimmed_messages=resume.trimmed_messages,
                reasoning_open=resume.reasoning_open,
                format=self._format_for(command),
            )
        if command.messages is None:
            tokens = self._prompt_tokens(command.prompt or "")
            return Prepared(command, tokens, format=self._format_for(command))
        _check_input(command.messages, command.tools)
        prompt = self._render(command, command.messages)
        trimmed = 0
        if command.trim:
            n_ctx = self._backend.info.n_ctx
            room = min(command.max_tokens or MAX_ANSWER_ROOM, MAX_ANSWER_ROOM, n_ctx // 4)
            if len(prompt.tokens) > n_ctx - room:
                prompt, trimmed = self._trim(command, command.messages, prompt, n_ctx - room)
        return Prepared(
            command,
            prompt.tokens,
            trimmed_messages=trimmed,
            format=self.format,
            reasoning_open=self.format is not None and self.format.leaves_reasoning_open(prompt.text),
        )

    def _prompt_tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._backend.tokenize(prompt, add_special=True, parse_special=True)
        if not all(0 <= token < self._backend.info.n_vocab for token in prompt):
            raise TokenglassError("invalid_argument", "there is no such token", path="prompt")
        return prompt

    def _format_for(self, command: Generate) -> Format | None:
        """What a raw prompt is answered with is plain text, but where it comes with tools."""
        return self.format if command.messages is not None or command.tools else None

    def _render(self, command: Generate, messages: list[ChatMessage]) -> _Prompt:
        text = self._template.render(messages, command.tools, **command.chat_template_kwargs)
        bos = self._backend.bos_text
        # a template that writes the start token itself must not get a second one
        add_special = not (bos and text.startswith(bos))
        return _Prompt(self._backend.tokenize(text, add_special=add_special, parse_special=True), text)

    def _trim(
        self, command: Generate, messages: list[ChatMessage], prompt: _Prompt, limit: int
    ) -> tuple[_Prompt, int]:
        """Leave out as few of the oldest turns as need be, or all but the last; each look is a rendering."""
        most = sum(message.role == "user" for message in messages) - 1
        if most < 1:
            return prompt, 0

        def without(turns: int) -> tuple[_Prompt, int]:
            rest = _without_oldest_turns(messages, turns)
            return self._render(command, rest), len(messages) - len(rest)

        best = without(most)
        fewest = 1 if len(best[0].tokens) <= limit else most
        while fewest < most:
            middle = (fewest + most) // 2
            shorter = without(middle)
            if len(shorter[0].tokens) <= limit:
                most, best = middle, shorter
            else:
                fewest = middle + 1
        return best


def _without_oldest_turns(messages: list[ChatMessage], turns: int) -> list[ChatMessage]:
    """Drop the first user messages and their answers; never a system message."""
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    return [
        message
        for i, message in enumerate(messages)
        if message.role == "system" or not users[0] <= i < users[turns]
    ]


def _check_input(messages: list[ChatMessage], tools: list[Tool]) -> None:
    """Raises TokenglassError `invalid_prompt` for what no template should be given."""
    n_chars = 0
    for message in messages:
        n_chars += len(message.content or "") + len(message.reasoning or "")
        n_chars += sum(len(call.arguments) for call in message.tool_calls or ())
    for i, tool in enumerate(tools):
        if depth(tool.function.parameters) > MAX_DEPTH:
            raise TokenglassError(
                "invalid_prompt",
                f"the parameters of the tool {tool.function.name} are nested more than {MAX_DEPTH} deep",
                path=f"tools.{i}.function.parameters",
            )
        n_chars += len(tool.model_dump_json())
    if n_chars > MAX_INPUT_CHARS:
        raise TokenglassError("invalid_prompt", "the messages and tools are longer than 4 MiB")
