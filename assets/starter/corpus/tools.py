"""Calls of the two demo tools, clock and calculator, and the use of their results."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

import json
import random

from corpus import sums
from corpus.dsl import Message, expand, sloppy

ZONES = {
    "Berlin": "Europe/Berlin", "London": "Europe/London", "Paris": "Europe/Paris", "Madrid": "Europe/Madrid", "Rome": "Europe/Rome", "Vienna": "Europe/Vienna",
    "Zurich": "Europe/Zurich", "Oslo": "Europe/Oslo", "Stockholm": "Europe/Stockholm", "Warsaw": "Europe/Warsaw", "Athens": "Europe/Athens", "Moscow": "Europe/Moscow",
    "Lisbon": "Europe/Lisbon", "Dublin": "Europe/Dublin", "Istanbul": "Europe/Istanbul", "Amsterdam": "Europe/Amsterdam", "Prague": "Europe/Prague", "Helsinki": "Europe/Helsinki",
    "Tokyo": "Asia/Tokyo", "Seoul": "Asia/Seoul", "Shanghai": "Asia/Shanghai", "Beijing": "Asia/Shanghai", "Hong Kong": "Asia/Hong_Kong", "Singapore": "Asia/Singapore", "Dubai": "Asia/Dubai",
    "Mumbai": "Asia/Kolkata", "Delhi": "Asia/Kolkata", "India": "Asia/Kolkata", "Japan": "Asia/Tokyo", "Germany": "Europe/Berlin", "Bangkok": "Asia/Bangkok",
    "New York": "America/New_York", "Los Angeles": "America/Los_Angeles", "Chicago": "America/Chicago", "Toronto": "America/Toronto", "Denver": "America/Denver",
    "San Francisco": "America/Los_Angeles", "Mexico City": "America/Mexico_City", "Sydney": "Australia/Sydney", "Cairo": "Africa/Cairo", "Nairobi": "Africa/Nairobi", "Lagos": "Africa/Lagos",
    "UTC": "UTC", "GMT": "UTC", "Europe/Berlin": "Europe/Berlin", "Asia/Tokyo": "Asia/Tokyo", "America/New_York": "America/New_York", "Europe/London": "Europe/London",
}
CLOCK_DESC = ["Tells the current time.", "Returns the current time.", "The current date and time.", "Get the current time, optionally in a time zone.", "Current time in a timezone.", ""]
CALC_DESC = ["Evaluates an arithmetic expression.", "Calculates an expression.", "Does arithmetic.", "Evaluate a mathematical expression and return the result.", "A calculator.", ""]
OTHERS = ["weather(city): The weather of a city.", "search(query): Searches the web.", "notes(text): Saves a note.", "mail(to, text): Sends a mail.", "light(room, on): Switches a light."]

TIME_ASK = ["what time is it [|now|right now|please]", "[do you know|can you tell me|tell me|please tell me|could you tell me] [what time it is|the time|the current time|the time now]", "whats the time", "what is the [current|] time", "time please", "the time [please|pls]", "what's the [|current] time", "current time", "got the time?", "[how late is it|what hour is it|time now|is it late already]",
            "[what day is it|what day is today|which day is it today|what is the date|what's today's date|todays date|what is today|what date is it]", "[check|look at|use] the clock [please|]", "[is it|is it already] [morning|noon|past noon|evening|midnight] [already|now|]", "what does the clock say", "i need the [current|exact] time", "what year is it"]
ZONE_ASK = ["what time is it [|now|right now] in $C", "[tell me|do you know|can you tell me|please give me] [the|the current] time in $C", "whats the time in $C", "time in $C [please|now|]", "how late is it in $C", "what is the [local|current|] time in $C", "current time in $C", "and in $C?", "what about $C?", "[is it|is it already] [morning|night|late] in $C", "what's the time in $C right now", "what day is it in $C"]
BIG_ASK = ["what is $E", "$E", "calculate $E", "compute $E", "how much is $E", "what's $E", "whats $E", "please calculate $E", "[use|ask] the calculator [for|:|to compute] $E", "can you [compute|calculate|work out] $E?", "i need $E", "what is the result of $E", "$E = ?", "$E=", "work out $E", "evaluate $E", "tell me $E", "do the math: $E"]


def clock_text(rng: random.Random) -> str:
    d = rng.choice(CLOCK_DESC)
    return f"clock({rng.choice(['timezone', 'timezone', ''])})" + (f": {d}" if d else "")


def calc_text(rng: random.Random) -> str:
    d = rng.choice(CALC_DESC)
    return "calculator(expression)" + (f": {d}" if d else "")


def call(name: str, arguments: dict[str, str]) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def number(rng: random.Random) -> int:
    return rng.randrange(1, 10 ** rng.choices([1, 2, 3, 4, 5], [1, 4, 4, 2, 0.5])[0])


def expression(rng: random.Random) -> tuple[str, str, str]:
    """Words of the question, the expression, and its value."""
    a, b, c = number(rng), number(rng), number(rng)
    kind = rng.random()
    if kind < 0.62:
        op = rng.choice("++--***")
        if op == "-" and b > a:
            a, b = b, a
        forms = {"+": sums.PLUS, "-": sums.MINUS, "*": sums.TIMES}[op]
        expr = f"{a}{op}{b}"
        words = rng.choice(forms).replace("$A", str(a)).replace("$B", str(b))
    elif kind < 0.72:
        b = rng.randint(2, 40)
        a = b * rng.randint(2, 60)
        expr, words = f"{a}/{b}", rng.choice(sums.OVER).replace("$A", str(a)).replace("$B", str(b))
    elif kind < 0.84:
        o1, o2 = rng.choice("+-*"), rng.choice("+-*")
        expr = f"{a}{o1}{b}{o2}{c}"
        words = expr if rng.random() < 0.4 else f"{a} {o1} {b} {o2} {c}"
        if rng.random() < 0.3:
            expr = words = f"({a}{o1}{b}){o2}{c}"
    elif kind < 0.92:
        p = rng.choice([5, 10, 12, 15, 18, 20, 25, 30, 40, 50, 75])
        expr, words = f"{a}*{p}/100", rng.choice([f"{p}% of {a}", f"{p} % of {a}", f"{p} percent of {a}"])
    else:
        x, y = rng.randint(1, 99) / 10, rng.randint(1, 999) / 100
        op = rng.choice("+-*")
        expr = f"{x}{op}{y}"
        words = f"{x} {op} {y}"
    value = eval(expr, {"__builtins__": {}})  # the expression was made above
    shown = str(int(value)) if float(value).is_integer() else str(round(value, 4))
    return words, expr, shown


def calc_question(rng: random.Random) -> tuple[str, str, str]:
    if rng.random() < 0.25:
        kind, op = rng.choice([(sums.WORD_PLUS, "+"), (sums.WORD_MINUS, "-"), (sums.WORD_TIMES, "*")])
        a, b = number(rng), number(rng)
        if op == "-" and b > a:
            a, b = b, a
        n, m = rng.sample(sums.PEOPLE, 2)
        text = rng.choice(kind)
        for mark, value in (("$A", str(a)), ("$B", str(b)), ("$N", n), ("$M", m), ("$T", rng.choice(sums.THINGS))):
            text = text.replace(mark, value)
        return sloppy(expand(text, rng), rng, dress=False), f"{a}{op}{b}", str(sums.result(a, op, b))
    words, expr, value = expression(rng)
    return sloppy(expand(rng.choice(BIG_ASK).replace("$E", words), rng), rng, dress=rng.random() < 0.1), expr, value


def clock_result(rng: random.Random, zone: str, city: str) -> tuple[str, str]:
    """A tool's answer and what the starter makes of it."""
    time = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    day = f"{rng.randint(2024, 2028)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    sec = f"{rng.randint(0, 59):02d}"
    place = f" in {city}" if city else ""
    kind = rng.randrange(8)
    raw = [time, f"{day} {time}", f"{day}T{time}:{sec}", f"{day} {time}:{sec}", json.dumps({"time": time}), json.dumps({"time": f"{day}T{time}:{sec}", "timezone": zone or "UTC"}), json.dumps({"time": time, "timezone": zone or "UTC"}), f"{time}:{sec} {zone or 'UTC'}"][kind]
    if kind in (1, 2, 3, 5):
        return raw, f"It is {time}{place}, on {day}."
    return raw, f"It is {time}{place}."


