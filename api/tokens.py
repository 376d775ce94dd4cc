"""The tokens that are let in: the owner's, and further ones of which only a hash is kept in a file.

`tokenglass token` writes the file; a running app looks at it again before every handshake and twice a
second, so that a new token works at once, and a revoked one no longer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.discovery import InstanceLock, new_token
from api.paths import write_atomically
from api.permissions import GRANTABLE, NOBODY, OWNER, Grant
from engine.errors import TokenglassError

logger = logging.getLogger(__name__)

PREFIX = "tg_"
"""Of further tokens, so that they can be told from other texts (in logs, by scanners)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_TOKENS = 256
MAX_FILE_BYTES = 1 << 20
LOCK_S = 5.0


class Entry(BaseModel):
    """A further token as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    can: list[Literal["observe", "generate", "control", "manage"]]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: float
    """Unix seconds."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    tokens: Annotated[list[Entry], Field(max_length=MAX_TOKENS)] = []


class Tokens:
    """Which token gives what. Loop thread only.

    Raises TokenglassError `invalid_argument` for an empty owner's token, which would let everybody in.
    """

    def __init__(self, owner: str, file: Path | None = None) -> None:
        if not owner.strip():
            raise TokenglassError("invalid_argument", "an empty token would let everybody in", path="token")
        self._owner = _digest(owner)
        self._file = file
        self._seen: tuple[int, ...] | None = None
        self._further: dict[bytes, Grant] = {}
        self.refresh()

    def find(self, offered: Iterable[str]) -> Grant | None:
        """What the first known one of the offered tokens gives.

        Each is compared with every token that there is, whatever is found on the way.
        """
        found: Grant | None = None
        for token in offered:
            digest = _digest(token)
            match: Grant | None = None
            for known, grant in ((self._owner, OWNER), *self._further.items()):
                if hmac.compare_digest(digest, known):
                    match = grant
            found = found or match
        return found

    def valid(self, grant: Grant) -> bool:
        """Whether the token that gave this is still there."""
        return grant is OWNER or grant is NOBODY or self._further.get(grant.digest) == grant

    def refresh(self) -> bool:
        """Take in what the file has now; True where it has changed.

        A file that can't be read or understood gives nothing: then only the owner's token is left.
        """
        seen = _seen(self._file)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            entries = _read(self._file) if self._file is not None else []
        except TokenglassError as error:
            logger.warning("only the owner's token is taken: %s", error)
            entries = []
        self._further = {
            bytes.fromhex(entry.sha256): Grant(entry.name, frozenset(entry.can), bytes.fromhex(entry.sha256))
            for entry in entries
        }
        return True


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The file of further tokens, for the commands that change it. Raises TokenglassError `storage`."""

    path: Path

    def entries(self) -> list[Entry]:
        return _read(self.path)

    def add(self, name: str, can: Iterable[str]) -> str:
        """Make a token and answer it: this is the only time that it is there to be seen.

        Raises TokenglassError `invalid_argument` for a name that is none or taken, and for other permissions.
        """
        allowed = set(can)
        if not NAME.fullmatch(name):
            raise _wrong("token_name", "a token's name has up to 64 letters, digits and ._-")
        if not allowed or not allowed <= set(GRANTABLE):
            raise _wrong("can", f"a token can do one or more of {', '.join(GRANTABLE)}")
        token = PREFIX + new_token()
        with self._changing() as entries:
            if any(entry.name == name for entry in entries):
                raise _wrong("token_name", f"there is a token {name} already")
            if len(entries) >= MAX_TOKENS:
                raise _wrong("token_name", f"there are {MAX_TOKENS} tokens already")
            granted = [permission for permission in GRANTABLE if permission in allowed]
            sha256 = _digest(token).hex()
            entries.append(Entry(name=name, can=granted, sha256=sha256, created=time.time()))
        return token

    def revoke(self, name: str) -> None:
        """Forget a token. Raises TokenglassError `not_found`."""
        with self._changing() as entries:
            kept = [entry for entry in entries if entry.name != name]
            if len(kept) == len(entries):
                raise TokenglassError("not_found", f"there is no token {name[:100]!r}", path="name")
            entries[:] = kept

    @contextmanager
    def _changing(self) -> Iterator[list[Entry]]:
        """The entries, to be changed in place; written at the end, one process at a time."""
        with InstanceLock(self.path.parent, "tokens.lock") as lock:
            deadline = time.monotonic() + LOCK_S
            while not lock.acquire():
                if time.monotonic() > deadline:
                    raise TokenglassError("storage", f"another command is changing {self.path}")
                time.sleep(0.05)
            entries = _read(self.path)
            yield entries
            data = _File(tokens=entries).model_dump_json(indent=2).encode() + b"\n"
            try:
                write_atomically(self.path, data)
            except OSError as error:
                raise TokenglassError(
                    "storage", f"can't write {self.path}: {error.strerror or error}"
                ) from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _seen(file: Path | None) -> tuple[int, ...] | None:
    """What tells one content of the file from another: every change makes a new file."""
    if file is None:
        return None
    try:
        about = file.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_mtime_ns, about.st_size


def _read(file: Path) -> list[Entry]:
    """Raises TokenglassError `storage` where the file isn't what it should be."""
    try:
        if file.exists() and not file.is_file():  # one would wait for a pipe for ever
            raise TokenglassError("storage", f"{file} isn't a file", hint="remove it")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TokenglassError("storage", f"can't read {file}: {error.strerror or error}") from None
    try:
        read = _File.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError):
        raise TokenglassError(
            "storage", f"{file} isn't a list of tokens", hint="remove it and make the tokens anew"
        ) from None
    return read.tokens


def _wrong(path: str, message: str) -> TokenglassError:
    return TokenglassError("invalid_argument", message, path=path)
