"""The user's hands on an answer that is being written: buttons, the composer of a paused answer, tokens."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest

from desktop.chat.alternatives import Alternatives, visible
from desktop.chat.model import Turn
from desktop.controller import Controller
from tests.desktop.conftest import Drive, OpenWindow, until
from tests.desktop.test_window import SLOW, answered, ask, turns

pytestmark = pytest.mark.qt_log_ignore(
    "This plugin does not support grabbing the keyboard",
    r"This plugin does not support raise\(\)",
    extend=True,
)


def last(controller: Controller) -> Turn:
    return turns(controller)[-1]


async def paused_answer(controller: Controller) -> Turn:
    """Ask, let some tokens come, and press Pause."""
    await ask(controller, "Write for a while")
    await until(lambda: len(turns(controller)) == 2 and len(last(controller).tokens) > 12)
    controller.window.top.hands.pause_button.click()
    await until(lambda: last(controller).paused)
    return last(controller)


def test_pause_holds_the_answer_and_resume_goes_on(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            hands = controller.window.top.hands
            assert hands.isHidden()
            held = await paused_answer(controller)
            assert not hands.isHidden()
            assert hands.step_button.isEnabled()
            snapshot = await controller.client.request("snapshot")
            assert [generation["state"] for generation in snapshot["generations"]] == ["paused"]
            assert last(controller).text == held.text
            hands.pause_button.click()
            await until(lambda: len(last(controller).tokens) > len(held.tokens) + 5)
            assert not last(controller).paused
            controller.window.chat.stopRequested.emit(held.generation_id)
            await until(lambda: answered(controller))
            await until(hands.isHidden)

    drive(scenario())


def test_a_step_writes_one_token(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            held = await paused_answer(controller)
            controller.window.top.hands.step_button.click()
            await until(lambda: len(last(controller).tokens) == len(held.tokens) + 1)
            await until(lambda: last(controller).paused)

    drive(scenario())


def test_rewind_takes_tokens_back(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            held = await paused_answer(controller)
            controller.window.top.hands.rewind_button.click()
            await until(lambda: len(last(controller).tokens) == len(held.tokens) - 8)
            assert held.text.startswith(last(controller).text)

    drive(scenario())


def test_what_is_written_while_paused_goes_into_the_answer(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            held = await paused_answer(controller)
            composer = controller.window.chat.composer
            composer.set_text(" and here a person wrote")
            assert composer.button.text() == "Insert"
            QTest.keyClick(composer.input, Qt.Key.Key_Return)
            await until(lambda: last(controller).text == held.text + " and here a person wrote")
            assert composer.text == ""
            assert "Stop" in composer.button.text()
            controller.window.top.hands.pause_button.click()
            await until(lambda: len(last(controller).tokens) > len(held.tokens) + 10)
            assert last(controller).text.startswith(held.text + " and here a person wrote")

    drive(scenario())


def test_other_sampling_applies_to_the_answer_that_runs(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            held = await paused_answer(controller)
            popover = controller.window.top.popover
            assert "next token" in popover.note.text()
            controller.window.top.samplingChanged.emit({"temperature": 1.25})

            def updated() -> bool:
                generation = controller.core.state.generations[held.generation_id]
                sampling = generation.public()["sampling"]
                return sampling is not None and sampling["temperature"] == 1.25

            await until(updated)
            await until(lambda: controller.core.settings.current.sampling.temperature == 1.25)

    drive(scenario())


def test_a_branch_begins_at_the_pressed_token(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model=SLOW) as controller:
            window = controller.window
            window.top.tokens_button.setChecked(True)
            held = await paused_answer(controller)
            row = window.chat.view.row(1)
            token = held.tokens[5]
            assert len(token["top"]) == 6
            other = token["top"][2]
            window.chat.view.tokenPressed.emit(held.generation_id, token, QPoint(10, 10))
            popup = window.chat.findChild(Alternatives)
            assert popup is not None
            assert len(popup.rows) == 6
            popup.rows[2].click()
            kept = "".join(token["text"] for token in held.tokens[:5])
            await until(
                lambda: any(
                    generation.text and "".join(generation.text).startswith(kept + other["text"])
                    for key, generation in controller.core.state.generations.items()
                    if key != held.generation_id
                )
            )
            assert row.pieces

    drive(scenario())


def test_every_token_can_be_found_in_the_text(drive: Drive, open_window: OpenWindow) -> None:
    async def scenario() -> None:
        async with open_window(model="fake:tokens=60") as controller:
            window = controller.window
            window.top.tokens_button.setChecked(True)
            await ask(controller, "Write")
            await until(lambda: answered(controller))
            turn = last(controller)
            assert "".join(token["text"] for token in turn.tokens) == turn.text
            row = window.chat.view.row(1)
            piece, top = row.pieces[0], row.tops[0]
            found = {
                token["index"]
                for y in range(4, int(piece.height), 8)
                for x in range(0, int(row.width), 2)
                if (token := row.token(x, top + y)) is not None
            }
            seen = {token["index"] for token in turn.tokens if token["text"].strip()}
            assert seen <= found
            window.top.tokens_button.setChecked(False)
            assert window.chat.view.row(1).token(4, top + 4) is None

    drive(scenario())


def test_white_space_is_to_be_seen() -> None:
    assert visible(" the\n") == "·the⏎"
    assert visible("") == "(no text)"
