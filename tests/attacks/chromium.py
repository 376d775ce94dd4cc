"""What tests need around a browser: the browser as a child, web sites for its pages, and a rebound name."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.e2e.harness import END_LIMIT_S, START_LIMIT_S, quiet_port

VISIT_LIMIT_S = 150.0
EVIL_NAME = "evil.test"
EVIL_ADDRESS = "127.0.0.2"
"""Where the browser finds that name; a loopback address beside the app's."""


class Chromium:
    """A browser in a process of its own. Made by `chromium`."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def visit(self, url: str, until: str = "window.report", script: str = "") -> Any:
        """Open a page, run a script in it, and give what `until` comes to; fails where that is nothing."""
        assert self._process.stdin is not None
        wish = {"url": url, "until": until, "script": script, "limit_s": VISIT_LIMIT_S}
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        line = self._lines.get(timeout=VISIT_LIMIT_S + START_LIMIT_S)
        assert line, f"the browser has ended: {self._errors.read_text(errors='replace')[-2000:]}"
        report = json.loads(line)
        assert report["value"] is not None, f"the page had nothing to say: {report}"
        return report["value"]

    def leave(self) -> None:
        """End it, and whatever it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_LIMIT_S)
        self._reader.join(END_LIMIT_S)


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser that keeps its files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    keeps = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    environment = {name: value for name, value in os.environ.items() if name not in proxies}
    errors = folder / "errors.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("browser.py"))],
            env={**environment, **keeps, "QT_QPA_PLATFORM": "offscreen"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            start_new_session=True,
        ) as process,
    ):
        browser = Chromium(process, errors)
        try:
            yield browser
        finally:
            browser.leave()


class Site:
    """A web site on a free loopback port. Made by `site`."""

    def __init__(self, port: int, files: dict[str, bytes]) -> None:
        self.port = port
        self.files = files
        """What it serves, by path. One that begins with `http:` is where the path redirects to, as 307."""

    def origin(self, name: str = "127.0.0.1") -> str:
        return f"http://{name}:{self.port}"


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A web site for pages that are attackers, or guests."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path.partition("?")[0])
            redirect = body is not None and body.startswith(b"http:")
            self.send_response(307 if redirect else 200 if body is not None else 404)
            if body is not None and redirect:
                self.send_header("Location", body.decode())
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(0 if redirect else len(body or b"")))
            self.end_headers()
            if not redirect:
                self.wfile.write(body or b"")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Site(server.server_address[1], files)
        finally:
            server.shutdown()
            thread.join()


class Rebound:
    """A name that leads to the attacker's page first and to the app afterwards. Made by `rebound`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.page = b""

    @property
    def origin(self) -> str:
        return f"http://{EVIL_NAME}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/page"


@contextlib.contextmanager
def rebound() -> Iterator[Rebound]:
    """What a browser meets at a name whose owner changes its address; the port is free at 127.0.0.1 too.

    Only the name's owner can tell a browser another address, so this stands at the first one and passes every
    connection but that for `/page` on to the app, byte for byte.
    """
    with contextlib.ExitStack() as stack:
        port = quiet_port("127.0.0.1", EVIL_ADDRESS)
        server = socketserver.ThreadingTCPServer((EVIL_ADDRESS, port), socketserver.BaseRequestHandler)
        stack.enter_context(server)
        name = Rebound(port)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(VISIT_LIMIT_S)
                with contextlib.suppress(OSError):
                    first = self.request.recv(1 << 16)
                    if first.startswith(b"GET /page "):
                        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                        length = b"Content-Length: %d\r\n\r\n" % len(name.page)
                        self.request.sendall(head + length + name.page)
                    elif first:
                        with socket.create_connection(("127.0.0.1", port)) as app:
                            app.sendall(first)
                            back = threading.Thread(target=_pass_on, args=(app, self.request))
                            back.start()
                            _pass_on(self.request, app)
                            back.join()

        server.RequestHandlerClass = Handler
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield name
        finally:
            server.shutdown()
            thread.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Every byte from one to the other, and the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
