"""What models of each family really write: formats by name, control tokens, and calls that are forced."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.backend import Sampled
from engine.backends import fake
from engine.commands import Generate
from engine.detokenize import PieceCache
from engine.events import Event, GenerationDelta, ReasoningDelta, ToolCallDelta, ToolCallDone
from engine.formats import (
    HERMES,
    AnswerParser,
    CallSyntax,
    Format,
    ReasoningText,
    call_grammar,
    learn,
)
from engine.formats import named as formats
from engine.gbnf import parse as parse_grammar
from engine.grammar import MAX_GENERATED
from engine.output import Output
from engine.prepare import Preparer
from engine.prepared import Prepared
from engine.schema import Writer, add_schema
from engine.stacks import Matcher, Stack
from engine.templates import ChatTemplate
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall, WorkerConfig

WEATHER = Tool(
    type="function",
    function=FunctionSpec(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "hours": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            },
            "required": ["city", "days"],
        },
    ),
)
TIME = Tool(type="function", function=FunctionSpec(name="get_time"))
TOOLS = [WEATHER, TIME]
LLAMA3 = Format(
    "llama3-json",
    calls=CallSyntax(
        arguments_key="parameters",
        before_name='{"name": ',
        before_arguments=', "parameters": ',
        after_arguments="}",
    ),
    skip=("<|python_tag|>",),
)

PARAMETERS = Format(
    "learned",
    calls=CallSyntax(
        "parameters",
        open="<tool_call>\n<function=",
        name_close=">\n",
        parameter_open="<parameter=",
        value_open=">\n",
        value_close="\n</parameter>\n",
        close="</function>\n</tool_call>",
    ),
)

Answer = tuple[str, str, list[tuple[str, Any]]]


def read(
    form: Format, text: str, *, tools: list[Tool] | None = None, reasoning_open: bool = False, size: int = 0
) -> Answer:
    """Content, reasoning and calls of a text that comes in pieces of this size; 0: whole."""
    parser = AnswerParser(
        form, generation_id="g", tools=TOOLS if tools is None else tools, reasoning_open=reasoning_open
    )
    chunks = [text[i : i + size] for i in range(0, len(text), size)] if size else [text]
    pieces = [piece for chunk in chunks for piece in parser.push(chunk)] + parser.finish()
    return (
        "".join(piece for piece in pieces if isinstance(piece, str)),
        "".join(piece.text for piece in pieces if isinstance(piece, ReasoningText)),
        [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, ToolCall)],
    )


OSLO = ("get_weather", {"city": "Oslo"})
OSLO_JSON = '{"city": "Oslo"}'
ANSWERS: dict[str, tuple[Format, str, Answer]] = {
    "harmony, as the model writes it": (
        formats.HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        " to=functions.get_weather <|constrain|>json<|message|>" + OSLO_JSON,
        ("", "Hm.", [OSLO]),
    ),
    "harmony, as the template writes it": (
        formats.HARMONY,
        " to=functions.get_weather<|channel|>commentary json<|message|>" + OSLO_JSON + "<|call|>",
        ("", "", [OSLO]),
    ),
    "harmony with words before the call": (
        formats.HARMONY,
        "<|channel|>commentary<|message|>I'll look.<|end|><|start|>assistant<|channel|>commentary"
        " to=functions.get_weather<|message|>" + OSLO_JSON,
        ("I'll look.", "", [OSLO]),
    ),
    "harmony with a call on the reasoning's channel": (
        formats.HARMONY,
        "<|channel|>analysis to=functions.get_weather<|message|>" + OSLO_JSON,
        ("", "", [OSLO]),
    ),
    "harmony's last word": (
        formats.HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>.",
        ("Hi <b>.", "Hm.", []),
    ),
    "harmony without a header": (formats.HARMONY, "Just text.", ("Just text.", "", [])),
    "functionary": (
        formats.FUNCTIONARY,
        "all\nI'll look.\n>>>get_weather\n" + OSLO_JSON + "\n>>>get_time\n{}",
        ("I'll look.", "", [OSLO, ("get_time", {})]),
    ),
    "functionary with Python's prompt in the text": (
        formats.FUNCTIONARY,
        "all\n>>> print(1)\n1\n>>>x\n2",
        (">>> print(1)\n1\n>>>x\n2", "", []),
    ),
    "lfm2": (
        formats.LFM2,
        '<|tool_call_start|>[get_weather(city="Oslo\'s (", hours=[1, 2]), get_time()]<|tool_call_end|>Wait.',
        ("Wait.", "", [("get_weather", {"city": "Oslo's (", "hours": [1, 2]}), ("get_time", {})]),
    ),
    "granite 3": (
        formats.GRANITE_3,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        ("", "", [OSLO]),
    ),
    "llama 3": (LLAMA3, '{"name": "get_weather", "parameters": {"city": "Oslo"}}', ("", "", [OSLO])),
    "llama 3 with its tag": (
        LLAMA3,
        '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}',
        ("", "", [OSLO]),
    ),
    "llama 3 with an object that is no call": (LLAMA3, '{"city": "Oslo"}', ('{"city": "Oslo"}', "", [])),
    "llama 3 with an object in the text": (
        LLAMA3,
        'So: {"name": "get_weather", "parameters": {}}',
        ('So: {"name": "get_weather", "parameters": {}}', "", []),
    ),
    "hermes, carelessly spaced": (
        HERMES,
        '<think>Hm.</think><tool_call>{"name":"get_time"}</tool_call>  <tool_call>{"name":"get_time"}',
        ("", "Hm.", [("get_time", {}), ("get_time", {})]),
    ),
    "hermes with a call that isn't closed and more text": (
        HERMES,
        '<tool_call>{"name": "get_time"} and so on',
        ('<tool_call>{"name": "get_time"} and so on', "", []),
    ),
    "a call after one that is none": (
        HERMES,
        '<tool_call>{"name": "get_time</tool_call>\n<tool_call>{"name": "get_time"}</tool_call>',
        ('<tool_call>{"name": "get_time</tool_call>', "", [("get_time", {})]),
    ),
    "a line break within a string, as no JSON has it": (
        HERMES,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\n\tb"}}</tool_call>',
        ("", "", [("get_weather", {"city": "a\n\tb"})]),
    ),
    "qwen coder without its first tag": (
        PARAMETERS,
        "Hm.\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        ("Hm.", "", [OSLO]),
    ),
    "kimi k3": (
        formats.KIMI_K3,
        (
            '<|close|>think<|sep|><|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
            '<|open|>argument key="city" type="string"<|sep|>3<|close|>argument<|sep|>'
            '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>'
            "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>"
        ),
        ("", "", [("get_weather", {"city": "3", "days": 3})]),
    ),
    "command r": (
        formats.COMMAND_R,
        (
            "<|START_RESPONSE|>Hi.<|END_RESPONSE|><|START_ACTION|>["
            '{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}]<|END_ACTION|>'
        ),
        ("Hi.", "", [OSLO]),
    ),
}


@pytest.mark.parametrize("size", (0, 1, 3, 7))
@pytest.mark.parametrize("what", ANSWERS)
def test_what_models_write(what: str, size: int) -> None:
    form, text, expected = ANSWERS[what]
    assert read(form, text, size=size) == expected


def test_without_tools_reasoning_is_told_apart_and_calls_are_text() -> None:
    text = "<think>Hm.</think>So: <tool_call>{}</tool_call>"
    assert read(HERMES, text, tools=[]) == ("So: <tool_call>{}</tool_call>", "Hm.", [])


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert HERMES.leaves_reasoning_open("…<|im_start|>assistant\n<think>\n")
    assert not HERMES.leaves_reasoning_open("…<think>\n\n</think>\n\n")
    assert read(HERMES, "Hm.\n</think>\n\nHi.", reasoning_open=True) == ("Hi.", "Hm.", [])
    assert read(HERMES, "Hm, and on", reasoning_open=True) == ("", "Hm, and on", [])


@pytest.mark.parametrize(
    ("name", "written", "value"),
    (
        ("city", "3", "3"),
        ("city", "\n  two lines\n", "\n  two lines\n"),
        ("city", 'a</parameter>"', 'a</parameter>"'),
        ("days", "3", 3),
        ("days", "three", "three"),
        ("hours", "[1, 2]", [1, 2]),
        ("hours", "[1, None, 'x', True]", [1, None, "x", True]),
        ("unknown", "7", 7),
        ("unknown", "seven", "seven"),
        ("unknown", '"quoted"', '"quoted"'),
        ("unknown", "{" * 5000, "{" * 5000),
    ),
)
def test_types_of_values_without_quotes_come_from_the_schema(name: str, written: str, value: Any) -> None:
    parameter = f"<parameter={name}>\n{written}\n</parameter>"
    text = f"<tool_call>\n<function=get_weather>\n{parameter}\n</function>\n</tool_call>"
    assert read(PARAMETERS, text, size=1) == ("", "", [("get_weather", {name: value})])


# ---- learning


def test_a_template_that_refuses_everything_has_no_format() -> None:
    source = "{{ raise_exception('no') }}"
    learned = learn(ChatTemplate(source, bos_text="", eos_text="").render, source)
    assert learned.format is None
    assert learned.reason


@pytest.mark.parametrize(
    "source",
    (
        "",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m }}{% endfor %}",
        "{{ messages | tojson }}",
        "{{ messages | tojson }}{{ tools | tojson }}{{ messages[1].content }}",
        "{% for m in messages %}{{ m.content }}{{ m.tool_calls[0].function.name }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.tool_calls[0].function.arguments }}{% endfor %}",
        "{% for m in messages %}{{ m.reasoning }}{{ m.content }}{{ m.tool_calls | tojson }}{% endfor %}",
    ),
)
def test_strange_templates_do_no_harm(source: str) -> None:
    learned = learn(ChatTemplate(source, bos_text="", eos_text="").render, source)
    if learned.format is not None:
        assert read(learned.format, "Some text.")[0] == "Some text."


# ---- at the load of a model

THINKING = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""


def prepared(source: str | None, **asked: Any) -> tuple[Preparer, Prepared]:
    backend = fake.load(WorkerConfig(model_id="m", model_path="fake:", n_slots=1), lambda done: True)
    preparer = Preparer(backend, source)
    command = Generate(generation_id="g", received_t=0.0, client_id="c", origin="live", **asked)
    return preparer, preparer.prepare(command)


def test_what_is_learned_at_the_load_is_told_and_goes_with_each_generation() -> None:
    asked = [ChatMessage(role="user", content="Hi")]
    preparer, it = prepared(THINKING, messages=asked)
    assert (preparer.info.format, preparer.info.reasoning, preparer.info.tools) == ("learned", True, False)
    assert it.format is preparer.format
    assert it.reasoning_open
    preparer, it = prepared(None, messages=asked)
    assert (preparer.info.format, preparer.info.reasoning, preparer.info.tools) == ("learned", False, True)
    assert it.format is not None
    assert it.format.calls is not None
    assert it.format.calls.open == "<tool_call>"
    assert not it.reasoning_open


def test_the_answer_to_a_raw_prompt_is_plain_text_unless_there_are_tools() -> None:
    assert prepared(THINKING, prompt="Hi")[1].format is None
    assert prepared(THINKING, prompt="Hi", tools=TOOLS)[1].format is not None


def test_only_control_tokens_of_markers_are_bound() -> None:
    backend = fake.load(WorkerConfig(model_id="m", model_path="fake:", n_slots=1), lambda done: True)
    calls = CallSyntax(open="<|im_start|>call\n", close="</call>")
    form = Format("learned", "<think>", "</think>", calls=calls, skip=("<|im_end|>",)).bind(backend)
    assert form.reasoning_tokens == {fake.IM_END}
    assert form.call_tokens == {fake.IM_START}
    assert form.shown_tokens(tools=False) == {fake.IM_END}
    assert form.shown_tokens(tools=True) == {fake.IM_END, fake.IM_START}


# ---- control tokens

VOCABULARY = (
    b"<think>",
    b"</think>",
    b"<tool_call>",
    b"</tool_call>",
    b"<|other|>",
    b"Hm.",
    b"Hi.",
    b'{"name": "get_time"}',
)
CONTROL = range(5)


def piece(token: int, *, special: bool = False) -> bytes:
    return VOCABULARY[token] if special or token not in CONTROL else b""


def spoken(tokens: list[int], *, tools: list[Tool]) -> tuple[Output, list[Event]]:
    form = Format(
        HERMES.name,
        HERMES.reasoning_open,
        HERMES.reasoning_close,
        HERMES.calls,
        reasoning_tokens=frozenset((0, 1)),
        call_tokens=frozenset((2, 3)),
    )
    command = Generate(
        generation_id="g", received_t=0.0, client_id="c", origin="live", prompt="", tools=tools
    )
    output = Output(Prepared(command, [], format=form), PieceCache(piece))
    events: list[Event] = []
    for token in tokens:
        output.push(Sampled(token), 1.0, events)
    output.finish(2.0, events)
    return output, events


def test_markers_that_are_control_tokens_are_seen_and_others_are_not() -> None:
    output, events = spoken([0, 5, 1, 6, 4, 2, 7, 3], tools=TOOLS)
    assert (output.reasoning, output.text) == ("Hm.", "Hi.")
    assert [(call.name, call.arguments) for call in output.tool_calls] == [("get_time", "{}")]
    kinds = [type(event) for event in events]
    assert kinds == [
        ReasoningDelta,  # <think>
        ReasoningDelta,
        ReasoningDelta,  # </think>
        GenerationDelta,
        GenerationDelta,  # <|other|>
        ToolCallDelta,  # <tool_call>
        ToolCallDelta,
        ToolCallDelta,  # </tool_call>
        ToolCallDone,
    ]
    tokens = [
        token
        for event in events
        if isinstance(event, GenerationDelta | ReasoningDelta | ToolCallDelta)
        for token in event.tokens
    ]
    assert [token["index"] for token in tokens] == list(range(8))
    assert [token["text"] for token in tokens] == ["", "Hm.", "", "Hi.", "", "", '{"name": "get_time"}', ""]


def test_a_call_in_mid_thought_counts_where_its_marker_is_a_control_token() -> None:
    output, _ = spoken([0, 5, 2, 7, 3, 6], tools=TOOLS)
    assert (output.reasoning, output.text, len(output.tool_calls)) == ("Hm.", "Hi.", 1)
    output, _ = spoken([0, 5, 2, 5, 3, 1, 6], tools=TOOLS)
    assert (output.reasoning, output.text) == ("Hm.<tool_call>Hm.</tool_call>", "Hi.")
    words = "<think>Hm: <tool_call>{}</tool_call>?</think>Hi."
    assert read(HERMES, words) == ("Hi.", "Hm: <tool_call>{}</tool_call>?", [])


def test_without_tools_the_control_tokens_of_calls_stay_unseen() -> None:
    output, _ = spoken([0, 5, 1, 6, 2, 7, 3], tools=[])
    assert (output.reasoning, output.text) == ("Hm.", 'Hi.{"name": "get_time"}')


# ---- forced calls

FOLDER = Path(__file__).resolve().parents[2].parent / "shared/data/templates"
FORCED = {
    "hermes": HERMES,
    "llama 3": LLAMA3,
    "parameters": PARAMETERS,
    **{form.name: form for form in vars(formats).values() if isinstance(form, Format)},
}


def grammar_of(form: Format) -> str | None:
    writer = Writer()

    def rule(hint: str, schema: Mapping[str, Any]) -> str:
        return add_schema(writer, schema, hint)

    expression = call_grammar(form, TOOLS, rule)
    return None if expression is None else writer.text(expression)


def drawn(grammar: str, dice: random.Random) -> str:
    """A text that the grammar takes."""
    matcher = Matcher(parse_grammar(grammar, MAX_GENERATED))
    text = ""
    for _ in range(50):
        text, stacks = "", matcher.start
        while len(text) < 3000:
            stack: Stack = dice.choice(stacks)
            if not stack:
                return text
            low, high = dice.choice(matcher.next(stack))
            code = dice.choice((low, high, dice.randint(low, min(high, low + 90))))
            if 0xD800 <= code <= 0xDFFF:
                code = low
            text += chr(code)
            stacks = matcher.after(stacks, code)
    raise AssertionError(f"no text of less than 3,000 characters: {text[:200]!r}")


def check_forced(form: Format, seed: object) -> None:
    dice = random.Random(str(seed))
    grammar = grammar_of(form)
    assert grammar is not None
    for _ in range(8):
        text = drawn(grammar, dice)
        content, _, calls = read(form, text)
        assert content == "", text
        assert calls, text
        for name, arguments in calls:
            assert name in ("get_weather", "get_time")
            if name == "get_weather":
                assert {"city", "days"} <= arguments.keys() <= {"city", "days", "unit", "hours"}
                assert isinstance(arguments["city"], str)
                assert isinstance(arguments["days"], int)
                assert arguments.get("unit") in (None, "C", "F")


@pytest.mark.parametrize("name", FORCED)
def test_forced_calls_are_calls(name: str) -> None:
    form = FORCED[name]
    if grammar_of(form) is None:
        assert form.calls is not None
        assert form.calls.kind in ("python", "dict", "elements")
    else:
        check_forced(form, name)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared/data/templates beside the checkout")
def test_forced_calls_are_calls_in_the_formats_of_real_templates() -> None:
    n_forced = 0
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        form = learn(ChatTemplate(source, bos_text="<s>", eos_text="</s>").render, source).format
        if form is not None and form.has_calls and grammar_of(form) is not None:
            check_forced(form, path.name)
            n_forced += 1
    assert n_forced >= 50
