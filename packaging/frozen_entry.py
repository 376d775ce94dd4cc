"""Where the packaged program starts: it is also what a spawned worker process starts."""

from __future__ import annotations

import multiprocessing
import sys

if __name__ == "__main__":
    # Before anything else: in a worker this call runs the worker and never returns.
    multiprocessing.freeze_support()

    from desktop.__main__ import main

    sys.exit(main())
