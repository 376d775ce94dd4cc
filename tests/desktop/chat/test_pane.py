"""The chat pane with hand-made events: asking, streaming, stopping, other answers, other programs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMenu, QPushButton
from pytestqt.qtbot import QtBot

from api.state import State
from desktop.chat import figures
from desktop.chat.pane import ChatPane
from desktop.theme import DARK, LIGHT
from engine.errors import ErrorInfo
from engine.events import (
    ConversationDeleted,
    ModelFailed,
    ModelLoading,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallDone,
)
from engine.types import ToolCall
from tests.desktop.chat.builders import (
    WAIT_MS,
    Stream,
    asked,
    conversation,
    delta,
    finished,
    message,
    progress,
    queued,
    started,
    stored,
    turns,
)


def click(qtbot: QtBot, pane: ChatPane, row: int, act: str) -> None:
    """Press a row's button with the mouse."""
    view = pane.view
    button = next(button for button in view.row(row).buttons if button.act == act)
    at = button.rect.center().toPoint() + QPoint(view.column_left, view.row_top(row))
    qtbot.mouseMove(view.viewport(), at)
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=at)


def texts(pane: ChatPane) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in pane.model.turns]


def test_a_question_and_its_answer(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.focus_composer()
    qtbot.keyClicks(pane.composer.input, "Hello?")
    with qtbot.waitSignal(pane.sendRequested) as sent:
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Return)
    assert sent.args == ["Hello?"]
    assert pane.composer.text == ""
    pane.consume(stream(*asked("Hello?")))
    assert pane.composer.button.accessibleName() == "Stop"
    for piece in ("Good ", "**day", "** to you"):
        pane.consume(stream(delta(piece)))
    assert texts(pane) == [("user", "Hello?"), ("assistant", "Good **day** to you")]
    pane.consume(stream(finished("Good **day** to you.")))
    turn = pane.model.turn(1)
    assert (turn.status, turn.text) == ("complete", "Good **day** to you.")
    assert turn.timings is not None
    assert pane.composer.button.accessibleName() == "Send"
    assert pane.view.row(1).pieces[0].text == "Good day to you."


def test_events_before_their_messages(pane: ChatPane, stream: Stream) -> None:
    events = asked()
    pane.consume(stream(events[2], events[3], delta("Al"), events[0], events[1]))
    pane.consume(stream(delta("so")))
    assert texts(pane) == [("user", "Hello?"), ("assistant", "Also")]


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop(pane: ChatPane, stream: Stream, qtbot: QtBot, way: str) -> None:
    pane.consume(stream(*asked(), delta("One two")))
    with qtbot.waitSignal(pane.stopRequested) as stopped:
        if way == "button":
            qtbot.mouseClick(pane.composer.button, Qt.MouseButton.LeftButton)
        else:
            qtbot.keyClick(pane.composer.input, Qt.Key.Key_Escape)
    assert stopped.args == ["g1"]
    pane.consume(stream(finished("One two", reason="cancelled")))
    assert pane.model.turn(1).status == "cancelled"
    with qtbot.assertNotEmitted(pane.stopRequested):
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Escape)


def test_nothing_is_sent_while_an_answer_runs(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.consume(stream(*asked()))
    qtbot.keyClicks(pane.composer.input, "next")
    with qtbot.assertNotEmitted(pane.sendRequested):
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Return)
    assert pane.composer.text == "next"


