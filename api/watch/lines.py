"""`tokenglass watch` for pipes and simple terminals: what happens, line by line."""

from __future__ import annotations

import time
from typing import Any, TextIO

from api.commands import one_line, plain, stats
from api.watch.words import HANDS, describe

GATHER = 100
"""Characters of one generation's text that may interrupt another's."""
METRICS_INTERVAL_S = 1.0
"""Between two lines of metrics while something is generated."""


class Lines:
    """Writes events as lines. Text of one generation runs on until another one has something to say."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._names: dict[str, str] = {}  # of the generations that run
        self._delivered: dict[str, int] = {}
        """Tokens of each that were in a snapshot."""
        self._seq = 0
        self._current: str | None = None
        self._gathered: dict[str, str] = {}
        self._open_line = False
        self._system: dict[str, Any] | None = None
        self._step: dict[str, Any] | None = None
        self._metrics_t = 0.0
        self._tokens = 0

    def begin(self, hello: dict[str, Any], snapshot: dict[str, Any]) -> None:
        app = hello.get("app") or {}
        model = (snapshot["model"] or {}).get("name") or "none yet"
        self._line(f"following {app.get('name', 'tokenglass')} {app.get('version', '')} · model {model}")
        self._there(snapshot)
        for generation in snapshot["generations"]:
            self._text(generation["generation_id"], generation["text"])

    def _there(self, snapshot: dict[str, Any]) -> None:
        """What runs, and how much of it is in the snapshot: events may tell it again."""
        self._seq = snapshot["seq"]
        self._names.clear()
        self._gathered.clear()
        self._delivered.clear()
        for generation in snapshot["generations"]:
            self._name(generation)
            self._delivered[generation["generation_id"]] = generation["completion_tokens"]

    def show(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if event.get("seq", self._seq + 1) <= self._seq and kind not in ("reset", "snapshot"):
            return
        if kind.startswith("metrics."):
            self._metrics(event)
        elif kind.startswith("generation."):
            self._generation(kind, event)
        elif kind == "snapshot":
            self._there(event)
        else:
            text = describe(event)
            if text:
                self._line(text)

    def _generation(self, kind: str, event: dict[str, Any]) -> None:
        generation_id = event["generation_id"]
        if kind == "generation.queued":
            self._name(event)
            about = "goes on after its calls" if event.get("continues") else "asks"
            self._line(f"▸ {self._names[generation_id]} {about}: {one_line(event['input'])}")
        elif kind == "generation.started" and event["trimmed_messages"]:
            self._line(f"  {event['trimmed_messages']} old messages left out")
        elif kind in ("generation.delta", "generation.reasoning_delta", "generation.tool_call.delta"):
            before = self._delivered.get(generation_id, 0)
            new = [token for token in event["tokens"] if token["index"] >= before]
            self._tokens += len(new)
            whole = len(new) == len(event["tokens"])
            self._text(generation_id, event["text"] if whole else "".join(token["text"] for token in new))
        elif kind in HANDS:
            self._delivered.pop(generation_id, None)
            self._write_text(generation_id, self._gathered.pop(generation_id, ""))
            branch = self._names.get(event.get("branch_id", ""), "")
            told = HANDS[kind].format(**event, branch=branch)
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
        if self._current != generation_id:
            self._end_line()
            if len(self._names) > 1:
                self._write(f"[{self._names.get(generation_id, generation_id)}] ")
            self._current = generation_id
        self._write(text)
        self._open_line = not text.endswith("\n")

    def _line(self, text: str) -> None:
        self._end_line()
        self._current = None
        self._write(plain(text).replace("\n", " ") + "\n")

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
        if event["type"] != "metrics.system":
            return
        self._system = event
        now = time.monotonic()
        elapsed = now - self._metrics_t
        if elapsed < METRICS_INTERVAL_S:
            return
        rate, self._tokens, self._metrics_t = self._tokens / elapsed, 0, now
        if self._names and not self._open_line:  # never in the middle of a text
            self._line(f"  {self._summary(rate)}")

    def _summary(self, rate: float) -> str:
        parts = [f"{rate:.1f} tokens/s"]
        if (step := self._step) is not None:
            parts += [f"batch {step['batch_size']}", f"step {step['decode_ms']:.1f} ms"]
            parts.append(f"KV {step['kv_used']}/{step['kv_total']}")
        if (system := self._system) is not None:
            parts.append(f"CPU {system['cpu_percent']:.0f} %")
            parts.append(f"engine {system['worker_rss'] / 2**20:.0f} MiB")
            for gpu in system["gpus"]:
                if gpu["load_percent"] is not None:
                    parts.append(f"{one_line(gpu['name'], 20)} {gpu['load_percent']:.0f} %")
        return " · ".join(parts)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
