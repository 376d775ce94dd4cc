"""Tokens to text: pieces may end inside a UTF-8 character, so bytes are withheld until it is whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Container

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class PieceCache:
    """Each token's piece, asked of the backend once: text where it stands alone, else bytes."""

    def __init__(self, piece: Callable[..., bytes]) -> None:
        """`piece` is `Backend.piece`."""
        self._piece = piece
        self._cache: dict[int, str | bytes] = {}
        self._control: dict[int, str | bytes] = {}

    def get(self, token: int) -> str | bytes:
        found = self._cache.get(token)
        if found is None:
            found = self._cache[token] = _text_or_bytes(self._piece(token))
        return found

    def control(self, token: int) -> str | bytes:
        """The piece of a control token that stands for a text."""
        found = self._control.get(token)
        if found is None:
            found = self._control[token] = _text_or_bytes(self._piece(token, special=True))
        return found

    def text(self, token: int) -> str:
        """The piece as text by itself; what is no UTF-8 becomes U+FFFD."""
        piece = self.get(token)
        return piece if isinstance(piece, str) else piece.decode("utf-8", "replace")


def _text_or_bytes(piece: bytes) -> str | bytes:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return piece


class Detokenizer:
    """One generation's tokens to text. The whole text doesn't depend on where bytes are split."""

    __slots__ = ("_decoder", "_pieces", "_shown", "_withholds")

    def __init__(self, pieces: PieceCache, shown: Container[int] = ()) -> None:
        """Control tokens have no text, but for those `shown`."""
        self._pieces = pieces
        self._shown = shown
        self._decoder: codecs.IncrementalDecoder | None = None
        self._withholds = False

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        piece = self._pieces.control(token) if token in self._shown else self._pieces.get(token)
        if isinstance(piece, str):
            if not self._withholds:
                return piece
            piece = piece.encode()
        if self._decoder is None:
            self._decoder = _utf8_decoder("replace")
        text = self._decoder.decode(piece)
        self._withholds = bool(self._decoder.getstate()[0])
        return text

    def finish(self) -> str:
        """U+FFFD for bytes that never became a character."""
        if not self._withholds or self._decoder is None:
            return ""
        self._withholds = False
        return self._decoder.decode(b"", final=True)
