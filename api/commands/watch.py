"""`tokenglass watch`: every generation and metric of the running app, in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from api.client import LiveClient
from api.commands import one_line, plain, prepare_output, stats

GATHER = 100
"""Characters of one generation's text that may interrupt another's."""
METRICS_INTERVAL_S = 1.0
"""Between two lines of metrics while something is generated."""


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
        view = None if args.json else _View(sys.stdout.isatty())
        if view is None:
            _print_json(client.hello)
        else:
            view.begin(client.hello, await client.request("snapshot"))
        async for event in client.events(connection=True):
            match event["type"]:
                case "connection.lost" if view is not None:
                    view.clear_status()
                    view.show(event)
                case "connection.lost":
                    print(event["reason"], file=sys.stderr, flush=True)
                case "connection.restored" if view is None:
                    _print_json(event["hello"])
                case _ if view is None:
                    _print_json(event)
                case _:
                    view.show(event)
        if view is not None:
            view.clear_status()
        lost = client.lost
    if lost is not None and lost.info.message != "the app has quit":
        raise lost
    print("the app has quit", file=sys.stderr)
    return 0


def _print_json(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


class _View:
    """Turns events into lines. Text of one generation runs on until another one has something to say."""

    def __init__(self, tty: bool) -> None:
        self._tty = tty
        self._names: dict[str, str] = {}  # of the generations that run
        self._current: str | None = None
        self._gathered: dict[str, str] = {}
        self._open_line = False
        self._status = False
        self._system: dict[str, Any] | None = None
        self._step: dict[str, Any] | None = None
        self._metrics_t = 0.0
        self._tokens = 0

    def begin(self, hello: dict[str, Any], snapshot: dict[str, Any]) -> None:
        app = hello.get("app") or {}
        model = (snapshot["model"] or {}).get("name") or "none yet"
        self._line(f"following {app.get('name', 'tokenglass')} {app.get('version', '')} · model {model}")
        for generation in snapshot["generations"]:
            self._name(generation)
            self._text(generation["generation_id"], generation["text"])

    def show(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind.startswith("metrics."):
            self._metrics(event)
        elif kind.startswith("generation."):
            self._generation(kind, event)
        elif kind == "snapshot":
            self._names.clear()
            self._gathered.clear()
            for generation in event["generations"]:
                self._name(generation)
        else:
            text = _describe(event)
            if text:
                self._line(text)

    def _generation(self, kind: str, event: dict[str, Any]) -> None:
        generation_id = event["generation_id"]
        if kind == "generation.queued":
            self._name(event)
            self._line(f"▸ {self._names[generation_id]} asks: {one_line(event['input'])}")
        elif kind == "generation.started" and event["trimmed_messages"]:
            self._line(f"  {event['trimmed_messages']} old messages left out")
        elif kind in ("generation.delta", "generation.reasoning_delta", "generation.tool_call.delta"):
            self._tokens += len(event["tokens"])
            self._text(generation_id, event["text"])
        elif kind in _HANDS:
            self._write_text(generation_id, self._gathered.pop(generation_id, ""))
            branch = self._names.get(event.get("branch_id", ""), "")
            told = _HANDS[kind].format(**event, branch=branch)
            self._line(f"‖ {self._names.get(generation_id, generation_id)} {told}")
        elif kind == "generation.finished":
            self._write_text(generation_id, self._gathered.pop(generation_id, ""))
            name = self._names.pop(generation_id, generation_id)
            self._line(f"■ {name}: {stats(event)}")
            if event["error"]:
                self._line(f"  error {event['error']['code']}: {event['error']['message']}")

    def _name(self, generation: dict[str, Any]) -> None:
        generation_id = generation["generation_id"]
        client = one_line(generation["client_name"], 30)
        origin = generation["origin"]
        short = generation_id.removeprefix("gen_")[:6]
        self._names[generation_id] = (
            f"{client} ({origin}) {short}" if client != origin else f"{origin} {short}"
        )

    def _text(self, generation_id: str, text: str) -> None:
        """Where several generations run, one goes on while the others gather a piece worth a line."""
        text = self._gathered.pop(generation_id, "") + plain(text)
        if generation_id == self._current or self._current is None or "\n" in text or len(text) >= GATHER:
            self._write_text(generation_id, text)
        else:
            self._gathered[generation_id] = text

    def _write_text(self, generation_id: str, text: str) -> None:
        if not text:
            return
        self.clear_status()
        if self._current != generation_id:
            self._end_line()
            if len(self._names) > 1:
                self._write(f"[{self._names.get(generation_id, generation_id)}] ")
            self._current = generation_id
        self._write(text)
        self._open_line = not text.endswith("\n")

    def _line(self, text: str) -> None:
        self.clear_status()
        self._end_line()
        self._current = None
        self._write(plain(text) + "\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False

    def _metrics(self, event: dict[str, Any]) -> None:
        if event["type"] == "metrics.custom":
            self._line(f"{one_line(event['series'])} = {event['value']:g} {one_line(event['unit'])}")
            return
        if event["type"] == "metrics.step":
            self._step = event
            return
        self._system = event
        now = time.monotonic()
        elapsed = now - self._metrics_t
        if elapsed < METRICS_INTERVAL_S:
            return
        rate, self._tokens, self._metrics_t = self._tokens / elapsed, 0, now
        if self._tty and not self._names:
            self._show_status(self._summary(None))
        elif not self._tty and self._names and not self._open_line:  # never in the middle of a text
            self._line(f"  {self._summary(rate)}")

    def _summary(self, rate: float | None) -> str:
        parts = []
        if rate is not None:
            parts.append(f"{rate:.1f} tokens/s")
        if (step := self._step) is not None and rate is not None:
            parts += [f"batch {step['batch_size']}", f"step {step['decode_ms']:.1f} ms"]
        if step is not None:
            parts.append(f"KV {step['kv_used']}/{step['kv_total']}")
        if (system := self._system) is not None:
            parts.append(f"CPU {system['cpu_percent']:.0f} %")
            parts.append(f"engine {system['worker_rss'] / 2**20:.0f} MiB")
            for gpu in system["gpus"]:
                if gpu["load_percent"] is not None:
                    parts.append(f"{one_line(gpu['name'], 20)} {gpu['load_percent']:.0f} %")
        return " · ".join(parts)

    def _show_status(self, text: str) -> None:
        self._end_line()
        self._write(f"\r\x1b[K\x1b[2m{text}\x1b[0m")
        self._status = True

    def clear_status(self) -> None:
        if self._status:
            self._write("\r\x1b[K")
            self._status = False

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


_HANDS = {
    "generation.paused": "is paused at token {at_token}",
    "generation.resumed": "goes on",
    "generation.updated": "has other sampling from token {at_token} on",
    "generation.rewound": "has {removed} tokens taken back, {at_token} are left",
    "generation.forked": "branches off at token {at_token}: {branch}",
    "generation.recovered": "goes on after token {at_token} in a new engine",
}


def _describe(event: dict[str, Any]) -> str | None:
    """Events that are neither generations nor metrics, for people."""
    match event["type"]:
        case "model.loading":
            return f"loading {event['model']}: {event['progress'] * 100:.0f} %"
        case "model.loaded":
            return f"{event['model']} is loaded ({event['info']['load_ms']:.0f} ms)"
        case "model.unloaded":
            return f"{event['model']} is unloaded"
        case "model.failed":
            return f"{event['model']} can't be loaded: {event['error']['message']}"
        case "engine.started":
            return f"engine started (epoch {event['epoch']}, pid {event['pid']})"
        case "engine.exited":
            how = event["signal"] or f"exit code {event['exit_code']}"
            return "engine ended" if event["expected"] else f"engine died: {how}"
        case "engine.restarting":
            return f"engine restarts in {event['delay_s']:g} s"
        case "client.connected":
            return f"+ {event['name']} ({event['origin']})"
        case "client.disconnected":
            return f"- {event['name']} ({event['reason']})"
        case "client.lagging":
            return f"a client reads slowly: {event['backlog_bytes']} bytes wait for it"
        case "log":
            return f"{event['level']}: {event['message']}"
        case "reset":
            return "(the app was started anew)" if event["reason"] == "run" else "(some events are gone)"
        case "connection.lost":
            return f"({event['reason']}; waiting for it to come back, Ctrl-C leaves)"
        case "connection.restored":
            app = event["hello"].get("app") or {}
            return f"(connected again to {app.get('name', 'tokenglass')} {app.get('version', '')})"
        case _:
            return None
