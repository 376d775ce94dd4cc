"""The command `tokenglass`: the window, or one of the commands that need none.

Nothing heavy is imported at module level: the worker process, which is spawned, imports this file again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
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
    with _explaining():
        from desktop.app import run

    return run(options)


def _selftest(options: Options) -> int:
    with _explaining():
        from desktop.selftest import run

    return run(options)


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Where Qt can't be loaded, the linker's words don't tell what to do."""
    try:
        yield
    except ImportError as error:
        if "cannot open shared object file" not in str(error):
            raise
        from engine.errors import TokenglassError

        raise TokenglassError(
            "load_failed",
            f"the window needs a system library that isn't there ({str(error).partition(':')[0]})",
            hint="on Debian and Ubuntu: sudo apt-get install libgl1 libegl1; or run `tokenglass serve`",
        ) from None


if __name__ == "__main__":
    sys.exit(main())
