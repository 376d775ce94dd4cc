"""engine.prepare: from messages to prompt tokens, trimmed where a conversation outgrows the context."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends import fake
from engine.commands import Generate
from engine.errors import TokenglassError
from engine.prepare import MAX_DEPTH, Preparer
from engine.types import ChatMessage, FunctionSpec, Resume, Tool, ToolCall, WorkerConfig


@pytest.fixture
def preparer() -> Preparer:
    return Preparer(fake.load(WorkerConfig(model_id="fake", model_path="fake:ctx=256"), lambda _: True))


def generate(
    messages: list[ChatMessage] | None = None, prompt: str | None = None, *, trim: bool = False
) -> Generate:
    return Generate(
        generation_id="g",
        received_t=0,
        client_id="c",
        origin="live",
        messages=messages,
        prompt=prompt,
        trim=trim,
    )


def turns(n: int) -> list[ChatMessage]:
    messages = [ChatMessage(role="system", content="Be brief.")]
    for i in range(n):
        messages.append(ChatMessage(role="user", content=f"question {i} " + "word " * 20))
        messages.append(ChatMessage(role="assistant", content=f"answer {i}"))
    return [*messages, ChatMessage(role="user", content="the last question")]


def test_a_raw_prompt_is_taken_as_it_is(preparer: Preparer) -> None:
    backend = fake.load(WorkerConfig(model_id="fake", model_path="fake:"), lambda _: True)
    prepared = preparer.prepare(generate(prompt="Once upon"))
    assert prepared.prompt_tokens == backend.tokenize("Once upon", add_special=True, parse_special=True)


def test_a_conversation_that_fits_stays_whole(preparer: Preparer) -> None:
    assert preparer.prepare(generate(turns(1), trim=True)).trimmed_messages == 0


def test_a_long_conversation_drops_its_oldest_turns(preparer: Preparer) -> None:
    prepared = preparer.prepare(generate(turns(40), trim=True))
    assert prepared.trimmed_messages > 0
    assert prepared.trimmed_messages % 2 == 0, "whole turns go, question and answer"
    assert len(prepared.prompt_tokens) <= 256 - 64
    kept = turns(40)[1 + prepared.trimmed_messages :]
    again = preparer.prepare(generate([turns(0)[0], *kept]))
    assert prepared.prompt_tokens == again.prompt_tokens, "the system message and the newest turns stay"


conversations = st.lists(
    st.builds(
        ChatMessage,
        role=st.sampled_from(("system", "user", "user", "assistant", "assistant", "tool")),
        content=st.integers(0, 60).map(lambda n: "word " * n),
    ),
    min_size=1,
    max_size=30,
)


@given(conversations, st.integers(1, 100))
def test_as_few_turns_as_need_be_are_left_out(messages: list[ChatMessage], max_tokens: int) -> None:
    backend = fake.load(WorkerConfig(model_id="fake", model_path="fake:ctx=256"), lambda _: True)
    preparer = Preparer(backend)
    command = generate(messages, trim=True).model_copy(update={"max_tokens": max_tokens})
    limit = 256 - min(max_tokens, 64)
    prepared = preparer.prepare(command)

    rest = messages
    while len(tokens := preparer.prepare(generate(rest)).prompt_tokens) > limit:
        users = [i for i, message in enumerate(rest) if message.role == "user"]
        if len(users) < 2:
            break
        first, second = users[:2]
        rest = [
            message for i, message in enumerate(rest) if message.role == "system" or not first <= i < second
        ]
    assert prepared.prompt_tokens == tokens
    assert prepared.trimmed_messages == len(messages) - len(rest)


def test_trimming_takes_few_renderings(preparer: Preparer, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    render = preparer._template.render

    def counted(*args: Any) -> str:
        nonlocal count
        count += 1
        return render(*args)

    monkeypatch.setattr(preparer._template, "render", counted)
    assert preparer.prepare(generate(turns(200), trim=True)).trimmed_messages > 300
    assert count <= 10


def test_messages_that_are_not_a_conversation_are_never_trimmed(preparer: Preparer) -> None:
    prepared = preparer.prepare(generate(turns(40)))
    assert prepared.trimmed_messages == 0
    assert len(prepared.prompt_tokens) > 256, "the scheduler refuses it with context_overflow"


def test_one_turn_too_long_is_left_to_the_scheduler(preparer: Preparer) -> None:
    only = [ChatMessage(role="user", content="word " * 500)]
    assert preparer.prepare(generate(only, trim=True)).trimmed_messages == 0


def test_errors_of_the_template_come_through() -> None:
    backend = fake.load(WorkerConfig(model_id="fake", model_path="fake:"), lambda _: True)
    backend.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(TokenglassError, match="refuses these messages: no"):
        Preparer(backend).prepare(generate(turns(0)))


def test_what_was_begun_elsewhere_is_taken_as_it_was(preparer: Preparer) -> None:
    resume = Resume(
        kind="recovered", prompt_tokens=[1, 2, 3], seed=1, trimmed_messages=4, reasoning_open=True
    )
    prepared = preparer.prepare(generate(turns(200), trim=True).model_copy(update={"resume": resume}))
    assert prepared.prompt_tokens == [1, 2, 3]
    assert prepared.trimmed_messages == 4
    assert prepared.reasoning_open


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def with_tool(parameters: dict[str, Any]) -> Generate:
    tool = Tool(type="function", function=FunctionSpec(name="f", parameters=parameters))
    return generate(turns(0)).model_copy(update={"tools": [tool]})


def test_tools_may_be_deep_but_not_too_deep(preparer: Preparer) -> None:
    preparer.prepare(with_tool(nested(MAX_DEPTH)))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(TokenglassError, match="nested more than 64 deep") as caught:
            preparer.prepare(with_tool(nested(depth)))
        assert caught.value.code == "invalid_prompt"
        assert caught.value.info.path == "tools.0.function.parameters"


@pytest.mark.parametrize("arguments", ("[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "9" * 100_000))
def test_arguments_that_no_template_should_see_as_an_object_stay_text(
    preparer: Preparer, arguments: str
) -> None:
    call = ChatMessage(role="assistant", tool_calls=[ToolCall(id="c", name="f", arguments=arguments)])
    prepared = preparer.prepare(generate([*turns(0), call]))
    assert len(prepared.prompt_tokens) > 90_000


def test_too_much_is_refused_before_it_is_rendered(preparer: Preparer) -> None:
    large = "x" * (2 << 20)
    call = ToolCall(id="c", name="f", arguments=json.dumps(large))
    message = ChatMessage(role="assistant", content="x", reasoning=large, tool_calls=[call])
    with pytest.raises(TokenglassError, match="longer than 4 MiB") as caught:
        preparer.prepare(generate([message]))
    assert caught.value.code == "invalid_prompt"
    with pytest.raises(TokenglassError, match="longer than 4 MiB"):
        preparer.prepare(with_tool({"description": large * 2}))


def test_another_template_stands_in_for_the_models_own() -> None:
    backend = fake.load(WorkerConfig(model_id="fake", model_path="fake:"), lambda _: True)
    backend.chat_template = None
    assert not Preparer(backend).info.has_chat_template
    preparer = Preparer(backend, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert preparer.info.has_chat_template
    tokens = preparer.prepare(generate(turns(0))).prompt_tokens
    assert tokens == backend.tokenize("Be brief.the last question", add_special=True, parse_special=True)
