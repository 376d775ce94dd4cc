"""Resolve packaging/requirements/*.in into the hashed requirements files in the root (`make lock`).

Runs pip-compile from an environment that has pip-tools. What it writes holds names, versions and hashes
only: where packages come from is each machine's own pip configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ROOT / "packaging" / "requirements"
HEADER = "# Made by `make lock` from packaging/requirements/{}; do not edit.\n"

# requirements-dev.txt is the whole environment of a developer, so that one `pip install` call checks it all.
TARGETS: dict[str, tuple[str, ...]] = {
    "requirements.txt": ("run.in",),
    "requirements-dev.txt": ("run.in", "dev.in"),
    "requirements-build.txt": ("build.in",),
    "requirements-llama.txt": ("llama.in",),
    "requirements-agents.txt": ("agents.in",),
}


def clean(text: str) -> str:
    """Drop comments, options and blank lines: only requirements and their hashes are left."""
    lines = []
    for line in text.splitlines():
        bare = re.sub(r"(^|\s+)#.*$", "", line).rstrip()
        if bare and not bare.startswith("-"):
            lines.append(bare)
    return re.sub(r" \\\n(?=\S)", "\n", "\n".join(lines)).removesuffix(" \\") + "\n"


def only(text: str, name: str) -> str:
    """The requirement `name` with its hashes, without what it depends on."""
    for block in re.split(r"\n(?=\S)", text):
        if block.startswith(f"{name}=="):
            return block.rstrip("\n") + "\n"
    raise SystemExit(f"lock: {name} is not among the resolved requirements")


def lock(target: str, inputs: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / target
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
        command += ["--no-emit-options", "--no-header", "--no-annotate", "--strip-extras", "--allow-unsafe"]
        command += ["--output-file", str(output), *(str(INPUTS / name) for name in inputs)]
        if target == "requirements-llama.txt":
            command += ["--pip-args", "--no-binary llama-cpp-python"]
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run(command, check=True, env=environment, cwd=folder)
        text = clean(output.read_text(encoding="utf-8"))
    if target == "requirements-llama.txt":
        text = only(text, "llama-cpp-python")
    header = HEADER.format(" and ".join(inputs))
    (ROOT / target).write_text(header + text, encoding="utf-8")
    print(f"{target}: {len(re.findall('^[a-zA-Z]', text, re.MULTILINE))} packages")


def main() -> int:
    wanted = sys.argv[1:] or list(TARGETS)
    for target in wanted:
        if target not in TARGETS:
            print(f"lock: no such file: {target}; there are {', '.join(TARGETS)}", file=sys.stderr)
            return 2
        lock(target, TARGETS[target])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
