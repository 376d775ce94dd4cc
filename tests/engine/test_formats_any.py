"""Whatever a model writes, in any format: nothing raises, nothing is lost, and cuts make no difference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.formats import (
    HERMES,
    AnswerParser,
    CallSyntax,
    CallText,
    Format,
    Piece,
    ReasoningText,
    learn,
)
from engine.formats import named as formats
from engine.types import ChatMessage, FunctionSpec, Tool, ToolCall

TOOLS = [
    Tool(
        type="function",
        function=FunctionSpec(
            name=name,
            parameters={
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "any": {"type": ["object", "array", "number", "boolean", "null"]},
                },
            },
        ),
    )
    for name in ("get_weather", "look_up")
]
THINK = ("<think>\n", "\n</think>\n\n")
MISTRAL = Format("learned", calls=CallSyntax("name_json", open="[TOOL_CALLS]", name_close="[ARGS]"))
KIMI = Format(
    "learned",
    *THINK,
    calls=CallSyntax(
        "name_json",
        section_open="<|tool_calls_section_begin|>",
        section_close="<|tool_calls_section_end|>",
        open="<|tool_call_begin|>functions.",
        close="<|tool_call_end|>",
        name_close="<|tool_call_argument_begin|>",
        id_open=":",
        id_rule="[0-9]+",
    ),
)
NEMO = Format(
    "learned",
    calls=CallSyntax(
        section_open="[TOOL_CALLS][",
        section_close="]",
        separator=", ",
        before_name='{"name": ',
        before_arguments=', "arguments": ',
        after_arguments="}",
    ),
)
QWEN_CODER = Format(
    "learned",
    *THINK,
    calls=CallSyntax(
        "parameters",
        open="<tool_call>\n<function=",
        close="\n</function>\n</tool_call>",
        name_close=">",
        parameter_open="\n<parameter=",
        value_open=">\n",
        value_close="\n</parameter>",
    ),
)
GLM = Format(
    "learned",
    *THINK,
    calls=CallSyntax(
        "parameters",
        open="<tool_call>",
        close="</tool_call>",
        parameter_open="<arg_key>",
        value_open="</arg_key><arg_value>",
        value_close="</arg_value>",
    ),
)
DSML = Format(
    "learned",
    *THINK,
    calls=CallSyntax(
        "parameters",
        section_open="<｜DSML｜calls>",
        section_close="\n</｜DSML｜calls>",
        open='\n<｜DSML｜invoke name="',
        close="\n</｜DSML｜invoke>",
        name_close='">',
        parameter_open='\n<｜DSML｜parameter name="',
        value_open='">',
        value_close="</｜DSML｜parameter>",
        string_open='" string="true',
        other_open='" string="false',
    ),
)
GEMMA = Format(
    "learned",
    "<|channel>thought\n",
    "<channel|>",
    calls=CallSyntax("dict", open="<|tool_call>call:", close="<tool_call|>", string_open='<|"|>'),
)
MINIMAX = Format(
    "learned",
    "<mm:think>",
    "</mm:think>",
    calls=CallSyntax(
        "elements",
        section_open="]<]minimax[>[<tool_call>",
        section_close="\n]<]minimax[>[</tool_call>",
        open='\n]<]minimax[>[<invoke name="',
        close="]<]minimax[>[</invoke>",
        name_close='">',
        parameter_open="]<]minimax[>[<",
    ),
)
LLAMA3 = Format("llama3-json", calls=CallSyntax(arguments_key="parameters"), skip=("<|python_tag|>",))
FORMATS = {
    "hermes": HERMES,
    "mistral": MISTRAL,
    "nemo": NEMO,
    "kimi": KIMI,
    "kimi with control tokens": replace(KIMI, reasoning_tokens=frozenset((1,)), call_tokens=frozenset((2,))),
    "qwen-coder": QWEN_CODER,
    "glm": GLM,
    "dsml": DSML,
    "gemma": GEMMA,
    "minimax": MINIMAX,
    "llama3": LLAMA3,
    **{form.name: form for form in vars(formats).values() if isinstance(form, Format)},
}


def literals(form: Format) -> list[str]:
    """All that the format writes itself."""
    found = [form.reasoning_open, form.reasoning_close, *form.skip]
    if form.header is not None:
        found += [form.header.open, *form.header.begins, form.header.close, *form.header.ends, "all"]
    if (calls := form.calls) is not None:
        found += [calls.section_open, calls.section_close, calls.open, calls.close, calls.separator]
        found += [calls.name_open, calls.name_close, calls.id_open, calls.string_open, calls.other_open]
        found += [calls.parameter_open, calls.value_open, calls.value_close]
    return [literal for literal in dict.fromkeys(found) if literal]


def parse(
    form: Format, chunks: list[str], *, tools: bool = True, reasoning_open: bool = False
) -> list[Piece]:
    parser = AnswerParser(
        form, generation_id="g", tools=TOOLS if tools else [], reasoning_open=reasoning_open
    )
    pieces: list[Piece] = []
    for chunk in chunks:
        before = parser.place
        pieces += parser.push(chunk)
        assert isinstance(before, str | ReasoningText | CallText)
    return pieces + parser.finish()


def merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of a kind joined, and each call's text right before it."""
    texts: dict[str, str] = {}
    rest: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, CallText):
            texts[piece.call_id] = texts.get(piece.call_id, "") + piece.text
            continue
        if isinstance(piece, ToolCall):
            rest.append(CallText(piece.id, texts.pop(piece.id, "")))
        if isinstance(piece, str) and rest and isinstance(rest[-1], str):
            rest[-1] += piece
        elif isinstance(piece, ReasoningText) and rest and isinstance(rest[-1], ReasoningText):
            rest[-1] = ReasoningText(rest[-1].text + piece.text)
        else:
            rest.append(piece)
    return [*rest, *(CallText(call_id, text) for call_id, text in texts.items())]


