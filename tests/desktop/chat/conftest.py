"""A chat pane on the screen that isn't there."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from desktop.chat.pane import ChatPane
from desktop.theme import DARK
from tests.desktop.chat.builders import WAIT_MS, Stream


@pytest.fixture
def pane(qtbot: QtBot) -> ChatPane:
    """Shown, with a ready engine and an open conversation without messages."""
    pane = ChatPane(DARK)
    qtbot.addWidget(pane)
    pane.resize(900, 700)
    pane.set_engine_state("ready")
    pane.show_conversation({"conversation": {"id": "c1", "title": ""}, "messages": []})
    pane.show()
    qtbot.waitExposed(pane, timeout=WAIT_MS)
    return pane


@pytest.fixture
def stream() -> Stream:
    return Stream()
