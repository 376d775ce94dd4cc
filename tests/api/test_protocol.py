import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import protocol
from engine.errors import ErrorInfo, TokenglassError
from engine.types import Usage

MESSAGES = [{"role": "user", "content": "hi"}]


def refused(data: dict[str, Any]) -> ErrorInfo:
    with pytest.raises(TokenglassError) as caught:
        protocol.parse_command(data)
    return caught.value.info


def not_json(text: str) -> ErrorInfo:
    with pytest.raises(TokenglassError) as caught:
        protocol.decode(text)
    assert caught.value.code == "invalid_json"
    return caught.value.info


def test_generate_in_its_three_forms() -> None:
    for source in (
        {"messages": MESSAGES},
        {"prompt": "Once"},
        {"conversation_id": "c", "content": "hi"},
        {"conversation_id": "c", "parent": "m"},
    ):
        command = protocol.parse_command({"id": 1, "type": "generate", **source})
        assert isinstance(command, protocol.Generate)


@pytest.mark.parametrize(
    "source",
    (
        {},
        {"messages": MESSAGES, "prompt": "Once"},
        {"conversation_id": "c"},
        {"conversation_id": "c", "content": "a", "parent": "b"},
        {"parent": "m"},
        {"content": "hi"},
        {"messages": MESSAGES, "content": "hi"},
        {"prompt": "Once", "conversation_id": "c", "content": "a"},
    ),
)
def test_generate_takes_exactly_one_source(source: dict[str, Any]) -> None:
    assert refused({"type": "generate", **source}).code == "invalid_argument"


@pytest.mark.parametrize(
    ("argument", "value", "path"),
    (
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", "5", "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("messages", [], "messages"),
        ("messages", "hi", "messages"),
        ("messages", [{"role": "wizard", "content": ""}], "messages.0.role"),
        ("messages", [{"role": "user", "content": 5}], "messages.0.content"),
        ("messages", [{"role": "user", "content": "a", "extra": 1}], "messages.0.extra"),
        ("sampling", {"temperature": -1}, "sampling.temperature"),
        ("sampling", {"temperature": math.nan}, "sampling.temperature"),
        ("sampling", {"temperature": "hot"}, "sampling.temperature"),
        ("sampling", {"seed": 2**32}, "sampling.seed"),
        ("sampling", {"top_k": 2**53}, "sampling.top_k"),
        ("sampling", {"mirostat": 1}, "sampling.mirostat"),
        ("sampling", {"logit_bias": {"5": 1e9}}, "sampling.logit_bias.5"),
        ("sampling", {"logit_bias": {"five": 1}}, "sampling.logit_bias.five"),
        ("stop", [""], "stop.0"),
        ("stop", ["x"] * 17, "stop"),
        ("logprobs", 21, "logprobs"),
        ("on_disconnect", "explode", "on_disconnect"),
        ("tools", [{"type": "function", "function": {"name": "bad name"}}], "tools.0.function.name"),
        ("unknown", 1, "unknown"),
        ("generate", 1, "generate"),
    ),
)
def test_a_wrong_argument_is_named(argument: str, value: object, path: str) -> None:
    error = refused({"type": "generate", "messages": MESSAGES, argument: value})
    assert (error.code, error.path) == ("invalid_argument", path)


def test_a_path_holds_nothing_but_the_contracts_names() -> None:
    assert refused({"type": "subscribe", "generations": "x"}).path == "generations"
    assert refused({"type": "subscribe", "generations": [5]}).path == "generations.0"


def test_titles_are_stripped_and_not_blank() -> None:
    rename = {"type": "conversations.rename", "conversation_id": "c"}
    for title in ("", " ", "\n\t\u00a0"):
        assert refused({**rename, "title": title}).path == "title"
    renamed = protocol.parse_command({**rename, "title": " Lakes "})
    assert isinstance(renamed, protocol.ConversationsRename)
    assert renamed.title == "Lakes"
    created = protocol.parse_command({"type": "conversations.create", "title": "  "})
    assert isinstance(created, protocol.ConversationsCreate)
    assert created.title == ""


def test_null_is_an_argument_left_out() -> None:
    command = protocol.parse_command(
        {"id": None, "type": "generate", "messages": MESSAGES, "max_tokens": None, "grammar": None}
    )
    assert isinstance(command, protocol.Generate)
    assert command.max_tokens is None


def test_unknown_commands() -> None:
    error = refused({"type": "x" * 5000})
    assert error.code == "unknown_command"
    assert len(error.message) < 200
    assert refused({"id": 1}).path == "type"
    assert refused({"type": 5}).path == "type"
    assert refused({"type": ["generate"]}).path == "type"


