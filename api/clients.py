"""Who is connected: identities that outlive a connection, and how many connections each has."""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from api.bus import Portion
from api.permissions import NOBODY, Grant, Permission
from engine.events import ClientConnected, ClientDisconnected, ClientMetrics, ClientTraffic, Event
from engine.types import Origin

REMEMBER_S = 600.0
"""How long an identity (`?client=KEY`) is kept after its last connection."""
MAX_REMEMBERED = 1024
MAX_OWN = 4096
MAX_NAME = 80
COMMANDS_PER_S = 200.0
COMMANDS_BURST = 500.0
"""Of one client; `cancel` and `ping` have as many again for themselves."""
TRAFFIC_S = 1.0
"""How often is told what each client is sent; less often where that is more than `TRAFFIC_ROWS` a second."""
TRAFFIC_ROWS = 50
PUBLISH_PER_S = 100.0
PUBLISH_BURST = 200.0
"""Values of one client's own: each takes a place in the bus's ring, which all share."""


@dataclass(slots=True)
class Allowance:
    """How often something may be done: `per_s` in the long run, `burst` at once (a token bucket)."""

    per_s: float
    burst: float
    left: float = field(init=False)
    t: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, now: float) -> bool:
        """Use one, if there is one. `now`: monotonic seconds."""
        self.left = min(self.burst, self.left + (now - self.t) * self.per_s)
        self.t = now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    @property
    def wait_s(self) -> float:
        """How long until there is one."""
        return max(0.0, (1 - self.left) / self.per_s)


def _publishing() -> Allowance:
    return Allowance(PUBLISH_PER_S, PUBLISH_BURST)


def _commands() -> Allowance:
    return Allowance(COMMANDS_PER_S, COMMANDS_BURST)


@dataclass(slots=True, eq=False)
class Client:
    """One client, over all its connections under the same key."""

    client_id: str
    name: str
    origin: Origin
    key: tuple[Grant, str] | None = None
    grant: Grant = NOBODY
    """What its token lets it do."""
    own: set[str] = field(default_factory=set)
    """Generations it started; their events always reach it."""
    last_cut: str | None = None
    """Why its last connection was cut; told once, in the next `hello`."""
    connections: int = 0
    left_t: float = 0.0
    cuts: int = 0
    """How often a connection of its was cut."""
    commands: Allowance = field(default_factory=_commands)
    urgent_commands: Allowance = field(default_factory=_commands)
    publishing: Allowance = field(default_factory=_publishing)
    sent_bytes: int = 0
    sent_events: int = 0
    merged: int = 0
    """Events that came joined with a later one, or replaced by one."""
    backlogs: list[Callable[[], tuple[int, int]]] = field(default_factory=list)
    """For each connection: bytes that wait for the client, and how many events it is behind."""
    told: tuple[int, int] = (0, 0)
    """`sent_bytes` and `sent_events` when its traffic was last told."""
    _own_order: deque[str] = field(default_factory=deque)

    def may(self, permission: Permission) -> bool:
        return permission in self.grant.permissions

    def count(self, portion: Portion) -> None:
        """It is sent what a drain of its subscription brought."""
        self.sent_events += len(portion.envelopes)
        self.merged += portion.n_events - len(portion.envelopes)

    def add_own(self, generation_id: str) -> None:
        self.own.add(generation_id)
        self._own_order.append(generation_id)
        if len(self._own_order) > MAX_OWN:
            self.own.discard(self._own_order.popleft())


class Clients:
    """The registry of all clients. Loop thread only."""

    def __init__(
        self, publish: Callable[[Event], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._publish = publish
        self._clock = clock
        self._by_key: dict[tuple[Grant, str], Client] = {}
        self._connected: dict[str, Client] = {}
        self._told_t = clock()
        self._quiet = True
        """Nothing was to be told the last time."""

    def connect(self, name: str, origin: Origin, key: str | None = None, grant: Grant = NOBODY) -> Client:
        """A client for a new connection; the same one again where `key` is remembered for its token."""
        self._forget()
        identity = (grant, key) if key is not None else None
        client = self._by_key.get(identity) if identity is not None else None
        name = clean_name(name)
        if client is None:
            client = Client(f"client_{secrets.token_hex(6)}", name or origin, origin, identity, grant)
            if identity is not None:
                self._by_key[identity] = client
        elif name:
            client.name = name
        client.connections += 1
        if client.connections == 1:
            self._connected[client.client_id] = client
            self._publish(ClientConnected(client_id=client.client_id, name=client.name, origin=client.origin))
        return client

    def disconnect(self, client: Client, reason: str) -> None:
        """One connection of the client is gone: `closed`, `lost` or `slow`."""
        client.connections -= 1
        if client.connections > 0:
            return
        client.left_t = self._clock()
        del self._connected[client.client_id]
        self._publish(ClientDisconnected(client_id=client.client_id, name=client.name, reason=reason))

    def tell_traffic(self, now: float) -> None:
        """Publish `metrics.clients` if it is time and there is traffic, or was the last time."""
        passed = now - self._told_t
        if passed < max(TRAFFIC_S, len(self._connected) / TRAFFIC_ROWS):
            return
        self._told_t = now
        rows = [row for client in self._connected.values() if (row := _traffic(client, passed)) is not None]
        if rows or not self._quiet:
            self._publish(ClientMetrics(clients=rows))
        self._quiet = not rows

    def _forget(self) -> None:
        now = self._clock()
        gone = [client for client in self._by_key.values() if client.connections == 0]
        gone.sort(key=lambda client: client.left_t)
        excess = len(self._by_key) - MAX_REMEMBERED
        for place, client in enumerate(gone):
            if (place < excess or now - client.left_t > REMEMBER_S) and client.key is not None:
                del self._by_key[client.key]


def _traffic(client: Client, passed_s: float) -> ClientTraffic | None:
    """What the client was sent since it was last told; None where that is nothing and nothing waits."""
    waiting = [backlog() for backlog in client.backlogs]
    backlog_bytes = sum(n_bytes for n_bytes, _ in waiting)
    n_bytes, n_events = client.sent_bytes - client.told[0], client.sent_events - client.told[1]
    client.told = client.sent_bytes, client.sent_events
    if not (n_bytes or backlog_bytes):
        return None
    return ClientTraffic(
        client_id=client.client_id,
        bytes_per_s=round(n_bytes / passed_s, 1),
        events_per_s=round(n_events / passed_s, 1),
        backlog_bytes=backlog_bytes,
        behind=max((events for _, events in waiting), default=0),
        merged=client.merged,
        cuts=client.cuts,
    )


def clean_name(name: str) -> str:
    """A client's name as it may be shown: one line without control characters, at most 80 long."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", name).strip()[
        :MAX_NAME
    ]
