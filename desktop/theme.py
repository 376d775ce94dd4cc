"""Colours, fonts and the style sheet of the window, dark and light, and the switch between them.

Widgets that paint themselves take a `Theme` and its colours; ordinary widgets are styled by
`style_sheet`. Sizes are logical pixels; space goes in steps of 4, type in 11, 12, 14 and 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

Choice = Literal["system", "light", "dark"]

SMALL, TEXT, BODY, LARGE = 11, 12, 14, 20
RADIUS = 8


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours, each `#rrggbb`."""

    name: Literal["dark", "light"]
    window: str
    panel: str
    """Side panels and bars."""
    card: str
    """Cards, buttons, selection."""
    border: str
    """Borders and grid lines."""
    text: str
    muted: str
    accent: str
    """Speed and focus."""
    good: str
    """Good, and load."""
    warn: str
    """Attention, unlikely tokens."""
    error: str
    """Text of errors."""
    stop: str
    """The stop button, with white on it."""
    tool: str
    """Tools, KV cache, keywords."""
    code_bg: str
    user_bg: str

    @property
    def is_dark(self) -> bool:
        return self.name == "dark"


DARK = Theme(
    name="dark",
    window="#14161a",
    panel="#1b1e24",
    card="#22262e",
    border="#2c313b",
    text="#e6e8ec",
    muted="#949cab",
    accent="#6ea8fe",
    good="#5bd6a0",
    warn="#f2b45c",
    error="#f27a73",
    stop="#c2362f",
    tool="#b794f6",
    code_bg="#101216",
    user_bg="#24324a",
)
LIGHT = Theme(
    name="light",
    window="#f6f7f9",
    panel="#ffffff",
    card="#f0f2f5",
    border="#dfe3e8",
    text="#1c2128",
    muted="#5f6b7a",
    accent="#2563d9",
    good="#0a6f4c",
    warn="#8a5200",
    error="#c2332c",
    stop="#c2332c",
    tool="#7a3fd1",
    code_bg="#f3f5f8",
    user_bg="#e4edfd",
)


def mix(over: str, under: str, share: float) -> str:
    """`share` (0 to 1) of the first colour on the second; what a translucent fill would look like."""
    a, b = QColor(over), QColor(under)
    return QColor(
        round(a.red() * share + b.red() * (1 - share)),
        round(a.green() * share + b.green() * (1 - share)),
        round(a.blue() * share + b.blue() * (1 - share)),
    ).name()


def with_alpha(colour: str, alpha: float) -> QColor:
    """The colour, translucent; `alpha` from 0 to 1."""
    result = QColor(colour)
    result.setAlphaF(alpha)
    return result


def ui_font(pixels: int = BODY, *, bold: bool = False, tabular: bool = False) -> QFont:
    """The system's font; `tabular` for figures that change, so that they don't jump."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)
    font.setPixelSize(pixels)
    font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    if tabular:
        font.setFeature(QFont.Tag("tnum"), 1)
    return font


def mono_font(pixels: int = 13) -> QFont:
    """A real monospace, for code and tokens."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPixelSize(pixels)
    return font


def palette(theme: Theme) -> QPalette:
    """Qt's roles in the theme's colours, for everything that the style sheet doesn't name."""
    roles = QPalette.ColorRole
    disabled = QPalette.ColorGroup.Disabled
    result = QPalette()
    for role, colour in (
        (roles.Window, theme.window),
        (roles.WindowText, theme.text),
        (roles.Base, theme.panel),
        (roles.AlternateBase, theme.card),
        (roles.Text, theme.text),
        (roles.Button, theme.card),
        (roles.ButtonText, theme.text),
        (roles.BrightText, "#ffffff"),
        (roles.ToolTipBase, theme.card),
        (roles.ToolTipText, theme.text),
        (roles.PlaceholderText, theme.muted),
        (roles.Highlight, theme.accent),
        (roles.HighlightedText, theme.panel),
        (roles.Accent, theme.accent),
        (roles.Link, theme.accent),
        (roles.LinkVisited, theme.tool),
        (roles.Light, theme.card),
        (roles.Midlight, theme.card),
        (roles.Mid, theme.border),
        (roles.Dark, theme.border),
        (roles.Shadow, "#000000"),
    ):
        result.setColor(role, QColor(colour))
    for role in (roles.WindowText, roles.Text, roles.ButtonText):
        result.setColor(disabled, role, QColor(mix(theme.muted, theme.panel, 0.6)))
    return result


