"""The only module that shows dialogs: opened without a nested event loop, answered by a future."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFileDialog, QMessageBox, QWidget
from shiboken6 import isValid


async def ask(
    parent: QWidget | None, title: str, text: str, choices: Sequence[str], *, detail: str = ""
) -> str | None:
    """Let the user choose; the first choice is the default. None: closed without one."""
    box = QMessageBox(parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setIcon(QMessageBox.Icon.NoIcon)
    box.setWindowTitle(title)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setText(text)
    box.setInformativeText(detail)
    buttons = {}
    for number, choice in enumerate(choices):
        role = QMessageBox.ButtonRole.AcceptRole if number == 0 else QMessageBox.ButtonRole.RejectRole
        button = box.addButton(choice, role)
        buttons[choice] = button
        if number == 0:
            box.setDefaultButton(button)
    chosen: list[str] = []

    def clicked(button: object) -> None:
        chosen.extend(choice for choice, known in buttons.items() if known is button)

    box.buttonClicked.connect(clicked)
    await _finished(box)
    return chosen[0] if chosen else None


async def choose_gguf(parent: QWidget | None, folder: Path | None = None) -> Path | None:
    """Let the user choose a model file. None: cancelled."""
    dialog = QFileDialog(parent, "Open a model", str(folder or Path.home()), "Models (*.gguf);;All files (*)")
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    chosen: list[str] = []
    dialog.fileSelected.connect(chosen.append)
    await _finished(dialog)
    return Path(chosen[0]) if chosen else None


async def _finished(dialog: QDialog) -> int:
    """Open it and wait. A cancelled wait closes it."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def finished(result: int) -> None:
        if not done.done():
            done.set_result(result)

    dialog.finished.connect(finished)
    dialog.open()
    try:
        return await done
    except asyncio.CancelledError:
        if isValid(dialog):  # its window may have taken it along
            dialog.close()
        raise
