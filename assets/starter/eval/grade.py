"""Grades one answer of the starter model by the rule of its held-out question.

``grade(rule, answer)`` is the whole interface; ``validate(rule)`` lists what is wrong with a rule.
Only the standard library is used, so that the evaluation needs nothing but a way to run the model.
README.md beside this file describes every kind of rule.
"""

from __future__ import annotations

import ast
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Check = Callable[[Any, str], "str | None"]  # (the rule's value, the answer) -> why it fails, or None

MAX_GRAM_REPEATS = 3  # of one run of four words
GRAM = 4
MAX_SAME_WORD_RUN = 3
NUMBER_TOLERANCE = 1e-6

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_ITEM = re.compile(r"^\s{0,6}(?:([-*+•])|(\d{1,3})[.)])\s+(\S.*)$")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?")
_DASHES = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")
_SPECIAL = re.compile(r"<\|[^|>]{1,40}\|>|</?s>|<unk>|<pad>|<bos>|<eos>|</?tool_response>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]*_`]*$")

# An answer that owns up has to say both: that it can't, and what it is or what would help.
_CANNOT = (
    r"cannot|(?:do|does|did|would|could|will|am|is) not|unable|never (?:learned|learnt|saw)|"
    r"beyond (?:me|what)|too (?:big|hard|much|small|little)|"
    r"(?:no|little|without) (?:access|internet|knowledge|way|idea|news)|"
    r"outside (?:of )?what|far more than|know (?:only|very little|little)|only (?:know|knows|learned|learnt)"
)
_SMALL = (
    r"(?:starter|small|smaller|tiny|little|demo)(?:[ -]\w+){0,2} model|"
    r"(?:big|bigger|large|larger|stronger|more capable|different|another|real|full)(?:[ -]\w+){0,2} "
    r"(?:model|one)s?|"
    r"load a(?:nother)? (?:\w+ )?(?:model|gguf)"
)
_REFUSAL = (
    r"i (?:do not know|cannot (?:answer|help|say|tell|know|do|give|write|make)|am not able|"
    r"am (?:only|just) (?:a|the) (?:small|starter|tiny))|beyond me|"
    r"for that,? (?:please )?load a (?:bigger|larger)|"
    r"load a (?:bigger|larger) (?:one|model) for (?:that|this|it)"
)

_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_WORDS = {word: number for number, word in enumerate(_UNITS)}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}


def normalize(text: str) -> str:
    """Text as the patterns see it: plain quotes and dashes, contractions written out, one space."""
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub("[‐‑‒–—−]", "-", text)
    text = re.sub(r"\bcan't\b|\bcan not\b|\bcant\b", "cannot", text, flags=re.IGNORECASE)
    text = re.sub(r"\bwon't\b", "will not", text, flags=re.IGNORECASE)
    text = re.sub(r"n't\b", " not", text, flags=re.IGNORECASE)
    text = re.sub(r"\bI'm\b", "I am", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip()


def _found(pattern: str, text: str) -> bool:
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE) is not None


# -- what the text says ------------------------------------------------------------------------------


def _check_all(patterns: list[str], answer: str) -> str | None:
    text = normalize(answer)
    missing = [p for p in patterns if not _found(p, text)]
    return f"missing: {missing[0]}" if missing else None


def _check_any(patterns: list[str], answer: str) -> str | None:
    text = normalize(answer)
    return None if any(_found(p, text) for p in patterns) else f"none of: {' / '.join(patterns)}"


def _check_none(patterns: list[str], answer: str) -> str | None:
    text = normalize(answer)
    wrong = [p for p in patterns if _found(p, text)]
    return f"forbidden: {wrong[0]}" if wrong else None


def _check_honest(wanted: bool, answer: str) -> str | None:
    text = normalize(answer)
    if wanted:
        if not _found(_CANNOT, text):
            return "does not say that it can't"
        return None if _found(_SMALL, text) else "names neither the small model nor a bigger one"
    return "refuses what it should answer" if _found(_REFUSAL, text) else None


def numbers_in(text: str) -> list[float]:
    """Every number written in digits, thousands separators read, in the order of the text."""
    found = _NUMBER.findall(re.sub(r"(?<=\d)\s*[-–]\s*(?=\d)", " - ", text))
    return [float(n.replace(",", "").replace("−", "-")) for n in found if n.strip("-−,")]


def _words_as_numbers(text: str) -> set[float]:
    words = re.findall(r"[a-z]+", text.lower())
    values = {float(_WORDS[w]) for w in words if w in _WORDS} | {float(_TENS[w]) for w in words if w in _TENS}
    for tens, ones in pairwise(words):
        if tens in _TENS and 0 < _WORDS.get(ones, 0) < 10:
            values.add(float(_TENS[tens] + _WORDS[ones]))
    return values


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=NUMBER_TOLERANCE, abs_tol=NUMBER_TOLERANCE)


