"""One laid-out turn: its pieces, its figures and its buttons, measured once and painted many times."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil
from typing import Literal

from PySide6.QtCore import QRectF

from desktop.chat import figures
from desktop.chat.lines import CodePiece, LinesPiece
from desktop.chat.markdown import Block, StreamingMarkdown
from desktop.chat.model import Turn
from desktop.chat.pieces import Piece, RulePiece, TextPiece
from desktop.chat.style import Style
from desktop.chat.table import TablePiece
from desktop.chat.tokens import TokensPiece
from engine.types import Token

Act = Literal["copy", "regenerate", "variant", "thought", "more", "code", "tokens"]

BUBBLE_X, BUBBLE_Y = 14, 8
BUBBLE_SHARE = 0.82
"""Of the column, at most."""
HEADER = 28
"""Of an answer: who gave it. Of a foreign message: who asked."""
THOUGHT = 28
CARD = 36
"""A tool call."""
LINE_ROW = 24
"""A note, the figures, the progress."""
ACTIONS = 28
ROW_GAP = 20
LONG, LONG_LINES = 3000, 24
"""A message of more characters or lines is folded."""


@dataclass(frozen=True, slots=True)
class Button:
    """A place in a row that does something."""

    act: Act
    rect: QRectF
    label: str
    argument: str = ""
    """The message to show, or the number of the piece to copy."""
    quiet: bool = True
    """Shown only while the mouse is over the row, or in the last one."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a row's text."""

    piece: int
    position: int


