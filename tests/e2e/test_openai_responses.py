"""Unmodified scripts of OpenAI's package against `tokenglass serve`, also over its death and its engine's."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from openai import AsyncOpenAI
from openai.lib.responses_websocket import ResponsesWebSocketAccumulator

from tests.e2e.harness import LASTING, LIMIT_S, Serve, eventually, program, quiet_port, serve

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter" / "starter.gguf")
TERMINALS = ("response.completed", "response.incomplete", "response.failed")

SCRIPT = """
import sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key=sys.argv[2])
with client.responses.connect() as connection:
    previous = None
    for question in ("What is a token?", "And a KV cache?"):
        connection.response.create(
            model="gpt-4o", input=question, previous_response_id=previous, temperature=0, max_output_tokens=40
        )
        for event in connection:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type in ("response.completed", "response.incomplete"):
                previous = event.response.id
                print(f"\\n[{event.response.status} {event.response.usage.output_tokens}]")
                break
"""


def user(app: Serve) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=app.ready["base_url"], api_key=app.token, max_retries=0)


async def answer(connection: Any, **fields: Any) -> Any:
    await connection.response.create(model="x", **fields)
    accumulator = ResponsesWebSocketAccumulator()
    while True:
        event = await connection.recv()
        accumulator.add_event(event)
        if event.type in TERMINALS:
            return accumulator.get_final_response()


def test_a_script_of_a_user(tmp_path: Path) -> None:
    with serve(tmp_path, STARTER) as app:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, app.ready["base_url"], app.token],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
        assert len(lines) == 2, done.stdout
        assert len(done.stdout) > 80


def test_a_conversation_goes_on_after_kill_9(tmp_path: Path) -> None:
    async def begin(app: Serve) -> str:
        async with user(app) as api, api.responses.connect() as connection:
            first = await answer(connection, input="remember me")
            second = await answer(connection, input="and me", previous_response_id=first.id)
            return str(second.id)

    async def go_on(app: Serve, response_id: str) -> list[str]:
        async with user(app) as api, api.responses.connect() as connection:
            third = await answer(connection, input="still there", previous_response_id=response_id)
            page = await api.responses.input_items.list(third.id, order="asc")
            items: list[Any] = page.data
            return [item.content[0].text for item in items]

    with serve(tmp_path, "fake:echo=1") as app:
        response_id = asyncio.run(asyncio.wait_for(begin(app), LIMIT_S))
        app.signal(signal.SIGKILL)
        app.wait()
    with serve(tmp_path, "fake:echo=1") as app:
        texts = asyncio.run(asyncio.wait_for(go_on(app, response_id), LIMIT_S))
    assert texts == ["remember me", "remember me", "and me", "and me", "still there"]


def test_an_answer_outlives_its_engine(tmp_path: Path) -> None:
    """The worker is killed in mid-answer: the stream goes on in the next one, and nothing comes twice."""

    async def test(app: Serve) -> None:
        accumulator = ResponsesWebSocketAccumulator()
        deltas: list[str] = []
        async with user(app) as api, api.responses.connect() as connection:
            await connection.response.create(input="hi")
            async for event in connection:
                accumulator.add_event(event)
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
                    if len(deltas) == 20:
                        for child in psutil.Process(app.process.pid).children():
                            child.kill()
                elif event.type in TERMINALS:
                    break
        response = accumulator.get_final_response()
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.output_tokens == 300
        assert "".join(deltas) == response.output_text

    with serve(tmp_path, "fake:tokens=300,delay_ms=5") as app:
        asyncio.run(asyncio.wait_for(test(app), LIMIT_S))


def test_the_package_comes_back_by_itself_and_goes_on(tmp_path: Path) -> None:
    """Quitting closes with 1001, which makes it try again; the conversation is where it was."""
    token, port = "a-token-for-both-runs", str(quiet_port())
    codes: list[int] = []

    async def listen(connection: Any, ended: asyncio.Queue[Any]) -> None:
        async for event in connection:
            if event.type in TERMINALS:
                ended.put_nowait(event.response)

    async def test() -> None:
        ended: asyncio.Queue[Any] = asyncio.Queue()
        with serve(tmp_path, "fake:echo=1", "--token", token, "--port", port) as app:
            base_url = app.ready["base_url"]
            api = AsyncOpenAI(base_url=base_url, api_key=token)
            connection = await api.responses.connect(
                on_reconnecting=lambda event: codes.append(event.close_code), max_retries=1000, max_delay=1.0
            ).enter()
            listening = asyncio.create_task(listen(connection, ended))
            await connection.response.create(input="before")
            first = await ended.get()
            app.signal(signal.SIGTERM)
            await asyncio.to_thread(app.wait)
        await eventually(lambda: bool(codes))
        assert codes[0] == 1001
        # what is sent meanwhile goes out once it is back
        await connection.response.create(input="after", previous_response_id=first.id)
        with serve(tmp_path, "fake:echo=1", "--token", token, "--port", port):
            second = await ended.get()
            assert (second.output_text, second.previous_response_id) == ("after", first.id)
            assert second.usage.input_tokens > first.usage.input_tokens
            await connection.close()
            await listening
            await api.close()

    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_who_is_being_answered_hears_that_the_app_quits(tmp_path: Path) -> None:
    async def over_websocket(asks: AsyncOpenAI) -> Any:
        async with asks.responses.connect() as connection:
            return await answer(connection, input="go on")

    async def streamed(asks: AsyncOpenAI) -> Any:
        last = None
        async for event in await asks.responses.create(model="x", input="go on", stream=True):
            last = event
        assert last is not None
        assert last.type == "response.failed"
        return last.response

    async def test(app: Serve) -> None:
        async with user(app) as asks, app.client() as wire:
            answers = [asyncio.create_task(one(asks)) for one in (over_websocket, streamed)]
            while True:
                generations = (await wire.command("snapshot"))["generations"]
                if len(generations) == 2 and all(one["completion_tokens"] for one in generations):
                    break
                await asyncio.sleep(0.02)
            app.signal(signal.SIGTERM)
            for response in await asyncio.gather(*answers):
                assert response.status == "failed"
                assert "quitting" in response.error.message
        assert app.wait() == 0

    with serve(tmp_path, LASTING, program=program("server.LAST_WORDS_S = 30.0")) as app:
        asyncio.run(asyncio.wait_for(test(app), LIMIT_S))
