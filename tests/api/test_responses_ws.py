"""OpenAI's Responses API in WebSocket mode, driven by the `openai` package and by bare sockets."""

import asyncio
import contextlib
import json
import random
import re
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from openai import AsyncOpenAI, OpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketAccumulator,
    ResponsesWebSocketLimits,
)
from openai.resources.responses.responses import AsyncResponsesConnection
from openai.types.responses import Response
from websockets.asyncio.client import ClientConnection, connect

from api import handshake
from api.core import Core
from api.responses import hub
from api.responses import socket as responses
from api.responses.lanes import MAX_NAMED
from api.responses.table import ResponseTable
from api.tokens import TokenFile
from tests.api.harness import ENDLESS, TOKEN, app, client, eventually, run
from tests.api.test_tokens import made

CALL = '<tool_call>{"name": "clock"%2C "arguments": {"zone": "UTC"}}</tool_call>'
CLOCK: Any = {
    "type": "function",
    "name": "clock",
    "description": "The time of day",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    "strict": True,
}
THINKING = """{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content -%}
{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif -%}
{{ message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
LIMITS = ResponsesWebSocketLimits(
    max_lanes=40, max_events_per_lane=4096, max_events=65536, max_bytes_per_lane=1 << 24, max_bytes=1 << 26
)
TERMINALS = ("response.completed", "response.incomplete", "response.failed")


@contextlib.asynccontextmanager
async def dialled(core: Core) -> AsyncIterator[AsyncResponsesConnection]:
    """A connection as a user of the package opens it."""
    async with (
        AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api,
        api.responses.connect() as connection,
    ):
        yield connection


async def turn(connection: AsyncResponsesConnection, **fields: Any) -> tuple[Response, list[Any]]:
    """One response on the default lane, checked by the strict accumulator; and its events."""
    await connection.response.create(**({"model": "any", "input": "hi"} | fields))
    return await follow(connection)


async def follow(connection: AsyncResponsesConnection) -> tuple[Response, list[Any]]:
    accumulator = ResponsesWebSocketAccumulator()
    events: list[Any] = []
    while True:
        event = await connection.recv()
        events.append(event)
        accumulator.add_event(event)
        if event.type in TERMINALS:
            assert [each.sequence_number for each in events] == list(range(len(events)))
            return accumulator.get_final_response(), events


class Bare:
    """A client without the package, which can send anything."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: object) -> None:
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def create(self, **fields: object) -> None:
        await self.send({"type": "response.create", "input": "hi", **fields})

    async def recv(self) -> dict[str, Any]:
        event = json.loads(await self.connection.recv())
        assert isinstance(event, dict)
        return event

    async def until(self, *names: str) -> dict[str, Any]:
        while (event := await self.recv())["type"] not in names:
            pass
        return event

    async def end(self) -> dict[str, Any]:
        return await self.until(*TERMINALS)


@contextlib.asynccontextmanager
async def bare(core: Core, token: str = TOKEN, **options: Any) -> AsyncIterator[Bare]:
    async with connect(
        core.url.replace("/v1/live", "/v1/responses"),
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
        compression=None,
        max_size=None,
        **options,
    ) as connection:
        yield Bare(connection)


def running(core: Core) -> int:
    return len(core.state.generations)


