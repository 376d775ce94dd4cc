"""What latency is made of: a token's way to the client, and other people's prompts."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from itertools import pairwise
from pathlib import Path

from api.bench.parts import Bench, Progress, Records, Settings
from api.bench.samples import Pair, Run, Sample
from api.bench.sides import app
from engine import synthetic
from engine.errors import TokenglassError
from engine.types import SamplingParams

PACE = 200.0
"""Tokens per second at which a token's way from worker to client is measured."""
RUNNING = 3
LONG_PROMPT = 4000
UNLOADED = 200
"""Tokens of each running generation before the long prompt comes."""
SETTLED = 10
"""First tokens that aren't looked at."""


async def paced(settings: Settings, records: Records, progress: Progress, cache: Path, rate: float) -> None:
    """`delivery`: the app alone at about `PACE` tokens per second.

    A model that is faster than that (`rate`, tokens per second of the bare loop) is replaced by a synthetic
    one that has as many more weights.
    """
    if rate > 1.5 * PACE:
        millions = max(1, round(records.about["info"]["n_params"] * rate / PACE / 1e6))
        path = synthetic.provide(cache, f"{millions}M")
        records.notes.append(f"delivery was measured with {path.stem}, to have about {PACE:.0f} tokens/s")
    else:
        path = settings.model_path
    config = settings.config(4, 1024).model_copy(update={"model_path": str(path)})
    bias = dict.fromkeys(records.about["eog"] if path == settings.model_path else (synthetic.EOS,), -100.0)
    progress("delivery: starting")
    async with app(config, settings.window, SamplingParams(temperature=0, logit_bias=bias)) as side:
        side.n_subscribers = settings.subscribers
        for i in range(settings.pairs + 1):
            progress(f"delivery: run {i} of {settings.pairs}")
            sample = await side.run([f"{i:03d}: what do you see?"], settings.tokens)
            if i > 0:
                records.add("delivery", {"app": sample})


async def beside_a_prompt(bench: Bench) -> None:
    """`load`: three generations run, then a prompt of 4,000 tokens comes: what that does to their tokens.

    `unloaded` is before and after it, since decoding gets slower by itself as they grow longer. Both are by
    the worker's clock, those with `, client` by arrival.
    """

    async def round_(i: int) -> Pair:
        prompt = await bench.prompt(LONG_PROMPT, f"load {i}")
        n_tokens = bench.config.n_ctx - 200
        watched = [_Watched(bench, f"{i:03d} {k}: talk on", n_tokens) for k in range(RUNNING)]
        try:
            await asyncio.gather(*(one.reach(UNLOADED) for one in watched))
            start = time.monotonic()
            long = await bench.app.generate(prompt, 2)
            end = long.times[0]
            await asyncio.gather(*(one.reach(len(one.sampled) + UNLOADED) for one in watched))
        finally:
            await asyncio.gather(*(one.stop() for one in watched))
        return {
            "unloaded": Sample(_without([one.sampled for one in watched], start, end)),
            "loaded": Sample([_part(one.sampled, start, end) for one in watched]),
            "unloaded, client": Sample(_without([one.arrived for one in watched], start, end)),
            "loaded, client": Sample([_part(one.arrived, start, end) for one in watched]),
            "prompt": Sample([long]),
        }

    await bench.rounds("load", round_)


class _Watched:
    """A generation that runs until it is stopped."""

    def __init__(self, bench: Bench, prompt: str, n_tokens: int) -> None:
        self.sampled: list[float] = []
        self.arrived: list[float] = []
        self._generation = bench.app.client.generate(
            prompt=prompt,
            max_tokens=n_tokens,
            sampling=bench.app.sampling.model_dump(exclude_none=True),
        )
        self._came = asyncio.Condition()
        self._over = False
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async for event in self._generation:
                if event["type"] == "generation.delta":
                    now = time.monotonic()
                    self.sampled += [token["t"] for token in event["tokens"]]
                    self.arrived += [now] * len(event["tokens"])
                    async with self._came:
                        self._came.notify_all()
        finally:
            self._over = True
            async with self._came:
                self._came.notify_all()

    async def reach(self, n_tokens: int) -> None:
        """Wait until it has so many tokens, or has ended."""
        async with self._came:
            await self._came.wait_for(lambda: self._over or len(self.sampled) >= n_tokens)

    async def stop(self) -> None:
        """End it. What went wrong with it, if anything did, is raised by whoever waits for the prompt."""
        with contextlib.suppress(TokenglassError):
            await self._generation.cancel()
            await self._task


def _without(runs: list[list[float]], start: float, end: float) -> list[Run]:
    """What runs had before the start, and after the end."""
    before = [_part(times[SETTLED:], 0, start) for times in runs]
    after = [_part([t for t in times if t >= end], end, math.inf) for times in runs]
    return before + [run for run in after if run.times]


def _part(times: list[float], start: float, end: float) -> Run:
    """Tokens with which the time from start to end was spent: all of that time, with the gaps it is in."""
    kept = [after for before, after in pairwise(times) if after > start and before < end]
    first = [before for before, after in pairwise(times) if after > start and before < end][:1]
    return Run(start, [*first, *kept])
