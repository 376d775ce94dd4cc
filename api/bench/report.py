"""From samples to figures, and from figures to tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from api.bench.samples import (
    MESSAGES,
    Interval,
    Pair,
    Sample,
    compared,
    first_token_over,
    interval,
    percentiles,
    ratio,
)

Part = dict[str, Any]


def summary(parts: dict[str, list[Pair]]) -> dict[str, Part]:
    """All figures of all parts; `pairs` has those of every pair."""
    return {name: _part(name, pairs) for name, pairs in parts.items()}


def _part(name: str, pairs: list[Pair]) -> Part:
    if name.startswith("transports"):
        return _transports(pairs)
    names = list(dict.fromkeys(side for pair in pairs for side in sorted(pair, key=_rank)))
    part: Part = {"sides": {side: _side([pair[side] for pair in pairs if side in pair]) for side in names}}
    kind = name.split()[0]
    for side in names:
        if side != "bare" and "bare" in names:
            part["sides"][side]["ratio_to_bare"] = ratio(pairs, side, "bare")
            part["sides"][side]["first_token_over_bare_ms"] = first_token_over(pairs, side, "bare")
    if "app" in names and "llama-server" in names:
        if kind != "prompt":
            part["app_to_llama_server"] = ratio(pairs, "app", "llama-server")
        part["first_token_app_over_llama_server_ms"] = first_token_over(pairs, "app", "llama-server")
    if kind == "turns":
        for side in {side.split()[0] for side in names}:
            part["sides"][f"{side} 2"]["second_to_first"] = compared(
                pairs, f"{side} 2", f"{side} 1", lambda two, one: two.first_token_s / one.first_token_s
            )
    if kind == "load":
        part["long_prompt_first_token_ms"] = part["sides"].pop("prompt")["first_token_ms"]
        for ending in ("", ", client"):
            part["sides"][f"loaded{ending}"]["p99_to_unloaded"] = compared(
                pairs, f"loaded{ending}", f"unloaded{ending}", lambda a, b: _p99(a) / _p99(b)
            )
    if kind == "lookup":
        part["on_to_off"] = ratio(pairs, "on", "off")
        runs = [pair["on"].runs[0] for pair in pairs if "on" in pair]
        drafted, accepted = sum(run.draft_tokens for run in runs), sum(run.accepted_tokens for run in runs)
        part["acceptance"] = accepted / drafted if drafted else None
    part["pairs"] = [{side: sample.figures() for side, sample in pair.items()} for pair in pairs]
    return part


def _transports(pairs: list[Pair]) -> Part:
    """Of every figure of these samples its interval, where there are any."""
    all_figures = [{side: sample.figures() for side, sample in pair.items()} for pair in pairs]
    sides: dict[str, Any] = {side: {} for side in all_figures[0]}
    for side, figures in sides.items():
        for name in all_figures[0][side]:
            values = [value for each in all_figures if (value := each[side][name]) is not None]
            if values:
                figures[name] = interval(values)._asdict()
    return {"sides": sides, "pairs": all_figures}


def doubts(parts: dict[str, list[Pair]]) -> list[str]:
    """What can't be told of the rates that are shown, because too few tokens came."""
    notes = []
    for name, pairs in parts.items():
        if not any(heading == "tok/s" for heading, _ in _COLUMNS[name.split()[0]]):
            continue
        for side in pairs[0]:
            messages = [run.n_messages for pair in pairs if side in pair for run in pair[side].runs]
            if messages and (usual := statistics.median(messages)) < MESSAGES:
                notes.append(
                    f"{name}, {_NAMES.get(side, side)}: a run came in {usual:.0f} messages: "
                    "too few tokens to tell their rate"
                )
    return notes


def _p99(sample: Sample) -> float:
    return percentiles(sample.gaps_s)["p99_ms"] or 1e-6


_ORDER = ("bare", "engine", "app", "llama-server", "off", "on", "unloaded", "loaded", "prompt")


def _rank(side: str) -> tuple[int, int, str]:
    word = side.split(",")[0].split()[0]
    number = side.rpartition(" ")[2]
    return _ORDER.index(word), int(number) if number.isdecimal() else 0, side


def _side(samples: Sequence[Sample]) -> dict[str, Any]:
    """One side's figures over all its samples."""
    figures: dict[str, Any] = {
        "tokens_per_second": interval([sample.tokens_per_second for sample in samples])._asdict(),
        "first_token_ms": interval([sample.first_token_s * 1000 for sample in samples])._asdict(),
        "itl": percentiles([gap for sample in samples for gap in sample.gaps_s]),
    }
    delays = [delay for sample in samples for delay in sample.delivery_s]
    if delays:
        figures["delivery"] = percentiles(delays)
    spent = [sample.app_cpu_s for sample in samples if sample.app_cpu_s is not None]
    if spent:
        figures["app_cpu_us_per_token"] = sum(spent) * 1e6 / sum(sample.n_tokens for sample in samples)
    own = [sample.own_tokens_per_second for sample in samples if sample.own_tokens_per_second]
    if own:
        figures["own_tokens_per_second"] = statistics.median(own)
    cached = [run.cached_tokens for sample in samples for run in sample.runs if run.cached_tokens is not None]
    if cached:
        figures["cached_tokens"] = statistics.median(cached)
    return figures