def test_text_streams_and_is_seen_by_everybody(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=20") as core, client(core) as wire, dialled(core) as connection:
            await wire.command("subscribe")
            response, events = await turn(
                connection,
                instructions="Be brief.",
                input=[{"role": "user", "content": "hi"}],
                temperature=0,
                metadata={"a": "b"},
                stream=True,
            )
            names = [event.type.removeprefix("response.") for event in events]
            assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
            assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
            assert set(names[4:-4]) == {"output_text.delta"}
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            assert text
            assert response.output_text == text
            assert (response.status, response.model, response.error) == ("completed", "fake", None)
            assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
            assert response.usage is not None
            assert response.usage.output_tokens == 20
            assert response.usage.input_tokens_details.cached_tokens == 0
            assert response.usage.input_tokens_details.cache_write_tokens == response.usage.input_tokens
            timings = response.model_extra["timings"]  # type: ignore[index]  # an extra field
            assert timings["predicted_n"] == 20
            queued = await wire.event("generation.queued")
            assert (queued["origin"], queued["input"]) == ("responses", "hi")
            assert queued["client_name"].startswith("AsyncOpenAI/Python")
            assert queued["generation_id"].removeprefix("gen_") == response.id.removeprefix("resp_")
            assert (await wire.finished(queued["generation_id"]))["text"] == text

            short, _ = await turn(connection, max_output_tokens=3)
            assert short.status == "incomplete"
            assert short.incomplete_details is not None
            assert short.incomplete_details.reason == "max_output_tokens"

    run(test())


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_the_sync_package(tmp_path: Path) -> None:
    def talk(core: Core) -> list[str]:
        texts = []
        previous: str | None = None
        with (
            OpenAI(base_url=core.base_url, api_key=TOKEN) as api,
            api.responses.connect() as connection,
        ):
            for question in ("one", "two", "three"):
                connection.response.create(model="any", input=question, previous_response_id=previous)
                for event in connection:
                    if event.type == "response.completed":
                        texts.append(event.response.output_text)
                        previous = event.response.id
                        break
        return texts

    async def test() -> None:
        async with app(tmp_path, "fake:echo=1") as core:
            assert await asyncio.to_thread(talk, core) == ["one", "two", "three"]

    run(test())


def test_a_chain_of_twenty_turns_over_connections_and_a_restart(tmp_path: Path) -> None:
    """The fake model echoes, so what it was asked shows what it was told: the prompt grows by each turn."""

    async def test() -> None:
        previous: str | None = None
        sizes: list[int] = []
        for start in (0, 10):
            async with app(tmp_path, "fake:echo=1,ctx=4096") as core:
                for number in range(start, start + 10, 5):
                    async with dialled(core) as connection:
                        for question in range(number, number + 5):
                            response, _ = await turn(
                                connection, input=f"turn {question}", previous_response_id=previous
                            )
                            assert response.output_text == f"turn {question}"
                            assert response.previous_response_id == previous
                            assert response.usage is not None
                            sizes.append(response.usage.input_tokens)
                            if question != start:  # the first of an app finds no KV cache
                                assert response.usage.input_tokens_details.cached_tokens > 0
                            previous = response.id
        assert sizes == sorted(set(sizes))
        async with app(tmp_path, "fake:echo=1,ctx=4096") as core, dialled(core) as connection:
            # a fork: one parent, two children; instructions are not inherited
            children = [
                (await turn(connection, input="fork", previous_response_id=previous))[0] for _ in range(2)
            ]
            assert [child.instructions for child in children] == [None, None]
            async with AsyncOpenAI(base_url=core.base_url, api_key=TOKEN) as api:
                page = await api.responses.input_items.list(children[1].id, limit=100, order="asc")
                assert len(page.data) == 41
                await api.responses.delete(str(previous))
            await connection.response.create(model="x", input="gone", previous_response_id=previous)
            error: Any = await connection.recv()
            assert error.error.code == "previous_response_not_found"

    run(test())


def test_unstored_responses_live_as_long_as_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:echo=1") as core:
            async with bare(core) as one:
                await one.create(store=False, stream_id="a")
                first = (await one.end())["response"]["id"]
                await one.create(store=False, stream_id="b", previous_response_id=first, input="on")
                second = (await one.end())["response"]
                assert second["store"] is False
                # each lane has its latest
                await one.create(store=False, stream_id="a", previous_response_id=first)
                third = (await one.end())["response"]["id"]
                await one.create(previous_response_id=first)
                assert (await one.recv())["error"]["code"] == "previous_response_not_found"
                # what is stored carries what was not
                await one.create(previous_response_id=third, input="kept")
                kept = (await one.end())["response"]["id"]
            async with bare(core) as two:
                await two.create(previous_response_id=third)
                assert (await two.recv())["error"]["code"] == "previous_response_not_found"
                await two.create(previous_response_id=kept, input="later")
                later = (await two.end())["response"]
                assert later["status"] == "completed"
                assert later["usage"]["input_tokens"] > second["usage"]["input_tokens"]

    run(test())


def test_function_calls_and_their_results(tmp_path: Path) -> None:
    async def test() -> None:
        model = f"fake:delay_ms=80,script={CALL}"  # slow enough not to be merged
        async with app(tmp_path, model) as core, dialled(core) as connection:
            response, events = await turn(connection, tools=[CLOCK])
            names = [event.type.removeprefix("response.") for event in events]
            assert names[2] == "output_item.added"
            assert set(names[3:-3]) == {"function_call_arguments.delta"}
            assert names[-3:-1] == ["function_call_arguments.done", "output_item.done"]
            pieces = [event.delta for event in events[3:-3]]
            assert len(pieces) > 1
            assert "".join(pieces) == events[-3].arguments
            added = events[2].item
            assert (added.name, added.arguments, added.status) == ("clock", "", "in_progress")
            (call,) = response.output
            assert call.type == "function_call"
            assert added.call_id == call.call_id
            assert (call.name, call.status) == ("clock", "completed")
            assert json.loads(call.arguments) == {"zone": "UTC"}
            assert call.arguments == events[-3].arguments
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}
            after, _ = await turn(
                connection,
                input=[result],
                previous_response_id=response.id,
                tools=[CLOCK],
                tool_choice="none",
            )
            assert after.output[0].type == "message"
            # the same without the server's memory, as the items came
            again, _ = await turn(
                connection, input=[{"role": "user", "content": "hi"}, call.to_dict(), result], tools=[CLOCK]
            )
            assert again.status == "completed"
            unknown: Any = [{**result, "call_id": "call_nobody"}]
            await connection.response.create(input=unknown, previous_response_id=response.id)
            error: Any = await connection.recv()
            assert (error.status, error.error.param) == (400, "input")
            assert "No tool call found" in error.error.message

    run(test())


