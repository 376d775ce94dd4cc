"""What is going on, folded from the stream's frames, as the picture needs it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from api.watch.cells import Flow, one_line
from api.watch.pace import Pace, Rate
from api.watch.words import describe, level_of

Frame = dict[str, Any]

KEPT_ENDED = 100
KEPT_VALUES = 120
MAX_SERIES = 50
QUIET = {"bytes_per_s": 0.0, "backlog_bytes": 0}
KINDS = {
    "generation.delta": "text",
    "generation.reasoning_delta": "reasoning",
    "generation.tool_call.delta": "tool",
}


@dataclass(eq=False)
class Watched:
    """A generation. Times: monotonic seconds."""

    generation_id: str
    client: str
    origin: str
    input: str
    state: str = "queued"
    """`queued`, `prompt`, `running`, `paused`; later its finish reason, or `lost`."""
    prompt_done: int = 0
    prompt_total: int = 0
    tokens: int = 0
    flow: Flow = field(default_factory=Flow)
    rate: Rate = field(default_factory=Rate)
    ended: Frame | None = None
    """Its `generation.finished`."""
    clock: str = ""
    """When it ended, as the wall's clock says."""

    @property
    def short(self) -> str:
        return self.generation_id.removeprefix("gen_")[:6]


@dataclass
class Series:
    """A client's own values."""

    unit: str
    values: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_VALUES))


@dataclass(frozen=True)
class Notice:
    """What happened beside the generations."""

    text: str
    level: str
    """`info`, `warning` or `error`."""
    t: float


