"""Markdown as it streams: finished blocks are committed, only the open tail is parsed again.

The result is a flat list of plain values (`Block`), which `desktop.chat.pieces` lays out. A block is
committed when a later block has begun in complete lines, since markdown reads line by line: text that
is only appended can't change it any more. So for any split of a text into chunks the blocks are those
of the whole text.

Raw HTML is text, images are links (nothing is fetched), a single line break breaks the line, and link
references (`[a]: …` somewhere below) are not resolved, because they would change committed blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

MAX_INLINE = 20_000
"""Longer paragraphs are shown as plain text: the inline parser is quadratic in the worst case."""

MAX_NESTING = 40
"""Of lists and quotations in each other."""

MAX_REMEMBERED = 300
"""Characters up to which the runs of a paragraph or cell are remembered."""

_parser = (
    MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    .enable(["table", "strikethrough"])
    .disable(["reference", "inline", "text_join"])
)
_inline_parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(
    ["strikethrough"]
)

_BARE_LINK = re.compile(r"https?://[^\s<>\"'`|\\^{}\[\]]+")
_NEWLINES = re.compile(r"\r\n?")
_ITEM = re.compile(r"(\s*)\d*([-+*.)])")


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text in one style."""

    text: str
    bold: bool = False
    italic: bool = False
    strike: bool = False
    code: bool = False
    link: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """One leaf of the document: a paragraph, heading, code block, table or rule."""

    kind: Literal["paragraph", "heading", "code", "table", "rule"]
    spans: tuple[Span, ...] = ()
    level: int = 0
    """Of a heading, 1 to 6."""
    text: str = ""
    """Of a code block, without the last line break."""
    language: str = ""
    rows: tuple[tuple[tuple[Span, ...], ...], ...] = ()
    """Of a table; the first is its head."""
    aligns: tuple[Literal["left", "center", "right"], ...] = ()
    indent: int = 0
    """Levels of lists around it."""
    quote: int = 0
    """Levels of quotations around it."""
    marker: str = ""
    """Bullet, number or check box of the list item that begins here."""

    def plain(self) -> str:
        """What a reader would copy."""
        if self.kind == "code":
            return self.text
        if self.kind == "table":
            return "\n".join("\t".join(_plain(cell) for cell in row) for row in self.rows)
        return _plain(self.spans)


def _plain(spans: Iterable[Span]) -> str:
    return "".join(span.text for span in spans)


@dataclass(slots=True)
class _Unit:
    """A top-level block, or one item of a top-level list: what can be committed on its own."""

    line: int
    blocks: list[Block]
    number: int | None = None
    """Of an item in an ordered list."""
    continues: bool = False
    """An item that isn't its list's first."""


class StreamingMarkdown:
    """Blocks of a text that grows.

    `committed` only ever gets longer; `tail` is replaced by each `feed`.
    """

    def __init__(self, text: str = "") -> None:
        self.committed: list[Block] = []
        self.tail: list[Block] = []
        self._open = ""
        """Complete lines that aren't committed."""
        self._line = ""
        """The last line, still without its end."""
        self._before = ""
        """An item before `_open`, where this goes on with a list: alone it might be something else."""
        if text:
            self.feed(text)

    @property
    def blocks(self) -> list[Block]:
        return self.committed + self.tail

    def after(self, number: int) -> list[Block]:
        """The blocks from the given one on."""
        return self.committed[number:] + self.tail[max(0, number - len(self.committed)) :]

    def feed(self, chunk: str) -> None:
        """Append text; costs about as much as the open tail is long."""
        text = self._line + chunk
        end = text.rfind("\n") + 1
        if end:
            self._open += _NEWLINES.sub("\n", text[:end])
            self._line = text[end:]
            units = self._commit()
        else:
            self._line = text
            units = []
        if self._line or not end:
            units = self._parse(self._open + _NEWLINES.sub("\n", self._line))
        self.tail = [block for unit in units for block in unit.blocks]

    def _commit(self) -> list[_Unit]:
        """Commit what complete lines have closed; answers what stays open."""
        units = self._parse(self._open)
        if len(units) < 2:
            return units
        last = units[-1]
        for unit in units[:-1]:
            self.committed += unit.blocks
        self._open = _from_line(self._open, last.line)
        self._before = _item_before(self._open, last.number) if last.continues else ""
        return [last]

    def _parse(self, text: str) -> list[_Unit]:
        """The units of what isn't committed."""
        units = _parse(self._before + text)
        if self._before:
            del units[0]
            for unit in units:
                unit.line -= 1
        return units


