"""How many prompt tokens may ride along while others decode, so that these don't stutter.

A long prompt is computed in small chunks, each step a little longer than without. A short one is taken whole:
one step is noticeably longer then, but small chunks cost several times as much a token, which would make
everybody wait for longer in the end.
"""

from __future__ import annotations

STRETCH = 2.5
"""A step with prompt tokens may take so many times as long as one without. The promise is 3 at the 99th
percentile; this leaves room for steps that turn out longer than foreseen. A model so small that a prompt
token costs nearly a step of its own needs most of it to get on at all."""
SHORT_PROMPT = 128
"""Tokens that may be computed in one step beside decoding ones, where that takes `HICCUP_MS` at most."""
HICCUP_MS = 400.0
REMEASURE_AFTER = 50
"""Steps with prompt tokens after which one goes without, since decoding gets slower as contexts grow."""
_WEIGHT = 0.3  # of a new measurement
_GROWTH = 1.6  # at most, of an estimate and of the number of tokens, from one step to the next


class Pace:
    """Learns from past steps what a decoding step takes and what a prompt token adds to it.

    The scheduler asks before each step and tells after it:

        n_chunk = pace.allowance(n_decode)      # at most so many tokens of long prompts
        n_whole = pace.whole(n_decode)          # and so many of prompts that come whole
        pace.observe(n_decode, n_prompt, n_whole, milliseconds of Backend.decode)

    `n_decode` counts the tokens of slots that decode, guesses of prompt lookup too; `n_prompt` those that
    were really in the batch, `n_whole` of them in prompts that came whole. Knows no clock. Steps that failed
    aren't told.
    """

    def __init__(self, n_batch: int) -> None:
        self._n_batch = n_batch
        self._decode_ms: dict[int, float] = {}
        """By number of decoding tokens: milliseconds of a step of these alone."""
        self._added_ms = self._added_tokens = 0.0
        """What chunks added to steps, and how many tokens they were; sums in which the past fades."""
        self._whole_ms = self._whole_tokens = 0.0
        """The same of prompts that came whole, or alone."""
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

    def whole(self, n_decode: int) -> int:
        """So many tokens of prompts that come whole fit into a step beside decoding ones; 0 if not known."""
        if n_decode == 0 or self._whole_ms <= 0:
            return 0
        fit = HICCUP_MS * self._whole_tokens / self._whole_ms
        return min(SHORT_PROMPT, self._n_batch - n_decode, int(fit))

    def observe(self, n_decode: int, n_prompt: int, n_whole: int, ms: float) -> None:
        """Take note of a step."""
        if ms <= 0:
            return
        if n_decode == 0 or n_whole:
            if n_prompt:
                added = max(ms - (self._alone(n_decode) or 0.0), 0.0)
                self._whole_ms += added - _WEIGHT * self._whole_ms
                self._whole_tokens += n_prompt - _WEIGHT * self._whole_tokens
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
