"""Bytes to text: whole characters only, and the same text for any split."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.detokenize import Detokenizer, PieceCache


def pieces_of(table: list[bytes]) -> PieceCache:
    return PieceCache(table.__getitem__)


def feed(chunks: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(pieces_of(chunks))
    return [*(detokenizer.push(i) for i in range(len(chunks))), detokenizer.finish()]


def test_bytes_are_withheld_until_the_character_is_whole() -> None:
    assert feed([b"a\xf0\x9f", b"\x8c", b"\xb1b", b"c"]) == ["a", "", "🌱b", "c", ""]


def test_control_tokens_have_no_text_but_for_those_shown() -> None:
    def piece(token: int, *, special: bool = False) -> bytes:
        return b"<|%d|>" % token if special else b""

    pieces = PieceCache(piece)
    assert Detokenizer(pieces).push(1) == ""
    detokenizer = Detokenizer(pieces, frozenset({1}))
    assert [detokenizer.push(token) for token in (1, 2, 1)] == ["<|1|>", "", "<|1|>"]
    assert pieces.text(1) == ""


def test_what_never_becomes_a_character_is_replaced() -> None:
    assert feed([b"a", b"\xf0\x9f"]) == ["a", "", "\ufffd"]
    assert feed([b"\xc3", b"x"]) == ["", "\ufffdx", ""]
    assert feed([b"\xff", b"x"]) == ["\ufffd", "x", ""]


def test_control_tokens_say_nothing() -> None:
    assert feed([b"", b"a", b""]) == ["", "a", "", ""]
    assert feed([b"\xc3", b"", b"\xa9"]) == ["", "", "é", ""]


def test_each_piece_is_asked_for_once() -> None:
    asked: list[int] = []

    def piece(token: int) -> bytes:
        asked.append(token)
        return b"\xc3" if token else b"a"

    cache = PieceCache(piece)
    assert [cache.get(0), cache.get(1), cache.get(0), cache.get(1)] == ["a", b"\xc3", "a", b"\xc3"]
    assert asked == [0, 1]
    assert cache.text(1) == "\ufffd"


@st.composite
def _splits(draw: st.DrawFn) -> list[bytes]:
    data = draw(st.text(max_size=40).map(str.encode) | st.binary(max_size=60))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=20))
    return [data[a:b] for a, b in pairwise([0, *sorted(cuts), len(data)])]


@given(chunks=_splits())
def test_any_split_gives_the_same_text(chunks: list[bytes]) -> None:
    assert "".join(feed(chunks)) == b"".join(chunks).decode("utf-8", "replace")
