"""The renderer's process: takes a template's source, then variables, and gives text.

It has little memory, little time and nothing that it could open: should a template get out of its sandbox,
there is no harm to be done in here. The process leaves when its pipe closes, and ends itself where a template
keeps it from noticing that. It imports little, for it is started with each model.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from typing import IO, Any, Literal, cast

TIME_LIMIT_S = 2.0
"""For one compilation or rendering; the worker sees to it."""
ORPHAN_LIMIT_S = 2 * TIME_LIMIT_S
"""After that long the process ends itself: no worker is there any more that would."""
MEMORY_LIMIT = 512 << 20
"""Bytes of address space, where the system can limit them."""
MAX_FRAME = 64 << 20
"""Bytes of one message."""
FLAG = "--tokenglass-renderer"
"""The packaged program's only argument where it is to be a renderer."""

Failure = Literal["broken", "refused", "failed", "too_long", "memory", "too_slow", "ended"]
"""Why there is no text: the source can't be compiled; the template said no (`raise_exception`); it went
wrong; too long a text; no memory left; the time limit; the process ended.
"""
OVERRUNS: tuple[Failure, ...] = ("memory", "too_slow", "ended")
"""Those that cost a process."""

_LENGTH = struct.Struct(">I")


class TemplateFailedError(Exception):
    """A template gave no text."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure: Failure = failure


def send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one message. Raises OSError where the other side is gone, ValueError where it is too long."""
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(data) > MAX_FRAME:
        raise ValueError("the message is too long")
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream, or where no message of ours comes."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME or len(data := stream.read(length)) < length:
        return None
    message = json.loads(data.decode("utf-8", "surrogatepass"))
    return message if isinstance(message, dict) else None


def main() -> None:
    """Serve the pipe on standard input and output until it closes. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the app decides
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    from engine.sandbox import SandboxedTemplate, warm_up

    warm_up()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    _limit()
    try:
        send(replies, {})
        template: SandboxedTemplate | None = None
        while (request := receive(requests)) is not None:
            faulthandler.dump_traceback_later(ORPHAN_LIMIT_S, exit=True, file=null)
            try:
                if "source" in request:
                    template = SandboxedTemplate(request["source"])
                    answer = {"text": ""}
                else:
                    assert template is not None
                    answer = {"text": template.render(request["variables"])}
            except TemplateFailedError as error:
                answer = {"failure": error.failure, "message": str(error)[:2000]}
            finally:
                faulthandler.cancel_dump_traceback_later()
            send(replies, answer)
    except OSError:
        pass  # the worker is gone
    finally:
        os._exit(0)


def _limit() -> None:
    """Bound the memory; from here on nothing can be opened: no file, no socket, no program."""
    if sys.platform == "win32":
        return
    import resource

    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_LIMIT),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # macOS limits no address space
            resource.setrlimit(what, (limit, limit))


def failure_of(answer: Mapping[str, Any]) -> TemplateFailedError | None:
    """What a reply says went wrong."""
    if "failure" not in answer:
        return None
    return TemplateFailedError(cast(Failure, answer["failure"]), str(answer["message"]))
