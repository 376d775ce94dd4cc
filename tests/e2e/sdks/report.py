"""What the scripts of this folder share: they run as programs of their own, as users write them, and print
one line of JSON for each feature they tried. Nothing but this machine can be reached from them.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.client import ClientProtocol

MODEL = "local"
ECHO_URL = os.environ.get("OPENAI_BASE_URL", "")
"""An app whose model answers with what the user said."""
STARTER_URL = os.environ.get("STARTER_URL", "")
"""An app with the starter model."""
EMBEDDING_URL = os.environ.get("EMBEDDING_URL", "")
KEY = os.environ.get("OPENAI_API_KEY", "")
LIMIT_S = 180.0
N_TOKENS = 1200
"""More than the app ever joins into one piece, even for who reads slowly (`MAX_MERGED_TOKENS`, twice)."""
LONG = " ".join(("one two",) * (N_TOKENS // 2))
"""A text of so many tokens of the echoing model."""

Feature = Callable[[], Awaitable[str]]
_features: list[tuple[str, Feature]] = []


def feature(name: str) -> Callable[[Feature], Feature]:
    """Try this feature; the function tells in a few words what it saw, or raises."""

    def note(function: Feature) -> Feature:
        _features.append((name, function))
        return function

    return note


class WebSockets:
    """Counts the WebSockets that are opened, so that none of it goes over plain HTTP instead."""

    def __init__(self) -> None:
        self.opened = 0
        check = ClientProtocol.process_response

        def process_response(protocol: ClientProtocol, response: Any) -> None:
            check(protocol, response)
            self.opened += 1

        ClientProtocol.process_response = process_response  # type: ignore[method-assign, assignment]


def main() -> None:
    """Try all features one after the other."""
    reached = _stay_here()
    chosen = os.environ.get("FEATURES", "").split(",")

    async def run() -> None:
        for name, function in _features:
            if chosen != [""] and name not in chosen:
                continue
            try:
                async with asyncio.timeout(LIMIT_S):
                    told: dict[str, Any] = {"result": await function()}
            except Exception:  # noqa: BLE001 - the next feature is tried all the same
                told = {"error": traceback.format_exc()}
            print(json.dumps({"feature": name, **told}), flush=True)

    asyncio.run(run())
    print(json.dumps({"feature": "elsewhere", "result": " ".join(sorted(reached))}), flush=True)
    sys.exit(0)


def _stay_here() -> set[str]:
    """Let nothing be looked up or reached beside this machine; answers what was tried."""
    reached: set[str] = set()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def here(host: object) -> bool:
        return str(host) in ("127.0.0.1", "localhost", "::1", "None")

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not here(address[0]):
            reached.add(str(address[0]))
            raise OSError(f"{address[0]} isn't this machine")
        connect(self, address)

    def names_of_here(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not here(name):
            reached.add(str(name))
            raise socket.gaierror(f"{name} isn't this machine")
        return look_up(host, *arguments, **options)

    socket.socket.connect = only_here  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = names_of_here
    return reached


def spun_out(calls: str, name: str) -> str:
    """The same with so much white space before this argument's value that it comes in several pieces."""
    return calls.replace(f'"{name}": ', f'"{name}": {" " * N_TOKENS}')


def hermes(*calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as the echoing model is to write them."""
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in calls
    )
