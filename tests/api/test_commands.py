"""The terminal's commands, most of them as processes beside a real app with a fake model."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from api import cli
from api.client import SyncClient, running_app
from api.commands import one_line, plain
from api.commands.models import count, size
from api.paths import Paths

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT.parent / "shared" / "data" / "models" / "stories260K-f32.gguf"
LIMIT_S = 120.0
ENDLESS = "fake:tokens=100000,delay_ms=5,ctx=200000"
"""Answers until somebody stops it."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONWARNINGS": "error"}


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "api.cli", "--home", str(home), *arguments]


def run(
    home: Path, *arguments: str, stdin: bytes | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        command(home, *arguments),
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
        env=ENVIRONMENT,
        **given,
        **options,
    )


# how long it may take to quit is test_serve's subject, and on a busy machine it can take longer
SERVE = "import sys; from api import cli, serve; serve.QUIT_LIMIT_S = 100.0; sys.exit(cli.main())"


@contextmanager
def serving(home: Path, model: str = "fake:") -> Iterator[dict[str, Any]]:
    """A running app; gives its ready line once its model is loaded."""
    options = ["--home", str(home), "--port", "0", "--model", model]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        deadline = time.monotonic() + LIMIT_S
        while health(ready)["engine"] != "ready":
            assert time.monotonic() < deadline, "its model isn't loaded in time"
            time.sleep(0.05)
        yield ready
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        process.stdout.close()


