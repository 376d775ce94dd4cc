"""The real window on a real core with the fake backend: what a person does, and what then can be seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QGuiApplication
from websockets.asyncio.client import ClientConnection, connect

from api.bus import Envelope
from desktop import theme
from desktop.banner import Banner
from desktop.chat.model import Turn
from desktop.controller import Controller
from engine.events import ConversationChanged
from tests.desktop.conftest import WAIT_S, Drive, OpenWindow, until

pytestmark = pytest.mark.qt_log_ignore("This plugin does not support grabbing the keyboard", extend=True)

SLOW = "fake:tokens=1000000,delay_ms=10,ctx=2000000"
"""Its answers last until somebody stops them, however slow the machine."""


@asynccontextmanager
async def websocket(controller: Controller, name: str) -> AsyncIterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {controller.core.token}"}
    url = f"{controller.core.url}?name={name}"
    # it takes in everything, so that events which a test doesn't read can't hold up the closing
    async with connect(
        url,
        additional_headers=headers,
        proxy=None,
        compression=None,
        max_queue=None,
        open_timeout=WAIT_S,
        ping_timeout=None,
    ) as client:
        assert json.loads(await client.recv())["type"] == "hello"
        yield client


async def request(client: ClientConnection, **command: Any) -> dict[str, Any]:
    await client.send(json.dumps({"id": 1, **command}))
    async for frame in client:
        reply: dict[str, Any] = json.loads(frame)
        if reply["type"] == "reply":
            assert reply["ok"], reply
            result: dict[str, Any] = reply["result"]
            return result
    raise AssertionError("the connection was closed")


def turns(controller: Controller) -> tuple[Turn, ...]:
    return tuple(controller.window.chat.model.turns)


def answered(controller: Controller, count: int = 2) -> bool:
    shown = turns(controller)
    return len(shown) == count and shown[-1].status != "streaming"


async def ask(controller: Controller, text: str) -> None:
    """Type and send, as a person would."""
    composer = controller.window.chat.composer
    composer.set_text(text)
    composer.sendRequested.emit(text)


def test_a_sent_message_is_answered_kept_and_listed(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            await ask(controller, "What is a token?")
            await until(lambda: answered(controller))
            user, answer = turns(controller)
            assert (user.role, user.text) == ("user", "What is a token?")
            assert answer.text
            assert answer.status == "complete"
            sidebar = controller.window.sidebar
            await until(lambda: sidebar.model.rowCount() == 1)
            assert sidebar.model.conversation(0)["title"] == "What is a token?"
            stored = await controller.client.request(
                "conversations.get", conversation_id=sidebar.model.conversation(0)["id"]
            )
            assert stored["messages"][-1]["content"] == answer.text

    drive(scenario())


def test_stop_ends_the_answer_and_keeps_what_is_written(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            await ask(controller, "Go on and on")
            await until(lambda: len(turns(controller)) == 2 and len(turns(controller)[-1].text) > 20)
            assert controller.window.status.engine.text == "engine generating"
            controller.window.chat.composer.stopRequested.emit()
            await until(lambda: answered(controller))
            assert turns(controller)[-1].status == "cancelled"
            assert len(turns(controller)[-1].text) > 20
            await until(lambda: controller.window.status.engine.text == "engine ready")

    drive(scenario())


def test_regenerate_gives_a_second_variant(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            await ask(controller, "Once more")
            await until(lambda: answered(controller))
            first = turns(controller)[-1].id
            controller.window.chat.regenerateRequested.emit(turns(controller)[0].id)
            await until(lambda: answered(controller) and turns(controller)[-1].id != first)
            assert len(turns(controller)[-1].variants) == 2
            controller.window.chat.variantRequested.emit(first)
            await until(lambda: turns(controller)[-1].id == first)

    drive(scenario())


def test_other_clients_generations_appear_live_with_their_name(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller, websocket(controller, "watch.py") as client:
            live = controller.window.sidebar.live
            assert live.isHidden()
            result = await request(client, type="generate", prompt="From a script")
            await until(lambda: not live.isHidden())
            assert "watch.py" in live.words
            assert "running" in live.words
            live.clicked.emit()
            await until(lambda: len(turns(controller)) == 2 and turns(controller)[-1].text)
            assert turns(controller)[0].text == "From a script"
            assert "watch.py" in {turn.client_name for turn in turns(controller)}
            names = dict(controller.window.panel.clients.lines())  # type: ignore[union-attr]  # it is there
            assert names["watch.py"] == "1 running"
            await request(client, type="cancel", generation_id=result["generation_id"])
            await until(lambda: answered(controller))
            assert turns(controller)[-1].generation_id == result["generation_id"]
            await until(lambda: live.words == "watch.py · 1 answer")

    drive(scenario())


def single(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Events one by one: those that are never merged as they are, and each generation's tokens in order."""
    alone: list[dict[str, Any]] = []
    tokens: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if "tokens" in event and event["type"].startswith("generation."):
            tokens.setdefault(event["generation_id"], []).extend(
                {"type": event["type"], **token} for token in event["tokens"]
            )
        elif not event["type"].startswith("metrics."):
            alone.append(event)
    return alone, tokens


