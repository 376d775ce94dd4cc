import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import logs

TOKEN = "s3cr3t-T0ken_value-0123456789abcdef"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    logs.close()
    root.setLevel(level)
    logging.getLogger("websockets").setLevel(logging.NOTSET)


def test_writes_the_file_with_level_and_private_mode(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "app.log"
    logs.configure(file, "info", stderr=False)
    logging.getLogger("api.x").info("hello %s", "there")
    logging.getLogger("api.x").debug("not this")
    text = file.read_text()
    assert text.endswith("Z INFO api.x: hello there\n")
    assert text.startswith("20")
    assert "not this" not in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_token_never_gets_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "app.log"
    logs.configure(file, "debug", secrets=[TOKEN])
    logger = logging.getLogger("websockets.server")
    logger.info("GET /v1/live?token=%s HTTP/1.1", TOKEN)
    logger.warning(TOKEN)
    logging.getLogger("api").debug({"Authorization": f"Bearer {TOKEN}"})
    logging.getLogger("api").info("other credentials: ?token=abc123&x=1 and bearer.zzz999 and Bearer yyy888")
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError:
        logger.exception("failed")
    for text in (file.read_text(), capsys.readouterr().err):
        assert TOKEN not in text
        assert text.count("[redacted]") >= 7
        assert not any(secret in text for secret in ("abc123", "zzz999", "yyy888"))
        assert "&x=1" in text


def test_websockets_never_logs_frames(tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    logs.configure(file, "debug", stderr=False)
    logging.getLogger("websockets.server").debug("> TEXT 'a prompt'")
    logging.getLogger("websockets.client").debug("< TEXT 'a prompt'")
    logging.getLogger("api").debug("ours")
    assert "prompt" not in file.read_text()
    assert "ours" in file.read_text()


def test_a_message_is_one_entry(tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    logs.configure(file, "info", stderr=False)
    logging.getLogger("api").info("name %s", "x\n2026-01-01T00:00:00.000Z ERROR api: forged\x1b[2J")
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("    2026")
    assert "\x1b" not in lines[1]


def test_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    file = tmp_path / "app.log"
    logs.configure(file, "info", stderr=False)
    for number in range(400):
        logging.getLogger("api").info("line %d", number)
    files = sorted(tmp_path.iterdir())
    assert [entry.name for entry in files] == ["app.log", "app.log.1", "app.log.2"]
    assert all(entry.stat().st_size <= 2100 for entry in files)
    assert "line 399" in file.read_text()


def test_configuring_again_replaces(tmp_path: Path) -> None:
    logs.configure(tmp_path / "a.log", "info", stderr=False)
    logs.configure(tmp_path / "b.log", "info", stderr=False)
    logging.getLogger("api").info("once")
    assert (tmp_path / "a.log").read_text() == ""
    assert (tmp_path / "b.log").read_text().count("once") == 1


def test_no_log_file_is_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("in the way")
    logs.configure(tmp_path / "logs" / "app.log", "warning", stderr=False)
    assert "no log file" in capsys.readouterr().err


def test_full_disk_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Path("/dev/full"), "info", stderr=False)
    logging.getLogger("api").info("lost")
    logs.close()
    assert capsys.readouterr().err == ""


def test_a_short_secret_leaves_other_words_alone(tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    logs.configure(file, secrets=["", "e", "token"], stderr=False)
    logging.getLogger("api").warning("the token is here")
    assert "the token is here" in file.read_text()


@pytest.mark.parametrize("name", ("asyncio", "qasync._QEventLoop"))
def test_running_out_of_files_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "app.log"
    logs.configure(file)
    logger = logging.getLogger(name)
    for _ in range(50):
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            logger.exception("socket.accept() out of system resource\nsocket: <socket.socket fd=7>")
    logger.error("something else")
    for text in (file.read_text(), capsys.readouterr().err):
        assert text.count("out of system resource") == 1
        assert "Traceback" not in text
        assert len(text.splitlines()) == 2
