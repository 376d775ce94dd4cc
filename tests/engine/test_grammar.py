"""engine.grammar: what llama.cpp would die of is refused in words, and what is let through it takes."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.gbnf import MAX_RULES
from engine.grammar import MAX_SOURCE, check
from engine.stacks import Matcher, Stack, TooManyStacksError
from tests.conftest import SOAK
from tests.engine.grammars import Child, Derivation, child

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""root ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*"""
CHESS = """root ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"""
LIST = 'root ::= item+\r\n\r\n# a list\r\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"\r\n'
MANY = 'root ::= ("a" | [b-d]{2,5} | x)+ "." x?\nx ::= "<" x ">" | y{0,40} "!"\ny ::= [^"\\n] | "é"{3}'
KNOWN = {"json": JSON, "arithmetic": ARITHMETIC, "chess": CHESS, "list": LIST}


@pytest.fixture(scope="module")
def llama(starter_model: Path) -> Iterator[Child]:
    with child(starter_model) as process:
        yield process


def refusal(source: str) -> str:
    with pytest.raises(TokenglassError) as caught:
        check(source)
    assert caught.value.code == "invalid_argument"
    assert caught.value.info.path == "grammar"
    return str(caught.value).removeprefix("grammar: ")


# What reliability tests saw end the process, and what reading llama.cpp's source adds to it
KILLERS = (
    ("root ::= [", "line 1, column 10: this character class doesn't end"),
    ('answer ::= "x"', "there is no rule root"),
    ('root ::= root "a" | "b"', "left recursion: root can begin with itself"),
    ('root ::= (("a"{0,500}){0,500}){0,500}', "line 1, column 30: repeated more than 2000 times"),
    ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "line 1, column 74: more than 64 parentheses"),
    ('root ::= a\na ::= b "x"\nb ::= a | "y"', "left recursion: a can begin"),
    # llama.cpp doesn't see that b may be empty, and its stacks grow without end
    ('root ::= b root "z" | "x"\nb ::= c\nc ::= | "y"', "left recursion: root"),
    ('root ::= (a b)* "z"\na ::= "x"?\nb ::= "y"?', "left recursion: what * or + repeats can be empty"),
    ('root ::= "a"**', "left recursion: what * or + repeats can be empty"),
    ('root ::= "a"{5,2}', "line 1, column 14: at least 5 and at most 2"),
    ('root ::= "' + "x" * 60_000 + '"{2000}', "more than 200000 elements"),
    # 2^60 ways to begin, each on its own
    (
        "root ::= r0\n"
        + "".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"\n' for i in range(60))
        + 'r60 ::= "a"',
        "can begin in more than 5000 ways",
    ),
    # few stacks, but each of them leads to all, for each character of a token
    ("root ::= ( | [a-c] | ()){3,70}", "too ambiguous"),
    ("root ::= [x] [a]*{2000} [y]", "too ambiguous"),
    ("root ::= [x] ([a]? [b]?)*{600}", "left recursion"),
    ("root ::= [x] " + "[a]? " * 3000, "a sequence can go on in more than 5000 ways"),
    ("root ::= r9999\nr0 ::= [a]\n" + "".join(f"r{i + 1} ::= r{i}\n" for i in range(3000)), "no rule r9999"),
    ("root ::= r3000\nr0 ::= [a]\n" + "".join(f"r{i + 1} ::= r{i}\n" for i in range(3000)), "all together"),
    # stacks that double with each character
    ('root ::= "a" root "c" | "a" root "d" | "b"', "too ambiguous: after"),
    ('root ::= "x" (a | b)\na ::= "(" c ")" | "(" c "]"\nb ::= "["\nc ::= "." | a', "too ambiguous"),
    ('root ::= ("x"?){0,1000}', "ways"),
    ("root ::= [x] [a]*{600} [y]", "too ambiguous"),
    ('root ::= "-" ("x"? "y"?){0,300}', "too ambiguous: after"),
)


