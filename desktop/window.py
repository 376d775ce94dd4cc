"""The window's frame: bar, notice, sidebar, chat, instruments, status line. It decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QByteArray, QEvent, QSettings, Qt, QTimer, Signal
from PySide6.QtGui import (
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QGuiApplication,
    QHideEvent,
    QIcon,
    QKeySequence,
    QShortcut,
    QShowEvent,
)
from PySide6.QtWidgets import QFrame, QSplitter, QVBoxLayout, QWidget

from api.paths import assets_dir
from api.version import VERSION
from desktop import theme as themes
from desktop.banner import Banner
from desktop.chat.pane import ChatPane
from desktop.sidebar import Sidebar
from desktop.status import StatusLine
from desktop.theme import Theme
from desktop.topbar import TopBar
from desktop.watchdog import FrameMeter, LoopWatch

if TYPE_CHECKING:
    from desktop.plots.panel import Panel

_SIZE = (1280, 800)
_SPLIT = (236, 644, 400)


class Window(QWidget):
    """Closing it only asks: `closeRequested` is emitted, and whoever runs the app ends it in order."""

    closeRequested = Signal()
    fileDropped = Signal(str)
    """Path of a GGUF file."""
    ticked = Signal()
    """Once a second while the window can be seen."""

    def __init__(self, settings_file: Path) -> None:
        super().__init__()
        self._store = QSettings(str(settings_file), QSettings.Format.IniFormat)
        manager = themes.manager()
        kept = self._store.value("window/theme")
        if kept in ("system", "light", "dark"):
            manager.set_choice(kept)  # the settings say so too, but only later
        theme = manager.theme
        self.setObjectName("window")
        self.setWindowTitle("Tokenglass")
        self.setWindowIcon(app_icon())
        self.setMinimumSize(800, 480)
        self.setAcceptDrops(True)
        self.meter = FrameMeter()
        self.loop_watch = LoopWatch()
        self._frames_before = 0
        self.top = TopBar(theme)
        self.banner = Banner(theme)
        self.sidebar = Sidebar(theme)
        self.chat = ChatPane(theme)
        self.status = StatusLine(theme, VERSION)
        self.panel: Panel | None = None
        self._panel_place = QWidget()
        self._panel_place.setProperty("look", "panel")
        self._panel_place.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._panel_place.setMinimumWidth(300)
        inside = QVBoxLayout(self._panel_place)
        inside.setContentsMargins(0, 0, 0, 0)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setHandleWidth(1)
        self.splitter.addWidget(self.sidebar)
        self.splitter.addWidget(self.chat)
        self.splitter.addWidget(self._panel_place)
        self.chat.setMinimumWidth(316)
        for place, stretch in enumerate((0, 1, 0)):
            self.splitter.setStretchFactor(place, stretch)
            self.splitter.setCollapsible(place, place == 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.top)
        layout.addWidget(_line())
        layout.addWidget(self.banner)
        layout.addWidget(self.splitter, 1)
        layout.addWidget(_line())
        layout.addWidget(self.status)
        for keys, action in (
            ("Ctrl+F", self.sidebar.focus_search),
            ("Ctrl+L", self.chat.focus_composer),
            ("Ctrl+Q", self.close),
        ):
            self._shortcut(keys, action)
        self.top.panelToggled.connect(self._panel_place.setVisible)
        manager.changed.connect(self.set_theme)
        self._clock = QTimer(self)
        self._clock.setTimerType(Qt.TimerType.CoarseTimer)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tick)
        self._restore_geometry()

    def _shortcut(self, keys: str, action: Callable[[], object]) -> None:
        QShortcut(QKeySequence(keys), self).activated.connect(action)

    def add_panel(self) -> Panel:
        """Make the instruments. Apart from the rest, since their libraries take half a second to import."""
        from desktop.plots.panel import Panel

        panel = Panel(themes.current())
        layout = self._panel_place.layout()
        assert layout is not None
        layout.addWidget(panel)
        self.panel = panel
        return panel

    def set_theme(self, theme: Theme) -> None:
        self.top.set_theme(theme)
        self.banner.set_theme(theme)
        self.sidebar.set_theme(theme)
        self.chat.set_theme(theme)
        self.status.set_theme(theme)
        if self.panel is not None:
            self.panel.set_theme(theme)

    def bring_to_front(self) -> None:
        """Another start of the program asked for this window."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    # ---- the window's own cost

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.UpdateRequest:
            started = time.perf_counter()
            done = super().event(event)
            self.meter.paint((time.perf_counter() - started) * 1000.0)
            return done
        return super().event(event)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.WindowStateChange:
            self._follow_visibility()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._follow_visibility()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._follow_visibility()

    def _follow_visibility(self) -> None:
        if self.isVisible() and not self.isMinimized():
            self._clock.start()
            self.loop_watch.start()
        else:
            self._clock.stop()
            self.loop_watch.stop()

    def _tick(self) -> None:
        # The system's load alone brings two frames a second; more means that tokens come.
        self.loop_watch.set_busy(self.meter.frames - self._frames_before > 4)
        self._frames_before = self.meter.frames
        self.status.show_cost(self.loop_watch.worst(), self.meter.worst())
        self.ticked.emit()

    # ---- closing, dropping, remembering

    def closeEvent(self, event: QCloseEvent) -> None:
        event.ignore()
        self.save_geometry()
        self.closeRequested.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _gguf(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = _gguf(event)
        if path:
            event.acceptProposedAction()
            self.fileDropped.emit(path)

    def leave(self) -> None:
        """Quitting begins: keep the geometry and go from the screen at once."""
        self.save_geometry()
        self.hide()

    def dispose(self) -> None:
        """The app ends: stop every timer and leave the screen."""
        self._clock.stop()
        self.loop_watch.stop()
        self.hide()
        themes.manager().changed.disconnect(self.set_theme)
        self.deleteLater()

    def save_geometry(self) -> None:
        self._store.setValue("window/geometry", self.saveGeometry())
        self._store.setValue("window/splitter", self.splitter.saveState())
        self._store.setValue("window/panel", self.top.panel_button.isChecked())
        self._store.setValue("window/theme", themes.manager().choice)
        self._store.sync()

    def _restore_geometry(self) -> None:
        geometry, split = self._store.value("window/geometry"), self._store.value("window/splitter")
        if not (isinstance(geometry, QByteArray) and self.restoreGeometry(geometry)):
            room = QGuiApplication.primaryScreen().availableGeometry()
            self.resize(min(_SIZE[0], room.width()), min(_SIZE[1], room.height()))
        if not (isinstance(split, QByteArray) and self.splitter.restoreState(split)):
            self.splitter.setSizes(_SPLIT)
        if self._store.value("window/panel", True) in (False, "false"):
            self.top.panel_button.setChecked(False)


def app_icon() -> QIcon:
    """As PNG: reading SVG takes a library and a plugin more."""
    icon = QIcon()
    for size in (48, 256):
        icon.addFile(str(assets_dir() / "icons" / f"tokenglass-{size}.png"))
    return icon


def _line() -> QFrame:
    line = QFrame()
    line.setProperty("look", "line")
    line.setFixedHeight(1)
    return line


def _gguf(event: QDropEvent) -> str | None:
    """Path of the one GGUF file that is dragged, if it is that."""
    urls = event.mimeData().urls()
    if len(urls) != 1 or not urls[0].isLocalFile():
        return None
    path = urls[0].toLocalFile()
    return path if path.lower().endswith(".gguf") else None
