"""What the eye finds: nothing is cut that has room, and every part of the window says the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtGui import QFontMetrics, QFontMetricsF
from PySide6.QtWidgets import QApplication

from desktop import theme
from desktop.chat import figures
from desktop.chat.model import Turn
from desktop.chat.pane import ChatPane
from desktop.chat.rowpaint import call_texts
from desktop.plots.cards import Card
from desktop.plots.panel import Panel
from desktop.theme import SMALL, mono_font, ui_font
from desktop.topbar import TopBar
from engine.errors import ErrorInfo
from engine.events import EngineExited, ModelLoaded
from engine.types import Timings, Usage
from tests.desktop.events import INFO, enveloped


def test_a_card_makes_its_figure_smaller_before_it_cuts_the_unit(qapp: QApplication) -> None:
    card = Card("latency p50 · p99", theme.current(), "")
    card.show_figure("29 · 73", "ms")
    small = QFontMetrics(ui_font(SMALL, tabular=True))
    narrowest = 14 + 5 + small.horizontalAdvance("ms") + 1
    narrowest += QFontMetrics(ui_font(13, bold=True, tabular=True)).horizontalAdvance("29 · 73")
    sizes = []
    for width in range(200, narrowest - 1, -1):
        _, pixels, unit = card.fitted(width)
        assert unit == "ms", width
        sizes.append(pixels)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (theme.LARGE, 13)
    assert card.fitted(narrowest - 5)[2] != "ms"
    caption, _, _ = card.fitted(small.horizontalAdvance("latency p50 · p99") + 15)
    assert caption == "latency p50 · p99"
    card.deleteLater()


def test_a_short_result_leaves_its_room_to_the_calls_arguments(qapp: QApplication) -> None:
    metrics = QFontMetricsF(mono_font(12))
    character = metrics.horizontalAdvance("x")
    arguments, told = call_texts(metrics, '{"expression":\n "2 * 48"}', "96", 60 * character)
    assert (arguments, told) == ('{"expression": "2 * 48"}', "→ 96")
    arguments, told = call_texts(metrics, "a" * 50, "96", 60 * character)
    assert (arguments, told) == ("a" * 50, "→ 96")
    arguments, told = call_texts(metrics, "a" * 500, "b" * 500, 60 * character)
    assert arguments.startswith("a" * 28)
    assert told.startswith("→ " + "b" * 24)
    assert metrics.horizontalAdvance(arguments + told) < 60 * character
    assert call_texts(metrics, "a" * 50, None, 60 * character) == ("a" * 50, "")


def test_figures_tell_of_no_prompt_that_was_never_read() -> None:
    turn = Turn(id="a1", role="assistant", usage=Usage(prompt_tokens=7, cached_tokens=0, completion_tokens=0))
    assert figures.line(replace(turn, timings=Timings())) == "0 tokens"
    assert figures.line(replace(turn, timings=Timings(queue_ms=2.0))) == "0 tokens · prompt 7 new"


def test_a_reason_begins_with_a_capital(qapp: QApplication) -> None:
    pane = ChatPane(theme.current())
    pane.set_engine_state("failed", "the engine ended 4 times within a minute")
    assert pane.composer.input.placeholderText() == "The engine ended 4 times within a minute"
    pane.deleteLater()


@pytest.mark.parametrize("gives_up", (True, False))
def test_the_panel_names_no_model_once_the_engine_is_given_up(qapp: QApplication, gives_up: bool) -> None:
    panel = Panel(theme.current())
    exited = EngineExited(
        epoch=4,
        expected=False,
        exit_code=None,
        signal="SIGKILL",
        log_tail="",
        will_restart=not gives_up,
        error=ErrorInfo(code="engine_failed", message="it ended 4 times") if gives_up else None,
    )
    panel.consume(enveloped([ModelLoaded(model="starter", info=INFO), exited]))
    assert panel._model_name._title == ("No model" if gives_up else "Tokenglass Starter")
    panel.deleteLater()


def test_the_menu_of_themes_marks_the_one_chosen(qapp: QApplication) -> None:
    top = TopBar(theme.current())
    for choice, words in (("light", "Light"), ("system", "As the system"), ("dark", "Dark")):
        top.show_theme_choice(choice)  # type: ignore[arg-type]  # one of the three
        marked = [action for action in top.theme_menu.actions() if action.text().startswith("●")]
        assert [action.text() for action in marked] == [f"●  {words}"]
        assert marked[0].isChecked()
    top.deleteLater()