def test_reasoning_is_told_apart_and_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Core, "_chat_template", lambda self, entry: THINKING)

    async def test() -> None:
        model = "fake:script=<think>\nA clock?\n</think>\n\nNoon."
        async with app(tmp_path, model) as core, dialled(core) as connection:
            response, events = await turn(connection)
            assert any(event.type == "response.reasoning_text.delta" for event in events)
            reasoning, message = response.output
            assert reasoning.type == "reasoning"
            assert reasoning.content is not None
            assert reasoning.content[0].text.strip() == "A clock?"
            assert message.type == "message"
            assert response.output_text == "Noon."
            assert response.usage is not None
            assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
            given: Any = [{"role": "user", "content": "hi"}, reasoning.to_dict(), message.to_dict()]
            again, _ = await turn(connection, input=[*given, {"role": "user", "content": "and now?"}])
            assert again.status == "completed"

    run(test())


def test_lanes_run_side_by_side_and_each_in_its_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            app(tmp_path, "fake:tokens=12,delay_ms=2,slots=8") as core,
            dialled(core) as connection,
            AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
        ):
            lanes = [session.default, *(session.lane(f"lane.{number}") for number in range(20))]

            async def talk(lane: Any) -> list[str]:
                ids: list[str] = []
                for _ in range(3):
                    previous = {"previous_response_id": ids[-1]} if ids else {}
                    await lane.send({"type": "response.create", "input": "hi", **previous})
                    response = await lane.get_final_response()
                    assert response.status == "completed"
                    assert response.usage.output_tokens == 12
                    ids.append(response.id)
                return ids

            told = await asyncio.gather(*map(talk, lanes))
            assert len({each for ids in told for each in ids}) == 63

    run(test())


def test_a_lane_is_a_queue_and_different_lanes_overlap(tmp_path: Path) -> None:
    async def test() -> None:
        # all four are there before the first one begins
        slow_load = "fake:tokens=30,delay_ms=2,slots=4,load_ms=2000"
        async with app(tmp_path, slow_load) as core, bare(core) as one:
            for number in range(3):
                await one.create(metadata={"n": str(number)})
            await one.create(stream_id="other", metadata={"n": "other"})
            events: list[tuple[str, str]] = []
            names: dict[str, str] = {}
            while len([kind for kind, _ in events if kind == "response.completed"]) < 4:
                event = await one.recv()
                if event["type"] in ("response.created", "response.completed"):
                    response = event["response"]
                    names[response["id"]] = response["metadata"]["n"]
                    assert event.get("stream_id") == (None if names[response["id"]] != "other" else "other")
                    events.append((event["type"], names[response["id"]]))
            default = [event for event in events if event[1] != "other"]
            assert default == [
                (kind, str(number))
                for number in range(3)
                for kind in ("response.created", "response.completed")
            ]
            assert events.index(("response.created", "other")) < events.index(("response.completed", "0"))

    run(test())


