"""Hand-made events for the tests of the window's parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.bus import Envelope
from engine.events import (
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
    GpuMetrics,
    StepMetrics,
    SystemMetrics,
)
from engine.types import FinishReason, ModelInfo, Timings, Token, Usage

INFO = ModelInfo(
    id="starter",
    name="Tokenglass Starter",
    architecture="llama",
    size_bytes=8_000_000,
    n_params=7_500_000,
    n_vocab=4096,
    n_ctx_train=2048,
    n_ctx=2048,
    n_slots=4,
    n_threads=1,
    n_gpu_layers=0,
    devices=[],
    has_chat_template=True,
    load_ms=120.0,
)
GPU = GpuMetrics(
    name="GPU", load_percent=81.0, memory_used=9_100_000_000, memory_total=12_000_000_000,
    temperature_c=60.0, power_w=214.0,
)  # fmt: skip


def enveloped(events: Iterable[Event], first: int = 1) -> list[Envelope]:
    return [Envelope(seq, event, seq) for seq, event in enumerate(events, first)]


def queued(generation_id: str, t: float, client_id: str = "client", **values: Any) -> GenerationQueued:
    values = {"client_name": "watch.py", "origin": "live", "model": "starter", "input": "hi"} | values
    return GenerationQueued(t=t, generation_id=generation_id, client_id=client_id, **values)


def started(generation_id: str, t: float, prompt_tokens: int = 40) -> GenerationStarted:
    return GenerationStarted(
        t=t,
        generation_id=generation_id,
        client_id="client",
        origin="live",
        model="starter",
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        slot=0,
        seed=1,
    )


def delta(generation_id: str, times: Iterable[float], first: int = 0) -> GenerationDelta:
    tokens = [Token(id=1, index=index, text="x", t=t) for index, t in enumerate(times, first)]
    return GenerationDelta(
        t=tokens[-1]["t"], generation_id=generation_id, text="x" * len(tokens), tokens=tokens
    )


def finished(
    generation_id: str, t: float, reason: FinishReason = "stop", **timings: float
) -> GenerationFinished:
    return GenerationFinished(
        t=t,
        generation_id=generation_id,
        finish_reason=reason,
        text="x",
        usage=Usage(prompt_tokens=40, cached_tokens=0, completion_tokens=3),
        timings=Timings(**timings),
    )


def step(t: float, kv_used: int, batch_size: int = 1) -> StepMetrics:
    return StepMetrics(
        t=t,
        batch_size=batch_size,
        prefill_tokens=0,
        decode_tokens=batch_size,
        pre_ms=0.1,
        decode_ms=10.0,
        sample_ms=0.1,
        emit_ms=0.1,
        kv_used=kv_used,
        kv_total=8192,
        waiting=0,
    )


def system(t: float, cpu: float = 40.0, gpus: list[GpuMetrics] | None = None) -> SystemMetrics:
    return SystemMetrics(
        t=t,
        cpu_percent=cpu,
        app_cpu_percent=4.0,
        worker_cpu_percent=88.0,
        ram_used=8_000_000_000,
        ram_total=24_000_000_000,
        app_rss=142_000_000,
        worker_rss=61_000_000,
        gpus=gpus or [],
    )
