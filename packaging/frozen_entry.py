"""Where the packaged program starts: it is also what a spawned worker process and its renderer start."""

from __future__ import annotations

import multiprocessing
import sys

if __name__ == "__main__":
    # Before anything else: in a worker this call runs the worker and never returns.
    multiprocessing.freeze_support()

    from engine import rendering

    if sys.argv[1:] == [rendering.FLAG]:
        rendering.main()

    from desktop.__main__ import main

    sys.exit(main())
