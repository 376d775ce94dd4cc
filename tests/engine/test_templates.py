"""engine.templates: rendered as Hugging Face does, in a sandbox, and errors that a user understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import TokenglassError
from engine.gguf import read_header
from engine.templates import ChatTemplate
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>")


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def test_messages_and_the_prompt_for_the_answer() -> None:
    text = template(CHATML).render([ChatMessage(role="system", content="Be kind."), user("Hi")])
    assert text == (
        "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_template_the_text_is_the_prompt() -> None:
    assert template(None).render([user("Once upon"), user("a time")]) == "Once upon\n\na time"


def test_what_templates_expect_of_hugging_face() -> None:
    source = (
        "{%- for m in messages -%}{%- if loop.index > 1 -%}{%- break -%}{%- endif -%}"
        "{{ m.tool_calls[0].function.arguments.x }}{%- endfor -%}"
        "{{ tools[0] | tojson }} {{ strftime_now('%Y') | length }}"
    )
    call = ToolCall(id="c1", name="f", arguments='{"x": "ä<b>"}')
    tools = [Tool(type="function", function=FunctionSpec(name="f"))]
    text = template(source).render([ChatMessage(role="assistant", tool_calls=[call]), user("x")], tools)
    assert text.startswith('ä<b>{"type": "function", "function": {"name": "f"')
    assert text.endswith(" 4")


@pytest.mark.parametrize(
    ("source", "says"),
    (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "can't be read"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ),
)
def test_a_template_that_fails_says_why(source: str, says: str) -> None:
    with pytest.raises(TokenglassError, match=says) as caught:
        template(source).render([user("Hi")])
    assert caught.value.code == "invalid_prompt"


def test_a_template_that_writes_megabytes_is_refused() -> None:
    with pytest.raises(TokenglassError, match="4 MiB"):
        template("{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}").render([user("Hi")])


def test_the_starters_template(starter_model: Path) -> None:
    header = read_header(starter_model)
    render = template(header.chat_template).render
    tools = [Tool(type="function", function=FunctionSpec(name="clock", description="Tells the time."))]
    call = ToolCall(id="c1", name="clock", arguments="{}")
    text = render(
        [
            ChatMessage(role="system", content="You are kind."),
            user("What time is it?"),
            ChatMessage(role="assistant", tool_calls=[call]),
            ChatMessage(role="tool", content='{"time": "12:30"}', tool_call_id="c1"),
        ],
        tools,
    )
    for part in ("You are kind.", "What time is it?", "clock", "12:30"):
        assert part in text
    assert render([user("Hi")]) == render([user("Hi")])
