"""The bar at the top: the app's name, model switcher, sampling, theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QPoint, QRectF, QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QActionGroup, QColor, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSlider,
    QSpinBox,
    QWidget,
)

from desktop.hands import Hands
from desktop.theme import BODY, RADIUS, TEXT, Choice, Theme, ui_font
from engine.types import SamplingParams

HEIGHT = 48
NARROW = 1100
"""Below this width the buttons of `Hands` have no words."""
_APPLY_MS = 300


class ModelButton(QPushButton):
    """Names the model; while one loads, a thin bar along its lower edge shows how far."""

    def __init__(self, theme: Theme) -> None:
        super().__init__("No model ▾")
        self._theme = theme
        self._progress: float | None = None
        self.setToolTip("Switch the model, or open a GGUF file")
        self.setAccessibleName("Model")

    @property
    def progress(self) -> float | None:
        return self._progress

    def show_model(self, name: str, progress: float | None = None) -> None:
        """`progress` from 0 to 1 while loading, else None."""
        if self.text() != f"{name} ▾":
            self.setText(f"{name} ▾")
        if progress != self._progress:
            self._progress = progress
            self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self._progress is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.accent))
        room = self.width() - 2 * RADIUS
        painter.drawRoundedRect(QRectF(RADIUS, self.height() - 4, room * min(1.0, self._progress), 2), 1, 1)


class SamplingPopover(QFrame):
    """Temperature, top-p, top-k and min-p for the next generations."""

    changed = Signal(dict)
    """The four values, a moment after the user stopped changing them."""

    _ROWS = (
        ("temperature", "Temperature", 0.0, 2.0, 0.05, "0 always takes the likeliest token"),
        (
            "top_p",
            "Top-p",
            0.0,
            1.0,
            0.01,
            "Keep the likeliest tokens that together have this probability; 1 is off",
        ),
        ("top_k", "Top-k", 0, 200, 1, "Keep this many of the likeliest tokens; 0 is off"),
        (
            "min_p",
            "Min-p",
            0.0,
            1.0,
            0.01,
            "Drop tokens below this share of the likeliest one's probability; 0 is off",
        ),
    )

    def __init__(self, parent: QWidget, theme: Theme) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setObjectName("popover")
        self._boxes: dict[str, QDoubleSpinBox | QSpinBox] = {}
        self._sliders: dict[str, tuple[QSlider, float]] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(16, 12, 16, 12)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(8)
        for row, (name, caption, least, most, step, tip) in enumerate(self._ROWS):
            label = QLabel(caption)
            label.setFont(ui_font(BODY - 1))
            slider = QSlider(Qt.Orientation.Horizontal)
            slider.setRange(round(least / step), round(most / step))
            slider.setFixedWidth(140)
            slider.setAccessibleName(caption)
            box: QDoubleSpinBox | QSpinBox
            if isinstance(step, int):
                whole = QSpinBox()
                whole.setRange(int(least), 1_000_000)
                whole.valueChanged.connect(lambda _value, name=name: self._edited(name))
                box = whole
            else:
                real = QDoubleSpinBox()
                real.setDecimals(2)
                real.setSingleStep(step)
                real.setRange(least, 10.0 if name == "temperature" else most)
                real.valueChanged.connect(lambda _value, name=name: self._edited(name))
                box = real
            box.setFixedWidth(84)
            box.setAccessibleName(caption)
            box.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
            box.setAlignment(Qt.AlignmentFlag.AlignRight)
            slider.valueChanged.connect(lambda _value, name=name: self._slid(name))
            for widget in (label, slider, box):
                widget.setToolTip(tip)
            grid.addWidget(label, row, 0)
            grid.addWidget(slider, row, 1)
            grid.addWidget(box, row, 2)
            self._boxes[name] = box
            self._sliders[name] = (slider, step)
        self.note = QLabel()
        self.note.setProperty("look", "muted")
        self.show_running(running=False)
        self.reset_button = QPushButton("Defaults")
        self.reset_button.setProperty("look", "link")
        self.reset_button.setFont(ui_font(TEXT))
        self.reset_button.clicked.connect(self._reset)
        grid.addWidget(self.note, len(self._ROWS), 0, 1, 2)
        grid.addWidget(self.reset_button, len(self._ROWS), 2, Qt.AlignmentFlag.AlignRight)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_APPLY_MS)
        self._timer.timeout.connect(lambda: self.changed.emit(self.values()))
        self.set_theme(theme)

    def set_theme(self, theme: Theme) -> None:
        self.setStyleSheet(
            f"QFrame#popover {{ background: {theme.panel}; border: 1px solid {theme.border}; }}"
            f"QSlider::groove:horizontal {{ height: 3px; background: {theme.border}; border-radius: 1px; }}"
            f"QSlider::sub-page:horizontal {{ background: {theme.accent}; border-radius: 1px; }}"
            f"QSlider::handle:horizontal {{ background: {theme.accent}; width: 12px; height: 12px;"
            " margin: -5px 0; border-radius: 6px; }"
        )

    def show_running(self, *, running: bool) -> None:
        """Say what a change applies to."""
        self.note.setText("From the next token on" if running else "For the next answers")

    def values(self) -> dict[str, float | int]:
        return {name: round(box.value(), 2) for name, box in self._boxes.items()}

    def show_values(self, sampling: Mapping[str, Any]) -> None:
        """Take the settings over. Emits nothing."""
        for name in self._boxes:
            if name in sampling:
                self._put(name, sampling[name])

    def change(self, name: str, value: float) -> None:
        """Set one value as the user does."""
        self._put(name, value)
        self._timer.start()

    def _put(self, name: str, value: float) -> None:
        box, (slider, step) = self._boxes[name], self._sliders[name]
        with QSignalBlocker(box), QSignalBlocker(slider):
            if isinstance(box, QSpinBox):
                box.setValue(int(value))
            else:
                box.setValue(float(value))
            slider.setValue(round(value / step))

    def _edited(self, name: str) -> None:
        self.change(name, self._boxes[name].value())

    def _slid(self, name: str) -> None:
        slider, step = self._sliders[name]
        self.change(name, slider.value() * step)

    def _reset(self) -> None:
        self.show_values(SamplingParams().model_dump())
        self._timer.start()


class TopBar(QWidget):
    """Emits what the user wants; shows what it is given."""

    modelMenuRequested = Signal()
    modelChosen = Signal(str)
    openFileRequested = Signal()
    unloadRequested = Signal()
    samplingChanged = Signal(dict)
    themeChosen = Signal(str)
    panelToggled = Signal(bool)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.setProperty("look", "panel")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(HEIGHT)
        name = QLabel("Tokenglass")
        name.setProperty("look", "title")
        self.model_button = ModelButton(theme)
        self.model_button.clicked.connect(self.modelMenuRequested)
        self.sampling_button = QPushButton()
        self.sampling_button.setFont(ui_font(TEXT))
        self.sampling_button.setToolTip("How the next token is chosen")
        self.popover = SamplingPopover(self, theme)
        self.popover.changed.connect(self._sampling_changed)
        self.sampling_button.clicked.connect(self._open_sampling)
        self.theme_button = QPushButton("◐")
        self.theme_button.setProperty("look", "flat")
        self.theme_button.setFixedWidth(36)
        self.theme_button.setStyleSheet("padding: 5px;")
        self.theme_button.setToolTip("Theme")
        self.theme_button.setAccessibleName("Theme")
        self.theme_button.clicked.connect(self._open_themes)
        self.panel_button = QPushButton("Instruments")
        self.panel_button.setFont(ui_font(TEXT))
        self.panel_button.setProperty("look", "flat")
        self.panel_button.setCheckable(True)
        self.panel_button.setChecked(True)
        self.panel_button.setShortcut("Ctrl+I")
        self.panel_button.setToolTip("Show or hide the instruments (Ctrl+I)")
        self.panel_button.toggled.connect(self.panelToggled)
        self.theme_menu = QMenu(self)
        self._theme_actions: dict[str, tuple[QAction, str]] = {}
        group = QActionGroup(self)
        for choice, words in (("system", "As the system"), ("light", "Light"), ("dark", "Dark")):
            action = self.theme_menu.addAction(words)
            action.setCheckable(True)
            action.triggered.connect(lambda _checked=False, choice=choice: self.themeChosen.emit(choice))
            group.addAction(action)
            self._theme_actions[choice] = action, words
        self.menu = QMenu(self)
        self.hands = Hands()
        self.tokens_button = QPushButton("Tokens")
        self.tokens_button.setFont(ui_font(TEXT))
        self.tokens_button.setProperty("look", "flat")
        self.tokens_button.setCheckable(True)
        self.tokens_button.setShortcut("Ctrl+T")
        self.tokens_button.setToolTip(
            "Show answers token by token, with how likely each one was (Ctrl+T); press a token to branch"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 0, 12, 0)
        layout.setSpacing(12)
        layout.addWidget(name)
        layout.addWidget(self.model_button)
        layout.addWidget(self.sampling_button)
        layout.addStretch()
        layout.addWidget(self.hands)
        layout.addWidget(self.tokens_button)
        layout.addWidget(self.panel_button)
        layout.addWidget(self.theme_button)
        self._narrow = False
        self.show_sampling(SamplingParams().model_dump())

    def set_theme(self, theme: Theme) -> None:
        self.model_button.set_theme(theme)
        self.popover.set_theme(theme)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._narrow = self.width() < NARROW
        self.hands.set_compact(self._narrow)
        self._show_sampling()

    def show_theme_choice(self, choice: Choice) -> None:
        for name, (action, words) in self._theme_actions.items():
            action.setText(f"●  {words}" if name == choice else f"    {words}")
        self._theme_actions[choice][0].setChecked(True)

    def show_sampling(self, sampling: Mapping[str, Any]) -> None:
        self._sampling = sampling["temperature"], sampling["top_p"]
        self._show_sampling()
        self.popover.show_values(sampling)

    def _show_sampling(self) -> None:
        temperature, top_p = self._sampling
        words = "{:g} · {:g}" if self._narrow else "temperature {:g} · top-p {:g}"
        self.sampling_button.setText(words.format(temperature, top_p))

    def show_models(self, models: Sequence[Mapping[str, Any]], loaded: str | None) -> None:
        """Fill the menu and open it below the button."""
        self.menu.clear()
        for model in models:
            words = describe(model)
            action = self.menu.addAction(f"●  {words}" if model["id"] == loaded else f"    {words}")
            action.setToolTip(str(model.get("path", "")))
            if model.get("error"):
                action.setEnabled(False)
                action.setText(f"    {model['name']} (can't be read)")
            model_id = str(model["id"])
            action.triggered.connect(
                lambda _checked=False, model_id=model_id: self.modelChosen.emit(model_id)
            )
        self.menu.addSeparator()
        self.menu.addAction("    Open GGUF file…").triggered.connect(self.openFileRequested)
        if loaded is not None:
            unload = self.menu.addAction("    Unload the model")
            unload.setToolTip("Frees its memory")
            unload.triggered.connect(self.unloadRequested)
        self.menu.popup(self.model_button.mapToGlobal(QPoint(0, self.model_button.height() + 4)))

    def _sampling_changed(self, values: dict[str, Any]) -> None:
        self.show_sampling(values)
        self.samplingChanged.emit(values)

    def _open_sampling(self) -> None:
        button = self.sampling_button
        self.popover.adjustSize()
        self.popover.move(button.mapToGlobal(QPoint(0, button.height() + 4)))
        self.popover.show()

    def _open_themes(self) -> None:
        button = self.theme_button
        width = self.theme_menu.sizeHint().width()
        self.theme_menu.popup(button.mapToGlobal(QPoint(button.width() - width, button.height() + 4)))


def describe(model: Mapping[str, Any]) -> str:
    """A model of the library in a few words: name · quantization."""
    quantization = model.get("quantization")
    return f"{model['name']} · {quantization}" if quantization else str(model["name"])
