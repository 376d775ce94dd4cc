"""The event bus: sequence numbers, a ring for replay, and subscriptions that are cursors in the ring.

Publishing costs the same whether a subscriber keeps up or not: an event is stored once, and each
subscription reads on from where it stands. What has piled up meanwhile is merged while it is read
(tokens joined, metrics replaced by their latest), so a slow reader gets fewer, larger frames and
nothing is held for it but its place.

Clients that stand at the same place and want the same get the same portion, put together and encoded once.

Only the latest events are kept as objects. Older ones are kept as JSON and read again when somebody
replays them: a full ring of objects is 120 MB, and each full garbage collection takes 0.2 s over it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic_core import PydanticSerializationError

from engine.events import (
    BaseEvent,
    ConversationMessage,
    Event,
    EventAdapter,
    GenerationEvent,
    GenerationFinished,
    GenerationForked,
    LogLine,
    TokenEvent,
    ToolCallDelta,
)

RING_SIZE = 65_536
MAX_RING_BYTES = 128 << 20
"""A full ring usually has 15 to 20 MB; only very large messages come near to this."""
N_OBJECTS = 2048
"""Of the ring's events, how many are kept as objects."""
MAX_MERGED_TOKENS = 512
MAX_EXAMINED = 2048
"""Events that one drain looks at, so that a long replay doesn't hold the loop up."""

GenerationFilter = Literal["all", "own"] | frozenset[str]


@dataclass(slots=True)
class Envelope:
    """A published event with its place in the run. Where events were merged, `first_seq` is below `seq`."""

    seq: int
    event: Event
    first_seq: int
    _encoded: bytes | None = field(default=None, repr=False)
    _size: int = field(default=0, repr=False)

    @property
    def size(self) -> int:
        """About how many bytes the frame has, without encoding it."""
        if not self._size:
            self._size = _size(self.event)
        return self._size

    def encode(self) -> bytes:
        """The frame as JSON text in UTF-8; made once for all clients."""
        if self._encoded is None:
            try:
                body = self.event.model_dump_json().encode()
            except PydanticSerializationError:  # half a surrogate pair, as undecodable file names have it
                text = json.dumps(self.event.model_dump(), ensure_ascii=False, separators=(",", ":"))
                body = text.encode("utf-8", "replace")
            merged = b'"first_seq":%d,' % self.first_seq if self.first_seq != self.seq else b""
            self._encoded = b'{"seq":%d,%s%s' % (self.seq, merged, body[1:])
        return self._encoded


@dataclass(slots=True)
class Portion:
    """What one drain brought."""

    envelopes: list[Envelope] = field(default_factory=list)
    n_events: int = 0
    """Events that are in it: more than there are envelopes where some were merged or replaced."""
    size: int = 0
    """About how many bytes they have."""
    wire: bytes | None = None
    """Its frames, kept here by whoever encodes them first."""


_ALL_GENERATIONS = frozenset(("*", "generation.*"))
_Place = tuple[int, tuple[str, ...], "GenerationFilter"]


