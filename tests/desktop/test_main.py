"""desktop.__main__: the way into the window, and what is said where there is none to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BREAK = (
    "import sys\n"
    "class Broken:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.startswith('PySide6'):\n"
    "            raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    "sys.meta_path.insert(0, Broken())\n"
    "from desktop.__main__ import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def test_a_missing_system_library_is_named_in_one_line(tmp_path: Path) -> None:
    for command in ([], ["selftest"]):
        done = subprocess.run(
            [sys.executable, "-c", BREAK, *command, "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
            timeout=200,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "libGL.so.1" in done.stderr
        assert "apt-get install" in done.stderr