def without_space(text: str) -> str:
    return "".join(text.split())


@st.composite
def garbage(draw: st.DrawFn, form: Format) -> str:
    """Parts of what the format may write, in any order, with anything between."""
    known = literals(form)
    parts = [
        st.sampled_from(known),
        st.sampled_from(known).flatmap(lambda mark: st.integers(0, len(mark)).map(lambda n: mark[:n])),
        st.sampled_from(
            (
                "get_weather",
                '{"name": "look_up", "arguments": {"a": "}</x>"}}',
                '{"name": "look_up", "parameters": {}}',
                '{"tool_name": "look_up", "parameters": {"text": "]"}}',
                '{"text": "é 光 \\" {"}',
                "(text='x, (', count=2)",
                "{count:3}",
                "text",
                "count",
                "7",
                "[",
                "{",
                "}",
                '"',
                "\\",
                "=",
                ">",
                "<",
                " \n",
                "all\n",
            )
        ),
        st.text(max_size=4),
    ]
    return "".join(draw(st.lists(st.one_of(parts), max_size=14)))


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in pairwise([0, *places, len(text)])]


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data(), tools=st.booleans(), reasoning_open=st.booleans())
@settings(max_examples=50)
def test_cuts_make_no_difference(name: str, data: st.DataObject, tools: bool, reasoning_open: bool) -> None:
    form = FORMATS[name]
    text = data.draw(garbage(form))
    whole = merged(parse(form, [text], tools=tools, reasoning_open=reasoning_open))
    for chunks in (data.draw(cut(text)), list(text)):
        assert merged(parse(form, chunks, tools=tools, reasoning_open=reasoning_open)) == whole


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data(), tools=st.booleans())
@settings(max_examples=50)
def test_nothing_is_lost_but_markers_and_white_space(name: str, data: st.DataObject, tools: bool) -> None:
    form = FORMATS[name]
    text = data.draw(garbage(form))
    pieces = parse(form, [text], tools=tools)
    called = {piece.id for piece in pieces if isinstance(piece, ToolCall)}
    marks = [without_space(mark) for mark in literals(form)]
    between = "(?:" + "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    if form.header is not None:  # a header is one marker, whatever it says
        close = re.escape(without_space(form.header.close)) or r"(?=.|$)"
        between += rf"|(?:{re.escape(form.header.open)})?.{{0,256}}?{close}"
    between += ")*?"
    # what closes a call may be cut short by the end
    starts = {mark[:n] for mark in marks for n in range(1, len(mark))}
    end = "(?:" + "|".join(map(re.escape, sorted(starts, key=len, reverse=True))) + ")?"
    pattern = between
    for piece in pieces:
        if isinstance(piece, ToolCall) or (isinstance(piece, CallText) and piece.call_id not in called):
            continue
        pattern += re.escape(without_space(piece if isinstance(piece, str) else piece.text)) + between
    assert re.fullmatch(pattern + end, without_space(text), re.DOTALL), pieces
    for piece in pieces:
        if isinstance(piece, ToolCall):
            assert isinstance(json.loads(piece.arguments), dict)
            piece.arguments.encode()


# ---- what is well formed comes back

_words = st.text(max_size=12) | st.sampled_from(
    (
        "</tool_call>",
        "<tool_call>",
        "</parameter>",
        "]",
        '"}',
        "<think>",
        "\\",
        "'",
        "[ARGS]{",
        "\n\n x",
        "null",
        "3",
    )
)
_numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)
JSON_FORMATS = ("hermes", "mistral", "nemo", "kimi", "granite-3", "command-r7b", "solar-open")
PARAMETER_FORMATS = ("qwen-coder", "glm", "dsml", "muse", "kimi-k3")


