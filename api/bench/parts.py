"""The measurements. Each runs its sides in turn, in another order each round, and keeps every sample."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.bench.llamaserver import llama_server
from api.bench.samples import Pair
from api.bench.sides import AppSide, LoopSide, Side, app
from engine.errors import TokenglassError
from engine.types import SamplingParams, WorkerConfig

SENTENCE = "Tell me, little glass, what do you see when a model speaks?"
FIRST_TOKENS = 8
"""Generated where only the first one counts."""
SUBSCRIBERS = (0, 1, 10)
AT_ONCE = (1, 4, 8, 16)
PROMPTS = (512, 2048)
CONVERSATION = 2000
ANSWER = 32
"""Tokens of the answer in the conversation's first turn."""
LOOKUP = 8


@dataclass
class Settings:
    """What is asked for."""

    model_name: str
    model_path: Path
    pairs: int
    tokens: int
    threads: int
    subscribers: int
    window: bool
    llama_server: Path | None
    usual_sampling: bool

    def config(self, n_slots: int, n_ctx: int) -> WorkerConfig:
        return WorkerConfig(
            model_id=self.model_name,
            model_path=str(self.model_path),
            n_slots=n_slots,
            n_ctx=n_ctx,
            n_threads=self.threads,
        )


@dataclass
class Records:
    """Everything that was measured; filled as it comes, so that what there is can be shown at any moment."""

    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    """By part; see the functions below for the names."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the bare loop says of model and machine."""
    notes: list[str] = field(default_factory=list)

    def add(self, part: str, pair: Pair) -> None:
        self.pairs.setdefault(part, []).append(pair)


Progress = Callable[[str], None]


@dataclass
class Bench:
    """Sides that run with one configuration, and where their samples go."""

    settings: Settings
    config: WorkerConfig
    records: Records
    progress: Progress
    bare: LoopSide
    engine: LoopSide
    app: AppSide
    server: Side | None

    def sides(self) -> dict[str, Side]:
        sides: dict[str, Side] = {"bare": self.bare, "engine": self.engine, "app": self.app}
        return sides if self.server is None else {**sides, "llama-server": self.server}

    async def rounds(self, part: str, round_: Callable[[int], Awaitable[Pair]]) -> None:
        """Carry out a round for each pair and keep it; one more before, which warms up, isn't kept."""
        n = self.settings.pairs
        for i in range(n + 1):
            self.progress(f"{part}: {'warming up' if i == 0 else f'pair {i} of {n}'}")
            pair = await round_(i)
            if i > 0:
                self.records.add(part, pair)

    async def prompt(self, n_tokens: int, seed: str) -> str:
        """Words of about so many tokens, never the same ones twice."""
        rng = random.Random(seed)
        words = [rng.choice(_WORDS) for _ in range(n_tokens)]
        low, high = 1, len(words)
        while low < high:
            middle = (low + high) // 2
            if await self.bare.count(" ".join(words[:middle])) < n_tokens:
                low = middle + 1
            else:
                high = middle
        return " ".join(words[:low])


_WORDS = (
    "glass", "light", "river", "stone", "window", "letter", "engine", "paper", "garden", "winter", "morning",
    "silver", "circle", "answer", "market", "bridge", "harbour", "candle", "forest", "number", "signal",
    "pocket", "travel", "summer", "copper", "yellow", "simple", "quiet", "heavy", "early", "never", "always",
    "walks", "opens", "turns", "keeps", "finds", "holds", "makes", "tells", "reads", "sings", "under",
)  # fmt: skip


def shuffled(sides: Mapping[str, Side], i: int) -> list[tuple[str, Side]]:
    """The order of round `i`."""
    order = list(sides.items())
    random.Random(i).shuffle(order)
    return order


