"""Opening the conversations' database: is it ours, whole, free and of a known version; bring it up to date.

Nothing here changes a file that can't be used: it is looked at through a read-only connection first.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.errors import TokenglassError

APPLICATION_ID = 0x546B476C
"""In the file's header: `TkGl`."""

WAIT_S = 2.0
"""How long another program may hold the database before we give up."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE conversation (
            id TEXT PRIMARY KEY,
            title TEXT NOT NULL,
            system TEXT,
            model TEXT,
            leaf TEXT,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            touched INTEGER NOT NULL,
            deleted INTEGER NOT NULL DEFAULT 0
        )
        """,
        "CREATE INDEX conversation_touched ON conversation (touched)",
        """
        CREATE TABLE message (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            conversation_id TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
            parent_id TEXT REFERENCES message (id) ON DELETE CASCADE,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            reasoning TEXT NOT NULL DEFAULT '',
            tool_calls TEXT NOT NULL DEFAULT '[]',
            status TEXT NOT NULL,
            model TEXT,
            origin TEXT,
            generation_id TEXT UNIQUE,
            finish_reason TEXT,
            usage TEXT,
            timings TEXT,
            error TEXT,
            created REAL NOT NULL
        )
        """,
        "CREATE INDEX message_conversation ON message (conversation_id)",
        "CREATE INDEX message_parent ON message (parent_id)",
        "CREATE INDEX message_streaming ON message (status) WHERE status = 'streaming'",
    ),
    ("ALTER TABLE message ADD COLUMN tool_call_id TEXT",),
    (
        """
        CREATE TABLE response (
            id TEXT PRIMARY KEY,
            parent TEXT,
            owner TEXT NOT NULL,
            used INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            items TEXT NOT NULL,
            body TEXT NOT NULL
        )
        """,
        "CREATE INDEX response_used ON response (used, bytes)",
    ),
)
"""Statement lists; entry n leads from `user_version` n to n + 1. Only ever appended to."""


def open_database(
    path: Path | None, migrations: Sequence[Sequence[str]] = MIGRATIONS, wait_s: float = WAIT_S
) -> sqlite3.Connection:
    """The one connection, in WAL mode with full durability, its schema up to date; None: in memory.

    It may only be used in the calling thread. Raises TokenglassError `storage` where the file is damaged,
    locked, read-only, not a database of ours, or of a newer version; it is then left as it is.
    """
    if path is None:
        connection = _connect(":memory:", wait_s)
        _run(connection, migrations, 0)
        return connection
    try:
        exists = _check_file(path)
        if not exists:
            _create(path, migrations, wait_s)
        version = _inspect(path, len(migrations), wait_s / 2)
        connection = _connect(str(path), wait_s / 2)
    except sqlite3.Error as error:
        raise readable(error, path) from None
    except OSError as error:
        raise TokenglassError(
            "storage", f"can't open the conversations in {path}: {error.strerror or error}", hint=_HINT_ACCESS
        ) from None
    try:
        if version < len(migrations):
            _back_up(connection, path, version)
            _run(connection, migrations, version)
        else:
            with transaction(connection):  # shows at once whether another program holds it
                pass
    except sqlite3.Error as error:
        connection.close()
        raise readable(error, path) from None
    except OSError as error:
        connection.close()
        raise TokenglassError(
            "storage",
            f"can't back up the conversations in {path}: {error.strerror or error}",
            hint=_HINT_ACCESS,
        ) from None
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything in it is written durably, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have rolled it back already
            connection.execute("ROLLBACK")
        raise


_HINT_ACCESS = "check the folder's permissions and free space, or choose another folder with --home"


def readable(error: sqlite3.Error, path: Path | None) -> TokenglassError:
    """What went wrong with the database, for people."""
    name = getattr(error, "sqlite_errorname", "") or ""
    where = f"the conversations in {path}" if path is not None else "the conversations"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return TokenglassError(
            "storage", f"{where} are locked by another program", hint="close that program and try again"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path)
    if name.startswith("SQLITE_FULL"):
        return TokenglassError("storage", f"no space left for {where}", hint="free some disk space")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return TokenglassError("storage", f"{where} can't be written: read-only", hint=_HINT_ACCESS)
    return TokenglassError("storage", f"can't use {where}: {error}", hint=_HINT_ACCESS)


def _damaged(path: Path | None) -> TokenglassError:
    backups = sorted(path.parent.glob(f"{path.name}.backup-v*")) if path is not None else []
    backup = f"; an older copy is {backups[-1].name}" if backups else ""
    return TokenglassError(
        "storage",
        f"the conversations in {path} are damaged; the file was left as it is",
        hint=f"move the file away to start with an empty one{backup}",
    )


def _connect(database: str, wait_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=wait_s, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 16777216")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_file(path: Path) -> bool:
    """Whether there is something to open. Raises what forbids it, without opening the database."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(info.st_mode):
        raise TokenglassError("storage", f"{path} is not a file", hint=_HINT_ACCESS)
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise TokenglassError("storage", f"the conversations in {path} are read-only", hint=_HINT_ACCESS)
    if info.st_size == 0:
        path.unlink()
        return False
    return True


def _create(path: Path, migrations: Sequence[Sequence[str]], wait_s: float) -> None:
    """Build a new database beside its place and move it there, so that a crash leaves none or a whole one."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for name in (f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        # They'd belong to a database that was taken away, and would be played into the new one.
        if (orphan := path.with_name(name)).exists():
            orphan.replace(path.with_name(f"{name}.orphan-{stamp}"))
    new = path.with_name(f"{path.name}.new")
    for name in (new.name, f"{new.name}-wal", f"{new.name}-shm", f"{new.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # the -wal file gets its mode from it
    connection = _connect(str(new), wait_s)
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _run(connection, migrations, 0)
    finally:
        connection.close()
    new.replace(path)


def _inspect(path: Path, known: int, wait_s: float) -> int:
    """Its version. Raises TokenglassError where it isn't ours, newer or damaged; sqlite3.Error elsewhere."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise _damaged(path)
    reader = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=wait_s)
    try:
        version = int(reader.execute("PRAGMA user_version").fetchone()[0])
        application = reader.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise TokenglassError(
                "storage",
                f"{path} is a database of another program",
                hint="move it away to start with an empty one",
            )
        if version > known:
            raise TokenglassError(
                "storage",
                f"the conversations in {path} were written by a newer Tokenglass"
                f" (version {version}, known: {known})",
                hint="use that version, or another folder with --home",
            )
        if reader.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _damaged(path)
        return version
    finally:
        reader.close()


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """A whole copy, `history.db.backup-vN`, before anything is changed."""
    target = path.with_name(f"{path.name}.backup-v{version}")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(part)) as copy:
            connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
        part.replace(target)
    finally:
        for leftover in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm", "-journal"))):
            leftover.unlink(missing_ok=True)


def _run(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]], version: int) -> None:
    with transaction(connection):
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
