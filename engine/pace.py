"""How many prompt tokens may ride along while others decode, so that these don't stutter."""

from __future__ import annotations

STRETCH = 2.5
"""A step with prompt tokens may take so many times as long as one without. The promise is 3 at the 99th
percentile; this leaves room for steps that turn out longer than foreseen. A model so small that a prompt
token costs nearly a step of its own needs most of it to get on at all."""
REMEASURE_AFTER = 50
"""Steps with prompt tokens after which one goes without, since decoding gets slower as contexts grow."""
_WEIGHT = 0.3  # of a new measurement
_GROWTH = 1.6  # at most, of an estimate and of the number of tokens, from one step to the next


class Pace:
    """Learns from past steps what a decoding step takes and what a prompt token adds to it.

    The scheduler asks before each step and tells after it:

        n_prompt = pace.allowance(n_decode)     # then fill the batch with at most so many prompt tokens
        pace.observe(n_decode, n_prompt, milliseconds of Backend.decode)

    `n_decode` counts the tokens of slots that decode, guesses of prompt lookup too; `n_prompt` those that
    were really in the batch. Knows no clock. Steps that failed aren't told.
    """

    def __init__(self, n_batch: int) -> None:
        self._n_batch = n_batch
        self._decode_ms: dict[int, float] = {}
        """By number of decoding tokens: milliseconds of a step of these alone."""
        self._added_ms = self._added_tokens = 0.0
        """What prompt tokens added to steps, and how many they were; sums in which the past fades."""
        self._last = 0.0
        """Prompt tokens of the last step that had some beside decoding ones."""
        self._since_measured = 0

    def allowance(self, n_decode: int) -> int:
        """At most so many prompt tokens beside `n_decode` decoding ones; never 0 twice in a row.

        All that the batch has room for where nothing decodes. 0 where the time of decoding alone is to be
        measured first.
        """
        room = max(0, self._n_batch - n_decode)
        if n_decode == 0:
            return room
        decode_ms = self._alone(n_decode)
        if decode_ms is None or self._since_measured >= REMEASURE_AFTER:
            return 0
        n = max(self._last + 1, self._last * _GROWTH)
        if self._added_ms > 0:
            n = min(n, (STRETCH - 1) * decode_ms * self._added_tokens / self._added_ms)
        return min(room, max(1, int(n)))

    def observe(self, n_decode: int, n_prompt: int, ms: float) -> None:
        """Take note of a step."""
        if n_decode == 0 or ms <= 0:
            return
        if n_prompt == 0:
            self._since_measured = 0
            known = self._decode_ms.get(n_decode, ms)
            self._decode_ms[n_decode] = known + _WEIGHT * (min(ms, known * _GROWTH) - known)
            return
        self._since_measured += 1
        self._last = n_prompt
        alone = self._alone(n_decode)
        if alone is None:
            return
        if ms < alone:  # then decoding alone takes less than thought
            self._decode_ms[n_decode] = ms
        added = max(ms - alone, 0.0)
        if self._added_ms > 0:  # a hiccup of the machine isn't the prompt's doing
            added = min(added, alone / 2 + _GROWTH * n_prompt * self._added_ms / self._added_tokens)
        self._added_ms += added - _WEIGHT * self._added_ms
        self._added_tokens += n_prompt - _WEIGHT * self._added_tokens

    def _alone(self, n_decode: int) -> float | None:
        """Milliseconds of a step that only decodes, or less; None: nothing known."""
        known = self._decode_ms.get(n_decode)
        if known is None:
            # fewer tokens take less
            known = max((ms for n, ms in self._decode_ms.items() if n < n_decode), default=None)
        return known