class Subscription:
    """One reader's place in the stream, and what it wants to see.

    `generation.*` events of its `own` generations always match; other events match when a pattern
    does and, for `generation.*`, when the generation filter lets them through.
    """

    def __init__(self, bus: EventBus, own: set[str], on_ready: Callable[[], None]) -> None:
        self._bus = bus
        self._own = own
        self._on_ready = on_ready
        self._patterns: tuple[str, ...] = ()
        self._generations: GenerationFilter = "all"
        self._wanted: dict[str, bool] = {}
        self._cursor = bus.seq
        self._live_from = bus.seq
        self._signalled = False
        self.backlog_bytes = 0
        """Estimated size of matching events published since the last drain; replayed ones don't count."""
        self.last_seq = 0
        """`seq` of the last event handed out."""

    def select(
        self, patterns: Iterable[str], generations: GenerationFilter = "all", since: int | None = None
    ) -> None:
        """Replace what is wanted, from event `since` + 1 on.

        Left out: from the place that was read up to. What was handed out before never comes again.
        """
        self._patterns = tuple(patterns)
        self._generations = generations
        self._wanted.clear()
        if since is not None:
            self._cursor = max(since, self.last_seq)
        self._live_from = self._bus.seq
        self.backlog_bytes = 0
        if self._cursor < self._bus.seq:
            self._signal()

    def matches(self, event: BaseEvent) -> bool:
        if isinstance(event, GenerationEvent):
            if event.generation_id in self._own:
                return True
            if isinstance(event, GenerationForked) and event.branch_id in self._own:
                return True
            if self._generations == "own":
                return False
            if self._generations != "all" and event.generation_id not in self._generations:
                return False
        wanted = self._wanted.get(event.type)
        if wanted is None:
            wanted = any(fnmatchcase(event.type, pattern) for pattern in self._patterns)
            self._wanted[event.type] = wanted
        return wanted

    def notify(self, envelope: Envelope) -> None:
        """Called by the bus for every published event."""
        if self.matches(envelope.event):
            self.backlog_bytes += envelope.size
            self._signal()
        elif self._cursor == envelope.seq - 1:
            self._cursor = envelope.seq  # a reader that waits for nothing must not fall out of the ring

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._on_ready()

    @property
    def overrun(self) -> bool:
        """Whether the ring no longer holds the next event: only `reset` and a snapshot help."""
        return self._cursor < self._bus.oldest_seq - 1

    @property
    def pending(self) -> bool:
        """Whether there may be something to drain."""
        return self._cursor < self._bus.seq

    @property
    def behind(self) -> int:
        """Events published since the last one that was read, wanted or not."""
        return self._bus.seq - self._cursor

    @property
    def read_up_to(self) -> int:
        """Every matching event up to this number was handed out."""
        return self._cursor

    def skip_to_now(self) -> None:
        """Forget what wasn't read (after a reset); nothing older comes any more."""
        self._cursor = self.last_seq = self._bus.seq
        self.backlog_bytes = 0
        self._signalled = False

    def drain(self, max_bytes: int = 1 << 18, until: int | None = None) -> list[Envelope]:
        """Matching events since the last call, merged, in order; about `max_bytes` at most.

        `until` stops after the event of that number. The caller is signalled again through
        `on_ready` only after a drain that left nothing.
        """
        return self.take(max_bytes, until).envelopes

    def take(self, max_bytes: int = 1 << 18, until: int | None = None) -> Portion:
        """The same as a portion, which others may have got as well: it must not be changed."""
        place = self._place()
        shared = self._bus.shared
        portion = shared.get(place) if place is not None and until is None else None
        if portion is not None and portion.size <= max_bytes:
            self._cursor = self._bus.seq
        else:
            portion = self._gather(max_bytes, until)
            if place is not None and not self.pending:
                shared[place] = portion
        if portion.envelopes:
            self.last_seq = portion.envelopes[-1].seq
        if not self.pending:
            self._signalled = False
            self.backlog_bytes = 0
        return portion

    def _place(self) -> _Place | None:
        """What those have in common who get the same; None where one's own generations decide."""
        if self._own and not (self._generations == "all" and _ALL_GENERATIONS.intersection(self._patterns)):
            return None
        return self._cursor, self._patterns, self._generations

    def _gather(self, max_bytes: int, until: int | None) -> Portion:
        portion = Portion()
        out = portion.envelopes
        metrics: dict[str, int] = {}
        last = min(self._cursor + MAX_EXAMINED, self._bus.seq if until is None else until)
        for envelope in self._bus.between(self._cursor, last):
            self._cursor = envelope.seq
            event = envelope.event
            if not self.matches(event):
                continue
            if envelope.seq > self._live_from:
                self.backlog_bytes = max(0, self.backlog_bytes - envelope.size)
            portion.n_events += 1
            portion.size += envelope.size
            if event.type.startswith("metrics.") and event.type != "metrics.custom":
                place = metrics.get(event.type)
                metrics[event.type] = len(out)
                out.append(envelope)
                if place is not None:
                    _remove(out, place, metrics)
            elif out and (merged := merge(out[-1], envelope)) is not None:
                out[-1] = merged
            else:
                out.append(envelope)
            if portion.size >= max_bytes:
                break
        return portion

    def close(self) -> None:
        self._bus.unsubscribe(self)


def _remove(out: list[Envelope], place: int, metrics: dict[str, int]) -> None:
    """Take out a replaced metric; the deltas on either side of it become neighbours and may merge."""
    del out[place]
    removed = 1
    if 0 < place < len(out) and (merged := merge(out[place - 1], out[place])) is not None:
        out[place - 1] = merged
        del out[place]
        removed = 2
    for name, index in metrics.items():
        if index > place:
            metrics[name] = index - removed


