"""`make run`: open the window, or serve without one where there is no display."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import system

COMMAND = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "tokenglass"


def wants_window(environ: Mapping[str, str]) -> bool:
    """A display is there, or Qt was told by hand where to draw."""
    return system.has_display(environ) or bool(environ.get("QT_QPA_PLATFORM"))


def command(arguments: list[str], environ: Mapping[str, str]) -> list[str]:
    return [str(COMMAND), *([] if wants_window(environ) else ["serve"]), *arguments]


def main() -> None:
    """Become the app; exits with 1 where the system lacks something."""
    arguments = sys.argv[1:]
    if wants_window(os.environ):
        try:
            system.require_qt(display=system.has_display())
        except system.MissingError as error:
            print(f"set-up: {error}", file=sys.stderr)
            raise SystemExit(1) from None
    else:
        note = "no display here: serving without a window (Ctrl+C ends it; talk to it with "
        print(f"{note}.venv/bin/tokenglass chat)", file=sys.stderr, flush=True)
    os.execv(COMMAND, command(arguments, os.environ))


if __name__ == "__main__":
    main()
