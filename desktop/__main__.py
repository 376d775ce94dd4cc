"""The command `tokenglass`: the window, or one of the commands that need none.

Nothing heavy is imported at module level: the worker process, which is spawned, imports this file again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.core import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit code (0 fine, 1 failed, 2 wrong usage)."""
    multiprocessing.freeze_support()
    os.environ["QT_API"] = "pyside6"  # qasync tries other bindings first
    from api import cli

    return cli.main(arguments, window=_window, selftest=_selftest)


def _window(options: Options) -> int:
    from desktop.app import run

    return run(options)


def _selftest(options: Options) -> int:
    from desktop.selftest import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
