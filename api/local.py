"""Client zero: the window's (or a command's) own connection to the bus, without a socket between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from api import protocol
from api.bus import EventBus, Subscription
from api.clients import Clients
from api.permissions import OWNER
from api.service import Service
from engine.errors import TokenglassError
from engine.types import Origin


class LocalClient:
    """Commands go through the same checks and the same service as a socket's. Loop thread only."""

    def __init__(
        self,
        bus: EventBus,
        service: Service,
        clients: Clients,
        name: str,
        origin: Origin,
        on_ready: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._service = service
        self._clients = clients
        self._client = clients.connect(name, origin, grant=OWNER)
        self._closed = False
        self.subscription: Subscription = bus.subscribe(self._client.own, on_ready)

    @property
    def client_id(self) -> str:
        return self._client.client_id

    async def request(self, type: str, /, **arguments: object) -> dict[str, Any]:  # noqa: A002 - a wire name
        """Carry out one command and answer its result. Raises TokenglassError.

        `subscribe` with a `since` that can't be served raises `bad_state`: take a `snapshot` then.
        """
        received_t = time.monotonic()
        if self._closed:
            raise TokenglassError("shutting_down", "this client is closed")
        # over JSON, so that nothing gets in here that a socket would refuse
        command = protocol.parse_command(protocol.decode(json.dumps({"type": type, **arguments})))
        if isinstance(command, protocol.Subscribe):
            return self._subscribe(command)
        if isinstance(command, protocol.Unsubscribe):
            self.subscription.select(())
            return {"seq": self._bus.seq}
        results: list[dict[str, Any]] = []
        await self._service.execute(self._client, command, received_t, results.append)
        return results[0]

    def _subscribe(self, command: protocol.Subscribe) -> dict[str, Any]:
        seq = self._bus.seq
        since = command.since
        if since is not None and not self._bus.oldest_seq - 1 <= since <= seq:
            raise TokenglassError("bad_state", "these events are gone", path="since", hint="take a snapshot")
        generations = command.generations
        self.subscription.select(
            command.events, frozenset(generations) if isinstance(generations, list) else generations, since
        )
        return {"seq": seq}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.subscription.close()
            self._clients.disconnect(self._client, "closed")
