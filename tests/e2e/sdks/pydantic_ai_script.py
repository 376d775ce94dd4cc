"""pydantic-ai, as its documentation shows it for compatible servers."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings

from tests.e2e.sdks.report import ECHO_URL, KEY, MODEL, STARTER_URL, WebSockets, feature, hermes, main


def model(base_url: str, key: str = KEY, name: str = MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(
        name, provider=OpenAICompatibleProvider("tokenglass", base_url=base_url, api_key=key)
    )


class Person(BaseModel):
    """Somebody."""

    name: Literal["Ada", "Bo"]
    age: Literal[7, 8]


@feature("text")
async def text() -> str:
    result = await Agent(model(ECHO_URL)).run("Hello, you!")
    assert result.output == "Hello, you!"
    return "run"


@feature("streaming")
async def streaming() -> str:
    async with Agent(model(ECHO_URL)).run_stream("one two three four five") as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(parts) == "one two three four five"
    return f"{len(parts)} parts"


@feature("usage")
async def usage() -> str:
    told = (await Agent(model(ECHO_URL)).run("count me")).usage
    assert told.input_tokens > 0
    assert told.output_tokens > 0
    return f"{told.input_tokens} + {told.output_tokens}"


@feature("tool loop")
async def tool_loop() -> str:
    agent: Any = Agent(
        model(STARTER_URL),
        output_type=ToolOutput(Person),
        model_settings=ModelSettings(max_tokens=80, parallel_tool_calls=False),
    )
    asked: list[str] = []

    async def once(_context: Any, tool: Any) -> Any:
        return None if asked else tool

    @agent.tool_plain(prepare=once)  # type: ignore[untyped-decorator]  # of an agent of any type
    def clock(zone: Literal["UTC", "CET"]) -> str:
        """The time of day."""
        asked.append(zone)
        return f"12:00 {zone}"

    result = await agent.run("What time is it? Then say who you are.")
    assert isinstance(result.output, Person)
    return f"{len(asked)} calls of clock, then {result.output}"


@feature("streamed tools")
async def streamed_tools() -> str:
    agent = Agent(model(ECHO_URL), output_type=ToolOutput(Person, name="person"))
    said = hermes(("person", {"name": "Bo", "age": 7}))
    async with agent.run_stream(said) as stream:
        seen = [one async for one in stream.stream_output(debounce_by=None)]
    assert seen[-1] == Person(name="Bo", age=7)
    return f"{len(seen)} partial outputs"


@feature("structured output")
async def structured() -> str:
    agent = Agent(
        model(STARTER_URL), output_type=NativeOutput(Person), model_settings=ModelSettings(max_tokens=80)
    )
    result = await agent.run("Who is it?")
    assert isinstance(result.output, Person)
    return f"native: {result.output}"


@feature("cancel by closing")
async def cancel() -> str:
    agent = Agent(model(ECHO_URL))
    async with agent.run_stream("word " * 2000) as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            break
        await stream.cancel()
    start = time.monotonic()
    assert (await agent.run("next")).output == "next"
    return f"next answer after {1000 * (time.monotonic() - start):.0f} ms"


@feature("errors")
async def errors() -> str:
    for made, settings, status in (
        (model(ECHO_URL, key="wrong"), ModelSettings(), 401),
        (model(ECHO_URL), ModelSettings(temperature=99), 400),
        (model(ECHO_URL, name="starter"), ModelSettings(), 404),
    ):
        try:
            await Agent(made, model_settings=settings).run("x")
        except ModelHTTPError as error:
            seen = error.status_code
        else:
            seen = 200
        assert seen == status
    return "401, 400, 404"


async def over_responses(settings: OpenAIResponsesModelSettings) -> str:
    """The same over the Responses API: text, a stream, a call, an answer in a given form."""
    here, there = (
        OpenAIResponsesModel(
            MODEL,
            provider=OpenAICompatibleProvider("tokenglass", base_url=base_url, api_key=KEY),
            settings=settings,
        )
        for base_url in (ECHO_URL, STARTER_URL)
    )
    assert (await Agent(here).run("Hello, you!")).output == "Hello, you!"
    async with Agent(here).run_stream("one two three") as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(parts) == "one two three"
    told = [
        (await Agent(there, output_type=form).run("Who is it?")).output
        for form in (ToolOutput(Person), NativeOutput(Person))
    ]
    assert all(isinstance(one, Person) for one in told)
    return f"text, {len(parts)} parts, as a call {told[0]}, native {told[1]}"


@feature("responses")
async def responses() -> str:
    return await over_responses(OpenAIResponsesModelSettings())


@feature("responses websocket")
async def responses_websocket() -> str:
    sockets = WebSockets()
    told = await over_responses(OpenAIResponsesModelSettings(openai_transport="websocket"))
    assert sockets.opened >= 2
    return f"{told}; {sockets.opened} connections"


if __name__ == "__main__":
    main()
