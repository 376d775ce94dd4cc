import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from api import discovery
from api.discovery import (
    Announcement,
    InstanceLock,
    already_running,
    new_token,
    raise_first,
    read_server_file,
)
from engine.errors import TokenglassError
from tests.api.harness import app, run


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "server.json", tmp_path / "token"


def test_the_announcement_is_complete_and_private(files: tuple[Path, Path]) -> None:
    server, token = files
    Announcement(server, token).publish("ws://127.0.0.1:1/v1/live", "http://127.0.0.1:1/v1", "secret", "1.2")
    data = read_server_file(server)
    assert data is not None
    assert data["started"] > 0
    assert data | {"started": 0} == {
        "url": "ws://127.0.0.1:1/v1/live",
        "base_url": "http://127.0.0.1:1/v1",
        "token": "secret",
        "pid": os.getpid(),
        "started": 0,
        "version": "1.2",
    }
    assert token.read_text() == "secret\n"
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_withdrawing_takes_only_our_own_files(files: tuple[Path, Path]) -> None:
    server, token = files
    first, second = Announcement(server, token), Announcement(server, token)
    first.publish("ws://a", "http://a", "one", "1")
    second.publish("ws://b", "http://b", "two", "1")
    first.withdraw()
    assert read_server_file(server) is not None
    second.withdraw()
    second.withdraw()
    assert list(server.parent.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "server.json"
    with pytest.raises(TokenglassError) as caught:
        Announcement(nowhere, nowhere).publish("ws://a", "http://a", "one", "1")
    assert caught.value.code == "storage"


@pytest.mark.parametrize("content", ("", "{", "[]", "{}", '{"url": 5, "token": "x"}', "[" * 100_000, "\xff"))
def test_unreadable_announcements_are_none(files: tuple[Path, Path], content: str) -> None:
    files[0].write_bytes(content.encode("latin-1"))
    assert read_server_file(files[0]) is None
    assert read_server_file(files[1]) is None


def test_the_lock_belongs_to_one(tmp_path: Path) -> None:
    with InstanceLock(tmp_path) as first, InstanceLock(tmp_path) as second:
        assert first.acquire()
        assert not second.acquire()
        first.release()
        assert second.acquire()
    with InstanceLock(tmp_path) as third:
        assert third.acquire()


def test_the_lock_is_freed_by_kill_9(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from api.discovery import InstanceLock;"
        f"lock = InstanceLock(Path({str(tmp_path)!r})); print(lock.acquire(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "True\n"
            lock = InstanceLock(tmp_path)
            assert not lock.acquire()
        finally:
            holder.kill()
    assert lock.acquire()
    lock.release()


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(TokenglassError) as caught:
        InstanceLock(tmp_path / "missing").acquire()
    assert caught.value.code == "storage"


def test_tokens_are_long_and_different() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) == 43


def test_the_first_one_is_named(files: tuple[Path, Path]) -> None:
    assert "runs already" in str(already_running(files[0]))
    files[0].write_text(json.dumps({"url": "ws://127.0.0.1:1/v1/live", "token": "secret", "pid": 42}))
    message = str(already_running(files[0]))
    assert "pid 42" in message
    assert "ws://127.0.0.1:1/v1/live" in message
    assert "secret" not in message


def test_raising_the_first_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "RAISE_TIMEOUT_S", 100.0)

    async def test() -> None:
        async with app(tmp_path) as core:
            assert await raise_first(core.paths.server_file) is False
            raised: list[bool] = []
            core.service.raise_window = lambda: raised.append(True)
            assert await raise_first(core.paths.server_file) is True
            assert raised == [True]
            server_file = core.paths.server_file
        assert await raise_first(server_file) is False
        for about in ({"url": "ws://127.0.0.1:1/v1/live", "token": "x"}, {"url": "nonsense", "token": "x"}):
            server_file.write_text(json.dumps(about))
            assert await raise_first(server_file) is False

    run(test())


def test_an_app_that_says_nothing_is_not_waited_for(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "RAISE_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/v1/live"
        files[0].write_text(json.dumps({"url": url, "token": "x"}))
        assert asyncio.run(raise_first(files[0])) is False
