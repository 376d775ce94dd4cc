"""What the engine is doing, in the words of the status line; folded from the stream. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ErrorInfo
from engine.events import (
    BaseEvent,
    EngineExited,
    EngineRestarting,
    EngineStarted,
    GenerationFinished,
    GenerationQueued,
    GenerationStarted,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    PromptProgress,
)
from engine.types import ModelInfo


@dataclass(slots=True)
class EngineStatus:
    """State of engine and model, and which generations wait and run."""

    epoch: int = 0
    state: str = "starting"
    """`starting`, `no_model`, `loading`, `ready`, `restarting`, `failed` or `stopped`."""
    loading_model: str | None = None
    progress: float = 0.0
    model: ModelInfo | None = None
    error: ErrorInfo | None = None
    waiting: set[str] = field(default_factory=set)
    running: dict[str, str] = field(default_factory=dict)
    """Generation ids, each with `prompt` or `answer`."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Begin with a snapshot."""
        engine = snapshot.get("engine") or {}
        self.state = str(engine.get("state", "starting"))
        self.epoch = int(engine.get("epoch", 0))
        self.error = ErrorInfo.model_validate(engine["error"]) if engine.get("error") else None
        self.model = ModelInfo.model_validate(snapshot["model"]) if snapshot.get("model") else None
        if self.state == "stopped" and self.model is None:
            self.state = "no_model"
        loading = snapshot.get("loading")
        self.loading_model = loading["model"] if loading else None
        self.progress = loading["progress"] if loading else 0.0
        self.waiting.clear()
        self.running.clear()
        for generation in snapshot.get("generations", ()):
            if generation["state"] == "queued":
                self.waiting.add(generation["generation_id"])
            else:
                self.running[generation["generation_id"]] = "answer"

    def feed(self, event: BaseEvent) -> bool:
        """Take one event in; answers whether anything shown may have changed."""
        match event:
            case EngineStarted():
                self.epoch, self.state, self.progress = event.epoch, "loading", 0.0
            case ModelLoading():
                self.state, self.loading_model, self.progress = "loading", event.model, event.progress
            case ModelLoaded():
                self.state, self.model, self.loading_model, self.error = "ready", event.info, None, None
            case ModelUnloaded():  # where another is to come, that is the next event
                self.state, self.model, self.error = "no_model", None, None
            case ModelFailed():
                self.state, self.model, self.loading_model, self.error = "failed", None, None, event.error
            case EngineExited():
                self._exited(event)
            case EngineRestarting():
                self.state = "restarting"
            case GenerationQueued():
                self.waiting.add(event.generation_id)
            case GenerationStarted():
                self.waiting.discard(event.generation_id)
                self.running[event.generation_id] = "prompt"
            case PromptProgress() if event.done >= event.total and event.generation_id in self.running:
                self.running[event.generation_id] = "answer"
            case GenerationFinished():
                self.waiting.discard(event.generation_id)
                self.running.pop(event.generation_id, None)
            case _:
                return False
        return True

    def _exited(self, event: EngineExited) -> None:
        if event.epoch < self.epoch:
            return  # a former worker, whose place is taken already
        self.model = self.loading_model = None
        if event.will_restart:
            self.state = "restarting"
        elif not event.expected:
            self.state = "failed"
            self.error = event.error
        elif self.state not in ("failed", "no_model"):
            self.state = "stopped"

    @property
    def busy(self) -> bool:
        """Whether generations wait or run."""
        return bool(self.running or self.waiting)

    @property
    def words(self) -> str:
        """E.g. `loading 42 %`, `ready`, `generating`."""
        match self.state:
            case "loading":
                return f"loading {self.progress * 100:.0f} %" if self.progress else "loading"
            case "ready" if self.running:
                count = f" ({len(self.running)})" if len(self.running) > 1 else ""
                return f"generating{count}"
            case "ready":
                return "ready"
            case "no_model":
                return "waits for a model"
            case other:
                return other

    @property
    def colour(self) -> str:
        """Name of the theme's colour for the dot."""
        match self.state:
            case "ready":
                return "accent" if self.running else "good"
            case "failed":
                return "error"
            case "stopped":
                return "muted"
            case _:
                return "warn"
