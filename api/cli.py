"""The command line: what can be typed, and which module carries it out. Imports nothing heavy by itself."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.bench import options as bench_options
from api.version import VERSION

if TYPE_CHECKING:
    from api.core import Options

Run = Callable[["Options"], int]


def main(
    arguments: Sequence[str] | None = None, *, window: Run | None = None, selftest: Run | None = None
) -> int:
    """Run one command; answers the exit code: 0 fine, 1 failed, 2 wrong usage, 130 after Ctrl-C.

    `window` and `selftest` come from the desktop, which nothing here may import.
    """
    parser = build_parser()
    try:
        args = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as stop:  # argparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else 2
    return guarded(lambda: _run(parser, args, window, selftest))


def guarded(action: Callable[[], int]) -> int:
    """Run an action; a user's mistake becomes one line and exit code 1, and no error a traceback."""
    from engine.errors import TokenglassError

    try:
        return action()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        _drop_output()
        return 1
    except TokenglassError as error:
        hint = f" ({error.info.hint})" if error.info.hint else ""
        _complain(f"{error.info.message}{hint}")
        usage = error.code == "invalid_argument" and error.info.path in _USAGE_PATHS
        return 2 if usage else 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            _drop_output()
            _complain(f"can't write: {error.strerror}")
            return 1
        logging.getLogger(__name__).critical("unexpected error", exc_info=True)
        _complain(f"unexpected error: {type(error).__name__}: {error}; details are in the log{_log_place()}")
        return 1


