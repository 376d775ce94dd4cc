"""openai-agents, as its documentation shows it; over chat completions."""

from __future__ import annotations

import time
from typing import Any, Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIProvider,
    RunConfig,
    Runner,
    function_tool,
    set_default_openai_api,
    set_tracing_disabled,
)
from pydantic import BaseModel

from tests.e2e.sdks.report import KEY, LONG, MODEL, STARTER_URL, WebSockets, feature, hermes, main, spun_out

set_tracing_disabled(True)  # it would tell OpenAI about every run
set_default_openai_api("chat_completions")
STARTER = RunConfig(model_provider=OpenAIProvider(base_url=STARTER_URL, api_key=KEY, use_responses=False))
asked: list[str] = []


@function_tool  # type: ignore[untyped-decorator]  # it lies outside the environment
def clock(zone: Literal["UTC", "CET"]) -> str:
    """The time of day."""
    asked.append(zone)
    return f"12:00 {zone}"


class Person(BaseModel):
    """Somebody."""

    name: Literal["Ada", "Bo"]
    age: Literal[7, 8]


def agent(**options: Any) -> Any:
    return Agent(name="Assistant", model=MODEL, **options)


@feature("text")
async def text() -> str:
    result = await Runner.run(agent(instructions="Be brief."), "Hello, you!")
    assert result.final_output == "Hello, you!"
    return "Runner.run"


@feature("streaming")
async def streaming() -> str:
    result = Runner.run_streamed(agent(), "one two three four five")
    parts = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(parts) == result.final_output == "one two three four five"
    return f"{len(parts)} deltas"


@feature("usage")
async def usage() -> str:
    told = (await Runner.run(agent(), "count me")).context_wrapper.usage
    assert told.total_tokens == told.input_tokens + told.output_tokens > 0
    return f"{told.input_tokens} + {told.output_tokens}"


@feature("tool loop")
async def tool_loop() -> str:
    asked.clear()
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, max_tokens=60, temperature=0)
    worker = agent(tools=[clock], model_settings=settings)
    result = await Runner.run(worker, "What time is it?", run_config=STARTER)
    kinds = [item.type for item in result.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]
    assert len(asked) >= 1
    assert "message_output_item" in kinds
    return f"clock({asked[0]}), then an answer"


@feature("streamed tools")
async def streamed_tools() -> str:
    asked.clear()
    said = spun_out(hermes(("clock", {"zone": "UTC"}), ("clock", {"zone": "CET"})), "zone")
    first = agent(tools=[clock], tool_use_behavior="stop_on_first_tool")
    result = Runner.run_streamed(first, said)
    n_parts = 0
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            n_parts += event.data.type == "response.function_call_arguments.delta"
    assert asked == ["UTC", "CET"]
    assert n_parts > 2
    return f"2 calls in {n_parts} parts"


@feature("structured output")
async def structured() -> str:
    settings = ModelSettings(max_tokens=80)
    who = agent(output_type=Person, model_settings=settings)
    result = await Runner.run(who, "Who is it?", run_config=STARTER)
    assert isinstance(result.final_output, Person)
    return f"output_type: {result.final_output}"


@feature("cancel by closing")
async def cancel() -> str:
    result = Runner.run_streamed(agent(), "word " * 2000)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            result.cancel()
    start = time.monotonic()
    assert (await Runner.run(agent(), "next")).final_output == "next"
    return f"next answer after {1000 * (time.monotonic() - start):.0f} ms"


@feature("errors")
async def errors() -> str:
    wrong = RunConfig(model_provider=OpenAIProvider(api_key="wrong", use_responses=False))
    for options, settings, kind in (
        ({"run_config": wrong}, ModelSettings(), openai.AuthenticationError),
        ({}, ModelSettings(temperature=99), openai.BadRequestError),
    ):
        try:
            await Runner.run(agent(model_settings=settings), "x", **options)
        except kind:
            pass
        else:
            raise AssertionError(f"no {kind.__name__}")
    return "401, 400"


async def over_responses(websocket: bool) -> str:
    """The same over the Responses API: text, a stream, a loop with a function."""
    options: dict[str, Any] = {"api_key": KEY, "use_responses": True, "use_responses_websocket": websocket}
    here, there = OpenAIProvider(**options), OpenAIProvider(base_url=STARTER_URL, **options)
    try:
        config = RunConfig(model_provider=here)
        assert (await Runner.run(agent(), "Hello, you!", run_config=config)).final_output == "Hello, you!"
        result = Runner.run_streamed(agent(), LONG, run_config=config)
        kinds = [
            event.data.type async for event in result.stream_events() if event.type == "raw_response_event"
        ]
        assert result.final_output == LONG
        assert kinds.count("response.output_text.delta") > 1
        asked.clear()
        settings = ModelSettings(
            tool_choice="required", parallel_tool_calls=False, max_tokens=60, temperature=0
        )
        worker = agent(tools=[clock], model_settings=settings)
        looped = await Runner.run(worker, "What time is it?", run_config=RunConfig(model_provider=there))
        assert asked
        who = agent(output_type=Person, model_settings=ModelSettings(max_tokens=80))
        found = await Runner.run(who, "Who is it?", run_config=RunConfig(model_provider=there))
        assert isinstance(found.final_output, Person)
        n_tokens = looped.context_wrapper.usage.total_tokens
        assert n_tokens > 0
    finally:
        await here.aclose()
        await there.aclose()
    return (
        f"text, {kinds.count('response.output_text.delta')} deltas, clock({asked[0]}), {found.final_output}"
    )


@feature("responses")
async def responses() -> str:
    return await over_responses(websocket=False)


@feature("responses websocket")
async def responses_websocket() -> str:
    sockets = WebSockets()
    told = await over_responses(websocket=True)
    assert sockets.opened >= 2
    return f"{told}; {sockets.opened} connections"


if __name__ == "__main__":
    main()
