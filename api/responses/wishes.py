"""From a request's JSON to what is asked of the service. What is null counts as left out.

Fields that change nothing here are ignored; what would change the answer and can't be done is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api import protocol
from api.openai import fields
from api.openai.errors import Refused, unsupported
from api.openai.fields import TEMPLATE_VARIABLES, flag, given, object_of
from api.responses.items import Item, messages, read
from engine.errors import TokenglassError

MAX_METADATA = 16
_TOOL_FIELDS = ("name", "description", "parameters")
_ECHOED = ("max_output_tokens", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key")
_OF_THE_PROMPT = ("tools", "chat_template_kwargs")
"""Arguments that the prompt depends on."""
_PATHS = (
    ("max_tokens", "max_output_tokens"),
    ("logprobs", "top_logprobs"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("sampling.", ""),
    ("messages", "input"),
)
"""What arguments are called over there, where they have another name."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that was understood."""

    items: list[Item]
    """Its own input, without what went before."""
    previous_id: str | None
    instructions: str | None
    arguments: dict[str, Any]
    """Of the command, but for the messages."""
    told: dict[str, Any]
    """What the response repeats of the request."""
    model: Any
    generate: bool
    store: bool
    stream: bool
    logprobs: bool

    def command(self, context: list[Item]) -> protocol.Generate | None:
        """The command that gives the answer to these items; None where there is nothing to compute.

        Raises TokenglassError or Refused.
        """
        asked = messages(context, self.instructions)
        if not asked:
            if self.generate:
                raise Refused(400, "missing_required_parameter", "input: a text, or a list of items", "input")
            return None
        try:
            command = protocol.parse_command({"type": "generate", **self.arguments, "messages": asked})
        except TokenglassError as error:
            info = error.info
            raise TokenglassError(
                info.code, _renamed(info.message), path=_renamed(info.path or "") or None, hint=info.hint
            ) from None
        assert isinstance(command, protocol.Generate)
        return command


def _renamed(text: str) -> str:
    """What an error says, in this API's words."""
    for ours, theirs in _PATHS:
        if text.startswith(ours):
            return theirs + text.removeprefix(ours)
    return text.replace(".function.", ".", 1) if text.startswith("tools") else text


def wish(data: dict[str, Any]) -> Wish:
    """A request of `/v1/responses`, or a `response.create`. Raises Refused."""
    data = given(data)
    _refuse_hosted(data)
    instructions = data.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise Refused(400, "invalid_type", "instructions: a text", "instructions")
    previous_id = data.get("previous_response_id")
    if previous_id is not None and not isinstance(previous_id, str):
        raise Refused(400, "invalid_type", "previous_response_id: a text", "previous_response_id")
    arguments, told = _tools(data)
    _sampling(data, arguments)
    _format(data, arguments, told)
    told["reasoning"] = {"effort": _template(data, arguments).get("reasoning_effort"), "summary": None}
    parallel = flag(data, "parallel_tool_calls", True)
    if not parallel:
        arguments["parallel_tool_calls"] = False
    cache = data.get("prompt_cache_options")
    generate = flag(data, "generate", True) and not (isinstance(cache, dict) and cache.get("prewarm"))
    if not generate:
        # what is drawn is dropped, so nothing needs to hold it to a form
        arguments = {name: arguments[name] for name in _OF_THE_PROMPT if name in arguments}
        arguments["max_tokens"] = 1
        if told["tool_choice"] == "none":
            arguments["tool_choice"] = "none"
    store = flag(data, "store", True)
    told |= {name: data.get(name) for name in _ECHOED}
    told |= {
        "instructions": instructions,
        "metadata": _metadata(data),
        "parallel_tool_calls": parallel,
        "previous_response_id": previous_id,
        "store": store,
        "truncation": "disabled",
        "background": False,
    }
    return Wish(
        items=read(data.get("input")),
        previous_id=previous_id,
        instructions=instructions,
        arguments=arguments,
        told=told,
        model=data.get("model"),
        generate=generate,
        store=store,
        stream=flag(data, "stream", False),
        logprobs="logprobs" in arguments,
    )


