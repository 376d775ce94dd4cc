"""Makes the starter model from nothing: environment, corpus, tokenizer, training, GGUF, checks, evaluation.

`python assets/starter/recipe.py` runs all stages; `--from STAGE` goes on from one. Training resumes from
its last checkpoint in run/; `--fresh` forgets it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENV = ROOT / ".venv-starter"
STAGES = ["environment", "tokenizer", "train", "tune", "export", "check", "evaluate"]
TRAIN = ["train.py", "--minutes", "{minutes}"]


def python() -> Path:
    return ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*args: str) -> None:
    """A stage's program, with its output passed on; its failure ends the recipe."""
    env = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run([str(python()), *args], cwd=HERE, env=env, check=False)
    if done.returncode:
        sys.exit(f"stage failed: {' '.join(args)}")


def environment() -> None:
    """A virtual environment of its own, as torch is no dependency of the app."""
    if not python().exists():
        venv.create(ENV, with_pip=True)
    run("-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt"))
    probe = subprocess.run([str(python()), "-c", "import llama_cpp"], capture_output=True, check=False)
    if probe.returncode:
        wheels = sorted(ROOT.glob("**/llama_cpp_python-*.whl"))
        # The app's own build serves here too; without one, pip builds it from source.
        run(
            "-m",
            "pip",
            "install",
            "--quiet",
            *(["--no-deps", str(wheels[-1])] if wheels else ["llama-cpp-python==0.3.36"]),
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0])
    p.add_argument("--minutes", type=float, default=65.0, help="wall-clock budget of the main training")
    p.add_argument(
        "--tune-minutes",
        type=float,
        default=0.0,
        help="wall-clock budget of the second training stage; 0 leaves it out",
    )
    p.add_argument("--fresh", action="store_true", help="forget the checkpoints of an earlier run")
    a = p.parse_args()
    if a.fresh:
        shutil.rmtree(HERE / "run", ignore_errors=True)
        (HERE / "training_log.csv").unlink(missing_ok=True)
    checkpoint = "run/last.pt"
    work = {
        "environment": environment,
        "tokenizer": lambda: run("tokenizer.py"),
        "train": lambda: run("train.py", "--minutes", str(a.minutes)),
        "tune": lambda: None,
        "export": lambda: run("export.py", checkpoint, "starter.gguf"),
        "check": lambda: run("check_tokens.py", "starter.gguf"),
        "evaluate": lambda: run("evaluate.py"),
    }
    began = time.monotonic()
    for stage in STAGES[STAGES.index(a.first) :]:
        print(f"[{(time.monotonic() - began) / 60:5.1f} min] {stage}", flush=True)
        work[stage]()
    print(f"[{(time.monotonic() - began) / 60:5.1f} min] done", flush=True)


if __name__ == "__main__":
    main()
