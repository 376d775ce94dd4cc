"""The transcript's view: what is laid out, where it scrolls to, what stays in place."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from desktop.chat.pane import ChatPane
from tests.desktop.chat.builders import WAIT_MS, Stream, asked, conversation, delta, finished, message, turns

LONG = "A paragraph that fills a line or two of the column, so that there is something to scroll.\n\n" * 6


def scroll_to(pane: ChatPane, value: int) -> None:
    pane.view.verticalScrollBar().setValue(value)


def newest(pane: ChatPane) -> QPushButton:
    return next(button for button in pane.view.findChildren(QPushButton) if "newest" in button.text())


def settle(pane: ChatPane, qtbot: QtBot) -> None:
    """Let the view take in what has changed; it leaves more time between frames that take long."""
    qtbot.wait(30)
    qtbot.waitUntil(lambda: not pane.view._timer.isActive(), timeout=WAIT_MS)


def at_the_end(pane: ChatPane) -> bool:
    bar = pane.view.verticalScrollBar()
    return bar.value() == bar.maximum()


def wheel(pane: ChatPane, steps: int) -> None:
    """Turn the wheel, up for positive `steps`."""
    viewport = pane.view.viewport()
    middle = QPointF(viewport.rect().center())
    event = QWheelEvent(
        middle,
        QPointF(viewport.mapToGlobal(middle.toPoint())),
        QPoint(),
        QPoint(0, 120 * steps),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(viewport, event)


def test_ten_thousand_messages_open_with_the_newest_and_few_laid_out(pane: ChatPane) -> None:
    pane.show_conversation(turns(10_000))
    pane.grab()
    assert at_the_end(pane)
    assert len(pane.view._rows) < 40
    last = pane.view.row_top(9_999) + pane.view.row(9_999).height
    assert pane.view.viewport().height() - 40 < last <= pane.view.viewport().height()


def test_any_place_of_a_long_conversation_can_be_reached(pane: ChatPane) -> None:
    pane.show_conversation(turns(10_000))
    bar = pane.view.verticalScrollBar()
    for share in (0.5, 0.01, 0.99):
        bar.setValue(int(bar.maximum() * share))
        pane.grab()
        assert pane.view.row_at(100) >= 0
        assert len(pane.view._rows) <= 60
    bar.setValue(0)
    assert pane.view.row_top(0) > 0


def test_follows_the_newest_text_while_it_streams(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.show_conversation(turns(20, answer=LONG))
    pane.consume(stream(*asked(parent="m19")))
    for _ in range(10):
        pane.consume(stream(delta("More text.\n\n")))
        settle(pane, qtbot)
        assert at_the_end(pane)
    assert not newest(pane).isVisible()


def test_stays_where_the_user_has_scrolled_to(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.show_conversation(turns(20, answer=LONG))
    pane.consume(stream(*asked(parent="m19"), delta(LONG)))
    settle(pane, qtbot)
    wheel(pane, 5)
    settle(pane, qtbot)
    assert newest(pane).isVisible()
    row = pane.view.row_at(0)
    top = pane.view.row_top(row)
    for _ in range(5):
        pane.consume(stream(delta(LONG)))
        settle(pane, qtbot)
        assert pane.view.row_top(row) == top
    pane.consume(stream(finished(LONG * 6)))
    settle(pane, qtbot)
    assert pane.view.row_top(row) == top
    qtbot.mouseClick(newest(pane), Qt.MouseButton.LeftButton)
    assert pane.view.following
    assert at_the_end(pane)
    assert not newest(pane).isVisible()


def test_rows_in_view_do_not_jump_while_scrolling_up_into_unmeasured_ones(pane: ChatPane) -> None:
    short_and_long = [
        message(
            f"m{n}", "assistant" if n % 2 else "user", "x" if n % 3 else LONG * 3, f"m{n - 1}" if n else None
        )
        for n in range(200)
    ]
    pane.show_conversation(conversation(*short_and_long))
    for _ in range(60):
        row = pane.view.row_at(pane.view.viewport().height() // 2)
        before = pane.view.row_top(row)
        value = pane.view.verticalScrollBar().value()
        if value < 150:
            break
        wheel(pane, 1)
        assert 0 < pane.view.row_top(row) - before <= 150
        pane.grab()


def test_scrolling_back_to_the_end_follows_again(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.show_conversation(turns(20, answer=LONG))
    wheel(pane, 3)
    scrolled_up = pane.view.following
    wheel(pane, -20)
    assert (scrolled_up, pane.view.following) == (False, True)


def test_home_and_end(pane: ChatPane, qtbot: QtBot) -> None:
    pane.show_conversation(turns(40, answer=LONG))
    pane.view.setFocus()
    qtbot.keyClick(pane.view, Qt.Key.Key_Home)
    assert pane.view.verticalScrollBar().value() == 0
    qtbot.keyClick(pane.view, Qt.Key.Key_PageDown)
    assert pane.view.verticalScrollBar().value() > 100
    qtbot.keyClick(pane.view, Qt.Key.Key_End)
    assert at_the_end(pane)


def test_a_narrower_window_breaks_lines_anew_and_keeps_the_place(pane: ChatPane, qtbot: QtBot) -> None:
    pane.show_conversation(turns(60, answer=LONG))
    scroll_to(pane, pane.view.verticalScrollBar().maximum() // 2)
    row = pane.view.row_at(0) | 1  # an answer
    height = pane.view.row(row).height
    pane.resize(420, 700)
    settle(pane, qtbot)
    qtbot.waitUntil(lambda: pane.view.column_width == 420 - 48, timeout=WAIT_MS)
    assert pane.view.row(row).height > height
    assert abs(pane.view.row_at(0) - row) <= 1
    pane.resize(2000, 700)
    settle(pane, qtbot)
    qtbot.waitUntil(lambda: pane.view.column_width == 720, timeout=WAIT_MS)
    assert abs(pane.view.column_left - (2000 - 720) / 2) <= 1


def test_many_deltas_make_one_layout(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.consume(stream(*asked()))
    settle(pane, qtbot)
    changes: list[int] = []
    pane.model.dataChanged.connect(lambda first, _last: changes.append(first.row()))
    pane.consume(stream(*(delta(f"word{n} ") for n in range(200))))
    assert changes == [1]


def test_another_answer_in_the_middle_keeps_the_place(pane: ChatPane, qtbot: QtBot) -> None:
    data = turns(30, answer=LONG)
    pane.show_conversation(data)
    scroll_to(pane, pane.view.verticalScrollBar().maximum() // 2)
    row = pane.view.row_at(0)
    top = pane.view.row_top(row)
    shorter = conversation(*data["messages"][:-2], message("other", "user", "Else?", "m27"))
    pane.show_conversation(shorter)
    settle(pane, qtbot)
    assert len(pane.model) == 29
    assert pane.view.row_top(row) == top
