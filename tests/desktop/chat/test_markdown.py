"""Streaming markdown: any split gives the blocks of the whole text, and blocks say what the text means."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from desktop.chat.markdown import Block, Span, StreamingMarkdown, parse

PIECES = [
    "- a", "-", "  - b", "1. x", "7. y", "2) z", "3.", "# h", "#", "## two", "***", "---", "===", "```",
    "```python", "~~~", "    code", "   ", "> q", ">", "> - l", "> ```", "| a | b |", "|---|:-:|", "| 1 |", "a | b",
    "--|--", "**b", "**", "*i*", "`c`", "`", "[l](http://a.b)", "![i](https://x/y.png)", "[r]: http://x", "[r]",
    "<b>", "<div>", "</div>", "<!-- c -->", "&amp;", "text", "  ", "\t", "\\", "\r", "\r\n", "http://a.b/c.", "- [ ] t",
    "\x00", "é", "🙂",
]  # fmt: skip
LINES = st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), max_size=12).map("\n".join)
TEXTS = st.one_of(LINES, st.text(alphabet="-*1.# >`|a\n\t ~=:[]()<_+\r", max_size=80))


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=12))
def test_any_split_gives_the_blocks_of_the_whole(text: str, cuts: list[int]) -> None:
    stream = StreamingMarkdown()
    at = 0
    for cut in sorted({min(cut, len(text)) for cut in cuts} | {len(text)}):
        before = list(stream.committed)
        stream.feed(text[at:cut])
        assert stream.committed[: len(before)] == before
        assert stream.blocks == parse(text[:cut])
        at = cut
    assert stream.blocks == parse(text)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_character_by_character(text: str) -> None:
    stream = StreamingMarkdown()
    for character in text:
        stream.feed(character)
    assert stream.blocks == parse(text)