def _refuse_hosted(data: dict[str, Any]) -> None:
    if data.get("background"):
        raise unsupported("background", "background: nothing goes on here without its client")
    if "conversation" in data:
        raise unsupported("conversation", "conversation: responses are continued by previous_response_id")
    if "prompt" in data:
        raise unsupported("prompt", "prompt: no templates of prompts are kept here")


def _metadata(data: dict[str, Any]) -> dict[str, str]:
    metadata = data.get("metadata", {})
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not texts or len(metadata) > MAX_METADATA:
        raise Refused(400, "invalid_value", f"metadata: at most {MAX_METADATA} texts by name", "metadata")
    return dict(metadata)


def _sampling(data: dict[str, Any], arguments: dict[str, Any]) -> None:
    if sampling := fields.sampling(data):
        arguments["sampling"] = sampling
    if "max_output_tokens" in data:
        arguments["max_tokens"] = data["max_output_tokens"]
    if "stop" in data:
        arguments["stop"] = fields.stop(data)
    include = data.get("include", [])
    if isinstance(include, list) and "message.output_text.logprobs" in include:
        arguments["logprobs"] = data.get("top_logprobs", 0)


def _tools(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The command's arguments for tools, and what the response repeats of them."""
    offered = data.get("tools", [])
    if not isinstance(offered, list):
        raise Refused(400, "invalid_type", "tools: a list", "tools")
    choice: Any = data.get("tool_choice", "auto")
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(offered)]
    told = {"tools": [told for told, _ in tools], "tool_choice": choice}
    taken = [tool for _, tool in tools]
    if isinstance(choice, dict):
        match choice.get("type"):
            case "function":
                choice = {"type": "function", "function": {"name": choice.get("name")}}
            case "allowed_tools" if isinstance(choice.get("tools"), list):
                allowed = [tool.get("name") for tool in choice["tools"] if isinstance(tool, dict)]
                taken = [tool for tool in taken if tool["function"]["name"] in allowed]
                choice = choice.get("mode", "auto")
            case _:
                raise unsupported("tool_choice", "tool_choice: auto, none, required, or functions")
    arguments: dict[str, Any] = {"tools": taken} if taken else {}
    if choice != "auto":
        arguments["tool_choice"] = choice
    return arguments, told


def _tool(tool: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tool as it is repeated, and as the command takes it."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        message = f"{where}: functions are the only tools here, not {str(kind)[:100]!r}"
        raise unsupported(f"{where}.type", message)
    if not isinstance(tool.get("name"), str):
        raise Refused(400, "missing_required_parameter", f"{where}.name: a text", f"{where}.name")
    fields = {name: tool[name] for name in _TOOL_FIELDS if tool.get(name)}
    told = {"type": "function", "description": None, "parameters": {}, "strict": tool.get("strict"), **fields}
    return told, {"type": "function", "function": fields}


def _template(data: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """What the chat template is told beside the messages; many know how much to reason."""
    reasoning = object_of(data, "reasoning")
    variables = {name: data[name] for name in TEMPLATE_VARIABLES if name in data}
    if reasoning.get("effort") is not None:
        variables["reasoning_effort"] = reasoning["effort"]
    variables |= object_of(data, "chat_template_kwargs")
    if variables:
        arguments["chat_template_kwargs"] = variables
    return variables


def _format(data: dict[str, Any], arguments: dict[str, Any], told: dict[str, Any]) -> None:
    text = object_of(data, "text")
    form = text.get("format") or {"type": "text"}
    if not isinstance(form, dict):
        raise Refused(400, "invalid_type", "text.format: an object", "text.format")
    kind = form.get("type")
    told["text"] = {"format": form}
    if kind == "text":
        return
    if kind == "json_schema":
        if not isinstance(form.get("schema"), dict):
            where = "text.format.schema"
            raise Refused(400, "missing_required_parameter", f"{where}: an object", where)
        names = ("name", "description", "schema", "strict")
        spec = {name: form[name] for name in names if form.get(name) is not None}
        arguments["response_format"] = {"type": kind, "json_schema": spec}
    else:
        arguments["response_format"] = {"type": kind}
