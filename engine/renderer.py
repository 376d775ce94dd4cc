"""The worker's side of the renderer: a warm process that is killed and replaced where a template overruns.

A template is a program by whoever made the model. It may loop for ever inside one call that no thread can be
got out of, so it runs in a process of its own (`engine.rendering`), which can be ended whatever it is doing.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine import rendering
from engine.rendering import TIME_LIMIT_S, TemplateFailedError

T = TypeVar("T")

START_LIMIT_S = 60.0
"""For a process to come up, on a machine however busy."""


class Renderer:
    """Compiles and renders one template at a time. Used by one thread at a time."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        """Starts the process and doesn't wait for it."""
        self._time_limit_s = time_limit_s
        self._source: str | None = None
        self._loaded = False
        self._process: _Process | None = None
        self._replace()

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process is not None else None

    def load(self, source: str) -> Renderer:
        """Compile a template, which `render` takes from now on. Raises TemplateFailedError."""
        if self._loaded and source == self._source:
            return self
        self._source, self._loaded = source, False
        self._insist(self._load)
        return self

    def render(self, variables: Mapping[str, Any]) -> str:
        """The template's text. Raises TemplateFailedError; the renderer can be used again all the same."""
        return self._insist(lambda: self._render(variables))

    def close(self) -> None:
        """End the process. It also ends by itself when this one does."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _insist(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except TemplateFailedError as error:
            if error.failure != "ended":
                raise
        return action()  # the process may have ended through no fault of this template

    def _render(self, variables: Mapping[str, Any]) -> str:
        if not self._loaded:
            self._load()
        return self._ask({"variables": variables})

    def _load(self) -> None:
        self._ask({"source": self._source})
        self._loaded = True

    def _ask(self, request: Mapping[str, Any]) -> str:
        if self._process is None:
            self._replace()
        if self._process is None:
            raise TemplateFailedError("ended", "no process could be started for it")
        try:
            answer = self._process.ask(request, self._time_limit_s)
        except TemplateFailedError:
            self._replace()
            raise
        if (error := rendering.failure_of(answer)) is None:
            return str(answer["text"])
        if error.failure == "memory":
            self._replace()  # a heap at its limit is good for nothing more
        raise error

    def _replace(self) -> None:
        self.close()
        self._loaded = False
        with contextlib.suppress(OSError):  # tried again when it is needed
            self._process = _Process()


class _Process:
    """One process from its start to its end."""

    def __init__(self) -> None:
        """Raises OSError."""
        # nothing but these pipes is inherited, above all not the worker's pipe to the app
        self._popen = subprocess.Popen(
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.pid = self._popen.pid
        self._watch = _Watch(self._popen.kill)
        self._ready = False

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer to a request. Raises TemplateFailedError `too_slow` or `ended`; it has ended then."""
        if not self._ready:
            self._exchange(None, START_LIMIT_S)
            self._ready = True
        return self._exchange(request, limit_s)

    def kill(self) -> None:
        self._popen.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was left to write
                stream.close()
        self._popen.wait()
        self._watch.close()

    def _exchange(self, request: Mapping[str, Any] | None, limit_s: float) -> dict[str, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        answer = None
        self._watch.begin(limit_s)
        try:
            if request is not None:
                rendering.send(self._popen.stdin, request)
            answer = rendering.receive(self._popen.stdout)
        except (OSError, ValueError, RecursionError):
            pass  # it is gone, or what it says makes no sense
        finally:
            self._watch.end()
        if answer is None:
            if self._watch.overrun and request is not None:
                raise TemplateFailedError("too_slow", f"it took longer than {limit_s:g} s")
            raise TemplateFailedError("ended", "the process that rendered it ended")
        return answer


class _Watch:
    """A thread that kills a process which doesn't answer in time."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.overrun = False
        self._kill = kill
        self._limits: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, limit_s: float) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="renderer-watch", daemon=True)
            self._thread.start()
        self._limits.put(limit_s)

    def end(self) -> None:
        self._ends.put(None)

    def close(self) -> None:
        self._limits.put(None)

    def _run(self) -> None:
        while (limit_s := self._limits.get()) is not None:
            try:
                self._ends.get(timeout=limit_s)
            except queue.Empty:
                self.overrun = True
                self._kill()
                self._ends.get()


def _command() -> list[str]:
    if getattr(sys, "frozen", False):
        return [sys.executable, rendering.FLAG]
    # without `site`: what an installation adds to it (hooks of editable packages) costs more than our imports
    path = [str(Path(__file__).resolve().parents[1]), *sys.path]
    code = f"import sys; sys.path[:] = {path!r}; from engine.rendering import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]
