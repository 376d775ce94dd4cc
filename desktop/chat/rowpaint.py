"""Paints a laid-out row."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter

from desktop.chat import figures
from desktop.chat.lines import CodePiece
from desktop.chat.pieces import Piece
from desktop.chat.rows import CARD, HEADER, LINE_ROW, Act, Button, Place, Row
from desktop.chat.style import QUOTE
from desktop.chat.textlayout import Selection

BAR = 172
"""Width of the ledger and of the prompt's progress."""
RESULT_SHOWN = 500
"""Characters of what a call gave that are looked at."""
MIDDLE = Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True, slots=True)
class Look:
    """What a row's looks depend on beside its turn."""

    selection: tuple[Place, Place] | None = None
    """First place first."""
    active: bool = False
    """Show the quiet buttons."""
    button: Button | None = None
    """Under the mouse."""
    blocked: frozenset[Act] = frozenset()
    waiting: str = ""
    """Why the engine takes nothing now."""
    noted: tuple[str, str] | None = None
    """An act that was just done, and what its button says meanwhile."""


def paint_row(painter: QPainter, row: Row, at: QPointF, top: float, bottom: float, look: Look) -> None:
    """Paint what lies between `top` and `bottom` of the row, with the row's corner at `at`."""
    if row.turn.role == "user":
        _bubble(painter, row, at)
    else:
        _head(painter, row, at)
        _calls(painter, row, at)
    number = max(0, row.piece_at(top))
    while number < len(row.pieces) and row.tops[number] <= bottom:
        piece, y = row.pieces[number], row.tops[number]
        if isinstance(piece, CodePiece):
            over = look.button
            piece.copy_hovered = over is not None and over.act == "code" and over.argument == str(number)
        _quote_bars(painter, row, at, number)
        selected = _share(look.selection, number, piece)
        piece.paint(painter, at + QPointF(row.left, y), top - y, bottom - y, selected)
        number += 1
    if row.thought is not None:
        line = QRectF(4, row.tops[0], 2, row.thought.height)
        _bar(painter, line.translated(at), row.style.border)
    if row.turn.role == "assistant":
        _foot(painter, row, at, look.waiting)
    _buttons(painter, row, at, look)


def _share(selection: tuple[Place, Place] | None, number: int, piece: Piece) -> Selection | None:
    """What of a selection falls into one piece."""
    if selection is None or not selection[0].piece <= number <= selection[1].piece:
        return None
    start = selection[0].position if number == selection[0].piece else 0
    end = selection[1].position if number == selection[1].piece else piece.length
    return start, end


def _bar(painter: QPainter, rect: QRectF, colour: QColor) -> None:
    radius = min(rect.width(), rect.height()) / 2
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawRoundedRect(rect, radius, radius)


def _bubble(painter: QPainter, row: Row, at: QPointF) -> None:
    style, turn = row.style, row.turn
    if turn.foreign:
        painter.setFont(style.small)
        painter.setPen(style.tool)
        head = QRectF(0, 0, row.width, HEADER - 8).translated(at)
        text = " · ".join(filter(None, (turn.client_name, _ORIGINS.get(turn.origin, turn.origin))))
        painter.drawText(head, Qt.AlignmentFlag.AlignRight | MIDDLE, text)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(style.foreign_background if turn.foreign else style.user_background)
    painter.drawRoundedRect(row.bubble.translated(at), 12, 12)


_ORIGINS = {
    "live": "live",
    "cli": "terminal",
    "responses": "Responses API",
    "chat_completions": "Chat Completions API",
    "completions": "Completions API",
    "bench": "bench",
}


def _head(painter: QPainter, row: Row, at: QPointF) -> None:
    painter.setFont(row.style.small)
    painter.setPen(row.style.muted)
    painter.drawText(QRectF(0, 0, row.width, 20).translated(at), MIDDLE, row.turn.model)


def _calls(painter: QPainter, row: Row, at: QPointF) -> None:
    """One line for each tool call, with what it gave."""
    style, results = row.style, dict(row.turn.tool_results)
    y = row.cards_top
    for call in row.turn.tool_calls:
        card = QRectF(0, y, row.width, CARD).translated(at)
        painter.setPen(style.line)
        painter.setBrush(style.panel)
        painter.drawRoundedRect(card.adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)
        inner = card.adjusted(12, 0, -12, 0)
        name = call.name or "calls a tool"
        painter.setFont(style.small_bold)
        painter.setPen(style.tool)
        painter.drawText(inner, MIDDLE, name)
        inner.setLeft(inner.left() + style.small_bold_metrics.horizontalAdvance(name) + 8)
        painter.setFont(style.small_code)
        painter.setPen(style.muted)
        metrics = style.small_code_metrics
        arguments, told = call_texts(metrics, call.arguments, results.get(call.id), inner.width())
        painter.drawText(inner, MIDDLE, arguments)
        inner.setLeft(inner.left() + metrics.horizontalAdvance(arguments) + 8)
        painter.setPen(style.text)
        painter.drawText(inner, MIDDLE, told)
        y += CARD + 8


