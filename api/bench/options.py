"""The options of `tokenglass bench`. Imports nothing heavy: every start of the program reads them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

PARTS = ("single", "subscribers", "batch", "prompt", "turns", "latency", "lookup", "transports")


def add(parser: argparse.ArgumentParser, whole: Callable[[int, int | None], Callable[[str], int]]) -> None:
    """Add them to the parser. `whole` makes a reader of whole numbers between two limits."""
    model = parser.add_argument_group("model (default: the starter model)")
    model.add_argument("--synthetic", metavar="SIZE", help="random weights: 15M, 1B, or dim=512,layers=8,…")
    model.add_argument(
        "--quantization", metavar="TYPE", default="Q8_0", help="of these: Q8_0 (default), Q4_0, F16, F32"
    )
    model.add_argument("--vocab", type=whole(1, None), metavar="N", help="tokens of their vocabulary")
    what = parser.add_argument_group("measurements")
    what.add_argument(
        "--what", type=_parts, default=PARTS, metavar="PART,…", help=f"some of {','.join(PARTS)}; default all"
    )
    what.add_argument("--pairs", type=whole(1, 1000), default=15, metavar="N", help="of runs; default 15")
    what.add_argument("--tokens", type=whole(2, 4096), default=128, metavar="N", help="of a run; default 128")
    what.add_argument(
        "--subscribers", type=whole(0, 200), default=3, metavar="N", help="further clients; default 3"
    )
    what.add_argument("--window", action="store_true", help="measure with the window open")
    what.add_argument("--llama-server", metavar="PATH", help="measure llama.cpp's server, too")
    what.add_argument("--usual-sampling", action="store_true", help="the app's usual sampling, not greedy")
    what.add_argument(
        "--threads",
        type=whole(1, 1024),
        default=argparse.SUPPRESS,  # what stood before the command's name holds, too
        metavar="N",
        help="of the engine; default 1",
    )


def _parts(text: str) -> tuple[str, ...]:
    wanted = [part.strip() for part in text.split(",")]
    for part in wanted:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in wanted)
