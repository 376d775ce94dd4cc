"""An answer token by token: each one's place in the text, tinted by how unlikely it was."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from PySide6.QtGui import QColor, QTextCharFormat, QTextLayout

from desktop.chat.lines import LinesPiece
from desktop.chat.markdown import Block
from desktop.chat.style import Style
from desktop.chat.textlayout import format_range, u16
from desktop.theme import mix
from engine.types import Token

LIKELY = 0.9
"""Tokens of at least this probability have no tint."""
STEPS = 8


class TokensPiece(LinesPiece):
    """The text as the model wrote it, without Markdown, so that every token can be seen and pressed."""

    def __init__(self, text: str, tokens: Sequence[Token], style: Style) -> None:
        self._tokens: Sequence[Token] = ()
        self._starts: list[int] = []
        theme = style.theme
        self._tints = [
            _background(mix(theme.warn, theme.window, 0.06 + 0.4 * step / STEPS)) for step in range(STEPS + 1)
        ]
        self._injected = _background(mix(theme.accent, theme.window, 0.25))
        self._place(tokens)
        super().__init__(Block("code", text=text), style)

    def show(self, text: str, tokens: Sequence[Token]) -> bool:
        """Take over text and tokens that have grown; False where they are others than before."""
        known = len(self._tokens)
        if len(tokens) < known or (known and tokens[known - 1] is not self._tokens[-1]):
            return False
        self._place(tokens)
        return self.update(Block("code", text=text))

    def token_at(self, x: float, y: float) -> Token | None:
        """The token under a point."""
        position = self._character_at(x, y)
        number = bisect_right(self._starts, position) - 1
        if position < 0 or number < 0:
            return None
        token = self._tokens[number]
        return token if position < self._starts[number] + u16(token["text"]) else None

    def _place(self, tokens: Sequence[Token]) -> None:
        """Note where each token begins; those known before stay where they are."""
        at = self._starts[-1] + u16(self._tokens[-1]["text"]) if self._tokens else 0
        for token in tokens[len(self._tokens) :]:
            self._starts.append(at)
            at += u16(token["text"])
        self._tokens = tokens

    def _decorate(self, index: int, layout: QTextLayout) -> None:
        run = self.runs[index]
        formats = []
        number = max(0, bisect_right(self._starts, run.start) - 1)
        while number < len(self._tokens) and self._starts[number] < run.start + run.length:
            token, start = self._tokens[number], self._starts[number]
            look = self._look(token)
            first = max(start, run.start)
            last = min(start + u16(token["text"]), run.start + run.length)
            if look is not None and last > first:
                formats.append(format_range(first - run.start, last - first, look))
            number += 1
        if formats:
            layout.setFormats(formats)

    def _look(self, token: Token) -> QTextCharFormat | None:
        if token.get("injected"):
            return self._injected
        logprob = token.get("logprob")
        if logprob is None:
            return None
        probability = math.exp(logprob)
        return None if probability >= LIKELY else self._tints[round((1 - probability) * STEPS)]


def _background(colour: str) -> QTextCharFormat:
    found = QTextCharFormat()
    found.setBackground(QColor(colour))
    return found
