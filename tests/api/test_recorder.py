import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from api import history as history_module
from api import recorder as recorder_module
from api.bus import Envelope, EventBus
from api.client import LiveClient
from api.history import History
from api.recorder import Recorder
from engine.errors import ErrorInfo
from engine.events import (
    ConversationChanged,
    ConversationMessage,
    Event,
    GenerationDelta,
    GenerationFinished,
    GenerationQueued,
    LogLine,
    ReasoningDelta,
)
from engine.types import FinishReason, Timings, Usage
from tests.api.harness import ENDLESS, app, eventually, run

ROOT = Path(__file__).resolve().parents[2]


def queued(generation_id: str, message_id: str | None) -> GenerationQueued:
    return GenerationQueued(
        generation_id=generation_id,
        client_id="c",
        client_name="n",
        origin="window",
        model="m",
        message_id=message_id,
    )


def delta(generation_id: str, text: str) -> GenerationDelta:
    return GenerationDelta(generation_id=generation_id, text=text, tokens=[])


def finished(generation_id: str, text: str, reason: FinishReason = "stop") -> GenerationFinished:
    return GenerationFinished(
        generation_id=generation_id,
        finish_reason=reason,
        text=text,
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
        timings=Timings(),
        error=ErrorInfo(code="engine_lost", message="gone") if reason == "error" else None,
    )


