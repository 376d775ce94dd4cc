"""Streaming markdown: any split gives the blocks of the whole text, and blocks say what the text means."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from desktop.chat.markdown import Span, StreamingMarkdown, parse

PIECES = [
    "- a", "-", "  - b", "1. x", "7. y", "2) z", "3.", "# h", "#", "## two", "***", "---", "===", "```",
    "```python", "~~~", "    code", "   ", "> q", ">", "> - l", "> ```", "| a | b |", "|---|:-:|", "| 1 |",
    "a | b", "--|--", "**b", "**", "*i*", "`c`", "`", "[l](http://a.b)", "![i](https://x/y.png)",
    "[r]: http://x", "[r]", "<b>", "<div>", "</div>", "<!-- c -->", "&amp;", "text", "  ", "\t", "\\", "\r",
    "\r\n", "http://a.b/c.", "- [ ] t", "\x00", "é", "🙂",
]  # fmt: skip
LINES = st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), max_size=12).map("\n".join)
TEXTS = st.one_of(LINES, st.text(alphabet="-*1.# >`|a\n\t ~=:[]()<_+\r", max_size=80))


@settings(max_examples=400, deadline=None)
@example(text="- a\n- b| 1 |\n|---|:-:|", cuts=[])
@example(text="3. a\n7) b\n9) c| 1 |\n|---|:-:|\n12) d", cuts=[20])
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


def kinds(text: str) -> list[tuple[str, int, int, str]]:
    return [(block.kind, block.indent, block.quote, block.marker) for block in parse(text)]


def test_blocks() -> None:
    assert [block.kind for block in parse("# a\n\nb\n\n---\n```py\nc\n```\n|d|\n|-|\n")] == [
        "heading",
        "paragraph",
        "rule",
        "code",
        "table",
    ]


def test_lists_are_flat_and_numbered() -> None:
    assert kinds("3. a\n7. b\n   - c\n     - d\n\n- [x] e\n-\n") == [
        ("paragraph", 1, 0, "3."),
        ("paragraph", 1, 0, "4."),
        ("paragraph", 2, 0, "◦"),
        ("paragraph", 3, 0, "▪"),
        ("paragraph", 1, 0, "☑"),
        ("paragraph", 1, 0, "•"),
    ]


def test_code_in_a_list_and_in_a_quotation() -> None:
    assert kinds("1. a\n   ```\n   b\n   ```\n> ```\n> c\n") == [
        ("paragraph", 1, 0, "1."),
        ("code", 1, 0, ""),
        ("code", 0, 1, ""),
    ]


def test_an_open_fence_is_code_in_the_making() -> None:
    (block,) = parse("```Python extra\nx = 1\n\ny")
    assert (block.kind, block.language, block.text) == ("code", "python", "x = 1\n\ny")


def test_inline_styles() -> None:
    (block,) = parse("a **b *c*** `d` ~~e~~ [f](https://g.h) \\*")
    assert block.spans == (
        Span("a "),
        Span("b ", bold=True),
        Span("c", bold=True, italic=True),
        Span(" "),
        Span("d", code=True),
        Span(" "),
        Span("e", strike=True),
        Span(" "),
        Span("f", link="https://g.h"),
        Span(" *"),
    )


def test_only_web_links_can_be_clicked() -> None:
    text = (
        "[a](javascript:alert) [b](file:///etc/passwd) [c](HTTPS://x.y) see http://z/q. ![d](http://e/f.png)"
    )
    links = {span.text: span.link for block in parse(text) for span in block.spans if span.link}
    assert links == {"c": "HTTPS://x.y", "http://z/q": "http://z/q", "d": "http://e/f.png"}


def test_html_is_text() -> None:
    text = "<script>alert(1)</script> and <b>bold</b>"
    assert "".join(block.plain() for block in parse(text)) == text


def test_single_line_breaks_are_kept() -> None:
    assert parse("a\nb  \nc")[0].plain() == "a\nb\nc"


def test_tables() -> None:
    (block,) = parse("|a|b|c|\n|:-|:-:|-:|\n|1|**2**|\n")
    assert block.aligns == ("left", "center", "right")
    assert block.plain() == "a\tb\tc\n1\t2\t"


@pytest.mark.parametrize("prefix", ["> ", "- "])
def test_what_is_nested_too_deep_stands_as_it_is(prefix: str) -> None:
    (block,) = parse(prefix * 300 + "deep")
    assert block.plain() == prefix * 300 + "deep"


def test_hostile_text_is_shown() -> None:
    for text in ("[" * 30_000, "*a " * 20_000, "> " * 500 + "deep", "`" * 30_000):
        stream = StreamingMarkdown(text)
        assert stream.blocks == parse(text)
