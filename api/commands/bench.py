"""`tokenglass bench`: the same model in a bare llama.cpp loop and through the whole app, in one run.

All sides are processes that wait for their turn; runs are interleaved, so that what else the machine
does meets all of them. The app's side is what a script gets: tokens as they arrive at a client of `/v1/live`.
BENCHMARKS.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from api.bench import latency, parts, transports
from api.bench.machine import Machine
from api.bench.parts import Progress, Records, Settings
from api.bench.report import doubts, report, summary
from api.library import Library
from api.paths import Paths, absolute, is_there
from api.settings import SettingsStore
from engine import synthetic
from engine.errors import TokenglassError
from engine.fakespec import is_fake
from engine.gguf import read_header

INTERRUPTED = 130
LONG_CTX = 4608


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 0, or 130 where Ctrl-C ended it, after printing what there is.

    Raises TokenglassError where a side can't be started.
    """
    progress = _progress()
    settings = _settings(arguments, progress)
    machine = Machine()
    for warning in machine.warnings():
        print(f"tokenglass: {warning}", file=sys.stderr)
    records = Records()
    code = 0
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        asyncio.run(measure(settings, records, progress, arguments.what, _cache(arguments.home)))
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, former)
        progress("")
    if not records.pairs:
        return code
    result = result_of(settings, records, machine)
    print(json.dumps(result) if arguments.json else report(result))
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


async def measure(
    settings: Settings, records: Records, progress: Progress, what: tuple[str, ...], cache: Path
) -> None:
    """Carry out the parts that are asked for; those with the same configuration share their processes."""
    wanted = set(what)
    ctx = max(1024, settings.tokens + 512)
    if wanted & {"single", "subscribers", "lookup"}:
        async with parts.bench(settings, records, progress, settings.config(4, ctx)) as bench:
            if "single" in wanted:
                await parts.single(bench)
            if "subscribers" in wanted:
                await parts.subscribers(bench)
            if "lookup" in wanted:
                await parts.lookup(bench)
    if "batch" in wanted:
        config = settings.config(max(parts.AT_ONCE), max(512, settings.tokens + 128))
        async with parts.bench(settings, records, progress, config) as bench:
            await parts.batch(bench)
    if wanted & {"prompt", "turns", "latency", "transports"}:
        rate = 0.0
        async with parts.bench(settings, records, progress, settings.config(4, LONG_CTX)) as bench:
            if "prompt" in wanted:
                await parts.prompts(bench)
            if "turns" in wanted:
                await parts.turns(bench)
            if "latency" in wanted:
                rate = (await bench.bare.run([parts.SENTENCE], 64)).tokens_per_second
                await latency.beside_a_prompt(bench)
            if "transports" in wanted:
                await transports.compare(bench)
        if "latency" in wanted:
            await latency.paced(settings, records, progress, cache, rate)


def result_of(settings: Settings, records: Records, machine: Machine) -> dict[str, Any]:
    """Everything for `--json`."""
    return {
        "model": settings.model_name,
        "weights": records.about["info"]["n_params"],
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "pairs": settings.pairs,
        "tokens": settings.tokens,
        "threads": settings.threads,
        "subscribers": settings.subscribers,
        "window": settings.window,
        "sampling": "usual" if settings.usual_sampling else "greedy",
        "llama_cpp": records.about["llama_cpp"],
        "devices": records.about["info"]["devices"],
        "n_gpu_layers": records.about["info"]["n_gpu_layers"],
        "machine": machine.about(),
        "warnings": machine.warnings(),
        "notes": [*records.notes, *doubts(records.pairs)],
        "parts": summary(records.pairs),
    }


def _settings(arguments: argparse.Namespace, progress: Progress) -> Settings:
    server = None
    if wanted := arguments.llama_server:
        found = shutil.which(absolute(wanted) if os.sep in wanted else wanted)
        if found is None:
            raise TokenglassError("not_found", f"there is no program {wanted}")
        server = Path(found)
    name, path = _model(arguments, progress)
    return Settings(
        model_name=name,
        model_path=path,
        pairs=arguments.pairs,
        tokens=arguments.tokens,
        threads=getattr(arguments, "threads", None) or 1,
        subscribers=arguments.subscribers,
        window=arguments.window,
        llama_server=server,
        usual_sampling=arguments.usual_sampling,
    )


def _model(arguments: argparse.Namespace, progress: Progress) -> tuple[str, Path]:
    wanted = getattr(arguments, "model", None)
    if not arguments.synthetic:
        return find_model(arguments.home, wanted or "starter")
    if wanted:
        raise TokenglassError("invalid_argument", "give --model or --synthetic, not both")

    def written(done: int, total: int) -> None:
        progress(f"writing the model: {100 * done // total} % of {total / 1e6:,.0f} MB")

    path = synthetic.provide(
        _cache(arguments.home), arguments.synthetic, arguments.quantization, arguments.vocab, written
    )
    return path.stem, path


def _cache(home: Path | None) -> Path:
    return Paths.resolve(home).cache_dir / "synthetic"


def find_model(home: Path | None, wanted: str) -> tuple[str, Path]:
    """Name and file of a model of the library, or of any GGUF file."""
    if is_fake(wanted):
        raise TokenglassError("load_failed", "the fake model has no bare loop to be measured against")
    path = absolute(wanted)
    if path.suffix == ".gguf" and is_there(path):
        return read_header(path).name, path
    paths = Paths.resolve(home)
    found = Library(paths, SettingsStore(paths.settings_file)).get_now(wanted)
    return found["name"], Path(found["path"])


def _progress() -> Progress:
    """On a terminal one line that is rewritten, elsewhere lines."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif text and not text.startswith("writing"):
            print(text, file=sys.stderr, flush=True)

    return show
