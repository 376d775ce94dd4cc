"""`PROTOCOL.md` names everything that goes over the wire."""

import asyncio
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest

from api import protocol
from api.history import History
from api.settings import Settings
from engine import events, fakespec
from engine.errors import ErrorCode, ErrorInfo
from engine.fit import Estimate, Use
from engine.types import (
    ChatMessage,
    FinishReason,
    FunctionSpec,
    ModelInfo,
    Origin,
    SamplingParams,
    Timings,
    Token,
    ToolCall,
    Usage,
)

TEXT = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text()


def members(annotated: Any) -> list[Any]:
    """The models of a discriminated union."""
    union: UnionType = get_args(annotated)[0]
    return list(get_args(union))


def names(model: Any) -> list[str]:
    return list(get_args(model.model_fields["type"].annotation))


def row(name: str, heading: str) -> str:
    """The table row, below a heading, whose first cell names it."""
    section = TEXT[TEXT.index(heading) :]
    section = re.split(r"\n## ", section[3:])[0]
    for line in section.splitlines():
        if line.startswith("|") and f"`{name}`" in line.split("|")[1]:
            return line
    pytest.fail(f"{heading} has no row for {name}")


def ticked(line: str, words: list[str] | tuple[str, ...]) -> None:
    assert [word for word in words if f"`{word}`" not in line] == []


@pytest.mark.parametrize("model", members(events.Event), ids=lambda model: model.__name__)
def test_every_event_and_its_fields(model: Any) -> None:
    for name in names(model):
        fields = [field for field in model.model_fields if field not in ("type", "t")]
        ticked(row(name, "## Events"), fields)


@pytest.mark.parametrize("model", members(protocol.Command), ids=lambda model: model.__name__)
def test_every_command_and_its_arguments(model: Any) -> None:
    (name,) = names(model)
    line = row(name, "## Commands")
    arguments = [field for field in model.model_fields if field not in ("type", "id")]
    if name == "generate":
        section = TEXT[TEXT.index("### generate") : TEXT.index("## Events")]
        ticked(section, arguments)
    else:
        ticked(line, arguments)


def test_every_command_of_the_contract_is_built() -> None:
    contract = (
        "generate", "cancel", "pause", "resume", "step", "update", "rewind", "inject", "fork", "tool_result",
        "subscribe", "unsubscribe", "snapshot", "ping", "publish", "settings.get", "settings.set",
        "models.list", "models.load", "models.unload", "models.estimate", "models.add",
        "conversations.list", "conversations.get", "conversations.create", "conversations.rename",
        "conversations.delete", "conversations.search", "conversations.export", "conversations.import",
    )  # fmt: skip
    built = {name for model in members(protocol.Command) for name in names(model)}
    assert set(contract) - built == set()


def test_every_error_code_once() -> None:
    section = TEXT[TEXT.index("## Error codes") : TEXT.index("## `fake:")]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(get_args(ErrorCode))


def test_every_value_and_its_fields() -> None:
    def line(name: str) -> str:
        (found,) = re.findall(rf"^\| {name} \|.*$", TEXT, re.MULTILINE)
        return str(found)

    ticked(line("token"), list(Token.__annotations__))
    ticked(line("usage"), list(Usage.model_fields))
    ticked(line("timings"), list(Timings.model_fields))
    ticked(line("info"), list(ModelInfo.model_fields))
    ticked(line("settings"), list(Settings.model_fields))
    ticked(line("estimate"), [*Estimate.model_fields, *Use.model_fields])
    ticked(line("error"), list(ErrorInfo.model_fields))
    ticked(row("metrics.system", "## Events"), list(events.GpuMetrics.model_fields))
    ticked(row("metrics.clients", "## Events"), list(events.ClientTraffic.model_fields))
    ticked(row("generation.tool_call", "## Events"), list(ToolCall.model_fields))
    ticked(row("generation.queued", "## Events"), get_args(Origin))
    ticked(row("generation.finished", "## Events"), get_args(FinishReason))
    section = TEXT[TEXT.index("### generate") : TEXT.index("## Events")]
    for model in (SamplingParams, ChatMessage, FunctionSpec):
        ticked(section, list(model.model_fields))


def test_conversations_and_messages() -> None:
    async def fields() -> tuple[list[str], list[str]]:
        history = await History.open(None)
        conversation = await history.create("t", None)
        message, _ = await history.add_turn(conversation["id"], "x", "g", "m")
        await history.close()
        return list(conversation), list(message)

    conversation, message = asyncio.run(fields())
    ticked(re.findall(r"^\| conversation \|.*$", TEXT, re.MULTILINE)[0], conversation)
    ticked(
        re.findall(r"^\| message \|.*$", TEXT, re.MULTILINE)[0] + row("conversations.get", "## Commands"),
        message,
    )


def test_limits_are_the_ones_told() -> None:
    assert protocol.MAX_MESSAGE_BYTES == 1 << 20
    assert f"{protocol.MAX_CLIENTS} clients" in TEXT
    assert f"{protocol.MAX_UNANSWERED} may be unanswered" in TEXT
    assert f"at most {protocol.MAX_DEPTH} deep" in TEXT
    assert f"{protocol.MAX_ID_CHARS:,} characters" in TEXT


def test_every_key_of_the_fake_model() -> None:
    section = TEXT[TEXT.index("## `fake:") :]
    ticked(section, list(fakespec.FakeSpec.__dataclass_fields__))
