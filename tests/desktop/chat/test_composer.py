"""The composer by keyboard."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QMimeData, Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from desktop.chat.composer import Composer
from desktop.theme import DARK, LIGHT
from tests.desktop.chat.builders import WAIT_MS


@pytest.fixture
def composer(qtbot: QtBot) -> Composer:
    composer = Composer(DARK)
    qtbot.addWidget(composer)
    composer.resize(700, composer.sizeHint().height())
    composer.set_state(running=False, reason="")
    composer.show()
    qtbot.waitExposed(composer, timeout=WAIT_MS)
    return composer


def test_enter_sends_and_shift_enter_breaks_the_line(composer: Composer, qtbot: QtBot) -> None:
    qtbot.keyClicks(composer.input, "one")
    qtbot.keyClick(composer.input, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(composer.input, "two ")
    assert composer.text == "one\ntwo "
    with qtbot.waitSignal(composer.sendRequested) as sent:
        qtbot.keyClick(composer.input, Qt.Key.Key_Enter)
    assert sent.args == ["one\ntwo"]
    assert composer.text == ""


def test_blank_text_is_not_sent(composer: Composer, qtbot: QtBot) -> None:
    assert not composer.button.isEnabled()
    qtbot.keyClicks(composer.input, "  ")
    assert not composer.button.isEnabled()
    with qtbot.assertNotEmitted(composer.sendRequested):
        qtbot.keyClick(composer.input, Qt.Key.Key_Return)


def test_grows_from_one_line_to_eight(composer: Composer, qtbot: QtBot) -> None:
    line = composer.input.fontMetrics().lineSpacing()
    one = composer.input.height()
    heights = []
    for _ in range(12):
        composer.input.appendPlainText("next")
        heights.append(composer.input.height())
    assert heights[0] > one or heights[1] > one
    assert composer.input.height() == one + 7 * line
    composer.set_text("")
    assert composer.input.height() == one
    composer.set_text("long " * 100)
    assert composer.input.height() > one


def test_stop_in_place_of_send(composer: Composer, qtbot: QtBot) -> None:
    composer.set_state(running=True, reason="")
    assert composer.button.accessibleName() == "Stop"
    with qtbot.waitSignal(composer.stopRequested):
        qtbot.mouseClick(composer.button, Qt.MouseButton.LeftButton)


def test_pictures_are_not_pasted(composer: Composer) -> None:
    mime = QMimeData()
    mime.setHtml("<b>bold</b>")
    mime.setText("bold")
    composer.input.insertFromMimeData(mime)
    assert composer.text == "bold"
    composer.input.insertFromMimeData(QMimeData())
    assert composer.text == "bold"


def test_paste(composer: Composer, qtbot: QtBot) -> None:
    QGuiApplication.clipboard().setText("a\nb")
    qtbot.keyClick(composer.input, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert composer.text == "a\nb"


def test_themes(composer: Composer) -> None:
    composer.set_text("x")
    for theme in (DARK, LIGHT):
        composer.set_theme(theme)
        image = composer.grab().toImage()
        button = composer.button.mapTo(composer, composer.button.rect().topLeft())
        assert image.pixelColor(button.x() + 6, button.y() + 16).name() == theme.accent
