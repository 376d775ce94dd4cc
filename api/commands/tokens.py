"""`tokenglass token`: further tokens for scripts, with or without a running app."""

from __future__ import annotations

import argparse
import sys
import time

from api.commands import prepare_output
from api.paths import Paths
from api.tokens import Entry, TokenFile


def run(args: argparse.Namespace) -> int:
    """Carry out `add`, `revoke` or `list` (the default). Raises TokenglassError."""
    prepare_output()
    file = TokenFile(Paths.resolve(args.home).tokens_file)
    if args.action == "add":
        # alone on standard output, so that a script can take it from there
        print(file.add(args.name, args.can))
        print(f"{args.name} can {', '.join(args.can)}; this token is not shown again", file=sys.stderr)
    elif args.action == "revoke":
        file.revoke(args.name)
        print(f"{args.name} is revoked; a running app closes its connections")
    else:
        entries = file.entries()
        print(table(entries) if entries else "no tokens but the app's own (server.json has it)")
    return 0


def table(entries: list[Entry]) -> str:
    """The tokens as aligned columns."""
    rows = [("NAME", "CAN", "MADE")]
    for entry in entries:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        rows.append((entry.name, ",".join(entry.can), made))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