def style_sheet(theme: Theme) -> str:
    """The application's style sheet. Widgets choose a look through the dynamic property `look`."""
    hover = mix(theme.text, theme.card, 0.06)
    pressed = mix(theme.text, theme.card, 0.12)
    handle = mix(theme.muted, theme.panel, 0.35)
    return f"""
QToolTip {{ background: {theme.card}; color: {theme.text}; border: 1px solid {theme.border};
    padding: 4px 8px; font-size: {TEXT}px; }}
QMenu {{ background: {theme.panel}; color: {theme.text}; border: 1px solid {theme.border};
    padding: 4px; font-size: {BODY - 1}px; }}
QMenu::item {{ padding: 6px 24px 6px 12px; border-radius: 6px; }}
QMenu::item:selected {{ background: {theme.card}; }}
QMenu::item:disabled {{ color: {theme.muted}; }}
QMenu::separator {{ height: 1px; background: {theme.border}; margin: 4px 8px; }}
QMenu::indicator {{ width: 0px; }}
QMenu::right-arrow {{ width: 10px; }}
QDialog {{ background: {theme.panel}; }}
QMessageBox {{ border: 1px solid {theme.border}; }}
QHeaderView::section {{ background: {theme.card}; color: {theme.text}; border: none; padding: 4px 8px; }}
QPushButton {{ background: {theme.card}; color: {theme.text}; border: 1px solid {theme.border};
    border-radius: {RADIUS}px; padding: 5px 12px; }}
QPushButton:hover {{ background: {hover}; }}
QPushButton:pressed {{ background: {pressed}; }}
QPushButton:focus {{ border-color: {theme.accent}; }}
QPushButton:disabled {{ color: {theme.muted}; }}
QPushButton::menu-indicator {{ width: 0px; }}
QPushButton[look="flat"] {{ background: transparent; border-color: transparent; }}
QPushButton[look="flat"]:hover {{ background: {theme.card}; }}
QPushButton[look="flat"]:focus {{ border-color: {theme.accent}; }}
QPushButton[look="flat"]:pressed {{ background: {pressed}; }}
QPushButton[look="flat"]:checked {{ background: {theme.card}; }}
QPushButton[look="stop"] {{ background: {theme.stop}; color: #ffffff; border-color: {theme.stop}; }}
QPushButton[look="accent"] {{ background: {theme.accent}; color: {theme.window};
    border-color: {theme.accent}; }}
QPushButton[look="link"] {{ background: transparent; border: none; color: {theme.accent}; padding: 2px 4px; }}
QPushButton[look="link"]:hover {{ text-decoration: underline; }}
QLineEdit, QSpinBox, QDoubleSpinBox {{ background: transparent; color: {theme.text};
    border: 1px solid {theme.border}; border-radius: {RADIUS}px; padding: 5px 10px;
    selection-background-color: {theme.accent}; selection-color: {theme.window}; }}
QLineEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus {{ border-color: {theme.accent}; }}
QScrollBar:vertical {{ background: transparent; width: 10px; margin: 0; }}
QScrollBar::handle:vertical {{ background: {handle}; border-radius: 3px; min-height: 32px; margin: 2px; }}
QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
QScrollBar::handle:horizontal {{ background: {handle}; border-radius: 3px; min-width: 32px; margin: 2px; }}
QScrollBar::handle:hover {{ background: {theme.muted}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
QSplitter::handle {{ background: {theme.border}; }}
QWidget[look="panel"] {{ background: {theme.panel}; }}
QWidget[look="window"] {{ background: {theme.window}; }}
QFrame[look="line"] {{ background: {theme.border}; border: none; }}
QLabel {{ background: transparent; }}
QLabel[look="muted"] {{ color: {theme.muted}; font-size: {TEXT}px; }}
QLabel[look="title"] {{ color: {theme.text}; font-size: {BODY}px; font-weight: 600; }}
"""


class ThemeManager(QObject):
    """Holds the user's choice, follows the system's where that is the choice, and tells of changes."""

    changed = Signal(object)
    """The new `Theme`; palette and style sheet of the application are set already."""

    def __init__(self, app: QApplication) -> None:
        super().__init__(app)
        self._app = app
        self._choice: Choice = "system"
        self._theme: Theme | None = None
        app.setStyle("Fusion")
        app.setFont(ui_font(BODY))
        hints = QGuiApplication.styleHints()
        hints.colorSchemeChanged.connect(self._system_changed)
        self._apply()

    @property
    def choice(self) -> Choice:
        return self._choice

    @property
    def theme(self) -> Theme:
        assert self._theme is not None
        return self._theme

    def set_choice(self, choice: Choice) -> None:
        self._choice = choice
        self._apply()

    def _system_changed(self) -> None:
        if self._choice == "system":
            self._apply()

    def _wanted(self) -> Theme:
        if self._choice == "system":
            scheme = QGuiApplication.styleHints().colorScheme()
            return LIGHT if scheme == Qt.ColorScheme.Light else DARK
        return LIGHT if self._choice == "light" else DARK

    def _apply(self) -> None:
        theme = self._wanted()
        if theme is self._theme:
            return
        self._theme = theme
        self._app.setPalette(palette(theme))
        self._app.setStyleSheet(style_sheet(theme))
        self.changed.emit(theme)


def manager() -> ThemeManager:
    """The application's theme manager, made at the first call. Needs a QApplication."""
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    found = app.findChild(ThemeManager)
    return found if found is not None else ThemeManager(app)


def current() -> Theme:
    """The theme in use."""
    return manager().theme
