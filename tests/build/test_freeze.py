"""The packaged build: what its contents and its selftest are held against."""

from __future__ import annotations

import tarfile
from pathlib import Path

import freeze
import pytest


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder that looks like a build."""
    folder = tmp_path / "tokenglass"
    library = folder / "_internal" / "llama_cpp" / "lib"
    library.mkdir(parents=True)
    for name in ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu-haswell.so"):
        (library / name).write_bytes(b"x" * 10)
    (folder / "_internal" / "libggml.so").symlink_to("llama_cpp/lib/libggml.so")
    (folder / "_internal" / "assets" / "starter").mkdir(parents=True)
    (folder / "_internal" / "assets" / "starter" / "starter.gguf").write_bytes(b"GGUF")
    return folder


def test_a_whole_build_passes(built: Path) -> None:
    freeze.check_contents(built)


def test_a_second_copy_of_a_library_is_refused(built: Path) -> None:
    (built / "_internal" / "libllama.so").write_bytes(b"x")
    with pytest.raises(freeze.FreezeError, match=r"libllama\.so"):
        freeze.check_contents(built)


@pytest.mark.parametrize(
    ("missing", "message"),
    (
        ("llama_cpp/lib/libggml-cpu-haswell.so", "CPU plugin"),
        ("llama_cpp/lib/libllama.so", "libllama.so"),
        ("assets/starter/starter.gguf", "starter model"),
    ),
)
def test_a_missing_part_is_named(built: Path, missing: str, message: str) -> None:
    (built / "_internal" / missing).unlink()
    with pytest.raises(freeze.FreezeError, match=message):
        freeze.check_contents(built)


def test_size_counts_links_as_nothing(built: Path) -> None:
    assert freeze.folder_size(built) == 44


def test_only_known_lines_may_be_printed() -> None:
    good = (
        "selftest ok: Tokenglass Starter, 20 tokens\n"
        "2026-11-21T03:00:09.387Z INFO websockets.server: server listening on 127.0.0.1:36261\n"
    )
    assert freeze.unexpected(good) == []
    for bad in (
        "Traceback (most recent call last):",
        "2026-11-21T03:00:09.387Z WARNING api.supervisor: engine 1 ended: SIGSEGV",
        "qt.qpa.plugin: Could not find the Qt platform plugin",
        "selftest failed: only 3 of 20 tokens came through the WebSocket",
    ):
        assert freeze.unexpected(good + bad + "\n") == [bad]


def fake_program(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / "tokenglass"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


def test_smoke_test_runs_in_an_empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = '[ -z "$PYTHONPATH$VIRTUAL_ENV$DISPLAY" ] && [ "$PWD" = / ] && [ "$1" = selftest ] || exit 1\n'
    script += 'case "$0" in *elsewhere*) echo "selftest ok: all" ;; esac'
    assert freeze.smoke_test(fake_program(tmp_path / "app", script)) < freeze.SELFTEST_SECONDS


@pytest.mark.parametrize(
    ("script", "message"),
    (("echo selftest failed; exit 1", "exit code 1"), ("echo selftest ok: x; echo oops >&2", "oops")),
)
def test_smoke_test_sees_failure(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(freeze.FreezeError, match=message):
        freeze.smoke_test(fake_program(tmp_path / "app", script))


def test_archive_holds_the_folder(built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(freeze, "DIST", tmp_path)
    archive = freeze.pack(built)
    assert archive.name.endswith(".tar.xz")
    with tarfile.open(archive) as tar:
        assert "tokenglass/_internal/llama_cpp/lib/libllama.so" in tar.getnames()
    assert list(tmp_path.glob("*.tar")) == []
