"""The window's parts by themselves: theme, sidebar, banner, status line, panel, bridge, dialogs, watchdog."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog, QLineEdit, QMessageBox, QWidget

from api.bus import EventBus
from desktop import dialogs, theme
from desktop.banner import Banner
from desktop.bridge import FRAME_MS, Bridge
from desktop.conversations import PAGE, ago
from desktop.engine_status import EngineStatus
from desktop.plots.cards import DASH, Cards, milliseconds, number
from desktop.plots.clients import ClientList
from desktop.plots.panel import LIVE_MS, Panel
from desktop.plots.series import Instruments
from desktop.sidebar import Sidebar
from desktop.status import StatusLine
from desktop.tasks import Tasks
from desktop.topbar import TopBar
from desktop.watchdog import FrameMeter, LoopWatch
from desktop.window import app_icon
from engine.errors import ErrorInfo
from engine.events import (
    ClientConnected,
    ClientDisconnected,
    ClientLagging,
    ClientMetrics,
    ClientTraffic,
    EngineExited,
    EngineStarted,
    Event,
    LogLine,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
)
from tests.desktop.conftest import WAIT_S, Drive, until
from tests.desktop.events import GPU, INFO, delta, enveloped, finished, queued, started, step, system


def wait_for(condition: Callable[[], object]) -> None:
    """Let Qt work until it is so."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it didn't come true in time"
        QTest.qWait(10)


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = (QColor(colour).redF(), QColor(colour).greenF(), QColor(colour).blueF())
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("chosen", (theme.DARK, theme.LIGHT), ids=("dark", "light"))
def test_text_can_be_read_on_every_ground(chosen: theme.Theme) -> None:
    for ground in (chosen.window, chosen.panel, chosen.card, chosen.code_bg):
        for colour in (chosen.text, chosen.muted, chosen.accent, chosen.error, chosen.warn, chosen.good):
            assert contrast(colour, ground) >= 4.5, (colour, ground)
    assert contrast(chosen.text, chosen.user_bg) >= 4.5
    assert contrast("#ffffff", chosen.stop) >= 4.5


@pytest.mark.parametrize("chosen", (theme.DARK, theme.LIGHT), ids=("dark", "light"))
def test_colours_are_colours(chosen: theme.Theme) -> None:
    for name, value in asdict(chosen).items():
        assert name == "name" or re.fullmatch("#[0-9a-f]{6}", value)
    assert "{" not in re.sub(r"\{[^{}]*\}", "", theme.style_sheet(chosen))


def test_the_icon_is_there(qapp: QApplication) -> None:
    assert {size.width() for size in app_icon().availableSizes()} == {48, 256}
    assert app_icon().pixmap(48, 48).toImage().pixelColor(24, 6).name() == theme.DARK.panel


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"c{n}", "title": f"Chat {n}", "updated": 1e9 - n, "model": "starter", "message_count": 2}
        for n in range(first, first + count)
    ]


def test_ten_thousand_conversations_come_in_pages(qapp: QApplication) -> None:
    sidebar = Sidebar(theme.current())
    store = rows(10_000)
    asked: list[int] = []

    def more(offset: int) -> None:
        asked.append(offset)
        sidebar.show_page(store[offset : offset + PAGE], first=False)

    sidebar.model.moreRequested.connect(more)
    sidebar.show_page(store[:PAGE], first=True)
    sidebar.resize(240, 600)
    sidebar.show()
    begun = time.process_time()
    while sidebar.model.canFetchMore(sidebar.list.rootIndex()):
        sidebar.list.scrollToBottom()
        qapp.processEvents()
    assert sidebar.model.rowCount() == 10_000
    assert time.process_time() - begun < 20
    assert asked[0] == PAGE
    sidebar.deleteLater()


