"""See to what drawing off-screen needs, before tests and packaging."""

from __future__ import annotations

import sys

import system

if __name__ == "__main__":
    try:
        system.require_qt(display=False)
    except system.MissingError as missing:
        print(f"set-up: {missing}", file=sys.stderr)
        raise SystemExit(1) from None
