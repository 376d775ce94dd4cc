"""One laid-out turn: its pieces, its figures and its buttons, measured once and painted many times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter

from desktop.chat import figures
from desktop.chat.markdown import Block, StreamingMarkdown
from desktop.chat.model import Turn
from desktop.chat.pieces import CodePiece, LinesPiece, Piece, cut, make_piece
from desktop.chat.style import Style

Act = Literal["copy", "regenerate", "variant", "thought", "code"]

BUBBLE_X, BUBBLE_Y = 14, 8
HEADER = 24
ACTIONS = 28
ROW_GAP = 20
CARD = 36
LEDGER = 172


@dataclass(frozen=True, slots=True)
class Button:
    """A place in a row that does something. `argument` is a message id or a piece's number."""

    act: Act
    rect: QRectF
    label: str
    argument: str = ""
    quiet: bool = True
    """Shown only while the mouse is over the row, or for the last answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """A character in a row."""

    piece: int
    position: int


@dataclass(slots=True)
class Look:
    """What a row's looks depend on beside its turn."""

    selection: tuple[Place, Place] | None = None
    hovered: bool = False
    """Show the quiet buttons."""
    button: Button | None = None
    """Under the mouse."""
    noted: tuple[str, str] | None = None
    """An act that was just done, and what its button says meanwhile."""


