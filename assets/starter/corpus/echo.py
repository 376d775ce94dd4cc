"""Words to say again: the plainest practice in copying, which names, subjects and numbers need too."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus.dsl import expand
from corpus.stories import ADJ, NOUNS, PEOPLE
from corpus.unknown import made_up

ASK = [
    "[repeat|say|write|echo|copy]: $T", "[please|] repeat after me: $T", "say $T", "[can|could] you say $T?", "repeat $T", "repeat the [words|text]: $T", "write $T", "say the [word|words|following]: $T",
    "just say $T", "say only $T", "answer with $T", "echo $T", "[please|] [say|write|repeat] '$T'", "i say $T, you say $T",
]


def words(rng: random.Random) -> str:
    """One to six words, numbers or names."""
    out = []
    for _ in range(rng.choice([1, 2, 2, 3, 4, 6])):
        kind = rng.random()
        if kind < 0.45:
            out.append(rng.choice(NOUNS))
        elif kind < 0.6:
            out.append(rng.choice(ADJ))
        elif kind < 0.75:
            out.append(made_up(rng, rng.randint(1, 3)))
        elif kind < 0.88:
            out.append(str(rng.randrange(10 ** rng.randint(1, 4))))
        else:
            out.append(rng.choice(PEOPLE))
    return " ".join(out)


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """One thing to say again."""
    said = words(rng)
    ask = expand(rng.choice(ASK), rng)
    head, _, tail = ask.partition("$T")
    head = head.lower() if rng.random() < 0.5 else head[:1].upper() + head[1:]
    return [(head + said + tail.replace("$T", said), said)]
