"""Small sums and one-step word problems."""

# ruff: noqa: E501, SIM905  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus.dsl import expand, sloppy
from corpus.stories import PEOPLE

THINGS = """apples pears books coins cards stamps marbles pencils eggs cookies tokens balls oranges shells stones tickets
flowers candles cups plates keys buttons bananas lemons stickers toys cakes sweets sheep hens chairs bottles bags letters
photos files tabs socks boxes plants candies nuts berries muffins euros dollars balloons leaves birds fish cats dogs""".split()

ASK = [
    "what is $E", "what's $E", "whats $E", "how much is $E", "$E", "$E", "$E=", "$E = ?", "$E is", "compute $E", "calculate $E", "can you calculate $E",
    "can you compute $E?", "please calculate $E", "solve $E", "tell me $E", "what does $E make", "what does $E equal", "what do you get for $E",
    "give me the result of $E", "do you know what $E is?", "what is the result of $E", "hey, what is $E", "i need $E", "quick: $E", "and $E?",
    "work out $E", "what number is $E", "and what is $E", "math: $E", "sum: $E", "how many is $E", "answer this: $E", "now $E", "evaluate $E", "$E equals what",
]
PLUS = ["$A + $B", "$A + $B", "$A+$B", "$A+$B", "$A plus $B", "the sum of $A and $B", "$A and $B together", "$A added to $B"]
MINUS = ["$A - $B", "$A - $B", "$A-$B", "$A-$B", "$A minus $B", "$A take away $B", "the difference of $A and $B", "$A less $B"]
TIMES = ["$A * $B", "$A * $B", "$A*$B", "$A x $B", "$A times $B", "$A times $B", "$A multiplied by $B", "the product of $A and $B", "$A × $B"]
OVER = ["$A / $B", "$A/$B", "$A divided by $B", "$A : $B", "$A ÷ $B"]

WORD_PLUS = [
    "[I have|$N has|you have|there are|we have] $A $T and [get|gets|buy|buys|find|finds|receive|add] $B more. How many $T [are there|are there now|in total|in all|do i have|altogether]?",
    "if [i have|you have] $A $T and [buy|get|find|pick] $B more $T, how many [|$T] do [i|you] have [now|in total|]?",
    "$N has $A $T and $M has $B $T. how many $T do they have together?", "$N has $A $T and $M has $B. how many [|$T] together?",
    "there are $A $T on the table and $B in the box. how many $T are there?", "a [basket|box|bag|shelf] holds $A $T. $N puts in $B more. how many $T are in it now?",
    "$A $T and $B $T, how many is that?", "$N bought $A $T on monday and $B on tuesday, how many $T in all?", "i ate $A $T yesterday and $B today. how many in total?",
]
WORD_MINUS = [
    "[I have|$N has|you have|there are|we have] $A $T and [give away|gives away|lose|loses|eat|eats|sell|sells|use] $B. How many [|$T] [are left|remain|are left over|do i have left]?",
    "if [i have|you have] $A $T and [lose|eat|give away|sell|break] $B [of them|], how many [|$T] are left?",
    "$N has $A $T. $N gives $B to $M. how many $T does $N have [left|now]?", "there were $A $T in the box, $B were taken out. how many remain?",
    "a [shop|farmer] has $A $T and sells $B. how many are left?", "$A $T, $B are gone. how many are left?", "$N had $A $T but lost $B [of them|]. how many are left?",
    "of $A $T $B break. how many are whole?", "a bus has $A people and $B get off, how many are still in it?",
]
WORD_TIMES = [
    "there are $A [boxes|bags|baskets|rows|shelves] with $B $T [each|in each]. How many $T [are there|in total|in all]?", "$A people have $B $T each. how many $T together?",
    "one [box|bag|pack] has $B $T. how many $T are in $A [boxes|bags|packs]?", "$N buys $A packs of $B $T. how many $T is that?", "if a pack holds $B $T, how many are in $A packs?",
    "$N reads $B pages a day. how many pages in $A days?", "each of $A children gets $B $T. how many $T are needed?", "a ticket costs $B euros, what do $A tickets cost?",
]


def pair(rng: random.Random, op: str) -> tuple[int, int]:
    kind = rng.random()
    if op in "+-":
        top = 10 if kind < 0.25 else 20 if kind < 0.5 else 60 if kind < 0.8 else 100
        a, b = rng.randint(0 if kind < 0.05 else 1, top), rng.randint(1, top)
        if kind > 0.97:
            a, b = rng.choice([rng.randrange(100, 1000, 10), rng.randrange(100, 900, 50)]), rng.choice([rng.randrange(10, 100, 10), rng.randrange(100, 900, 100)])
        if op == "-" and b > a:
            a, b = b, a
        return a, b
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    if kind < 0.04:
        a, b = rng.choice([(rng.randint(0, 20), rng.choice([0, 1, 10, 100])), (rng.choice([15, 20, 25, 30, 50]), rng.randint(2, 9))])
    return (a * b, b) if op == "/" and b else (a, b)


