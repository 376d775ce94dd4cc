"""What a client reads about a wrong argument: where it is, what may stand there, and nothing of our types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from api import protocol
from api.settings import Settings, SettingsStore
from engine.errors import ErrorInfo, TokenglassError

OURS = re.compile(
    r"input should|valid |instance|dictionary|pydantic|field required|extra inputs|permitted|parse|branch"
    r"|value error|\bstr\b|\bint\b|\blist\[|union|constrained|function-|literal|can't be taken"
    r"|(?-i:None|Params|Choice|Spec|Message)\b|digits for|set_int|utf-8-sig",
    re.IGNORECASE,
)
"""What speaks of pydantic or Python, or of nothing."""
WRONG: tuple[Any, ...] = (
    5, -1, 2**40, 1.5, -1e9, True, "", "x", "x" * 400_000, [], [5], [[]], [["x"]], [[-1]], ["x", 7], [""],
    ["x"] * 5000, {}, {"x": 1}, [{}], [{"role": 5}], [{"type": "function"}],
    [{"role": "user", "content": [1]}], {"type": "function"}, {"type": "function", "function": {}},
    {"type": "json_schema", "json_schema": {"name": 5}}, {"type": 7}, {"temperature": "hot"},
    {"logit_bias": {"5": "x", "five": 1}}, {"logit_bias": []},
    [{"type": "function", "function": {"name": "bad name"}}],
)  # fmt: skip
COMMANDS = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(protocol.Command)[0])
}


def refused(data: dict[str, Any]) -> ErrorInfo | None:
    try:
        protocol.parse_command(data)
    except TokenglassError as error:
        return error.info
    return None


def stands(path: str, data: Any) -> bool:
    """Whether a path leads through what was sent; its end may be missing there."""
    *parts, last = path.split(".")
    for part in parts:
        try:
            data = data[int(part)] if isinstance(data, list) else data[part]
        except (KeyError, ValueError, IndexError, TypeError):
            return False
    return isinstance(data, dict) or (isinstance(data, list) and last.isdigit())


def check(info: ErrorInfo, data: dict[str, Any]) -> None:
    assert info.code == "invalid_argument"
    assert not OURS.search(info.message), info.message
    assert len(info.message) < 400
    if info.path is not None:
        assert info.message.startswith((f"{info.path}: ", "there is no setting "))
        assert stands(info.path, data), info.path


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_wrong_is_told_in_the_words_of_our_types(name: str) -> None:
    """Every argument of every command, with every kind of wrong value."""
    n_refused = 0
    for argument in [*COMMANDS[name].model_fields, "unheard_of"]:
        if argument in ("id", "type"):
            continue
        for value in WRONG:
            data: dict[str, Any] = {"type": name, argument: value}
            if (info := refused(data)) is not None:
                check(info, data)
                n_refused += 1
    assert n_refused >= len(WRONG)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_nor_is_a_wrong_setting(tmp_path: Path, name: str) -> None:
    store = SettingsStore(tmp_path / "settings.json")
    for value in WRONG:
        try:
            store.update({name: value})
        except TokenglassError as error:
            check(error.info, {"settings": {name: value}})


GENERATE = {"type": "generate", "prompt": "hi"}


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ({**GENERATE, "sampling": 5}, "sampling: must be an object"),
        ({**GENERATE, "sampling": {"top_k": "x"}}, "sampling.top_k: must be a whole number"),
        ({**GENERATE, "sampling": {"top_p": 2}}, "sampling.top_p: must be at most 1.0"),
        ({**GENERATE, "sampling": {"heat": 2}}, "sampling.heat: there is no such argument"),
        (
            {**GENERATE, "sampling": {"logit_bias": {"five": 1}}},
            "sampling.logit_bias.five: its name must be a whole number",
        ),
        ({**GENERATE, "stop": [""]}, "stop.0: must not be empty"),
        ({**GENERATE, "on_disconnect": "x"}, "on_disconnect: must be 'continue' or 'cancel'"),
        ({**GENERATE, "tool_choice": 5}, "tool_choice: must be 'auto', 'none', 'required' or an object"),
        ({**GENERATE, "tool_choice": {"type": "function"}}, "tool_choice.function: is missing"),
        ({"type": "generate", "prompt": [1, -5]}, "prompt.1: must be at least 0"),
        ({"type": "generate", "prompt": {}}, "prompt: must be a string or a list"),
        (
            {"type": "generate"},
            "give exactly one of messages, prompt, or conversation_id with content or parent",
        ),
        ({"type": "embed"}, "input: is missing"),
        ({"type": "embed", "input": 5}, "input: must be a string or a list"),
        ({"type": "embed", "input": []}, "input: must not be empty"),
        ({"type": "embed", "input": ["x"] * 2049}, "input: may have at most 2048 items"),
        ({"type": "embed", "input": ["x", 7]}, "input.1: must be a string or a list"),
        ({"type": "embed", "input": [[5, -1], 7]}, "input.0.1: must be at least 0"),
        ({"type": "subscribe", "generations": "x"}, "generations: must be 'all', 'own' or a list"),
        ({"type": "subscribe", "generations": ["a", 5]}, "generations.1: must be a string"),
        ({"type": "publish", "series": "x", "value": "y"}, "value: must be a number"),
    ),
)
def test_what_may_stand_there(data: dict[str, Any], message: str) -> None:
    info = refused(data)
    assert info is not None
    assert info.message == message


def test_a_long_name_is_shown_in_part() -> None:
    info = refused({"type": "ping", "x" * 5000: 1})
    assert info is not None
    assert info.path == "x" * 100


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("\ufeff{}", "begins with a byte order mark"),
        ('{"a":' + "9" * 5000 + "}", "a number has too many digits"),
        ('{"a":1,"a":2}', "not JSON: a name stands twice in one object"),
        ('{"a":', "not JSON: Expecting value: line 1 column 6 (char 5)"),
    ),
)
def test_what_is_no_json_is_told_without_python(text: str, message: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        protocol.decode(text)
    assert caught.value.info.message == message