def test_a_changed_conversation_moves_to_its_place_and_stays_selected(qapp: QApplication) -> None:
    sidebar = Sidebar(theme.current())
    chosen: list[str] = []
    sidebar.selected.connect(chosen.append)
    sidebar.show_page(rows(5), first=True)
    sidebar.list.setCurrentIndex(sidebar.model.index(3))
    assert chosen == ["c3"]
    sidebar.model.upsert({**rows(1, 3)[0], "updated": 2e9, "title": "Now first"})
    assert [sidebar.model.conversation(n)["id"] for n in range(5)] == ["c3", "c0", "c1", "c2", "c4"]
    assert sidebar.list.currentIndex().row() == 0
    sidebar.model.upsert({**rows(1, 1)[0], "updated": 1e9 - 3.5})
    assert [sidebar.model.conversation(n)["id"] for n in range(5)] == ["c3", "c0", "c2", "c1", "c4"]
    sidebar.model.remove("c0")
    sidebar.model.upsert(rows(1, 0)[0])
    assert [sidebar.model.conversation(n)["id"] for n in range(5)] == ["c3", "c0", "c2", "c1", "c4"]
    assert chosen == ["c3"]
    sidebar.deleteLater()


def test_a_title_is_changed_in_place(qapp: QApplication) -> None:
    sidebar = Sidebar(theme.current())
    renamed: list[tuple[str, str]] = []
    sidebar.model.renamed.connect(lambda key, title: renamed.append((key, title)))
    sidebar.show_page(rows(3), first=True)
    sidebar.resize(240, 500)
    sidebar.show()
    sidebar.list.setCurrentIndex(sidebar.model.index(1))
    sidebar.list.edit(sidebar.model.index(1))
    line = sidebar.list.viewport().findChild(QLineEdit)
    assert line is not None
    assert line.text() == "Chat 1"
    line.setText("Another name")
    QTest.keyClick(line, Qt.Key.Key_Return)
    wait_for(lambda: renamed)
    assert renamed == [("c1", "Another name")]
    sidebar.model.setData(sidebar.model.index(1), "   ", Qt.ItemDataRole.EditRole)
    assert len(renamed) == 1
    sidebar.deleteLater()


@pytest.mark.qt_log_ignore("This plugin does not support grabbing the keyboard", extend=True)
def test_the_context_menu_deletes_without_a_nested_loop(qapp: QApplication) -> None:
    sidebar = Sidebar(theme.current())
    deleted: list[str] = []
    sidebar.deleteRequested.connect(deleted.append)
    sidebar.show_page(rows(3), first=True)
    sidebar.resize(240, 500)
    sidebar.show()
    sidebar.list.customContextMenuRequested.emit(QPoint(40, 70))
    menu = QApplication.activePopupWidget()
    assert menu is not None
    action = next(action for action in menu.actions() if action.text() == "Delete")
    action.trigger()
    menu.close()
    assert deleted == ["c1"]
    sidebar.deleteLater()


@pytest.mark.parametrize(
    ("seconds", "words"),
    ((0, "just now"), (59, "just now"), (60, "1 min ago"), (3599, "59 min ago"), (-5, "just now")),
)
def test_recent_times_in_words(seconds: float, words: str) -> None:
    now = time.mktime((2026, 5, 20, 12, 0, 0, 0, 0, -1))
    assert ago(now - seconds, now) == words


def test_older_times_in_words() -> None:
    now = time.mktime((2026, 5, 20, 12, 0, 0, 0, 0, -1))
    assert ago(now - 3 * 3600, now) == "3 h ago"
    assert ago(now - 13 * 3600, now) == "yesterday"
    assert ago(now - 3 * 86400, now) == "3 days ago"
    assert ago(now - 30 * 86400, now) == "20 Apr"
    assert ago(now - 400 * 86400, now) == "15 Apr 2025"


def test_figures_are_short() -> None:
    assert [number(value) for value in (None, 0.0, 9.94, 62.44, 99.96, 1234.5)] == [
        DASH,
        "0.0",
        "9.9",
        "62.4",
        "100",
        "1,234",
    ]
    assert [milliseconds(value) for value in (None, 0.25, 9.9, 15.6, 1840.0)] == [
        DASH,
        "0.2",
        "9.9",
        "16",
        "1,840",
    ]


