from typing import Any

from api.bus import EventBus
from api.state import MAX_FINISHED, State
from engine.errors import ErrorInfo
from engine.events import (
    ClientConnected,
    ClientDisconnected,
    ClientMetrics,
    ClientTraffic,
    EngineExited,
    EngineRestarting,
    EngineStarted,
    GenerationDelta,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
    LogLine,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    PromptProgress,
    ReasoningDelta,
    StepMetrics,
    SystemMetrics,
    ToolCallDelta,
    ToolCallDone,
)
from engine.types import ModelInfo, Timings, Token, ToolCall, Usage

INFO = ModelInfo(
    id="m", name="M", architecture="llama", size_bytes=1, n_params=1, n_vocab=1, n_ctx_train=1, n_ctx=1,
    n_slots=1, n_threads=1, n_gpu_layers=0, devices=[], has_chat_template=True, load_ms=1,
)  # fmt: skip


def make() -> tuple[EventBus, State]:
    bus, state = EventBus(), State()
    bus.add_fold(state.fold)
    return bus, state


def token(index: int, t: float) -> Token:
    return {"id": 1, "index": index, "text": "x", "t": t}


def queued(generation_id: str = "g") -> GenerationQueued:
    return GenerationQueued(
        t=10.0,
        generation_id=generation_id,
        client_id="c",
        client_name="n",
        origin="live",
        model="m",
        input="hi",
    )


def started() -> GenerationStarted:
    return GenerationStarted(
        t=10.5, generation_id="g", client_id="c", origin="live", model="m", prompt_tokens=7, cached_tokens=3,
        slot=1, seed=5,
    )  # fmt: skip


def finished(generation_id: str = "g") -> GenerationFinished:
    return GenerationFinished(
        generation_id=generation_id,
        finish_reason="stop",
        text="",
        usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0),
        timings=Timings(),
    )


def exited(
    *, expected: bool, will_restart: bool, epoch: int = 1, error: ErrorInfo | None = None
) -> EngineExited:
    return EngineExited(
        epoch=epoch, expected=expected, exit_code=-9, signal="SIGKILL", log_tail="",
        will_restart=will_restart, error=error,
    )  # fmt: skip


def only(state: State) -> dict[str, Any]:
    (generation,) = state.snapshot()["generations"]
    assert isinstance(generation, dict)
    return generation


def test_a_generation_grows_with_its_events() -> None:
    bus, state = make()
    bus.publish(queued())
    assert (only(state)["state"], only(state)["input"], only(state)["text"]) == ("queued", "hi", "")
    call = ToolCall(id="t", name="clock", arguments="{}")
    bus.publish_all(
        [
            started(),
            PromptProgress(generation_id="g", done=5, total=7),
            ReasoningDelta(generation_id="g", text="hm", tokens=[token(0, 11.0)]),
            GenerationDelta(generation_id="g", text="Hel", tokens=[token(1, 11.5)]),
            GenerationDelta(generation_id="g", text="lo", tokens=[]),
            ToolCallDelta(generation_id="g", call_id="t", text="<", tokens=[token(2, 12.0)]),
            ToolCallDelta(generation_id="g", call_id="t", text="{", tokens=[], name="clock", arguments="{"),
        ]
    )
    assert only(state)["open_call"] == {"id": "t", "name": "clock", "text": "<{", "arguments": "{"}
    bus.publish(ToolCallDone(generation_id="g", call=call))
    assert only(state)["open_call"] is None
    shown = only(state)
    assert (shown["state"], shown["prompt_done"], shown["prompt_total"]) == ("running", 5, 7)
    assert (shown["text"], shown["reasoning"], shown["completion_tokens"]) == ("Hello", "hm", 3)
    assert shown["tool_calls"] == [{"id": "t", "name": "clock", "arguments": "{}"}]
    assert (shown["slot"], shown["seed"], shown["cached_tokens"]) == (1, 5, 3)
    assert (shown["first_token_t"], shown["last_token_t"]) == (11.0, 12.0)
    generation = state.generations["g"]
    assert generation.usage() == Usage(prompt_tokens=7, cached_tokens=3, completion_tokens=3)
    assert generation.timings() == Timings(
        queue_ms=500.0,
        prefill_ms=500.0,
        ttft_ms=1000.0,
        decode_ms=1000.0,
        tokens_per_second=2.0,
        itl_p50_ms=500.0,
        itl_p99_ms=500.0,
    )
    bus.publish(finished())
    assert state.snapshot()["generations"] == []
    assert "g" in state.finished


def test_a_generation_that_never_started_has_no_timings() -> None:
    bus, state = make()
    bus.publish(queued())
    assert state.generations["g"].timings() == Timings()
    assert state.generations["g"].usage().prompt_tokens == 0


def test_events_of_unknown_generations_are_ignored() -> None:
    bus, state = make()
    call = ToolCall(id="t", name="clock", arguments="{}")
    bus.publish_all(
        [
            started(),
            PromptProgress(generation_id="g", done=5, total=7),
            ReasoningDelta(generation_id="g", text="hm", tokens=[]),
            GenerationDelta(generation_id="g", text="x", tokens=[]),
            ToolCallDelta(generation_id="g", call_id="t", text="{", tokens=[]),
            ToolCallDone(generation_id="g", call=call),
            LogLine(level="info", message="x"),
        ]
    )
    assert state.snapshot()["generations"] == []