def _item_before(text: str, number: int | None) -> str:
    """A line with an item of the list with whose item `text` begins; `number` is that of the latter."""
    found = _ITEM.match(text)
    assert found is not None
    indent, mark = found.groups()
    return f"{indent}{'' if number is None else number - 1}{mark} x\n"


def _from_line(text: str, line: int) -> str:
    at = 0
    for _ in range(line):
        at = text.index("\n", at) + 1
    return text[at:]


def parse(text: str) -> list[Block]:
    """The blocks of a whole text."""
    return [block for unit in _parse(_NEWLINES.sub("\n", text)) for block in unit.blocks]


def _parse(text: str) -> list[_Unit]:
    units: list[_Unit] = []
    tokens = _parser.parse(text)
    at = 0
    while at < len(tokens):
        end = _closing(tokens, at)
        token = tokens[at]
        if token.type in ("bullet_list_open", "ordered_list_open"):
            count = _start(token)
            first = True
            inner = at + 1
            while inner < end:
                close = _closing(tokens, inner)
                item = tokens[inner]
                ordered = token.type == "ordered_list_open"
                reader = _Reader(tokens)
                reader.item(inner, close, f"{count}." if ordered else None)
                blocks = _or_source(reader.blocks, tokens[inner : close + 1], text)
                units.append(_Unit(_line(item), blocks, count if ordered else None, continues=not first))
                count += 1
                first = False
                inner = close + 1
        else:
            reader = _Reader(tokens)
            reader.read(at, end + 1)
            units.append(_Unit(_line(token), _or_source(reader.blocks, tokens[at : end + 1], text)))
        at = end + 1
    return units


def _or_source(blocks: list[Block], tokens: list[Token], text: str) -> list[Block]:
    """The blocks, or the text as it stands where it is nested deeper than the parser goes."""
    if max(token.level for token in tokens) < MAX_NESTING - 2:
        return blocks
    first, last = tokens[0].map or (0, 0)
    source = "\n".join(text.split("\n")[first:last]).strip()
    return [Block("paragraph", spans=(Span(source),))]


def _line(token: Token) -> int:
    return token.map[0] if token.map else 0


def _start(token: Token) -> int:
    return int(token.attrs.get("start", 1))


def _closing(tokens: list[Token], at: int) -> int:
    """Index of the token that closes the one at `at`; `at` itself where that doesn't open anything."""
    if tokens[at].nesting != 1:
        return at
    level = tokens[at].level
    end = at + 1
    while not (tokens[end].level == level and tokens[end].nesting == -1):
        end += 1
    return end