@pytest.mark.parametrize(("source", "reason"), KILLERS, ids=range(len(KILLERS)))
def test_what_kills_llama_cpp_is_refused_at_once(source: str, reason: str) -> None:
    assert reason in refusal(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    (
        ("", "there is no rule root"),
        ("# nothing", "there is no rule root"),
        ("root", "line 1, column 5: expected ::="),
        ("root := x", "line 1, column 6: expected ::="),
        ("::= x", "line 1, column 1: expected the name of a rule"),
        ("ro_ot ::= [a]", "line 1, column 3: expected ::="),
        ("root ::= missing", "line 1, column 10: there is no rule missing"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1: this rule is defined twice"),
        ('root ::= "a"\n  | "b"', "line 2, column 3: expected the name of a rule"),
        ('root ::= "a', "line 1, column 10: this string doesn't end"),
        ('root ::= "a\\', "line 1, column 12: \\ stands for nothing"),
        (r'root ::= "\q"', r"line 1, column 11: \q stands for nothing"),
        (r'root ::= "\x4"', r"line 1, column 11: \x needs 2 hexadecimal digits"),
        (r'root ::= "\u+123"', r"line 1, column 11: \u needs 4 hexadecimal digits"),
        (r'root ::= "\ud800"', "line 1, column 11: U+D800 isn't a character"),
        (r'root ::= "\U00110000"', "line 1, column 11: U+110000 isn't a character"),
        (r'root ::= "\x00"', "line 1, column 11: a NUL character"),
        ('root ::= "a\0"', "line 1, column 12: a NUL character"),
        ('root ::= "a\ud800"', "line 1, column 12: half of a surrogate pair"),
        ("root ::= []", "line 1, column 10: an empty character class"),
        ("root ::= [^]", "line 1, column 10: an empty character class"),
        ("root ::= [a-", "line 1, column 10: this character class doesn't end"),
        ("root ::= [z-a]", "line 1, column 11: a range of characters that ends before it begins"),
        (r"root ::= [\x00]", "line 1, column 10: no character matches"),
        (r"root ::= [^\x01-\U0010FFFF]", "line 1, column 10: no character matches"),
        (r"root ::= [^\x00-\uD7FF\uE000-\U0010FFFF]", "line 1, column 10: no character matches"),
        ("root ::= (", "line 1, column 11: expected )"),
        ('root ::= ("a"', "line 1, column 14: expected )"),
        ('root ::= "a")', "line 1, column 13: ')' doesn't belong here"),
        ("root ::= *", "line 1, column 11: nothing stands here that could be repeated"),
        ('root ::= ""+', "line 1, column 13: nothing stands here"),
        ('root ::= "a"{0}{2}', "line 1, column 19: nothing stands here"),
        ('root ::= "a"{', "line 1, column 14: expected a number"),
        ('root ::= "a"{,3}', "line 1, column 14: expected a number"),
        ('root ::= "a"{1;3}', "line 1, column 15: expected }"),
        ('root ::= "a"{1,3', "line 1, column 17: expected }"),
        ('root ::= "a"{0,2001}', "line 1, column 16: more than 2000 repetitions"),
        ('root ::= "a"{' + "9" * 5000 + "}", "line 1, column 14: more than 2000 repetitions"),
        ("root ::= <think>", "line 1, column 10: tokens can't be named here"),
        ("root ::= !<[5]>", "line 1, column 10: tokens can't be named here"),
        ("root ::= [" + "".join(map(chr, range(0x400, 0x600))) + "]", "more than 256 characters and ranges"),
        ("root ::= [a] {2000} [b]{2000}{2}", "line 1, column 33: repeated more than 2000 times"),
        ('root ::= "a" root', "no answer could ever be complete"),
        ('root ::= a | b\na ::= "x" b\nb ::= "y" a', "no answer could ever be complete"),
        ('root ::= "x" | a\na ::= "y" b\nb ::= "z" a', "with a in it could never be complete"),
        ('root ::= ("x" | [y] inner?)*\ninner ::= "<" inner ">"', "with inner in it could never be complete"),
        ("root ::= [a]\n" + "#" * MAX_SOURCE, "are more than 65536"),
        ("root ::= " + "([a]{0,2000})" * 11, f"more than {MAX_RULES} rules"),
    ),
)
def test_what_is_refused_and_where(source: str, reason: str) -> None:
    assert reason in refusal(source)


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_grammars_are_taken(llama: Child, name: str) -> None:
    rules = check(KNOWN[name])
    derivation = Derivation(rules, random.Random(1))
    for seed in range(20):
        text = derivation.text()
        assert Matcher(rules).matches(text)
        answer = llama.ask(KNOWN[name], text, seed)
        assert answer["taken"]
        # of an inverse class with other than ASCII llama.cpp refuses characters made of several tokens
        assert answer["matches"] or not text.isascii(), text


def test_limits_are_where_llama_cpp_is_still_well(llama: Child) -> None:
    for source, text in (
        ("root ::= " + "(" * 64 + '"a"' + ")" * 64, "a"),
        ('root ::= "a"{2000}', "a" * 2000),
        ('root ::= ("a" b){0,1000}\nb ::= "b"', "ab" * 1000),
        ('root ::= "a"{1000}{2}', "a" * 2000),
        (r"root ::= [\x00-\x1f]", "\x01"),
        ('root ::= ""', ""),
        ('root ::= "a" |', ""),
        ('root ::= "a" ( #\n"b" | # or\n"c"\n)', "ac"),
        ("root ::= [a-] [\\]\\-x]", "--"),
        ('root ::= "é\\u20ac\\U0001F600\\x41"', "é€\U0001f600A"),
    ):
        assert Matcher(check(source)).matches(text)
        answer = llama.ask(source, text)
        assert answer["taken"], source
        assert answer["matches"], source


def test_the_worst_that_is_taken_or_refused_is_checked_fast() -> None:
    """CPU time, with much room: this runs in a thread of the app, beside its loop."""
    worst = (
        "root ::= " + "[a]{0,200}" * 90,
        "root ::= [" + "ab" * 120 + "]{0,1999}",
        "root ::= (" + "|".join(f'"{i}"' for i in range(9000)) + ")",
        "root ::= " + "(" * 64 + "[a-z]+" + ")" * 64,
        JSON,
        ARITHMETIC,
        "root ::= " + " ".join('"ab"' for _ in range(13_000)),
    )
    for source in worst:
        start = time.thread_time()
        with contextlib.suppress(TokenglassError):
            check(source)
        assert time.thread_time() - start < 3, source[:100]


# ---- random grammars

_NAMES = ("root", "a", "b", "long-name", "R2")
_CLASSES = ("[a-c]", "[^a]", "[ab\\n]", "[\\u00e9-\\u4e00]", ".", "[-x]", "[^\\x00-\\x60]", '[\\]\\["]')
_LITERALS = ('"a"', '"bc"', '"\\n"', '"é"', '"\\"\\\\"', '""', '"a" "b"')
_REPEATS = ("", "", "", "*", "+", "?", "{2}", "{0,3}", "{1,}", "{ 2 , 4 }", "{0}", "{3,70}", "{0,400}")
_SPACES = (" ", "  ", "\t")


def _expressions(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    atoms = st.sampled_from((*_CLASSES, *_LITERALS, *names))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        items = st.tuples(inner, st.sampled_from(_REPEATS)).map("".join)
        sequences = st.tuples(st.sampled_from(_SPACES), st.lists(items, max_size=4)).map(
            lambda pair: pair[0].join(pair[1])
        )
        alternatives = st.lists(sequences, min_size=1, max_size=3).map(" | ".join)
        return alternatives.map(lambda text: f"({text})")

    return st.recursive(atoms, larger, max_leaves=8)


@st.composite
def grammars(draw: st.DrawFn) -> str:
    names = _NAMES[: draw(st.integers(1, len(_NAMES)))]
    lines = []
    for name in draw(st.permutations(names)):
        body = draw(st.lists(_expressions(names), min_size=1, max_size=3))
        repeats = draw(st.lists(st.sampled_from(_REPEATS), min_size=len(body), max_size=len(body)))
        joint = draw(st.sampled_from((" ", " | ", " |\n  ")))
        lines.append(f"{name} ::= " + joint.join(map("".join, zip(body, repeats, strict=True))))
    return draw(st.sampled_from(("\n", "\r\n", "\n# remark\n"))).join(lines)


@pytest.fixture(scope="module")
def counts() -> Iterator[dict[str, int]]:
    found = {"taken": 0, "refused": 0, "stuck": 0, "missed": 0}
    yield found
    print(f"random grammars: {found}")


def followed(matcher: Matcher, text: str) -> list[Stack]:
    """The stacks after a text. Raises TooManyStacksError where it takes too much work."""
    stacks, limit = matcher.start, matcher.work + 1_000_000
    for n, character in enumerate(text):
        stacks = matcher.after(stacks, ord(character))
        if matcher.work > limit:
            raise TooManyStacksError(n)
    return stacks


def agree(llama: Child, source: str, seed: int, counts: dict[str, int]) -> None:
    """What is let through llama.cpp takes too, draws from, and matches with what is matched here."""
    try:
        rules = check(source)
    except TokenglassError:
        counts["refused"] += 1
        return
    counts["taken"] += 1
    matcher = Matcher(rules)
    text = Derivation(rules, random.Random(seed), brief=60).text()
    try:
        assert () in followed(matcher, text)
    except TooManyStacksError:  # whether there is such a text can't always be found out beforehand
        counts["missed"] += 1
        return
    answer = llama.ask(source, text, seed)
    assert answer["taken"], source
    # of an inverse class with other than ASCII llama.cpp refuses characters made of several tokens
    assert answer["matches"] or not text.isascii(), (source, text)
    if "�" not in answer["text"] and "\0" not in answer["text"]:
        drawn = answer["text"]
        stacks = followed(matcher, drawn)
        assert bool(stacks), (source, drawn)
        assert (() in stacks) >= answer["ended"], (source, drawn)
    counts["stuck"] += answer["stuck"]


@pytest.mark.timeout(3600)
@settings(
    max_examples=5000 if SOAK else 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(source=grammars(), seed=st.integers(0, 99))
@example(source=JSON, seed=1)
def test_random_grammars(llama: Child, counts: dict[str, int], source: str, seed: int) -> None:
    agree(llama, source, seed, counts)


def mutated(text: str, dice: random.Random) -> str:
    """A few pieces left out, doubled, moved, or put in from what means something in a grammar."""
    pieces = [
        *'"[](){}|*+?\\\n^-.:=<>!#',
        "{0,500}",
        "{2000}",
        "root",
        "\\x",
        "\\uD800",
        "\0",
        "é",
        "\U0001f600",
    ]
    for _ in range(dice.choice((1, 1, 2, 4))):  # of more changes hardly one in twenty is taken
        a, b = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + dice.choice((1, 3, 30)))
        text = dice.choice(
            (
                text[:a] + text[b:],
                text[:a] + text[a:b] * 2 + text[b:],
                text[:a] + dice.choice(pieces) + text[a:],
                text[:a] + dice.choice(pieces) + text[b:],
                text[:a] + text[b:] + text[a:b],
            )
        )
    return text


@pytest.mark.timeout(3600)
def test_mutated_grammars_are_refused_or_work(llama: Child, counts: dict[str, int]) -> None:
    before = dict(counts)
    dice = random.Random(7)
    for seed in range(5000 if SOAK else 300):
        agree(llama, mutated(dice.choice((*KNOWN.values(), MANY)), dice), seed, counts)
    assert counts["taken"] > before["taken"]
    assert counts["refused"] > before["refused"]
