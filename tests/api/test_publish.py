"""A client's own series on everybody's time axis."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from api import clients
from api.clients import Allowance
from tests.api.harness import CommandError, app, client, rises, run


def test_everybody_sees_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path) as core, client(core) as one, client(core, "?name=loss") as other:
            await one.command("subscribe", events=["metrics.custom"])
            before = time.monotonic()
            result = await other.command("publish", series="train/loss 1", value=0.25, unit="nats")
            await other.command("publish", series="n", value=-3)
            first = await one.event("metrics.custom", series="train/loss 1")
            second = await one.event("metrics.custom", series="n")
            assert before <= first["t"] == result["t"] <= time.monotonic()
            assert (first["value"], first["unit"], second["value"], second["unit"]) == (0.25, "nats", -3, "")
            hello = other.frames[0]
            assert first["client_id"] == second["client_id"] == hello["client_id"]

    run(body())


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"series": "", "value": 1}, "series"),
        ({"series": "x" * 65, "value": 1}, "series"),
        ({"series": "a\nb", "value": 1}, "series"),
        ({"series": "a\n", "value": 1}, "series"),
        ({"series": "<b>", "value": 1}, "series"),
        ({"series": " a", "value": 1}, "series"),
        ({"series": "a"}, "value"),
        ({"series": "a", "value": "1"}, "value"),
        ({"series": "a", "value": True}, "value"),
        ({"series": "a", "value": 1, "unit": "x" * 17}, "unit"),
        ({"series": "a", "value": 1, "unit": "\x1b[2J"}, "unit"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: dict[str, Any], path: str) -> None:
    async def body() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            with pytest.raises(CommandError) as caught:
                await wire.command("publish", **arguments)
            assert (caught.value.code, caught.value.error["path"]) == ("invalid_argument", path)
            await wire.connection.send('{"id": 99, "type": "publish", "series": "a", "value": 1e999}')
            refused = await wire.until(lambda frame: frame["type"] == "reply" and frame["id"] is None)
            assert refused["error"]["code"] == "invalid_json"

    run(body())


def test_too_often_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an allowance that doesn't fill up by itself: a slow machine might publish no faster than that."""
    monkeypatch.setattr(clients, "PUBLISH_PER_S", 1e-9)

    async def body() -> None:
        async with app(tmp_path) as core, client(core) as one, client(core) as other:
            await one.command("subscribe", events=["metrics.custom"])
            published = busy = 0
            while not busy:
                try:
                    await other.command("publish", series="fast", value=published)
                    published += 1
                except CommandError as error:
                    busy += error.code == "busy"
            assert published == clients.PUBLISH_BURST
            await one.command("publish", series="mine", value=1)  # each client has its own allowance
            await one.event("metrics.custom", series="mine")
            values = [frame["value"] for frame in one.events() if frame["series"] == "fast"]
            assert values == list(range(published)), "none is merged or replaced"
            assert rises(one.events())
            for client_ in core.clients._connected.values():
                client_.publishing.per_s = 1e6
            await other.command("publish", series="fast", value=0)

    run(body())


def test_the_allowance_fills_up_again() -> None:
    allowance = Allowance(10.0, 3.0)
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(100.05)
    assert allowance.take(100.11)
    assert not allowance.take(100.12)
    assert [allowance.take(200.0) for _ in range(4)] == [True, True, True, False]
