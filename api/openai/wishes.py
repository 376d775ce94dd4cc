"""From a request's JSON to the commands of the service. What is null counts as left out.

Fields that change nothing here are ignored; what would change the answer and can't be done is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api import protocol
from api.openai import fields
from api.openai.errors import Refused, unsupported
from api.openai.fields import TEMPLATE_VARIABLES, flag, given, object_of
from engine.errors import TokenglassError

MAX_CHOICES = 32
"""Answers to one request."""
SCHEMA_FIELDS = ("json_schema", "guided_json")
"""The schema of an answer in llama.cpp's and in vLLM's words."""
NOT_HERE = ("guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
"""Of vLLM: what an answer must be in ways that can't be taken here."""
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that was understood."""

    commands: list[protocol.Generate]
    """One for each choice."""
    stream: bool
    include_usage: bool
    logprobs: bool


def chat(data: dict[str, Any]) -> Wish:
    """A request of `/v1/chat/completions`. Raises TokenglassError or Refused."""
    data = given(data)
    if "functions" in data or "function_call" in data:
        raise unsupported("functions", "functions are called tools by now: use tools and tool_choice")
    modalities = data.get("modalities")
    if "audio" in data or (isinstance(modalities, list) and "audio" in modalities):
        raise unsupported("modalities", "there is text only, no audio")
    if "web_search_options" in data:
        raise unsupported("web_search_options", "nothing is searched on the web")
    if not isinstance(data.get("messages"), list):
        code = "invalid_type" if "messages" in data else "missing_required_parameter"
        raise Refused(400, code, "messages: a list of messages", "messages")
    arguments = _common(data)
    arguments["messages"] = [_message(message, i) for i, message in enumerate(data["messages"])]
    if (limit := data.get("max_completion_tokens")) is not None:
        arguments["max_tokens"] = limit
    if "tools" in data:
        arguments["tools"] = _tools(data["tools"])
    if "tool_choice" in data:
        arguments["tool_choice"] = data["tool_choice"]
        if isinstance(data["tool_choice"], dict) and data["tool_choice"].get("type") != "function":
            raise unsupported("tool_choice", "tool_choice: auto, none, required, or one function")
    if not flag(data, "parallel_tool_calls", True):
        arguments["parallel_tool_calls"] = False
    if variables := _template_variables(data):
        arguments["chat_template_kwargs"] = variables
    if "response_format" in data:
        arguments["response_format"] = _response_format(data["response_format"])
    if flag(data, "logprobs", False):
        arguments["logprobs"] = data.get("top_logprobs", 0)
    elif data.get("top_logprobs"):
        raise Refused(400, "invalid_value", "top_logprobs needs logprobs: true", "top_logprobs")
    return _wish(data, [arguments])


def completion(data: dict[str, Any]) -> Wish:
    """A request of `/v1/completions`. Raises TokenglassError or Refused."""
    data = given(data)
    if data.get("suffix"):
        raise unsupported("suffix", "text can't be filled in before a suffix")
    if data.get("best_of", data.get("n", 1)) != data.get("n", 1):
        raise unsupported("best_of", "best_of can't differ from n")
    echo = flag(data, "echo", False)
    if echo and "logprobs" in data:
        raise unsupported("logprobs", "the prompt's own log-probabilities aren't computed (echo)")
    arguments = _common(data)
    if (count := data.get("logprobs")) is not None:
        arguments["logprobs"] = int(count) if isinstance(count, bool) else count
    prompts = prompts_of(data)
    if echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise unsupported("echo", "a prompt of token ids can't be echoed")
    return _wish(data, [{**arguments, "prompt": prompt} for prompt in prompts])


def prompts_of(data: dict[str, Any], name: str = "prompt") -> list[Any]:
    """The texts, or lists of token ids, that stand in a field that takes one or several."""
    value = data.get(name)
    if value is None or value == []:
        raise Refused(400, "missing_required_parameter", f"{name}: a text, or a list of texts", name)
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str) for item in value) or all(
            isinstance(item, list) and item and all(type(token) is int for token in item) for item in value
        ):
            return value
    raise Refused(400, "invalid_type", f"{name}: a text, a list of texts, or lists of token ids", name)


def _template_variables(data: dict[str, Any]) -> dict[str, Any]:
    """What the chat template is told beside the messages."""
    own = {name: data[name] for name in TEMPLATE_VARIABLES if name in data}
    return own | object_of(data, "chat_template_kwargs")


def _common(data: dict[str, Any]) -> dict[str, Any]:
    """What both kinds of request have."""
    arguments: dict[str, Any] = {"type": "generate"}
    for name in NOT_HERE:
        if name in data:
            raise unsupported(name, f"{name} can't be obeyed: use response_format or grammar")
    sampling = fields.sampling(data)
    if "repetition_penalty" in data:  # vLLM's name of it
        sampling.setdefault("repeat_penalty", data["repetition_penalty"])
    if sampling:
        arguments["sampling"] = sampling
    if (limit := data.get("max_tokens")) is not None and limit != -1:
        arguments["max_tokens"] = limit
    if "stop" in data:
        arguments["stop"] = fields.stop(data)
    if "grammar" in data:
        arguments["grammar"] = data["grammar"]
    for name in SCHEMA_FIELDS:
        if isinstance(data.get(name), dict):
            form = {"type": "json_schema", "json_schema": {"schema": data[name]}}
            arguments.setdefault("response_format", form)
    return arguments


def _wish(data: dict[str, Any], each: list[dict[str, Any]]) -> Wish:
    n = data.get("n", 1)
    if type(n) is not int or n < 1:
        raise Refused(400, "invalid_value", "n: a whole number from 1 on", "n")
    if n * len(each) > MAX_CHOICES:
        raise Refused(400, "invalid_value", f"n: at most {MAX_CHOICES} answers to a request", "n")
    commands = []
    for arguments in each:
        command = protocol.parse_command(arguments)
        assert isinstance(command, protocol.Generate)
        commands += [_nth(command, number) for number in range(n)]
    return Wish(
        commands=commands,
        stream=flag(data, "stream", False),
        include_usage=flag(object_of(data, "stream_options"), "include_usage", False),
        logprobs=commands[0].logprobs is not None,
    )


def _nth(command: protocol.Generate, number: int) -> protocol.Generate:
    """The command of the nth choice: with a seed of its own, where one is given."""
    seed = command.sampling.seed
    if number == 0 or seed is None:
        return command
    sampling = command.sampling.model_copy(update={"seed": (seed + number) % 2**32})
    return command.model_copy(update={"sampling": sampling})


def _message(message: Any, place: int) -> dict[str, Any]:
    where = f"messages[{place}]"
    if not isinstance(message, dict):
        raise Refused(400, "invalid_type", f"{where}: an object", where)
    message = given(message)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(400, "invalid_value", f"{where}.role: one of {', '.join(_ROLES)}", f"{where}.role")
    for name in ("audio", "function_call"):
        if name in message:
            raise unsupported(f"{where}.{name}", f"{where}: no {name} can be taken")
    taken: dict[str, Any] = {"role": _ROLES[role]}
    if "content" in message:
        taken["content"] = _text(message["content"], f"{where}.content")
    elif "refusal" in message:
        taken["content"] = message["refusal"]
    if role == "assistant" and (thought := message.get("reasoning_content", message.get("reasoning"))):
        taken["reasoning"] = thought
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise Refused(400, "invalid_type", f"{where}.tool_calls: a list", f"{where}.tool_calls")
        taken["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    for name in ("tool_call_id", "name"):
        if name in message:
            taken[name] = message[name]
    return taken


def _text(content: Any, where: str) -> Any:
    """The text of a message, which may come in parts."""
    return fields.joined_text(content, where, _TEXT_PARTS) if isinstance(content, list) else content


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Refused(400, "invalid_value", f"{where}: a call of a function", where)
    return {
        "id": call.get("id") or "",
        "name": function.get("name"),
        "arguments": function.get("arguments", "{}"),
    }


def _tools(tools: Any) -> Any:
    if not isinstance(tools, list):
        return tools
    taken = []
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise unsupported(f"tools[{i}]", f"tools[{i}]: functions are the only tools here")
        fields = {
            name: function[name] for name in ("name", "description", "parameters") if function.get(name)
        }
        taken.append({"type": "function", "function": fields})
    return taken


def _response_format(wanted: Any) -> Any:
    if not isinstance(wanted, dict):
        return wanted
    kind = wanted.get("type")
    if kind == "json_object" and isinstance(wanted.get("schema"), dict):  # as llama.cpp's server takes it
        return {"type": "json_schema", "json_schema": {"schema": wanted["schema"]}}
    if kind == "json_schema":
        spec = wanted.get("json_schema")
        if not isinstance(spec, dict) or not isinstance(spec.get("schema"), dict):
            raise Refused(
                400, "invalid_value", "response_format.json_schema.schema: an object", "response_format"
            )
        names = ("name", "description", "schema", "strict")
        return {
            "type": kind,
            "json_schema": {name: spec[name] for name in names if spec.get(name) is not None},
        }
    return {"type": kind}


def embedding(data: dict[str, Any]) -> tuple[protocol.Embed, bool]:
    """A request of `/v1/embeddings`, and whether base64 is wanted. Raises TokenglassError or Refused."""
    data = given(data)
    encoding = data.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refused(400, "invalid_value", "encoding_format: float or base64", "encoding_format")
    command = protocol.parse_command({"type": "embed", "input": prompts_of(data, "input")})
    if not isinstance(command, protocol.Embed):
        raise TokenglassError("internal", "not an embed command")
    return command, encoding == "base64"
