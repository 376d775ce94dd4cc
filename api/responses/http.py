"""`/v1/responses` over HTTP: whole answers, streams of events, and responses that are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from api import protocol
from api.guard import RESPONSES_PATH
from api.http import Answer, Exchange, Request, json_answer
from api.openai import answers
from api.openai.dialect import EVENT_STREAM, body_of_request
from api.openai.errors import Refused, answer_to, unsupported
from api.openai.feed import Feed, following
from api.responses import errors
from api.responses.hub import Hub, Turn
from api.responses.story import WireEvent
from api.responses.wishes import Wish, wish
from engine.errors import TokenglassError

logger = logging.getLogger(__name__)

CANCEL_S = 5.0
"""How long an answer to a cancel waits for the end of what is cancelled."""
MAX_ITEMS = 100


class ResponsesHttp:
    """Answers the paths. Loop thread only."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def serve(self, path: str, request: Request, exchange: Exchange) -> None:
        """Answer a request, with an error where it can't be done."""
        try:
            if path == RESPONSES_PATH:
                await self._create(request, exchange)
            else:
                response_id, _, what = unquote(path.removeprefix(f"{RESPONSES_PATH}/")).partition("/")
                await exchange.send(await self._kept(response_id, what, request))
        except (TokenglassError, Refused) as error:
            if exchange.started:
                raise
            await exchange.send(answer_to(error))

    # ---- a new response

    async def _create(self, request: Request, exchange: Exchange) -> None:
        asked = wish(await body_of_request(request))
        async with self._turn(asked, request, exchange) as (turn, feed):
            if asked.stream:
                await self._stream(turn, feed, exchange)
                return
            async for batch in feed.batches():
                for _, event in batch:
                    turn.story.take(event)
            if turn.story.error is not None:
                raise TokenglassError.of(turn.story.error)
            await self._hub.end(turn)
            await exchange.send(json_answer(200, turn.story.close()))

    @asynccontextmanager
    async def _turn(
        self, asked: Wish, request: Request, exchange: Exchange
    ) -> AsyncIterator[tuple[Turn, Feed]]:
        """The response, as a client of its own; it is cancelled where the client goes away before its end."""
        hub = self._hub
        begun: list[Turn] = []
        async with following(hub.bus, hub.clients, request, exchange, "responses") as (client, feed):

            def begin(turn: Turn) -> None:
                begun.append(turn)
                if turn.generation_id is None:
                    turn.story.complete()
                else:
                    feed.started(turn.generation_id)

            try:
                await hub.begin(client, asked, request.received_t, begin, told=asked.stream)
                yield begun[0], feed
            finally:
                for turn in begun:
                    if not turn.ended.is_set():
                        hub.abandon(turn)

    async def _stream(self, turn: Turn, feed: Feed, exchange: Exchange) -> None:
        """It begins with the first slot, so that a prompt that can't be taken gets a status of its own."""
        story = turn.story
        waiting: list[WireEvent] = [story.created()]
        try:
            await self._tell(turn, feed, exchange, waiting)
        except (ConnectionError, TokenglassError):
            raise
        except Exception as error:
            if not exchange.started:
                raise
            logger.exception("a stream of a response failed")
            waiting = [errors.flat(error, story.next_number)]
        else:
            await self._hub.end(turn)
            waiting = [*waiting, story.terminal()]
        await _write(exchange, waiting)
        await exchange.write(answers.DONE)
        await exchange.end()

    async def _tell(self, turn: Turn, feed: Feed, exchange: Exchange, waiting: list[WireEvent]) -> None:
        """Write the events but the last; those that wait for a beginning stay in `waiting`."""
        story = turn.story
        async for batch in feed.batches():
            for _, event in batch:
                waiting += story.take(event)
            if story.error is not None and not exchange.started and len(waiting) == 1:
                raise TokenglassError.of(story.error)
            if len(waiting) > 1 or exchange.started:
                await _write(exchange, waiting)
                waiting.clear()
            if story.ended:
                break

    # ---- responses that are kept

    async def _kept(self, response_id: str, what: str, request: Request) -> Answer:
        match request.method, what:
            case "GET", "":
                return await self._get(response_id, request)
            case "DELETE", "":
                await self._hub.delete(response_id, request.grant)
                told = {"id": response_id, "object": "response", "deleted": True}
                return json_answer(200, told)
            case "POST", "cancel":
                return await self._cancel(response_id, request)
            case "GET", "input_items":
                return await self._input_items(response_id, request)
        raise Refused(404, "not_found", "there is nothing here")

    async def _get(self, response_id: str, request: Request) -> Answer:
        if _query(request).get("stream") == "true":
            raise unsupported("stream", "stream: a response is streamed to whoever created it")
        turn = self._hub.under_way(response_id, request.grant)
        if turn is not None:
            return json_answer(200, turn.story.so_far())
        return json_answer(200, (await self._hub.stored(response_id, request.grant)).response)

    async def _cancel(self, response_id: str, request: Request) -> Answer:
        """What has ended already stays as it is."""
        if response_id not in self._hub.running:
            return json_answer(200, (await self._hub.stored(response_id, request.grant)).response)
        turn = self._hub.cancel(response_id, request.grant)
        try:
            async with asyncio.timeout(CANCEL_S):
                await turn.ended.wait()
        except TimeoutError:
            return json_answer(200, turn.story.so_far())
        return json_answer(200, turn.story.close())

    async def _input_items(self, response_id: str, request: Request) -> Answer:
        """All that was asked with, what went before included; the latest first, as the default has it."""
        query = _query(request)
        turn = self._hub.under_way(response_id, request.grant)
        items = turn.context if turn is not None else await self._hub.asked(response_id, request.grant)
        if query.get("order", "desc") == "desc":
            items = items[::-1]
        limit = query.get("limit", "20")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_ITEMS):
            raise Refused(400, "invalid_value", f"limit: a number from 1 to {MAX_ITEMS}", "limit")
        if (after := query.get("after")) is not None:
            ids = [item["id"] for item in items]
            if after not in ids:
                raise errors.no_item(after)
            items = items[ids.index(after) + 1 :]
        page = items[: int(limit)]
        told: dict[str, Any] = {"object": "list", "data": page, "has_more": len(items) > len(page)}
        told |= {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return json_answer(200, told)


def _query(request: Request) -> dict[str, str]:
    query = parse_qs(urlsplit(request.target).query, max_num_fields=16)
    return {name: values[-1] for name, values in query.items()}


async def _write(exchange: Exchange, events: list[WireEvent]) -> None:
    if not exchange.started:
        await exchange.start(EVENT_STREAM)
    await exchange.write(b"".join(map(_sse, events)))


def _sse(event: WireEvent) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), protocol.encode(event))
