"""What a token may do: the permissions, and which of them each command and each path needs.

Commands are checked in one place, the service, whoever sends them; paths at the door, before a body is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

from api import protocol
from engine.errors import ErrorInfo, TokenglassError

Permission = Literal["observe", "generate", "control", "manage", "owner"]
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
GRANTABLE = PERMISSIONS[:-1]
"""What further tokens may have; `owner` comes with the app's own token only."""
Needed = frozenset[Permission]


@dataclass(frozen=True, slots=True)
class Grant:
    """What came with a token. Two tokens never give equal ones."""

    name: str
    permissions: Needed
    digest: bytes = b""
    """The token's SHA-256; empty for the owner's, and where there was no token."""

    @property
    def key(self) -> str:
        """By which the token is known again in another run; the owner's, too, which is new then."""
        return self.digest.hex() or self.name


OWNER = Grant("owner", frozenset(PERMISSIONS))
NOBODY = Grant("", frozenset())
"""Of those who came without a token, or whose token is gone."""

_ANY: Needed = frozenset()
_OBSERVE: Needed = frozenset(("observe",))
_GENERATE: Needed = frozenset(("generate",))
_CONTROL: Needed = frozenset(("control",))
_MANAGE: Needed = frozenset(("manage",))
_OWNER: Needed = frozenset(("owner",))

COMMANDS: Mapping[str, Needed] = {
    "ping": _ANY,
    "subscribe": _ANY,
    "unsubscribe": _ANY,
    "snapshot": _ANY,
    "models.list": _OBSERVE,
    "models.estimate": _OBSERVE,
    "conversations.list": _OBSERVE,
    "conversations.get": _OBSERVE,
    "conversations.search": _OBSERVE,
    "conversations.export": _OBSERVE,
    "settings.get": _OBSERVE,
    "generate": _GENERATE,
    "embed": _GENERATE,
    "publish": _GENERATE,
    "cancel": _CONTROL,
    "pause": _CONTROL,
    "resume": _CONTROL,
    "step": _CONTROL,
    "update": _CONTROL,
    "rewind": _CONTROL,
    "inject": _CONTROL,
    "tool_result": _CONTROL | _OBSERVE,  # what it starts, and a fork, bring along what was said before
    "fork": _CONTROL | _OBSERVE,
    "models.load": _MANAGE,
    "models.unload": _MANAGE,
    "conversations.create": _MANAGE,
    "conversations.rename": _MANAGE,
    "conversations.delete": _MANAGE,
    "conversations.restore": _MANAGE,
    "conversations.import": _MANAGE,
    "settings.set": _MANAGE,
    "window.raise": _MANAGE,
    "models.add": _OWNER,
}
"""By command. Of one's own generation every hand needs but `generate`."""
IN_CONVERSATION: Needed = _GENERATE | _OBSERVE | _MANAGE
"""For `generate` in a conversation: it reads it, and adds to it."""
OWNER_SETTINGS = frozenset(("allow_origins", "model"))
"""Which pages may connect, and what may be a file's path: neither is a token's to give."""

PATHS: Mapping[str, Needed] = {
    "/health": _ANY,
    "/v1/live": _ANY,
    "/v1/schema": _ANY,
    "/v1/asyncapi": _ANY,
    "/v1/models": _ANY,
    "/metrics": _OBSERVE,
    "/v1/chat/completions": _GENERATE,
    "/v1/completions": _GENERATE,
    "/v1/embeddings": _GENERATE,
    "/v1/responses": _GENERATE,
}
"""By path; one that follows another's name and a slash (`/v1/models/ID`) needs what that one does."""


def check(grant: Grant, command: protocol.BaseCommand, own: Set[str]) -> None:
    """Raises TokenglassError `forbidden` where a command needs more than `grant` has.

    `own`: the client's own generations.
    """
    name: str = getattr(command, "type")  # noqa: B009 - every command has it, the base class doesn't say so
    missing = _needed(name, command, own, grant) - grant.permissions
    if missing:
        raise _forbidden(name, missing, grant)


def path_refusal(grant: Grant, path: str) -> ErrorInfo | None:
    """What is wrong where a path needs more than `grant` has: `forbidden`."""
    needed = PATHS.get(path)
    if needed is None:
        needed = next((PATHS[known] for known in PATHS if path.startswith(f"{known}/")), _OWNER)
    missing = needed - grant.permissions
    return _forbidden(path, missing, grant).info if missing else None


def visible(snapshot: dict[str, Any], grant: Grant, client_id: str, own: Set[str]) -> dict[str, Any]:
    """As much of a snapshot as the client may see: without `observe`, of what happens only its own."""
    if "observe" in grant.permissions:
        return snapshot
    return snapshot | {
        "generations": [shown for shown in snapshot["generations"] if shown["generation_id"] in own],
        "clients": [shown for shown in snapshot["clients"] if shown["client_id"] == client_id],
        "metrics": dict.fromkeys(snapshot["metrics"]),
    }


def _needed(name: str, command: protocol.BaseCommand, own: Set[str], grant: Grant) -> Needed:
    if getattr(command, "generation_id", None) in own:
        return _ANY if "control" in grant.permissions else _GENERATE
    if isinstance(command, protocol.Generate) and command.conversation_id is not None:
        return IN_CONVERSATION
    if isinstance(command, protocol.SettingsSet) and OWNER_SETTINGS & command.settings.keys():
        return _OWNER
    return COMMANDS.get(name, _OWNER)


def _forbidden(what: str, missing: Needed, grant: Grant) -> TokenglassError:
    if "owner" in missing:
        return TokenglassError("forbidden", f"{what} needs the owner's token", hint="server.json has it")
    names = " and ".join(name for name in PERMISSIONS if name in missing)
    return TokenglassError(
        "forbidden",
        f"{what} needs the permission {names}, which the token {grant.name!r} doesn't have",
        hint="the owner makes tokens: tokenglass token add NAME --can LIST",
    )
