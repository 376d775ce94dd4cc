"""`tokenglass watch`: every generation and metric of the running app, in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from api.client import LiveClient
from api.commands import prepare_output
from api.watch.lines import Lines
from api.watch.live import Live
from api.watch.terminal import can_draw


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C, also over restarts of the app. Raises TokenglassError where none runs at first."""
    prepare_output()
    try:
        return asyncio.run(_watch(args))
    except KeyboardInterrupt:  # the usual way to leave
        return 0


async def _watch(args: argparse.Namespace) -> int:
    async with LiveClient.discover(args.home, name="watch", reconnect=not args.once) as client:
        await client.request("subscribe", events=["*"])
        if args.json:
            await _json(client)
        elif args.lines or not can_draw(sys.stdout):
            await _lines(client)
        else:
            live = Live(client)
            await live.run(sys.stdout)
            print(live.summary())
            if client.lost is None:  # the user has left
                return 0
        lost = client.lost
    if lost is not None and lost.info.message != "the app has quit":
        raise lost
    print("the app has quit", file=sys.stderr)
    return 0


async def _lines(client: LiveClient) -> None:
    lines = Lines(sys.stdout)
    lines.begin(client.hello, await client.request("snapshot"))
    async for frame in client.events(connection=True):
        lines.show(frame)


async def _json(client: LiveClient) -> None:
    """The frames as they come, one a line."""
    _print_json(client.hello)
    async for frame in client.events(connection=True):
        match frame["type"]:
            case "connection.lost":
                print(frame["reason"], file=sys.stderr, flush=True)
            case "connection.restored":
                _print_json(frame["hello"])
            case _:
                _print_json(frame)


def _print_json(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()
