"""Whether a GBNF grammar can be given to llama.cpp, whose grammar code trusts what it gets.

A grammar that it rejects, or that recurses to the left unseen, ends the worker process; one whose rules
branch too much makes it hang. So everything is decided here, before: `check` refuses in words, and what it
lets through `llama_sampler_init_grammar` takes. Pure and in the app's hands too, so that a wrong grammar is
the command's error reply.
"""

from __future__ import annotations

from typing import Final

from engine.gbnf import MAX_GENERATED, MAX_NESTING, MAX_SOURCE, Rules, parse, refuse
from engine.stacks import TooManyStacksError, stress

__all__ = ["MAX_GENERATED", "MAX_NESTING", "MAX_SOURCE", "check"]

MAX_OPENINGS: Final = 5_000
"""Ways in which one rule can begin, counted through all rules that it begins with."""
MAX_ALL_OPENINGS: Final = 500_000
"""Of all rules together; llama.cpp walks them one by one when it looks for left recursion."""


def check(source: str, limit: int = MAX_SOURCE, *, stressed: bool = True) -> Rules:
    """Raises TokenglassError `invalid_argument`, path `grammar`, where llama.cpp mustn't get this.

    `stressed` False leaves out what takes long, for a grammar that has passed it before.
    """
    rules = parse(source, limit)
    nullable = _nullable(rules)
    order = _innermost_first(rules, nullable)
    _check_openings(rules, nullable, order)
    ending = _ending(rules)
    if rules.root not in ending:
        refuse("no answer could ever be complete: root always needs another root")
    if endless := _used(rules) - ending:
        name = next((rules.names[number] for number in sorted(endless) if number in rules.names), "a group")
        refuse(f"an answer with {name} in it could never be complete: it always needs another one")
    if not stressed:
        return rules
    try:
        stress(rules)
    except TooManyStacksError as error:
        refuse(f"too ambiguous: after {error.n_characters} characters there can be too many ways to go on")
    return rules


def _references(rules: Rules, start: int, nullable: set[int]) -> list[int]:
    """The rules that an alternative can begin with."""
    found = []
    position = start
    while isinstance(element := rules.elements[position], int):
        found.append(element)
        if element not in nullable:
            break
        position += 1
    return found


def _nullable(rules: Rules) -> set[int]:
    """The rules that can be empty."""
    return _closed(rules, characters=False)


def _ending(rules: Rules) -> set[int]:
    """The rules that some finite text fulfils."""
    return _closed(rules, characters=True)


def _used(rules: Rules) -> set[int]:
    """The rules that an answer can have in it."""
    found = {rules.root}
    todo = [rules.root]
    while todo:
        for position in rules.alternatives[todo.pop()]:
            while (element := rules.elements[position]) is not None:
                if isinstance(element, int) and element not in found:
                    found.add(element)
                    todo.append(element)
                position += 1
    return found


def _closed(rules: Rules, *, characters: bool) -> set[int]:
    """The rules with an alternative of nothing but such rules (and characters, where those are allowed)."""
    waiting: dict[int, list[tuple[int, int]]] = {}
    """Rule that an alternative waits for: the alternative's rule, and where it stands in it."""
    closed: set[int] = set()
    todo = [(number, start) for number, starts in enumerate(rules.alternatives) for start in starts]
    while todo:
        number, position = todo.pop()
        while (element := rules.elements[position]) is not None and number not in closed:
            if isinstance(element, int):
                if element not in closed:
                    waiting.setdefault(element, []).append((number, position))
                    break
            elif not characters:
                break
            position += 1
        else:
            if number not in closed:
                closed.add(number)
                todo += waiting.pop(number, ())
    return closed


def _innermost_first(rules: Rules, nullable: set[int]) -> list[int]:
    """All rules, each after those that it can begin with; refuses left recursion."""
    order: list[int] = []
    begun: set[int] = set()
    done: set[int] = set()
    for first in range(len(rules.alternatives)):
        path = [first]
        while path:
            number = path[-1]
            if number in done:
                path.pop()
                continue
            if number not in begun:
                begun.add(number)
                inner = [
                    each
                    for start in rules.alternatives[number]
                    for each in _references(rules, start, nullable)
                    if each not in done
                ]
                if again := begun.intersection(inner):
                    _refuse_left_recursion(rules, again.pop())
                path += inner
            else:
                path.pop()
                done.add(number)
                order.append(number)
    return order


def _refuse_left_recursion(rules: Rules, number: int) -> None:
    name = rules.names.get(number)
    if name is None:
        refuse("left recursion: what * or + repeats can be empty, or a group begins with itself")
    refuse(f"left recursion: {name} can begin with itself")


def _check_openings(rules: Rules, nullable: set[int], order: list[int]) -> None:
    """Refuse what can go on in too many ways from some place: llama.cpp follows each of them on its own."""
    openings: dict[int, int] = {}
    total = 0
    for number in order:
        count = 0
        for start in rules.alternatives[number]:
            count += 1 + sum(openings[each] for each in _references(rules, start, nullable))
        if count > MAX_OPENINGS:
            name = rules.names.get(number, "a group")
            refuse(f"{name} can begin in more than {MAX_OPENINGS} ways")
        openings[number] = count
        total += count
    if total > MAX_ALL_OPENINGS:
        refuse(f"the rules can begin in more than {MAX_ALL_OPENINGS} ways, all together")
    ways = 0
    for element in reversed(rules.elements):
        ways = openings[element] + (ways if element in nullable else 0) if isinstance(element, int) else 1
        if ways > MAX_OPENINGS:
            refuse(f"a sequence can go on in more than {MAX_OPENINGS} ways")