def merge(first: Envelope, second: Envelope) -> Envelope | None:
    """Join two deltas of the same kind and generation; None where that isn't allowed."""
    a, b = first.event, second.event
    if (
        isinstance(a, TokenEvent)
        and isinstance(b, TokenEvent)
        and a.type == b.type
        and a.generation_id == b.generation_id
        and not (isinstance(a, ToolCallDelta) and isinstance(b, ToolCallDelta) and a.call_id != b.call_id)
        and len(a.tokens) < MAX_MERGED_TOKENS
    ):
        joined: dict[str, Any] = {"text": a.text + b.text, "tokens": a.tokens + b.tokens}
        if isinstance(a, ToolCallDelta) and isinstance(b, ToolCallDelta):
            joined |= {"name": b.name or a.name, "arguments": a.arguments + b.arguments}
        return Envelope(second.seq, b.model_copy(update=joined), first.first_seq)
    return None


def _size(event: BaseEvent) -> int:
    if isinstance(event, TokenEvent):
        arguments = len(event.arguments) if isinstance(event, ToolCallDelta) else 0
        return 140 + len(event.text) + arguments + 90 * len(event.tokens)
    if isinstance(event, GenerationFinished):
        return 700 + len(event.text) + len(event.reasoning)
    if isinstance(event, ConversationMessage):
        return 900 + len(event.message.get("content") or "") + len(event.message.get("reasoning") or "")
    if isinstance(event, LogLine):
        return 100 + len(event.message)
    return 300


class EventBus:
    """Numbers events, keeps the last `ring_size`, and tells subscriptions. Loop thread only.

    Where the events are so large that they have more than `max_bytes`, fewer are kept.
    """

    def __init__(
        self, ring_size: int = RING_SIZE, n_objects: int = N_OBJECTS, max_bytes: int = MAX_RING_BYTES
    ) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ring: list[Envelope | bytes | None] = [None] * ring_size
        self._n_objects = min(n_objects, ring_size - 1)
        self._subscriptions: list[Subscription] = []
        self._folds: list[Callable[[Envelope], None]] = []
        self.shared: dict[_Place, Portion] = {}
        """What lies between a place and the last event, for those who stand at the same place."""
        self.seq = 0
        """Number of the last published event; 0 before the first."""
        self.oldest_seq = 1
        """Number of the oldest event that the ring still holds."""

    def add_fold(self, fold: Callable[[Envelope], None]) -> None:
        """Let `fold` see every event before any subscription does (state, recorder)."""
        self._folds.append(fold)

    def publish(self, event: Event) -> int:
        """Give the event the next number and hand it on; answers the number."""
        self.seq += 1
        self.shared.clear()
        envelope = Envelope(self.seq, event, self.seq)
        self._store(envelope)
        for fold in self._folds:
            fold(envelope)
        for subscription in tuple(self._subscriptions):
            subscription.notify(envelope)
        return self.seq

    def _store(self, envelope: Envelope) -> None:
        ring = self._ring
        if envelope.seq - self.oldest_seq == len(ring):
            self._drop_oldest()
        ring[envelope.seq % len(ring)] = envelope
        self._bytes += envelope.size
        aged = (envelope.seq - self._n_objects) % len(ring)
        if isinstance(old := ring[aged], Envelope) and old is not envelope:
            text = ring[aged] = old.encode()
            self._bytes += len(text) - old.size
        while self._bytes > self._max_bytes and self.oldest_seq < envelope.seq:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        place = self.oldest_seq % len(self._ring)
        kept = self._ring[place]
        assert kept is not None
        self._bytes -= len(kept) if isinstance(kept, bytes) else kept.size
        self._ring[place] = None
        self.oldest_seq += 1

    def publish_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self.publish(event)

    def between(self, seq: int, last: int) -> Iterable[Envelope]:
        """The events that the ring holds from `seq` + 1 to `last`, oldest first."""
        ring, size = self._ring, len(self._ring)
        for number in range(max(seq + 1, self.oldest_seq), last + 1):
            kept = ring[number % size]
            assert kept is not None
            if isinstance(kept, bytes):
                yield Envelope(number, EventAdapter.validate_json(kept), number, kept)
            else:
                yield kept

    def subscribe(self, own: set[str], on_ready: Callable[[], None]) -> Subscription:
        """A subscription that starts now and wants nothing but its own generations; see `select`."""
        subscription = Subscription(self, own, on_ready)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
