import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from api import diagnostics, logs
from api.paths import Paths
from api.settings import SettingsStore
from api.version import VERSION

SECRET = "t0ken-that-must-not-appear"
PROMPT = "the prompt that must not appear"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    return Paths.resolve(tmp_path / "someone" / "tg")


def write_log(paths: Paths, text: str, name: str = "tokenglass.log") -> None:
    paths.log_file.parent.mkdir(parents=True, exist_ok=True)
    paths.log_file.with_name(name).write_text(text)


def test_says_what_a_bug_report_needs(paths: Paths) -> None:
    report = diagnostics.text(paths)
    assert f"tokenglass {VERSION}" in report
    assert "\nllama-cpp-python" in report
    assert "\npydantic 2." in report
    assert "SQLite 3." in report
    assert "CPU " in report
    assert "RAM " in report
    assert "port = 7317" in report
    assert "starter (starter)" in report
    assert report.endswith("none")


def test_no_secrets_no_prompts_no_user_name(paths: Paths) -> None:
    SettingsStore(paths.settings_file).update({"system_prompt": PROMPT, "theme": "dark"})
    paths.token_file.write_text(SECRET)
    paths.server_file.write_text(
        json.dumps({"url": "ws://127.0.0.1:1/v1/live", "token": SECRET, "pid": os.getpid(), "started": 4e9})
    )
    write_log(paths, f"2026-01-01T00:00:00.000Z ERROR api: can't open {paths.database}\n")
    (paths.models_dir / "bad.gguf").write_text("x")
    report = diagnostics.text(paths)
    assert SECRET not in report
    assert PROMPT not in report
    assert f"({len(PROMPT)} characters)" in report
    assert "runs (pid" in report
    assert "theme = dark" in report
    assert "someone" not in report
    assert "can't open ~/tg/data/history.db" in report
    assert "bad (folder): bad.gguf can't be loaded" in report


def test_the_last_problems_with_their_tracebacks(paths: Paths) -> None:
    entries = "".join(
        f"2026-01-01T00:00:{number:02}.000Z WARNING api.x: problem {number}\n    more of it\n"
        "2026-01-01T00:00:00.000Z INFO api.x: fine\n    not this\n"
        for number in range(30)
    )
    write_log(paths, entries)
    write_log(paths, "2026-01-01T00:00:00.000Z ERROR api.x: older\n", "tokenglass.log.1")
    lines = diagnostics.last_problems(paths.log_file)
    assert len(lines) == 40
    assert "problem 10" in lines[0]
    assert lines[-2:] == ["2026-01-01T00:00:29.000Z WARNING api.x: problem 29", "    more of it"]
    assert not any("not this" in line or "fine" in line for line in lines)
    assert "older" in diagnostics.last_problems(paths.log_file, 31)[0]


def test_reads_what_the_log_writes(paths: Paths) -> None:
    import logging

    logs.configure(paths.log_file, "info", secrets=[SECRET], stderr=False)
    try:
        logging.getLogger("api.x").info("fine")
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("api.x").exception("oh no")
    finally:
        logs.close()
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("websockets").setLevel(logging.NOTSET)
    lines = diagnostics.last_problems(paths.log_file)
    assert "ERROR api.x: oh no" in lines[0]
    assert "ValueError: [redacted]" in lines[-1]


def test_broken_files_are_no_reason_to_fail(paths: Paths) -> None:
    paths.settings_file.write_text("{oops")
    paths.library_file.write_text("{oops")
    paths.database.write_text("oops")
    paths.server_file.write_text("oops")
    report = diagnostics.text(paths)
    assert "damaged" in report
    assert "doesn't run" in report
    paths.settings_file.mkdir()
    assert "can't read the settings" in diagnostics.text(paths)


def test_imports_neither_qt_nor_llama(paths: Paths) -> None:
    program = (
        "import sys; from pathlib import Path; from api import diagnostics; from api.paths import Paths\n"
        "diagnostics.text(Paths.resolve(Path(sys.argv[1])))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('PySide6', 'llama_cpp')])"
    )
    home = paths.config_dir.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"