@pytest.mark.qt_log_ignore("grabbing the (keyboard|mouse)", extend=True)
def test_regenerate_and_variants(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.show_conversation(
        conversation(message("u1", "user", "Q"), message("a1", "assistant", "First", "u1"))
    )
    with qtbot.waitSignal(pane.regenerateRequested) as asked_again:
        click(qtbot, pane, 1, "regenerate")
    assert asked_again.args == ["u1"]
    pane.grab()
    answer = message("a2", "assistant", "", "u1", status="streaming", generation_id="g2")
    del answer["variants"], answer["variant"]
    pane.consume(stream(stored(answer), queued("g2", message_id="a2"), started("g2"), delta("Second", "g2")))
    assert texts(pane) == [("user", "Q"), ("assistant", "Second")]
    with qtbot.assertNotEmitted(pane.regenerateRequested):
        at = pane.view.viewport().rect().center()
        pane.view.selector.show_menu(QPoint(at.x(), pane.view.row_top(1) + 4), at)
        names = [action.text() for action in pane.view.findChildren(QMenu)[-1].actions()]
        assert "Regenerate" not in names
    pane.consume(stream(finished("Second", "g2")))
    turn = pane.model.turn(1)
    assert (turn.variants, turn.variant) == (("a1", "a2"), 1)
    assert pane.view.row(1).variant_label == "2/2"
    with qtbot.waitSignal(pane.variantRequested) as other:
        click(qtbot, pane, 1, "variant")
    assert other.args == ["a1"]


def test_a_conversation_opened_while_it_is_answered(pane: ChatPane, stream: Stream) -> None:
    pane.show_conversation(None)
    pane.consume(stream(*asked(), delta("Streamed so far")))
    lagging = message("a1", "assistant", "Strea", "u1", status="streaming", generation_id="g1")
    pane.show_conversation(conversation(message("u1", "user", "Hello?"), lagging))
    assert pane.model.turn(1).text == "Streamed so far"
    pane.consume(stream(delta(", and on")))
    assert pane.model.turn(1).text == "Streamed so far, and on"


def test_starting_again_from_a_snapshot(pane: ChatPane, stream: Stream) -> None:
    """After missed events the text is that of the snapshot, and tokens in both count once."""
    bus = [*stream(*asked("Hello?")), *stream(delta("One "), delta("two "), delta("three "), delta("four"))]
    state = State()
    for envelope in bus[:-1]:
        state.fold(envelope)
    pane.reset_stream(state.snapshot())
    waiting = message("a1", "assistant", "", "u1", status="streaming", generation_id="g1")
    pane.show_conversation(conversation(message("u1", "user", "Hello?"), waiting))
    assert pane.model.turn(1).text == "One two three "
    pane.consume(bus[-2:])
    assert pane.model.turn(1).text == "One two three four"


def test_a_generation_whose_beginning_was_missed(pane: ChatPane, stream: Stream) -> None:
    waiting = message("a1", "assistant", "Kept ", "u1", status="streaming", generation_id="g1")
    pane.show_conversation(conversation(message("u1", "user", "Hello?"), waiting))
    pane.consume(stream(delta("later")))
    assert pane.model.turn(1).text == "Kept "
    pane.consume(stream(finished("Kept and later")))
    assert (pane.model.turn(1).text, pane.model.turn(1).status) == ("Kept and later", "complete")


def test_other_conversations_are_left_alone(pane: ChatPane, stream: Stream) -> None:
    pane.show_conversation(conversation(message("x", "user", "Mine"), identifier="c2"))
    pane.consume(stream(*asked(), delta("Not here")))
    assert texts(pane) == [("user", "Mine")]
    assert pane.running is None


def test_progress_before_the_first_token(pane: ChatPane, stream: Stream) -> None:
    events = asked()
    pane.consume(stream(*events[:3]))
    assert pane.model.turn(1).phase == "queued"
    pane.consume(stream(started(prompt=1024, cached=100)))
    turn = pane.model.turn(1)
    assert (turn.phase, turn.done, turn.total) == ("prompt", 100, 1024)
    pane.consume(stream(progress(312, 1024)))
    assert pane.model.turn(1).done == 312
    pane.consume(stream(delta("Now")))
    assert pane.model.turn(1).phase == "decoding"


def test_what_a_queued_generation_waits_for(pane: ChatPane, stream: Stream) -> None:
    pane.consume(stream(ModelLoading(model="starter", progress=0.42), *asked()[:3]))
    assert figures.progress(pane.model.turn(1), pane.view.waiting) == "waiting for the model to load · 42%"
    pane.consume(stream(ModelFailed(model="x", error=ErrorInfo(code="load_failed", message="no"))))
    assert figures.progress(pane.model.turn(1), pane.view.waiting) == "waiting for a slot"


def test_an_error_says_what_happened(pane: ChatPane, stream: Stream) -> None:
    error = ErrorInfo(code="engine_lost", message="the engine ended", hint="ask again")
    pane.consume(stream(*asked(), delta("Half"), finished("Half", reason="error", error=error)))
    turn = pane.model.turn(1)
    assert (turn.status, turn.text, turn.error) == ("error", "Half", error)
    pane.grab()


def test_what_calls_gave_stands_with_them(pane: ChatPane, stream: Stream) -> None:
    """Live, and when the conversation is opened again; the answer that goes on stands below."""
    calls = [ToolCall(id=key, name="clock", arguments="{}") for key in ("t1", "t2")]
    pane.consume(
        stream(*asked(), *(ToolCallDone(generation_id="g1", call=call) for call in calls), finished(""))
    )
    results = [
        message(f"r{n}", "tool", f"12:3{n}", "a1" if n == 1 else "r1", tool_call_id=f"t{n}") for n in (1, 2)
    ]
    answer = message("a2", "assistant", "", "r2", status="streaming", generation_id="g2")
    pane.consume(stream(*map(stored, results), stored(answer), queued("g2", message_id="a2"), started("g2")))
    pane.consume(stream(delta("Half past", "g2")))
    told = (("t1", "12:31"), ("t2", "12:32"))
    assert pane.model.turn(1).tool_results == told
    assert texts(pane)[1:] == [("assistant", ""), ("assistant", "Half past")]
    pane.consume(stream(finished("Half past twelve.", "g2")))
    pane.consume(
        stream(stored(message("a1", "assistant", "", "u1", tool_calls=[c.model_dump() for c in calls])))
    )
    assert pane.model.turn(1).tool_results == told
    # another answer to the results takes the place of the first
    pane.consume(stream(stored(message("a3", "assistant", "Noon.", "r2", variants=["a2", "a3"], variant=1))))
    assert texts(pane)[1:] == [("assistant", ""), ("assistant", "Noon.")]
    again = [
        message("u1", "user", "Hello?"),
        message("a1", "assistant", "", "u1", tool_calls=[call.model_dump() for call in calls]),
        *results,
        message("a3", "assistant", "Noon.", "r2"),
    ]
    pane.show_conversation(None)
    pane.show_conversation(conversation(*again))
    assert pane.model.turn(1).tool_results == told
    assert pane.model.turn(2).text == "Noon."
    pane.grab()
    with_four = message("a4", "assistant", "One.", "r2", variants=["a3", "a4"], variant=1)
    pane.consume(stream(stored(with_four)))
    assert texts(pane)[1:] == [("assistant", ""), ("assistant", "One.")]


def test_tool_calls_and_reasoning(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    call = ToolCall(id="t", name="calculator", arguments='{"expression": "12 + 30"}')
    pane.consume(stream(*asked(), ReasoningDelta(generation_id="g1", text="Let me see", tokens=[])))
    pane.consume(stream(ToolCallDelta(generation_id="g1", call_id="t", text='{"name', tokens=[])))
    assert pane.model.turn(1).tool_calls[0].arguments == '{"name'
    more = ToolCallDelta(
        generation_id="g1", call_id="t", text='": …', tokens=[], name="calculator", arguments='{"e'
    )
    pane.consume(stream(more))
    assert pane.model.turn(1).tool_calls == (ToolCall(id="t", name="calculator", arguments='{"e'),)
    pane.consume(stream(ToolCallDone(generation_id="g1", call=call)))
    assert pane.model.turn(1).tool_calls == (call,)
    closed = pane.view.row(1).height
    click(qtbot, pane, 1, "thought")
    row = pane.view.row(1)
    assert row.height > closed
    assert row.pieces[0].text == "Let me see"
    click(qtbot, pane, 1, "thought")
    assert pane.view.row(1).height == closed


def test_long_messages_are_folded(pane: ChatPane, qtbot: QtBot) -> None:
    long = "\n".join(f"line {number}" for number in range(500))
    pane.show_conversation(
        conversation(message("u1", "user", long), message("a1", "assistant", "Yes.", "u1"))
    )
    folded = pane.view.row(0).height
    pane.view.verticalScrollBar().setValue(pane.view.verticalScrollBar().maximum())
    click(qtbot, pane, 0, "more")
    row = pane.view.row(0)
    assert row.height > 5 * folded
    assert row.pieces[0].text == long
    pane.set_theme(LIGHT)
    assert pane.view.row(0).height == row.height
    click(qtbot, pane, 0, "copy")
    assert QGuiApplication.clipboard().text() == long


def test_other_programs_live(pane: ChatPane, stream: Stream, qtbot: QtBot) -> None:
    pane.consume(
        stream(queued("f1", conversation_id=None, name="watch.py", client="s", origin="live", text="Why?"))
    )
    pane.consume(stream(*asked("Mine")))
    pane.show_live()
    pane.consume(stream(started("f1"), delta("Because", "f1")))
    pane.consume(
        stream(queued("f2", conversation_id=None, name="bot", client="b", origin="responses", text="And?"))
    )
    assert texts(pane) == [("user", "Why?"), ("assistant", "Because"), ("user", "And?"), ("assistant", "")]
    assert [turn.client_name for turn in pane.model.turns] == ["watch.py", "watch.py", "bot", "bot"]
    assert not pane.composer.isVisible()
    assert not any(button.act == "regenerate" for button in pane.view.row(1).buttons)
    pane.show_live("b")
    assert texts(pane) == [("user", "And?"), ("assistant", "")]
    pane.show_conversation(None)
    assert pane.composer.isVisible()
    assert texts(pane) == []


def test_drafts_stay_with_their_conversations(pane: ChatPane, qtbot: QtBot) -> None:
    qtbot.keyClicks(pane.composer.input, "for the first")
    pane.show_conversation(conversation(identifier="c2"))
    assert pane.composer.text == ""
    qtbot.keyClicks(pane.composer.input, "for the second")
    pane.show_live()
    pane.show_conversation(conversation(identifier="c1"))
    assert pane.composer.text == "for the first"
    pane.show_conversation(conversation(identifier="c2"))
    assert pane.composer.text == "for the second"


def test_what_is_typed_while_the_first_message_is_sent_stays(pane: ChatPane, qtbot: QtBot) -> None:
    pane.show_conversation(None)
    pane.set_busy(True)
    qtbot.keyClicks(pane.composer.input, "and more")
    with qtbot.assertNotEmitted(pane.sendRequested):
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Return)
    pane.show_conversation(conversation(identifier="new"))
    pane.set_busy(False)
    assert pane.composer.text == "and more"
    assert pane.composer.button.isEnabled()


def test_a_conversation_shown_again_keeps_what_is_being_written(pane: ChatPane, qtbot: QtBot) -> None:
    qtbot.keyClicks(pane.composer.input, "half a sen")
    pane.show_conversation(conversation(message("u1", "user", "Q")))
    assert pane.composer.text == "half a sen"


def test_suggestions(pane: ChatPane, qtbot: QtBot) -> None:
    button = next(button for button in pane.empty.findChildren(QPushButton) if "12 + 30" in button.text())
    with qtbot.waitSignal(pane.sendRequested) as sent:
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert sent.args == ["What is 12 + 30?"]
    pane.set_engine_state("loading")
    assert not button.isEnabled()


def test_an_engine_that_is_not_ready_says_why(pane: ChatPane, qtbot: QtBot) -> None:
    pane.set_engine_state("loading", "Loading starter…")
    assert pane.composer.input.placeholderText() == "Loading starter…"
    qtbot.keyClicks(pane.composer.input, "Hi")
    with qtbot.assertNotEmitted(pane.sendRequested):
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Return)
    pane.set_engine_state("ready")
    assert pane.composer.input.placeholderText() == "Write a message…"
    with qtbot.waitSignal(pane.sendRequested):
        qtbot.keyClick(pane.composer.input, Qt.Key.Key_Return)


