"""The wire contract of `/v1/live` from the client's side: every command, checked before anything is done.

Frames from the server are events (`engine.events`), and those of `api.frames`; replies are built here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from api.cleanjson import MAX_DEPTH as MAX_DEPTH
from api.cleanjson import MAX_VALUES as MAX_VALUES
from api.cleanjson import decode as decode
from api.cleanjson import decode_aside as decode_aside
from api.refusals import refusal
from engine.commands import MAX_PROMPT_LOOKUP
from engine.errors import ErrorInfo, TokenglassError
from engine.types import Argument, ChatMessage, ResponseFormat, SamplingParams, Tool, ToolChoice

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 1 << 20
MAX_UNANSWERED = 64
MAX_CLIENTS = 256
MAX_OF_TOKEN = 64
"""Of these with one further token; and HTTP requests of one at the same time."""
MAX_ID_CHARS = 1000

MAX_TOOL_RESULT = 1 << 18
"""Characters of what a call gave."""

MAX_TEMPLATE_VARIABLES = 32
MAX_TEMPLATE_CHARS = 1 << 16
"""Of a template's variables, as JSON."""
RESERVED_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))
"""What a chat template gets from elsewhere."""


def _template_variables(variables: dict[str, Any]) -> dict[str, Any]:
    for name in RESERVED_VARIABLES.intersection(variables):
        raise ValueError(f"{name} can't be set this way")
    if len(json.dumps(variables, ensure_ascii=False)) > MAX_TEMPLATE_CHARS:
        raise ValueError(f"longer than {MAX_TEMPLATE_CHARS} characters")
    return variables


Id = Annotated[str, Field(min_length=1, max_length=200)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
TemplateVariables = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Any],
    Field(max_length=MAX_TEMPLATE_VARIABLES),
    AfterValidator(_template_variables),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
CommandId = Any
"""Whatever JSON value the client chose; it comes back in the reply."""


class BaseCommand(Argument):
    id: CommandId = None


