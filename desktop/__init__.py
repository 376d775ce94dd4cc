"""The window: the only folder with PySide6, qasync and pyqtgraph."""

from __future__ import annotations

import sys

if sys.version_info < (3, 12):
    # PySide6 6.12 returns None, True and False without taking a reference, as if they were immortal; they
    # are only from Python 3.12 on. Before that each such call brings the interpreter one step nearer to
    # "Fatal Python error: none_dealloc". So they get more references than any run can use up.
    import ctypes

    for _constant in (None, True, False, NotImplemented, Ellipsis):
        ctypes.c_ssize_t.from_address(id(_constant)).value += 1 << 60
