import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api.migrations import APPLICATION_ID, MIGRATIONS, open_database
from engine.errors import TokenglassError

DIE_WITH_A_WAL = """
import os, sys
from pathlib import Path
from api.migrations import open_database

connection = open_database(Path(sys.argv[1]))
connection.execute(
    "INSERT INTO conversation (id, title, created, updated, touched) VALUES ('c', 'in the wal', 0, 0, 1)"
)
os._exit(0)
"""
DIE_AFTER_A_WHILE = """
import os, sys, threading, time
from pathlib import Path
from api.migrations import open_database

threading.Thread(target=lambda: (time.sleep(float(sys.argv[2])), os.kill(os.getpid(), 9))).start()
open_database(Path(sys.argv[1]))
"""
V2 = (*MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN colour TEXT", "CREATE TABLE extra (a)"))
BACKUP = f"history.db.backup-v{len(MIGRATIONS)}"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    open_database(path).close()
    return path


def fill(path: Path) -> None:
    with closing(open_database(path)) as connection:
        connection.execute(
            "INSERT INTO conversation (id, title, created, updated, touched) VALUES ('c', 'kept', 0, 0, 1)"
        )


def refused(path: Path, *words: str, version: int | None = None) -> TokenglassError:
    """Opening fails with a message, and no byte of the file changes."""
    before = path.read_bytes(), path.stat().st_mtime_ns
    start = time.monotonic()
    with pytest.raises(TokenglassError) as caught:
        open_database(path)
    assert time.monotonic() - start < 60
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert caught.value.code == "storage"
    assert caught.value.info.hint
    for word in words:
        assert word in caught.value.info.message
    return caught.value


def test_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(open_database(path)) as connection:
        pragma = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id", "journal_mode", "synchronous", "foreign_keys")
        }
        assert path.with_name("history.db-wal").stat().st_mode & 0o777 == 0o600
    assert pragma == {
        "user_version": len(MIGRATIONS),
        "application_id": APPLICATION_ID,
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.db"]


def test_opening_again_changes_nothing_and_leaves_nothing(database: Path) -> None:
    fill(database)
    before = database.read_bytes()
    open_database(database).close()
    assert database.read_bytes() == before
    assert [entry.name for entry in database.parent.iterdir()] == ["history.db"]


def test_migration_makes_a_backup_first(database: Path) -> None:
    fill(database)
    with closing(open_database(database, V2)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(V2)
        assert connection.execute("SELECT title, colour FROM conversation").fetchone()[:] == ("kept", None)
    backup = database.with_name(BACKUP)
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert copy.execute("SELECT title FROM conversation").fetchall() == [("kept",)]
        assert copy.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert sorted(entry.name for entry in database.parent.iterdir()) == ["history.db", backup.name]


def test_backup_has_what_is_only_in_the_wal(database: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WITH_A_WAL, str(database)], check=True, timeout=60)
    assert database.with_name("history.db-wal").stat().st_size > 0
    open_database(database, V2).close()
    with closing(sqlite3.connect(database.with_name(BACKUP))) as copy:
        assert copy.execute("SELECT title FROM conversation").fetchall() == [("in the wal",)]


def test_failed_migration_leaves_the_old_version(database: Path) -> None:
    fill(database)
    broken = (*MIGRATIONS, ("CREATE TABLE extra (a)", "INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(TokenglassError) as caught:
        open_database(database, broken)
    assert caught.value.code == "storage"
    with closing(open_database(database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert "extra" not in names
        assert connection.execute("SELECT title FROM conversation").fetchone()[0] == "kept"


def test_newer_version_is_untouched(database: Path) -> None:
    fill(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 999")
    refused(database, "newer", "999")


@pytest.mark.parametrize("place", (100, 4096, 3 * 4096 + 7))
def test_damage_is_found_and_untouched(database: Path, place: int) -> None:
    with closing(open_database(database)) as connection:
        connection.executemany(
            "INSERT INTO conversation (id, title, created, updated, touched) VALUES (?, ?, 0, 0, 1)",
            [(f"c{number}", "x" * 300) for number in range(300)],
        )
    with database.open("r+b") as file:
        file.seek(place)
        file.write(os.urandom(2048))
    refused(database, "damaged")


def test_cut_off_file_is_untouched(database: Path) -> None:
    os.truncate(database, 9000)
    refused(database, "damaged")


@pytest.mark.parametrize("content", (b"x", b"a text file\n" * 1000, b"SQLite format 3\0" + b"\0" * 100))
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(content)
    refused(path, "damaged")


def test_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    refused(path, "another program")


def test_damaged_names_the_backup(database: Path) -> None:
    open_database(database, V2).close()
    database.write_bytes(b"broken")
    assert BACKUP in str(refused(database).info.hint)


@pytest.fixture
def holder(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize("mode", ("IMMEDIATE", "EXCLUSIVE"))
def test_locked_by_another(database: Path, holder: sqlite3.Connection, mode: str) -> None:
    holder.execute(f"BEGIN {mode}")
    refused(database, "locked")
    holder.execute("ROLLBACK")
    open_database(database).close()


def test_locked_against_readers_too(database: Path, holder: sqlite3.Connection) -> None:
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("CREATE TABLE more (a)")
    refused(database, "locked")


def test_fifo_and_folder_dont_hang(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    os.mkfifo(path)
    with pytest.raises(TokenglassError, match="not a file"):
        open_database(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TokenglassError, match="not a file"):
        open_database(path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write to read-only files")
def test_read_only_file(database: Path) -> None:
    database.chmod(0o400)
    refused(database, "read-only")


def test_read_only_disk(database: Path) -> None:
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77\n'
        'exec "$2" -c "$3" "$1"/history.db'
    )
    program = (
        "import sys; from pathlib import Path; from api.migrations import open_database\n"
        "from engine.errors import TokenglassError\n"
        "try: open_database(Path(sys.argv[1]))\n"
        "except TokenglassError as error: print(error.code, error)\n"
    )
    before = database.read_bytes()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(database.parent), sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode in (1, 77) and "Permission" in done.stderr + "Permission" * (done.returncode == 77):
        pytest.skip("mounts aren't allowed here")
    assert done.stdout.startswith("storage")
    assert "read-only" in done.stdout
    assert database.read_bytes() == before


def test_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(TokenglassError) as caught:
        open_database(tmp_path / "gone" / "history.db")
    assert caught.value.code == "storage"


def test_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.touch()
    open_database(path).close()
    assert path.stat().st_size > 0


def test_a_stale_wal_is_not_played_into_a_new_database(database: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WITH_A_WAL, str(database)], check=True, timeout=60)
    database.unlink()
    with closing(open_database(database)) as connection:
        assert connection.execute("SELECT count(*) FROM conversation").fetchone()[0] == 0
    assert list(database.parent.glob("history.db-wal.orphan-*"))


def test_killed_while_it_is_made(tmp_path: Path) -> None:
    """At whatever moment the first start dies, the next one works."""
    path = tmp_path / "history.db"
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        subprocess.run(
            [sys.executable, "-c", DIE_AFTER_A_WHILE, str(path), str(delay)], timeout=60, check=False
        )
        open_database(path).close()
        path.unlink()


def test_in_memory() -> None:
    with closing(open_database(None)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
