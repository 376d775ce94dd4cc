"""The openai package, as its README shows it; address and key come from the environment."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Literal

import httpx2
import openai
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.e2e.sdks.report import EMBEDDING_URL, KEY, MODEL, STARTER_URL, feature, hermes, main, spun_out


class Person(BaseModel):
    """Somebody."""

    name: Literal["Ada", "Bo"]
    age: Literal[7, 8]


class Clock(BaseModel):
    """The time of day."""

    zone: Literal["UTC", "CET"]


CLOCK = pydantic_function_tool(Clock, name="clock")


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


@feature("text")
async def text() -> str:
    async with AsyncOpenAI() as api:
        answer = await api.chat.completions.create(model=MODEL, messages=said("Hello, you!"))
        assert answer.choices[0].message.content == "Hello, you!"
        old = await api.completions.create(model=MODEL, prompt="Once upon a time")
        assert old.choices[0].text == "Once upon a time"
    with OpenAI() as sync:
        assert sync.chat.completions.create(model=MODEL, messages=said("and in sync")).choices
    return "chat, completions; async, sync"


@feature("streaming")
async def streaming() -> str:
    async with AsyncOpenAI() as api:
        stream = await api.chat.completions.create(model=MODEL, messages=said("one two three"), stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == "one two three"
        async with api.chat.completions.stream(model=MODEL, messages=said("one two three")) as helper:
            kinds = {event.type async for event in helper}
            final = await helper.get_final_completion()
        assert final.choices[0].message.content == "one two three"
        assert {"chunk", "content.delta", "content.done"} <= kinds
    return f"{len(parts)} chunks; stream() helper"


@feature("usage")
async def usage() -> str:
    async with AsyncOpenAI() as api:
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await api.chat.completions.create(model=MODEL, messages=said("count me"), **options)
        chunks = [chunk async for chunk in stream]
        told = chunks[-1].usage
        assert told is not None
        timings = (chunks[-1].model_extra or {})["timings"]
        assert timings["predicted_n"] == told.completion_tokens
    return f"{told.prompt_tokens} + {told.completion_tokens}, {timings['predicted_per_second']:.0f} tok/s"


@feature("tool loop")
async def tool_loop() -> str:
    messages = said("What time is it?")
    async with AsyncOpenAI(base_url=STARTER_URL, api_key=KEY) as api:
        ask: Any = api.chat.completions.create
        answer = await ask(
            model=MODEL, messages=messages, tools=[CLOCK], tool_choice="required", temperature=0
        )
        message = answer.choices[0].message
        for call in message.tool_calls:
            Clock.model_validate_json(call.function.arguments)
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "12:00"} for call in message.tool_calls
        ]
        last = await ask(
            model=MODEL, messages=[*messages, message, *results], tools=[CLOCK], max_tokens=40, temperature=0
        )
        assert last.choices[0].message.content or last.choices[0].message.tool_calls
    return f"{len(results)} calls, then: {last.choices[0].message.content!r:.30}"


@feature("streamed tools")
async def streamed_tools() -> str:
    calls = hermes(("clock", {"zone": "UTC"}), ("clock", {"zone": "CET"}))
    async with AsyncOpenAI() as api:
        stream = await api.chat.completions.create(
            model=MODEL, messages=said(spun_out(calls, "zone")), tools=[CLOCK], stream=True
        )
        parts = [
            call
            async for chunk in stream
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
        ]
        for place, zone in enumerate(("UTC", "CET")):
            written = [part.function.arguments for part in parts if part.index == place and part.function]
            assert json.loads("".join(one or "" for one in written)) == {"zone": zone}
            assert len(written) > 1
        only = await api.chat.completions.create(
            model=MODEL, messages=said(calls), tools=[CLOCK], parallel_tool_calls=False
        )
        assert len(only.choices[0].message.tool_calls or ()) == 1
        async with api.chat.completions.stream(model=MODEL, messages=said(calls), tools=[CLOCK]) as helper:
            final = await helper.get_final_completion()
        parsed = [call.function.parsed_arguments for call in final.choices[0].message.tool_calls or ()]
        assert parsed == [Clock(zone="UTC"), Clock(zone="CET")]
    return f"2 calls in {len(parts)} parts; parsed by stream(); parallel_tool_calls=False"


@feature("structured output")
async def structured() -> str:
    async with AsyncOpenAI(base_url=STARTER_URL, api_key=KEY) as api:
        answer = await api.chat.completions.parse(
            model=MODEL, messages=said("Who is it?"), response_format=Person
        )
        assert isinstance(answer.choices[0].message.parsed, Person)
        async with api.chat.completions.stream(
            model=MODEL, messages=said("Who is it?"), response_format=Person
        ) as helper:
            final = await helper.get_final_completion()
        assert isinstance(final.choices[0].message.parsed, Person)
    return f"parse(), stream(): {answer.choices[0].message.parsed}"


@feature("embeddings")
async def embeddings() -> str:
    async with AsyncOpenAI(base_url=EMBEDDING_URL, api_key=KEY) as api:
        made = await api.embeddings.create(model=MODEL, input=["one", "two"])
        assert made.data[0].embedding != made.data[1].embedding
    return f"{len(made.data[0].embedding)} numbers, base64"


@feature("logprobs")
async def logprobs() -> str:
    async with AsyncOpenAI(base_url=STARTER_URL, api_key=KEY) as api:
        answer = await api.chat.completions.create(
            model=MODEL, messages=said("Hi"), logprobs=True, top_logprobs=5, max_tokens=8
        )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    for token in told.content:
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert sum(2.718281828**logprob for logprob in tops) <= 1.0001
        assert token.logprob <= tops[0]
    return f"{len(told.content)} tokens, 5 alternatives each"


@feature("batch")
async def batch() -> str:
    async with AsyncOpenAI() as api:

        async def ask(number: int) -> None:
            answer = await api.chat.completions.create(model=MODEL, messages=said(f"question {number}"))
            assert answer.choices[0].message.content == f"question {number}"

        await asyncio.gather(*(ask(number) for number in range(20)))
    return "20 at once"


@feature("cancel by closing")
async def cancel() -> str:
    async with AsyncOpenAI() as api:
        for _ in range(8):  # twice as many as there are slots: each must be free again
            stream = await api.chat.completions.create(
                model=MODEL, messages=said("word " * 2000), stream=True
            )
            async for _ in stream:
                break
            await stream.close()
        start = time.monotonic()
        answer = await api.chat.completions.create(model=MODEL, messages=said("next"))
        assert answer.choices[0].message.content == "next"
    return f"next answer after {1000 * (time.monotonic() - start):.0f} ms"


@feature("errors")
async def errors() -> str:
    n_requests = 0

    async def count(_request: Any) -> None:
        nonlocal n_requests
        n_requests += 1

    cases: tuple[tuple[dict[str, Any], dict[str, Any], type[Exception]], ...] = (
        ({"api_key": "wrong"}, {}, openai.AuthenticationError),
        ({}, {"temperature": 99}, openai.BadRequestError),
        ({}, {"model": "starter"}, openai.NotFoundError),
        ({}, {"messages": said("far too long " * 20_000)}, openai.BadRequestError),
        ({"timeout": 0.5, "max_retries": 0}, {"messages": said("word " * 2000)}, openai.APITimeoutError),
    )
    for options, arguments, kind in cases:
        n_requests = 0
        http = httpx2.AsyncClient(event_hooks={"request": [count]})
        async with AsyncOpenAI(**options, http_client=http) as api:
            try:
                await api.chat.completions.create(**({"model": MODEL, "messages": said("x")} | arguments))
            except kind:
                pass
            else:
                raise AssertionError(f"no {kind.__name__}")
        assert n_requests == 1, (kind, n_requests)
    return "401, 400, 404, too long, timeout: each asked once"


if __name__ == "__main__":
    main()
