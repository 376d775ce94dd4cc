"""Chat templates: Jinja programs from a model's metadata, run in a sandbox as Hugging Face runs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import TokenglassError
from engine.types import ChatMessage, Tool

MAX_RENDERED_CHARS = 4 << 20


class TemplateRefusedError(Exception):
    """The template itself said no (`raise_exception`)."""


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusedError(message)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


class ChatTemplate:
    """One compiled template. Without a source, messages are joined as plain text (base models)."""

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str) -> None:
        """A source that can't be compiled is told at the first `render`: raw prompts still work."""
        self._variables = {"bos_token": bos_text, "eos_token": eos_text}
        self._template: jinja2.Template | None = None
        self._broken: str | None = None
        if source is None:
            return
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            self._broken = str(error) or type(error).__name__

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """The prompt that asks for the next answer. Raises TokenglassError `invalid_prompt`."""
        if self._broken is not None:
            raise TokenglassError(
                "invalid_prompt",
                f"the model's chat template can't be read: {self._broken}",
                hint="send a raw prompt, or load another model",
            )
        if self._template is None:
            return "\n\n".join(message.content or "" for message in messages)
        try:
            text = self._template.render(
                **self._variables,
                messages=[_as_template_sees(message) for message in messages],
                tools=[tool.model_dump(mode="json") for tool in tools] or None,
                add_generation_prompt=True,
            )
        except (jinja2.TemplateError, TemplateRefusedError) as error:
            raise TokenglassError(
                "invalid_prompt", f"the model's chat template refuses these messages: {error}"
            ) from None
        except Exception as error:  # noqa: BLE001 a template is a program: it may fail in any way
            raise TokenglassError(
                "invalid_prompt",
                f"the model's chat template failed on these messages: {type(error).__name__}: {error}",
            ) from None
        if len(text) > MAX_RENDERED_CHARS:
            raise TokenglassError("invalid_prompt", "the rendered prompt is longer than 4 MiB")
        return text


def _as_template_sees(message: ChatMessage) -> dict[str, Any]:
    """Templates expect a content string, and the arguments of tool calls as objects."""
    seen: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.name is not None:
        seen["name"] = message.name
    if message.tool_call_id is not None:
        seen["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        seen["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _object_or_text(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return seen


def _object_or_text(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
