"""The generations of one request: started as a client of their own, followed on the bus, ended with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from api import protocol
from api.backpressure import PORTION_BYTES
from api.bus import EventBus
from api.clients import Client, Clients
from api.heads import combined
from api.http import Exchange, Request
from engine.events import GenerationEvent, GenerationFinished
from engine.types import Origin

if TYPE_CHECKING:
    from api.service import Service

Batch = list[tuple[int, GenerationEvent]]
"""Events, each with the number of the choice that it belongs to."""


def client_name(request: Request) -> str:
    """How the client calls itself: its `User-Agent`, e.g. `OpenAI/Python 3.52.0`."""
    return combined(request.headers, "User-Agent")


class Feed:
    """What the generations of a request say."""

    def __init__(self, bus: EventBus, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._exchange = exchange
        self._wake = asyncio.Event()
        self._subscription = bus.subscribe(client.own, self._wake.set)
        self.choices: dict[str, int] = {}
        """Number of the choice by generation id."""
        self.unfinished: set[str] = set()
        exchange.backlog = lambda: self._subscription.backlog_bytes
        client.backlogs.append(self._backlog)

    def _backlog(self) -> tuple[int, int]:
        return self._exchange.waiting, self._subscription.behind if self._subscription.pending else 0

    @property
    def first_id(self) -> str:
        return next(iter(self.choices))

    def started(self, generation_id: str) -> None:
        self.choices[generation_id] = len(self.choices)
        self.unfinished.add(generation_id)

    async def batches(self) -> AsyncIterator[Batch]:
        """All events until every generation has finished, as they come."""
        while self.unfinished:
            await self._wake.wait()
            self._wake.clear()
            while self._subscription.pending:
                if self._subscription.overrun:
                    self._exchange.cut()
                    raise ConnectionAbortedError("the client reads too slowly")
                batch: Batch = []
                portion = self._subscription.take(PORTION_BYTES)
                self._client.count(portion)
                for envelope in portion.envelopes:
                    event = envelope.event
                    if not isinstance(event, GenerationEvent) or event.generation_id not in self.choices:
                        continue
                    batch.append((self.choices[event.generation_id], event))
                    if isinstance(event, GenerationFinished):
                        self.unfinished.discard(event.generation_id)
                if batch:
                    written = self._exchange.written
                    yield batch
                    self._client.sent_bytes += self._exchange.written - written
                await asyncio.sleep(0)  # however much there is, others have their turn

    def close(self) -> None:
        self._client.backlogs.remove(self._backlog)
        self._subscription.close()


@asynccontextmanager
async def following(
    bus: EventBus, clients: Clients, request: Request, exchange: Exchange, origin: Origin
) -> AsyncIterator[tuple[Client, Feed]]:
    """The request as a client of its own, for as long as it lasts, and what its generations say."""
    client = clients.connect(client_name(request), origin, grant=request.grant)
    feed = Feed(bus, client, exchange)
    reason = "lost"
    try:
        yield client, feed
        reason = "closed"
    except Exception:
        reason = "closed"
        raise
    finally:
        feed.close()
        clients.disconnect(client, exchange.end_reason or reason)


@asynccontextmanager
async def generations(
    bus: EventBus,
    service: Service,
    clients: Clients,
    request: Request,
    exchange: Exchange,
    origin: Origin,
    wanted: Sequence[protocol.Generate],
) -> AsyncIterator[Feed]:
    """Start what is wanted; whatever hasn't finished at the end is cancelled. Raises TokenglassError."""
    async with following(bus, clients, request, exchange, origin) as (client, feed):
        try:
            for command in wanted:
                await service.execute(
                    client, command, request.received_t, lambda result: feed.started(result["generation_id"])
                )
            yield feed
        finally:
            for generation_id in feed.unfinished:
                service.supervisor.cancel(generation_id)


def unix_now() -> int:
    return int(time.time())
