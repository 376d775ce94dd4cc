"""A text for bug reports: versions, machine, settings, models, last errors. No secrets, no prompts.

It reads files and asks drivers: not for a loop's thread.
"""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import sys
from collections import deque
from importlib import metadata
from pathlib import Path

import psutil

from api.client import running_app
from api.library import Library
from api.paths import Paths, tilde
from api.settings import Settings, SettingsStore
from api.telemetry import read_gpus
from api.version import VERSION
from engine.errors import TokenglassError
from engine.machine import choose, this_machine

LAST_PROBLEMS = 20

PACKAGES = (
    "llama-cpp-python",
    "PySide6-Essentials",
    "qasync",
    "pyqtgraph",
    "websockets",
    "pydantic",
    "psutil",
    "nvidia-ml-py",
)

_ENTRY = re.compile(r"\S+Z (?P<level>[A-Z]+) ")


def text(paths: Paths) -> str:
    """The whole report. Never raises for what is broken: that is what it is for."""
    store = SettingsStore(paths.settings_file)
    problem = None
    try:
        settings = store.load()
    except TokenglassError as error:
        settings, problem = Settings(), str(error)
    sections = [
        ("Tokenglass", _versions()),
        ("Machine", _machine()),
        ("App", _app(paths)),
        ("Settings", [*([problem] if problem else []), *store.messages, *_settings(settings)]),
        ("Models", _models(paths, store)),
        (f"Last {LAST_PROBLEMS} warnings and errors", last_problems(paths.log_file) or ["none"]),
    ]
    lines: list[str] = []
    for title, body in sections:
        lines += [f"## {title}", *body, ""]
    home = str(Path.home())
    report = "\n".join(lines).rstrip()
    return report if home == "/" else re.sub(rf"{re.escape(home)}(?=[/\s'\"]|$)", "~", report)


def last_problems(log_file: Path, limit: int = LAST_PROBLEMS) -> list[str]:
    """The last entries at WARNING or above, oldest first, with their tracebacks; also from rotated files."""
    entries: deque[list[str]] = deque(maxlen=limit)
    files = [log_file.with_name(f"{log_file.name}.{number}") for number in (2, 1)]
    for file in (*files, log_file):
        try:
            lines = file.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        kept = False
        for line in lines:
            match = _ENTRY.match(line)
            if match is not None:
                kept = match["level"] in ("WARNING", "ERROR", "CRITICAL")
                if kept:
                    entries.append([line])
            elif kept:
                entries[-1].append(line)
    return [line for entry in entries for line in entry]


def _versions() -> list[str]:
    frozen = " (packaged)" if getattr(sys, "frozen", False) else ""
    lines = [f"tokenglass {VERSION}{frozen}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    lines.append(f"SQLite {sqlite3.sqlite_version}")
    return lines


def _machine() -> list[str]:
    memory = psutil.virtual_memory()
    here = this_machine()
    cores = f"{here.physical} cores, {here.logical} threads"
    cores += f", {here.quota:g} granted" if here.quota is not None else ""
    cores += f"; {choose(here).n_threads} for the model"
    lines = [
        _system(),
        f"CPU {_cpu_name()}, {cores}",
        f"RAM {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
    ]
    for gpu in read_gpus():
        used = f", {gpu.memory_used / 2**30:.1f} GiB used" if gpu.memory_used is not None else ""
        total = f" {gpu.memory_total / 2**30:.1f} GiB" if gpu.memory_total is not None else ""
        lines.append(f"GPU {gpu.name}{total}{used}")
    if len(lines) == 3:
        lines.append("GPU: none that NVML knows")
    display = ", ".join(name for name in ("WAYLAND_DISPLAY", "DISPLAY") if os.environ.get(name))
    lines.append(f"display: {display or 'none'}")
    return lines


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return " ".join(
        part for part in (name, platform.system(), platform.release(), platform.machine()) if part
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _app(paths: Paths) -> list[str]:
    about = running_app(paths)
    state = f"runs (pid {about['pid']}, {about['url']})" if about else "doesn't run"
    lines = [state, f"config {tilde(paths.config_dir)}", f"data {tilde(paths.data_dir)}"]
    lines += [f"log {tilde(paths.log_file)}", f"server.json {tilde(paths.server_file)}"]
    try:
        lines.append(f"conversations: {paths.database.stat().st_size / 1e6:.1f} MB")
    except OSError:
        lines.append("conversations: none yet")
    return lines


def _settings(settings: Settings) -> list[str]:
    values = settings.model_dump(mode="json")
    prompt = values.pop("system_prompt")
    values["system_prompt"] = f"({len(prompt)} characters)" if prompt else "(none)"
    if values["sampling"]["logit_bias"]:
        values["sampling"]["logit_bias"] = f"({len(values['sampling']['logit_bias'])} tokens)"
    return [f"{name} = {value}" for name, value in values.items()]


def _models(paths: Paths, store: SettingsStore) -> list[str]:
    try:
        models = Library(paths, store).list_now()
    except TokenglassError as error:
        return [str(error)]
    lines = []
    for model in models:
        facts = model["error"]["message"] if model["error"] else ""
        if not model["error"]:
            facts = (
                f"{model['architecture']}, {model['n_params'] or '?'} parameters, {model['quantization']}, "
                f"context {model['n_ctx_train']}, {model['size_bytes']} bytes, "
                f"{'with' if model['has_chat_template'] else 'no'} chat template"
            )
        lines.append(f"{model['id']} ({model['source']}): {tilde(facts)}")
    return lines