class Generate(BaseCommand):
    """Start a generation from `messages`, a raw `prompt`, or the next turn of a conversation."""

    type: Literal["generate"]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    prompt: str | Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)] | None = None
    """Text, or token ids that are taken as they are."""
    conversation_id: Id | None = None
    content: str | None = None
    """What the user says next in the conversation."""
    parent: Id | None = None
    """A user message of the conversation: give another variant of its answer."""
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    sampling: SamplingParams = SamplingParams()
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field([], max_length=16)
    tools: list[Tool] = Field([], max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """False: the answer ends with its first call."""
    chat_template_kwargs: TemplateVariables = Field({})
    """Further variables for the chat template, e.g. `enable_thinking`; for `messages` only."""
    response_format: ResponseFormat | None = None
    grammar: str | None = Field(None, min_length=1, max_length=65_536)
    """GBNF, with the rule `root` for the whole answer."""
    prompt_lookup_num_tokens: int = Field(0, ge=0, le=MAX_PROMPT_LOOKUP)
    logprobs: int | None = Field(None, ge=0, le=20)
    on_disconnect: Literal["continue", "cancel"] = "continue"

    @property
    def constrained(self) -> bool:
        """Something says what the answer must be."""
        formatted = self.response_format is not None and self.response_format.type != "text"
        return self.grammar is not None or formatted or self.tool_choice not in ("auto", "none")

    @model_validator(mode="after")
    def _one_source(self) -> Generate:
        conversation = self.conversation_id is not None or self.parent is not None
        if sum((self.messages is not None, self.prompt is not None, conversation)) != 1:
            raise ValueError(
                "give exactly one of messages, prompt, or conversation_id with content or parent"
            )
        if conversation and (self.content is None) == (self.parent is None):
            raise ValueError(
                "a conversation takes either content (the next turn) or parent (another variant)"
            )
        if conversation and self.conversation_id is None:
            raise ValueError("parent needs its conversation_id")
        if self.content is not None and not conversation:
            raise ValueError("content needs a conversation_id")
        return self


class Cancel(BaseCommand):
    type: Literal["cancel"]
    generation_id: Id


class Pause(BaseCommand):
    """Hold a generation before its next token, wherever it is."""

    type: Literal["pause"]
    generation_id: Id


class Resume(BaseCommand):
    type: Literal["resume"]
    generation_id: Id


class Step(BaseCommand):
    """Let a paused generation write some tokens and pause again."""

    type: Literal["step"]
    generation_id: Id
    tokens: int = Field(1, ge=1, le=1_000_000)


class Update(BaseCommand):
    """Change sampling parameters from the next token on; those left out stay as they are."""

    type: Literal["update"]
    generation_id: Id
    sampling: SamplingParams


class Rewind(BaseCommand):
    """Remove the last tokens of an answer."""

    type: Literal["rewind"]
    generation_id: Id
    tokens: int = Field(1, ge=1, le=1 << 24)


class Inject(BaseCommand):
    """Put text into an answer as though the model had written it."""

    type: Literal["inject"]
    generation_id: Id
    text: str = Field(min_length=1, max_length=100_000)


class Fork(BaseCommand):
    """Start a branch with the first tokens of an answer; the source goes on."""

    type: Literal["fork"]
    generation_id: Id
    at_token: int = Field(ge=0, le=1 << 24)
    token_id: int | None = Field(None, ge=0, lt=2**31)
    """The branch's first own token, e.g. another of `top`; left out: drawn anew."""
    on_disconnect: Literal["continue", "cancel"] = "continue"


class ToolResult(BaseCommand):
    """Give what a call of a finished generation gave; with the last result another one goes on from there."""

    type: Literal["tool_result"]
    generation_id: Id
    call_id: Id
    content: str = Field(max_length=MAX_TOOL_RESULT)


class Embed(BaseCommand):
    """Embeddings of texts, on a model that gives some."""

    type: Literal["embed"]
    input: str | Annotated[list[str | list[TokenId]], Field(min_length=1, max_length=2048)]
    """Texts, or for each a list of token ids that are taken as they are."""


class Publish(BaseCommand):
    """Put a value of one's own on everybody's time axis."""

    type: Literal["publish"]
    series: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/ -]{0,63}$")
    value: float = Field(allow_inf_nan=False)
    unit: str = Field("", max_length=16, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")


class Subscribe(BaseCommand):
    """Choose what to see; replaces the earlier choice."""

    type: Literal["subscribe"]
    events: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(["*"], max_length=64)
    generations: Literal["all", "own"] | Annotated[list[Id], Field(max_length=1024)] = "all"
    since: int | None = Field(None, ge=0)
    run_id: str | None = None


class Unsubscribe(BaseCommand):
    type: Literal["unsubscribe"]


class Snapshot(BaseCommand):
    type: Literal["snapshot"]


class Ping(BaseCommand):
    type: Literal["ping"]


class ModelsList(BaseCommand):
    type: Literal["models.list"]


class ModelsLoad(BaseCommand):
    type: Literal["models.load"]
    model: Id
    force: bool = False
    """Load even though generations run, which are cancelled, or it can't fit into memory."""
    ctx: int | None = Field(None, ge=1, le=1 << 24)
    """Tokens per slot, this time."""


class ModelsUnload(BaseCommand):
    """End the worker and free its memory; `busy` while generations run, unless `force`."""

    type: Literal["models.unload"]
    force: bool = False


class ModelsEstimate(BaseCommand):
    """What a model would need, before loading it; what is left out is as the settings have it."""

    type: Literal["models.estimate"]
    model: Id
    ctx: int | None = Field(None, ge=0, le=1 << 24)
    parallel: int | None = Field(None, ge=1, le=64)
    gpu_layers: int | None = Field(None, ge=-1, le=10_000)


class ModelsAdd(BaseCommand):
    """Put a GGUF file into the library where it lies (the only command that takes a path)."""

    type: Literal["models.add"]
    path: Annotated[str, Field(min_length=1, max_length=4096)]


class ConversationsList(BaseCommand):
    type: Literal["conversations.list"]
    limit: int = Field(200, ge=1, le=1000)
    offset: int = Field(0, ge=0, lt=2**31)


class ConversationsGet(BaseCommand):
    type: Literal["conversations.get"]
    conversation_id: Id
    leaf: Id | None = None
    """Show the branch that runs through this message; default: the one used last."""


class ConversationsCreate(BaseCommand):
    type: Literal["conversations.create"]
    title: Title = ""
    system: str | None = Field(None, max_length=100_000)


class ConversationsExport(BaseCommand):
    """A conversation with all its branches as JSON for a file, or the branch shown as Markdown."""

    type: Literal["conversations.export"]
    conversation_id: Id | None = None
    all: bool = False
    """All conversations, in place of one."""
    format: Literal["json", "markdown"] = "json"

    @model_validator(mode="after")
    def _one_or_all(self) -> ConversationsExport:
        if (self.conversation_id is None) != self.all:
            raise ValueError("give either conversation_id or all")
        if self.all and self.format == "markdown":
            raise ValueError("Markdown is made of one conversation at a time")
        return self


class ConversationsImport(BaseCommand):
    """New conversations from a file; none that is there is changed."""

    type: Literal["conversations.import"]
    data: dict[str, Any] | list[Any]
    """What stands in the file."""


class ConversationsRename(BaseCommand):
    type: Literal["conversations.rename"]
    conversation_id: Id
    title: Annotated[Title, Field(min_length=1)]


class ConversationsDelete(BaseCommand):
    """Take a conversation out of the list; `conversations.restore` brings it back until the app quits."""

    type: Literal["conversations.delete"]
    conversation_id: Id


class ConversationsRestore(BaseCommand):
    type: Literal["conversations.restore"]
    conversation_id: Id


class ConversationsSearch(BaseCommand):
    type: Literal["conversations.search"]
    query: str = Field(min_length=1, max_length=500)
    limit: int = Field(50, ge=1, le=500)


class SettingsGet(BaseCommand):
    type: Literal["settings.get"]


class SettingsSet(BaseCommand):
    type: Literal["settings.set"]
    settings: dict[str, Any]


class WindowRaise(BaseCommand):
    """Bring the window to the front: what a second start asks of the first. Not part of the contract."""

    type: Literal["window.raise"]


Command = Annotated[
    Generate
    | Cancel
    | Pause
    | Resume
    | Step
    | Update
    | Rewind
    | Inject
    | Fork
    | ToolResult
    | Embed
    | Subscribe
    | Unsubscribe
    | Snapshot
    | Ping
    | Publish
    | ModelsList
    | ModelsLoad
    | ModelsUnload
    | ModelsEstimate
    | ModelsAdd
    | ConversationsList
    | ConversationsGet
    | ConversationsCreate
    | ConversationsExport
    | ConversationsImport
    | ConversationsRename
    | ConversationsDelete
    | ConversationsRestore
    | ConversationsSearch
    | SettingsGet
    | SettingsSet
    | WindowRaise,
    Field(discriminator="type"),
]
_commands: TypeAdapter[Command] = TypeAdapter(Command)


def command_id(data: Mapping[str, Any]) -> CommandId:
    """The id to answer under. Raises TokenglassError where it is too long to be sent back."""
    value = data.get("id")
    if isinstance(value, str | list | dict) and len(json.dumps(value)) > MAX_ID_CHARS:
        raise TokenglassError("invalid_argument", f"id: longer than {MAX_ID_CHARS} characters", path="id")
    return value


def parse_command(data: Mapping[str, Any]) -> Command:
    """Check one decoded frame. Raises TokenglassError with the first wrong argument's path."""
    name = data.get("type")
    if not isinstance(name, str):
        raise TokenglassError("invalid_argument", "a command needs a type", path="type")
    # null stands for an argument left out
    data = {key: value for key, value in data.items() if value is not None or key == "id"}
    try:
        return _commands.validate_python(data)
    except ValidationError as error:
        raise _as_error(name, error, data) from None


def _as_error(name: str, error: ValidationError, data: Mapping[str, Any]) -> TokenglassError:
    if error.errors(include_url=False, include_input=False)[0]["type"] == "union_tag_invalid":
        return TokenglassError("unknown_command", f"there is no command {name[:100]!r}", path="type")
    return refusal(error, data, above=(name,))


def encode(frame: Mapping[str, Any]) -> bytes:
    """A frame as compact JSON; pydantic values in it are dumped."""
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False, default=_dump).encode(
        "utf-8", "replace"
    )


def _dump(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} doesn't belong in a frame")


class Encoded(dict[str, Any]):
    """A result together with its JSON text, where making that takes too long for the loop's thread."""

    def __init__(self, value: Mapping[str, Any], text: bytes) -> None:
        super().__init__(value)
        self.text = text


def reply_ok(command_id: CommandId, result: object) -> bytes:
    if isinstance(result, Encoded):
        head = encode({"type": "reply", "id": command_id, "ok": True})
        return b'%s,"result":%s}' % (head[:-1], result.text)
    return encode({"type": "reply", "id": command_id, "ok": True, "result": result})


def reply_error(command_id: CommandId, error: ErrorInfo) -> bytes:
    return encode({"type": "reply", "id": command_id, "ok": False, "error": error})
