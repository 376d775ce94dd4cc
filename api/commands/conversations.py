"""`tokenglass conversations`: list, export and import, through the running app or, if none runs, without."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from api import cleanjson, discovery, exchange
from api.client import LiveClient, running_app
from api.commands import one_line, prepare_output
from api.conversations import Rows
from api.exchange import ArchivedConversation, File
from api.history import History
from api.markdown import markdown
from api.paths import Paths
from api.protocol import MAX_MESSAGE_BYTES
from engine.errors import TokenglassError

PAGE = 1000
MAX_FILE_BYTES = 1 << 30


class Store(Protocol):
    """Where the conversations are. Every method raises TokenglassError."""

    async def list(self) -> Rows: ...
    async def export(self, conversation_id: str) -> File: ...
    async def markdown(self, conversation_id: str) -> str: ...
    async def store(self, conversations: Sequence[ArchivedConversation]) -> Rows: ...


def run(args: argparse.Namespace) -> int:
    """Carry out `list` (the default), `export` or `import`. Raises TokenglassError."""
    prepare_output()
    if args.action == "export":
        _write(_names(args)[1], asyncio.run(_exported(args)))
    elif args.action == "import":
        stored = asyncio.run(_imported(args.home, _read(args.file)))
        print(f"imported {len(stored)} conversation{'s' * (len(stored) != 1)}:")
        _print(stored)
    else:
        _print(asyncio.run(_listed(args.home)))
    return 0


def _names(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """What to export, None for all, and into which file, None for the terminal."""
    names = [None, *args.names] if args.all else args.names
    if not 1 <= len(names) <= 2:
        raise TokenglassError("invalid_argument", "export takes ID [FILE], or --all [FILE]", path="names")
    if args.all and args.markdown:
        raise TokenglassError("invalid_argument", "--markdown takes one conversation at a time", path="names")
    return names[0], names[1] if len(names) > 1 else None


def _print(conversations: Rows) -> None:
    for conversation in conversations:
        when = datetime.fromtimestamp(conversation["updated"]).strftime("%Y-%m-%d %H:%M")  # noqa: DTZ006
        count = f"{conversation['message_count']:>5}"
        print(f"{conversation['id']}  {when}  {count}  {one_line(conversation['title'] or 'New chat', 100)}")


async def _listed(home: Path | None) -> Rows:
    async with _store(home) as store:
        return await store.list()


async def _imported(home: Path | None, conversations: Sequence[ArchivedConversation]) -> Rows:
    async with _store(home) as store:
        return await store.store(conversations)


async def _exported(args: argparse.Namespace) -> str:
    wanted, _ = _names(args)
    async with _store(args.home) as store:
        if args.markdown:
            assert wanted is not None
            return await store.markdown(wanted)
        keys = [wanted] if wanted is not None else [row["id"] for row in await store.list()]
        if not keys:
            raise TokenglassError("not_found", "there are no conversations")
        file = exchange.archive([await store.export(key) for key in keys])
    return json.dumps(file, ensure_ascii=False, indent=1) + "\n"


def _write(file: str | None, text: str) -> None:
    if file is None:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        return
    try:
        with Path(file).open("x", encoding="utf-8", errors="replace") as out:
            out.write(text)
    except FileExistsError:
        raise TokenglassError(
            "storage", f"{file} is there already", hint="give another name, or take it away first"
        ) from None
    except OSError as error:
        raise TokenglassError("storage", f"can't write {file}: {error.strerror or error}") from None


def _read(file: str) -> Sequence[ArchivedConversation]:
    """The conversations of a file, checked."""
    data = _json(file)
    try:
        return exchange.read(data, "file")
    except TokenglassError as error:
        info = error.info
        raise TokenglassError(info.code, f"{file}: {info.message}", path=info.path, hint=info.hint) from None


def _json(file: str) -> object:
    try:
        if Path(file).stat().st_size > MAX_FILE_BYTES:
            raise TokenglassError("invalid_argument", f"{file} is longer than {MAX_FILE_BYTES >> 30} GiB")
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TokenglassError("storage", f"can't read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TokenglassError("invalid_argument", f"{file} isn't JSON: {error}") from None


# ---- where they are


@asynccontextmanager
async def _store(home: Path | None) -> AsyncIterator[Store]:
    """The running app's, or the database itself while no app may have it."""
    paths = Paths.resolve(home)
    if running_app(paths) is not None:
        async with LiveClient.discover(home, name="conversations", reconnect=False) as client:
            yield _Running(client)
        return
    with discovery.InstanceLock(paths.runtime_dir) as lock:
        if not lock.acquire():
            raise discovery.already_running(paths.server_file)
        history = await History.open(paths.database)
        try:
            yield _Direct(history)
        finally:
            await history.close()


class _Running:
    """Through the app that has them."""

    def __init__(self, client: LiveClient) -> None:
        self._client = client

    async def list(self) -> Rows:
        found: Rows = []
        while True:
            page = await self._client.request("conversations.list", limit=PAGE, offset=len(found))
            found += page["conversations"]
            if len(page["conversations"]) < PAGE:
                return found

    async def export(self, conversation_id: str) -> File:
        told = await self._client.request("conversations.export", conversation_id=conversation_id)
        conversation: File = told["data"]["conversations"][0]
        return conversation

    async def markdown(self, conversation_id: str) -> str:
        told = await self._client.request(
            "conversations.export", conversation_id=conversation_id, format="markdown"
        )
        return str(told["markdown"])

    async def store(self, conversations: Sequence[ArchivedConversation]) -> Rows:
        """One by one, the first last, so that it stands first in the list; nothing where one is too long."""
        files = []
        for conversation in conversations:
            file = exchange.archive([conversation.model_dump(mode="json", exclude_defaults=True)])
            text = json.dumps({"data": file}, ensure_ascii=False)
            if len(text.encode()) > MAX_MESSAGE_BYTES - 1000 or text.count(",") >= cleanjson.MAX_VALUES - 10:
                raise TokenglassError(
                    "invalid_argument",
                    f"{one_line(conversation.title or 'a conversation')} is too long for the running app",
                    hint="quit the app, then import again",
                )
            files.append(file)
        stored: Rows = []
        for file in reversed(files):
            told = await self._client.request("conversations.import", data=file)
            stored = told["conversations"] + stored
        return stored


class _Direct:
    """In the database."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def list(self) -> Rows:
        return await self._history.list(-1)

    async def export(self, conversation_id: str) -> File:
        (conversation,) = await self._history.export(conversation_id, None)
        return conversation

    async def markdown(self, conversation_id: str) -> str:
        return markdown(**await self._history.get(conversation_id))

    async def store(self, conversations: Sequence[ArchivedConversation]) -> Rows:
        return await self._history.store_all(conversations)