def test_the_id_may_be_any_json_value() -> None:
    for value in (1, "a", 1.5, None, True, [1], {"a": 1}):
        data = {"id": value, "type": "ping"}
        assert protocol.command_id(data) == value
        assert protocol.parse_command(data).id == value
    assert protocol.command_id({"type": "ping"}) is None
    with pytest.raises(TokenglassError) as caught:
        protocol.command_id({"id": "x" * 2000})
    assert caught.value.info.path == "id"


@pytest.mark.parametrize(
    "text",
    (
        "",
        "x",
        "[]",
        "5",
        "null",
        '"ping"',
        "{",
        '{"a":1} x',
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":1e400}',
        '{"a":1,"a":2}',
        '{"b":{"a":1,"a":1}}',
        '{"a":"\\ud800"}',
        '{"\\udfff":1}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' + "[" * 900 + "]" * 900 + "}",
        '{"a":' + "9" * 5000 + "}",
        "\ufeff{}",
    ),
)
def test_what_is_not_clean_json(text: str) -> None:
    assert len(not_json(text).message) < 300


def test_nesting_up_to_the_limit() -> None:
    inside = protocol.MAX_DEPTH - 1
    assert protocol.decode('{"a":' + "[" * inside + "]" * inside + "}")
    not_json('{"a":' + "[" * (inside + 1) + "]" * (inside + 1) + "}")


@pytest.mark.parametrize("value", ("1", '""', "[]", "{}", '"\\\\"'))
def test_a_frame_holds_a_limited_number_of_values(value: str) -> None:
    assert "values" in not_json(f'{{"a":[{",".join([value] * (protocol.MAX_VALUES + 1))}]}}').message


def test_commas_in_a_text_are_no_values() -> None:
    text = 'a,"b\\,' * protocol.MAX_VALUES
    assert protocol.decode(json.dumps({"prompt": text, "x": [1, 2]}))["prompt"] == text


def test_surrogate_pairs_are_characters() -> None:
    assert protocol.decode('{"a":"\\ud83d\\ude00"}') == {"a": "😀"}


def test_replies() -> None:
    assert json.loads(protocol.reply_ok(7, {"generation_id": "g"})) == {
        "type": "reply",
        "id": 7,
        "ok": True,
        "result": {"generation_id": "g"},
    }
    error = ErrorInfo(code="busy", message="later", hint="wait")
    assert json.loads(protocol.reply_error(None, error)) == {
        "type": "reply",
        "id": None,
        "ok": False,
        "error": {"code": "busy", "message": "later", "path": None, "hint": "wait"},
    }


def test_frames_take_our_values_and_nothing_else() -> None:
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=2)
    assert json.loads(protocol.encode({"usage": usage}))["usage"]["completion_tokens"] == 2
    assert json.loads(protocol.encode({"text": "\ud800"})) == {"text": "?"}
    with pytest.raises(TypeError):
        protocol.encode({"x": object()})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ("generate", "subscribe", "cancel", "ping", "settings.set", "tool_result", "conversations.import")
)
arguments = st.sampled_from(
    ("id", "messages", "prompt", "sampling", "stop", "tools", "events", "since", "generations", "settings",
     "generation_id", "call_id", "data", "__proto__", "logprobs", "conversation_id", "content", "model")
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(name=names | st.text(max_size=8), body=st.dictionaries(arguments, json_values, max_size=5))
def test_any_object_is_a_command_or_an_error(name: str, body: dict[str, Any]) -> None:
    frame = b"{}"
    try:
        protocol.parse_command({**body, "type": name})
    except TokenglassError as error:
        frame = protocol.reply_error(None, error.info)
    assert isinstance(json.loads(frame), dict)


def test_damaged_frames_are_commands_or_errors() -> None:
    chance = random.Random(5)
    good = json.dumps(
        {"id": 1, "type": "generate", "messages": MESSAGES, "sampling": {"temperature": 0.5, "seed": 7},
         "stop": ["\n"], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}}]}
    )  # fmt: skip
    parts = ["{", "}", "[", "]", '"', ",", ":", "1e400", "null", "NaN", "\\", "\\ud800", "-", "\x00", "true"]
    outcomes = set()
    for _ in range(5000):
        text = good
        for _ in range(chance.randint(1, 3)):
            at, length = chance.randrange(len(text)), chance.choice((0, 0, 1, 3))
            text = text[:at] + chance.choice(parts) + text[at + length :]
        try:
            protocol.parse_command(protocol.decode(text))
            outcomes.add("fine")
        except TokenglassError as error:
            outcomes.add(error.code)
    assert outcomes >= {"invalid_json", "invalid_argument", "fine"}
