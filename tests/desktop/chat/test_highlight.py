"""Syntax colours, line by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktop.chat.highlight import Kind, marks


def found(language: str, text: str) -> list[tuple[str, str]]:
    inside = ""
    result = []
    for line in text.split("\n"):
        line_marks, inside = marks(language, line, inside)
        result += [(kind.value, line[start : start + length]) for start, length, kind in line_marks]
    return result


def test_python() -> None:
    assert found("python", 'def f(x):\n    """Doc\n    more"""\n    return "a#b" + 42  # why') == [
        ("keyword", "def"),
        ("name", "f"),
        ("string", '"""Doc'),
        ("string", '    more"""'),
        ("keyword", "return"),
        ("string", '"a#b"'),
        ("number", "42"),
        ("comment", "# why"),
    ]


def test_json() -> None:
    assert found("json", '{"a": "b", "c": [1.5, true]}') == [
        ("name", '"a"'),
        ("string", '"b"'),
        ("name", '"c"'),
        ("number", "1.5"),
        ("keyword", "true"),
    ]


def test_shell() -> None:
    assert found("bash", 'if [ $A ]; then echo "x $B" # say\nfi') == [
        ("keyword", "if"),
        ("name", "$A"),
        ("keyword", "then"),
        ("keyword", "echo"),
        ("string", '"x $B"'),
        ("comment", "# say"),
        ("keyword", "fi"),
    ]


def test_comments_over_lines() -> None:
    assert found("js", "a /* b\nc */ let d") == [
        ("comment", "/* b"),
        ("comment", "c */"),
        ("keyword", "let"),
    ]


def test_text_has_no_colours() -> None:
    assert found("", 'if "a" # b') == []


@pytest.mark.parametrize("language", ["python", "json", "bash", "c", "unheard-of", ""])
@given(data=st.data())
def test_marks_lie_in_the_line_and_in_order(language: str, data: st.DataObject) -> None:
    line = data.draw(st.text(alphabet="\"'#/*$ab1{}: \\`\t-if", max_size=60))
    inside = data.draw(st.sampled_from(["", '"""', "'''", "*/"]))
    at = 0
    for start, length, kind in marks(language, line, inside)[0]:
        assert at <= start
        assert length > 0
        assert isinstance(kind, Kind)
        at = start + length
    assert at <= len(line)
