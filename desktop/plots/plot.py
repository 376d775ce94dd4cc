"""One live plot: a heading painted by hand over a pyqtgraph plot. The only file that knows pyqtgraph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QStyleOptionGraphicsItem, QVBoxLayout, QWidget

from desktop.plots.series import BIN_S, BINS, SPAN_S, Array, Dots, Steps
from desktop.theme import SMALL, TEXT, Theme, ui_font, with_alpha

pg.setConfigOptions(antialias=False, useOpenGL=False, foreground="w", background=None)

_X = (np.arange(BINS, dtype=np.float64) - BINS + 1) * BIN_S
_SCALE_WIDTH = 34


class Heading(QWidget):
    """Title, what it means in small letters, and the present value at the right."""

    def __init__(self, title: str, note: str, theme: Theme) -> None:
        super().__init__()
        self._title = title
        self._note: list[tuple[str, str]] = [(note, "")]
        self._value = ""
        self._theme = theme
        self.setFixedHeight(20)

    def show_title(self, title: str) -> None:
        if title != self._title:
            self._title = title
            self.update()

    def show_value(self, value: str) -> None:
        if value != self._value:
            self._value = value
            self.update()

    def show_note(self, *parts: tuple[str, str]) -> None:
        """Pieces of the note, each with the name of the theme's colour for its dot, or an empty name."""
        if list(parts) != self._note:
            self._note = list(parts)
            self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        theme = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        bold, plain = ui_font(TEXT, bold=True), ui_font(TEXT, tabular=True)
        small = ui_font(SMALL, tabular=True)
        baseline = 14
        painter.setPen(QColor(theme.text))
        painter.setFont(bold)
        painter.drawText(0, baseline, self._title)
        left = QFontMetrics(bold).horizontalAdvance(self._title) + 8 if self._title else 0
        painter.setFont(plain)
        value_width = QFontMetrics(plain).horizontalAdvance(self._value)
        painter.drawText(self.width() - value_width, baseline, self._value)
        right = self.width() - value_width - 8
        metrics = QFontMetrics(small)
        painter.setFont(small)
        for text, colour in self._note:
            if colour:
                if left + 12 > right:
                    break
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(getattr(theme, colour)))
                painter.drawEllipse(QRectF(left, baseline - 7, 6, 6))
                left += 10
            painter.setPen(QColor(theme.muted))
            shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, max(0, right - left))
            painter.drawText(left, baseline, shown)
            left += metrics.horizontalAdvance(shown) + 8


class _DotCloud(pg.GraphicsObject):  # type: ignore[misc]  # pyqtgraph carries no types
    """Points drawn in one call each colour; a scatter item of pyqtgraph costs ten times as much."""

    def __init__(self) -> None:
        super().__init__()
        self._normal = QPolygonF()
        self._high = QPolygonF()
        self.colour = QColor()
        self.high_colour = QColor()
        self._bounds = QRectF(-SPAN_S, 0, SPAN_S, 1)

    def show_points(self, x: Array, y: Array, high: npt.NDArray[np.bool_], top: float) -> None:
        normal = ~high
        self._normal = QPolygonF([QPointF(a, b) for a, b in zip(x[normal], y[normal], strict=True)])
        self._high = QPolygonF([QPointF(a, b) for a, b in zip(x[high], y[high], strict=True)])
        bounds = QRectF(-SPAN_S, 0, SPAN_S, top)
        if bounds != self._bounds:
            self.prepareGeometryChange()
            self._bounds = bounds
        self.update()

    def boundingRect(self) -> QRectF:
        return self._bounds

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None) -> None:  # noqa: ARG002
        for points, colour, width, cap in (
            (self._normal, self.colour, 2.0, Qt.PenCapStyle.SquareCap),  # round ones cost four times as much
            (self._high, self.high_colour, 4.0, Qt.PenCapStyle.RoundCap),
        ):
            pen = pg.mkPen(colour, width=width * painter.device().devicePixelRatio())
            pen.setCapStyle(cap)
            painter.setPen(pen)
            painter.drawPoints(points)


