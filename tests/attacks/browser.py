"""A real Chromium without a window, as a program of its own: visits come in at stdin, reports go to stdout.

A visit is a line of JSON: `url`; `script`, run once the page is there; `until`, an expression that is asked
again and again until it has a value; `limit_s`. Its report is one too: `value` (null where the time was up),
`url` and `console`. Each visit has a profile of its own, so no cache or preflight of one helps another.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import shiboken6
from PySide6.QtCore import QEventLoop, QTimer, QUrl
from PySide6.QtGui import QGuiApplication
from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineSettings

POLL_MS = 50
FLAGS = (
    "--no-sandbox",  # it refuses to start as root with it; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--host-resolver-rules=MAP evil.test 127.0.0.2",
)


class Page(QWebEnginePage):
    """A page that keeps what it says to the console."""

    def __init__(self, profile: QWebEngineProfile) -> None:
        super().__init__(profile)
        self.console: list[str] = []

    def javaScriptConsoleMessage(
        self, level: QWebEnginePage.JavaScriptConsoleMessageLevel, message: str, line: int, source: str
    ) -> None:
        self.console.append(message)


def visit(wish: dict[str, Any]) -> dict[str, Any]:
    """Open a page and wait until it has something to say."""
    profile = QWebEngineProfile()
    page = Page(profile)
    # as in other Chromiums, where a file may ask anybody
    page.settings().setAttribute(QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True)
    loop, poll = QEventLoop(), QTimer(interval=POLL_MS)
    values: list[Any] = []

    def loaded(_: bool) -> None:
        page.loadFinished.disconnect(loaded)
        page.runJavaScript(wish.get("script", ""))
        poll.start()

    def ask() -> None:
        page.runJavaScript(f"JSON.stringify(({wish['until']}) || null)", 0, heard)

    def heard(answer: object) -> None:
        if isinstance(answer, str) and answer != "null" and not values:
            values.append(json.loads(answer))
            loop.quit()

    page.loadFinished.connect(loaded)
    poll.timeout.connect(ask)
    limit = QTimer(singleShot=True, interval=int(wish["limit_s"] * 1000))
    limit.timeout.connect(loop.quit)
    limit.start()
    page.load(QUrl(wish["url"]))
    loop.exec()
    poll.stop()
    report = {
        "value": values[0] if values else None,
        "url": page.url().toString(),
        "console": page.console,
    }
    shiboken6.delete(page)
    shiboken6.delete(profile)
    return report


def main() -> None:
    app = QGuiApplication(["browser", "--webEngineArgs", *FLAGS])
    for line in sys.stdin:
        print(json.dumps(visit(json.loads(line))), flush=True)
    app.quit()


if __name__ == "__main__":
    main()
