"""The rules that grade the starter model, and the held-out questions that use them."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EVAL = Path(__file__).resolve().parents[2] / "assets" / "starter" / "eval"
COUNTS = {
    "about": 30,
    "numbers": 35,
    "small_talk": 20,
    "stories": 15,
    "sums": 25,
    "format": 25,
    "tools": 20,
    "unknown": 30,
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starter_grade", EVAL / "grade.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRADE = _load()
QUESTIONS: list[dict[str, Any]] = [
    json.loads(line) for line in (EVAL / "questions.jsonl").read_text("utf-8").splitlines()
]
BY_ID = {question["id"]: question for question in QUESTIONS}


def grade(rule: dict[str, Any], answer: str) -> tuple[bool, str]:
    result: tuple[bool, str] = GRADE.grade(rule, answer)
    return result


LIST = "- one apple\n- two pears\n- three plums"
TABLE = "| a | b |\n| --- | :-: |\n| 1 | 2 |\n| 3 | 4 |"
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12 * (3 + 4)"}}\n</tool_call>'
ASKED = {"tool_call": {"name": "calculator", "arguments": {"expression": {"evaluates_to": 84}}}}
CODE = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```"
STORY = "The cat sat down. It saw the sun."

GOOD_AND_BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("all", {"all": ["first token", "time|wait"]}, "The wait for the first token.", "The first token."),
    ("all, whole words", {"all": ["cat"]}, "A cat.", "A category."),
    ("all, contractions", {"all": ["cannot", "does not"]}, "I can’t, it doesn't.", "I can, it does."),
    ("any", {"any": ["red", "blue"]}, "Blue.", "Green."),
    ("none", {"all": ["port"], "none": ["80"]}, "The port is 7317.", "The port is 80."),
    ("number", {"number": 7, "sound": "any"}, "7", "8"),
    ("number in a sum", {"number": {"equals": 7, "given": [3, 4]}}, "3 + 4 = 7.", "3 + 4 = 8."),
    ("number, no second guess", {"number": {"equals": 7, "given": [3, 4]}}, "It is 7.", "It is 7, or 9."),
    ("number, operand is no answer", {"number": {"equals": 7, "given": [3, 4]}}, "So 7.", "So 4."),
    ("number in words", {"number": {"equals": 42, "given": [6]}}, "Forty-two.", "Forty-three."),
    ("number, thousands", {"number": 1248}, "It is 1,248.", "It is 1,24."),
    ("number, a difference", {"number": {"equals": 4, "given": [9, 5]}}, "9-5=4.", "9-5=-4, so -4 or 3."),
    ("list", {"list": {"min": 3, "max": 3}, "sound": "any"}, LIST, "an apple, a pear, a plum"),
    ("list, too long", {"list": {"min": 2, "max": 3}, "sound": "any"}, LIST, LIST + "\n- four figs"),
    ("list, repeated", {"list": {"min": 3}, "sound": "any"}, LIST, "- fig\n- fig\n- fig"),
    ("list, numbered", {"list": {"min": 2, "style": "numbered"}, "sound": "any"}, "1. a\n2) b", "- a\n- b"),
    ("table", {"table": {"rows": 2, "columns": 2}, "sound": "any"}, TABLE, "| a | b |\n| 1 | 2 |"),
    ("table, rows", {"table": {"rows": 2}, "sound": "any"}, TABLE, TABLE.rsplit("\n", 1)[0]),
    ("table, columns", {"table": {"rows": 1, "columns": 2}, "sound": "any"}, TABLE, "|a|\n|---|\n|1|"),
    ("table, ragged", {"table": {"rows": 1}, "sound": "any"}, TABLE, TABLE + "\n| 5 |"),
    ("table, empty cell", {"table": {"rows": 1}, "sound": "any"}, TABLE, TABLE + "\n| 5 | |"),
    ("json", {"json": {"keys": ["name"]}, "sound": "any"}, '{"name": "Anna"}', '{"name": "Anna"'),
    ("json, keys", {"json": {"keys": ["b"]}, "sound": "any"}, '```json\n{"b": 1}\n```', '{"a": 1}'),
    ("json, values", {"json": {"values": {"a": 30}}, "sound": "any"}, '{"a": 30}', '{"a": 31}'),
    ("json, true is not 1", {"json": {"values": {"ok": True}}, "sound": "any"}, '{"ok": true}', '{"ok": 1}'),
    ("json, array", {"json": {"array": 2}, "sound": "any"}, '["a", "b"]', '["a"]'),
    ("code", {"code": {"language": "python"}, "sound": "any"}, CODE, "def add(a, b): return a + b"),
    ("code, compiles", {"code": {"language": "python"}, "sound": "any"}, CODE, CODE.replace("a, b", "a b")),
    ("code, closed", {"code": {"language": "python"}, "sound": "any"}, CODE, CODE.removesuffix("```")),
    ("code, pattern", {"code": {"language": "python", "pattern": [r"\+"]}}, CODE + "\nDone.", "`a + b`."),
    ("call", ASKED, CALL, "It is 84."),
    ("call, value", ASKED, CALL, CALL.replace("12", "13")),
    ("call, name", ASKED, CALL, CALL.replace("calculator", "clock")),
    ("call, argument", ASKED, CALL, CALL.replace("expression", "x")),
    ("call, whole", ASKED, CALL, CALL.removesuffix("</tool_call>")),
    ("call, JSON", ASKED, CALL, CALL.replace("}}", "}")),
    ("call, once", ASKED, CALL, CALL + CALL),
    ("call, no code runs", ASKED, CALL, CALL.replace("12 * (3 + 4)", "abs(-84)")),
    ("call not asked for", {"all": ["84"], "sound": "any"}, "84", "84 " + CALL),
    ("honest", {"honest": True}, "I'm the small starter model and don't know that.", "It is Paris."),
    ("honest, a way out", {"honest": True}, "I can't. Please load a bigger model.", "I can't say."),
    ("no refusal", {"honest": False}, "A token is a piece of text.", "I do not know that."),
    ("length, words", {"all": ["cat"], "length": {"min_words": 4}}, STORY, "A cat."),
    ("length, most words", {"all": ["cat"], "length": {"max_words": 4}}, "A cat.", STORY),
    ("length, chars", {"all": ["cat"], "length": {"min_chars": 10}}, STORY, "A cat."),
    ("length, sentences", {"all": ["cat"], "length": {"min_sentences": 2}}, STORY, "The cat sat down there."),
    ("one of", {"one_of": [{"all": ["red"]}, {"number": 7}]}, "7.", "8."),
    ("empty", {"none": ["x"], "all": ["cat"]}, STORY, " \n"),
    ("sentence end", {"all": ["cat"]}, 'He said "cat."', "The cat sat on the"),
    ("printable", {"all": ["cat"]}, "A cat.", "A cat\x00."),
    ("whole characters", {"all": ["cat"]}, "A cat – ok.", "A cat �."),
    ("special tokens", {"all": ["cat"]}, "A cat.", "A cat.<|im_end|>."),
    ("one word over and over", {"all": ["cat"]}, "A cat.", "A cat cat cat cat."),
    ("one letter over and over", {"all": ["cat"]}, "A cat.", "A cat aaaaaa."),
    ("loop", {"all": ["cat"]}, "A cat.", "so the cat sat down and " * 4 + "slept."),
    ("one sentence over and over", {"all": ["cat"]}, STORY, "The cat sat down. " * 3),
]


@pytest.mark.parametrize(
    ("rule", "good", "bad"), [c[1:] for c in GOOD_AND_BAD], ids=[c[0] for c in GOOD_AND_BAD]
)
def test_each_part_of_a_rule_passes_the_good_and_fails_the_bad(
    rule: dict[str, Any], good: str, bad: str
) -> None:
    assert grade(rule, good) == (True, "ok")
    passed, reason = grade(rule, bad)
    assert not passed
    assert reason not in ("", "ok")


@pytest.mark.parametrize(
    "rule",
    (
        {},
        [],
        {"sound": "prose"},
        {"length": {"min_words": 3}},
        {"all": []},
        {"all": ["("]},
        {"all": "word"},
        {"every": ["word"]},
        {"number": "7"},
        {"number": {"given": [1]}},
        {"list": {"max": 3}},
        {"table": {"columns": 2}},
        {"json": {"key": "a"}},
        {"code": {"language": "python", "pattern": ["["]}},
        {"tool_call": {}},
        {"tool_call": {"name": "clock", "arguments": {"zone": {"is": 1}}}},
        {"honest": "yes"},
        {"all": ["a"], "sound": "loud"},
        {"all": ["a"], "length": {"words": 3}},
        {"one_of": [{"all": ["a"]}]},
        {"one_of": [{"all": ["a"]}, {"any": []}]},
    ),
)
def test_a_wrong_rule_is_named_and_never_grades(rule: Any) -> None:
    assert GRADE.validate(rule)
    with pytest.raises(ValueError, match=r"\w"):
        grade(rule, "A word.")


@pytest.mark.parametrize(
    ("expression", "value"),
    (
        ("2 + 3 * 4", 14),
        ("(2+3)*4", 20),
        ("12 x 3", 36),
        ("7 × 8 =", 56),
        ("2^10", 1024),
        ("1,250 / 25", 50),
        ("-3 + 5", 2),
    ),
)
def test_expressions_are_worked_out(expression: str, value: float) -> None:
    assert GRADE.evaluate(expression) == value


@pytest.mark.parametrize(
    "expression", ("", "two", "1 / 0", "9**9**9", "(-8) ** 0.5", "__import__('os')", "1 +", "True")
)
def test_what_is_not_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        GRADE.evaluate(expression)


def test_the_questions_are_as_many_as_promised_and_unique() -> None:
    assert len(BY_ID) == len(QUESTIONS) == 200
    assert Counter(question["category"] for question in QUESTIONS) == COUNTS
    texts = Counter(json.dumps([question["messages"], question.get("tools")]) for question in QUESTIONS)
    assert texts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question["id"]))
def test_every_question_is_well_formed(question: dict[str, Any]) -> None:
    assert set(question) <= {"id", "category", "messages", "tools", "rule"}
    assert GRADE.validate(question["rule"]) == []
    roles = [message["role"] for message in question["messages"]]
    assert roles[-1] in ("user", "tool")
    assert roles.count("system") == (roles[0] == "system")
    assert all(message["content"] or message.get("tool_calls") for message in question["messages"])
    names = {tool["function"]["name"] for tool in question.get("tools", [])}
    assert names <= {"clock", "calculator"}
    called = question["rule"].get("tool_call")
    assert called is None or called["name"] in names
    for bad in (
        "",
        "Yes.",
        "the the the the the the the the.",
        "the cat sat on " * 8 + "it.",
        "I like it. " * 4,
    ):
        assert not grade(question["rule"], bad)[0]


STARTER = "I am the small starter model of Tokenglass."
SORRY = "I am only the small starter model, so I do not know that. Load a bigger model for this question."
CAT_STORY = (
    "Once there was a cat named Tom. He liked to sit at the window and look at the rain. One day a bird came "
    "and sang for him. Tom listened until the sun came out."
)
FRUIT = "- apple\n- pear\n- banana"
RIGHT: dict[str, list[str]] = {
    "about-01": [
        "Tokenglass is a desktop app that runs a language model on your own computer and shows what it does.",
        "It's a program for chatting with a local model and watching every token live.",
    ],
    "about-03": ["It is for people who chat with local models, and for scripts that use them."],
    "about-04": ["`tokenglass serve`", "Use tokenglass serve: it runs the same app without a window."],
    "about-09": ["7317", "The default port is 7317."],
    "about-13": ["No. Everything runs on your own machine and nothing is sent away."],
    "about-15": ["Open the model switcher and choose another GGUF file, or drop the file on the window."],
    "about-28": ["No, it listens on 127.0.0.1 only, so just this computer can connect."],
    "numbers-01": [
        "TTFT is the time to first token: how long you wait before the answer begins.",
        "The delay from sending your message until the first token appears.",
    ],
    "numbers-06": [
        "The KV cache keeps the keys and values of earlier tokens, so they are not computed again."
    ],
    "numbers-13": ["Temperature sets how random the choice of the next token is."],
    "numbers-14": ["Set it to 0.", "Zero, that is greedy decoding: the likeliest token is always taken."],
    "numbers-15": ["The answers get more random and creative, and sometimes wrong."],
    "numbers-19": ["It lowers the chance of tokens that were already written, so the text repeats less."],
    "small_talk-01": ["Hello! How can I help you?", "Hi there."],
    "small_talk-06": [STARTER, "I'm the little model inside Tokenglass."],
    "small_talk-08": ["No, I am a small language model.", "I'm not a human, just a program."],
    "stories-01": [CAT_STORY],
    "sums-01": ["7", "3 + 4 = 7", "3 + 4 is 7.", "The answer is seven."],
    "sums-17": ["You have 8 apples.", "5 + 3 = 8, so you have 8 apples."],
    "format-01": [FRUIT, "Here are three fruits:\n\n1. Apple\n2. Pear\n3. Plum"],
    "format-10": ["| fruit | colour |\n|---|---|\n| apple | red |\n| banana | yellow |\n| plum | purple |"],
    "format-16": ['{"name": "Anna", "age": 30}', '```json\n{\n  "name": "Anna",\n  "age": 30\n}\n```'],
    "format-22": [
        CODE,
        "```python\ndef add(a: int, b: int) -> int:\n    return a + b\n```\nIt returns the sum.",
    ],
    "tools-01": ['<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'],
    "tools-06": ['<tool_call>{"name":"calculator","arguments":{"expression":"234*17"}}</tool_call>'],
    "tools-12": ["23 * 17 is 391.", "The result is 391."],
    "tools-16": ["It is 14:32.", "It's 2:32 pm on Wednesday."],
    "unknown-01": [
        SORRY,
        "I can't answer that: I'm a tiny model. A larger one would know.",
        "I don't know what the capital of Mongolia is. I'm the small starter model.",
    ],
    "unknown-11": [SORRY, "I am not able to give medical advice, I'm just a small model. Ask a doctor."],
    "unknown-27": [SORRY],
}
WRONG: dict[str, list[str]] = {
    "about-01": ["Tokenglass is a kind of glass.", SORRY],
    "about-03": ["It is for cats and dogs."],
    "about-04": ["tokenglass chat", "Use the window."],
    "about-09": ["The port is 8080."],
    "about-13": ["Yes, it is sent to the cloud."],
    "about-15": ["Press the stop button to end the answer."],
    "about-28": ["Yes, every computer can connect on 127.0.0.1."],
    "numbers-01": ["TTFT is the number of tokens in a second.", "The first token is a piece of text."],
    "numbers-06": ["The KV cache is a plot at the right."],
    "numbers-13": [
        "A higher temperature makes the text more predictable and less random.",
        "It heats the GPU.",
    ],
    "numbers-14": ["Set it to a high value, such as 2."],
    "numbers-15": ["A high temperature makes answers more predictable."],
    "numbers-19": ["It makes the window bigger."],
    "small_talk-01": ["The KV cache is full."],
    "small_talk-06": ["I am ChatGPT, a model by OpenAI.", "It is the time to first token."],
    "small_talk-08": ["Yes, I am a human."],
    "stories-01": [
        "Once there was a cat.",
        "There was a dog. " + "He ran over the hill to the next house. " * 2,
    ],
    "sums-01": ["8", "3 + 4 = 8", "3 + 4 is 7 or 8.", "I cannot add that.", "3 + 4"],
    "sums-17": ["You have 2 apples.", "You have 5 apples and 3 apples."],
    "format-01": ["apple, pear, banana", FRUIT + "\n- plum", "- a\n- b\n- c"],
    "format-10": ["| fruit | colour |\n|---|---|\n| apple | red |", "- apple: red\n- banana: yellow"],
    "format-16": ['{"name": "Anna"}', '{"name": "Tom", "age": 30}', '{"name": "Anna", "age": 30'],
    "format-22": [
        "```python\ndef add(a, b)\n    return a + b\n```",
        "```python\nprint('hello')\n```",
        "a + b",
    ],
    "tools-01": [
        "It is noon.",
        '<tool_call>{"name":"calculator","arguments":{"expression":"1"}}</tool_call>',
    ],
    "tools-06": ['<tool_call>{"name":"calculator","arguments":{"expression":"234+17"}}</tool_call>', "3978"],
    "tools-12": [
        "23 * 17 is 381.",
        '<tool_call>{"name":"calculator","arguments":{"expression":"23*17"}}</tool_call>',
    ],
    "tools-16": ["It is 15:32.", "I do not know the time."],
    "unknown-01": ["The capital of Mongolia is Berlin.", "I do not know.", "I am a small starter model."],
    "unknown-11": ["Take two aspirin."],
    "unknown-27": ["La casa. I am a small model and cannot say more."],
}


MORE_RIGHT: dict[str, str] = json.loads(
    Path(__file__).with_name("right_answers.json").read_text(encoding="utf-8")
)


def test_samples_cover_every_category() -> None:
    assert {BY_ID[name]["category"] for name in RIGHT} == set(COUNTS)
    assert set(RIGHT) == set(WRONG)


def test_every_question_in_words_has_an_answer_that_passes() -> None:
    answered = set(RIGHT) | set(MORE_RIGHT)
    assert {q["id"] for q in QUESTIONS if q["category"] in ("about", "numbers", "small_talk")} <= answered
    failed = {name: grade(BY_ID[name]["rule"], answer) for name, answer in MORE_RIGHT.items()}
    assert {name: why for name, (passed, why) in failed.items() if not passed} == {}


@pytest.mark.parametrize(("name", "answer"), [(n, a) for n, answers in RIGHT.items() for a in answers])
def test_right_answers_pass(name: str, answer: str) -> None:
    assert grade(BY_ID[name]["rule"], answer) == (True, "ok")


@pytest.mark.parametrize(("name", "answer"), [(n, a) for n, answers in WRONG.items() for a in answers])
def test_wrong_answers_fail(name: str, answer: str) -> None:
    assert not grade(BY_ID[name]["rule"], answer)[0]