class _Grid(pg.GraphicsObject):  # type: ignore[misc]  # pyqtgraph carries no types
    """Three thin lines; pyqtgraph's own axes draw and measure far more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = QColor()
        self._bounds = QRectF(-SPAN_S, 0, SPAN_S, 1)
        self.setZValue(-10)

    def set_top(self, top: float) -> None:
        self.prepareGeometryChange()
        self._bounds = QRectF(-SPAN_S, 0, SPAN_S, top)

    def boundingRect(self) -> QRectF:
        return self._bounds

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None) -> None:  # noqa: ARG002
        painter.setPen(pg.mkPen(self.colour, width=1))
        top = self._bounds.height()
        for height in (0.0, top / 2, top):
            painter.drawLine(QPointF(-SPAN_S, height), QPointF(0, height))


class _Scale(QWidget):
    """The figures beside the grid's lines."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._top = 1.0
        self._theme = theme
        self.setFixedWidth(_SCALE_WIDTH)

    def set_top(self, top: float) -> None:
        self._top = top
        self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        painter = QPainter(self)
        font = ui_font(SMALL - 1, tabular=True)
        painter.setFont(font)
        painter.setPen(QColor(self._theme.muted))
        metrics = QFontMetrics(font)
        rise = metrics.capHeight()
        last = self.height() - 1
        for value, baseline in (
            (self._top, rise),
            (self._top / 2, (last + rise) // 2),
            (0.0, last),
        ):
            text = f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
            painter.drawText(self.width() - 8 - metrics.horizontalAdvance(text), baseline, text)


class LivePlot(QWidget):
    """A plot of the last `SPAN_S` seconds. The x axis is fixed; data moves under it."""

    def __init__(self, title: str, note: str, steps: Steps, theme: Theme) -> None:
        super().__init__()
        self.heading = Heading(title, note, theme)
        self._steps = steps
        self._top = 0.0
        self._scale_factor = self.devicePixelRatioF()
        self._theme = theme
        self._curves: list[tuple[pg.PlotCurveItem, str, bool]] = []
        self._dots: _DotCloud | None = None
        # A bare view box: pyqtgraph's PlotItem builds menus and axes that take 100 ms and aren't used.
        self._view = pg.GraphicsView(background=theme.panel)
        self._view.setFrameShape(QFrame.Shape.NoFrame)
        self._view.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._view.setMinimumHeight(56)
        self._box = pg.ViewBox(enableMenu=False, enableMouse=False, defaultPadding=0)
        self._box.disableAutoRange()
        self._box.setXRange(-SPAN_S, 0, padding=0)
        self._view.setCentralItem(self._box)
        self._grid = _Grid()
        self._box.addItem(self._grid, ignoreBounds=True)
        self._scale = _Scale(theme)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.heading)
        beside = QHBoxLayout()
        beside.setContentsMargins(0, 0, 0, 0)
        beside.setSpacing(0)
        beside.addWidget(self._scale)
        beside.addWidget(self._view, 1)
        layout.addLayout(beside, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._set_top(steps.top)

    def sizeHint(self) -> QSize:
        return QSize(320, 96)

    def add_curve(self, colour: str, *, fill: bool) -> int:
        """A line in the theme's colour of that name; answers its number."""
        curve = pg.PlotCurveItem(skipFiniteCheck=True)
        self._box.addItem(curve, ignoreBounds=True)
        self._curves.append((curve, colour, fill))
        self.set_theme(self._theme)
        return len(self._curves) - 1

    def add_dots(self) -> None:
        self._dots = _DotCloud()
        self._box.addItem(self._dots, ignoreBounds=True)
        self.set_theme(self._theme)

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.heading.set_theme(theme)
        self._view.setBackground(theme.panel)
        self._scale.set_theme(theme)
        self._grid.colour = QColor(theme.border)
        self._grid.update()
        for curve, colour, fill in self._curves:
            value = getattr(theme, colour)
            curve.setPen(
                pg.mkPen(value, width=self._scale_factor)
            )  # pyqtgraph counts the screen's own pixels
            if fill:
                curve.setBrush(pg.mkBrush(with_alpha(value, 0.14)))
                curve.setFillLevel(0)
        if self._dots is not None:
            self._dots.colour = QColor(theme.accent)
            self._dots.high_colour = QColor(theme.warn)
            self._dots.update()

    def _set_top(self, top: float) -> None:
        if top == self._top:
            return
        self._top = top
        self._box.setYRange(0, top, padding=0)
        self._grid.set_top(top)
        self._scale.set_top(top)

    def show_curves(self, *values: Array, antialias: bool = False) -> None:
        """New values of each curve, in the order they were added; NaN where there were none yet."""
        if self._scale_factor != self.devicePixelRatioF():  # moved to another screen
            self._scale_factor = self.devicePixelRatioF()
            self.set_theme(self._theme)
        highest = 0.0
        for (curve, _, _), data in zip(self._curves, values, strict=True):
            known = np.flatnonzero(np.isfinite(data))
            start = int(known[0]) if len(known) else len(data)
            part = data[start:]
            curve.setData(_X[start:], part, antialias=antialias)
            if len(part):
                highest = max(highest, float(part.max()))
        self._set_top(self._steps.fit(highest))

    def show_dots(self, dots: Dots, now: float) -> float | None:
        """The dots up to `now`; answers the median, None where there is no dot.

        Latencies far above the others would flatten them: they stand at the upper edge, in another colour.
        """
        assert self._dots is not None
        x, y = dots.visible(now)
        if not len(y):
            self._dots.show_points(x, y, y > 0, self._top)
            return None
        median = float(np.median(y))
        usual = max(float(np.percentile(y, 95)), median * 1.6)
        top = self._steps.fit(usual)
        self._set_top(top)
        high = y > min(top * 0.94, max(usual, median * 2.2))
        self._dots.show_points(x, np.minimum(y, top * 0.94), high, top)
        return median
