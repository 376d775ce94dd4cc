"""`tokenglass models`: the model library, with or without a running app."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from api import chat_templates
from api.commands import loading, one_line, prepare_output
from api.library import Library
from api.paths import Paths, tilde
from api.settings import SettingsStore
from engine.errors import TokenglassError
from engine.renderer import Renderer
from engine.rendering import TemplateFailedError


def run(args: argparse.Namespace) -> int:
    """Carry out `list` (the default) or another action. Raises TokenglassError."""
    prepare_output()
    if args.action in loading.ACTIONS:
        return loading.run(args)
    if args.action == "pull":
        raise TokenglassError(
            "not_implemented",
            "models pull is not built yet",
            hint="download the GGUF file yourself, then: tokenglass models add FILE",
        )
    paths = Paths.resolve(args.home)
    library = Library(paths, SettingsStore(paths.settings_file))
    if args.action == "add":
        entry = library.add_now(args.file)
        print(f"added {entry['id']}: {_facts(entry)}")
    elif args.action == "remove":
        entry = library.remove_now(args.id)
        print(f"removed {entry['id']} from the list; the file {tilde(entry['path'])} stays")
    elif args.action == "template":
        _template(args, paths, library)
    else:
        models = library.list_now()
        if getattr(args, "json", False):
            print(json.dumps(models, indent=2))
        else:
            print(table(models))
            if words := loading.loaded(args, paths):
                print(f"\nloaded: {words}")
    return 0


def _template(args: argparse.Namespace, paths: Paths, library: Library) -> None:
    """Show, set or clear the template that stands in for a model's own."""
    if args.clear:
        library.get_now(args.id)
        again = " again" if chat_templates.clear(paths, args.id) else ""
        print(f"{args.id} has its own chat template{again}")
    elif args.file is None:
        source = library.template_now(args.id)
        if source is None:
            raise TokenglassError("not_found", f"{args.id} has no chat template")
        print(source, end="" if source.endswith("\n") else "\n")
    else:
        library.get_now(args.id)
        source = chat_templates.read(args.file)
        _check(args.file, source)
        file = chat_templates.store(paths, args.id, source)
        print(f"{args.id} is used with {tilde(file)} from its next load on")


def _check(file: str, source: str) -> None:
    """Raises TokenglassError where the template can't be compiled."""
    with contextlib.closing(Renderer()) as renderer:
        try:
            renderer.load(source)
        except TemplateFailedError as error:
            raise TokenglassError("invalid_argument", f"{file} is no chat template: {error}") from None


def table(models: list[dict[str, Any]]) -> str:
    """The models as aligned columns; a file that can't be loaded says why."""
    rows = [("ID", "PARAMS", "QUANT", "CONTEXT", "SIZE", "FROM", "FILE")]
    for model in models:
        error = model["error"]
        rows.append(
            (
                model["id"],
                count(model["n_params"]),
                model["quantization"] or "-",
                str(model["n_ctx_train"] or "-"),
                size(model["size_bytes"]),
                model["source"],
                f"! {one_line(error['message'], 200)}" if error else one_line(tilde(model["path"]), 200),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def count(number: int | None) -> str:
    """A number of parameters: 7.5M, 1.2B."""
    if not number:
        return "-"
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return str(number)


def size(size_bytes: int | None) -> str:
    """Bytes in units of 1000: 11.8 MB."""
    if size_bytes is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def _facts(entry: dict[str, Any]) -> str:
    facts = [entry["architecture"], f"{count(entry['n_params'])} parameters", entry["quantization"]]
    return ", ".join([fact for fact in facts if fact] + [size(entry["size_bytes"])])
