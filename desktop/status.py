"""The status line: engine, address with its menu, clients, slots, and the window's own cost."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QSizePolicy, QWidget

from desktop.theme import TEXT, Theme, ui_font

HEIGHT = 28
_COPIED_MS = 1500


class Words(QWidget):
    """One line of muted text, painted: changing it lays nothing out unless it outgrows its place."""

    def __init__(self, theme: Theme, widest: str = "", *, dot: bool = False) -> None:
        super().__init__()
        self._theme = theme
        self._text = ""
        self._colour = "muted" if dot else ""
        self._font = ui_font(TEXT, tabular=True)
        self._width = self._wide(widest)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def _wide(self, text: str) -> int:
        width = QFontMetrics(self._font).horizontalAdvance(text)
        return width + 14 if self._colour else width

    @property
    def text(self) -> str:
        return self._text

    @property
    def colour(self) -> str:
        return self._colour

    def show_words(self, text: str, colour: str = "") -> None:
        """`colour`: name of the theme's colour for the dot."""
        if (text, colour or self._colour) == (self._text, self._colour):
            return
        self._text, self._colour = text, colour or self._colour
        self.setAccessibleName(text)
        if self._wide(text) > self._width:
            self._width = self._wide(text)
            self.updateGeometry()
        self.update()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(self._width, HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002
        painter = QPainter(self)
        left = 0
        if self._colour:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(getattr(self._theme, self._colour)))
            painter.drawEllipse(QRectF(0, (self.height() - 8) / 2, 8, 8))
            left = 14
        painter.setFont(self._font)
        painter.setPen(QColor(self._theme.muted))
        painter.drawText(
            self.rect().adjusted(left, 0, 0, 0),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft,
            self._text,
        )


class StatusLine(QWidget):
    """Shows what it is given; emits what is to be copied."""

    copyRequested = Signal(str)
    """`address`, `token` or `script`."""

    def __init__(self, theme: Theme, version: str) -> None:
        super().__init__()
        self.setProperty("look", "panel")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(HEIGHT)
        self._address = ""
        self.engine = Words(theme, "engine generating", dot=True)
        self.address_button = QPushButton()
        self.address_button.setToolTip("Copy the address")
        self.address_button.clicked.connect(lambda: self.copyRequested.emit("address"))
        self.menu_button = QPushButton("▾")
        self.menu_button.setToolTip("Connect a script: copy address, token or a ready-made script")
        self.menu_button.setAccessibleName("Copy for a script")
        self.menu_button.clicked.connect(self._open_menu)
        for button in (self.address_button, self.menu_button):
            button.setProperty("look", "flat")
            button.setFont(ui_font(TEXT))
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.hide()
        self.menu = QMenu(self)
        for what, words in (
            ("address", "Copy address"),
            ("token", "Copy token"),
            ("script", "Copy ten-line script"),
        ):
            action = self.menu.addAction(words)
            action.setData(what)
            action.triggered.connect(lambda _checked=False, what=what: self.copyRequested.emit(what))
        self.clients = Words(theme, "00 clients")
        self.slots = Words(theme, "slots 0 / 0")
        self.cost = Words(theme, "loop 00.0 ms · frame 00.0 ms")
        self.cost.setToolTip(
            "Loop: how late the window's event loop came to a timer, at worst in the last two seconds.\n"
            "Frame: work and painting for one frame of events, at worst in the last two seconds."
        )
        self.version = Words(theme, "")
        self.version.show_words(f"v{version}")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 0, 16, 0)
        layout.setSpacing(16)
        layout.addWidget(self.engine)
        address = QHBoxLayout()
        address.setSpacing(0)
        address.addWidget(self.address_button)
        address.addWidget(self.menu_button)
        layout.addLayout(address)
        layout.addWidget(self.clients)
        layout.addWidget(self.slots)
        layout.addStretch()
        layout.addWidget(self.cost)
        layout.addWidget(self.version)
        self._copied = QTimer(self)
        self._copied.setSingleShot(True)
        self._copied.setInterval(_COPIED_MS)
        self._copied.timeout.connect(lambda: self.address_button.setText(self._address))
        self.set_theme(theme)

    def set_theme(self, theme: Theme) -> None:
        for words in (self.engine, self.clients, self.slots, self.cost, self.version):
            words.set_theme(theme)
        for button in (self.address_button, self.menu_button):
            button.setStyleSheet(
                f"QPushButton {{ color: {theme.muted}; padding: 2px 6px; border-radius: 4px; }}"
            )

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.clients.setVisible(self.width() >= 900)
        self.version.setVisible(self.width() >= 860)

    def show_engine(self, words: str, colour: str, tip: str = "") -> None:
        self.engine.show_words(f"engine {words}", colour)
        self.engine.setToolTip(tip)

    def show_address(self, url: str) -> None:
        self._address = url
        self.address_button.setText(url)
        self.address_button.show()
        self.menu_button.show()

    def show_counts(self, clients: int, used: int, slots: int | None) -> None:
        self.clients.show_words(f"{clients} client" if clients == 1 else f"{clients} clients")
        self.slots.show_words(f"slots {min(used, slots)} / {slots}" if slots else "slots –")

    def show_cost(self, loop_ms: float | None, frame_ms: float | None) -> None:
        """Milliseconds; None: nothing was measured."""
        loop = "–" if loop_ms is None else f"{loop_ms:.1f} ms"
        frame = "–" if frame_ms is None else f"{frame_ms:.1f} ms"
        self.cost.show_words(f"loop {loop} · frame {frame}")

    def confirm_copied(self, what: str) -> None:
        """Say for a moment that it is in the clipboard."""
        self.address_button.setText(f"{what} copied")
        self._copied.start()

    def _open_menu(self) -> None:
        corner = self.menu_button.mapToGlobal(self.menu_button.rect().topLeft())
        corner.setY(corner.y() - self.menu.sizeHint().height())
        self.menu.popup(corner)