def test_window_and_websocket_get_the_same_stream(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model="fake:tokens=120,delay_ms=2") as controller:
            frames: list[Envelope] = []
            controller.bridge.add_consumer(frames.extend)
            async with websocket(controller, "reader") as client, websocket(controller, "writer") as writer:
                await request(client, type="subscribe", events=["*"])
                since = controller.core.bus.seq
                await ask(controller, "The same for both")
                await until(lambda: answered(controller))
                await ask(controller, "And together with others")
                for number in range(3):
                    await request(writer, type="generate", prompt=f"number {number}")
                got: list[dict[str, Any]] = []
                async for frame in client:
                    got.append(json.loads(frame))
                    if sum(event["type"] == "generation.finished" for event in got) == 5:
                        break
                last = got[-1]["seq"]
                await until(lambda: bool(frames) and frames[-1].seq >= last)
            seen = [json.loads(frame.encode()) for frame in frames if since < frame.first_seq]
            seen = [event for event in seen if event["seq"] <= last]
            got = [event for event in got if since < event.get("first_seq", event["seq"])]
            alone_window, tokens_window = single(seen)
            alone_socket, tokens_socket = single(got)
            assert len(tokens_window) == 5
            assert all(
                [token["index"] for token in tokens] == list(range(len(tokens)))
                for tokens in tokens_window.values()
            )
            assert tokens_window == tokens_socket
            assert alone_window == alone_socket
            assert any("first_seq" in event for event in seen), "none of the window's events was merged"
            assert any(event["type"] == "metrics.step" for event in seen)
            assert any(event["type"] == "metrics.step" for event in got)

    drive(scenario())


