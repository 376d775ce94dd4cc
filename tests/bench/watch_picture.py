"""Takes the README's picture of `tokenglass watch`: a real terminal, the starter model, real answers.

    python tests/bench/watch_picture.py [FILE] [--size 104x30]

In a home of its own; the screen is painted with Qt, off-screen.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from PySide6.QtCore import QRectF, Qt  # noqa: E402
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QGuiApplication, QImage, QPainter  # noqa: E402

from api.client import SyncClient  # noqa: E402
from tests.api.vt import Cell, OnTerminal, Screen  # noqa: E402
from tests.e2e.harness import serve  # noqa: E402

BACKGROUND, FOREGROUND, FAINT = "#14161a", "#e6e8ec", "#7b8494"
COLOURS = {31: "#f27a73", 32: "#5bd6a0", 33: "#f2b45c", 35: "#b794f6", 36: "#6ea8fe"}
BLOCKS = "▁▂▃▄▅▆▇█"
SCALE, MARGIN, FONT_PX = 2.0, 14.0, 14
TALKS = {
    "storyteller.py": ("Tell me a story about a lighthouse", "Tell me a long story about a fox"),
    "nightly.py": ("Show me a table of the cards", "How do I follow the stream with a script?"),
    "notebook": ("What does first-token time mean?", "What is 17 + 25?"),
}
WARM_UP_S = 22.0


def talk(home: Path, name: str, left: threading.Event) -> None:
    """A program that asks one thing after the other."""
    chance = random.Random(name)
    with SyncClient.discover(home, name=name) as client:
        while not left.is_set():
            question = {"role": "user", "content": chance.choice(TALKS[name])}
            client.generate(messages=[question], max_tokens=300, sampling={"temperature": 0.9}).finished()
            time.sleep(chance.uniform(0.0, 0.1))


def measure(home: Path, left: threading.Event) -> None:
    """A program with a series of its own."""
    value = 21.0
    with SyncClient.discover(home, name="room.py") as client:
        while not left.is_set():
            value += random.uniform(-0.2, 0.2)
            client.request("publish", series="room", value=value, unit="°C")
            time.sleep(0.5)


def caught(terminal: OnTerminal) -> bool:
    """Whether this is a moment worth a picture: two answers on their way, some ended."""
    text = terminal.screen.text
    whole = not terminal.screen.modes["whole"]
    return whole and text.count("▌") >= 2 and text.count("■") >= 4


def take(file: Path, width: int, height: int, model: str) -> None:
    left = threading.Event()
    options = ("--threads", "1", "--parallel", "4")
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), model, *options) as app:
        threads = [threading.Thread(target=talk, args=(app.home, name, left)) for name in TALKS]
        threads.append(threading.Thread(target=measure, args=(app.home, left)))
        for thread in threads:
            thread.start()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        arguments = [sys.executable, "-m", "api.cli", "watch", "--home", str(app.home)]
        with OnTerminal(arguments, environment, width, height) as terminal:
            end = time.monotonic() + WARM_UP_S
            terminal.until(lambda: time.monotonic() > end and caught(terminal))
            paint(terminal.screen).save(str(file))
            print(terminal.screen.text)
            terminal.type("q")
            terminal.end()
        left.set()
        for thread in threads:
            thread.join()


def paint(screen: Screen) -> QImage:
    """The screen as a picture."""
    font = QFont("DejaVu Sans Mono")
    font.setPixelSize(FONT_PX)
    metrics = QFontMetricsF(font)
    column, row = metrics.horizontalAdvance("M"), round(metrics.height() * 1.12)
    size = (screen.width * column + 2 * MARGIN, screen.height * row + 2 * MARGIN)
    image = QImage(round(size[0] * SCALE), round(size[1] * SCALE), QImage.Format.Format_RGB32)
    image.fill(QColor(BACKGROUND))
    painter = QPainter(image)
    painter.scale(SCALE, SCALE)
    painter.setRenderHint(QPainter.RenderHint.TextAntialiasing)
    for y, line in enumerate(screen.cells):
        for x, cell in enumerate(line):
            if cell.char.strip():
                where = QRectF(MARGIN + x * column, MARGIN + y * row, column, row)
                _paint_cell(painter, where, cell, font, metrics)
    painter.end()
    return image


def _paint_cell(painter: QPainter, where: QRectF, cell: Cell, font: QFont, metrics: QFontMetricsF) -> None:
    plain = FAINT if 2 in cell.style else FOREGROUND
    colour = QColor(next((COLOURS[code] for code in cell.style if code in COLOURS), plain))
    if cell.char in BLOCKS:  # as terminals draw them: exactly to the edges of their cell
        share = (BLOCKS.index(cell.char) + 1) / 8
        painter.fillRect(where.adjusted(0, where.height() * (1 - share), 0.3, 0), colour)
        return
    if cell.char in "━─":
        thickness = 3.0 if cell.char == "━" else 1.0
        top = where.center().y() - thickness / 2
        painter.fillRect(QRectF(where.left(), top, where.width() + 0.3, thickness), colour)
        return
    font = QFont(font)
    font.setBold(1 in cell.style)
    painter.setFont(font)
    painter.setPen(colour)
    wide = where.adjusted(0, 0, where.width(), 0)
    painter.drawText(wide, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, cell.char)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "assets" / "screenshots" / "watch.png")
    parser.add_argument("--size", default="104x30")
    parser.add_argument("--model", default="starter")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    application = QGuiApplication([])
    take(arguments.file, width, height, arguments.model)
    del application


if __name__ == "__main__":
    main()