def _check_number(value: Any, answer: str) -> str | None:
    # Besides the result only numbers of the question may stand there: "it is 7, or 8" is no answer.
    wanted = float(value["equals"]) if isinstance(value, dict) else float(value)
    given = [float(g) for g in value.get("given", [])] if isinstance(value, dict) else []
    digits = numbers_in(answer)
    if not any(_same(n, wanted) for n in digits):
        if digits and not all(any(_same(abs(n), abs(g)) for g in given) for n in digits):
            return f"wrong number: {digits}, wanted {wanted:g}"
        if not any(_same(n, wanted) for n in _words_as_numbers(answer)):
            return f"number {wanted:g} not found"
    extra = [n for n in digits if not any(_same(abs(n), abs(k)) for k in [wanted, *given])]
    return f"another number too: {extra[0]:g}" if extra else None


# -- its form ----------------------------------------------------------------------------------------


def list_items(answer: str) -> list[tuple[bool, str]]:
    """Items of markdown lists as (is numbered, text)."""
    matches = (_ITEM.match(line) for line in answer.splitlines())
    return [(m.group(2) is not None, m.group(3).strip()) for m in matches if m]


def _check_list(value: dict[str, Any], answer: str) -> str | None:
    items = list_items(answer)
    style = value.get("style")
    if style:
        items = [item for item in items if item[0] == (style == "numbered")]
    if len(items) < value["min"]:
        return f"{len(items)} list items, wanted at least {value['min']}"
    if len(items) > value.get("max", len(items)):
        return f"{len(items)} list items, wanted at most {value['max']}"
    if len({text.lower() for _, text in items}) < min(len(items), value["min"]):
        return "list items repeat"
    return None


def table_rows(answer: str) -> list[list[str]]:
    """Rows of the first markdown table, the header first, without the line of dashes; [] without one."""
    lines = [line.strip() for line in answer.splitlines()]
    for i in range(1, len(lines)):
        if "|" in lines[i] and "|" in lines[i - 1] and _DASHES.fullmatch(lines[i]):
            body = [lines[i - 1]]
            for line in lines[i + 1 :]:
                if "|" not in line:
                    break
                body.append(line)
            return [[c.strip() for c in re.sub(r"^\||\|$", "", row).split("|")] for row in body]
    return []


def _check_table(value: dict[str, Any], answer: str) -> str | None:
    rows = table_rows(answer)
    if not rows:
        return "no markdown table"
    if len(rows) - 1 < value["rows"]:
        return f"{len(rows) - 1} table rows, wanted at least {value['rows']}"
    columns = len(rows[0])
    if "columns" in value and columns != value["columns"]:
        return f"{columns} columns, wanted {value['columns']}"
    if any(len(row) != columns for row in rows):
        return "table rows differ in length"
    return "empty cells" if any(not cell for row in rows[1:] for cell in row) else None


def code_blocks(answer: str) -> list[tuple[str, str]]:
    """Closed code blocks as (language in lower case, content)."""
    return [(m.group(1).lower(), m.group(2)) for m in _FENCE.finditer(answer)]


def _json_values(answer: str) -> list[Any]:
    texts = [body for language, body in code_blocks(answer) if language in ("json", "")] or [answer]
    values: list[Any] = []
    for text in texts:
        start = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=-1)
        if start < 0:
            continue
        try:
            values.append(json.JSONDecoder().raw_decode(text[start:])[0])
        except (ValueError, RecursionError):
            continue
    return values


def _json_fails(rule: dict[str, Any], value: Any) -> str | None:
    if rule.get("array"):
        if not isinstance(value, list) or len(value) < rule["array"]:
            return f"not a JSON array of {rule['array']} or more"
        return None
    if not isinstance(value, dict):
        return "not a JSON object"
    lowered = {str(k).lower(): v for k, v in value.items()}
    missing = [k for k in rule.get("keys", []) if k.lower() not in lowered]
    if missing:
        return f"JSON key missing: {missing[0]}"
    for key, wanted in rule.get("values", {}).items():
        got = lowered.get(key.lower())
        both_text = isinstance(got, str) and isinstance(wanted, str)
        same = str(got).strip().lower() == str(wanted).lower() if both_text else got == wanted
        if not same or isinstance(got, bool) != isinstance(wanted, bool):
            return f"JSON value of {key} is {got!r}, wanted {wanted!r}"
    if len(lowered) < rule.get("min_keys", 1):
        return f"{len(lowered)} JSON keys, wanted {rule.get('min_keys', 1)}"
    return None


def _check_json(rule: dict[str, Any], answer: str) -> str | None:
    why: str | None = "no JSON that parses"
    for value in _json_values(answer):
        why = _json_fails(rule, value)
        if why is None:
            return None
    return why


