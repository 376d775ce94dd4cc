"""See to what drawing off-screen needs, before tests and packaging, and to what a browser needs for tests."""

from __future__ import annotations

import sys

import system

if __name__ == "__main__":
    try:
        system.require_qt(display=False)
    except system.MissingError as missing:
        print(f"set-up: {missing}", file=sys.stderr)
        raise SystemExit(1) from None
    try:
        system.see_to(system.missing_browser(), "a browser")
    except system.MissingError as missing:  # all else can be tested
        print(f"{missing}\nuntil then tests/attacks is skipped", file=sys.stderr)