def test_finished_ids_are_remembered_up_to_a_limit() -> None:
    bus, state = make()
    for number in range(MAX_FINISHED + 5):
        bus.publish(finished(f"g{number}"))
    assert len(state.finished) == MAX_FINISHED
    assert "g0" not in state.finished
    assert f"g{MAX_FINISHED + 4}" in state.finished


def test_the_engine_from_start_to_ready() -> None:
    bus, state = make()
    assert state.snapshot()["engine"] == {"state": "stopped", "epoch": 0, "pid": None, "error": None}
    bus.publish(EngineStarted(epoch=1, pid=42))
    bus.publish(ModelLoading(model="m", progress=0.5))
    snapshot = state.snapshot()
    assert snapshot["engine"] == {"state": "loading", "epoch": 1, "pid": 42, "error": None}
    assert snapshot["loading"] == {"model": "m", "progress": 0.5}
    bus.publish(ModelLoaded(model="m", info=INFO))
    snapshot = state.snapshot()
    assert (snapshot["engine"]["state"], snapshot["loading"]) == ("ready", None)
    assert snapshot["model"]["id"] == "m"
    bus.publish(ModelUnloaded(model="m"))
    assert state.snapshot()["model"] is None
    bus.publish(exited(expected=True, will_restart=False))
    assert state.snapshot()["engine"] == {"state": "stopped", "epoch": 1, "pid": None, "error": None}


def test_a_death_and_a_restart() -> None:
    bus, state = make()
    bus.publish_all([EngineStarted(epoch=1, pid=42), ModelLoaded(model="m", info=INFO)])
    bus.publish(exited(expected=False, will_restart=True))
    assert state.engine == "restarting"
    assert state.model is None
    bus.publish(EngineRestarting(attempt=1, delay_s=0.1))
    assert state.engine == "restarting"
    bus.publish_all([EngineStarted(epoch=2, pid=43), ModelLoaded(model="m", info=INFO)])
    assert (state.engine, state.epoch, state.error) == ("ready", 2, None)


def test_too_many_deaths() -> None:
    bus, state = make()
    error = ErrorInfo(code="engine_failed", message="it ended often", hint="load another")
    bus.publish(exited(expected=False, will_restart=False, error=error))
    engine = state.snapshot()["engine"]
    assert (engine["state"], engine["error"]) == ("failed", error.model_dump())


def test_the_end_of_a_replaced_worker_changes_nothing() -> None:
    bus, state = make()
    bus.publish_all([EngineStarted(epoch=2, pid=43), ModelLoaded(model="m", info=INFO)])
    bus.publish(exited(expected=True, will_restart=False, epoch=1))
    assert (state.engine, state.pid, state.model) == ("ready", 43, INFO)


def test_a_failed_load_stays_visible_after_the_worker_left() -> None:
    bus, state = make()
    error = ErrorInfo(code="model_damaged", message="cut short")
    bus.publish_all([EngineStarted(epoch=1, pid=42), ModelFailed(model="m", error=error)])
    bus.publish(exited(expected=True, will_restart=False))
    assert state.snapshot()["engine"] == {
        "state": "failed",
        "epoch": 1,
        "pid": None,
        "error": {"code": "model_damaged", "message": "cut short", "path": None, "hint": None},
    }


def test_clients_and_metrics() -> None:
    bus, state = make()
    step = StepMetrics(
        batch_size=2, prefill_tokens=0, decode_tokens=2, pre_ms=0, decode_ms=1, sample_ms=0, emit_ms=0,
        kv_used=1, kv_total=9, waiting=0,
    )  # fmt: skip
    system = SystemMetrics(
        cpu_percent=1, app_cpu_percent=1, worker_cpu_percent=1, ram_used=1, ram_total=2, app_rss=1,
        worker_rss=1, gpus=[],
    )  # fmt: skip
    bus.publish_all([step, system, ClientConnected(client_id="c", name="n", origin="live")])
    snapshot = state.snapshot()
    assert snapshot["metrics"]["step"]["batch_size"] == 2
    assert snapshot["metrics"]["system"]["ram_total"] == 2
    (row,) = snapshot["clients"]
    quiet = {"bytes_per_s": 0, "events_per_s": 0, "backlog_bytes": 0, "behind": 0, "merged": 0, "cuts": 0}
    assert row == {"client_id": "c", "name": "n", "origin": "live"} | quiet
    told = {"bytes_per_s": 9.0, "events_per_s": 2.0, "backlog_bytes": 5, "behind": 4, "merged": 3, "cuts": 1}
    bus.publish(ClientMetrics(clients=[ClientTraffic(client_id="c", **told)]))
    assert state.snapshot()["clients"] == [row | told]
    bus.publish(ClientMetrics(clients=[]))
    assert state.snapshot()["clients"] == [row | {"merged": 3, "cuts": 1}]
    bus.publish(ClientDisconnected(client_id="c", name="n", reason="closed"))
    assert state.snapshot()["clients"] == []
