"""The transcript's model, checked as Qt checks models."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from desktop.chat.model import Role, TranscriptModel, Turn, is_shown
from engine.types import Timings, Usage
from tests.desktop.chat.builders import TIMINGS, USAGE, message


def test_keeps_qts_rules(qtmodeltester: ModelTester, qtbot: QtBot) -> None:
    model = TranscriptModel()
    qtmodeltester.check(model)
    model.reset([Turn("u", "user", "Hi"), Turn("a", "assistant", status="streaming", generation_id="g")])
    model.append(Turn("u2", "user", "More"))
    model.change(1, text="Hel")
    model.change(1, text="Hello", status="complete")
    model.truncate(2)
    model.truncate(0)
    model.append(Turn("x", "user", "Again"))
    qtmodeltester.check(model)


def test_roles() -> None:
    turn = Turn.from_message(
        message(
            "a",
            "assistant",
            "Text",
            "u",
            usage=USAGE,
            timings=TIMINGS,
            generation_id="g",
            variants=["a", "b"],
        )
    )
    model = TranscriptModel()
    model.append(turn)
    index = model.index(0)
    expected = {
        Role.ID: "a",
        Role.TEXT: "Text",
        Role.ROLE: "assistant",
        Role.STATUS: "complete",
        Role.MODEL: "starter",
        Role.ORIGIN: "window",
        Role.GENERATION_ID: "g",
        Role.USAGE: Usage.model_validate(USAGE),
        Role.TIMINGS: Timings.model_validate(TIMINGS),
        Role.VARIANTS: ("a", "b"),
        Qt.ItemDataRole.DisplayRole: "Text",
        Qt.ItemDataRole.AccessibleTextRole: "starter: Text",
    }
    assert {role: model.data(index, role) for role in expected} == expected
    assert model.data(QModelIndex(), Role.TEXT) is None
    assert bytes(model.roleNames()[Role.GENERATION_ID].data()) == b"generation_id"


def test_rows_are_found_by_message_and_generation() -> None:
    model = TranscriptModel()
    model.reset([Turn("u", "user"), Turn("a", "assistant", generation_id="g")])
    assert (model.row_of("a"), model.row_of_generation("g")) == (1, 1)
    model.change(1, generation_id="h")
    assert (model.row_of_generation("g"), model.row_of_generation("h")) == (None, 1)
    model.truncate(1)
    assert (model.row_of("a"), model.row_of_generation("h")) == (None, None)


def test_unchanged_rows_are_not_announced(qtbot: QtBot) -> None:
    model = TranscriptModel()
    model.reset([Turn("u", "user", "Hi")])
    with qtbot.assertNotEmitted(model.dataChanged):
        model.change(0, text="Hi")
    with qtbot.waitSignal(model.dataChanged):
        model.change(0, text="Ho")


def test_system_messages_are_not_shown() -> None:
    assert not is_shown({"id": "s", "role": "system", "content": "Be kind."})
    assert is_shown({"id": "u", "role": "user", "content": "Hi"})


def test_stored_messages_are_read_when_they_are_looked_at() -> None:
    model = TranscriptModel()
    model.reset([message("u", "user", "Hi"), message("a", "assistant", "Ho\n", "u", status="streaming")])
    assert (model.id_at(1), model.size(0), model.size(1)) == ("a", (True, 2, 0), (False, 3, 1))
    assert model.running == model.turn(1)
    assert model.turn(0) == Turn.from_message(message("u", "user", "Hi"))
