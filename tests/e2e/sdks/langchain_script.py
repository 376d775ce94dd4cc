"""langchain-openai, as its README shows it."""

from __future__ import annotations

import time
from typing import Any, Literal

import httpx2
import openai
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.e2e.sdks.report import EMBEDDING_URL, KEY, MODEL, STARTER_URL, feature, hermes, main, spun_out

echo = ChatOpenAI(model=MODEL)  # address and key come from the environment
starter = ChatOpenAI(
    model=MODEL, base_url=STARTER_URL, api_key=SecretStr(KEY), max_completion_tokens=60, temperature=0
)


@tool
def clock(zone: Literal["UTC", "CET"]) -> str:
    """The time of day."""
    return f"12:00 {zone}"


class Person(BaseModel):
    """Somebody."""

    name: Literal["Ada", "Bo"]
    age: Literal[7, 8]


@feature("text")
async def text() -> str:
    said = await echo.ainvoke("Hello, you!")
    assert said.content == "Hello, you!"
    assert said.response_metadata["finish_reason"] == "stop"
    assert echo.invoke([HumanMessage("and in sync")]).content == "and in sync"
    return "ainvoke, invoke"


@feature("streaming")
async def streaming() -> str:
    chunks = [chunk async for chunk in echo.astream("one two three four five")]
    assert "".join(str(chunk.content) for chunk in chunks) == "one two three four five"
    return f"{len(chunks)} chunks"


@feature("usage")
async def usage() -> str:
    told = (await echo.ainvoke("count me")).usage_metadata
    assert told is not None
    assert told["total_tokens"] == told["input_tokens"] + told["output_tokens"]
    whole: AIMessageChunk | None = None
    async for chunk in ChatOpenAI(model=MODEL, stream_usage=True).astream("count me"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == told["output_tokens"]
    return f"{told['input_tokens']} + {told['output_tokens']}, streamed too"


@feature("tool loop")
async def tool_loop() -> str:
    messages: list[Any] = [HumanMessage("What time is it?")]
    said = await starter.bind_tools([clock], tool_choice="any", parallel_tool_calls=False).ainvoke(messages)
    assert isinstance(said, AIMessage)
    (call,) = said.tool_calls
    result = await clock.ainvoke(call)
    assert isinstance(result, ToolMessage)
    answer = await starter.bind_tools([clock]).ainvoke([*messages, said, result])
    assert answer.content or answer.tool_calls
    return f"{call['name']}({call['args']['zone']}) -> {result.content}"


@feature("streamed tools")
async def streamed_tools() -> str:
    calls = hermes(("clock", {"zone": "UTC"}), ("clock", {"zone": "CET"}))
    whole: AIMessageChunk | None = None
    n_parts = 0
    async for chunk in echo.bind_tools([clock]).astream(spun_out(calls, "zone")):
        assert isinstance(chunk, AIMessageChunk)
        n_parts += len(chunk.tool_call_chunks)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert [call["args"] for call in whole.tool_calls] == [{"zone": "UTC"}, {"zone": "CET"}]
    assert n_parts > 2
    return f"2 calls in {n_parts} parts"


@feature("structured output")
async def structured() -> str:
    methods: tuple[Literal["json_schema", "function_calling"], ...] = ("json_schema", "function_calling")
    people = [
        await starter.with_structured_output(Person, method=one).ainvoke("Who is it?") for one in methods
    ]
    assert all(isinstance(person, Person) for person in people)
    return f"json_schema, function_calling: {people[0]}"


@feature("embeddings")
async def embeddings() -> str:
    options: Any = {"base_url": EMBEDDING_URL, "api_key": KEY, "check_embedding_ctx_length": False}
    made = OpenAIEmbeddings(model=MODEL, **options)
    one, two = await made.aembed_documents(["one", "two"])
    assert one != two
    assert await made.aembed_query("one") == one
    return f"{len(one)} numbers; check_embedding_ctx_length=False"


@feature("logprobs")
async def logprobs() -> str:
    said = await echo.bind(logprobs=True, top_logprobs=2).ainvoke("so sure")
    told = said.response_metadata["logprobs"]["content"]
    assert "".join(one["token"] for one in told) == "so sure"
    return f"{len(told)} tokens"


@feature("batch")
async def batch() -> str:
    asked = [f"question {n}" for n in range(8)]
    assert [said.content for said in await echo.abatch(list(asked))] == asked
    return "8 at once"


@feature("cancel by closing")
async def cancel() -> str:
    words = "word " * 2000
    stream = echo.astream(words)
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    start = time.monotonic()
    assert (await echo.ainvoke("next")).content == "next"
    return f"next answer after {1000 * (time.monotonic() - start):.0f} ms"


@feature("errors")
async def errors() -> str:
    n_requests = 0

    async def count(_request: Any) -> None:
        nonlocal n_requests
        n_requests += 1

    for options, kind in (
        ({"api_key": SecretStr("wrong")}, openai.AuthenticationError),
        ({"temperature": 99.0}, openai.BadRequestError),
        ({"model": "starter"}, openai.NotFoundError),
    ):
        n_requests = 0
        async with httpx2.AsyncClient(event_hooks={"request": [count]}) as http:
            try:
                await ChatOpenAI(**({"model": MODEL, "http_async_client": http} | options)).ainvoke("x")
            except kind:
                pass
            else:
                raise AssertionError(f"no {kind.__name__}")
        assert n_requests == 1, (kind, n_requests)
    return "401, 400, 404: each asked once"


@feature("responses")
async def responses() -> str:
    api = ChatOpenAI(model=MODEL, use_responses_api=True)
    said = await api.ainvoke("Hello, you!")
    assert said.text == "Hello, you!"
    parts = [chunk.text async for chunk in api.astream("one two three")]
    assert "".join(parts) == "one two three"
    assert said.usage_metadata is not None
    options: Any = {"base_url": STARTER_URL, "api_key": KEY, "max_completion_tokens": 80}
    there = ChatOpenAI(model=MODEL, use_responses_api=True, **options)
    called = await there.bind_tools([clock], tool_choice="any").ainvoke("What time is it?")
    assert isinstance(called, AIMessage)
    assert called.tool_calls[0]["name"] == "clock"
    person = await there.with_structured_output(Person, method="json_schema").ainvoke("Who is it?")
    assert isinstance(person, Person)
    return f"text, {len(parts)} chunks, a call, {person}"


if __name__ == "__main__":
    main()