@contextlib.asynccontextmanager
async def bench(
    settings: Settings, records: Records, progress: Progress, config: WorkerConfig
) -> AsyncIterator[Bench]:
    """Start every side on this configuration; they end with the context."""
    progress("starting")
    sampling = SamplingParams(seed=1) if settings.usual_sampling else SamplingParams(temperature=0)
    async with contextlib.AsyncExitStack() as stack:
        bare = LoopSide("bare", config, sampling)
        stack.callback(bare.close)
        about = await bare.ready()
        records.about.update(about)
        # no generation is to end early; for llama-server that is `ignore_eos`
        sampling = sampling.model_copy(update={"logit_bias": dict.fromkeys(about["eog"], -100.0)})
        bare.sampling = sampling
        engine = LoopSide("engine", config, sampling)
        stack.callback(engine.close)
        await engine.ready()
        the_app = await stack.enter_async_context(app(config, settings.window, sampling))
        the_app.n_subscribers = settings.subscribers
        server = None
        if settings.llama_server is not None:
            server = await stack.enter_async_context(llama_server(settings.llama_server, config, sampling))
        yield Bench(settings, config, records, progress, bare, engine, the_app, server)


async def single(bench: Bench) -> None:
    """`single`: one generation on every side."""

    async def round_(i: int) -> Pair:
        # another beginning each time, so that nobody finds a cached prefix
        prompt = f"{i:03d}: {SENTENCE}"
        return {
            name: await side.run([prompt], bench.settings.tokens) for name, side in shuffled(bench.sides(), i)
        }

    await bench.rounds("single", round_)


async def subscribers(bench: Bench) -> None:
    """`subscribers`: the app with 0, 1 and 10 further ones against the bare loop."""

    async def round_(i: int) -> Pair:
        prompt = f"{i:03d} s: {SENTENCE}"
        pair: Pair = {}
        order: list[int | None] = [None, *SUBSCRIBERS]
        random.Random(i).shuffle(order)
        for n in order:
            if n is None:
                pair["bare"] = await bench.bare.run([prompt], bench.settings.tokens)
            else:
                bench.app.n_subscribers = n
                pair[f"app {n}"] = await bench.app.run([prompt], bench.settings.tokens)
        return pair

    try:
        await bench.rounds("subscribers", round_)
    finally:
        bench.app.n_subscribers = bench.settings.subscribers


async def lookup(bench: Bench) -> None:
    """`lookup`: the app with prompt lookup and without, on a prompt that repeats itself."""

    async def round_(i: int) -> Pair:
        prompt = f"{i:03d}: " + f"{SENTENCE} " * 12
        pair: Pair = {}
        order = [0, LOOKUP]
        random.Random(i).shuffle(order)
        for n in order:
            extra: dict[str, object] = {"prompt_lookup_num_tokens": n} if n else {}
            pair["on" if n else "off"] = await bench.app.run([prompt], bench.settings.tokens, **extra)
        return pair

    try:
        await bench.rounds("lookup", round_)
    except TokenglassError as error:
        if error.code != "not_implemented":
            raise
        bench.records.notes.append(f"lookup was left out: {error.info.message}")


async def batch(bench: Bench) -> None:
    """`batch N`: N generations at once on every side."""
    for n in AT_ONCE:

        async def round_(i: int, n: int = n) -> Pair:
            prompts = [f"{i:03d} {n} {k}: {SENTENCE}" for k in range(n)]
            return {
                name: await side.run(prompts, bench.settings.tokens)
                for name, side in shuffled(bench.sides(), i)
            }

        await bench.rounds(f"batch {n}", round_)


async def prompts(bench: Bench) -> None:
    """`prompt N`: the first token after a prompt of N tokens that nobody has seen."""
    for n in PROMPTS:

        async def round_(i: int, n: int = n) -> Pair:
            prompt = await bench.prompt(n, f"{n} {i}")
            return {name: await side.run([prompt], FIRST_TOKENS) for name, side in shuffled(bench.sides(), i)}

        await bench.rounds(f"prompt {n}", round_)


async def turns(bench: Bench) -> None:
    """`turns`: a conversation of 2,000 tokens, then its second turn: `app 1`, `app 2`, and so on.

    The answer goes back as text, as every client sends it.
    """

    async def round_(i: int) -> Pair:
        pair: Pair = {}
        first = await bench.prompt(CONVERSATION - ANSWER, f"turns {i}")
        question = " And then? " + await bench.prompt(24, f"question {i}")
        for name, side in shuffled({k: v for k, v in bench.sides().items() if k in _TALKERS}, i):
            one = pair[f"{name} 1"] = await side.run([first], ANSWER)
            pair[f"{name} 2"] = await side.run([first + one.runs[0].text + question], FIRST_TOKENS)
        return pair

    await bench.rounds("turns", round_)


_TALKERS = ("app", "llama-server")
