"""Stop strings across token borders.

An Aho-Corasick automaton over characters: its depth after any text is the length of the longest ending that
may still become a stop string, which is just what must be withheld. The result doesn't depend on how the text
is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache


class StopStrings:
    """The automaton of a set of stop strings; holds no state of a text and may be shared."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.first_characters = frozenset(stop[0] for stop in stops)
        self.edges: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.match = [0]
        """Length of the longest stop string that ends in a state; 0: none does."""
        for stop in stops:
            state = 0
            for character in stop:
                if character not in self.edges[state]:
                    self.edges[state][character] = len(self.edges)
                    self.edges.append({})
                    self.depth.append(self.depth[state] + 1)
                    self.match.append(0)
                state = self.edges[state][character]
            self.match[state] = len(stop)
        self.fallback = [0] * len(self.edges)
        queue = list(self.edges[0].values())
        for state in queue:  # breadth first: a state's fallback is always shallower
            for character, child in self.edges[state].items():
                self.fallback[child] = self.next(self.fallback[state], character)
                queue.append(child)
            self.match[state] = self.match[state] or self.match[self.fallback[state]]

    def next(self, state: int, character: str) -> int:
        """The state after one more character."""
        while character not in self.edges[state]:
            if state == 0:
                return 0
            state = self.fallback[state]
        return self.edges[state][character]


@lru_cache(maxsize=64)
def compiled(stops: tuple[str, ...]) -> StopStrings:
    return StopStrings(stops)


class StopMatcher:
    """Follows one text. The first stop string to be complete ends it; of those, the longest."""

    __slots__ = ("_state", "_strings", "_withheld", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._strings = compiled(tuple(stops))
        self._state = 0
        self._withheld = ""
        self.stopped = False
        """A stop string has been seen; no text comes any more."""

    def push(self, text: str) -> str:
        """What may be shown now: neither a stop string, nor what may begin one, nor anything after it."""
        if self.stopped:
            return ""
        strings, state = self._strings, self._state
        if state == 0 and strings.first_characters.isdisjoint(text):
            return text
        whole = self._withheld + text
        for i, character in enumerate(text, len(self._withheld) + 1):
            state = strings.next(state, character)
            if strings.match[state]:
                self.stopped = True
                self._withheld = ""
                return whole[: i - strings.match[state]]
        self._state = state
        shown = len(whole) - strings.depth[state]
        self._withheld = whole[shown:]
        return whole[:shown]

    def finish(self) -> str:
        """What was withheld and didn't become a stop string."""
        text, self._withheld = self._withheld, ""
        return text