ERRORS: list[tuple[object, str, str | None]] = [
    ("{", "invalid_json", None),
    ("", "invalid_json", None),
    ("[]", "invalid_json", None),
    ('"text"', "invalid_json", None),
    ("[" * 100_000, "invalid_json", None),
    ('{"type":"response.create","input":' + '{"a":' * 80 + "1" + "}" * 81, "invalid_json", None),
    ('{"type":"response.create","type":"response.create"}', "invalid_json", None),
    ('{"type":"response.create","temperature":1e999}', "invalid_json", None),
    ('{"type":"response.create","input":"\\ud800"}', "invalid_json", None),
    ({"input": "hi"}, "unknown_event_type", "type"),
    ({"type": "response.sing"}, "unknown_event_type", "type"),
    ({"type": 7}, "unknown_event_type", "type"),
    ({"type": "response.create"}, "missing_required_parameter", "input"),
    ({"type": "response.create", "input": "x", "stream_id": ""}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "input": "x", "stream_id": "a b"}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "input": "x", "stream_id": 7}, "invalid_stream_id", "stream_id"),
    ({"type": "response.create", "input": [{"role": "x"}]}, "invalid_value", "input[0].role"),
    ({"type": "response.create", "input": "x", "temperature": 9e9}, "invalid_value", "temperature"),
    ({"type": "response.create", "input": "x", "max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    (
        {"type": "response.create", "input": "x", "tools": [{"type": "web_search"}]},
        "unsupported_parameter",
        "tools[0].type",
    ),
    ({"type": "response.create", "input": "x", "model": "starter"}, "model_not_found", "model"),
    (
        {"type": "response.create", "input": "x", "previous_response_id": "resp_abc"},
        "previous_response_not_found",
        "previous_response_id",
    ),
    (
        {"type": "response.create", "input": [{"type": "item_reference", "id": "msg_x"}]},
        "item_not_found",
        "input",
    ),
    ({"type": "response.cancel", "response_id": "resp_abc"}, "response_not_found", "response_id"),
    ({"type": "response.cancel"}, "missing_required_parameter", "response_id"),
]