def call_texts(metrics: QFontMetricsF, arguments: str, result: str | None, room: float) -> tuple[str, str]:
    """A call's arguments and what it gave, on one line of that width; where it is short, each gets a half."""
    elide = Qt.TextElideMode.ElideRight
    told = "" if result is None else "→ " + " ".join(result[:RESULT_SHOWN].split())
    left = room - metrics.horizontalAdvance(told) - 10 if told else room
    arguments = metrics.elidedText(" ".join(arguments.split()), elide, max(left, room / 2))
    return arguments, metrics.elidedText(told, elide, room - metrics.horizontalAdvance(arguments) - 8)


def _quote_bars(painter: QPainter, row: Row, at: QPointF, number: int) -> None:
    quote = row.pieces[number].block.quote
    if not quote:
        return
    top = row.tops[number]
    bottom = top + row.pieces[number].height
    following = row.pieces[number + 1].block.quote if number + 1 < len(row.pieces) else 0
    for level in range(quote):
        end = row.tops[number + 1] if level < following else bottom
        _bar(painter, QRectF(level * QUOTE, top, 3, end - top).translated(at), row.style.border)


def _foot(painter: QPainter, row: Row, at: QPointF, waiting: str) -> None:
    style, turn = row.style, row.turn
    if turn.status == "streaming":
        _progress(painter, row, at, waiting)
    notes = figures.notes(turn)
    y = row.body_end + 8
    painter.setFont(style.small)
    for text, colour in notes:
        painter.setPen(QColor(getattr(style.theme, colour)))
        area = QRectF(0, y, row.width, LINE_ROW).translated(at)
        painter.drawText(
            area, MIDDLE, style.small_metrics.elidedText(text, Qt.TextElideMode.ElideRight, row.width)
        )
        y += LINE_ROW
    if not row.figures_rect.isEmpty():
        _figures(painter, row, at)


def _figures(painter: QPainter, row: Row, at: QPointF) -> None:
    style = row.style
    text = figures.line(row.turn)
    painter.setFont(style.figures)
    painter.setPen(style.muted)
    painter.drawText(row.figures_rect.translated(at), MIDDLE, text)
    shares = figures.ledger(row.turn)
    x = style.figures_metrics.horizontalAdvance(text) + 16
    room = min(BAR, row.width - x)
    if not shares or room < 48:
        return
    total = sum(share.ms for share in shares)
    left = x + at.x()
    y = row.figures_rect.center().y() - 2 + at.y()
    for share in shares:
        # A part that is there is seen, however short.
        width = max(2.0, (room - 2 * len(shares)) * share.ms / total)
        _bar(painter, QRectF(left, y, width, 4), QColor(getattr(style.theme, share.colour)))
        left += width + 1


def _progress(painter: QPainter, row: Row, at: QPointF, waiting: str) -> None:
    style, turn = row.style, row.turn
    text = figures.progress(turn, waiting)
    if turn.paused:
        _paused(painter, row, at)
        return
    if not text:
        _bar(painter, _caret(row).translated(at), style.caret)
        return
    y = row.body_end - LINE_ROW
    painter.setFont(style.figures)
    painter.setPen(style.muted)
    painter.drawText(QRectF(0, y, row.width, LINE_ROW).translated(at), MIDDLE, text)
    if turn.phase == "prompt" and turn.total:
        x = style.figures_metrics.horizontalAdvance(figures.widest_progress(turn)) + 16
        bar = QRectF(x, y + 10, BAR, 4).translated(at)
        _bar(painter, bar, style.border)
        bar.setWidth(max(4.0, BAR * min(1.0, turn.done / turn.total)))
        _bar(painter, bar, style.tool)


def _paused(painter: QPainter, row: Row, at: QPointF) -> None:
    """Two bars in the caret's place, and a word below the text."""
    style = row.style
    caret = _caret(row).translated(at)
    caret.setWidth(3)
    _bar(painter, caret, style.warn)
    _bar(painter, caret.translated(6, 0), style.warn)
    painter.setFont(style.small)
    painter.setPen(style.warn)
    line = QRectF(0, row.body_end + 4, row.width, LINE_ROW).translated(at)
    painter.drawText(line, MIDDLE, "Paused")


def _caret(row: Row) -> QRectF:
    """Behind the last character of the answer."""
    last = row.pieces[-1] if row.pieces else None
    if last is None or last is row.thought or not last.runs:
        return QRectF(0, row.body_end - LINE_ROW + 3, 8, 18)
    run = last.runs[-1]
    line = run.lines[-1]
    x = row.left + run.x + line.naturalTextRect().right() + 3
    middle = row.tops[-1] + run.y + line.y() + line.height() / 2
    return QRectF(x, middle - 9, 3, 18)


def _buttons(painter: QPainter, row: Row, at: QPointF, look: Look) -> None:
    style = row.style
    painter.setFont(style.small)
    for button in row.buttons:
        if button.act in look.blocked or (button.quiet and not look.active):
            continue
        rect = button.rect.translated(at)
        over = button == look.button
        if over:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(style.hover)
            painter.drawRoundedRect(rect, 6, 6)
        painter.setPen(style.text if over else style.muted)
        done = look.noted is not None and look.noted[0] == button.act
        label = look.noted[1] if done and look.noted else button.label
        if button.act == "variant":
            painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, label)
        else:
            painter.drawText(rect.adjusted(8, 0, 0, 0), MIDDLE, label)
    if look.active and not row.variant_rect.isEmpty():
        painter.setFont(style.figures)
        painter.setPen(style.muted)
        painter.drawText(row.variant_rect.translated(at), Qt.AlignmentFlag.AlignCenter, row.variant_label)
