"""Who generates besides this window, for the sidebar's live entry; folded from the stream. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.events import BaseEvent, GenerationFinished, GenerationQueued


@dataclass(slots=True)
class LiveStatus:
    """Generations of other clients that belong to no conversation, as the live view shows them."""

    seen: int = 0
    """How many there were."""
    last: str = ""
    """Name of the client that began the latest one."""
    open: dict[str, str] = field(default_factory=dict)
    """Those that wait or run: generation id to the client's name."""

    def feed(self, event: BaseEvent) -> bool:
        """Take one event in; answers whether something changed."""
        match event:
            case GenerationQueued() if event.conversation_id is None and event.origin != "window":
                self.seen += 1
                self.last = event.client_name
                self.open[event.generation_id] = event.client_name
                return True
            case GenerationFinished() if event.generation_id in self.open:
                del self.open[event.generation_id]
                return True
        return False

    @property
    def running(self) -> bool:
        return bool(self.open)

    @property
    def words(self) -> str:
        """E.g. `watch.py · 2 running`."""
        if self.open:
            names = list(dict.fromkeys(self.open.values()))
            who = names[0] if len(names) == 1 else f"{len(names)} clients"
            return f"{who} · {len(self.open)} running"
        times = "1 answer" if self.seen == 1 else f"{self.seen} answers"
        return f"{self.last} · {times}"
