"""`tokenglass diagnostics`: the text to paste into a bug report."""

from __future__ import annotations

import argparse

from api import diagnostics
from api.commands import prepare_output
from api.paths import Paths


def run(args: argparse.Namespace) -> int:
    """Print it. Raises TokenglassError where the home can't be used."""
    prepare_output()
    print(diagnostics.text(Paths.resolve(args.home)))
    return 0
