"""`make package`: build dist/tokenglass, prove that it runs by itself, pack it, and print the sizes.

The proof is `tokenglass selftest`, run from a copy in a temporary folder with an empty environment: no PATH,
a fresh home, no source tree, and its output held against the list of lines it may print.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import system

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
FOLDER = DIST / "tokenglass"
SELFTEST_SECONDS = 120
# What selftest may print: its own line, and log lines that are no warnings. Anything else (a traceback, a
# word from Qt, a library that was not found) fails.
ALLOWED_OUTPUT = re.compile(r"selftest ok: .*|[\d-]+T[\d:.]+Z (?:INFO|DEBUG) .*")


class FreezeError(Exception):
    """The package could not be built or does not run; the text says why."""


def build() -> None:
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "ERROR"]
    command += ["--distpath", str(DIST), "--workpath", str(ROOT / "build" / "pyinstaller")]
    command += [str(ROOT / "packaging" / "tokenglass.spec")]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode != 0:
        raise FreezeError(f"PyInstaller failed (exit code {done.returncode})")
    if strip := shutil.which("strip"):
        # A Python that was built by hand brings 16 MB of symbols along.
        for library in (FOLDER / "_internal").glob("libpython3*.so.*"):
            subprocess.run([strip, "--strip-unneeded", str(library)], check=True)


def folder_size(folder: Path) -> int:
    """Bytes of the regular files; links count nothing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def check_contents(folder: Path) -> None:
    """One copy of each library of llama.cpp, at least one CPU plugin, the starter model."""
    internal = folder / "_internal"
    for name in ("libllama.so", "libggml.so", "libggml-base.so"):
        copies = [path for path in internal.rglob(f"{name}*") if not path.is_symlink()]
        if [path.parent.name for path in copies] != ["lib"]:
            raise FreezeError(f"{name} should lie in llama_cpp/lib once, and is at {copies}")
    if not list((internal / "llama_cpp" / "lib").glob("libggml-cpu-*.so")):
        raise FreezeError("no CPU plugin of llama.cpp was collected")
    if not (internal / "assets" / "starter" / "starter.gguf").is_file():
        raise FreezeError("assets/starter/starter.gguf was not collected; is the starter model made?")


def unexpected(output: str) -> list[str]:
    return [line for line in output.splitlines() if not ALLOWED_OUTPUT.fullmatch(line)]


def smoke_test(folder: Path) -> float:
    """Run the packaged selftest away from the source tree; returns its seconds."""
    with tempfile.TemporaryDirectory(prefix="tokenglass-smoke-") as name:
        place = Path(name)
        copy = place / "elsewhere" / "tokenglass"
        shutil.copytree(folder, copy, symlinks=True)
        (place / "home").mkdir(mode=0o700)
        environ = {"HOME": str(place / "home"), "PATH": str(place / "nothing"), "LANG": "C.UTF-8"}
        start = time.monotonic()
        try:
            done = subprocess.run(
                [str(copy / "tokenglass"), "selftest"],
                cwd="/",
                env=environ,
                capture_output=True,
                text=True,
                timeout=SELFTEST_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise FreezeError(f"selftest took over {SELFTEST_SECONDS} s:\n{error.output!r}") from None
        seconds = time.monotonic() - start
    output = done.stdout + done.stderr
    print(output, end="")
    if done.returncode != 0:
        raise FreezeError(f"the packaged selftest failed (exit code {done.returncode})")
    if wrong := unexpected(output):
        raise FreezeError("the packaged selftest printed what it should not:\n" + "\n".join(wrong))
    return seconds


def pack(folder: Path) -> Path:
    target = DIST / f"tokenglass-linux-{os.uname().machine}.tar.xz"
    if shutil.which("xz"):  # on all cores, where Python's own compressor uses one
        plain = target.with_suffix("")
        with tarfile.open(plain, "w") as archive:
            archive.add(folder, arcname="tokenglass")
        subprocess.run(["xz", "--force", "--threads=0", str(plain)], check=True)
    else:
        with tarfile.open(target, "w:xz") as archive:
            archive.add(folder, arcname="tokenglass")
    return target


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def main() -> int:
    try:
        # Qt's plugins take these libraries along, so that the package doesn't ask a user for them.
        system.require_qt(display=True)
        start = time.monotonic()
        build()
        built = time.monotonic() - start
        check_contents(FOLDER)
        tested = smoke_test(FOLDER)
        start = time.monotonic()
        archive = pack(FOLDER)
        packed = time.monotonic() - start
    except (FreezeError, system.MissingError) as error:
        print(f"package: {error}", file=sys.stderr)
        return 1
    print(f"built in {built:.0f} s, selftest in {tested:.1f} s, packed in {packed:.0f} s")
    print(f"{FOLDER.relative_to(ROOT)}: {megabytes(folder_size(FOLDER))}")
    print(f"{archive.relative_to(ROOT)}: {megabytes(archive.stat().st_size)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