class Model:
    """Folds frames; drawing only reads it."""

    def __init__(self) -> None:
        self.hello: Frame = {}
        self.connected = True
        self.since_t = time.monotonic()
        """When the connection came or went."""
        self.engine = "stopped"
        self.model: Frame | None = None
        self.loading: float | None = None
        self.running: dict[str, Watched] = {}
        self.ended: deque[Watched] = deque(maxlen=KEPT_ENDED)
        self.clients: dict[str, Frame] = {}
        self.step: Frame | None = None
        self.system: Frame | None = None
        self.series: dict[str, Series] = {}
        self.pace = Pace()
        self.notice: Notice | None = None
        self.count = self.tokens = 0
        """Generations that ended, and tokens, since we look."""
        self.best = 0.0
        """Tokens per second, at most."""
        self._seq = 0

    # ---- what comes in

    def begin(self, hello: Frame, snapshot: Frame) -> None:
        """What there is when we come."""
        self.hello = hello
        self._state(snapshot)

    def take(self, frame: Frame) -> None:
        """One frame of `LiveClient.events(connection=True)`."""
        kind = frame["type"]
        match kind:
            case "connection.lost":
                self.connected, self.since_t = False, time.monotonic()
                for generation in self.running.values():
                    generation.rate.break_off()
                self._say(frame)
            case "connection.restored":
                self.connected, self.since_t = True, time.monotonic()
                self.hello = frame["hello"]
                self._say(frame)
            case "reset":
                self._say(frame)
            case "snapshot":
                self._state(frame)
            case _ if frame.get("seq", 0) <= self._seq:
                pass  # the snapshot has it
            case _ if kind in KINDS:
                self._delta(frame, KINDS[kind])
            case _ if kind.startswith("generation."):
                self._generation(kind, frame)
            case _:
                self._other(kind, frame)

    def rate(self, now: float) -> float | None:
        """Tokens per second of all that run; between short answers, of the last half second."""
        rates = [rate for each in self.running.values() if (rate := each.rate.value(now)) is not None]
        total = sum(rates) or self.pace.rates(now, 1)[0] or None
        self.best = max(self.best, total or 0.0)
        return total

    def _state(self, snapshot: Frame) -> None:
        self._seq = snapshot["seq"]
        self.engine = snapshot["engine"]["state"]
        self.model = snapshot["model"]
        self.loading = snapshot["loading"]["progress"] if snapshot["loading"] else None
        self.clients = {client["client_id"]: client for client in snapshot["clients"]}
        self.step, self.system = snapshot["metrics"]["step"], snapshot["metrics"]["system"]
        former, self.running = self.running, {}
        for entry in snapshot["generations"]:
            generation = former.pop(entry["generation_id"], None) or self._new(entry)
            self.running[generation.generation_id] = generation
            started = entry["started_t"] is not None
            generation.state = "prompt" if started and not entry["completion_tokens"] else entry["state"]
            generation.prompt_done, generation.prompt_total = entry["prompt_done"], entry["prompt_total"]
            self._stand(generation, entry, entry["completion_tokens"])
        for generation in former.values():
            self._end(generation, "lost")

    @staticmethod
    def _new(frame: Frame) -> Watched:
        return Watched(
            frame["generation_id"], one_line(frame["client_name"]), frame["origin"], one_line(frame["input"])
        )

    # ---- generations

    def _generation(self, kind: str, frame: Frame) -> None:
        if kind == "generation.queued":
            self.running[frame["generation_id"]] = self._new(frame)
            return
        generation = self.running.get(frame["generation_id"])
        if kind == "generation.forked":
            branch = self.running.get(frame["branch_id"])
            if branch is not None:
                self._stand(branch, frame, frame["at_token"])
            return
        if generation is None:
            return
        match kind:
            case "generation.started":
                generation.state = "prompt"
                generation.prompt_done = frame["cached_tokens"]
                generation.prompt_total = frame["prompt_tokens"]
            case "generation.prompt_progress":
                generation.prompt_done, generation.prompt_total = frame["done"], frame["total"]
            case "generation.paused":
                generation.state = "paused"
                generation.rate.break_off()
            case "generation.resumed":
                generation.state = "running" if generation.tokens else "prompt"
            case "generation.rewound":
                self._stand(generation, frame, frame["at_token"])
            case "generation.recovered":
                generation.rate.break_off()
            case "generation.finished":
                del self.running[generation.generation_id]
                generation.ended = frame
                generation.tokens = frame["usage"]["completion_tokens"]
                self._stand(generation, frame, generation.tokens)
                self._end(generation, frame["finish_reason"])
                self.count += 1

    def _delta(self, frame: Frame, kind: str) -> None:
        generation = self.running.get(frame["generation_id"])
        if generation is None:
            return
        new = [token for token in frame["tokens"] if token["index"] >= generation.tokens]
        if generation.state != "paused":  # a step's tokens come while it is held
            generation.state = "running"
        for token in new:
            if token.get("injected"):
                generation.rate.break_off()
                continue
            self.pace.add(token["t"], generation.rate.add(token["t"]))
        if new:
            generation.tokens = new[-1]["index"] + 1
            self.tokens += len(new)
        whole = len(new) == len(frame["tokens"])
        generation.flow.feed(frame["text"] if whole else "".join(token["text"] for token in new), kind)

    @staticmethod
    def _stand(generation: Watched, told: Frame, tokens: int) -> None:
        """What is told stands for all that came so far."""
        generation.tokens = tokens
        generation.rate.break_off()
        calls = [f"{call['name']}({call['arguments']})" for call in told["tool_calls"]]
        if call := told.get("open_call"):
            calls.append(call["text"])
        generation.flow.replace(
            (told["reasoning"], "reasoning"), (told["text"], "text"), *((call, "tool") for call in calls)
        )

    def _end(self, generation: Watched, state: str) -> None:
        generation.state = state
        generation.clock = time.strftime("%H:%M:%S")
        self.ended.append(generation)

    # ---- the rest

    def _other(self, kind: str, frame: Frame) -> None:
        match kind:
            case "metrics.step":
                self.step = frame
            case "metrics.system":
                self.system = frame
            case "metrics.custom":
                self._custom(frame)
            case "metrics.clients":
                self._traffic({row["client_id"]: row for row in frame["clients"]})
            case "model.loading":
                self.engine, self.loading = "loading", frame["progress"]
            case "model.loaded":
                self.engine, self.model, self.loading = "ready", frame["info"], None
            case "model.unloaded":
                self.model = self.loading = None
            case "model.failed":
                self.engine, self.model, self.loading = "failed", None, None
            case "engine.started":
                self.engine = "loading"
            case "engine.exited":
                self.model = self.loading = None
                unexpected = "restarting" if frame["will_restart"] else "failed"
                self.engine = "stopped" if frame["expected"] else unexpected
            case "engine.restarting":
                self.engine = "restarting"
            case "client.connected":
                self.clients.setdefault(frame["client_id"], frame)
            case "client.disconnected":
                self.clients.pop(frame["client_id"], None)
        if kind != "model.loading":
            self._say(frame)

    def _traffic(self, rows: dict[str, Frame]) -> None:
        """What each client is sent and owes; who isn't named is sent nothing."""
        for client_id, client in self.clients.items():
            self.clients[client_id] = client | QUIET | rows.get(client_id, {})

    def _custom(self, frame: Frame) -> None:
        name = one_line(frame["series"])
        if name not in self.series and len(self.series) >= MAX_SERIES:
            del self.series[next(iter(self.series))]
        series = self.series.setdefault(name, Series(one_line(frame["unit"])))
        series.values.append(frame["value"])

    def _say(self, frame: Frame) -> None:
        text = describe(frame)
        if text is not None:
            self.notice = Notice(one_line(text), level_of(frame), time.monotonic())
