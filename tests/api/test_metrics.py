"""`/metrics`: what is told follows from the events, in a form that Prometheus reads."""

import re
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bus import EventBus
from api.metrics import CONTENT_TYPE, LATENCY_S, Histogram, Metrics
from api.state import State
from engine.events import (
    ClientConnected,
    ClientDisconnected,
    EngineExited,
    GenerationDelta,
    GpuMetrics,
    SystemMetrics,
)
from tests.api.harness import TOKEN, WAIT_S, app, client, run

LINE = re.compile(r'(tokenglass_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')


def read(text: str) -> dict[str, float]:
    """The samples by name and labels; a line that isn't Prometheus' fails."""
    samples: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = LINE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert kinds.get(name, kinds.get(family)), line
            key = f"{name}{{{labels}}}" if labels else name
            assert key not in samples
            samples[key] = float(value)
    assert all(kind == "counter" for name, kind in kinds.items() if name.endswith("_total"))
    return samples


@given(st.lists(st.floats(0, 10)))
def test_a_histogram_counts_what_lies_below_each_bound(values: list[float]) -> None:
    histogram = Histogram(LATENCY_S)
    for value in values:
        histogram.observe(value)
    told = dict(line.rsplit(" ", 1) for line in histogram.lines("x"))
    for bound in LATENCY_S:
        assert int(told[f'x_bucket{{le="{bound}"}}']) == sum(value <= bound for value in values)
    assert int(told['x_bucket{le="+Inf"}']) == int(told["x_count"]) == len(values)
    assert float(told["x_sum"]) == pytest.approx(sum(values))


def test_what_is_folded() -> None:
    bus, state = EventBus(), State()
    metrics = Metrics(state)
    bus.add_fold(metrics.fold)
    for reason in ("slow", "closed"):
        bus.publish(ClientConnected(client_id=reason, name='a "name"', origin="live"))
        bus.publish(ClientDisconnected(client_id=reason, name="", reason=reason))
    bus.publish(ClientConnected(client_id="stays", name="", origin="window"))
    times = (1.0, 1.004, 1.024)
    for index, t in enumerate(times):
        token = {"id": 1, "index": index, "text": "x", "t": t}
        bus.publish(GenerationDelta(generation_id="g", text="x", tokens=[token]))
    bus.publish(
        EngineExited(epoch=1, expected=False, exit_code=-6, signal="SIGABRT", log_tail="", will_restart=True)
    )
    gpu = GpuMetrics(
        name='G "1"', load_percent=50.0, memory_used=7, memory_total=9, temperature_c=None, power_w=None
    )
    bus.publish(
        SystemMetrics(
            cpu_percent=25,
            app_cpu_percent=150,
            worker_cpu_percent=100,
            ram_used=1,
            ram_total=2,
            app_rss=3,
            worker_rss=4,
            gpus=[gpu],
        )
    )
    told = read(metrics.text())
    assert told["tokenglass_clients_cut_total"] == 1
    assert told["tokenglass_clients_connected_total"] == 3
    assert told['tokenglass_clients{origin="live"}'] == 0
    assert told['tokenglass_clients{origin="window"}'] == 1
    assert told["tokenglass_completion_tokens_total"] == 3
    assert told["tokenglass_inter_token_latency_seconds_count"] == 2
    assert told['tokenglass_inter_token_latency_seconds_bucket{le="0.005"}'] == 1
    assert told["tokenglass_engine_deaths_total"] == 1
    assert told['tokenglass_process_cpu_cores{process="app"}'] == 1.5
    assert told['tokenglass_gpu_load_ratio{gpu="0",name="G \\"1\\""}'] == 0.5
    assert not any("temperature" in name for name in told)


def test_a_running_app(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, "fake:tokens=30,slots=2") as core,
            client(core) as wire,
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=WAIT_S) as http,
        ):
            for _ in range(3):
                await wire.finished(await wire.generate())
            await wire.finished(await wire.generate(max_tokens=10))
            address = core.base_url.replace("/v1", "/metrics")
            answer = await http.get(address)
            assert answer.headers["content-type"] == CONTENT_TYPE
            told = read(answer.text)
            assert told['tokenglass_generations_total{origin="live",finish_reason="stop"}'] == 3
            assert told['tokenglass_generations_total{origin="live",finish_reason="length"}'] == 1
            assert told["tokenglass_completion_tokens_total"] == 100
            assert told["tokenglass_time_to_first_token_seconds_count"] == 4
            assert told["tokenglass_inter_token_latency_seconds_count"] == 96
            assert told["tokenglass_generations_running"] == 0
            assert told["tokenglass_slots"] == 2
            assert told["tokenglass_engine_ready"] == 1
            assert told['tokenglass_model_info{model="fake"}'] == 1
            assert 0 < told["tokenglass_kv_used_tokens"] < told["tokenglass_kv_total_tokens"]
            assert (await http.get(address, headers={"Authorization": "Bearer x"})).status_code == 401

    run(test())
