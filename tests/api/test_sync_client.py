"""The client for plain code: no loop in sight, Ctrl-C works, no thread stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from api.client import Generation, LiveClient, NotRunningError, SyncClient, SyncGeneration, running_app
from api.paths import Paths
from engine.errors import TokenglassError
from engine.events import GenerationDelta, GenerationFinished
from tests.api.harness import HI
from tests.e2e.harness import ROOT, serve


def test_everything_a_script_does(tmp_path: Path) -> None:
    before = threading.active_count()
    with serve(tmp_path, "fake:tokens=30,delay_ms=2") as app:
        with SyncClient.discover(app.home, name="me") as client:
            assert client.hello["type"] == "hello"
            client.request("subscribe", events=["generation.*"])
            generation = client.generate(messages=HI)
            assert generation.id is None
            text = "".join(event.get("text", "") for event in generation if "tokens" in event)
            end = generation.finished()
            assert text == end["text"]
            assert generation.id == end["generation_id"]
            assert list(generation) == []
            seen = []
            for event in client.events():
                seen.append(event["type"])
                if event["type"] == "generation.finished":
                    break
            assert seen[0] == "generation.queued"
            with pytest.raises(TokenglassError, match="no command"):
                client.request("nonsense")
            assert client.lost is None
            assert client.position[0] == client.hello["run_id"]
        with pytest.raises(TokenglassError, match="closed"):
            client.request("ping")
        about = running_app(Paths.resolve(app.home))
        assert about is not None
        with SyncClient.connect(about["url"], about["token"], reconnect=False) as other:
            answer = other.generate(messages=HI)
            assert "".join(answer.text()) == answer.finished()["text"] != ""
            typed = list(other.generate(messages=HI).typed())
            assert isinstance(typed[-1], GenerationFinished)
            assert sum(len(event.tokens) for event in typed if isinstance(event, GenerationDelta)) == 30
            first = next(iter(other.typed_events()))  # subscribes to everything by itself
            assert first.type.startswith(("metrics.", "client."))
    assert settled(before)


def settled(n_threads: int) -> bool:
    """Whether no more threads are left than these, after a while."""
    end = time.monotonic() + 30
    while threading.active_count() > n_threads and time.monotonic() < end:
        time.sleep(0.01)
    return threading.active_count() == n_threads


def test_hands(tmp_path: Path) -> None:
    with serve(tmp_path, "fake:tokens=200,delay_ms=15") as app, SyncClient.discover(app.home) as client:
        generation = client.generate(messages=HI)
        at = generation.pause()["at_token"]
        generation.step(5)
        for event in generation:
            if event["type"] == "generation.paused" and event["at_token"] == at + 5:
                break
        assert generation.rewind(2)["at_token"] == at + 3
        assert generation.inject(" so")["at_token"] > at + 3
        assert generation.update(top_k=3)["sampling"]["top_k"] == 3
        branch = generation.fork(1)
        assert branch.start()["at_token"] == 1
        generation.resume()
        assert branch.finished()["finish_reason"] == "stop"
        generation.cancel()
        assert generation.finished()["finish_reason"] in ("stop", "cancelled")


def test_no_app(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(NotRunningError) as caught, SyncClient.discover(tmp_path):
        pass
    assert str(caught.value) == (
        "no Tokenglass is running for this home (start it with `tokenglass` or `tokenglass serve`)"
    )
    assert caught.value.code == "not_found"
    assert settled(before)


@pytest.mark.parametrize("wait", ["events()", "generate(prompt='x')"])
def test_ctrl_c_leaves_at_once(tmp_path: Path, wait: str) -> None:
    """While nothing comes, from the middle of a wait, with the script's own `finally` in force."""
    program = (
        "from api.client import SyncClient\n"
        f"with SyncClient.discover({str(tmp_path)!r}) as client:\n"
        "    client.request('subscribe', events=['log'])\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        f"        for event in client.{wait}: pass\n"
        "    finally:\n"
        "        print('done', client.request('ping')['seq'] > 0, flush=True)\n"
    )
    with serve(tmp_path, "fake:tokens=100000,delay_ms=50"):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=100)
        assert out == "done True\n"
        assert error.rstrip().endswith("KeyboardInterrupt")
        assert "Task" not in error
        assert process.returncode == -signal.SIGINT or process.returncode == 130


def test_the_two_faces_have_the_same_methods() -> None:
    """`SyncClient` leaves nothing out that a script may want."""

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    internal = {"batch", "start_generation", "ensure_subscribed"}
    assert public(LiveClient) - internal == public(SyncClient) - {"hello"}  # a plain attribute there
    assert public(Generation) - {"batch"} == public(SyncGeneration) - {"result"}
