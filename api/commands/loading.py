"""`tokenglass models load`, `unload` and `estimate`: what runs, and what another model would take."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from api.client import LiveClient, running_app
from api.fit import Fit, estimated_config, gigabytes
from api.library import Library
from api.paths import Paths, absolute, is_there
from api.settings import SettingsStore
from engine.errors import TokenglassError
from engine.fit import Estimate
from engine.machine import N_BATCH
from engine.types import WorkerConfig

ACTIONS = ("load", "unload", "estimate")


def run(args: argparse.Namespace) -> int:
    """Carry out one of `ACTIONS`. Raises TokenglassError."""
    if args.action == "estimate":
        _estimate(args)
    else:
        print(asyncio.run(_load(args) if args.action == "load" else _unload(args)))
    return 0


def loaded(args: argparse.Namespace, paths: Paths) -> str:
    """What runs in the app, and with which parameters; empty where nothing does."""
    if running_app(paths) is None:
        return ""
    try:
        return asyncio.run(_loaded(args))
    except TokenglassError:  # it is just going
        return ""


def described(info: dict[str, Any]) -> str:
    """A loaded model's parameters, which were chosen where they were left open."""
    threads = f"{info['n_threads']} threads" if info["n_threads"] > 1 else "1 thread"
    if info["n_threads_batch"] != info["n_threads"]:
        threads += f" ({info['n_threads_batch']} for prompts)"
    parts = (
        f"{info['n_slots']} slots of {info['n_ctx']} tokens in {info['n_kv']} KV cells",
        threads,
        f"batch {info['n_batch']}, micro-batch {info['n_ubatch']}",
        f"{info['n_gpu_layers']} layers on the GPU" if info["n_gpu_layers"] else "on the CPU",
    )
    return f"{info['id']} · {' · '.join(parts)}"


def table(model: str, found: Estimate) -> str:
    """An estimate, a column for each device, and what to do about it."""
    verdict = {"yes": "fits", "tight": "just fits", "no": "doesn't fit"}[found.fits]
    slots = f"{found.n_slots} slots" if found.n_slots > 1 else "1 slot"
    rows = [["", *(use.device for use in found.devices)]]
    for name, field in (
        ("weights", "weights"),
        ("KV cache", "kv_cache"),
        ("state", "state"),
        ("compute", "compute"),
        ("overhead", "overhead"),
        ("total", "total"),
        ("free", "memory_free"),
    ):
        values = [getattr(use, field) for use in found.devices]
        if any(values):
            rows.append([name, *map(gigabytes, values)])
    rows.append(["layers", *(str(use.layers) for use in found.devices)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{model} {verdict}: {slots} of {found.n_ctx} tokens", ""]
    for name, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *padded]))
    basis = "measured on this machine" if found.measured else "estimated from the header"
    lines += ["", f"{basis}; the largest context that fits: {found.max_ctx} tokens"]
    return "\n".join(lines + [f"- {hint}" for hint in found.hints])


async def _load(args: argparse.Namespace) -> str:
    """Load a model in the running app, and wait until it is there or has failed."""
    async with LiveClient.discover(args.home, name="models load", reconnect=False) as client:
        given = {"ctx": args.ctx} if args.ctx is not None else {}
        await client.request("subscribe", events=["model.loaded", "model.failed"])
        result = await client.request("models.load", model=args.id, force=args.force, **given)
        if result["state"] != "ready":
            async for event in client.events():
                if event["type"] == "model.failed":
                    error = event["error"]
                    raise TokenglassError(error["code"], error["message"], hint=error["hint"])
                if event["type"] == "model.loaded" and event["model"] == result["model"]:
                    break
        model = (await client.request("snapshot"))["model"]
        return f"loaded {described(model)}" if model else "the model was replaced meanwhile"


async def _unload(args: argparse.Namespace) -> str:
    async with LiveClient.discover(args.home, name="models unload", reconnect=False) as client:
        model = (await client.request("models.unload", force=args.force))["model"]
        return f"unloaded {model}" if model else "no model was loaded"


async def _loaded(args: argparse.Namespace) -> str:
    async with LiveClient.discover(args.home, name="models list", reconnect=False) as client:
        model = (await client.request("snapshot"))["model"]
        return described(model) if model else ""


def _estimate(args: argparse.Namespace) -> None:
    paths = Paths.resolve(args.home)
    settings = SettingsStore(paths.settings_file)
    current = settings.load()
    entry = _named(Library(paths, settings), args.id)
    config = WorkerConfig(
        model_id=entry["id"],
        model_path=entry["path"],
        n_slots=current.parallel,
        n_ctx=current.ctx,
        n_kv=current.kv,
        n_batch=current.batch_size or N_BATCH,
        n_ubatch=current.ubatch_size,
        n_gpu_layers=current.gpu_layers,
    )
    config = estimated_config(config, args.ctx, args.parallel, args.gpu_layers)
    found = Fit(paths.fit_file).estimate_now(config)
    if args.json:
        print(json.dumps({"model": entry["id"], **found.model_dump(mode="json")}, indent=2))
    else:
        print(table(entry["id"], found))


def _named(library: Library, name: str) -> dict[str, Any]:
    """The library's entry for an id, or a file, which need not be in the library."""
    try:
        return library.get_now(name)
    except TokenglassError as error:
        path = absolute(name)
        if error.code != "not_found" or not is_there(path):
            raise
    return {"id": path.stem, "path": str(path)}