class Row:
    """A turn laid out for one width. Coordinates are the column's: x from its left edge, y from the row's top."""

    def __init__(self, turn: Turn, style: Style, width: float, *, open_thought: bool = False) -> None:
        self.style = style
        self.width = width
        self.height = 0
        self.pieces: list[Piece] = []
        self.tops: list[float] = []
        self.buttons: list[Button] = []
        self.figures_rect = QRectF()
        self._open_thought = open_thought
        self._markdown = StreamingMarkdown()
        self._fed = ""
        self._committed = 0
        self._thought: LinesPiece | None = None
        self._x = 0.0
        self._bubble = QRectF()
        self._body_end = 0.0
        self.turn = turn
        self._build()

    def update(self, turn: Turn) -> None:
        """Take over a newer state of the same turn; text that was appended costs only its tail."""
        self.turn = turn
        self._build()

    @property
    def open_thought(self) -> bool:
        return self._open_thought

    # layout

    def _build(self) -> None:
        self.buttons = []
        if self.turn.role == "user":
            self._build_user()
        else:
            self._build_answer()

    def _build_user(self) -> None:
        turn, style = self.turn, self.style
        y = float(HEADER) if turn.foreign else 0.0
        block = Block("code", text=turn.text)
        if not self.pieces or not self.pieces[0].update(block):
            self.pieces = [LinesPiece(block, style)]
        piece = self.pieces[0]
        assert isinstance(piece, LinesPiece)
        piece.layout(int(self.width * 0.82) - 2 * BUBBLE_X)
        inner = piece.natural_width
        self._x = round(self.width - BUBBLE_X - inner)
        self._bubble = QRectF(
            self._x - BUBBLE_X, y, self.width - self._x + BUBBLE_X, piece.height + 2 * BUBBLE_Y
        )
        self.tops = [y + BUBBLE_Y]
        wide = self._button_width("Copy")
        self.buttons.append(
            Button("copy", QRectF(self._bubble.left() - wide - 8, self._bubble.top() + 6, wide, 28), "Copy")
        )
        self.height = int(self._bubble.bottom()) + ROW_GAP + 4

    def _build_answer(self) -> None:
        turn = self.turn
        self._x = 0.0
        y = float(HEADER)
        thought = None
        if turn.reasoning:
            y, thought = self._build_thought(y)
        y += (CARD + 8) * len(turn.tool_calls)
        self._take_text()
        self.tops = []
        before: Block | None = None
        for piece in self.pieces:
            if piece is self._thought:
                continue
            y += _gap(before, piece.block)
            piece.layout(self.width)
            self.tops.append(y)
            y += piece.height
            before = piece.block
        if self._thought is not None and thought is not None:
            self.tops.insert(0, thought)
        if turn.status == "streaming" and before is None:
            y += 24
        self._body_end = y
        y += 24 * len(figures.notes(turn))
        if turn.status != "streaming":
            y += 4
            line = figures.line(turn)
            self.figures_rect = QRectF(0, y, self.width, 24) if line else QRectF()
            y += 24 if line else 0
            self._place_actions(y)
            y += ACTIONS
        self.height = int(y) + ROW_GAP

    def _build_thought(self, y: float) -> tuple[float, float | None]:
        label = "Thought" if self.turn.text or self.turn.status != "streaming" else "Thinking…"
        self.buttons.append(
            Button("thought", QRectF(-8, y - 2, self._button_width(label) + 16, 24), label, quiet=False)
        )
        y += 28
        if not self._open_thought:
            self._thought = None
            return y, None
        block = Block("code", text=self.turn.reasoning.strip())
        if self._thought is None or not self._thought.update(block):
            self._thought = LinesPiece(block, self.style, self.style.small)
            self._thought.line_height = 20
            self._thought.left = 16
            self._thought.muted = True
        self._thought.layout(self.width)
        return y + self._thought.height + 12, y

    def _take_text(self) -> None:
        """Bring the pieces up to the turn's text."""
        text = self.turn.text
        if not text.startswith(self._fed):
            self._markdown = StreamingMarkdown()
            self._fed = ""
            self._committed = 0
        answer = [piece for piece in self.pieces if not (isinstance(piece, LinesPiece) and piece.muted)]
        if len(text) > len(self._fed):
            self._markdown.feed(text[len(self._fed) :])
            self._fed = text
            fresh: list[Piece] = answer[: self._committed]
            for number, block in enumerate(self._markdown.blocks[self._committed :], self._committed):
                old = answer[number] if number < len(answer) else None
                fresh.append(old if old is not None and old.update(block) else make_piece(block, self.style))
            self._committed = len(self._markdown.committed)
            answer = fresh
        elif not text:
            answer = []
        self.pieces = [self._thought, *answer] if self._thought is not None else answer

    def _place_actions(self, y: float) -> None:
        turn = self.turn
        x = -8.0
        count = len(turn.variants)
        if count > 1:
            for label, index in (("‹", turn.variant - 1), ("›", turn.variant + 1)):
                rect = QRectF(x, y, 24, ACTIONS - 4)
                if 0 <= index < count:
                    self.buttons.append(Button("variant", rect, label, turn.variants[index]))
                x += 24 + (self._variant_width() if label == "‹" else 8)
        labels: list[tuple[Act, str]] = [("copy", "Copy")] if turn.text else []
        if not turn.foreign:
            labels.append(("regenerate", "Regenerate"))
        for act, label in labels:
            wide = self._button_width(label)
            self.buttons.append(Button(act, QRectF(x, y, wide, ACTIONS - 4), label))
            x += wide + 4

    def _variant_width(self) -> float:
        return self.style.figures_metrics.horizontalAdvance(self._variant_label()) + 4

    def _variant_label(self) -> str:
        return f"{self.turn.variant + 1}/{len(self.turn.variants)}"

    def _button_width(self, label: str) -> float:
        return self.style.small_metrics.horizontalAdvance(label) + 16

    # finding

    def piece_at(self, y: float) -> int:
        """The piece at `y`, the nearest one above it else; -1 without pieces."""
        return max(0, bisect_right(self.tops, y) - 1) if self.pieces else -1

    def place(self, x: float, y: float) -> Place | None:
        """The character nearest to a point."""
        number = self.piece_at(y)
        if number < 0:
            return None
        piece = self.pieces[number]
        below = y - self.tops[number]
        if below > piece.height:
            return Place(number, len16(piece))
        return Place(number, piece.hit(x - self._x, below))

    def over_text(self, x: float, y: float) -> bool:
        """Whether a press here should begin a selection of text."""
        if self.turn.role == "user":
            return self._bubble.contains(x, y)
        number = self.piece_at(y)
        return number >= 0 and self.tops[number] <= y <= self.tops[number] + self.pieces[number].height

    def link(self, x: float, y: float) -> str:
        number = self.piece_at(y)
        if number < 0:
            return ""
        return self.pieces[number].link_at(x - self._x, y - self.tops[number])

    def button(self, x: float, y: float) -> Button | None:
        for button in self.buttons:
            if button.rect.contains(x, y):
                return button
        code = self.code_under(y)
        return code if code is not None and code.rect.contains(x, y) else None

    def code_under(self, y: float) -> Button | None:
        """The copy button of the code block at `y`."""
        number = self.piece_at(y)
        if number < 0 or (rect := self.pieces[number].copy_rect()) is None:
            return None
        if y > self.tops[number] + self.pieces[number].height:
            return None
        return Button("code", rect.translated(self._x, self.tops[number]), "Copy", str(number), quiet=False)

    def selected_text(self, first: Place, last: Place) -> str:
        """The text between two places, pieces divided by line breaks."""
        parts = []
        for number in range(first.piece, last.piece + 1):
            piece = self.pieces[number]
            start = first.position if number == first.piece else 0
            end = last.position if number == last.piece else len16(piece)
            marker = (
                f"{piece.block.marker} " if piece.block.marker and start == 0 and number > first.piece else ""
            )
            parts.append(marker + cut(piece.text, start, end))
        return "\n".join(parts)

    def whole(self) -> tuple[Place, Place] | None:
        """Everything that can be selected."""
        if not self.pieces:
            return None
        return Place(0, 0), Place(len(self.pieces) - 1, len16(self.pieces[-1]))

    # painting

    def paint(self, painter: QPainter, at: QPointF, top: float, bottom: float, look: Look) -> None:
        """Paint what lies between `top` and `bottom` of the row, with the row's corner at `at`."""
        if self.turn.role == "user":
            self._paint_bubble(painter, at)
        else:
            self._paint_head(painter, at)
        for number in self._visible(top, bottom):
            piece = self.pieces[number]
            y = self.tops[number]
            if isinstance(piece, CodePiece):
                button = look.button
                piece.copy_hovered = (
                    button is not None and button.act == "code" and button.argument == str(number)
                )
            self._paint_quote(painter, at, number)
            piece.paint(
                painter, at + QPointF(self._x, y), top - y, bottom - y, _share(look.selection, number, piece)
            )
        if self.turn.role == "assistant":
            self._paint_foot(painter, at)
        self._paint_buttons(painter, at, look)

    def _visible(self, top: float, bottom: float) -> Iterator[int]:
        for number in range(self.piece_at(top), len(self.pieces)):
            if number < 0 or self.tops[number] > bottom:
                return
            yield number

    def _paint_bubble(self, painter: QPainter, at: QPointF) -> None:
        style = self.style
        if self.turn.foreign:
            painter.setFont(style.small)
            painter.setPen(style.tool)
            head = QRectF(0, 0, self.width, HEADER - 4).translated(at)
            painter.drawText(
                head, Qt.AlignmentFlag.AlignRight, f"{self.turn.client_name} · {self.turn.origin or 'live'}"
            )
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(style.foreign_background if self.turn.foreign else style.user_background)
        painter.drawRoundedRect(self._bubble.translated(at), 12, 12)

    def _paint_head(self, painter: QPainter, at: QPointF) -> None:
        style, turn = self.style, self.turn
        painter.setFont(style.small)
        painter.setPen(style.muted)
        painter.drawText(
            QRectF(0, 0, self.width, 20).translated(at), Qt.AlignmentFlag.AlignVCenter, turn.model
        )
        y = float(HEADER)
        if turn.reasoning:
            y += 28 if self._thought is None else self._thought.height + 40
        for call in turn.tool_calls:
            card = QRectF(0, y, self.width, CARD).translated(at)
            painter.setPen(style.line)
            painter.setBrush(style.panel)
            painter.drawRoundedRect(card.adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)
            inner = card.adjusted(12, 0, -12, 0)
            painter.setFont(style.small_bold)
            painter.setPen(style.tool)
            name = call.name or "calling"
            painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter, name)
            inner.setLeft(inner.left() + style.small_bold_metrics.horizontalAdvance(name) + 8)
            painter.setFont(style.small_code)
            painter.setPen(style.muted)
            arguments = " ".join(call.arguments.split())
            metrics = style.small_code_metrics
            arguments = metrics.elidedText(arguments, Qt.TextElideMode.ElideRight, inner.width())
            painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter, arguments)
            y += CARD + 8

    def _paint_quote(self, painter: QPainter, at: QPointF, number: int) -> None:
        block = self.pieces[number].block
        if not block.quote:
            return
        top, bottom = self.tops[number], self.tops[number] + self.pieces[number].height
        if number + 1 < len(self.pieces) and self.pieces[number + 1].block.quote:
            bottom = self.tops[number + 1]
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self.style.border)
        for level in range(block.quote):
            painter.drawRoundedRect(QRectF(level * 16, top, 3, bottom - top).translated(at), 1.5, 1.5)

    def _paint_foot(self, painter: QPainter, at: QPointF) -> None:
        style, turn = self.style, self.turn
        if turn.status == "streaming":
            self._paint_progress(painter, at)
        y = self._body_end
        painter.setFont(style.small)
        for text, colour in figures.notes(turn):
            painter.setPen(QColor(getattr(style.theme, colour)))
            painter.drawText(
                QRectF(0, y + 4, self.width, 20).translated(at), Qt.AlignmentFlag.AlignVCenter, text
            )
            y += 24
        if not self.figures_rect.isEmpty() and turn.status != "streaming":
            self._paint_figures(painter, at)

    def _paint_figures(self, painter: QPainter, at: QPointF) -> None:
        style, turn = self.style, self.turn
        text = figures.line(turn)
        painter.setFont(style.figures)
        painter.setPen(style.muted)
        painter.drawText(self.figures_rect.translated(at), Qt.AlignmentFlag.AlignVCenter, text)
        shares = figures.ledger(turn)
        x = style.figures_metrics.horizontalAdvance(text) + 16
        room = min(LEDGER, self.width - x)
        if not shares or room < 48:
            return
        total = sum(share.ms for share in shares)
        bar = QRectF(x, self.figures_rect.center().y() - 2, room, 4).translated(at)
        painter.save()
        painter.setPen(Qt.PenStyle.NoPen)
        for share in shares:
            part = QRectF(bar.left(), bar.top(), max(2.0, room * share.ms / total - 1), 4)
            painter.setBrush(QColor(getattr(style.theme, share.colour)))
            painter.drawRoundedRect(part, 2, 2)
            bar.setLeft(part.right() + 1)
        painter.restore()

    def _paint_progress(self, painter: QPainter, at: QPointF) -> None:
        style, turn = self.style, self.turn
        text = figures.progress(turn)
        y = self._body_end - 24
        if text:
            painter.setFont(style.figures)
            painter.setPen(style.muted)
            painter.drawText(QRectF(0, y, self.width, 24).translated(at), Qt.AlignmentFlag.AlignVCenter, text)
            if turn.phase == "prompt" and turn.total:
                x = style.figures_metrics.horizontalAdvance(text) + 16
                bar = QRectF(x, y + 10, LEDGER, 4).translated(at)
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(style.border)
                painter.drawRoundedRect(bar, 2, 2)
                bar.setWidth(max(4.0, LEDGER * min(1.0, turn.done / turn.total)))
                painter.setBrush(style.tool)
                painter.drawRoundedRect(bar, 2, 2)
            return
        caret = QRectF(0, y + 3, 8, 18)
        last = self.pieces[-1] if self.pieces else None
        if last is not None and last.runs and last is not self._thought:
            run = last.runs[-1]
            line = run.layout.lineAt(run.layout.lineCount() - 1)
            if line.isValid():
                x = self._x + run.x + line.naturalTextRect().right() + 2
                middle = self.tops[-1] + run.y + line.y() + line.height() / 2
                caret = QRectF(x, middle - 9, 8, 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(style.caret)
        painter.drawRoundedRect(caret.translated(at), 2, 2)

    def _paint_buttons(self, painter: QPainter, at: QPointF, look: Look) -> None:
        style = self.style
        painter.setFont(style.small)
        for button in self.buttons:
            if button.quiet and not look.hovered:
                continue
            hovered = button == look.button
            rect = button.rect.translated(at)
            if hovered:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(style.hover)
                painter.drawRoundedRect(rect, 6, 6)
            painter.setPen(style.text if hovered else style.muted)
            label = look.noted[1] if look.noted and look.noted[0] == button.act else button.label
            if button.act == "thought":
                label = f"{'▾' if self._open_thought else '▸'} {label}"
            painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, label)
        if look.hovered and len(self.turn.variants) > 1 and self.turn.status != "streaming":
            painter.setFont(style.figures)
            painter.setPen(style.muted)
            y = self.height - ROW_GAP - ACTIONS
            rect = QRectF(16, y, self._variant_width(), ACTIONS - 4).translated(at)
            painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, self._variant_label())


def len16(piece: Piece) -> int:
    """The length of a piece's text as Qt counts it."""
    return piece.runs[-1].start + piece.runs[-1].length if piece.runs else 0


def _share(selection: tuple[Place, Place] | None, number: int, piece: Piece) -> tuple[int, int] | None:
    """What of a selection falls into one piece."""
    if selection is None or not selection[0].piece <= number <= selection[1].piece:
        return None
    start = selection[0].position if number == selection[0].piece else 0
    end = selection[1].position if number == selection[1].piece else len16(piece)
    return start, end


def _gap(before: Block | None, block: Block) -> int:
    """The space between two blocks."""
    if before is None:
        return 0
    if block.kind == "heading":
        return 20
    if before.kind == "heading":
        return 8
    if block.marker or (before.marker and block.indent == before.indent and block.kind == "paragraph"):
        return 4 if before.indent and before.kind == "paragraph" else 8
    return 12