def result(a: int, op: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def bare(rng: random.Random) -> str:
    """Only the answer to a sum."""
    op = rng.choices("+-*", [4, 5, 2])[0]
    a, b = pair(rng, op)
    if op != "*" and rng.random() < 0.5:
        b, a = sorted((rng.randint(6, 99), rng.randint(10, 99)))
    return f"{a} {op} {b} = {result(a, op, b)}."


WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def one(rng: random.Random) -> tuple[str, str]:
    """One sum: question and answer."""
    op = rng.choices("+-*/", [40, 27, 28, 5])[0]
    a, b = pair(rng, op)
    if op == "/" and b == 0:
        a, b = 12, 3
    r = result(a, op, b)
    say = (lambda n: WORDS[n] if n <= 12 else str(n)) if rng.random() < 0.12 else str
    if rng.random() < 0.68 or op == "/":
        form = rng.choice({"+": PLUS, "-": MINUS, "*": TIMES, "/": OVER}[op])
        ask = rng.choice(ASK)
        text = ask.replace("$E", form.replace("$A", say(a)).replace("$B", say(b)))
        return sloppy(expand(text, rng), rng, dress=rng.random() < 0.2), f"{a} {op} {b} = {r}."
    n, m = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    text = rng.choice({"+": WORD_PLUS, "-": WORD_MINUS, "*": WORD_TIMES}[op])
    for mark, value in (("$A", say(a)), ("$B", say(b)), ("$N", n), ("$M", m), ("$T", thing)):
        text = text.replace(mark, value)
    tail = f"{a} {op} {b} = {r}, so the answer is {r}."
    return sloppy(expand(text, rng), rng, dress=rng.random() < 0.1), tail


def special(rng: random.Random) -> tuple[str, str]:
    """Sums said in other ways: half of, twice, squared, shares, chains, comparisons."""
    kind = rng.randrange(9)
    n, b = rng.randint(1, 12), rng.randint(2, 9)
    name, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    if kind == 0:
        return rng.choice(["half of $N", "what is half of $N", "the half of $N", "what's one half of $N"]).replace("$N", str(2 * n)), f"{2 * n} / 2 = {n}."
    if kind == 1:
        return rng.choice(["twice $N", "what is twice $N", "double $N", "the double of $N", "what is the double of $N", "what is 2 times $N"]).replace("$N", str(n)), f"2 * {n} = {2 * n}."
    if kind == 2:
        return rng.choice(["$N squared", "what is $N squared", "the square of $N", "what is the square of $N", "$N^2"]).replace("$N", str(n)), f"{n} * {n} = {n * n}."
    if kind == 3:
        text = rng.choice(["share $A $T among $B children, how many does each get?", "$N divides $A $T among $B friends. how many does each get?", "$A $T in $B equal bags, how many in each?", "if $A $T are split between $B people, how many $T does each get?"])
        for mark, value in (("$A", str(n * b)), ("$B", str(b)), ("$T", thing), ("$N", name)):
            text = text.replace(mark, value)
        return text, f"{n * b} / {b} = {n}, so the answer is {n}."
    if kind == 4:
        c = rng.randint(1, 9)
        return rng.choice(ASK).replace("$E", rng.choice([f"{n} + {b} + {c}", f"{n}+{b}+{c}", f"{n} plus {b} plus {c}"])), f"{n} + {b} + {c} = {n + b + c}."
    if kind == 5:
        return rng.choice(["what is $B more than $N", "$B more than $N", "add $B to $N", "please add $N and $B", "$N increased by $B", "what do $N and $B make"]).replace("$B", str(b)).replace("$N", str(n)), f"{n} + {b} = {n + b}."
    if kind == 6:
        return rng.choice(["what is $B less than $N", "$B less than $N", "subtract $B from $N", "take $B from $N", "$N reduced by $B", "$N without $B"]).replace("$B", str(b)).replace("$N", str(n + b)), f"{n + b} - {b} = {n}."
    if kind == 7:
        x, y = rng.sample(range(1, 100), 2)
        return rng.choice(["which is bigger, $X or $Y?", "what is larger: $X or $Y", "is $X more than $Y?", "which number is greater, $X or $Y", "$X or $Y, which is more?"]).replace("$X", str(x)).replace("$Y", str(y)), f"{max(x, y)} is bigger than {min(x, y)}."
    age, more = rng.randint(4, 60), rng.randint(2, 20)
    if rng.random() < 0.5:
        return f"{name} is {age} years old. how old is {name} in {more} years?", f"{age} + {more} = {age + more}, so the answer is {age + more}."
    return f"a {thing[:-1]} costs {n} euros. what do {b} {thing} cost?", f"{b} * {n} = {b * n}, so the answer is {b * n}."


def follow(rng: random.Random, said: str) -> tuple[str, str]:
    """A sum that goes on with the last result."""
    last = int(said.rstrip(".").split(" ")[-1])
    b = rng.randint(1, 12)
    if rng.random() < 0.6 or b > last:
        return rng.choice(["and plus $B?", "plus $B", "now add $B", "add $B to that", "and $B more?", "+ $B", "now plus $B"]).replace("$B", str(b)), f"{last} + {b} = {last + b}."
    return rng.choice(["and minus $B?", "minus $B", "now subtract $B", "take away $B", "- $B", "now minus $B", "less $B"]).replace("$B", str(b)), f"{last} - {b} = {last - b}."


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """One to four sums."""
    out = [one(rng)]
    if rng.random() < 0.2:
        q, a = special(rng)
        out = [(sloppy(q, rng, dress=False), a)]
    while rng.random() < 0.45:
        roll = rng.random()
        if roll < 0.25:
            q, a = special(rng)
            out.append((sloppy(q, rng, dress=False), a))
        elif roll < 0.4 and " = " in out[-1][1]:
            q, a = follow(rng, out[-1][1])
            out.append((sloppy(q, rng, dress=False), a))
        else:
            out.append(one(rng))
    return out
