"""engine.prepare: from messages to prompt tokens, trimmed where a conversation outgrows the context."""

from __future__ import annotations

import pytest

from engine.backends import fake
from engine.commands import Generate
from engine.errors import TokenglassError
from engine.prepare import Preparer
from engine.types import ChatMessage, WorkerConfig


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
