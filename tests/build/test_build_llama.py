"""The build of llama.cpp: what a kept wheel depends on and holds, how progress and failure look."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import build_llama
import pytest

VERSION, DIGEST = build_llama.requirement()


def key(**changes: object) -> str:
    values: dict[str, object] = {
        "version": "0.3.36",
        "digest": "ab",
        "cxx": "g++ 12",
        "extra": [],
        "machine": "x86_64",
        "libc": "glibc-2.36",
    }
    return build_llama.build_key(**(values | changes))  # type: ignore[arg-type]  # the test varies one at a time


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.3.37"},
        {"digest": "cd"},
        {"cxx": "g++ 13"},
        {"extra": ["-DGGML_CUDA=ON"]},
        {"machine": "aarch64"},
        {"libc": "glibc-2.39"},
    ],
)
def test_key_changes_with_each_part(change: dict[str, object]) -> None:
    assert key() == key()
    assert key(**change) != key()


def test_key_is_a_plain_folder_name() -> None:
    assert key().startswith("llama-cpp-python-0.3.36-x86_64-")
    assert "/" not in key()


def test_key_changes_with_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(build_llama, "FLAGS", (*build_llama.FLAGS, "-DGGML_OPENMP=OFF"))
    assert key() != before


def test_extra_flags_come_from_the_environment() -> None:
    flags = build_llama.extra_flags({"CMAKE_ARGS": "-DGGML_CUDA=ON -DX='a b'"})
    assert flags == ["-DGGML_CUDA=ON", "-DX=a b"]
    assert build_llama.extra_flags({}) == []


def test_cache_dir(tmp_path: Path) -> None:
    assert build_llama.cache_dir({"TOKENGLASS_BUILD_CACHE": str(tmp_path)}) == tmp_path
    assert build_llama.cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "tokenglass-build"
    assert build_llama.cache_dir({}) == Path("~/.cache/tokenglass-build").expanduser()


def test_pinned_source_has_version_and_hash() -> None:
    assert VERSION == "0.3.36"
    assert len(DIGEST) == 64


def test_missing_compiler_is_named() -> None:
    with pytest.raises(build_llama.BuildError, match="no-such-compiler"):
        build_llama.compiler({"CXX": "no-such-compiler"})


def test_progress_estimates_the_rest() -> None:
    now = [0.0]
    progress = build_llama.Progress("building", clock=lambda: now[0])
    assert progress.line(1, 200) == "building:   0 % (1/200), 0 s"
    now[0] = 60.0
    assert progress.line(100, 200) == "building:  50 % (100/200), 1 min 00 s, about 1 min 00 s left"
    assert progress.line(200, 200) == "building: 100 % (200/200), 1 min 00 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3725, "62 min 05 s")]
)
def test_span(seconds: float, text: str) -> None:
    assert build_llama.span(seconds) == text


def test_failing_step_shows_its_end_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    script = "for i in $(seq 1 100); do echo line $i; done; exit 3"
    with pytest.raises(build_llama.BuildError) as caught:
        build_llama.run_logged(["sh", "-c", script], log)
    text = str(caught.value)
    assert "line 61\n" in text
    assert "line 60\n" not in text
    assert "exit code 3" in text
    assert str(log) in text
    assert "line 1\n" in log.read_text()


def test_steps_are_shown_as_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = build_llama.Progress("building")
    build_llama.run_logged(
        ["sh", "-c", "echo '[1/2] a'; echo noise; echo '[2/2] b'"], tmp_path / "log", progress
    )
    out = capsys.readouterr().out
    assert "50 % (1/2)" in out
    assert "100 % (2/2)" in out
    assert "noise" not in out


def source_archive(folder: Path) -> Path:
    path = folder / "source.tar.gz"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 1.0\n",
        "LICENSE.md": "MIT",
        "llama_cpp/__init__.py": "",
        "llama_cpp/py.typed": "",
        "llama_cpp/lib/stale.so": "old",
        "vendor/llama.cpp/LICENSE": "MIT",
        "vendor/llama.cpp/CMakeLists.txt": "",
        "vendor/llama.cpp/tools/server.cpp": "",
        "vendor/llama.cpp/ggml/src/CMakeLists.txt": "".join(
            f"    ggml_add_cpu_backend_variant({name} SSE42)\n"
            for name in ("x64", *build_llama.SKIPPED_VARIANTS, "haswell")
        ),
        ".git/HEAD": "",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"llama_cpp_python-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_source_is_unpacked_without_what_nobody_needs(tmp_path: Path) -> None:
    root = build_llama.unpack(source_archive(tmp_path), tmp_path / "out")
    vendor = root / "vendor" / "llama.cpp"
    assert (vendor / "CMakeLists.txt").is_file()
    assert not (vendor / "tools").exists()
    assert not (root / ".git").exists()


def test_old_cpu_variants_are_left_out(tmp_path: Path) -> None:
    root = build_llama.unpack(source_archive(tmp_path), tmp_path / "out")
    build_llama.drop_variants(root)
    text = (root / "vendor/llama.cpp/ggml/src/CMakeLists.txt").read_text()
    assert "(x64 " in text
    assert "(haswell " in text
    assert not any(name in text for name in build_llama.SKIPPED_VARIANTS)
    with pytest.raises(build_llama.BuildError, match="SKIPPED_VARIANTS"):
        build_llama.drop_variants(root)


def test_wheel_holds_each_library_once(tmp_path: Path) -> None:
    root = build_llama.unpack(source_archive(tmp_path), tmp_path / "out")
    libraries = []
    for name in ("libllama.so", "libggml.so", "libggml-cpu-x64.so"):
        (tmp_path / name).write_bytes(name.encode())
        libraries.append(tmp_path / name)
    wheel = build_llama.pack(root, libraries, "1.0", tmp_path)
    assert wheel.name.startswith("llama_cpp_python-1.0-py3-none-linux_")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read("llama_cpp_python-1.0.dist-info/RECORD").decode()
    assert len(set(names)) == len(names)
    assert {name for name in names if name.endswith(".so")} == {
        f"llama_cpp/lib/{lib.name}" for lib in libraries
    }
    assert {line.split(",")[0] for line in record.splitlines()} == set(names)
