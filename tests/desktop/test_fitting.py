"""desktop.fitting and its place in the window: a model that can't fit asks, an unloaded one is shown so."""

from __future__ import annotations

from typing import Any

import pytest

from desktop import fitting
from desktop.engine_status import EngineStatus
from engine.events import EngineExited, ModelUnloaded
from engine.fit import Estimate, Use
from tests.desktop.conftest import Drive, OpenWindow, until
from tests.desktop.test_window import SLOW, ask, message_box

GB = 1_000_000_000
HUGE = 1 << 24


def estimate(max_ctx: int = 8192, **more: Any) -> Estimate:
    use = Use(device="CPU", kind="cpu", memory_total=16 * GB, memory_free=12 * GB, layers=32, total=20 * GB)
    values: dict[str, Any] = {
        "fits": "no",
        "n_ctx": 32768,
        "n_slots": 4,
        "n_kv": 131072,
        "n_ubatch": 512,
        "n_layers": 32,
        "n_gpu_layers": 0,
        "tensor_split": [],
        "weights": 5 * GB,
        "kv_cache": 14 * GB,
        "state": 0,
        "compute": GB,
        "overhead": 100_000_000,
        "total": 20 * GB,
        "devices": [use],
        "max_ctx": max_ctx,
        "hints": ["a context of 8192 tokens fits", "2 slots instead of 4 fit"],
    }
    return Estimate(**(values | more))


def test_the_figures_in_words() -> None:
    first, free, hint = fitting.figures(estimate()).splitlines()
    assert first.startswith("For 4 chats at once with 32,768 tokens each it needs 20.0 GB: weights 5.0 GB, ")
    assert "state" not in first
    assert free == "12.0 GB are free."
    assert hint == "2 slots instead of 4 fit."
    assert fitting.smaller_context(estimate()) == "Load with a context of 8,192 tokens"
    assert fitting.smaller_context(estimate(0)) is None
    gpu = Use(device="CUDA0", kind="gpu", memory_total=8 * GB, memory_free=7 * GB, layers=9, total=9 * GB)
    two = fitting.figures(estimate(devices=[estimate().devices[0], gpu]))
    assert "CUDA0: 9.0 GB of 7.0 GB free." in two


def test_each_choice_decides(drive: Drive, qapp: object) -> None:
    async def choose(text: str, found: Estimate) -> fitting.Decision | None:
        import asyncio

        asking = asyncio.ensure_future(fitting.ask(None, "A model", found))
        box = await message_box()
        (button,) = [button for button in box.buttons() if button.text() == text]
        button.click()
        return await asking

    async def scenario() -> None:
        smaller = await choose("Load with a context of 8,192 tokens", estimate())
        assert smaller == fitting.Decision(ctx=8192)
        assert await choose(fitting.ANYWAY, estimate()) == fitting.Decision(force=True)
        assert await choose(fitting.KEEP, estimate(0)) is None

    drive(scenario())


def test_a_model_that_cant_fit_asks_and_loads_with_what_does(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model="starter", ctx=HUGE, wait=False) as controller:
            banner = controller.window.banner
            await until(lambda: "are free" in banner.text)
            assert controller.engine.state == "failed"
            banner.action_button.click()
            box = await message_box()
            assert "doesn't fit" in box.text()
            assert "are free" in box.informativeText()
            assert box.buttons()[0].text() == "Load with a context of 1,024 tokens"
            box.buttons()[0].click()
            await until(lambda: controller.engine.state == "ready")
            assert controller.engine.model is not None
            assert controller.engine.model.n_ctx == 1024
            assert banner.isHidden()

    drive(scenario())


def test_unloading_shows_that_nothing_is_loaded(
    drive: Drive, open_window: OpenWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            top = controller.window.top
            monkeypatch.setattr(top.menu, "popup", lambda *_: None)  # the offscreen platform warns of it
            top.show_models([], "fake")
            (unload,) = [action for action in top.menu.actions() if "Unload" in action.text()]
            unload.trigger()
            await until(lambda: controller.engine.state == "no_model")
            await until(lambda: controller.core.supervisor.worker_pid is None)
            assert top.model_button.text() == "No model ▾"
            assert "waits for a model" in controller.engine.words
            await controller.load_model("fake:tokens=3")
            await until(lambda: controller.engine.state == "ready")
            await ask(controller, "And now?")
            top.show_models([], None)
            assert not [action for action in top.menu.actions() if "Unload" in action.text()]

    drive(scenario())


def test_unloading_while_an_answer_runs_asks_first(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            await ask(controller, "A long one")
            await until(lambda: controller.engine.running)
            controller.window.top.unloadRequested.emit()
            box = await message_box()
            box.buttons()[1].click()
            await until(lambda: not box.isVisible())
            assert controller.engine.state == "ready"
            controller.window.top.unloadRequested.emit()
            box = await message_box()
            box.buttons()[0].click()
            await until(lambda: controller.engine.state == "no_model")

    drive(scenario())


def test_the_end_of_an_unloaded_models_worker_changes_nothing() -> None:
    engine = EngineStatus(epoch=1, state="ready")
    engine.feed(ModelUnloaded(model="m"))
    engine.feed(
        EngineExited(epoch=1, expected=True, exit_code=0, signal=None, log_tail="", will_restart=False)
    )
    assert engine.state == "no_model"
    engine.restore({"engine": {"state": "stopped", "epoch": 1}, "model": None})
    assert engine.state == "no_model"
