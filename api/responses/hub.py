"""What all requests of this API share: the responses under way, those kept, and how one is begun."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api.clients import Client, Clients
from api.openai.calls import BROKEN_OFF
from api.openai.dialect import answering
from api.permissions import Grant
from api.responses import errors
from api.responses.items import Item, numbered, response_of
from api.responses.story import Story, head_of
from api.responses.table import ResponseTable, Stored
from api.responses.wishes import Wish
from engine.errors import TokenglassError

if TYPE_CHECKING:
    from api.server import LiveServer

logger = logging.getLogger(__name__)

Context = list[Item]


@dataclass(slots=True, eq=False)
class Turn:
    """One response, from the moment its request was accepted."""

    story: Story
    generation_id: str | None
    """None where there is nothing to compute."""
    context: Context
    """All items that were asked with, its own input last."""
    own: list[Item]
    parent: str | None
    """The stored response whose items come before its own."""
    store: bool
    grant: Grant
    """What its client came with."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.story.id

    def whole(self) -> Context:
        """The context of what continues it."""
        return [*self.context, *self.story.close()["output"]]


class Hub:
    """Loop thread only."""

    def __init__(self, server: LiveServer, clients: Clients) -> None:
        self.bus = server.bus
        self.service = server.service
        self.clients = clients
        self.running: dict[str, Turn] = {}
        """By response id."""

    async def begin(
        self,
        client: Client,
        wish: Wish,
        received_t: float,
        begun: Callable[[Turn], None],
        *,
        stream_id: str | None = None,
        told: bool = True,
        local: Callable[[str], Context | None] = lambda _: None,
    ) -> None:
        """Start a response: `begun` gets it before any event of its generation.

        `local` knows the contexts of responses that aren't stored. Raises TokenglassError or Refused.
        """
        model = await answering(self.service, wish.model)
        before, parent = await self._before(wish.previous_id, local, client.grant)
        own = await self._resolved(wish.items, before, client.grant)
        context = [*before, *own]
        command = wish.command(context)

        def answered(result: dict[str, Any]) -> None:
            generation_id = result.get("generation_id")
            key = generation_id.removeprefix("gen_") if generation_id else secrets.token_hex(8)
            head = head_of(f"resp_{key}", model, int(time.time()), wish.told)
            story = Story(head, stream_id, logprobs=wish.logprobs, told=told, prewarm=not wish.generate)
            asked = numbered(own, key)
            # what goes before in this connection alone has to be kept with it
            kept = asked if parent is not None else [*before, *asked]
            turn = Turn(story, generation_id, [*before, *asked], kept, parent, wish.store, client.grant)
            self.running[turn.id] = turn
            begun(turn)

        if command is None:
            answered({})
        else:
            await self.service.execute(client, command, received_t, answered)

    async def end(self, turn: Turn) -> bool:
        """A response has ended: keep it where it is to be kept. Answers whether it is."""
        response = turn.story.close()
        if turn.story.error is BROKEN_OFF:
            self._stop(turn)  # the model may go on, but nobody hears it
        kept = turn.store
        if kept:
            stored = Stored(turn.parent, turn.own, response, turn.grant.key)
            try:
                await self._table(lambda table: table.put(stored))
            except TokenglassError as error:
                kept = False
                logger.warning("a response was not stored: %s", error)
            except Exception:  # whatever it is, the client hears the end
                kept = False
                logger.exception("a response was not stored")
        self.running.pop(turn.id, None)
        turn.ended.set()
        return kept

    def under_way(self, response_id: str, grant: Grant) -> Turn | None:
        """A response that is being made, where the grant may know of it."""
        turn = self.running.get(response_id)
        return turn if turn is not None and _may_know(grant, turn.grant.key) else None

    def abandon(self, turn: Turn) -> None:
        """Nobody waits for it any more."""
        self.running.pop(turn.id, None)
        turn.ended.set()
        self._stop(turn)

    def cancel(self, response_id: str, grant: Grant) -> Turn:
        """End a response that is under way. Raises Refused, or TokenglassError `forbidden`."""
        turn = self.under_way(response_id, grant)
        if turn is None:
            raise errors.no_response(response_id, "response_id")
        _check_control(grant, turn.grant.key)
        self._stop(turn)
        return turn

    def _stop(self, turn: Turn) -> None:
        if turn.generation_id is not None:
            self.service.supervisor.cancel(turn.generation_id)

    # ---- responses that are kept

    async def stored(self, response_id: str, grant: Grant) -> Stored:
        """Raises Refused."""
        found: Stored | None = await self._table(lambda table: table.get(response_id))
        if found is None or not _may_know(grant, found.owner):
            raise errors.no_response(response_id, "response_id")
        return found

    async def asked(self, response_id: str, grant: Grant) -> Context:
        """All items that it was asked with. Raises Refused."""
        stored = await self.stored(response_id, grant)
        before: Context | None = []
        if stored.parent is not None:
            parent = stored.parent
            before = await self._table(lambda table: table.context(parent))
        return [*(before or ()), *stored.items]

    async def delete(self, response_id: str, grant: Grant) -> None:
        """Raises Refused where there is none, or TokenglassError `forbidden`."""
        owner = await self._table(lambda table: table.owner(response_id))
        if owner is not None and _may_know(grant, owner):
            _check_control(grant, owner)
        else:
            raise errors.no_response(response_id, "response_id")
        if not await self._table(lambda table: table.delete(response_id)):
            raise errors.no_response(response_id, "response_id")

    async def _before(
        self, previous_id: str | None, local: Callable[[str], Context | None], grant: Grant
    ) -> tuple[Context, str | None]:
        """What went before, and the stored response that has it."""
        if previous_id is None:
            return [], None
        if (known := local(previous_id)) is not None:
            return known, None
        owner = await self._table(lambda table: table.owner(previous_id))
        if owner is None or not _may_know(grant, owner):
            raise errors.no_response(previous_id)
        context = await self._table(lambda table: table.context(previous_id))
        if context is None:
            raise errors.no_response(previous_id)
        return context, previous_id

    async def _resolved(self, items: list[Item], before: Context, grant: Grant) -> list[Item]:
        """The items with what their references mean. Raises Refused."""
        if not any(item["type"] == "item_reference" for item in items):
            return items
        known = {item["id"]: item for item in before if "id" in item}
        return [
            await self._referred(item["id"], known, grant) if item["type"] == "item_reference" else item
            for item in items
        ]

    async def _referred(self, item_id: str, known: dict[str, Item], grant: Grant) -> Item:
        place = response_of(item_id)
        if item_id not in known and place is not None:
            stored = await self._table(lambda table: table.get(place))
            if stored is not None and _may_know(grant, stored.owner):
                known |= {item["id"]: item for item in (*stored.items, *stored.response["output"])}
        if item_id not in known:
            raise errors.no_item(item_id)
        return known[item_id]

    async def _table(self, action: Callable[[ResponseTable], Any]) -> Any:
        return await self.service.history.responses(action)


def _may_know(grant: Grant, owner: str) -> bool:
    """Whether it may read and continue a response; others' are what it can observe."""
    return grant.key == owner or "observe" in grant.permissions


def _check_control(grant: Grant, owner: str) -> None:
    if grant.key != owner and "control" not in grant.permissions:
        raise TokenglassError("forbidden", "the response belongs to another token: this needs control")
