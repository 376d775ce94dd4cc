"""`tokenglass chat`: an answer in the terminal, from the running app or from one started for it.

The connection lives in a thread with a loop of its own, so that it goes on while this thread waits for a
line to be typed, and so that Ctrl-C reaches whatever is waiting here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import select
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from api.client import ConnectionLostError, Generation, LiveClient
from api.client.sync import LoopThread, loop_thread
from api.commands import plain, prepare_output, stats, styled
from api.commands.ownapp import running_or_own
from api.paths import Paths, absolute
from engine.errors import TokenglassError
from engine.fakespec import is_fake

MAX_PIPED_BYTES = 1_000_000
MAX_HISTORY = 1000
"""Lines that are kept over runs."""
PATIENCE_S = 5.0
"""How long to try to come back when the connection goes."""
HELP = """\
/help           this
/new            forget what was said and start again
/system [TEXT]  start again with this system prompt; without TEXT: show it
/model [ID]     load another model in the app; without ID: list them
/retry          answer the last question anew
/stats          what was measured of the last answer
/stop           end the answer that is being written (Ctrl-C does it too)
/quit           leave (Ctrl-D does it too)"""


def run(args: argparse.Namespace) -> int:
    """Ask once, or go on until the user leaves; answers the exit code. Raises TokenglassError."""
    prepare_output()
    if args.temperature is not None and not (math.isfinite(args.temperature) and 0 <= args.temperature <= 10):
        print("tokenglass: --temperature must be 0 to 10", file=sys.stderr)
        return 2
    prompt: str | None = args.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped()
    if prompt is not None and not prompt.strip():
        print("tokenglass: nothing to ask: give a PROMPT, or pipe one in", file=sys.stderr)
        return 2
    wanted = _wanted(args)
    paths = Paths.resolve(args.home)
    # the app first: starting a process is safest before there is a second thread
    model: str | None = getattr(args, "model", None)
    with running_or_own(paths, args.home, model) as ran_already, loop_thread("chat-loop") as loop:
        connected = loop.enter(LiveClient.discover(args.home, name="chat", reconnect=PATIENCE_S))
        with connected as client:
            if ran_already and model is not None:
                _check_model(
                    model, loop.call(client.request("models.list")), loop.call(client.request("snapshot"))
                )
            chat = _Chat(client, loop, args, wanted)
            if prompt is not None:
                return chat.ask(prompt)
            return chat.interact(paths)


def _check_model(wanted: str, library: dict[str, Any], snapshot: dict[str, Any]) -> None:
    """A running app answers with the model that it has: raises TokenglassError where that isn't `wanted`."""
    coming = (snapshot["loading"] or {}).get("model")
    loaded = (snapshot["model"] or {}).get("id") or coming
    path = str(absolute(wanted))
    known = {entry["path"]: entry["id"] for entry in library["models"]}
    meant = wanted if wanted in known.values() else known.get(path)
    if meant is None and is_fake(wanted):
        meant = "fake"
    if meant is None or meant != loaded:
        raise TokenglassError(
            "bad_state",
            f"the running app has {loaded or 'no model'} loaded, not {wanted}",
            hint="load it there, leave --model out, or quit that app first",
        )


