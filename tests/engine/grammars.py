"""What the tests of grammars share: random texts that a grammar takes, and llama.cpp in a child process."""

from __future__ import annotations

import contextlib
import json
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.gbnf import Rules

ANSWER_S = 200
ROOT = Path(__file__).resolve().parents[2]


class Child:
    """llama.cpp's grammar sampler in a process that may die."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, grammar: str, text: str | None = None, seed: int = 0, draw: int = 12) -> dict[str, Any]:
        """See `grammar_child`. An AssertionError names the grammar that killed it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps({"grammar": grammar, "text": text, "seed": seed, "draw": draw})
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answered, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        assert answered, f"llama.cpp takes for ever with {grammar[:2000]!r}"
        line = self._process.stdout.readline()
        assert line, f"llama.cpp died of {grammar[:2000]!r}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


@contextlib.contextmanager
def child(model: Path) -> Iterator[Child]:
    """A child with the vocabulary of `model`."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.engine.grammar_child", str(model)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"GGML_NO_BACKTRACE": "1", "PATH": ""},
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


class Derivation:
    """Random texts of a grammar. `brief` leads to the end by the shortest way once a text is long."""

    def __init__(self, rules: Rules, dice: random.Random, brief: int = 400) -> None:
        self._rules = rules
        self._dice = dice
        self._brief = brief
        self._costs = self._cheapest()

    def text(self) -> str:
        dice, elements = self._dice, self._rules.elements
        written: list[str] = []
        stack = [dice.choice(self._rules.alternatives[self._rules.root])]
        while stack:
            position = stack.pop()
            element = elements[position]
            if element is None:
                continue
            stack.append(position + 1)
            if isinstance(element, int):
                starts = self._rules.alternatives[element]
                long = len(written) + len(stack) > self._brief
                stack.append(min(starts, key=self._cost) if long else dice.choice(starts))
            else:
                low, high = dice.choice(element)
                # mostly near the ends, where mistakes are
                code = dice.choice((low, high, dice.randint(low, high), min(high, low + dice.randrange(96))))
                if code == 0 or 0xD800 <= code <= 0xDFFF:
                    code = max(low, 1)
                written.append(chr(code))
        return "".join(written)

    def _cost(self, start: int) -> float:
        total, position = 1.0, start
        while (element := self._rules.elements[position]) is not None:
            total += self._costs[element] if isinstance(element, int) else 1
            position += 1
        return total

    def _cheapest(self) -> list[float]:
        """The length of each rule's shortest text, about."""
        self._costs = [float("inf")] * len(self._rules.alternatives)
        changed = True
        while changed:
            changed = False
            for number, starts in enumerate(self._rules.alternatives):
                cost = min(map(self._cost, starts))
                if cost < self._costs[number]:
                    self._costs[number] = cost
                    changed = True
        return self._costs