def _drop_output() -> None:
    """What is still to be written to stdout goes nowhere, so that leaving doesn't fail on it as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_USAGE_PATHS = frozenset(("host", "allow_origin", "token", "token_name", "can", "names"))


def build_parser() -> argparse.ArgumentParser:
    """Every command and option of the program."""
    parser = argparse.ArgumentParser(
        prog="tokenglass", description="Run a local model and see it think: one window, one live stream."
    )
    parser.add_argument("--version", action="version", version=f"tokenglass {VERSION}")
    common = _home_option(argparse.SUPPRESS)
    _home_option(None, parser)
    _app_options(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    serve = commands.add_parser("serve", parents=[common], help="the app without a window")
    _app_options(serve, argparse.SUPPRESS)

    chat = commands.add_parser("chat", parents=[common], help="ask in the terminal")
    chat.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="without one, chat goes on until you leave it"
    )
    _model_option(chat, "for an app started here")
    chat.add_argument("--system", metavar="TEXT", help="system prompt")
    chat.add_argument("--max-tokens", type=_whole(1), metavar="N")
    chat.add_argument("--temperature", type=float, metavar="T")
    chat.add_argument("--seed", type=_whole(0), metavar="N")
    answer = chat.add_mutually_exclusive_group()
    answer.add_argument(
        "--json-schema", metavar="FILE", help="answers are JSON that fulfils this JSON Schema"
    )
    answer.add_argument("--grammar", metavar="FILE", help="answers obey this grammar (GBNF)")

    watch = commands.add_parser("watch", parents=[common], help="follow every generation and metric")
    look = watch.add_mutually_exclusive_group()
    look.add_argument("--json", action="store_true", help="print the frames as they come")
    look.add_argument("--lines", action="store_true", help="plain lines instead of the live picture")
    watch.add_argument("--once", action="store_true", help="end with the app instead of waiting for the next")

    models = commands.add_parser("models", parents=[common], help="the model library")
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="what is there (the default)")
    listing.add_argument("--json", action="store_true")
    actions.add_parser("add", parents=[common], help="add a GGUF file where it lies").add_argument(
        "file", metavar="FILE"
    )
    actions.add_parser("remove", parents=[common], help="take one out of the list").add_argument(
        "id", metavar="ID"
    )
    template = actions.add_parser(
        "template", parents=[common], help="a chat template in place of a model's own"
    )
    template.add_argument("id", metavar="ID")
    change = template.add_mutually_exclusive_group()
    change.add_argument("file", metavar="FILE", nargs="?", help="Jinja; without it, show the present one")
    change.add_argument("--clear", action="store_true", help="use the model's own again")
    actions.add_parser("pull", parents=[common], help="download one (not built yet)").add_argument(
        "source", metavar="REPO[:FILE]"
    )

    load = actions.add_parser("load", parents=[common], help="load one in the running app")
    load.add_argument("id", metavar="ID")
    load.add_argument("--ctx", type=_whole(1, 1 << 24), metavar="N", help="tokens for each generation")
    load.add_argument("--force", action="store_true", help="even where it can't fit, or something runs")
    unload = actions.add_parser("unload", parents=[common], help="free the memory of the loaded one")
    unload.add_argument("--force", action="store_true", help="even while something runs")
    estimate = actions.add_parser("estimate", parents=[common], help="what one would take, without loading")
    estimate.add_argument("id", metavar="ID|FILE")
    estimate.add_argument("--ctx", type=_whole(0, 1 << 24), metavar="N", help="tokens for each generation")
    estimate.add_argument("--parallel", type=_whole(1, 64), metavar="N", help="generations at once")
    estimate.add_argument("--gpu-layers", type=_gpu_layers, metavar="N|auto")
    estimate.add_argument("--json", action="store_true")

    conversations = commands.add_parser("conversations", parents=[common], help="as files, out and in")
    files = conversations.add_subparsers(dest="action", metavar="ACTION")
    files.add_parser("list", parents=[common], help="what is there (the default)")
    export = files.add_parser("export", parents=[common], help="one or all, as JSON with all branches")
    export.add_argument("names", nargs="*", metavar="ID [FILE]", help="without FILE to the terminal")
    export.add_argument("--all", action="store_true", help="all of them, in place of one")
    export.add_argument("--markdown", action="store_true", help="the shown branch, to read")
    files.add_parser(
        "import", parents=[common], help="a file of ours, ChatGPT's conversations.json, or a list of messages"
    ).add_argument("file", metavar="FILE")

    token = commands.add_parser("token", parents=[common], help="further tokens, for scripts")
    tokens = token.add_subparsers(dest="action", metavar="ACTION")
    tokens.add_parser("list", parents=[common], help="names and permissions (the default)")
    add = tokens.add_parser("add", parents=[common], help="make one, and print it this once")
    add.add_argument("name", metavar="NAME")
    add.add_argument(
        "--can", type=_names, required=True, metavar="LIST", help="of: observe,generate,control,manage"
    )
    tokens.add_parser("revoke", parents=[common], help="let one in no longer").add_argument(
        "name", metavar="NAME"
    )

    bench = commands.add_parser("bench", parents=[common], help="what the app costs beside the bare engine")
    bench.add_argument("--json", action="store_true")
    _model_option(bench)
    bench_options.add(bench, _whole)

    selftest = commands.add_parser("selftest", parents=[common], help="check that everything works here")
    _model_option(selftest)

    commands.add_parser("diagnostics", parents=[common], help="a text for a bug report")
    return parser


def _home_option(default: object, parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    # subcommands take it too; SUPPRESS keeps them from overwriting what stood before their name
    parser = parser or argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        default=default,
        help="keep every file of the app in DIR (also TOKENGLASS_HOME)",
    )
    return parser


def _model_option(
    parser: argparse._ActionsContainer, text: str | None = None, default: object = argparse.SUPPRESS
) -> None:
    parser.add_argument("--model", type=_named, metavar="ID|FILE", default=default, help=text)


def _app_options(parser: argparse.ArgumentParser, default: object = None) -> None:
    group = parser.add_argument_group("options of the app")
    group.add_argument("--host", metavar="ADDRESS", default=default, help="loopback address to listen on")
    group.add_argument(
        "--port",
        type=_whole(0, 65535),
        metavar="N",
        default=default,
        help="0 = any free one; default: 7317, or the next free one",
    )
    _model_option(group, "default: the one used last, else starter", default)
    group.add_argument("--token", metavar="T", default=default, help="for tests (also TOKENGLASS_TOKEN)")
    group.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        default=default,
        help="a web page's origin that may connect; may be repeated",
    )
    group.add_argument(
        "--parallel", type=_whole(1, 64), metavar="N", default=default, help="generations at once"
    )
    group.add_argument(
        "--ctx", type=_whole(0, 1 << 24), metavar="N", default=default, help="tokens for each of them"
    )
    group.add_argument("--kv", type=_cells, metavar="N", default=default, help="KV cells of all")
    group.add_argument("--threads", type=_whole(0, 1024), metavar="N", default=default)
    group.add_argument(
        "--threads-batch", type=_whole(0, 1024), metavar="N", default=default, help="for prompts"
    )
    for name, text in (("batch", "tokens of one step"), ("ubatch", "tokens computed at once")):
        flags = (f"--{name}-size", f"--{name}")
        group.add_argument(*flags, type=_whole(0, 1 << 16), metavar="N", default=default, help=text)
    group.add_argument("--gpu-layers", type=_gpu_layers, metavar="N|auto", default=default)
    group.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default=default, metavar="LEVEL"
    )


def options_from(args: argparse.Namespace) -> Options:
    """The app's options from a parsed command line."""
    from api.core import Options

    def given(name: str) -> object:
        return getattr(args, name, None)

    values: dict[str, Any] = {
        name: given(name)
        for name in (
            "host",
            "port",
            "model",
            "token",
            "parallel",
            "ctx",
            "kv",
            "threads",
            "threads_batch",
            "batch_size",
            "ubatch_size",
            "gpu_layers",
            "log_level",
        )
        if given(name) is not None
    }
    return Options(home=args.home, allow_origins=tuple(getattr(args, "allow_origin", None) or ()), **values)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, window: Run | None, selftest: Run | None
) -> int:
    # taken out of the environment, so that no process started from here inherits it
    token = os.environ.pop("TOKENGLASS_TOKEN", None)
    if getattr(args, "token", None) is None:
        args.token = token
    elif args.token:  # nor by way of our arguments, which `multiprocessing` hands on
        sys.argv[:] = [text.replace(args.token, "[token]") for text in sys.argv]
    if args.command is None or args.command == "selftest":
        action = window if args.command is None else selftest
        if action is None:
            parser.print_usage(sys.stderr)
            _complain("this way of starting has no window")
            return 2
        return action(options_from(args))
    if args.command == "serve":
        from api import serve

        return serve.run(options_from(args))
    module = "tokens" if args.command == "token" else args.command  # Python has a module `token`
    command = importlib.import_module(f"api.commands.{module}")
    return int(command.run(args))


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number") from None
        if value < least or (most is not None and value > most):
            limits = f"{least} to {most}" if most is not None else f"{least} or more"
            raise argparse.ArgumentTypeError(f"{value} isn't {limits}")
        return value

    return read


def _cells(text: str) -> int:
    from api.settings import MIN_CELLS

    cells = _whole(0, 1 << 26)(text)
    if 0 < cells < MIN_CELLS:
        raise argparse.ArgumentTypeError(f"{cells} isn't 0 (enough for all slots), or {MIN_CELLS} or more")
    return cells


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _named(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def _gpu_layers(text: str) -> int:
    return -1 if text == "auto" else _whole(0)(text)


def _log_place() -> str:
    for handler in logging.getLogger().handlers:
        if name := getattr(handler, "baseFilename", None):
            return f" ({name})"
    return ""


def _complain(message: str) -> None:
    print(f"tokenglass: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
