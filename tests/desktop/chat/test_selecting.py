"""The mouse over the transcript: selecting and copying text, links, code, the menu."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, Qt, QUrl
from PySide6.QtGui import QContextMenuEvent, QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot

from desktop.chat import figures
from desktop.chat.pane import ChatPane
from tests.desktop.chat.builders import WAIT_MS, conversation, message, turns

ANSWER = """First paragraph, one line.

Second with a [link](https://example.org/a) in it.

```python
print("hi")
```

- item 🙂 one
- item two
"""


@pytest.fixture
def chat(pane: ChatPane) -> ChatPane:
    QGuiApplication.clipboard().setText("untouched")
    pane.show_conversation(
        conversation(message("u1", "user", "Ask this\nand that"), message("a1", "assistant", ANSWER, "u1"))
    )
    pane.grab()
    return pane


def point(pane: ChatPane, row: int, piece: int, position: int) -> QPoint:
    """Where a character of a piece begins, on the viewport."""
    laid_out = pane.view.row(row)
    found = laid_out.pieces[piece]
    run = next(run for run in found.runs if run.start <= position <= run.start + run.length)
    if position < run.start + run.length:
        rect = run.rects(position, position + 1)[0]
        x, y = rect.left(), rect.center().y()
    else:
        rect = run.rects(position - 1, position)[0]
        x, y = rect.right(), rect.center().y()
    left = pane.view.column_left + laid_out.left
    return QPoint(round(left + x + 1), round(pane.view.row_top(row) + laid_out.tops[piece] + y))


def drag(qtbot: QtBot, pane: ChatPane, start: QPoint, end: QPoint) -> None:
    viewport = pane.view.viewport()
    qtbot.mousePress(viewport, Qt.MouseButton.LeftButton, pos=start)
    for step in (1, 2, 3):
        qtbot.mouseMove(viewport, start + (end - start) * (step / 3))
    qtbot.mouseRelease(viewport, Qt.MouseButton.LeftButton, pos=end)


def copy(qtbot: QtBot, pane: ChatPane) -> str:
    pane.view.setFocus()
    qtbot.keyClick(pane.view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    return QGuiApplication.clipboard().text()


def test_drag_selects_within_a_paragraph(chat: ChatPane, qtbot: QtBot) -> None:
    drag(qtbot, chat, point(chat, 1, 0, 6), point(chat, 1, 0, 15))
    assert copy(qtbot, chat) == "paragraph"


def test_drag_over_blocks_both_ways(chat: ChatPane, qtbot: QtBot) -> None:
    top, bottom = point(chat, 1, 0, 6), point(chat, 1, 4, 4)
    expected = 'paragraph, one line.\nSecond with a link in it.\nprint("hi")\n• item 🙂 one\n• item'
    drag(qtbot, chat, top, bottom)
    assert copy(qtbot, chat) == expected
    drag(qtbot, chat, bottom, top)
    assert copy(qtbot, chat) == expected


def test_a_selection_stays_in_its_row(chat: ChatPane, qtbot: QtBot) -> None:
    drag(qtbot, chat, point(chat, 0, 0, 4), point(chat, 1, 1, 3))
    assert copy(qtbot, chat) == "this\nand that"


def test_characters_outside_the_basic_plane(chat: ChatPane, qtbot: QtBot) -> None:
    drag(qtbot, chat, point(chat, 1, 3, 5), point(chat, 1, 3, 11))
    assert copy(qtbot, chat) == "🙂 one"


def test_double_click_selects_a_word(chat: ChatPane, qtbot: QtBot) -> None:
    qtbot.mouseDClick(chat.view.viewport(), Qt.MouseButton.LeftButton, pos=point(chat, 1, 0, 8))
    assert copy(qtbot, chat) == "paragraph"


def test_a_click_ends_the_selection(chat: ChatPane, qtbot: QtBot) -> None:
    drag(qtbot, chat, point(chat, 1, 0, 6), point(chat, 1, 0, 15))
    qtbot.mouseClick(chat.view.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(5, 5))
    assert copy(qtbot, chat) == "untouched"


def test_select_all_takes_the_row(chat: ChatPane, qtbot: QtBot) -> None:
    qtbot.mouseMove(chat.view.viewport(), point(chat, 1, 0, 3))
    chat.view.setFocus()
    qtbot.keyClick(chat.view, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    assert copy(qtbot, chat).startswith("First paragraph, one line.\nSecond")


def test_a_link_opens_after_a_click_only(
    chat: ChatPane, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(QUrl(url).toString()))
    at = point(chat, 1, 1, 15)
    qtbot.mouseMove(chat.view.viewport(), at)
    assert chat.view.viewport().cursor().shape() == Qt.CursorShape.PointingHandCursor
    assert opened == []
    drag(qtbot, chat, at, point(chat, 1, 1, 17))
    assert opened == []
    qtbot.mouseClick(chat.view.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert opened == ["https://example.org/a"]


def test_the_copy_button_of_code(chat: ChatPane, qtbot: QtBot) -> None:
    row = chat.view.row(1)
    button = row.code_button(row.tops[2] + 5)
    assert button is not None
    at = button.rect.center().toPoint() + QPoint(chat.view.column_left, chat.view.row_top(1))
    qtbot.mouseMove(chat.view.viewport(), at)
    qtbot.mouseClick(chat.view.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert QGuiApplication.clipboard().text() == 'print("hi")'
    chat.grab()


def test_the_copy_button_of_an_answer_gives_its_markdown(chat: ChatPane, qtbot: QtBot) -> None:
    button = next(button for button in chat.view.row(1).buttons if button.act == "copy")
    at = button.rect.center().toPoint() + QPoint(chat.view.column_left, chat.view.row_top(1))
    qtbot.mouseClick(chat.view.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert QGuiApplication.clipboard().text() == ANSWER


@pytest.mark.qt_log_ignore("grabbing the (keyboard|mouse)", extend=True)
def test_the_menu_offers_the_same(chat: ChatPane, qtbot: QtBot) -> None:
    at = point(chat, 1, 2, 3)
    chat.view.selector.show_menu(at, chat.view.viewport().mapToGlobal(at))
    menu = chat.view.findChild(QMenu)
    assert isinstance(menu, QMenu)
    names = [action.text() for action in menu.actions()]
    assert names == ["Select all of this message", "Copy code", "Copy message", "Regenerate"]
    with qtbot.waitSignal(chat.regenerateRequested) as again:
        menu.actions()[3].trigger()
    assert again.args == ["u1"]
    menu.actions()[1].trigger()
    assert QGuiApplication.clipboard().text() == 'print("hi")'
    menu.actions()[0].trigger()
    assert chat.view.selector.text.startswith("First paragraph")
    chat.show_conversation(None)
    menu.actions()[0].trigger()
    menu.actions()[2].trigger()
    assert QGuiApplication.clipboard().text() == 'print("hi")'
    menu.close()


@pytest.mark.qt_log_ignore("grabbing the (keyboard|mouse)", extend=True)
def test_the_menu_by_keyboard(chat: ChatPane) -> None:
    event = QContextMenuEvent(QContextMenuEvent.Reason.Keyboard, QPoint(), QPoint())
    QApplication.sendEvent(chat.view.viewport(), event)
    menu = chat.view.findChild(QMenu)
    assert isinstance(menu, QMenu)
    assert "Copy message" in [action.text() for action in menu.actions()]
    menu.close()


def test_dragging_beyond_the_edge_scrolls(pane: ChatPane, qtbot: QtBot) -> None:
    long = "\n\n".join(f"Paragraph {number}." for number in range(200))
    pane.show_conversation(conversation(message("u1", "user", "Q"), message("a1", "assistant", long, "u1")))
    bar = pane.view.verticalScrollBar()
    viewport = pane.view.viewport()
    start = QPoint(pane.view.column_left + 30, viewport.height() // 2)
    value = bar.value()
    qtbot.mousePress(viewport, Qt.MouseButton.LeftButton, pos=start)
    qtbot.mouseMove(viewport, QPoint(start.x(), -60))
    qtbot.waitUntil(lambda: bar.value() < value - 100, timeout=WAIT_MS)
    qtbot.mouseRelease(viewport, Qt.MouseButton.LeftButton, pos=QPoint(start.x(), -60))
    stopped = bar.value()
    qtbot.wait(120)
    assert bar.value() == stopped
    assert pane.view.selector.text.count("\n") > 10


def test_typing_over_the_transcript_goes_to_the_composer(chat: ChatPane, qtbot: QtBot) -> None:
    chat.view.setFocus()
    qtbot.keyClick(chat.view, Qt.Key.Key_H)
    assert chat.composer.text == "h"


def test_figures_in_a_line_and_in_full(pane: ChatPane) -> None:
    pane.show_conversation(turns(2))
    turn = pane.model.turn(1)
    assert figures.line(turn) == (
        "62.4 tok/s · first token 184 ms · 212 tokens · prompt 1,024 new · 3,310 cached"
    )
    assert figures.explanation(turn).splitlines() == [
        "queue: 2.0 ms",
        "prefill: 180 ms",
        "decode: 3,400 ms",
        "between tokens: 16 ms median, 41 ms p99",
        "prompt: 4,334 tokens, 3,310 from the KV cache",
    ]