# ---- for people


def report(result: dict[str, Any]) -> str:
    """Tables of everything that was measured."""
    machine = result["machine"]
    where = f"{machine['cores']} cores ({machine['cpu']}), llama.cpp {result['llama_cpp']}"
    if n := result["n_gpu_layers"]:
        where += f", {n} layers on a GPU ({', '.join(result['devices'])})"
    how = (
        f"{result['pairs']} interleaved pairs, {result['tokens']} tokens a run, {result['sampling']} sampling"
    )
    lines = [
        f"{result['model']}: {result['weights']:,} weights, engine threads {result['threads']}; {where}",
        f"{how}; medians over the pairs (95 % interval)",
    ]
    for name, part in result["parts"].items():
        title = _TITLES[name.split()[0]].format(n=name.partition(" ")[2], **result)
        lines += ["", title, *_table(name.split()[0], part)]
    lines += ["", *result["notes"], *(f"warning: {text}" for text in result["warnings"])]
    return "\n".join(lines).rstrip()


_TITLES = {
    "single": "One generation ({subscribers} further subscribers at the app)",
    "subscribers": "Further subscribers at the app",
    "batch": "{n} generations at once",
    "prompt": "A new prompt of {n} tokens",
    "turns": "First and second turn of a conversation of 2,000 tokens",
    "delivery": "Worker to client",
    "load": "Three generations while a prompt of 4,000 tokens comes in",
    "lookup": "Prompt lookup on a text that repeats itself",
    "transports": "One short answer over the network, {n} ms there and back",
}


def _table(kind: str, part: Part) -> list[str]:
    columns = _COLUMNS[kind]
    rows = [["", *(heading for heading, _ in columns)]]
    for side, figures in part["sides"].items():
        rows.append([_NAMES.get(side, side), *(_cell(figures, path) for _, path in columns)])
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    lines = ["  " + "  ".join(_aligned(row[i], widths[i], i) for i in kept).rstrip() for row in rows]
    for key, text in _EXTRA.items():
        if part.get(key) is not None:
            lines.append(f"  {text}: {_value(part[key], 3 if 'ms' not in key else 2)}")
    return lines


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)


_NAMES = {
    "bare": "bare loop",
    "engine": "engine alone",
    "live": "WebSocket, open",
    "live new": "WebSocket, new",
    "sse": "SSE, kept alive",
    "sse new": "SSE, new",
    "post": "POST, kept alive",
    "post new": "POST, new",
    "poll": "polling, kept alive",
    "poll new": "polling, new",
}
_RATE = [("tok/s", "tokens_per_second.median/1"), ("to bare", "ratio_to_bare/3")]
_FIRST = [("first token", "first_token_ms.median/2 ms"), ("over bare, ms", "first_token_over_bare_ms/2")]
_ITL = [("ITL p50", "itl.p50_ms/2 ms"), ("p99", "itl.p99_ms/2 ms")]
_DELIVERY = [("delivery p50", "delivery.p50_ms/2 ms"), ("p99", "delivery.p99_ms/2 ms")]
_CPU = [("app CPU/token", "app_cpu_us_per_token/0 µs")]
_OWN = [("its own tok/s", "own_tokens_per_second/1")]
_COLUMNS = {
    "single": [*_RATE, *_FIRST, *_ITL, *_DELIVERY, *_CPU, *_OWN],
    "subscribers": [*_RATE, *_ITL, *_DELIVERY, *_CPU],
    "batch": [*_RATE, *_FIRST, *_ITL, *_CPU],
    "prompt": _FIRST,
    "turns": [
        ("first token", "first_token_ms.median/2 ms"),
        ("cached tokens", "cached_tokens/0"),
        ("second to first", "second_to_first/4"),
    ],
    "delivery": [("tok/s", "tokens_per_second.median/1"), *_DELIVERY, *_CPU],
    "load": [*_ITL, ("p99 to unloaded", "p99_to_unloaded/2")],
    "lookup": [("tok/s", "tokens_per_second.median/1")],
    "transports": [
        ("first text, ms", "first_text_ms/1"),
        ("whole answer, ms", "whole_ms/1"),
        ("stop", "stop_ms.median/1 ms"),
        ("app CPU/token", "app_cpu_us_per_token.median/0 µs"),
        ("client's", "client_cpu_us_per_token.median/0 µs"),
        ("bytes/token up", "sent_bytes_per_token.median/1"),
        ("down", "received_bytes_per_token.median/1"),
    ],
}
_EXTRA = {
    "app_to_llama_server": "app to llama-server",
    "first_token_app_over_llama_server_ms": "first token of the app over llama-server's, ms",
    "long_prompt_first_token_ms": "first token of the long prompt, ms",
    "on_to_off": "on to off",
    "acceptance": "guessed tokens that were right",
}


def _cell(figures: dict[str, Any], path: str) -> str:
    names, _, form = path.partition("/")
    digits, _, unit = form.partition(" ")
    value: Any = figures
    for name in names.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return ""
    return _value(value, int(digits)) + (f" {unit}" if unit else "")


def _value(value: Any, digits: int) -> str:
    if isinstance(value, dict):
        return Interval(**value).apart(digits)
    return f"{value:,.{digits}f}"