def test_cards_show_a_dash_for_what_is_not_measured_and_the_gpu_where_there_is_one(
    qapp: QApplication,
) -> None:
    cards, instruments = Cards(theme.current()), Instruments()
    cards.refresh(instruments)
    assert cards.rate.text.startswith(DASH)
    assert cards.context.text == DASH
    instruments.feed(ModelLoaded(model="starter", info=INFO))
    instruments.feed(system(1.0))
    cards.refresh(instruments)
    assert cards.fifth.text == "61 MB"
    assert not cards.fifth.isHidden()
    assert cards.power.isHidden()
    instruments.feed(system(2.0, gpus=[GPU]))
    cards.refresh(instruments)
    assert cards.fifth.isHidden()
    assert cards.gpu_memory.text == "9.1 of 12 GB"
    assert cards.power.text == "214 W"
    cards.deleteLater()


def feed(panel: Panel, events: list[Event]) -> None:
    panel.consume(enveloped(events))


def test_a_hidden_panel_keeps_the_series_and_draws_nothing(qapp: QApplication) -> None:
    panel = Panel(theme.current())
    now = time.monotonic()
    feed(panel, [queued("a", now), started("a", now), delta("a", [now, now + 0.1])])
    QTest.qWait(500)
    assert panel.draws == 0
    assert panel.instruments.figures.context_used == 42
    panel.resize(400, 700)
    shown = time.monotonic()
    panel.show()
    wait_for(lambda: panel.draws >= 3)
    assert panel.draws <= (time.monotonic() - shown) * 1000 / (0.9 * LIVE_MS) + 1
    panel.hide()
    drawn = panel.draws
    feed(panel, [delta("a", [now + 0.2], 2)])
    QTest.qWait(500)
    assert panel.draws == drawn
    panel.deleteLater()


def test_an_idle_panel_stops_its_timer(qapp: QApplication) -> None:
    panel = Panel(theme.current())
    panel.resize(400, 700)
    panel.show()
    feed(panel, [system(time.monotonic())])
    panel.draw()
    panel.draw()
    drawn = panel.draws
    QTest.qWait(1500)
    assert panel.draws <= drawn + 1
    panel.deleteLater()


def test_plots_follow_the_theme_and_the_events(qapp: QApplication) -> None:
    panel = Panel(theme.DARK)
    panel.resize(400, 720)
    panel.show()
    now = time.monotonic()
    times = [now - 20 + 0.02 * n for n in range(1000)]
    panel.instruments = Instruments()
    feed(panel, [ModelLoaded(model="starter", info=INFO), queued("a", times[0]), started("a", times[0])])
    for n, t in enumerate(times):
        feed(panel, [delta("a", [t], n)])
        if n % 25 == 0:
            feed(panel, [step(t, 40 + n), system(t)])
    panel.draw()
    for chosen in (theme.DARK, theme.LIGHT):
        panel.set_theme(chosen)
        for plot, colour in (
            (panel.rate, chosen.accent),
            (panel.latency, chosen.accent),
            (panel.context, chosen.tool),
            (panel.load, chosen.good),
        ):
            image = plot.grab().toImage()
            found = {
                image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())
            }
            assert colour in found, (chosen.name, colour)
    feed(panel, [finished("a", now, tokens_per_second=50.0)])
    panel.draw()
    assert panel.cards.rate.text == "50.0 tok/s"
    panel.deleteLater()


def test_the_client_list_tells_who_does_what(qapp: QApplication) -> None:
    clients = ClientList(theme.current())
    clients.set_own("me")
    for event in (
        ClientConnected(client_id="a", name="watch.py", origin="live"),
        queued("g1", 1.0, "a"),
        queued("g2", 1.0, "a"),
        started("g1", 1.0),
    ):
        clients.feed(event)
    assert dict(clients.lines())["watch.py"] == "1 running"
    clients.feed(finished("g1", 2.0))
    assert dict(clients.lines())["watch.py"] == "1 waiting"
    assert clients.count == 2
    clients.feed(ClientDisconnected(client_id="a", name="watch.py", reason="slow"))
    assert dict(clients.lines())["watch.py"] == "cut, did not read"
    assert clients.count == 1
    clients.feed(ClientConnected(client_id="b", name="other", origin="live"))
    assert [name for name, _ in clients.lines()] == ["this window", "other"]
    clients.deleteLater()


