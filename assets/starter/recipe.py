"""Makes the starter model from nothing: environment, tokenizer, training, GGUF, checks, evaluation.

`python assets/starter/recipe.py` runs all stages; `--from STAGE` goes on from one. Training resumes from
its last checkpoint in run/; `--fresh` forgets it. The corpus is made on the fly while training.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENV = ROOT / ".venv-starter"


# The second stage: a short one, with more of what the first learned least.
TUNE = (
    "--init run/last.pt --name tune --minutes 6.5 --lr 0.004 --lr-rest 0.0006 --seed 77".split()  # noqa: SIM905
)


def python() -> Path:
    return ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*args: str) -> None:
    """A stage's program, with its output passed on; its failure ends the recipe."""
    env = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run([str(python()), *args], cwd=HERE, env=env, check=False)
    if done.returncode:
        sys.exit(f"recipe: stage failed: {' '.join(args)}")


def environment() -> None:
    """A virtual environment of its own, as torch is no dependency of the app."""
    if not python().exists():
        venv.create(ENV, with_pip=True)
    run("-m", "pip", "install", "--quiet", "-r", "requirements.txt")
    probe = subprocess.run([str(python()), "-c", "import llama_cpp"], capture_output=True, check=False)
    if probe.returncode:
        # The app's own build of llama.cpp serves here too; a finished one is taken from its cache.
        run(str(ROOT / "packaging" / "build_llama.py"))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    stages = ["environment", "tokenizer", "train", "tune", "export", "check", "evaluate"]
    p.add_argument("--from", dest="first", choices=stages, default=stages[0])
    p.add_argument("--minutes", type=float, default=82.0, help="wall-clock budget of the training")
    p.add_argument("--steps", type=int, default=0, help="train this many steps instead of a budget")
    p.add_argument("--fresh", action="store_true", help="forget what earlier runs left")
    a = p.parse_args()
    if a.fresh:
        shutil.rmtree(HERE / "run", ignore_errors=True)
        (HERE / "training_log.csv").unlink(missing_ok=True)
        (HERE / "tokenizer.model").unlink(missing_ok=True)
    work: dict[str, Callable[[], None]] = {
        "environment": environment,
        "tokenizer": lambda: run("tokenizer.py"),
        "train": lambda: run("train.py", "--minutes", str(a.minutes), "--steps", str(a.steps)),
        "tune": lambda: run("train.py", *TUNE),
        "export": lambda: run("export.py", "run/tune.pt", "starter.gguf"),
        "check": lambda: run("check_tokens.py", "starter.gguf"),
        "evaluate": lambda: run("evaluate.py"),
    }
    began = time.monotonic()
    for stage in stages[stages.index(a.first) :]:
        print(f"[{(time.monotonic() - began) / 60:5.1f} min] {stage}", flush=True)
        work[stage]()
    print(f"[{(time.monotonic() - began) / 60:5.1f} min] done", flush=True)


if __name__ == "__main__":
    main()