class Row:
    """A turn laid out for one width. Coordinates are the column's: x from its edge, y from the row's top."""

    def __init__(self, turn: Turn, style: Style, width: float, opened: frozenset[Act] = frozenset()) -> None:
        self.turn = turn
        self.style = style
        self.width = width
        self.opened = opened
        """What is unfolded: the reasoning (`thought`), a long message (`more`), or every token (`tokens`)."""
        self.height = 0
        self.pieces: list[Piece] = []
        self.tops: list[float] = []
        """Upper edges of the pieces."""
        self.left = 0.0
        """Where the pieces begin."""
        self.bubble = QRectF()
        self.cards_top = 0.0
        """Where the cards of tool calls begin."""
        self.body_end = 0.0
        """Where text ends and notes and figures begin."""
        self.figures_rect = QRectF()
        self.variant_rect = QRectF()
        self.buttons: list[Button] = []
        self.thought: LinesPiece | None = None
        """The reasoning, where it is shown; the first of the pieces then."""
        self._answer: list[Piece] = []
        self._markdown = StreamingMarkdown()
        self._fed = ""
        self._committed = 0
        self._kept = 0
        """Pieces of the answer that are as they were at the last layout."""
        self._text_top = 0.0
        self._answer_tops: list[float] = []
        self._build()

    def update(self, turn: Turn) -> None:
        """Take over a newer state of the same turn; appended text costs only its open tail."""
        self.turn = turn
        self._build()

    # layout

    def _build(self) -> None:
        self.buttons = []
        if self.turn.role == "user":
            self._build_question()
        else:
            self._build_answer()

    def _build_question(self) -> None:
        y = float(HEADER - 4) if self.turn.foreign else 0.0
        text = self.turn.text
        more = len(text) > LONG or text.count("\n") >= LONG_LINES
        folded = more and "more" not in self.opened
        if folded:
            text = _beginning(text)
        block = Block("code", text=text)
        piece = self.pieces[0] if self.pieces else None
        if not isinstance(piece, LinesPiece) or not piece.update(block):
            piece = LinesPiece(block, self.style)
        room = int(self.width * BUBBLE_SHARE) - 2 * BUBBLE_X
        piece.layout(room)
        text_width = ceil(piece.natural_width(room))
        self.pieces = [piece]
        self.tops = [y + BUBBLE_Y]
        self.left = self.width - BUBBLE_X - text_width
        self.bubble = QRectF(self.left - BUBBLE_X, y, text_width + 2 * BUBBLE_X, piece.height + 2 * BUBBLE_Y)
        wide = self._button_width("Copy")
        copy = QRectF(self.bubble.left() - wide - 8, self.bubble.top() + 6, wide, 28)
        self.buttons.append(Button("copy", copy, "Copy"))
        if more:
            label = f"Show all {len(self.turn.text):,} characters" if folded else "Show less"
            wide = self._button_width(label)
            rect = QRectF(self.width - wide, self.bubble.bottom() + 4, wide, 24)
            self.buttons.append(Button("more", rect, label, quiet=False))
        self.body_end = self.bubble.bottom() + (28 if more else 0)
        self.height = round(self.body_end) + ROW_GAP

    def _build_answer(self) -> None:
        turn = self.turn
        y = float(HEADER)
        thought_top = y + THOUGHT
        if turn.reasoning:
            y = self._build_thought(y)
        self.cards_top = y
        y += (CARD + 8) * len(turn.tool_calls) + (4 if turn.tool_calls else 0)
        self._take_text()
        self.tops = [thought_top] if self.thought is not None else []
        # What stands above the first new piece stays where it is.
        keep = self._kept if y == self._text_top else 0
        self._text_top = y
        before: Block | None = None
        if keep:
            last = self._answer[keep - 1]
            before = last.block
            y = self._answer_tops[keep - 1] + last.height
        del self._answer_tops[keep:]
        for piece in self._answer[keep:]:
            y += _gap(before, piece.block)
            piece.layout(self.width)
            self._answer_tops.append(y)
            y += piece.height
            before = piece.block
        self.tops += self._answer_tops
        self.pieces = [self.thought, *self._answer] if self.thought is not None else self._answer
        if turn.status == "streaming" and before is None:
            y += LINE_ROW
        self.body_end = y
        notes = figures.notes(turn)
        y += LINE_ROW * len(notes) + (8 if notes else 0)
        self.figures_rect = QRectF()
        if turn.status != "streaming":
            if figures.line(turn):
                y += 0 if notes else 8
                self.figures_rect = QRectF(0, y, self.width, LINE_ROW)
                y += LINE_ROW
            self._place_actions(y)
        # The room is kept while streaming, so that nothing moves when the buttons appear.
        y += ACTIONS
        self.height = round(y) + ROW_GAP

    def _build_thought(self, y: float) -> float:
        label = "Thinking…" if not self.turn.text and self.turn.status == "streaming" else "Thought"
        rect = QRectF(-8, y - 2, self._button_width(label) + 16, 24)
        arrow = "▾" if "thought" in self.opened else "▸"
        self.buttons.append(Button("thought", rect, f"{arrow} {label}", quiet=False))
        y += THOUGHT
        if "thought" not in self.opened:
            self.thought = None
            return y
        block = Block("code", text=self.turn.reasoning.strip())
        if self.thought is None or not self.thought.update(block):
            self.thought = LinesPiece(block, self.style, self.style.small)
            self.thought.line_height = 20
            self.thought.inset = 16
            self.thought.muted = True
        self.thought.layout(self.width)
        return y + self.thought.height + 12

    def _take_text(self) -> None:
        """Bring the answer's pieces up to the turn's text."""
        if "tokens" in self.opened and self.turn.tokens:
            self._take_tokens()
            return
        text = self.turn.text
        self._kept = len(self._answer)
        if not text.startswith(self._fed):
            self._markdown = StreamingMarkdown()
            self._fed = ""
            self._committed = self._kept = 0
            self._answer = []
        if len(text) == len(self._fed):
            return
        self._markdown.feed(text[len(self._fed) :])
        self._fed = text
        self._kept = self._committed
        fresh = self._answer[: self._committed]
        for number, block in enumerate(self._markdown.after(self._committed), self._committed):
            old = self._answer[number] if number < len(self._answer) else None
            fresh.append(old if old is not None and old.update(block) else make_piece(block, self.style))
        self._committed = len(self._markdown.committed)
        self._answer = fresh

    def _take_tokens(self) -> None:
        turn = self.turn
        piece = self._answer[0] if self._answer else None
        if not isinstance(piece, TokensPiece) or not piece.show(turn.text, turn.tokens):
            self._answer = [TokensPiece(turn.text, turn.tokens, self.style)]
        self._kept = 0

    def _place_actions(self, y: float) -> None:
        turn = self.turn
        height = ACTIONS - 4
        x = -8.0
        count = len(turn.variants)
        self.variant_rect = QRectF()
        if count > 1:
            wide = self.style.figures_metrics.horizontalAdvance(self.variant_label) + 4
            self.variant_rect = QRectF(x + 24, y, wide, height)
            for label, index, left in (("‹", turn.variant - 1, x), ("›", turn.variant + 1, x + 24 + wide)):
                if 0 <= index < count:
                    rect = QRectF(left, y, 24, height)
                    self.buttons.append(Button("variant", rect, label, turn.variants[index]))
            x += 48 + wide + 8
        actions: list[tuple[Act, str]] = [("copy", "Copy")] if turn.text else []
        if not turn.loose:
            actions.append(("regenerate", "Regenerate"))
        for act, label in actions:
            wide = self._button_width(label)
            self.buttons.append(Button(act, QRectF(x, y, wide, height), label))
            x += wide + 4

    @property
    def variant_label(self) -> str:
        return f"{self.turn.variant + 1}/{len(self.turn.variants)}"

    def _button_width(self, label: str) -> float:
        widest = "Copied" if label == "Copy" else label
        return round(self.style.small_metrics.horizontalAdvance(widest)) + 16

    # finding

    def piece_at(self, y: float) -> int:
        """The piece at `y`, or the nearest one above; -1 without pieces."""
        return max(0, bisect_right(self.tops, y) - 1) if self.pieces else -1

    def place(self, x: float, y: float) -> Place | None:
        """The position in the text that is nearest to a point."""
        number = self.piece_at(y)
        if number < 0:
            return None
        piece = self.pieces[number]
        below = y - self.tops[number]
        if below > piece.height:
            return Place(number, piece.length)
        return Place(number, piece.hit(x - self.left, below))

    def over_text(self, x: float, y: float) -> bool:
        """Whether a press here begins a selection of text."""
        if self.turn.role == "user":
            return self.bubble.contains(x, y)
        number = self.piece_at(y)
        return number >= 0 and self.tops[number] <= y <= self.tops[number] + self.pieces[number].height

    def token(self, x: float, y: float) -> Token | None:
        """The token under a point, where tokens are shown one by one."""
        number = self.piece_at(y)
        piece = self.pieces[number] if number >= 0 else None
        if not isinstance(piece, TokensPiece):
            return None
        return piece.token_at(x - self.left, y - self.tops[number])

    def link(self, x: float, y: float) -> str:
        number = self.piece_at(y)
        return self.pieces[number].link_at(x - self.left, y - self.tops[number]) if number >= 0 else ""

    def button(self, x: float, y: float) -> Button | None:
        for button in self.buttons:
            if button.rect.contains(x, y):
                return button
        code = self.code_button(y)
        return code if code is not None and code.rect.contains(x, y) else None

    def code_button(self, y: float) -> Button | None:
        """The copy button of the code block at `y`."""
        number = self.piece_at(y)
        if number < 0 or y > self.tops[number] + self.pieces[number].height:
            return None
        rect = self.pieces[number].copy_rect()
        if rect is None:
            return None
        return Button("code", rect.translated(self.left, self.tops[number]), "Copy", str(number), quiet=False)

    def selected_text(self, first: Place, last: Place) -> str:
        """The text between two places, a line for each block."""
        parts = []
        for number in range(first.piece, min(last.piece, len(self.pieces) - 1) + 1):
            piece = self.pieces[number]
            start = first.position if number == first.piece else 0
            end = last.position if number == last.piece else piece.length
            marker = piece.block.marker if number > first.piece else ""
            parts.append(f"{marker} " * bool(marker) + piece.selected(start, end))
        return "\n".join(parts)

    def whole(self) -> tuple[Place, Place] | None:
        """Everything that can be selected."""
        if not self.pieces:
            return None
        return Place(0, 0), Place(len(self.pieces) - 1, self.pieces[-1].length)


def _beginning(text: str) -> str:
    """What is shown of a long message until the rest is asked for."""
    lines = text[:LONG].split("\n")[:LONG_LINES]
    return "\n".join(lines).rstrip() + " …"


def make_piece(block: Block, style: Style) -> Piece:
    """The laid-out form of a block."""
    match block.kind:
        case "code":
            return CodePiece(block, style)
        case "table":
            return TablePiece(block, style)
        case "rule":
            return RulePiece(block, style)
        case _:
            return TextPiece(block, style)


def _gap(before: Block | None, block: Block) -> int:
    """The space between two blocks."""
    if before is None:
        return 0
    if block.kind == "heading":
        return 20
    if before.kind == "heading":
        return 8
    if "code" in (before.kind, block.kind) or "table" in (before.kind, block.kind):
        return 12
    if before.indent and block.indent:
        return 4
    return 12