class _Chat:
    """One conversation, kept here and sent whole each time; the engine's slots know its beginning."""

    def __init__(
        self, client: LiveClient, loop: LoopThread, args: argparse.Namespace, wanted: dict[str, Any]
    ) -> None:
        self._client = client
        self._loop = loop
        self._system: str | None = args.system
        self._arguments = dict(wanted)
        if args.max_tokens is not None:
            self._arguments["max_tokens"] = args.max_tokens
        sampling = {"temperature": args.temperature, "seed": args.seed}
        if given := {name: value for name, value in sampling.items() if value is not None}:
            self._arguments["sampling"] = given
        self._messages: list[dict[str, Any]] = []
        self._typed_ahead: list[str] = []
        self._finished: dict[str, Any] | None = None
        """How the last answer ended."""

    def ask(self, prompt: str) -> int:
        """One turn; answers the exit code."""
        if not self._messages:
            self._begin()
        question = {"role": "user", "content": prompt}
        generation = self._client.generate(
            messages=[*self._messages, question], on_disconnect="cancel", **self._arguments
        )
        answer = self._loop.submit(_stream(generation))
        finished = self._finished = self._wait(answer, generation)
        error = finished["error"]
        if error is None:
            self._messages += [question, {"role": "assistant", "content": finished["text"]}]
        if sys.stderr.isatty():
            line = stats(finished)
            print(f"\x1b[2m{line}\x1b[0m" if styled(sys.stderr) else line, file=sys.stderr)
        if error is not None and error["code"] == "shutting_down":
            raise TokenglassError("shutting_down", error["message"])
        if error is not None:
            hint = f" ({error['hint']})" if error.get("hint") else ""
            if error["code"] == "context_overflow" and len(self._messages) > 1:
                hint = " (/new starts a conversation with an empty context)"
            print(f"tokenglass: {plain(error['message'])}{hint}", file=sys.stderr)
            return 1
        return 130 if finished["finish_reason"] == "cancelled" else 0

    def interact(self, paths: Paths) -> int:
        """Turns until /quit, Ctrl-D, or Ctrl-C twice."""
        snapshot = self._loop.call(self._client.request("snapshot"))
        model = (snapshot["model"] or snapshot["loading"] or {}).get("name") or "no model yet"
        print(f"{plain(str(model))} · /help for commands, Ctrl-D to leave", file=sys.stderr)
        interrupted = False
        with _line_history(paths):
            while True:
                if self._client.lost is not None:
                    raise self._client.lost
                try:
                    line = self._typed_ahead.pop(0) if self._typed_ahead else input("> ")
                except EOFError:
                    print()
                    break
                except KeyboardInterrupt:
                    if interrupted:
                        print()
                        break
                    interrupted = True
                    print("\n(Ctrl-C again, or Ctrl-D, leaves)", file=sys.stderr)
                    continue
                interrupted = False
                if not self._command(line.strip()):
                    break
        return 0

    def _command(self, line: str) -> bool:
        """Carry out one line; False to leave."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        try:
            match name:
                case "/quit":
                    return False
                case "/help":
                    _tell(HELP)
                case "/new":
                    self._messages.clear()
                    _tell("(a new conversation)")
                case "/system":
                    self._set_system(rest)
                case "/model":
                    self._model(rest)
                case "/retry":
                    self._retry()
                case "/stats":
                    _tell(stats(self._finished) if self._finished else "(there was no answer yet)")
                case "/stop":
                    _tell("(nothing is being written)")
                case _ if re.fullmatch(r"/[a-z]*", name):
                    _tell(f"there is no command {name}; /help lists them")
                case _ if line:
                    self.ask(line)
        except TokenglassError as error:
            came_back = isinstance(error, ConnectionLostError) and self._client.lost is None
            if error.code == "shutting_down" and not came_back:
                raise
            hint = f" ({error.info.hint})" if error.info.hint else ""
            _tell(f"tokenglass: {plain(str(error))}{hint}")
        return True

    def _set_system(self, text: str) -> None:
        if text:
            self._system = text
            self._messages.clear()
            _tell("(a new conversation)")
        else:
            if not self._messages:
                self._begin()
            system = [message["content"] for message in self._messages if message["role"] == "system"]
            _tell(plain(system[0]) if system else "(no system prompt)")

    def _model(self, model: str) -> None:
        if model:
            told = self._loop.call(self._client.request("models.load", model=model))
            _tell(f"({plain(told['model'])}: {told['state']}; what you ask is answered when it is there)")
            return
        library = self._loop.call(self._client.request("models.list"))
        for entry in library["models"]:
            mark = "*" if entry["id"] == library["loaded"] else " "
            _tell(f"{mark} {plain(entry['id'])}")

    def _retry(self) -> None:
        """Ask the last question again, without its answer."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            _tell("(there is nothing to retry)")
            return
        before, self._messages = self._messages, self._messages[:-2]
        try:
            failed = self.ask(before[-2]["content"]) == 1
        except BaseException:
            self._messages = before
            raise
        if failed:
            self._messages = before

    def _begin(self) -> None:
        system = self._system
        if system is None:
            settings = self._loop.call(self._client.request("settings.get"))["settings"]
            system = settings.get("system_prompt") or None
        if system:
            self._messages.append({"role": "system", "content": system})

    def _wait(self, answer: Future[dict[str, Any]], generation: Generation) -> dict[str, Any]:
        """Until the answer is complete. The first Ctrl-C (or a typed /stop) stops it, the second leaves."""
        stopping = False
        with _counting_interrupts() as interrupts:
            while not self._wait_or_read(answer):
                stop = bool(interrupts) or "/stop" in self._typed_ahead
                self._typed_ahead = [line for line in self._typed_ahead if line != "/stop"]
                if len(interrupts) > 1:
                    answer.cancel()
                    raise KeyboardInterrupt
                if stop and not stopping:
                    stopping = True
                    self._loop.submit(generation.cancel())
        return answer.result()

    def _wait_or_read(self, answer: Future[dict[str, Any]]) -> bool:
        """Wait a little; True once the answer is complete. Lines typed meanwhile are kept for later."""
        try:
            answer.exception(timeout=0.1)
        except TimeoutError:
            typing = sys.stdin.isatty() and sys.platform != "win32"
            if typing and select.select([sys.stdin], [], [], 0)[0]:
                self._typed_ahead.append(sys.stdin.readline().strip())
            return False
        return True