def test_errors_are_typed_and_leave_the_connection_open(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=5") as core, bare(core) as one:
            for message, code, param in ERRORS:
                await one.send(message)
                error = await one.recv()
                assert set(error) == {"type", "status", "error"}, error
                assert error["type"] == "error"
                assert 400 <= error["status"] < 500
                told = error["error"]
                assert (told["code"], told["param"]) == (code, param), told
                assert told["type"] == "invalid_request_error"
                assert told["message"]
            await one.create(stream_id="s", input=[])
            assert (await one.recv())["stream_id"] == "s"
            await one.send({"type": "response.processed", "response_id": "resp_x"})
            await one.create(
                input=None, instructions="Say something.", tools=None, store=None, stream_id=None
            )
            assert (await one.end())["response"]["status"] == "completed"

    run(test())


def test_the_package_reads_our_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=5") as core, dialled(core) as connection:
            await connection.send_raw("{")
            event: Any = await connection.recv()
            assert (event.type, event.status, event.error.code) == ("error", 400, "invalid_json")
            await connection.response.steer(previous_response_id="resp_x", input="stop")
            event = await connection.recv()
            assert (event.type, event.error.code) == ("response.steer.failed", "steering_not_supported")
            assert event.steer.previous_response_id == "resp_x"
            response, _ = await turn(connection)
            assert response.status == "completed"

    run(test())


def test_the_limit_of_lanes(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core, bare(core) as one:
            for number in range(MAX_NAMED + 1):
                await one.create(stream_id=f"s{number}")
            ends = [await one.until("error", *TERMINALS) for _ in range(MAX_NAMED + 1)]
            (error,) = [event for event in ends if event["type"] == "error"]
            assert (error["error"]["code"], error["status"]) == ("websocket_stream_limit_reached", 400)
            assert {event["stream_id"] for event in ends if event is not error} == {
                f"s{number}" for number in range(MAX_NAMED)
            }

    run(test())


def test_a_prompt_that_is_too_long_fails_and_the_next_one_works(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:ctx=256") as core, dialled(core) as connection:
            response, _ = await turn(connection, input="far too long " * 200)
            assert response.status == "failed"
            assert response.error is not None
            assert str(response.error.code) == "context_length_exceeded"
            assert (await turn(connection))[0].status in ("completed", "incomplete")

    run(test())


def test_prewarming_computes_the_prompt(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=5,prefill_ms=0.5") as core, dialled(core) as connection:
            long = "A long list of rules. " * 40
            warm, events = await turn(connection, instructions=long, input="hi", generate=False)
            assert [event.type for event in events] == [
                "response.created",
                "response.in_progress",
                "response.completed",
            ]
            assert warm.output == []
            assert warm.usage is not None
            assert warm.usage.input_tokens > 100
            assert warm.usage.output_tokens == 0
            told, _ = await turn(connection, instructions=long, input="go on", previous_response_id=warm.id)
            assert told.usage is not None
            assert told.usage.input_tokens_details.cached_tokens > 0.8 * warm.usage.input_tokens
            empty, _ = await turn(connection, input=None, generate=False)
            assert (empty.status, empty.output) == ("completed", [])
            assert (await turn(connection, previous_response_id=empty.id))[0].status == "completed"

    run(test())


def test_cancelling(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, dialled(core) as connection, bare(core) as other:
            await connection.response.create(input="hi")
            created: Any = await connection.recv()
            while (await connection.recv()).type != "response.output_text.delta":
                pass
            # from another connection of the same token, too
            await other.send({"type": "response.cancel", "response_id": created.response.id})
            while (event := await connection.recv()).type not in TERMINALS:
                pass
            assert event.type == "response.incomplete"
            assert event.response.status == "cancelled"
            assert event.response.output_text
            await connection.response.create(input="on", previous_response_id=created.response.id)
            assert (await connection.recv()).type == "response.created"
            await connection.send_raw(
                json.dumps(
                    {"type": "response.steer", "previous_response_id": created.response.id, "input": "x"}
                )
            )
            while (await connection.recv()).type != "response.steer.failed":
                pass
        assert running(core) == 0

    run(test())


@pytest.mark.parametrize("how", ["close", "abort", "half", "silence"])
def test_whoever_goes_takes_along_what_runs_and_waits(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "silence":
        monkeypatch.setattr(responses, "PING_INTERVAL_S", 0.5)
        monkeypatch.setattr(responses, "PING_TIMEOUT_S", 3.0)

    async def test() -> None:
        async with app(tmp_path, f"{ENDLESS},slots=2") as core, bare(core) as one:
            for number in range(6):
                await one.create(stream_id=f"s{number % 3}")
            await eventually(lambda: running(core) == 3)
            if how == "abort":
                one.connection.transport.abort()
            elif how == "half":
                sock = one.connection.transport.get_extra_info("socket")
                sock.shutdown(socket.SHUT_WR)
            elif how == "silence":
                one.connection.transport.pause_reading()
            else:
                await one.connection.close()
            await eventually(lambda: running(core) == 0)
            await eventually(lambda: not core.clients._connected)
            assert not core._server.routes.hub.running
            one.connection.transport.abort()

    run(test())


def test_who_goes_before_its_request_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = asyncio.Event()

    async def slowly(service: object, wanted: object) -> str:
        looking.set()
        await asyncio.sleep(0.5)
        return "fake"

    monkeypatch.setattr(hub, "answering", slowly)

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, client(core) as wire:
            await wire.command("subscribe")
            async with bare(core) as one:
                await one.create()
                await looking.wait()
            assert (await wire.event("generation.finished"))["finish_reason"] == "cancelled"
            assert not core._server.routes.hub.running

    run(test())


def test_many_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients do, at the end nothing runs, nobody is connected and nothing is held."""
    monkeypatch.setattr(handshake, "FIRST_HEAD_S", 60.0)

    async def visit(core: Core, chance: random.Random) -> None:
        async with bare(core) as one:
            for _ in range(chance.randint(1, 8)):
                lane = chance.choice((None, "a", "b"))
                match chance.randint(0, 5):
                    case 0 | 1 | 2:
                        await one.create(stream_id=lane, store=chance.random() < 0.5)
                    case 3:
                        await one.send(chance.choice(("{", "[]", {"type": "response.sing"}, "x" * 70_000)))
                    case 4:
                        created = await one.until("response.created", "error")
                        if created["type"] == "response.created":
                            response_id = created["response"]["id"]
                            await one.send({"type": "response.cancel", "response_id": response_id})
                    case 5:
                        await one.create(stream_id=lane, generate=False)
                await asyncio.sleep(chance.random() * 0.05)
            if chance.random() < 0.5:
                one.connection.transport.abort()

    async def guarded(core: Core, seed: int) -> None:
        with contextlib.suppress(websockets.ConnectionClosed, TimeoutError):
            async with asyncio.timeout(3):
                await visit(core, random.Random(seed))

    async def test() -> None:
        async with app(tmp_path, "fake:tokens=40,delay_ms=1,slots=4") as core:
            await asyncio.gather(*(guarded(core, seed) for seed in range(40)))
            await eventually(lambda: running(core) == 0)
            await eventually(lambda: not core.clients._connected)
            await eventually(lambda: not core._server.routes.hub.running)
            async with bare(core) as one:
                await one.create()
                assert (await one.end())["response"]["status"] == "completed"

    run(test())


def test_a_disk_that_takes_nothing_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, stored: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(ResponseTable, "put", fail)

    async def test() -> None:
        async with app(tmp_path, "fake:echo=1") as core, bare(core) as one:
            await one.create(input="first")
            first = (await one.end())["response"]
            await one.create(input="second", previous_response_id=first["id"])
            second = (await one.end())["response"]
            assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]

    run(test())


def test_a_close_frame_counts_even_while_nothing_is_read(tmp_path: Path) -> None:
    """The package closes so with an unread backlog: it sends the frame, and reads no more."""

    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(core.base_url.split(":")[2][:-3]))
            host = core.base_url.removeprefix("http://").removesuffix("/v1")
            head = (
                f"GET /v1/responses HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            )
            head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            writer.write(f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
            assert b"101" in await reader.readuntil(b"\r\n\r\n")
            body = b'{"type":"response.create","input":"hi"}'
            writer.write(bytes((0x81, 0x80 | len(body), 0, 0, 0, 0)) + body)
            await eventually(lambda: running(core) == 1)
            writer.write(bytes((0x88, 0x82, 0, 0, 0, 0)) + b"\x03\xe8")
            await eventually(lambda: running(core) == 0)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(test())


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=8000,ctx=16384,delay_ms=0.2") as core, client(core) as wire:
            await wire.command("subscribe", events=["client.*"])
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
                sock.connect(("127.0.0.1", int(core.url.split(":")[2].split("/")[0])))
                async with bare(core, sock=sock, max_queue=1) as one:
                    one.connection.transport.pause_reading()
                    for number in range(4):
                        await one.create(stream_id=f"s{number}")
                    gone = await wire.event("client.disconnected")
                    assert gone["reason"] == "slow"
                    await eventually(lambda: running(core) == 0)
                    one.connection.transport.abort()

    run(test(), limit_s=100)


def test_large_messages(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3,ctx=4096") as core:
            async with bare(core) as one:
                await one.create(input="x" * (3 << 20))
                assert (await one.end())["response"]["error"]["code"] == "context_length_exceeded"
                await one.create(metadata={"n": "after"})
                assert (await one.end())["response"]["status"] == "completed"
            # the library's own error, where a close cuts a large write short
            with contextlib.suppress(AttributeError):
                async with bare(core) as one:
                    await one.create(input="x" * (17 << 20))
                    with pytest.raises(websockets.ConnectionClosed):
                        await one.end()
            assert one.connection.close_code == 1009
            async with bare(core) as one:
                await one.send(b"{}")
                with pytest.raises(websockets.ConnectionClosed):
                    await one.recv()
                assert one.connection.close_code == 1003

    run(test())


def test_hands_of_others_do_not_break_the_stream(tmp_path: Path) -> None:
    async def test() -> None:
        slow = "fake:tokens=300,delay_ms=10"
        async with app(tmp_path, slow) as core, client(core) as wire, dialled(core) as connection:
            await wire.command("subscribe")
            await connection.response.create(input="hi")
            queued = await wire.event("generation.queued")
            generation_id = queued["generation_id"]
            await wire.event("generation.delta", generation_id=generation_id)
            await wire.command("pause", generation_id=generation_id)
            await wire.event("generation.paused")
            await wire.command("rewind", generation_id=generation_id, tokens=1)
            await wire.command("inject", generation_id=generation_id, text=" Tokenglass ")
            await wire.command("fork", generation_id=generation_id, at_token=0, on_disconnect="cancel")
            await wire.command("resume", generation_id=generation_id)
            response, events = await follow(connection)
            assert response.status == "completed"
            finished = await wire.finished(generation_id)
            assert response.output_text == finished["text"]
            assert " Tokenglass " in response.output_text
            (done,) = [event for event in events if event.type == "response.output_text.done"]
            assert done.text == finished["text"]

    run(test())


@pytest.mark.usefixtures("unhurried")
def test_quitting_says_going_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with app(tmp_path, ENDLESS) as core:
                one = await stack.enter_async_context(bare(core))
                await one.create()
                await one.until("response.in_progress")
            assert (await one.end())["response"]["status"] == "failed"
            with pytest.raises(websockets.ConnectionClosed):
                await one.recv()
            assert one.connection.close_code == 1001

    run(test())


def test_who_may_connect(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=1") as core:
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with bare(core, "wrong"):
                    pass
            assert caught.value.response.status_code == 401
            assert "error" in json.loads(caught.value.response.body or b"")
            url = core.url.replace("/v1/live", "/v1/responses")
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with connect(f"{url}?token={TOKEN}", origin="http://evil.example", proxy=None):  # type: ignore[arg-type]
                    pass
            assert caught.value.response.status_code == 403
            async with connect(f"{url}?token={TOKEN}", proxy=None) as connection:
                one = Bare(connection)
                await one.create()
                assert (await one.end())["response"]["status"] == "completed"

    run(test())


def test_the_transcript_of_the_documents(tmp_path: Path) -> None:
    """What PROTOCOL.md shows being sent is answered as it shows, but for what stands for an ellipsis."""
    text = (Path(__file__).resolve().parents[2] / "api" / "PROTOCOL.md").read_text(encoding="utf-8")
    section = text[text.index("## OpenAI's Responses API") :]
    lines = section.partition("```text\n")[2].partition("```")[0].splitlines()

    async def test() -> None:
        async with app(tmp_path, "fake:script=Hi.") as core, bare(core) as one:
            for line in lines:
                direction, _, shown = line.partition(" ")
                if direction == "→":
                    await one.send(shown)
                    continue
                got = json.dumps(await one.recv(), separators=(",", ":"), ensure_ascii=False)
                pattern = ".*".join(re.escape(piece) for piece in re.split(r",?…,?", shown))
                assert re.fullmatch(pattern, got), f"{shown}\n{got}"

    run(test())


def test_what_a_token_may_do(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, ENDLESS) as core, bare(core) as owner:
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with bare(core, made(core, "eye", "observe")):
                    pass
            assert caught.value.response.status_code == 403
            token = made(core, "pen", "generate", "observe")
            async with bare(core, token) as one:
                await owner.create()
                response_id = (await owner.until("response.created"))["response"]["id"]
                await one.send({"type": "response.cancel", "response_id": response_id})
                assert (await one.recv())["error"]["code"] == "forbidden"
                await one.create()
                response_id = (await one.until("response.created"))["response"]["id"]
                await one.send({"type": "response.cancel", "response_id": response_id})
                assert (await one.end())["response"]["status"] == "cancelled"
                await one.create()
                await one.until("response.in_progress")
                TokenFile(core.paths.tokens_file).revoke("pen")
                with pytest.raises(websockets.ConnectionClosed):
                    await one.end()
                assert one.connection.close_code == 1008
            await eventually(lambda: running(core) == 1)
            owner.connection.transport.abort()  # it would wait for an answer behind what it hasn't read
            await eventually(lambda: running(core) == 0)

    run(test())
