"""engine.templates: rendered as Hugging Face does, in a sandbox, and errors that a user understands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.gguf import read_header
from engine.renderer import Renderer
from engine.rendering import TemplateFailedError
from engine.templates import ChatTemplate
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall
from engine.wants import Wants, as_wanted, depth

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
    answered = [user("Once upon"), ChatMessage(role="assistant", content=" a time."), user("More")]
    assert template(None).render(answered) == "Once upon a time.\n\nMore"


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
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
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


def test_a_generation_block_is_its_content() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    assert template(source).render([user("a"), user("b")]) == "a;b;"


def test_json_as_hugging_face_writes_it() -> None:
    source = "{{ {'b': 'é<', 'a': [1]} | tojson(sort_keys=true, separators=(',', ':')) }}"
    assert template(source).render([user("x")]) == '{"a":[1],"b":"é<"}'
    assert template("{{ [1] | tojson(indent=1) }}").render([user("x")]) == "[\n 1\n]"
    assert template("{{ messages[0].content | tojson(true) }}").render([user("é")]) == '"\\u00e9"'


def test_further_variables_reach_the_template() -> None:
    source = "{{ enable_thinking }}{{ add_generation_prompt }}{{ documents is none }}{{ tools is none }}"
    text = template(source).render([user("x")], add_generation_prompt=False, enable_thinking=False)
    assert text == "FalseFalseTrueTrue"


def test_what_a_template_sees_of_a_message() -> None:
    call = ToolCall(id="c1", name="f", arguments='{"x": [1, null]}')
    odd = ToolCall(id="c2", name="g", arguments="{not json")
    messages = [
        user("Hi"),
        ChatMessage(role="assistant", reasoning="Hm", tool_calls=[call, odd]),
        ChatMessage(role="tool", tool_call_id="c2", content="1"),
    ]
    assert as_wanted(messages, Wants()) == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Hm",
            "thinking": "Hm",
            "reasoning_content": "Hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, None]}}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{not json"}},
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c2", "name": "g"},
    ]


REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    (
        REFUSES,
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        ALTERNATE,
    ),
    ids=("refuses", "leaves out", "alternates"),
)
def test_a_template_without_system_messages_has_them_in_the_first_user_message(source: str) -> None:
    system = ChatMessage(role="system", content="Be kind.")
    answer = ChatMessage(role="assistant", content="Yes?")
    chat = template(source)
    assert chat.wants == Wants(system_in_user=True)
    assert chat.render([system, user("Hi"), answer, user("So")]) == (
        "<user>Be kind.\n\nHi<assistant>Yes?<user>So"
    )
    assert chat.render([system]) == "<user>Be kind."
    assert chat.render([user("Hi")]) == "<user>Hi"


def test_other_rules_of_a_template_are_told_in_its_words() -> None:
    with pytest.raises(TokenglassError, match="refuses these messages: roles must alternate"):
        template(ALTERNATE).render([user("a"), user("b")])


CALLS = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("call", "wants"),
    (
        ("{{ c.function.arguments | tojson }}", Wants()),
        ("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}", Wants()),
        ("{{ '' + c.function.arguments }}", Wants(arguments_as_text=True)),
        ("{{ c.function.arguments }}", Wants(arguments_as_text=True)),
        ("{% if m.content is none %}ARGS{% endif %}", Wants(content_none=True, calls_alone=True)),
        ("{% if not m.content %}ARGS{% endif %}", Wants(calls_alone=True)),
        ("{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}ARGS", Wants(short_ids=True)),
        ("{% if m.content and m.thinking %}{{ raise_exception('1') }}{% endif %}ARGS", Wants(one_text=True)),
        ("no calls here", Wants()),
    ),
)  # fmt: skip
def test_how_a_template_wants_its_calls_is_learned(call: str, wants: Wants) -> None:
    source = CALLS.replace("CALL", call.replace("ARGS", "{{ c.function.arguments | tojson }}"))
    assert template(source).wants == wants


def test_reasoning_in_the_content_and_tools_as_a_list_are_learned() -> None:
    parts = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p[p.type] }};{% endfor %}{% endif %}{% endfor %}"
    )
    assert template(parts).wants == Wants(reasoning_in_content=True)
    thought = ChatMessage(role="assistant", content="Yes", reasoning="Hm")
    assert template(parts).render([user("?"), thought]) == "?Hm;Yes;"
    listed = "{% for t in tools %}{{ t.function.name }}{% endfor %}" + CHATML
    assert template(listed).wants == Wants(tools_list=True)
    assert not template("{{ messages }}").wants.reasoning_in_content, "a list that is only spelt out"


class Flaky:
    """Overruns so often, then renders."""

    def __init__(self, overruns: int) -> None:
        self.left = overruns
        self.asked = 0

    def render(self, variables: Mapping[str, Any]) -> str:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise TemplateFailedError("too_slow", "it took longer than 2 s")
        return str(variables["messages"][-1]["content"])


@pytest.mark.parametrize(("overruns", "asked", "works"), ((0, 1, True), (1, 2, True), (2, 2, False)))
def test_learning_leaves_a_template_alone_that_overruns_twice(
    overruns: int, asked: int, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = template(CHATML)
    flaky = Flaky(overruns)
    monkeypatch.setattr(chat, "_template", flaky)
    for _ in range(3):
        if works:
            assert chat.probe([user("Hi")]) == "Hi"
        else:
            with pytest.raises(TokenglassError, match="took too long"):
                chat.probe([user("Hi")])
    assert flaky.asked == asked + (2 if works else 0)
    assert chat.render([user("Hi")]) == "Hi", "a user's messages are always tried"


def test_short_ids_match() -> None:
    call = ToolCall(id="call_0123456789", name="f", arguments="{}")
    told = [
        ChatMessage(role="assistant", tool_calls=[call]),
        ChatMessage(role="tool", tool_call_id=call.id, content="1"),
    ]
    asked, result = as_wanted(told, Wants(short_ids=True))
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) == 9
    assert result["tool_call_id"].isalnum()
    kept = told[1].model_copy(update={"tool_call_id": "abc123DEF"})
    assert as_wanted([kept], Wants(short_ids=True))[0]["tool_call_id"] == "abc123DEF"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_depth(value: object) -> None:
    def expected(value: object) -> int:
        if not isinstance(value, dict | list):
            return 0
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max((expected(item) for item in inner), default=0)

    assert depth(value) == expected(value)


tool_calls = st.builds(ToolCall, id=st.text(), name=st.text(), arguments=st.text() | st.integers().map(str))
chat_messages = st.builds(
    ChatMessage,
    role=st.sampled_from(("system", "user", "assistant", "tool")),
    content=st.none() | st.text(),
    reasoning=st.none() | st.text(),
    tool_calls=st.none() | st.lists(tool_calls),
    tool_call_id=st.none() | st.text(),
    name=st.none() | st.text(),
)
wanted = st.builds(Wants, *[st.booleans()] * len(fields(Wants)))


@given(st.lists(chat_messages), wanted)
def test_any_conversation_in_any_form(messages: list[ChatMessage], wants: Wants) -> None:
    seen = as_wanted(messages, wants)
    json.dumps(seen)
    system = [message.content for message in messages if message.role == "system" and message.content]
    if wants.system_in_user:
        assert "system" not in [message["role"] for message in seen]
        if system and not wants.reasoning_in_content:
            first = next(message for message in seen if message["role"] == "user")
            assert "tool_calls" in first or first["content"].startswith(system[0])
    else:
        assert [message["role"] for message in seen] == [message.role for message in messages]
        for message, shown in zip(messages, seen, strict=True):
            if not message.tool_calls and not wants.reasoning_in_content:
                assert shown["content"] == (message.content or "")


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


CITY = Tool(
    type="function",
    function=FunctionSpec(
        name="weather",
        description="The weather of a city.",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name."},
                "unit": {"type": "string", "enum": ["c", "f"], "description": "Degrees."},
            },
            "required": ["city"],
        },
    ),
)
ASKED = ToolCall(id="call_7f3d", name="weather", arguments='{"city": "Bern", "unit": "c"}')
CALLED = [
    user("How is the weather?"),
    ChatMessage(role="assistant", content="Let me see.", reasoning="I must look.", tool_calls=[ASKED]),
    ChatMessage(role="tool", content="nine degrees", tool_call_id=ASKED.id),
]
CONVERSATIONS: dict[str, tuple[list[ChatMessage], list[Tool]]] = {
    "one": ([user("Hi there")], []),
    "system": ([ChatMessage(role="system", content="Be kind."), user("Hi there")], []),
    "turns": ([user("One"), ChatMessage(role="assistant", content="Two"), user("Three")], []),
    "tools": ([ChatMessage(role="system", content="Be kind."), user("Hi there")], [CITY]),
    "call": (CALLED, [CITY]),
}
REFUSALS = {
    # its makers give it variables of its own
    "fireworks-ai-llama-3-firefunction-v2": (set(CONVERSATIONS), "'functions' is undefined"),
    # no role for results
    "google-gemma-2-2b-it": ({"call"}, "Conversation roles must alternate"),
}
NO_CALLS = {
    # these leave calls out of a conversation: their makers write them into the content
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}


def test_seventy_real_templates() -> None:
    folder = Path(__file__).resolve().parents[2].parent / "shared/data/templates"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/templates here")
    seen: dict[str, tuple[set[str], str]] = {}
    no_calls = set()
    with contextlib.closing(Renderer(time_limit_s=100.0)) as renderer:
        paths = sorted(folder.glob("*.jinja"))
        for path in paths:
            chat = ChatTemplate(path.read_text(), bos_text="<s>", eos_text="</s>", renderer=renderer)
            for name, (messages, tools) in CONVERSATIONS.items():
                try:
                    text = chat.render(messages, tools)
                except TokenglassError as error:
                    refused, _ = seen.setdefault(path.stem, (set(), str(error)))
                    refused.add(name)
                    continue
                said = [message.content or "" for message in messages if message.role in ("system", "user")]
                assert [part for part in said if part not in text] == [], f"{path.stem}, {name}"
                if name == "call" and ("Bern" not in text or "nine degrees" not in text):
                    no_calls.add(path.stem)
    assert len(paths) >= 70
    assert {name: refused for name, (refused, _) in seen.items()} == {
        name: refused for name, (refused, _) in REFUSALS.items()
    }
    assert all(REFUSALS[name][1] in said for name, (_, said) in seen.items())
    assert no_calls == NO_CALLS