class Setup:
    def __init__(self, history: History) -> None:
        self.history = history
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.add_fold(self._keep)
        self.recorder = Recorder(history, self.bus.publish)
        self.bus.add_fold(self.recorder.fold)

    def _keep(self, envelope: Envelope) -> None:
        self.events.append(envelope.event)

    def got(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        await eventually(condition)


def test_an_answer_is_written_as_it_streams_and_announced_when_stored(tmp_path: Path) -> None:
    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        history, bus = setup.history, setup.bus
        key = (await history.create())["id"]
        _, answer = await history.add_turn(key, "q", "g", "m")
        bus.publish(queued("g", answer["id"]))
        bus.publish(ReasoningDelta(generation_id="g", text="hmm ", tokens=[]))
        bus.publish(delta("g", "Hel"))
        bus.publish(delta("other", "not ours"))
        bus.publish(delta("g", "lo"))
        stored = await history.message(answer["id"])
        assert (stored["content"], stored["reasoning"], stored["status"]) == ("Hello", "hmm ", "streaming")
        bus.publish(finished("g", "Hello."))
        assert setup.got(ConversationMessage) == []
        await setup.until(lambda: len(setup.got(ConversationChanged)) == 1)
        (event,) = setup.got(ConversationMessage)
        assert isinstance(event, ConversationMessage)
        assert event.message == await history.message(answer["id"])
        assert (event.message["status"], event.message["content"]) == ("complete", "Hello.")
        (changed,) = setup.got(ConversationChanged)
        assert isinstance(changed, ConversationChanged)
        assert changed.type == "conversation.updated"
        assert changed.conversation == await history.conversation(key)
        await history.close()

    run(body())


def test_generations_without_a_conversation_leave_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        setup.bus.publish_all([queued("g", None), delta("g", "x"), finished("g", "x")])
        assert await setup.history.list() == []
        await asyncio.sleep(0.05)
        assert setup.got(ConversationMessage) == []
        await setup.history.close()

    run(body())


def test_a_crash_keeps_the_text(tmp_path: Path) -> None:
    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        key = (await setup.history.create())["id"]
        _, answer = await setup.history.add_turn(key, "q", "g", "m")
        setup.bus.publish_all([queued("g", answer["id"]), delta("g", "half"), finished("g", "", "error")])
        await setup.until(lambda: len(setup.got(ConversationMessage)) == 1)
        message = await setup.history.message(answer["id"])
        assert (message["status"], message["content"]) == ("error", "half")
        assert message["error"]["code"] == "engine_lost"
        await setup.history.close()

    run(body())


def test_what_ends_right_before_closing_is_stored(tmp_path: Path) -> None:
    answers: list[str] = []

    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        for number in range(5):
            key = (await setup.history.create())["id"]
            _, answer = await setup.history.add_turn(key, "q", f"g{number}", "m")
            answers.append(answer["id"])
            setup.bus.publish(queued(f"g{number}", answer["id"]))
        for number in range(5):
            setup.bus.publish(finished(f"g{number}", "the end", "cancelled"))
        await setup.history.close()

    async def later() -> None:
        history = await History.open(tmp_path / "h.db")
        for answer in answers:
            message = await history.message(answer)
            assert (message["status"], message["content"]) == ("cancelled", "the end")
        await history.close()

    run(body())
    run(later())


def test_a_deleted_conversation_is_not_announced(tmp_path: Path) -> None:
    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        key = (await setup.history.create())["id"]
        _, answer = await setup.history.add_turn(key, "q", "g", "m")
        setup.bus.publish(queued("g", answer["id"]))
        await setup.history.delete(key)
        setup.bus.publish(finished("g", "late"))
        await setup.history.restore(key)
        await asyncio.sleep(0.05)
        assert (await setup.history.message(answer["id"]))["content"] == "late"
        await setup.history.close()

    run(body())


def test_a_partial_answer_survives_kill_9_of_the_app(tmp_path: Path) -> None:
    """Through the whole app: what a client saw a second ago is there after the next start."""
    serve = [sys.executable, "-m", "api.cli", "--home", str(tmp_path), "serve", "--port", "0", "--model"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*serve, ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    seen: dict[str, str] = {}

    async def before() -> None:
        async with LiveClient.discover(tmp_path) as client:
            created = await client.request("conversations.create")
            seen["conversation"] = created["conversation"]["id"]
            text, until = "", 0.0
            async for event in client.generate(conversation_id=seen["conversation"], content="go"):
                if event["type"] == "generation.delta":
                    text += event["text"]
                    if not until and len(text) > 100:
                        seen["text"] = text
                        until = time.monotonic() + 3
                    if until and time.monotonic() > until:
                        break

    async def after() -> None:
        async with app(tmp_path), LiveClient.discover(tmp_path) as client:
            data = await client.request("conversations.get", conversation_id=seen["conversation"])
            user, answer = data["messages"]
            assert (user["content"], user["status"]) == ("go", "complete")
            assert answer["status"] == "interrupted"
            assert answer["content"].startswith(seen["text"])
            (listed,) = (await client.request("conversations.list"))["conversations"]
            assert listed["title"] == "go"

    try:
        run(before())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    run(after())


def test_a_full_disk_is_told_once_and_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.05)
    monkeypatch.setattr(history_module, "RETRY_S", 0.05)

    async def body() -> None:
        setup = Setup(await History.open(tmp_path / "h.db"))
        history = setup.history
        key = (await history.create())["id"]
        _, answer = await history.add_turn(key, "q", "g", "m")

        def pages(number: int) -> Callable[..., None]:
            return lambda store: store.db.execute(f"PRAGMA max_page_count = {number}")

        await history._do(pages(1))
        setup.bus.publish(queued("g", answer["id"]))
        setup.bus.publish(delta("g", "x" * 50_000))
        await setup.until(lambda: len(setup.got(LogLine)) == 1)
        setup.bus.publish(finished("g", "y" * 60_000))
        await asyncio.sleep(0.3)
        (line,) = setup.got(LogLine)
        assert isinstance(line, LogLine)
        assert line.level == "error"
        assert "no space left" in line.message
        assert setup.got(ConversationMessage) == []
        await history._do(pages(1_000_000))
        await setup.until(lambda: len(setup.got(ConversationMessage)) == 1)
        assert (await history.message(answer["id"]))["content"] == "y" * 60_000
        assert [line.level for line in setup.got(LogLine) if isinstance(line, LogLine)] == ["error", "info"]
        await history.close()

    run(body())
