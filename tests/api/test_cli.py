import argparse
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api import cli
from api.core import Options
from api.version import VERSION
from engine.errors import TokenglassError

ROOT = Path(__file__).parents[2]


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(arguments)


def options(*arguments: str) -> Options:
    return cli.options_from(parsed(*arguments))


def test_without_options_everything_is_left_to_the_settings() -> None:
    assert options("serve") == options() == Options()


def test_every_option_of_the_app() -> None:
    every = [
        "--home",
        "/h",
        "--host",
        "127.0.0.2",
        "--port",
        "0",
        "--model",
        "m.gguf",
        "--token",
        "T",
        "--allow-origin",
        "http://a",
        "--allow-origin",
        "http://b",
        "--parallel",
        "3",
        "--ctx",
        "512",
        "--threads",
        "2",
        "--gpu-layers",
        "auto",
        "--log-level",
        "debug",
    ]
    wanted = Options(
        home=Path("/h"),
        host="127.0.0.2",
        port=0,
        model="m.gguf",
        token="T",
        allow_origins=("http://a", "http://b"),
        parallel=3,
        ctx=512,
        threads=2,
        gpu_layers=-1,
        log_level="debug",
    )
    assert options(*every) == wanted
    assert options("serve", *every) == wanted
    assert options(*every, "serve") == wanted


def test_an_option_may_stand_before_or_after_the_command() -> None:
    assert options("--home", "/h", "serve", "--port", "1").home == Path("/h")
    assert options("--model", "a", "serve", "--model", "b").model == "b"
    assert parsed("--home", "/h", "watch").home == Path("/h")
    assert parsed("watch", "--home", "/h").home == Path("/h")


def test_commands_and_their_arguments() -> None:
    assert parsed("chat").prompt is None
    assert parsed("chat", "hello", "--max-tokens", "5").max_tokens == 5
    assert parsed("watch", "--json").json is True
    assert parsed("models").action is None
    assert parsed("models", "add", "f.gguf").file == "f.gguf"
    assert parsed("models", "remove", "x").id == "x"
    assert parsed("models", "pull", "a/b:c").source == "a/b:c"
    assert parsed("models", "list", "--json").json is True
    assert parsed("bench", "--json").pairs == 15
    assert parsed("selftest").command == "selftest"
    assert parsed("diagnostics", "--home", "/h").home == Path("/h")


@pytest.mark.parametrize(
    "arguments",
    ("serve --port x", "serve --port -1", "serve --ctx 1.5", "nonsense", "models add", "--what", "chat a b",
     "serve --gpu-layers -3", "serve --log-level loud", "bench --pairs 0"),
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: tokenglass" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ([], ["serve"], ["chat"], ["bench"], ["selftest"]))
def test_an_empty_model_name_is_wrong_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--model", " "]) == 2
    assert "argument --model: the name is empty" in capsys.readouterr().err


@pytest.mark.parametrize("kv", ("1", "255", "-1"))
def test_too_few_cells_are_wrong_usage(kv: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--kv", kv]) == 2
    assert "argument --kv: " in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tokenglass {VERSION}\n"
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("serve", "chat", "watch", "models", "bench", "selftest", "diagnostics"):
        assert command in shown


def test_the_desktop_brings_window_and_selftest(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, Options]] = []

    def action(name: str) -> Callable[[Options], int]:
        def run(given: Options) -> int:
            seen.append((name, given))
            return 7

        return run

    assert cli.main(["--port", "5"], window=action("window"), selftest=action("selftest")) == 7
    assert cli.main(["selftest"], window=action("window"), selftest=action("selftest")) == 7
    assert seen == [("window", Options(port=5)), ("selftest", Options())]
    assert cli.main([]) == 2
    assert cli.main(["selftest"]) == 2
    assert "no window" in capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def test_what_goes_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert cli.guarded(raising(TokenglassError("storage", "the disk\nis full", hint="free some"))) == 1
    assert capsys.readouterr().err == "tokenglass: the disk is full (free some)\n"
    assert cli.guarded(raising(TokenglassError("invalid_argument", "no such host", path="host"))) == 2
    assert cli.guarded(raising(TokenglassError("invalid_argument", "bad", path="sampling.seed"))) == 1
    capsys.readouterr()
    assert cli.guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")
    with caplog.at_level(logging.CRITICAL):
        assert cli.guarded(raising(RuntimeError("odd"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("tokenglass: unexpected error: RuntimeError: odd; details are in the log")
    assert err.count("\n") == 1
    assert "Traceback" in caplog.text
    assert cli.guarded(lambda: 0) == 0


def test_nothing_heavy_is_imported_for_the_parser() -> None:
    code = (
        "import sys, api.cli; api.cli.build_parser();"
        "print({'pydantic', 'websockets', 'numpy', 'PySide6', 'asyncio'} & set(sys.modules) or 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "none"


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    code = (
        "import sys\nfrom api import cli\n"
        "def action():\n    while True: print('x' * 1000)\n"
        "sys.exit(cli.guarded(action))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(100) == 1