def test_ctrl_shift_c_copies_the_last_answer(pane: ChatPane, qtbot: QtBot) -> None:
    pane.show_conversation(turns(4, answer="Take *this*"))
    pane.activateWindow()
    pane.focus_composer()
    qtbot.waitUntil(pane.isActiveWindow, timeout=WAIT_MS)
    QGuiApplication.clipboard().setText("old")
    modifiers = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(pane.composer.input, Qt.Key.Key_C, modifiers)
    assert QGuiApplication.clipboard().text() == "Take *this*"


def test_a_deleted_conversation_leaves_the_screen(pane: ChatPane, stream: Stream) -> None:
    pane.show_conversation(turns(4))
    pane.consume(stream(ConversationDeleted(conversation_id="c1")))
    assert pane.conversation_id is None
    assert len(pane.model) == 0


def test_a_theme_switch_repaints_everything(pane: ChatPane) -> None:
    pane.show_conversation(turns(6))
    heights = [pane.view.row(row).height for row in range(6)]
    colours = []
    for theme in (DARK, LIGHT):
        pane.set_theme(theme)
        image = pane.grab().toImage()
        colours.append(image.pixelColor(2, 2).name())
        user = pane.view.row_top(4) + 10
        if 0 < user < pane.view.height():
            right = pane.view.column_left + pane.view.column_width - 4
            assert image.pixelColor(right, user).name() == theme.user_bg
    assert colours == [DARK.window, LIGHT.window]
    assert [pane.view.row(row).height for row in range(6)] == heights


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_split_of_an_answer_looks_the_same(pane: ChatPane, data: st.DataObject) -> None:
    text = (
        "# Head\n\nSome `code` and **bold**\n\n```python\nx = '''a\nb'''\n```\n\n"
        "1. one\n2. two\n\n|a|b|\n|-|-|\n|🙂|2|\n"
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=20)))
    stream = Stream()
    pane.show_conversation({"conversation": {"id": "c1"}, "messages": []})
    pane.reset_stream()
    pane.consume(stream(*asked()))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pane.consume(stream(delta(text[start:end])))
        pane.view.row(1)
    pane.consume(stream(finished(text)))
    streamed = pane.view.row(1)
    pane.show_conversation(conversation(message("u1", "user", "Q"), message("a1", "assistant", text, "u1")))
    whole = pane.view.row(1)
    assert [piece.block for piece in streamed.pieces] == [piece.block for piece in whole.pieces]
    assert [piece.height for piece in streamed.pieces] == [piece.height for piece in whole.pieces]
    assert streamed.tops == whole.tops