def test_the_client_list_shows_traffic_and_lag(qapp: QApplication) -> None:
    clients = ClientList(theme.current())
    row = {"client_id": "a", "name": "log.py", "events_per_s": 40.0, "merged": 1200, "cuts": 2}
    clients.restore([row | {"bytes_per_s": 8200.0, "backlog_bytes": 10, "behind": 0}], ())
    clients.set_own("me")
    assert dict(clients.lines())["log.py"] == "8.2 kB/s"
    assert clients.details(0).split("\n") == [
        "8.2 kB/s, 40 events/s",
        "1,200 events merged into others",
        "cut 2 times, did not read",
    ]
    assert clients.details(1) == clients.details(2) == clients.details(-1) == ""
    traffic = {key: value for key, value in row.items() if key != "name"}
    behind = ClientTraffic(**traffic, bytes_per_s=100.0, backlog_bytes=300_000, behind=4_000)
    assert clients.feed(ClientMetrics(clients=[behind]))
    assert dict(clients.lines())["log.py"] == "300 kB behind"
    assert "4,000 events behind" in clients.details(0)
    assert clients.feed(ClientMetrics(clients=[]))
    assert dict(clients.lines())["log.py"] == "connected"
    clients.feed(ClientLagging(client_id="a", backlog_bytes=270_000))
    assert dict(clients.lines())["log.py"] == "270 kB behind"
    clients.deleteLater()


def test_engine_words() -> None:
    engine = EngineStatus()
    assert EngineStatus(state="no_model").words == "waits for a model"
    engine.feed(EngineStarted(epoch=2, pid=5))
    engine.feed(ModelLoading(model="starter", progress=0.42))
    assert engine.words == "loading 42 %"
    late = {"exit_code": 0, "signal": None, "log_tail": "", "will_restart": False}
    engine.feed(EngineExited(epoch=1, expected=True, **late))
    assert engine.words == "loading 42 %"
    engine.feed(ModelLoaded(model="starter", info=INFO))
    assert (engine.words, engine.colour) == ("ready", "good")
    engine.feed(queued("a", 1.0))
    assert engine.busy
    engine.feed(started("a", 1.0))
    assert engine.words == "generating"
    engine.feed(started("b", 1.0))
    assert engine.words == "generating (2)"
    engine.feed(EngineExited(epoch=2, expected=False, **(late | {"signal": "SIGKILL", "will_restart": True})))
    assert engine.words == "restarting"
    engine.feed(ModelFailed(model="starter", error=ErrorInfo(code="out_of_memory", message="too big")))
    assert (engine.words, engine.colour) == ("failed", "error")


def test_the_banner_says_what_happened_and_runs_its_action(qapp: QApplication) -> None:
    banner, ran = Banner(theme.current()), []
    banner.show_error(
        ErrorInfo(code="internal", message="it broke", hint="mend it"), ("Mend", lambda: ran.append(1))
    )
    assert banner.text == "It broke Mend it"
    banner.action_button.click()
    assert ran == [1]
    assert banner.text == ""
    banner.show_notice("again")
    assert banner.action_button.isHidden()
    banner.dismiss_button.click()
    assert banner.text == ""
    banner.deleteLater()


def test_the_status_line_copies_and_fits(qapp: QApplication) -> None:
    status = StatusLine(theme.current(), "0.1.0")
    copied: list[str] = []
    status.copyRequested.connect(copied.append)
    status.show_address("ws://127.0.0.1:7317/v1/live")
    status.show_counts(3, 1, 4)
    status.show_cost(0.84, None)
    assert (status.clients.text, status.slots.text) == ("3 clients", "slots 1 / 4")
    assert status.cost.text == "loop 0.8 ms · frame –"
    status.address_button.click()
    for action in status.menu.actions():
        action.trigger()
    assert copied == ["address", "address", "token", "script"]
    status.confirm_copied("Token")
    assert status.address_button.text() == "Token copied"
    status.show_counts(1, 0, None)
    assert (status.clients.text, status.slots.text) == ("1 client", "slots –")
    status.deleteLater()