@contextlib.contextmanager
def _counting_interrupts() -> Iterator[list[int]]:
    """While inside, Ctrl-C adds to the list instead of raising at whatever line it finds."""
    interrupts: list[int] = []
    former = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, former)


async def _stream(generation: Generation) -> dict[str, Any]:
    """Write the answer as it comes; answers the `finished` event."""
    wrote, thinking, ended = False, False, True
    faint, normal = ("\x1b[2m", "\x1b[0m") if styled(sys.stdout) else ("", "")
    shows_thoughts = sys.stdout.isatty()
    async for event in generation:
        kind = event["type"]
        if kind == "generation.reasoning_delta" and shows_thoughts:
            sys.stdout.write(("" if thinking else faint) + plain(event["text"]))
            sys.stdout.flush()
            thinking = True
        elif kind == "generation.delta":
            text = plain(event["text"])
            if thinking:
                sys.stdout.write(f"{normal}\n\n")
                thinking = False
            sys.stdout.write(text)
            sys.stdout.flush()
            if text:
                wrote, ended = True, text.endswith("\n")
        elif kind == "generation.finished":
            if thinking:
                sys.stdout.write(f"{normal}\n")
            elif wrote and not ended:
                sys.stdout.write("\n")
            sys.stdout.flush()
            return event
    raise AssertionError("a generation ends with its finished event")


def _tell(text: str) -> None:
    """What chat itself says is kept apart from answers."""
    print(text, file=sys.stderr)


def _read(file: str) -> str:
    """A text file that the user named. Raises TokenglassError."""
    try:
        return absolute(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8 text"
        raise TokenglassError("invalid_argument", f"{file} can't be read: {reason}") from None


def _wanted(args: argparse.Namespace) -> dict[str, Any]:
    """What answers must be, as arguments of `generate`. Raises TokenglassError."""
    if args.grammar is not None:
        return {"grammar": _read(args.grammar)}
    if args.json_schema is None:
        return {}
    try:
        schema = json.loads(_read(args.json_schema))
    except (ValueError, RecursionError) as error:
        raise TokenglassError("invalid_argument", f"{args.json_schema} isn't JSON: {error}") from None
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def _piped() -> str:
    data = sys.stdin.buffer.read(MAX_PIPED_BYTES + 1)
    if len(data) > MAX_PIPED_BYTES:
        raise TokenglassError("invalid_argument", f"the piped prompt is longer than {MAX_PIPED_BYTES} bytes")
    return data.decode("utf-8", "replace")


def _completed(text: str, n: int) -> str | None:
    """The n-th command that begins so."""
    names = [line.split()[0] for line in HELP.splitlines()]
    found = [name for name in names if text and name.startswith(text)]
    return found[n] if n < len(found) else None


@contextlib.contextmanager
def _line_history(paths: Paths) -> Iterator[None]:
    """Arrow keys bring back earlier questions, also those of earlier runs; Tab completes commands."""
    try:
        import readline
    except ImportError:  # not on every system
        yield
        return
    file = paths.data_dir / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(MAX_HISTORY)
    before = readline.get_current_history_length()
    readline.set_completer_delims("")
    readline.set_completer(_completed)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):
            file.touch(mode=0o600)
            append = getattr(readline, "append_history_file", None)
            if append is not None:  # what another chat has written meanwhile stays
                append(readline.get_current_history_length() - before, file)
            else:
                readline.write_history_file(file)
            file.chmod(0o600)