def test_the_menu_switches_the_model(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            top = controller.window.top
            assert controller.engine.epoch == 1
            top.model_button.clicked.emit()
            await until(lambda: len(top.menu.actions()) > 0)
            assert any("Open GGUF file…" in action.text() for action in top.menu.actions())
            top.menu.hide()
            progress: list[float | None] = []
            controller.bridge.add_consumer(lambda _: progress.append(top.model_button.progress))
            top.modelChosen.emit("fake:load_ms=600000,tokens=5")
            await until(lambda: any(value and 0 < value < 1 for value in progress))
            top.modelChosen.emit("fake:tokens=5")  # another one rather than wait
            await until(lambda: controller.engine.epoch == 3 and controller.engine.state == "ready")
            assert top.model_button.progress is None
            await ask(controller, "Which are you?")
            await until(lambda: answered(controller))

    drive(scenario())


def test_a_model_that_fails_to_load_leaves_the_former_one(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            await controller.load_model("fake:oom_at_load=1")
            await until(lambda: controller.window.banner.text)
            assert "memory" in controller.window.banner.text
            await until(lambda: controller.engine.state == "ready")
            controller.window.banner.dismiss_button.click()
            assert controller.window.banner.isHidden()
            await ask(controller, "Still there?")
            await until(lambda: answered(controller))

    drive(scenario())


def test_switching_while_an_answer_runs_asks_first(
    drive: Drive, open_window: OpenWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            await ask(controller, "A long one")
            await until(lambda: controller.engine.running)
            loading = asyncio.ensure_future(controller.load_model("fake:tokens=3"))
            box = await message_box()
            box.buttons()[1].click()
            await loading
            assert controller.engine.epoch == 1
            loading = asyncio.ensure_future(controller.load_model("fake:tokens=3"))
            box = await message_box()
            box.buttons()[0].click()
            await loading
            await until(lambda: controller.engine.epoch == 2 and controller.engine.state == "ready")
            assert turns(controller)[-1].status == "cancelled"

    drive(scenario())


async def message_box() -> Any:
    from PySide6.QtWidgets import QApplication, QMessageBox

    def found() -> list[QMessageBox]:
        widgets = QApplication.topLevelWidgets()
        return [box for box in widgets if isinstance(box, QMessageBox) and box.isVisible()]

    await until(found)
    return found()[0]


def test_a_dropped_file_that_is_no_model_is_told_calmly(
    drive: Drive, open_window: OpenWindow, tmp_path: Any
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"this is no model")

    async def scenario() -> None:
        async with open_window() as controller:
            mime = QMimeData()
            mime.setUrls([QUrl.fromLocalFile(str(file))])
            controller.window.dropEvent(
                QDropEvent(
                    QPointF(50, 50),
                    Qt.DropAction.CopyAction,
                    mime,
                    Qt.MouseButton.LeftButton,
                    Qt.KeyboardModifier.NoModifier,
                )
            )
            await until(lambda: controller.window.banner.text)
            assert controller.engine.state == "ready"

    drive(scenario())


def test_kill_9_of_the_worker_is_a_hiccup(
    drive: Drive, open_window: OpenWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    show = Banner.show_notice

    def noted(banner: Banner, message: str, *more: Any, **options: Any) -> None:
        notices.append(message)  # it may be gone again within a frame
        show(banner, message, *more, **options)

    monkeypatch.setattr(Banner, "show_notice", noted)

    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            await ask(controller, "Cut me off")
            await until(lambda: len(turns(controller)) == 2 and turns(controller)[-1].text)
            pid = controller.core.supervisor.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: any("SIGKILL" in notice for notice in notices))
            before = turns(controller)[-1].text
            await until(lambda: len(turns(controller)[-1].text) > len(before) + 20)
            assert turns(controller)[-1].text.startswith(before)
            await until(controller.window.banner.isHidden)
            controller.window.chat.composer.stopRequested.emit()
            await until(lambda: answered(controller))
            answer = turns(controller)[-1]
            assert answer.status == "cancelled"
            assert [token["index"] for token in answer.tokens] == list(range(len(answer.tokens)))
            assert "".join(token["text"] for token in answer.tokens) == answer.text
            await until(lambda: controller.window.status.engine.text == "engine ready")
            await ask(controller, "And now?")
            await until(lambda: len(turns(controller)) == 4 and len(turns(controller)[-1].text) > 5)
            controller.window.chat.composer.stopRequested.emit()
            await until(lambda: answered(controller, 4))

    drive(scenario())


@pytest.mark.parametrize("model", ["fake:", "starter"])
def test_an_engine_that_keeps_dying_can_be_restarted(
    drive: Drive, open_window: OpenWindow, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr("api.supervisor.DEATH_WINDOW_S", 1e6)

    async def scenario() -> None:
        async with open_window(model=model) as controller:
            while controller.engine.state != "failed":
                pid = controller.core.supervisor.worker_pid
                if pid is not None and controller.engine.state == "ready":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.05)
            banner = controller.window.banner
            assert banner.action_button.text() == "Restart engine"
            banner.action_button.click()
            await until(lambda: controller.engine.state == "ready")
            await ask(controller, "Well again?")
            await until(lambda: answered(controller))

    drive(scenario())


def test_conversations_rename_delete_undo_and_search(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            sidebar = controller.window.sidebar
            for text in ("About lighthouses", "About bridges"):
                sidebar.newChat.emit()
                await ask(controller, text)
                await until(lambda: answered(controller))
            await until(lambda: sidebar.model.rowCount() == 2)
            first = sidebar.model.conversation(0)
            assert first["title"] == "About bridges"
            sidebar.model.setData(sidebar.model.index(1), "Lights", Qt.ItemDataRole.EditRole)
            renamed: list[str] = []
            controller.bridge.add_consumer(
                lambda frames: renamed.extend(
                    frame.event.conversation["title"]
                    for frame in frames
                    if isinstance(frame.event, ConversationChanged)
                )
            )
            await until(lambda: "Lights" in renamed)
            sidebar.search.setText("lighthouses")
            await until(lambda: sidebar.model.searching and sidebar.model.rowCount() == 1)
            assert sidebar.model.conversation(0)["title"] == "Lights"
            sidebar.search.clear()
            await until(lambda: not sidebar.model.searching and sidebar.model.rowCount() == 2)
            sidebar.deleteRequested.emit(first["id"])
            await until(lambda: sidebar.model.rowCount() == 1 and sidebar.undo_offered)
            sidebar.undo_button.click()
            await until(lambda: sidebar.model.rowCount() == 2)
            assert sidebar.model.conversation(0)["id"] == first["id"]
            sidebar.list.setCurrentIndex(sidebar.model.index(1))
            await until(lambda: turns(controller) and turns(controller)[0].text == "About lighthouses")

    drive(scenario())


def test_after_missed_events_the_window_goes_on_from_a_snapshot(
    drive: Drive, open_window: OpenWindow
) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            await ask(controller, "A long one")
            await until(lambda: len(turns(controller)) == 2 and len(turns(controller)[-1].text) > 20)
            controller.bridge.overrun.emit()
            await asyncio.sleep(0.3)
            assert controller.window.status.engine.text == "engine generating"
            assert controller.engine.model is not None
            controller.window.chat.composer.stopRequested.emit()
            await until(lambda: answered(controller))
            stored = await controller.client.request(
                "conversations.get", conversation_id=controller.window.chat.conversation_id
            )
            assert turns(controller)[-1].text == stored["messages"][-1]["content"]
            assert controller.window.status.engine.text == "engine ready"

    drive(scenario())


def _is_theme(expected: theme.Theme) -> bool:
    return theme.current() is expected


def test_theme_and_sampling_are_settings(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            top = controller.window.top
            for choice, expected in (("light", theme.LIGHT), ("dark", theme.DARK)):
                top.themeChosen.emit(choice)
                await until(partial(_is_theme, expected))
                assert controller.core.settings.current.theme == choice
                image = controller.window.grab().toImage()
                assert image.pixelColor(4, 4).name() == expected.panel
            top.popover.changed.emit({"temperature": 0.2, "top_p": 0.5, "top_k": 10, "min_p": 0.0})
            await until(lambda: controller.core.settings.current.sampling.temperature == 0.2)
            controller.window.resize(1280, 800)
            await until(lambda: top.sampling_button.text() == "temperature 0.2 · top-p 0.5")
            controller.window.resize(800, 600)
            await until(lambda: top.sampling_button.text() == "0.2 · 0.5")
            assert controller.core.settings.current.sampling.top_k == 10

    drive(scenario())


def test_the_status_line_copies_what_a_script_needs(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            status, clipboard = controller.window.status, QGuiApplication.clipboard()
            status.address_button.click()
            assert clipboard.text() == controller.core.url
            status.copyRequested.emit("token")
            assert clipboard.text() == controller.core.token
            status.copyRequested.emit("script")
            script = clipboard.text()
            assert "websockets" in script
            assert controller.core.token not in script
            assert str(controller.core.paths.server_file) in script
            await _follows(controller, script)

    drive(scenario())


async def _follows(controller: Controller, script: str) -> None:
    """Run the script and see that it prints what is generated."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    printed = bytearray()

    async def read() -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(1 << 16):
            printed.extend(data)

    async def answer(question: str) -> str:
        count = len(turns(controller)) + 2
        await ask(controller, question)
        await until(lambda: answered(controller, count))
        return turns(controller)[-1].text

    reading = asyncio.ensure_future(read())
    try:
        while not printed:  # nothing tells when its subscription stands, but that it follows
            await answer("Are you there?")
        text = (await answer("For the script")).encode()
        await until(lambda: text in printed)
    finally:
        process.kill()
        await process.wait()
        await reading


@pytest.mark.parametrize("size", ((800, 480), (1280, 800), (2560, 1440)))
def test_it_fits_every_size(drive: Drive, open_window: OpenWindow, size: tuple[int, int]) -> None:
    async def scenario() -> None:
        async with open_window() as controller:
            window = controller.window
            window.resize(*size)
            panel = window.panel
            assert panel is not None
            inside = panel.widget()
            assert inside is not None
            await until(lambda: (window.width(), window.height()) == size)
            await until(lambda: inside.width() <= panel.viewport().width())
            image = window.grab().toImage()
            assert (image.width(), image.height()) == size

    drive(scenario())


def test_what_was_sent_while_loading_is_answered(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model="fake:load_ms=3000", wait=False) as controller:
            await until(lambda: controller.engine.state == "loading")
            await ask(controller, "Early bird")
            await until(lambda: answered(controller))
            assert turns(controller)[-1].status == "complete"

    drive(scenario())