def written(form: Format, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as the format writes them."""
    syntax = form.calls
    assert syntax is not None
    texts: list[str] = []
    for name, arguments in calls:
        if syntax.kind == "json":
            body = syntax.before_name + json.dumps(name) + syntax.before_arguments
            body += json.dumps(arguments, ensure_ascii=False) + syntax.after_arguments
        elif syntax.kind == "name_json":
            beside = "ab12cd34e" if syntax.name_open else ""
            body = beside + syntax.name_open + name + (syntax.id_open and syntax.id_open + "0")
            body += syntax.name_close + json.dumps(arguments)
        else:
            body = name + (syntax.id_open and syntax.id_open + "0") + syntax.name_close
            for key, value in arguments.items():
                kind = syntax.string_open if isinstance(value, str) else syntax.other_open
                text = value if isinstance(value, str) else json.dumps(value)
                body += syntax.parameter_open + key + kind + syntax.value_open + text + syntax.value_close
        texts.append(syntax.open + body + syntax.close)
    return syntax.section_open + syntax.separator.join(texts) + syntax.section_close


def check_round_trip(
    form: Format, data: st.DataObject, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    text = content + "\n" + written(form, calls)
    pieces = merged(parse(form, data.draw(cut(text))))
    found = [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, ToolCall)]
    assert found == calls
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == content.rstrip()


_names = st.sampled_from(("get_weather", "look_up"))
_contents = st.text(st.characters(exclude_characters="<[｜|]>{"), max_size=20).filter(
    lambda text: text == text.lstrip()
)


@pytest.mark.parametrize("name", JSON_FORMATS)
@given(
    data=st.data(),
    calls=st.lists(st.tuples(_names, st.dictionaries(_words, _values, max_size=3)), min_size=1, max_size=3),
    content=_contents,
)
@settings(max_examples=25)
def test_calls_in_json_come_back(
    name: str, data: st.DataObject, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    check_round_trip(FORMATS[name], data, calls, content)


@pytest.mark.parametrize("name", PARAMETER_FORMATS)
@given(
    data=st.data(),
    calls=st.lists(
        st.tuples(
            _names,
            st.fixed_dictionaries(
                {},
                optional={
                    "text": _words,
                    "count": st.integers(),
                    "any": _values.filter(lambda value: not isinstance(value, str)),
                },
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    content=_contents,
)
@settings(max_examples=25)
def test_calls_in_parameters_come_back(
    name: str, data: st.DataObject, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    form = FORMATS[name]
    assert form.calls is not None
    close = without_space(form.calls.value_close)
    for _, arguments in calls:
        # a value that ends as values end can't be told from one that has ended
        assume(close not in without_space(json.dumps(arguments, ensure_ascii=False)))
    header = form.header
    if header is not None:  # text stands in a message of its own
        content = ""
    check_round_trip(form, data, calls, content)


# ---- learning from templates that nobody has written


@st.composite
def renderer(draw: st.DrawFn) -> Callable[..., str]:
    """A template of random parts: of each message, call and argument it writes some, between anything."""
    marks = st.sampled_from(
        ("<a>", "</a>", "<|b|>", "[C]", "{", "}", "[", "]", "(", ")", ":", '"', "=", ", ", "\n", " ", "x", "")
    )

    def line(*fields: str) -> list[str]:
        return draw(st.lists(st.sampled_from(fields) | marks, max_size=6))

    head, message, call, argument = (
        line("tools"),
        line("role", "content", "reasoning", "calls"),
        line("name", "name", "json", "arguments", "arguments", "id"),
        line("key", "value", "json", "key", "value"),
    )
    refuses = draw(st.sampled_from(("", "calls", "reasoning", "two")))

    def render(
        messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True
    ) -> str:
        def fill(parts: list[str], **known: str) -> str:
            return "".join(known.get(part, part) for part in parts)

        text = fill(head, tools=json.dumps([tool.function.name for tool in tools]))
        for said in messages:
            calls = ""
            n_calls = len(said.tool_calls or ())
            if (n_calls and refuses == "calls") or (n_calls > 1 and refuses == "two"):
                raise TokenglassError("invalid_prompt", "no calls")
            if said.reasoning and refuses == "reasoning":
                raise TokenglassError("invalid_prompt", "no reasoning")
            for one in said.tool_calls or ():
                arguments = "".join(
                    fill(argument, key=key, value=str(value), json=json.dumps(value))
                    for key, value in json.loads(one.arguments).items()
                )
                whole = json.dumps({"name": one.name, "arguments": json.loads(one.arguments)})
                calls += fill(call, name=one.name, json=whole, arguments=arguments, id=one.id)
            reasoning = said.reasoning or ""
            text += fill(
                message, role=said.role, content=said.content or "", reasoning=reasoning, calls=calls
            )
        return text + ("<assistant>" if add_generation_prompt else "")

    return render


@given(data=st.data())
@settings(max_examples=400)
def test_learning_never_raises(data: st.DataObject) -> None:
    learned = learn(data.draw(renderer()))
    if learned.format is None:
        assert learned.reason
    else:
        parse(learned.format, [data.draw(garbage(learned.format)) if literals(learned.format) else "text"])
