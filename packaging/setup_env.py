"""Make .venv ready: `run` for the app, `dev` for tests, checks and packaging as well.

Run by the Makefile with any Python that find_python.sh accepts. A stamp in .venv tells what it was made from;
while that is unchanged nothing is done, no pip is started and no network is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import system

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TIMES = ROOT / "build" / "setup-times.json"
RUN_FILES = ("requirements.txt", "requirements-build.txt", "requirements-llama.txt")
AGENTS = VENV / "agents"
"""openai-agents and what it needs, in a folder that only its own test puts on the path."""
DEV_FILES = ("requirements-dev.txt", "requirements-agents.txt")
# What else decides what is built and how it is installed.
RECIPE_FILES = ("packaging/build_llama.py", "packaging/setup_env.py")
KINDS = {"run": RUN_FILES, "dev": RUN_FILES + DEV_FILES}


def stamp_key(kind: str, root: Path = ROOT, environ: dict[str, str] | None = None) -> str:
    """What the environment of this kind is made from, as a hash."""
    environ = dict(os.environ) if environ is None else environ
    digest = hashlib.sha256()
    digest.update(f"{kind} {sys.version_info[:2]} {root} {environ.get('CMAKE_ARGS', '')}".encode())
    for name in (*KINDS[kind], *RECIPE_FILES):
        digest.update(name.encode() + b"\0" + (root / name).read_bytes())
    # Of pyproject.toml only what an installation depends on, not the settings of linters.
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    installed = [project["build-system"], project["project"], project["tool"]["setuptools"]]
    digest.update(json.dumps(installed, sort_keys=True).encode())
    return digest.hexdigest()


def stamp_path(kind: str) -> Path:
    return VENV / f"tokenglass-{kind}.stamp"


def fresh(kind: str) -> bool:
    """Whether .venv was finished for exactly these files."""
    path = stamp_path(kind)
    return path.is_file() and path.read_text(encoding="utf-8").strip() == stamp_key(kind)


class SetupError(Exception):
    """The set-up can't go on; the text says why."""


class Steps:
    """Runs the steps one after the other, tells of each and keeps how long it took."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def timed(self, name: str, command: list[str]) -> None:
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT)
        self.times[name] = time.monotonic() - start
        if done.returncode != 0:
            raise SetupError(f"{name} failed (exit code {done.returncode}): {' '.join(command)}")

    def pip(self, name: str, *arguments: str) -> None:
        """Run pip's install, showing one line for each download."""
        start = time.monotonic()
        command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-input", "--progress-bar", "off", *arguments]
        last: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = [*last[-39:], line]
                if found := re.search(r"Downloading (\S+?) \(([\d.]+ MB)\)", line):
                    print(f"  {found[1].rsplit('/', 1)[-1]}, {found[2]}", flush=True)
        if process.returncode != 0:
            raise SetupError(f"{''.join(last)}\n{name} failed")
        self.times[name] = self.times.get(name, 0.0) + time.monotonic() - start

    def summary(self) -> str:
        total = sum(self.times.values())
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.times.items() if seconds >= 0.5)
        return f"set up in {total:.0f} s: {parts}"


def make_venv(steps: Steps) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = VENV / "bin" / "python"
    if python.exists():
        probe = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == version and (VENV / "bin" / "pip").exists():
            return
        print(f"the environment in {VENV.name} is not for Python {version}; making it anew", flush=True)
        shutil.rmtree(VENV)
    print(f"making {VENV.name} with Python {version}", flush=True)
    steps.timed("environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])


def keep_times(kind: str, times: dict[str, float]) -> None:
    """Add this set-up to the list in build/setup-times.json; the first one is the one that took long."""
    try:
        runs = json.loads(TIMES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        runs = []
    runs = runs if isinstance(runs, list) else []
    runs.append({"kind": kind, "seconds": {name: round(seconds, 2) for name, seconds in times.items()}})
    TIMES.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def set_up(kind: str) -> None:
    steps = Steps()
    start = time.monotonic()
    display = system.has_display()
    system.require_all(window=display or kind == "dev", display=display)
    steps.times["system packages"] = time.monotonic() - start
    make_venv(steps)
    for old in KINDS:
        stamp_path(old).unlink(missing_ok=True)
    hashed = ("--require-hashes", "--only-binary", ":all:")
    files = ["requirements-dev.txt" if kind == "dev" else "requirements.txt", "requirements-build.txt"]
    print("installing the pinned packages", flush=True)
    steps.pip("packages", *hashed, *(part for name in files for part in ("--requirement", name)))

    if kind == "dev":
        shutil.rmtree(AGENTS, ignore_errors=True)
        into = ("--no-deps", "--target", str(AGENTS))
        steps.pip("agents", *hashed, *into, "--requirement", "requirements-agents.txt")

    TIMES.parent.mkdir(exist_ok=True)
    part = TIMES.with_name("llama-times.json")
    python = str(VENV / "bin" / "python")
    done = subprocess.run([python, "packaging/build_llama.py", "--times", str(part)], cwd=ROOT)
    if done.returncode != 0:
        raise SetupError("llama.cpp is not there; see above")
    steps.times |= json.loads(part.read_text(encoding="utf-8"))
    part.unlink()

    steps.pip("tokenglass", "--no-deps", "--no-build-isolation", "--editable", ".")
    for done_kind in ("run", "dev") if kind == "dev" else ("run",):
        stamp_path(done_kind).write_text(stamp_key(done_kind) + "\n", encoding="utf-8")
    keep_times(kind, steps.times)
    print(steps.summary(), flush=True)


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in KINDS:
        print(f"usage: setup_env.py {'|'.join(KINDS)}", file=sys.stderr)
        return 2
    try:
        if not fresh(kind):
            set_up(kind)
    except (SetupError, system.MissingError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: stopped; the same command goes on where it can", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
