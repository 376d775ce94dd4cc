"""Rules about the files in the tree that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = {"engine": 500, "api": 500, "desktop": 500, "packaging": 500, "tests": 1000, "assets": 500}
AS_IT_WAS = {Path("assets/starter/eval/grade.py"): 524}
"""The rules that grade the starter model stay as they were before it was trained."""
TEXT = {".py", ".pyi", ".sh", ".toml", ".md", ".txt", ".in", ".cfg", ".yml", ".yaml", ".spec", ".html", ".js"}
# Where packages or models are downloaded from is each machine's own business; built up here so that this file
# itself holds none of them.
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "hugging" + "face.co", "download.pytorch" + ".org")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|tmp/tg|opt/(?:wheels|pypi))(?=/|\b)")


def tracked() -> list[Path]:
    """The files git tracks that exist; those of the source tree where there is no git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=250)
    if done.returncode == 0:
        names = [name for name in done.stdout.split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    folders = ("engine", "api", "desktop", "tests", "packaging", "assets")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


def texts() -> list[tuple[Path, str]]:
    names = {"Makefile", ".gitignore", "run"}
    return [
        (path.relative_to(ROOT), path.read_text(encoding="utf-8"))
        for path in tracked()
        if path.suffix in TEXT or path.name in names
    ]


def test_tree_is_seen() -> None:
    names = {str(path) for path, _ in texts()}
    assert {"Makefile", "pyproject.toml", "tests/arch/test_tree.py", "requirements.txt"} <= names


def test_packaging_is_no_package() -> None:
    """A package of that name would shadow the library `packaging`."""
    assert not (ROOT / "packaging" / "__init__.py").exists()


def test_no_lock_files() -> None:
    names = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json", "conda-lock.yml"}
    assert not [path for path in tracked() if path.name in names]


def test_no_download_hosts_or_index_options() -> None:
    options = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host")
    wrong = []
    for path, text in texts():
        wrong += [f"{path}: {host}" for host in HOSTS if host in text]
        if path.name.startswith("requirements") and options.search(text):
            wrong.append(f"{path}: names an index")
    assert not wrong


def test_no_paths_of_one_machine() -> None:
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        if path != Path("tests/arch/test_tree.py")
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_grows_too_long() -> None:
    wrong = [
        f"{path}: {text.count(chr(10))} lines"
        for path, text in texts()
        if path.suffix == ".py"
        and text.count("\n") > AS_IT_WAS.get(path, MAX_LINES.get(path.parts[0], 10_000))
    ]
    assert not wrong, "\n".join(wrong)
