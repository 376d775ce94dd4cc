"""The layers and the processes: who may import whom, and what a process of ours must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("engine", "api", "desktop")
LLAMA_MODULE = "engine.backends.llamacpp"
# The engine's contract and the parent's side of it. Everything else of the engine lives in the worker.
ENGINE_FOR_APP = (
    "engine.types",
    "engine.events",
    "engine.commands",
    "engine.errors",
    "engine.replies",
    "engine.client",
    "engine.ipc",
    "engine.entry",
    "engine.gguf",
    "engine.shape",
    "engine.fit",
    "engine.machine",
    "engine.fakespec",
    "engine.timing",
    "engine.renderer",
    "engine.rendering",
    "engine.synthetic",
    "engine.structured",
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, inside functions and type-checking blocks too."""
    module = module_of(path).split(".")
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                yield node.lineno, f"{stem}.{name.name}"


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_app_uses_only_the_engine_contract() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for layer in ("api", "desktop")
        for path in sources(layer)
        for line, name in imported(path)
        if within(name, "engine") and not any(within(name, module) for module in ENGINE_FOR_APP)
    ]
    assert not wrong, "\n".join(wrong)


def test_llama_cpp_is_imported_in_one_place() -> None:
    users = {
        module_of(path)
        for layer in LAYERS
        for path in sources(layer)
        for _, name in imported(path)
        if within(name, "llama_cpp")
    }
    assert all(within(user, LLAMA_MODULE) for user in users), users
    assert users


def loaded_by(module: str) -> set[str]:
    """Top-level names of all modules that a fresh process holds after importing `module`."""
    code = f"import sys, {module}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "expected", "forbidden"),
    [
        ("desktop.app", {"PySide6", "qasync", "websockets"}, {"llama_cpp"}),
        ("engine.worker", {"engine"}, {"PySide6", "qasync", "pyqtgraph", "websockets", "desktop", "api"}),
        ("engine.entry", {"engine"}, {"PySide6", "qasync", "pyqtgraph", "websockets", "desktop", "api"}),
        ("api.serve", {"websockets"}, {"PySide6", "qasync", "pyqtgraph", "llama_cpp", "desktop"}),
    ],
)
def test_process_loads_nothing_foreign(module: str, expected: set[str], forbidden: set[str]) -> None:
    loaded = loaded_by(module)
    assert expected <= loaded
    assert not forbidden & loaded
