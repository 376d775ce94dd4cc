"""The stacks that llama.cpp's grammar sampler keeps, and whether their number can get out of hand.

That sampler follows all ways at once in which a text may go on: each is a stack of positions in the rules,
and before each token every stack is tried on the whole vocabulary. Where a grammar leaves open for long which
way was meant, their number grows with each character, in the worst case twofold, until the process hangs or
runs out of memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from engine.gbnf import Ranges, Rules

Stack = tuple[int, ...]
"""Positions to go on at, the next one last; empty: the text may end here."""

Ways = dict[Stack, int]
"""Stacks, and in how many ways each can be reached within one token."""

MAX_STACKS: Final = 256
MAX_WAYS: Final = 5_000
"""Within one token: when llama.cpp tries a token on the stacks, it follows each way on its own."""
MAX_SEEN: Final = 50_000
"""Looked at for one character; more would be followed until memory is full."""
_TOKEN: Final = 12
"""Characters of a long token."""
_STEPS: Final = 400
"""Characters of a trial."""
_WORK: Final = 30_000
"""Stacks looked at in all trials together."""


class TooManyStacksError(Exception):
    """More than `MAX_STACKS`, `MAX_WAYS` or `MAX_SEEN` after so many characters."""

    def __init__(self, n_characters: int) -> None:
        super().__init__(n_characters)
        self.n_characters = n_characters


class Matcher:
    """Follows a text character by character. Raises TooManyStacksError for more than `MAX_SEEN` at one."""

    def __init__(self, rules: Rules) -> None:
        self._elements = rules.elements
        self._alternatives = rules.alternatives
        self.work = 0
        """Stacks looked at so far."""
        self.n_characters = 0
        """Of those that are followed now; for the error only."""
        self.start = self._ready([(start,) for start in rules.alternatives[rules.root]])

    def matches(self, text: str) -> bool:
        """Whether the grammar takes exactly this text."""
        stacks = self.start
        for character in text:
            stacks = self.after(stacks, ord(character))
        return () in stacks

    def after(self, stacks: Iterable[Stack], code: int) -> list[Stack]:
        """The stacks after one more character; none: it isn't allowed here."""
        return self._ready([(*stack[:-1], stack[-1] + 1) for stack in stacks if self.takes(stack, code)])

    def takes(self, stack: Stack, code: int) -> bool:
        return any(low <= code <= high for low, high in self.next(stack))

    def next(self, stack: Stack) -> Ranges:
        """The characters that a stack can go on with."""
        element = self._elements[stack[-1]] if stack else ()
        assert isinstance(element, tuple)
        return element

    def _ready(self, todo: list[Stack]) -> list[Stack]:
        """Follow references until each stack has a character on top, or is empty."""
        elements = self._elements
        seen: set[Stack] = set()
        ready: list[Stack] = []
        while todo:
            stack = todo.pop()
            while stack and elements[stack[-1]] is None:
                stack = stack[:-1]
            if stack in seen:
                continue
            seen.add(stack)
            if len(seen) > MAX_SEEN:
                raise TooManyStacksError(self.n_characters)
            element = elements[stack[-1]] if stack else ()
            if not isinstance(element, int):
                ready.append(stack)
                continue
            # what follows is left out where nothing does, so that loops don't grow
            rest = stack[:-1] if elements[stack[-1] + 1] is None else (*stack[:-1], stack[-1] + 1)
            todo += [(*rest, start) for start in self._alternatives[element]]
        self.work += len(seen)
        return ready


def stress(rules: Rules) -> None:
    """Look for texts that make the stacks many: raises TooManyStacksError where one is found.

    No proof (whether there is such a text can't be decided): the most harmful next character is chosen again
    and again, by number of stacks, by their depth, and at random.
    """
    matcher = Matcher(rules)
    dice = random.Random(1)
    measures: tuple[Callable[[Ways], float], ...] = (
        lambda ways: sum(ways.values()),
        lambda ways: sum(map(len, ways)),
        lambda ways: len(ways) + dice.random() * 2,
        lambda ways: max(map(len, ways), default=0) + dice.random(),
    )
    for round_, measure in enumerate(measures, 1):
        ways: Ways = {}
        for n_characters in range(_STEPS):
            matcher.n_characters = n_characters
            if n_characters % _TOKEN == 0:  # a new token begins
                ways = dict.fromkeys(ways or matcher.start, 1)
            if len(ways) > MAX_STACKS or sum(ways.values()) > MAX_WAYS:
                raise TooManyStacksError(n_characters)
            if matcher.work > _WORK * round_ / len(measures):
                if sum(ways.values()) > MAX_STACKS:  # it grows too fast to be followed further
                    raise TooManyStacksError(n_characters)
                break
            choices = [_after(matcher, ways, code) for code in _codes(matcher, list(ways), dice)]
            choices = [choice for choice in choices if choice]
            if not choices:
                break
            most = max(choices, key=lambda choice: sum(choice.values()))
            ways = most if sum(most.values()) > MAX_STACKS else max(choices, key=measure)


def _after(matcher: Matcher, ways: Ways, code: int) -> Ways:
    """Each stack after one more character, and in how many ways it is reached."""
    found: Ways = {}
    for stack, count in ways.items():
        for following in matcher.after([stack], code):
            found[following] = found.get(following, 0) + count
    return found


def _codes(matcher: Matcher, stacks: list[Stack], dice: random.Random) -> list[int]:
    """A few characters that most stacks take."""
    ends = {max(end, 1) for stack in stacks for pair in matcher.next(stack) for end in pair}
    tried = dice.sample(sorted(ends), min(len(ends), 24))
    counts = {code: sum(matcher.takes(stack, code) for stack in stacks) for code in tried}
    return sorted(tried, key=lambda code: -counts[code])[:4]
