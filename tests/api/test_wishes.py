"""Requests of OpenAI's HTTP API: whatever stands in their fields, they are understood or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.openai import wishes
from api.openai.errors import Refused
from engine.errors import TokenglassError

FIELDS = (
    "messages", "prompt", "input", "stream", "stream_options", "n", "best_of", "echo", "suffix", "logprobs",
    "top_logprobs", "max_tokens", "max_completion_tokens", "temperature", "seed", "stop", "logit_bias",
    "repetition_penalty", "tools", "tool_choice", "parallel_tool_calls", "response_format", "grammar",
    "json_schema", "guided_json", "guided_regex", "chat_template_kwargs", "reasoning_effort", "modalities",
    "audio", "functions", "web_search_options", "encoding_format",
)  # fmt: skip
WORDS = (
    "role", "user", "assistant", "tool", "content", "type", "text", "refusal", "tool_calls", "function",
    "name", "arguments", "id", "schema", "json_schema", "json_object", "audio", "include_usage", "auto",
    "float",
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(-9, 9)
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
JSON: Any = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner)
)
MESSAGE = st.dictionaries(st.sampled_from(WORDS), JSON, max_size=4) | st.fixed_dictionaries(
    {"role": st.sampled_from(("user", "assistant", "tool"))}, optional={"content": JSON, "tool_calls": JSON}
)
KINDS: tuple[tuple[Callable[[dict[str, Any]], object], dict[str, Any]], ...] = (
    (wishes.chat, {"messages": [{"role": "user", "content": "hi"}]}),
    (wishes.completion, {"prompt": "hi"}),
    (wishes.embedding, {"input": "hi"}),
)


@pytest.mark.parametrize(("understand", "asked"), KINDS)
def test_any_fields(understand: Callable[[dict[str, Any]], object], asked: dict[str, Any]) -> None:
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
    @example({"modalities": 5})
    def check(fields: dict[str, Any]) -> None:
        with contextlib.suppress(Refused, TokenglassError):
            understand({**asked, **fields})

    check()


@given(MESSAGE)
@example({"role": ["user"], "content": "hi"})
@example({"role": "user", "content": [{"type": ["text"], "text": "hi"}]})
@example({"role": "assistant", "tool_calls": 3})
def test_any_message(message: dict[str, Any]) -> None:
    with contextlib.suppress(Refused, TokenglassError):
        wishes.chat({"messages": [message]})
