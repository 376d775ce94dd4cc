"""Fonts, colours and measures that the transcript is painted with, made once for each theme."""

from __future__ import annotations

from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPen, QTextCharFormat

from desktop.chat.highlight import Kind
from desktop.chat.markdown import Span
from desktop.theme import BODY, LARGE, TEXT, Theme, mix, mono_font, ui_font, with_alpha

MEASURE = 720
"""Widest column of text, in pixels."""
MARGIN = 24
"""Least space at either side of the column."""
LINE = 24
"""Height of a line of running text."""
CODE_LINE = 20
INDENT = 24
"""Of one list level."""
QUOTE = 16
"""Of one level of quotation."""


class Style:
    """What the painting code looks up for every run of text."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.body = ui_font(BODY)
        self.bold = ui_font(BODY, bold=True)
        self.heading = ui_font(LARGE, bold=True)
        self.small = ui_font(TEXT)
        self.small_bold = ui_font(TEXT, bold=True)
        self.figures = ui_font(TEXT, tabular=True)
        self.code = mono_font(13)
        self.small_code = mono_font(12)
        self.text = QColor(theme.text)
        self.muted = QColor(theme.muted)
        self.accent = QColor(theme.accent)
        self.error = QColor(theme.error)
        self.warn = QColor(theme.warn)
        self.tool = QColor(theme.tool)
        self.border = QColor(theme.border)
        self.window = QColor(theme.window)
        self.card = QColor(theme.card)
        self.panel = QColor(theme.panel)
        self.code_background = QColor(theme.code_bg)
        self.inline_background = QColor(mix(theme.text, theme.window, 0.08))
        self.user_background = QColor(theme.user_bg)
        self.foreign_background = QColor(mix(theme.tool, theme.window, 0.14))
        self.caret = with_alpha(theme.text, 0.75)
        self.hover = QColor(mix(theme.text, theme.window, 0.07))
        self.line = QPen(self.border, 1)
        self.selection = QTextCharFormat()
        self.selection.setBackground(with_alpha(theme.accent, 0.35))
        self.body_metrics = QFontMetricsF(self.body)
        self.small_metrics = QFontMetricsF(self.small)
        self.small_bold_metrics = QFontMetricsF(self.small_bold)
        self.small_code_metrics = QFontMetricsF(self.small_code)
        self.figures_metrics = QFontMetricsF(self.figures)
        self._spans: dict[tuple[bool, bool, bool, bool, bool], QTextCharFormat] = {}
        self._kinds: dict[Kind, QTextCharFormat] = {}
        for kind, colour in (
            (Kind.KEYWORD, theme.tool),
            (Kind.STRING, theme.warn),
            (Kind.COMMENT, theme.good),
            (Kind.NUMBER, theme.good),
            (Kind.NAME, theme.accent),
        ):
            colours = QTextCharFormat()
            colours.setForeground(QColor(colour))
            self._kinds[kind] = colours

    def span_format(self, span: Span, base: QFont) -> QTextCharFormat:
        """The format of a run of text whose surroundings are set in `base`."""
        key = (
            span.bold or base.weight() >= QFont.Weight.DemiBold,
            span.italic,
            span.strike,
            span.code,
            bool(span.link),
        )
        found = self._spans.get(key) if base.pixelSize() == BODY else None
        if found is None:
            found = self._make(key, base)
            if base.pixelSize() == BODY:
                self._spans[key] = found
        return found

    def _make(self, key: tuple[bool, bool, bool, bool, bool], base: QFont) -> QTextCharFormat:
        bold, italic, strike, code, link = key
        font = QFont(self.code if code else base)
        if code and base.pixelSize() != BODY:
            font.setPixelSize(base.pixelSize() - 1)
        if bold:
            font.setWeight(QFont.Weight.DemiBold)
        font.setItalic(italic)
        font.setStrikeOut(strike)
        result = QTextCharFormat()
        result.setFont(font)
        if link:
            result.setForeground(self.accent)
            result.setFontUnderline(True)
        return result

    def kind_format(self, kind: Kind) -> QTextCharFormat:
        return self._kinds[kind]