def _check_code(value: dict[str, Any], answer: str) -> str | None:
    language = value["language"].lower()
    names = {"python": {"python", "py", "python3"}}.get(language, {language})
    blocks = [body for lang, body in code_blocks(answer) if lang in names]
    why = f"no closed {language} code block"
    for body in blocks:
        if language == "python":
            try:
                tree = ast.parse(textwrap.dedent(body))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                why = "the code does not compile"
                continue
            if not tree.body:
                why = "the code block is empty"
                continue
        missing = [p for p in value.get("pattern", []) if not re.search(p, body)]
        if not missing:
            return None
        why = f"code lacks: {missing[0]}"
    return why


# -- tool calls --------------------------------------------------------------------------------------


def evaluate(expression: str) -> float:
    """Value of an arithmetic expression; ValueError where it isn't one."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression).replace("×", "*").replace("÷", "/").replace("−", "-")
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=\d)", "*", text).replace("^", "**").rstrip(" =?")
    if len(text) > 200:
        raise ValueError("too long")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)  # type: ignore[arg-type]  # the line above leaves int and float
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _value(node.left), _value(node.right)
        match node.op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.Div():
                return a / b
            case ast.FloorDiv():
                return a // b
            case ast.Mod():
                return a % b
            case ast.Pow() if abs(b) <= 64:
                result = a**b
                if isinstance(result, float):  # a negative base with a fraction gives a complex number
                    return result
    raise ValueError("not arithmetic")


def tool_calls(answer: str) -> list[dict[str, Any]]:
    """Calls written ``<tool_call>{"name":…,"arguments":{…}}</tool_call>``; ValueError if malformed."""
    calls = []
    for body in _TOOL_CALL.findall(answer):
        call = json.loads(body)
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ValueError("a tool call without a name")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("arguments are not an object")
        calls.append({"name": call["name"], "arguments": arguments})
    return calls


def _argument_fails(wanted: dict[str, Any], got: Any) -> str | None:
    if "evaluates_to" in wanted:
        try:
            value = evaluate(str(got))
        except ValueError:
            return f"not an expression: {got!r}"
        return None if _same(value, float(wanted["evaluates_to"])) else f"{got!r} is {value:g}"
    if "matches" in wanted:
        return None if _found(wanted["matches"], normalize(str(got))) else f"{got!r} does not match"
    return None if got == wanted["equals"] else f"is {got!r}"


def _check_tool_call(value: dict[str, Any], answer: str) -> str | None:
    try:
        calls = tool_calls(answer)
    except ValueError as error:
        return f"malformed tool call: {error}"
    if len(calls) != 1 or answer.count("<tool_call>") != 1:
        return f"{len(calls)} whole tool calls, wanted one"
    call = calls[0]
    if call["name"] != value["name"]:
        return f"called {call['name']}, wanted {value['name']}"
    for name, wanted in value.get("arguments", {}).items():
        if name not in call["arguments"]:
            return f"argument missing: {name}"
        why = _argument_fails(wanted, call["arguments"][name])
        if why:
            return f"argument {name}: {why}"
    return None


# -- length and soundness ----------------------------------------------------------------------------


def _check_length(value: dict[str, Any], answer: str) -> str | None:
    words = len(re.findall(r"\w+", answer))
    sentences = len(re.findall(r"[.!?…]+(?:[\"'”’)\]*_`]*)(?:\s|$)", answer.strip()))
    for name, size in (("words", words), ("chars", len(answer.strip())), ("sentences", sentences)):
        if size < value.get(f"min_{name}", 0):
            return f"{size} {name}, wanted at least {value[f'min_{name}']}"
        if size > value.get(f"max_{name}", size):
            return f"{size} {name}, wanted at most {value[f'max_{name}']}"
    return None


def _check_sound(kind: str, answer: str) -> str | None:
    if kind == "none":
        return None
    if "�" in answer or any(not c.isprintable() and c not in "\n\t\r" for c in answer):
        return "characters that can't be printed"
    if _SPECIAL.search(answer):
        return "special tokens in the text"
    if re.search(r"([^\W\d_])\1{4}|([^\w\s|`:#=*.~-])\2{5}", answer):
        return "one character over and over"
    words = re.findall(r"\w+", answer.lower())
    for i in range(len(words) - MAX_SAME_WORD_RUN):
        if len(set(words[i : i + MAX_SAME_WORD_RUN + 1])) == 1 and not words[i].isdigit():
            return f"one word over and over: {words[i]}"
    grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
    gram, times = grams.most_common(1)[0] if grams else ((), 0)
    if times > MAX_GRAM_REPEATS:
        return f"loops: {' '.join(gram)!r} {times} times"
    sentences = Counter(s.strip().lower() for s in re.split(r"[.!?\n]+", answer) if len(s.split()) >= GRAM)
    if sentences and sentences.most_common(1)[0][1] > 2:
        return f"one sentence over and over: {sentences.most_common(1)[0][0]!r}"
    if kind == "prose" and not _SENTENCE_END.search(answer.strip()):
        return "does not end a sentence"
    return None


# -- the rule as a whole -----------------------------------------------------------------------------


def _check_one_of(rules: list[dict[str, Any]], answer: str) -> str | None:
    reasons = []
    for rule in rules:
        why = _first_failure(rule, answer)
        if why is None:
            return None
        reasons.append(why)
    return "; ".join(reasons)


_CHECKS: dict[str, Check] = {
    "sound": _check_sound,
    "length": _check_length,
    "tool_call": _check_tool_call,
    "list": _check_list,
    "table": _check_table,
    "json": _check_json,
    "code": _check_code,
    "number": _check_number,
    "honest": _check_honest,
    "all": _check_all,
    "any": _check_any,
    "none": _check_none,
    "one_of": _check_one_of,
}


def _first_failure(rule: dict[str, Any], answer: str) -> str | None:
    for kind, check in _CHECKS.items():
        if kind in rule:
            why = check(rule[kind], answer)
            if why is not None:
                return why
    return None


def grade(rule: dict[str, Any], answer: str) -> tuple[bool, str]:
    """Whether the answer is on the point, and "ok" or the first reason why it isn't.

    Every part of the rule must hold. Empty answers, unsound text and tool calls nobody asked for always fail.
    ValueError for a rule that isn't valid.
    """
    problems = validate(rule)
    if problems:
        raise ValueError(problems[0])
    if not answer.strip():
        return False, "empty"
    if "<tool_call" in answer and "tool_call" not in rule:
        return False, "calls a tool where it should answer"
    if "sound" not in rule:
        rule = {"sound": "any" if "tool_call" in rule else "prose", **rule}
    why = _first_failure(rule, answer)
    return why is None, why or "ok"


_LENGTHS = {f"{side}_{unit}" for side in ("min", "max") for unit in ("words", "chars", "sentences")}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {  # kind -> (required fields, all fields)
    "length": (set(), _LENGTHS),
    "tool_call": ({"name"}, {"name", "arguments"}),
    "list": ({"min"}, {"min", "max", "style"}),
    "table": ({"rows"}, {"rows", "columns"}),
    "json": (set(), {"keys", "values", "min_keys", "array"}),
    "code": ({"language"}, {"language", "pattern"}),
}


def _patterns_wrong(kind: str, patterns: Any) -> list[str]:
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        return [f"{kind}: not a list of patterns"]
    wrong = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            wrong.append(f"{kind}: {pattern!r}: {error}")
    return wrong


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind_wrong(kind: str, value: Any) -> list[str]:
    if kind in ("all", "any", "none"):
        return _patterns_wrong(kind, value)
    if kind == "sound":
        return [] if value in ("prose", "any", "none") else [f"sound: {value!r}"]
    if kind == "honest":
        return [] if isinstance(value, bool) else [f"honest: {value!r}"]
    if kind == "one_of":
        if not isinstance(value, list) or len(value) < 2:
            return ["one_of: not a list of two rules or more"]
        return [problem for rule in value for problem in validate(rule)]
    if kind == "number":
        if isinstance(value, dict):
            good = set(value) <= {"equals", "given"} and _is_number(value.get("equals"))
            good = good and all(_is_number(g) for g in value.get("given", []))
        else:
            good = _is_number(value)
        return [] if good else [f"number: {value!r}"]
    required, allowed = _FIELDS[kind]
    if not isinstance(value, dict) or not required <= set(value) or not set(value) <= allowed:
        return [f"{kind}: fields {value!r}"]
    if kind == "code" and "pattern" in value:
        return _patterns_wrong(kind, value["pattern"])
    if kind == "tool_call":
        checks = value.get("arguments", {}).values()
        known = {"evaluates_to", "matches", "equals"}
        wrong = [c for c in checks if not isinstance(c, dict) or len(c) != 1 or not set(c) <= known]
        return [f"tool_call: {c!r}" for c in wrong]
    return []


def validate(rule: Any) -> list[str]:
    """What is wrong with a rule; empty where nothing is."""
    if not isinstance(rule, dict) or not rule:
        return ["a rule is an object with at least one part"]
    if not set(rule) - {"sound", "length", "none"}:
        return ["a rule must ask for some content"]
    problems = [f"unknown kind of rule: {kind}" for kind in rule if kind not in _CHECKS]
    return problems + [p for kind, value in rule.items() if kind in _CHECKS for p in _kind_wrong(kind, value)]