def test_the_sampling_popover_tells_once(qapp: QApplication) -> None:
    top = TopBar(theme.current())
    told: list[dict[str, float]] = []
    top.samplingChanged.connect(told.append)
    top.show_sampling({"temperature": 0.7, "top_p": 0.95, "top_k": 40, "min_p": 0.05})
    for value in (0.5, 0.4, 0.3):
        top.popover.change("temperature", value)
    wait_for(lambda: told)
    QTest.qWait(600)
    assert told == [{"temperature": 0.3, "top_p": 0.95, "top_k": 40, "min_p": 0.05}]
    assert top.sampling_button.text() == "temperature 0.3 · top-p 0.95"
    top.popover.reset_button.click()
    wait_for(lambda: len(told) > 1)
    assert told[-1]["temperature"] == 0.7
    top.deleteLater()


def test_the_bridge_hands_on_once_a_frame_and_survives_a_bug(drive: Drive) -> None:
    async def scenario() -> None:
        bus, meter = EventBus(), FrameMeter()
        bridge = Bridge(meter)
        subscription = bus.subscribe(set(), bridge.on_ready)
        subscription.select(("*",))
        frames: list[int] = []

        def broken(_: object) -> None:
            raise ValueError("a widget's bug")

        bridge.add_consumer(broken)
        bridge.add_consumer(lambda envelopes: frames.append(len(envelopes)))
        bridge.attach(subscription)
        begun = time.monotonic()
        for count in range(200):
            bus.publish(LogLine(level="info", message=str(count)))
            await asyncio.sleep(0.002)
        await until(lambda: sum(frames) == 200)
        assert len(frames) <= (time.monotonic() - begun) * 1000 / (0.9 * FRAME_MS) + 2
        assert bridge.frames == len(frames)
        assert meter.worst() is not None
        bridge.detach()

    drive(scenario())


def test_a_bridge_that_missed_events_says_so(drive: Drive) -> None:
    async def scenario() -> None:
        bus = EventBus(ring_size=16)
        bridge = Bridge(FrameMeter())
        lost: list[bool] = []
        bridge.overrun.connect(lambda: lost.append(True))
        subscription = bus.subscribe(set(), bridge.on_ready)
        subscription.select(("*",))
        bridge.attach(subscription)
        for count in range(40):
            bus.publish(LogLine(level="info", message=str(count)))
        await until(lambda: lost)
        bridge.detach()

    drive(scenario())


def test_a_dialog_is_answered_without_a_nested_loop(drive: Drive) -> None:
    async def scenario() -> None:
        parent = QWidget()
        parent.show()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        asking = asyncio.ensure_future(dialogs.ask(parent, "Title", "Which?", ("One", "Two")))
        await until(lambda: parent.findChild(QMessageBox))
        before = ticks
        await until(lambda: ticks > before + 3)
        box = parent.findChild(QMessageBox)
        assert box is not None
        box.buttons()[1].click()
        assert await asking == "Two"
        choosing = asyncio.ensure_future(dialogs.choose_gguf(parent, Path.cwd()))
        await until(lambda: parent.findChild(QFileDialog))
        choosing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await choosing
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        parent.deleteLater()

    drive(scenario())


def test_a_failed_task_is_told(drive: Drive) -> None:
    async def scenario() -> None:
        told: list[BaseException] = []
        tasks = Tasks(told.append)

        async def fails() -> None:
            raise ValueError("no")

        async def waits() -> None:
            await asyncio.sleep(60)

        tasks.spawn(fails())
        tasks.spawn(waits())
        await until(lambda: told)
        assert isinstance(told[0], ValueError)
        await tasks.close()
        assert len(told) == 1

    drive(scenario())


def test_the_watchdog_sees_a_stall(drive: Drive) -> None:
    async def scenario() -> None:
        watch = LoopWatch()
        watch.set_busy(True)
        await until(lambda: watch.worst() is not None)
        time.sleep(0.2)  # noqa: ASYNC251 - the stall
        await until(lambda: (watch.worst() or 0) > 100)
        assert watch.longest > 100
        watch.stop()

    drive(scenario())


def test_no_nested_loops_anywhere() -> None:
    folder = Path(dialogs.__file__).parent
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for banned in (
            r"\.exec\(",
            r"\.exec_\(",
            "asyncSlot",
            "asyncClose",
            r"processEvents\(",
            "getOpenFileName",
        ):
            if banned == "asyncSlot" and file.name == "tasks.py":
                continue  # says why it isn't used
            assert not re.search(banned, text), f"{banned} in {file.name}"