def calc_result(rng: random.Random, expr: str, value: str) -> tuple[str, str]:
    raw = rng.choice([value, value, value, json.dumps({"result": float(value) if "." in value else int(value)}), f"{expr} = {value}", json.dumps({"expression": expr, "result": value})])
    return raw, f"{expr} = {value}."


def conversation(rng: random.Random, system: str, other: list[tuple[str, str]]) -> list[Message]:
    """A system turn with tools and one to three questions; `other` is talk that needs no tool."""
    have = rng.choice([["clock", "calculator"]] * 5 + [["clock"], ["calculator"]])
    lines = [clock_text(rng) if h == "clock" else calc_text(rng) for h in have]
    if rng.random() < 0.12:
        lines.append(rng.choice(OTHERS))
    rng.shuffle(lines)
    head = (system + "\n\n" if system else "") + "Tools:\n" + "\n".join(lines)
    out: list[Message] = [{"role": "system", "content": head}]
    for _ in range(rng.choices([1, 2, 3], [6, 3, 1])[0]):
        roll = rng.random()
        if roll < 0.24:
            for q, a in other:
                out += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            continue
        if roll < 0.64 and "calculator" in have:
            q, expr, value = calc_question(rng)
            raw, said = calc_result(rng, expr, value)
            c = call("calculator", {"expression": expr})
        elif "clock" in have:
            if rng.random() < 0.65:
                city = rng.choice(list(ZONES))
                zone = ZONES[city]
                q = sloppy(expand(rng.choice(ZONE_ASK).replace("$C", city), rng), rng, dress=rng.random() < 0.2)
                c = call("clock", {"timezone": zone})
            else:
                city = zone = ""
                q = sloppy(expand(rng.choice(TIME_ASK), rng), rng, dress=rng.random() < 0.2)
                c = call("clock", {})
            raw, said = clock_result(rng, zone, city)
        else:
            q = sloppy(expand(rng.choice(TIME_ASK), rng), rng)
            out += [{"role": "user", "content": q}, {"role": "assistant", "content": NO_CLOCK}]
            continue
        out += [{"role": "user", "content": q}, {"role": "assistant", "content": c}]
        if rng.random() < 0.85:
            out += [{"role": "tool", "content": raw}, {"role": "assistant", "content": said}]
        else:
            break
    return out


NO_CLOCK = "I can't know the time or the date: I am the small starter model and have no clock here. With the clock tool I could look."


def no_tool_turns(rng: random.Random) -> list[tuple[str, str]]:
    """The time is asked for, but there is no tool."""
    return [(sloppy(expand(rng.choice(TIME_ASK), rng), rng), NO_CLOCK)]