class _Reader:
    """Turns block tokens into flat blocks."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self.blocks: list[Block] = []
        self._indent = 0
        self._quote = 0
        self._marker = ""

    def read(self, at: int, end: int) -> None:
        while at < end:
            token = self._tokens[at]
            close = _closing(self._tokens, at)
            match token.type:
                case "paragraph_open":
                    self._add(Block("paragraph", spans=_spans(self._tokens[at + 1].content)))
                case "heading_open":
                    spans = _spans(self._tokens[at + 1].content)
                    self._add(Block("heading", spans=spans, level=int(token.tag[1:])))
                case "fence" | "code_block":
                    info = token.info.strip().split(maxsplit=1)
                    language = info[0].lower() if info else ""
                    self._add(Block("code", text=token.content.removesuffix("\n"), language=language))
                case "hr":
                    self._add(Block("rule"))
                case "table_open":
                    self._table(at, close)
                case "blockquote_open":
                    self._quote += 1
                    self.read(at + 1, close)
                    self._quote -= 1
                case "bullet_list_open" | "ordered_list_open":
                    self._list(at, close)
                case _:
                    pass
            at = close + 1

    def item(self, at: int, close: int, number: str | None) -> None:
        self._marker = number or "•◦▪"[min(self._indent, 2)]
        self._indent += 1
        self.read(at + 1, close)
        if self._marker:
            self._add(Block("paragraph"))
        self._indent -= 1

    def _list(self, at: int, close: int) -> None:
        ordered = self._tokens[at].type == "ordered_list_open"
        number = _start(self._tokens[at])
        inner = at + 1
        while inner < close:
            end = _closing(self._tokens, inner)
            self.item(inner, end, f"{number}." if ordered else None)
            number += 1
            inner = end + 1

    def _table(self, at: int, close: int) -> None:
        rows: list[tuple[tuple[Span, ...], ...]] = []
        row: list[tuple[Span, ...]] = []
        aligns: list[Literal["left", "center", "right"]] = []
        for token in self._tokens[at:close]:
            if token.type == "th_open":
                style = str(token.attrs.get("style", ""))
                aligns.append("right" if "right" in style else "center" if "center" in style else "left")
            elif token.type == "inline":
                row.append(_spans(token.content))
            elif token.type == "tr_close":
                rows.append(tuple(row))
                row = []
        self._add(Block("table", rows=tuple(rows), aligns=tuple(aligns)))

    def _add(self, block: Block) -> None:
        marker, self._marker = self._marker, ""
        if marker and block.kind == "paragraph" and block.spans:
            first = block.spans[0]
            box = {"[ ] ": "☐", "[x] ": "☑", "[X] ": "☑"}.get(first.text[:4])
            if box:
                marker = box
                block = replace(block, spans=(replace(first, text=first.text[4:]), *block.spans[1:]))
        self.blocks.append(replace(block, indent=self._indent, quote=self._quote, marker=marker))


def _spans(source: str) -> tuple[Span, ...]:
    """Inline markdown as styled runs."""
    if len(source) > MAX_INLINE:
        return (Span(source),)
    return _parse_short(source) if len(source) <= MAX_REMEMBERED else _parse_inline(source)


def _parse_inline(source: str) -> tuple[Span, ...]:
    spans: list[Span] = []
    for span in _styled(_inline_parser.parseInline(source)[0].children or []):
        if not span.text:
            continue
        if spans and replace(spans[-1], text="") == replace(span, text=""):
            spans[-1] = replace(span, text=spans[-1].text + span.text)
        else:
            spans.append(span)
    return tuple(part for span in spans for part in _linked(span))


# The cells and items of an open table or list are parsed again with each frame.
_parse_short = lru_cache(2048)(_parse_inline)


def _styled(tokens: list[Token]) -> Iterator[Span]:
    bold = italic = strike = 0
    link = ""
    for token in tokens:
        match token.type:
            case "strong_open" | "strong_close":
                bold += token.nesting
            case "em_open" | "em_close":
                italic += token.nesting
            case "s_open" | "s_close":
                strike += token.nesting
            case "link_open":
                link = _safe(str(token.attrs.get("href", "")))
            case "link_close":
                link = ""
            case "softbreak" | "hardbreak":
                yield Span("\n", bool(bold), bool(italic), bool(strike), link=link)
            case "code_inline":
                yield Span(token.content, bool(bold), bool(italic), bool(strike), code=True, link=link)
            case "image":
                target = link or _safe(str(token.attrs.get("src", "")))
                yield Span(token.content or target, bool(bold), bool(italic), bool(strike), link=target)
            case _:
                yield Span(token.content, bool(bold), bool(italic), bool(strike), link=link)


def _safe(target: str) -> str:
    """The target where a click may open it, else nothing."""
    return target if target.lower().startswith(("http://", "https://")) else ""


def _linked(span: Span) -> Iterator[Span]:
    """Split bare addresses off as links."""
    if span.code or span.link or "://" not in span.text:
        yield span
        return
    at = 0
    for found in _BARE_LINK.finditer(span.text):
        address = found.group().rstrip(".,;:!?)*_~")
        if found.start() > at:
            yield replace(span, text=span.text[at : found.start()])
        yield replace(span, text=address, link=address)
        at = found.start() + len(address)
    if at < len(span.text):
        yield replace(span, text=span.text[at:])
