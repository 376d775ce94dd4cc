"""The contract as documents for other programs: JSON Schema of everything on `/v1/live`, and AsyncAPI 3.

Both are made from the types. `python -m api.schema` writes them to `schema.json` and `asyncapi.json` beside
this file, which a test compares, so that a change of the contract shows in a diff.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import frames, protocol
from engine import events, types
from engine.errors import ErrorInfo
from engine.fit import Use

SCHEMA_FILE = Path(__file__).with_name("schema.json")
ASYNCAPI_FILE = Path(__file__).with_name("asyncapi.json")
FRAMES: tuple[type[BaseModel], ...] = (frames.Hello, frames.Reset, frames.SnapshotFrame, frames.Failure)
WHOLE: tuple[type[BaseModel], ...] = (
    types.ToolCall,
    types.Usage,
    types.Timings,
    types.PrefixBreak,
    types.ModelInfo,
    events.GpuMetrics,
    events.ClientTraffic,
    ErrorInfo,
    frames.Estimated,
    Use,
)
"""Values that the server always sends with all their fields, defaults included."""
IN_SNAPSHOTS = (events.StepMetrics, events.SystemMetrics)
"""Events that a snapshot holds as well, without a number there."""

Schema = dict[str, Any]


def members(annotated: Any) -> list[type[BaseModel]]:
    """The models of a discriminated union."""
    union: UnionType = get_args(annotated)[0]
    return list(get_args(union))


def names(model: type[BaseModel]) -> list[str]:
    """The `type`s that a command or event may have."""
    return list(get_args(model.model_fields["type"].annotation))


EVENTS = members(events.Event)
COMMANDS = members(protocol.Command)


@functools.cache
def schema() -> bytes:
    """The JSON Schema document as text; what `GET /v1/schema` answers (`api.documents`). Takes 0.1 s."""
    return _text(json_schema())


@functools.cache
def asyncapi() -> bytes:
    """The AsyncAPI document as text."""
    return _text(asyncapi_document())


def json_schema() -> Schema:
    """`#/$defs/Command` is what a client sends, `#/$defs/Frame` what it gets; `results` by command."""
    defs = _definitions("#/$defs/")
    defs["Command"] = {"oneOf": [_ref(model) for model in COMMANDS]}
    defs["Event"] = {"oneOf": [_ref(model) for model in EVENTS], "required": ["seq"]}
    replies = [{"$ref": f"#/$defs/{_reply_name(command)}"} for command in frames.RESULTS]
    defs["Reply"] = {"anyOf": [*replies, _ref(frames.Failure)]}
    others = [_ref(model) for model in FRAMES if model is not frames.Failure]
    defs["Frame"] = {"anyOf": [{"$ref": "#/$defs/Event"}, {"$ref": "#/$defs/Reply"}, *others]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tokenglass /v1/live",
        "description": "Every command, reply, event and frame of the stream. Clients ignore fields and names "
        "that they don't know.",
        "version": protocol.PROTOCOL_VERSION,
        "anyOf": [{"$ref": "#/$defs/Command"}, {"$ref": "#/$defs/Frame"}],
        "results": {command: _ref(model) for command, model in sorted(frames.RESULTS.items())},
        "$defs": dict(sorted(defs.items())),
    }


def asyncapi_document() -> Schema:
    """The same contract as AsyncAPI 3, told from the app's side: it receives commands and sends the rest."""
    root = "#/components/schemas/"
    messages: Schema = {}
    for model in (*COMMANDS, *EVENTS, *FRAMES):
        for name in ["error"] if model is frames.Failure else names(model):
            key = _command_key(name) if model in COMMANDS else name
            messages[key] = _message(name, model, {"$ref": root + model.__name__})
    for command in frames.RESULTS:
        payload = {"$ref": root + _reply_name(command)}
        messages[f"reply.{command}"] = {"name": "reply", "title": f"Result of {command}", "payload": payload}
    channel = {"$ref": "#/channels/live"}

    def in_channel(*keys: str) -> list[Schema]:
        return [{"$ref": f"#/channels/live/messages/{key}"} for key in keys]

    operations: Schema = {
        "events": {
            "action": "send",
            "channel": channel,
            "messages": in_channel(*(name for model in EVENTS for name in names(model))),
        },
        "greeting": {"action": "send", "channel": channel, "messages": in_channel("hello")},
        "gaps": {"action": "send", "channel": channel, "messages": in_channel("reset", "snapshot")},
    }
    for model in COMMANDS:
        (name,) = names(model)
        operations[f"command.{name}"] = {
            "action": "receive",
            "channel": channel,
            "messages": in_channel(_command_key(name)),
            "reply": {"channel": channel, "messages": in_channel(f"reply.{name}", "error")},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tokenglass live stream",
            "version": str(protocol.PROTOCOL_VERSION),
            "description": "One JSON object in each text frame. See PROTOCOL.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:7317",
                "protocol": "ws",
                "description": "The address and the token stand in server.json.",
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            }
        },
        "channels": {
            "live": {
                "address": "/v1/live",
                "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in sorted(messages)},
                "bindings": {"ws": {"query": _QUERY}},
            }
        },
        "operations": operations,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "messages": dict(sorted(messages.items())),
            "schemas": dict(sorted(_definitions(root).items())),
        },
    }


_QUERY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "What others see."},
        "client": {"type": "string", "maxLength": 200, "description": "A key that keeps the identity."},
        "hold": {"const": "1", "description": "No events before the first subscribe."},
        "token": {"type": "string", "description": "For browsers, which can't set the header."},
    },
}


def _definitions(root: str) -> Schema:
    """Every type by name, `$ref`s below `root`."""
    models = [*COMMANDS, *EVENTS, *FRAMES, *frames.RESULTS.values()]
    _, document = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template=root + "{model}"
    )
    defs: Schema = document["$defs"]
    for model in (*EVENTS, *WHOLE):
        found = defs[model.__name__]
        found["required"] = list(found["properties"])
    for model in EVENTS:
        found = defs[model.__name__]
        found["properties"] |= {"seq": _SEQ, "first_seq": _FIRST_SEQ}
        if model not in IN_SNAPSHOTS:
            found["required"].append("seq")
    for command, result in frames.RESULTS.items():
        defs[_reply_name(command)] = {
            "type": "object",
            "title": f"Reply to {command}",
            "properties": {
                "type": {"const": "reply"},
                "id": {},
                "ok": {"const": True},
                "result": {"$ref": root + result.__name__},
            },
            "required": ["type", "id", "ok", "result"],
        }
    return defs


_SEQ = {"type": "integer", "minimum": 1, "description": "Rises by one over all events of a run of the app."}
_FIRST_SEQ = {
    "type": "integer",
    "minimum": 1,
    "description": "Of the first event, where several were merged.",
}


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/$defs/{model.__name__}"}


def _reply_name(command: str) -> str:
    return "".join(part.capitalize() for part in command.replace(".", "_").split("_")) + "Reply"


def _command_key(name: str) -> str:
    return f"command.{name}"


def _message(name: str, model: type[BaseModel], payload: Schema) -> Schema:
    message: Schema = {"name": name, "title": name, "payload": payload}
    if model.__doc__:
        message["summary"] = " ".join(model.__doc__.split())
    return message


def _text(document: Schema) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def files() -> Iterator[tuple[Path, bytes]]:
    """What belongs into the repository."""
    yield SCHEMA_FILE, schema()
    yield ASYNCAPI_FILE, asyncapi()


if __name__ == "__main__":
    for file, text in files():
        file.write_bytes(text)
        print(f"{file.name}: {len(text)} bytes")
