"""The set-up: the stamp, what the system lacks, the pinned files, how `make run` starts the app."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import launch
import lock
import PySide6
import pytest
import setup_env
import system

ROOT = Path(__file__).resolve().parents[2]
FILES = tuple(f"requirements{part}.txt" for part in ("", "-dev", "-build", "-llama", "-agents"))


def copy_inputs(target: Path) -> Path:
    for name in (*FILES, *setup_env.RECIPE_FILES, "pyproject.toml"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


def test_stamp_changes_with_the_pins(tmp_path: Path) -> None:
    root = copy_inputs(tmp_path)
    before = setup_env.stamp_key("run", root, {})
    assert setup_env.stamp_key("run", root, {}) == before
    assert setup_env.stamp_key("dev", root, {}) != before
    assert setup_env.stamp_key("run", root, {"CMAKE_ARGS": "-DGGML_CUDA=ON"}) != before
    with (root / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    assert setup_env.stamp_key("run", root, {}) != before


def test_stamp_ignores_linter_settings(tmp_path: Path) -> None:
    root = copy_inputs(tmp_path)
    before = setup_env.stamp_key("run", root, {})
    project = root / "pyproject.toml"
    project.write_text(project.read_text().replace("line-length = 110", "line-length = 100"))
    assert setup_env.stamp_key("run", root, {}) == before
    project.write_text(project.read_text().replace("tokenglass = ", "glass = "))
    assert setup_env.stamp_key("run", root, {}) != before


def test_wrong_usage_is_exit_code_2() -> None:
    done = subprocess.run(
        ["python3", "packaging/setup_env.py", "everything"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("name", FILES)
def test_pinned_files_hold_exact_versions_and_hashes_only(name: str) -> None:
    text = (ROOT / name).read_text()
    lines = [line.strip().removesuffix("\\").strip() for line in text.splitlines()[1:]]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+(?: ; .+)?|--hash=sha256:[0-9a-f]{64}", line), line
    assert "://" not in text


def test_dev_pins_agree_with_run_pins() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    run, dev, build = (pins(f"requirements{part}.txt") for part in ("", "-dev", "-build"))
    assert run.items() <= dev.items()
    assert {name: dev[name] for name in build if name in dev} == {
        name: version for name, version in build.items() if name in dev
    }


def test_every_input_is_pinned() -> None:
    for target, inputs in lock.TARGETS.items():
        text = (ROOT / target).read_text()
        for name in inputs:
            for line in (lock.INPUTS / name).read_text().splitlines():
                if line and not line.startswith("#"):
                    assert re.search(rf"^{re.escape(line.lower())}\b", text, re.MULTILINE), (target, line)


def test_lock_cleans_addresses_and_paths_away() -> None:
    dirty = (
        "--index-url somewhere\n--find-links /a/b\n\nx==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "    # via -r /home/me/run.in\n# WARNING: unsafe\ny==2 \\\n    --hash=sha256:cc\n"
    )
    assert lock.clean(dirty) == (
        "x==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\ny==2 \\\n    --hash=sha256:cc\n"
    )
    assert lock.only(lock.clean(dirty), "y") == "y==2 \\\n    --hash=sha256:cc\n"


def test_missing_libraries_name_their_packages_once() -> None:
    libraries = {"liba.so": "a", "liba-extra.so": "a", "libb.so": "b"}
    assert system.missing_packages(libraries, check=lambda name: name == "libb.so") == ["a"]
    assert system.missing_packages(libraries, check=lambda name: True) == []
    assert not system.loads("libtokenglass-nowhere.so.9")
    assert system.loads("libc.so.6")


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils are missing")
def test_the_browser_needs_no_other_library() -> None:
    """What QtWebEngine's libraries link to is Qt's own, C's and C++'s, or in the lists."""
    folder = Path(PySide6.__file__).parent / "Qt"
    files = [folder / "lib/libQt6WebEngineCore.so.6", folder / "libexec/QtWebEngineProcess"]
    done = subprocess.run(["readelf", "-d", *files], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", done.stdout))
    own = ("libQt6", "libc.", "libm.", "libgcc_s.", "libstdc++.", "ld-linux", "libz.", "libxcb.so.1")
    # libnss3 brings libnssutil3 and libsmime3, libx11-6 brings libxcb1, and Python itself libz
    listed = {*system.GUI_LIBRARIES, *system.BROWSER_LIBRARIES, "libnssutil3.so", "libsmime3.so"}
    assert not {name for name in needed if not name.startswith(own)} - listed
    assert set(system.BROWSER_LIBRARIES) <= needed


def test_without_rights_the_exact_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_privilege", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(system.MissingError) as caught:
        system.see_to(["libegl1", "libxcb-cursor0"], "the window")
    assert "sudo apt-get install -y --no-install-recommends libegl1 libxcb-cursor0" in str(caught.value)


def test_without_apt_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(system.MissingError, match="libegl1"):
        system.see_to(["libegl1"], "the window")


def test_nothing_missing_is_nothing_to_do() -> None:
    system.see_to([], "the window")


@pytest.mark.parametrize(
    ("environ", "window"),
    [
        ({}, False),
        ({"DISPLAY": ""}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"QT_QPA_PLATFORM": "offscreen"}, True),
    ],
)
def test_without_a_display_the_same_app_serves(environ: dict[str, str], window: bool) -> None:
    line = launch.command(["--port", "0"], environ)
    assert line[0].endswith(".venv/bin/tokenglass")
    assert line[1:] == (["--port", "0"] if window else ["serve", "--port", "0"])


def find_python(environ: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "packaging" / "find_python.sh")],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_a_python_is_found(tmp_path: Path) -> None:
    done = find_python({}, ROOT)
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout


def test_a_python_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = find_python({"PYTHON": str(old)}, tmp_path)
    assert done.returncode == 1
    assert "3.11, 3.12 or 3.13" in done.stderr
