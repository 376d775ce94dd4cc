"""Prompt lookup: guesses what comes next from where the last tokens have stood before.

The guesses of speculative decoding without a second model, as in llama.cpp's `lookup` and Hugging Face's
`prompt_lookup_num_tokens`. Good where an answer repeats its prompt: code that is edited, quotes, lists.
"""

from __future__ import annotations

from collections.abc import Iterable

NGRAM_SIZES = (4, 3, 2)
"""Lengths of the last tokens that are looked for, longest first."""


class Lookup:
    """The tokens of one generation with an index of their n-grams.

    `add` takes about a microsecond a token, `propose` less than one, however many tokens there are.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}
        """By n-gram: where it ended last (the index after its last token)."""
        self._before: list[tuple[int, ...]] = []
        """By token and n-gram size: where the n-gram that ends with the token ended before; -1: nowhere."""
        self.add(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, tokens: Iterable[int]) -> None:
        """Append tokens, in whatever way they came to be there."""
        known, last, before = self._tokens, self._last, self._before
        end = len(known)
        for token in tokens:
            known.append(token)
            end += 1
            places = []
            for size in NGRAM_SIZES:
                place = -1
                if size <= end:
                    ngram = tuple(known[end - size :])
                    place = last.get(ngram, -1)
                    last[ngram] = end
                places.append(place)
            before.append(tuple(places))

    def rewind(self, n_tokens: int) -> None:
        """Forget all but the first `n_tokens`."""
        known, last = self._tokens, self._last
        for end in range(len(known), n_tokens, -1):
            places = self._before.pop()
            for size, place in zip(NGRAM_SIZES, places, strict=True):
                if size > end:
                    continue
                ngram = tuple(known[end - size : end])
                if place < 0:
                    del last[ngram]
                else:
                    last[ngram] = place
            known.pop()

    def propose(self, max_tokens: int) -> list[int]:
        """At most `max_tokens` tokens that may come next; none where the last tokens are new.

        What followed the latest earlier occurrence of the last four tokens, else of the last three or two.
        Where that runs up to the end, it goes round.
        """
        if not self._before:
            return []
        place = next((place for place in self._before[-1] if place >= 0), -1)
        if place < 0 or max_tokens <= 0:
            return []
        followed = self._tokens[place : place + max_tokens]
        while len(followed) < max_tokens:
            followed += followed[: max_tokens - len(followed)]
        return followed