def health(ready: dict[str, Any]) -> dict[str, Any]:
    address = ready["base_url"].removesuffix("/v1") + "/health"
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxy.open(address, timeout=LIMIT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def left_over(home: Path) -> list[int]:
    """Processes that were started for this home, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(home) in word for word in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def until_gone(home: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while left_over(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_over(home) == []
    assert running_app(Paths.resolve(home)) is None


# where the tests run in a shell's background, SIGINT is ignored, and a child would inherit that
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self._file, other = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env=ENVIRONMENT,
        )
        os.close(other)
        self.output = ""
        self._seen = 0

    def type(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; `end` will tell
            os.write(self._file, text.encode())

    def press(self, key: str, pattern: str) -> str:
        """Press a key at the prompt until there is output that matches.

        Between showing the prompt and waiting for a key, Python's line editor misses an interrupt (it is
        seen with the next key) and the terminal itself takes Ctrl-D; a person is never that quick.
        """
        for _ in range(10):
            self._until_it_waits_for_a_key()
            self.type(key)
            with contextlib.suppress(AssertionError):
                return self.until(pattern, 20.0)
        return self.until(pattern)

    def _until_it_waits_for_a_key(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while termios.tcgetattr(self._file)[3] & termios.ICANON and time.monotonic() < deadline:
            if not self._read(0.05):
                return
        time.sleep(0.3)
        self._read(0.0)

    def leave(self, key: str) -> int:
        """Press a key at the prompt until the program leaves it (see `press`); answers the exit code."""
        self._until_it_waits_for_a_key()
        self._seen = len(self.output)
        self.press(key, r"\n")
        return self.end()

    def until(self, pattern: str, limit_s: float = LIMIT_S) -> str:
        """Wait for output that matches, after what was waited for last."""
        deadline = time.monotonic() + limit_s
        while True:
            match = re.search(pattern, self.output[self._seen :])
            if match is not None:
                self._seen += match.end()
                return match[0]
            assert time.monotonic() < deadline, self.output[-3000:]
            assert self._read(0.5), f"ended without {pattern!r}: {self.output[-3000:]}"

    def _read(self, wait_s: float) -> bool:
        if select.select([self._file], [], [], wait_s)[0]:
            try:
                data = os.read(self._file, 65536)
            except OSError:  # the other side is closed
                return False
            self.output += data.decode("utf-8", "replace")
            return bool(data)
        return True

    def end(self) -> int:
        """Wait for its end; answers the exit code."""
        deadline = time.monotonic() + LIMIT_S
        while self._read(0.2) and time.monotonic() < deadline:
            pass
        return self._process.wait(LIMIT_S)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._file)


# ---- helpers


def test_plain_text_steers_no_terminal() -> None:
    assert plain("a\x1b[31mb\x07\x00\x9b2J\r\x7fc\n\td") == "a[31mb2Jc\n\td"
    assert one_line(" a\n b\x1b ", 10) == "a b"
    assert one_line("x" * 20, 10) == "x" * 9 + "…"


def test_numbers_for_people() -> None:
    assert [count(number) for number in (None, 0, 999, 292_800, 7_500_000, 1_240_000_000)] == [
        "-",
        "-",
        "999",
        "292.8K",
        "7.5M",
        "1.2B",
    ]
    assert [size(number) for number in (None, 12, 1185760, 4_000_000_000)] == [
        "-",
        "12 B",
        "1.2 MB",
        "4.0 GB",
    ]


# ---- models


@pytest.mark.skipif(not STORIES.exists(), reason="the test models aren't there")
def test_models_list_add_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert cli.main([*home, "models"]) == 0
    assert re.search(r"^starter ", capsys.readouterr().out, re.MULTILINE)
    assert cli.main([*home, "models", "add", str(STORIES)]) == 0
    assert "added stories260K-f32: llama, 292.8K parameters, F32, 1.2 MB" in capsys.readouterr().out
    assert cli.main([*home, "models", "list"]) == 0
    assert re.search(r"^stories260K-f32 +292.8K +F32 +512 +1.2 MB +added ", capsys.readouterr().out, re.M)
    assert cli.main([*home, "models", "list", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == ["starter", "stories260K-f32"]
    assert cli.main([*home, "models", "remove", "stories260K-f32"]) == 0
    assert "stays" in capsys.readouterr().out
    assert cli.main([*home, "models", "remove", "stories260K-f32"]) == 1
    assert STORIES.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "gone.gguf"), "there is no file"),
        (("add", "/dev/null"), "can't be loaded"),
        (("remove", "starter"), "part of the app"),
        (("remove", "nothing"), "there is no model"),
        (("pull", "someone/something"), "not built yet"),
    ],
)
def test_models_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], message: str
) -> None:
    assert cli.main(["--home", str(tmp_path), "models", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_models_shows_what_cant_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (Paths.resolve(tmp_path).models_dir / "bad\x1b[2J.gguf").write_text("no model")
    assert cli.main(["--home", str(tmp_path), "models"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^bad-2J .* folder +! ", out, re.MULTILINE)
    assert "\x1b" not in out


def test_diagnostics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--home", str(tmp_path), "diagnostics"]) == 0
    assert "## Machine" in capsys.readouterr().out


# ---- chat


def test_chat_starts_an_app_for_itself_and_ends_it(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", "--model", "fake:script=Hello%20%1b%5b31m%07there", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello [31mthere\n", b"")
    until_gone(tmp_path)


def test_chat_in_a_folder_with_an_api_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    tokenglass = "import sys; from api import cli; sys.exit(cli.main())"
    arguments = [sys.executable, "-P", "-c", tokenglass, "--home", str(tmp_path / "home"), "chat", "hi"]
    done = subprocess.run(
        [*arguments, "--model", "fake:script=yes"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"yes\n", b"")


def test_chat_uses_the_running_app(tmp_path: Path) -> None:
    with serving(tmp_path, "fake:echo=1") as ready:
        assert run(tmp_path, "chat", "two\nlines").stdout == b"two\nlines\n"
        assert run(tmp_path, "chat", stdin="piped žluť 🦙\n".encode()).stdout == "piped žluť 🦙\n".encode()
        assert run(tmp_path, "chat", stdin=b"not \xff utf-8").stdout == "not \ufffd utf-8\n".encode()
        about = running_app(Paths.resolve(tmp_path))
        assert about is not None
        assert about["pid"] == ready["pid"]


def test_chat_never_takes_another_models_answer_for_the_wanted_ones(tmp_path: Path) -> None:
    with serving(tmp_path, "fake:echo=1"):
        assert run(tmp_path, "chat", "hi").returncode == 0  # its model is loaded from here on
        done = run(tmp_path, "chat", "--model", "starter", "hi")
        assert done.returncode == 1
        assert done.stdout == b""
        assert b"has fake loaded, not starter" in done.stderr
        assert run(tmp_path, "chat", "--model", "fake:echo=1", "hi").stdout == b"hi\n"


def test_chat_two_at_once_share_one_app(tmp_path: Path) -> None:
    """Whoever loses the race for the home uses the winner's app, as long as that one chats."""
    processes = [
        subprocess.Popen(
            command(tmp_path, "chat", "--model", "fake:tokens=40,delay_ms=60", "hi"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=LIMIT_S)
        assert b"Traceback" not in err
        assert out or process.returncode == 1
    assert 0 in [process.returncode for process in processes]
    until_gone(tmp_path)


@pytest.mark.parametrize("data", [b"", b" \n\n"])
def test_chat_with_nothing_to_ask(tmp_path: Path, data: bytes) -> None:
    done = run(tmp_path, "chat", stdin=data)
    assert done.returncode == 2
    assert b"nothing to ask" in done.stderr
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("value", ["nan", "-1", "11", "inf"])
def test_chat_with_an_impossible_temperature(tmp_path: Path, value: str) -> None:
    done = run(tmp_path, "chat", f"--temperature={value}", "hi")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--temperature" in done.stderr


def test_chat_with_an_endless_pipe(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", stdin=b"x" * 1_100_000)
    assert done.returncode == 1
    assert b"longer than" in done.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("fake:bogus=1", b"can't be started: fake model: there is no key 'bogus'"),
        ("fake:oom_at_load=1", b"memory"),
        ("fake:tokens=1000,nan_after=3", b"tokenglass: "),
        ("/no/such/model.gguf", b"there is no file /no/such/model.gguf"),
    ],
)
def test_chat_failures_are_one_line_and_exit_1(tmp_path: Path, model: str, message: bytes) -> None:
    done = run(tmp_path, "chat", "--model", model, "hi")
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    until_gone(tmp_path)


def test_chat_into_a_closed_pipe(tmp_path: Path) -> None:
    with serving(tmp_path, ENDLESS):
        chat = subprocess.Popen(
            command(tmp_path, "chat", "hi"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert chat.stdout is not None
        assert chat.stderr is not None
        assert chat.stdout.read(10)
        chat.stdout.close()
        error = chat.stderr.read()
        assert chat.wait(LIMIT_S) in (0, 1)
        assert b"Traceback" not in error
        chat.stderr.close()


def test_a_killed_chat_leaves_no_app(tmp_path: Path) -> None:
    chat = subprocess.Popen(
        command(tmp_path, "chat", "--model", ENDLESS, "hi"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert chat.stdout is not None
    assert chat.stdout.read(5)
    assert len(left_over(tmp_path)) >= 2
    chat.kill()
    chat.wait()
    chat.stdout.close()
    until_gone(tmp_path)


def test_interactive_chat(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "fake:echo=1"),
        Terminal(command(tmp_path, "chat")) as terminal,
    ):
        terminal.until(r"/help for commands")
        terminal.until("> ")
        terminal.type("/help\n")
        terminal.until(r"/quit +leave")
        terminal.type("first question\n")
        terminal.until(r"first question\r\n(?s:.)*first question\r\n")
        terminal.until(r"first token \d+ ms · prompt \d+ \(0 cached\)")
        terminal.type("second question\n")
        stats = terminal.until(r"prompt \d+ \(\d+ cached\)")
        assert int(re.findall(r"\d+", stats)[1]) > 0
        terminal.type("/new\n")
        terminal.until("a new conversation")
        terminal.type("/retry\n")
        terminal.until("nothing to retry")
        terminal.type("/stats\n")
        terminal.until(r"\d+ tokens · ")
        terminal.type("/system Be brief.\n")
        terminal.until("a new conversation")
        terminal.type("/system\n")
        terminal.until(r"\nBe brief\.")
        terminal.type("third question\n")
        terminal.until(r"third question\r\n(?s:.)*third question\r\n(?s:.)*cached")
        terminal.type("/retry\n")
        terminal.until(r"/retry\r\n(?s:.)*third question\r\n(?s:.)*cached")
        terminal.type("/model\n")
        terminal.until(r"  starter")
        terminal.type("/model nowhere\n")
        terminal.until(r"there is no model 'nowhere'")
        terminal.type("/model starter\n")
        terminal.until(r"\(starter: loading;")
        terminal.type("hello there\n")
        terminal.until(r"hello there\r\n(?s:.)+cached")
        terminal.type("/nonsense\n")
        terminal.until("there is no command /nonsense")
        terminal.type("/mdoel starter\n")
        terminal.until("there is no command /mdoel;")
        terminal.until("> ")
        terminal.type("/sta\t")
        terminal.until("/stats")
        terminal.type("\n")
        terminal.until(r"\d+ tokens · ")
        terminal.until("> ")
        terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\n")  # earlier lines come back
        terminal.until(r"hello there\r\n(?s:.)+cached")
        terminal.until("> ")
        assert terminal.leave("\x04") == 0
    history = Paths.resolve(tmp_path).data_dir / "chat_history"
    assert "second question" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_two_chats_keep_each_others_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no escape codes come where none are wanted."""
    monkeypatch.setitem(ENVIRONMENT, "NO_COLOR", "1")
    with serving(tmp_path, "fake:echo=1"), ExitStack() as stack:
        chats = [stack.enter_context(Terminal(command(tmp_path, "chat"))) for _ in range(2)]
        for number, chat in enumerate(chats):
            chat.until("> ")
            chat.type(f"question {number}\n")
            chat.until(r"first token")
            chat.until("> ")
            assert "\x1b[2m" not in chat.output
        for chat in chats:
            assert chat.leave("\x04") == 0
    history = Paths.resolve(tmp_path).data_dir / "chat_history"
    assert history.read_text().splitlines() == ["question 0", "question 1"]
    assert history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_answer_and_twice_leaves(tmp_path: Path) -> None:
    with Terminal(command(tmp_path, "chat", "--model", ENDLESS)) as terminal:
        terminal.until("> ")
        terminal.type("go\n")
        terminal.until(r"go\r\n(?s:.){20}")
        terminal.type("\x03")
        terminal.until(r"tokens/s .* cancelled")
        terminal.until("> ")
        terminal.type("again\n")
        terminal.until(r"again\r\n(?s:.){20}")
        terminal.type("/stop\n")
        terminal.until("cancelled")
        terminal.until("> ")
        terminal.press("\x03", r"Ctrl-C again")
        assert terminal.leave("\x03") == 0
    until_gone(tmp_path)


def test_ctrl_c_ends_a_single_question(tmp_path: Path) -> None:
    arguments = command(tmp_path, "chat", "--model", ENDLESS, "hi")
    with Terminal(arguments) as terminal:
        terminal.until(r"(?s:.){20}")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.output
        assert "cancelled" in terminal.output
    until_gone(tmp_path)


def test_the_app_quits_under_a_chat(tmp_path: Path) -> None:
    with serving(tmp_path, ENDLESS):
        terminal = Terminal(command(tmp_path, "chat"))
        terminal.until("> ")
        terminal.type("go\n")
        terminal.until(r"go\r\n(?s:.){20}")
    with terminal:
        assert terminal.end() == 1
        assert "Traceback" not in terminal.output
        assert "quit" in terminal.output


# ---- watch and the example


def test_watch_follows_others(tmp_path: Path) -> None:
    with serving(tmp_path, "fake:script=one%20two%20three,delay_ms=20"):
        watches = [
            subprocess.Popen(
                command(tmp_path, "watch", "--once", *more),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
            )
            for more in ((), ("--json",))
        ]
        first = []
        for watch in watches:
            assert watch.stdout is not None
            first.append(watch.stdout.readline())  # it has subscribed
        assert run(tmp_path, "chat", "what?").returncode == 0
    outs = []
    for watch, line in zip(watches, first, strict=True):
        out, err = watch.communicate(timeout=LIMIT_S)
        assert watch.returncode == 0
        assert err == b"the app has quit\n"
        outs.append((line + out).decode())
    assert outs[0].startswith("following tokenglass")
    assert re.search(r"▸ chat \(live\) \w+ asks: what\?\none two three\n■ chat .* tokens/s", outs[0])
    assert "\x1b" not in outs[0]
    frames = [json.loads(line) for line in outs[1].splitlines()]
    assert frames[0]["type"] == "hello"
    assert "".join(f["text"] for f in frames if f["type"] == "generation.delta") == "one two three"
    assert {"metrics.step", "generation.queued", "generation.finished"} <= {f["type"] for f in frames}
    seqs = [frame["seq"] for frame in frames]
    assert seqs == sorted(seqs)


def until_followed(home: Path) -> None:
    """Wait until somebody else is given events."""
    with SyncClient.discover(home) as client:
        client.request("subscribe", events=["metrics.clients"])
        for event in client.events():
            others = [row for row in event["clients"] if row["client_id"] != client.hello["client_id"]]
            if any(row["events_per_s"] > 0 for row in others):
                return


def test_watch_on_a_terminal_leaves_with_ctrl_c(tmp_path: Path) -> None:
    with serving(tmp_path, "fake:"), Terminal(command(tmp_path, "watch")) as terminal:
        terminal.until(r"Tokenglass")
        terminal.until(r"\d+ %")
        assert run(tmp_path, "chat", "hi").returncode == 0
        terminal.until(r"■ .*chat")
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.output


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_watch_without_an_app(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = run(tmp_path, "watch", *more)
    assert done.returncode == 1
    assert b"no Tokenglass is running" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_example_script_sees_the_same_tokens(tmp_path: Path) -> None:
    with serving(tmp_path, "fake:delay_ms=3"):
        script = subprocess.Popen(
            [
                sys.executable,
                "-u",
                str(ROOT / "assets" / "examples" / "follow.py"),
                str(Paths.resolve(tmp_path).server_file),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert script.stdout is not None
        until_followed(tmp_path)
        answer = run(tmp_path, "chat", "hi").stdout.decode().rstrip("\n")
        out = ""
        for line in script.stdout:
            out += line.decode()
            if out.endswith("}\n"):
                break
        script.terminate()
        script.communicate(timeout=LIMIT_S)
    text, _, timings = out.partition("\n{")
    assert text.rstrip("\n") == answer
    assert "'tokens_per_second': " in timings
    assert "'ttft_ms': " in timings
