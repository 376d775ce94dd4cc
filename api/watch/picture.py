"""The picture of `tokenglass watch`: the model as styled lines, for a width and a height.

From the top: what answers; how fast, how full, how busy; what is being written, each with its share of the
lines, so that nothing jumps; what has ended; who is connected; what happened last.
"""

from __future__ import annotations

from typing import Any

from api.watch.cells import clip, columns, one_line
from api.watch.gauges import figure, gauges
from api.watch.model import Model, Watched
from api.watch.terminal import Line, Span

ROOMY = 16
"""Lines from which on there are empty ones between the parts."""
BEHIND_BYTES = 1 << 16
"""From so much unread on a client counts as behind."""
NOTICE_S = 30.0
FRESH_S = 5.0
MAX_ENDED = 8
MARKS = {
    "queued": ("◌", "dim"),
    "prompt": ("◔", "attention"),
    "running": ("●", "accent"),
    "paused": ("‖", "attention"),
    "stop": ("■", "dim"),
    "tool_calls": ("■", "tool"),
    "length": ("■", "attention"),
    "context_full": ("■", "attention"),
    "cancelled": ("■", "attention"),
    "error": ("✕", "error"),
    "lost": ("?", "attention"),
}
REASONS = {"length": "token limit", "context_full": "context full", "tool_calls": "calls tools"}
KINDS = {"text": "", "reasoning": "dim", "tool": "tool"}
STATES = {
    "ready": ("●", "good"),
    "loading": ("◔", "attention"),
    "restarting": ("◔", "attention"),
    "failed": ("✕", "error"),
    "stopped": ("○", "dim"),
}
NOTHING = "Nothing is being written. Ask in the window, with `tokenglass chat`, or over the API."


def picture(model: Model, width: int, height: int, now: float) -> list[Line]:
    """Exactly `height` lines of at most `width` columns. `now`: monotonic seconds."""
    blank: list[Line] = [[]] if height >= ROOMY else []
    instruments = gauges(model, width, now)[: height // 3] if height >= 6 else []
    above = [_header(model, width, now), *blank, *instruments, *blank]
    below: list[Line] = [*blank]
    if height >= 8:
        below.append(_clients(model, width))
    if height >= 4:
        below.append(_footer(model, width, now))
    ended = _ended(model, width, _lines_for_ended(model, height - len(above) - len(below)))
    below = [*blank, *ended, *below] if ended else below
    left = max(0, height - len(above) - len(below))
    written = _generations(model, width, left, now)
    return [*above, *written, *[[]] * (left - len(written)), *below][:height]


def spread(left: list[Span], right: list[Span], width: int) -> Line:
    """The one at the left end, cut where need be, the other at the right one."""
    taken = sum(columns(text) for text, _ in right)
    if taken + 2 > width:
        return left
    room = width - taken - 2
    line: list[Span] = []
    for text, style in left:
        text = clip(text, room)
        room -= columns(text)
        line.append((text, style))
    return [*line, (" " * (room + 2), ""), *right]


# ---- around


def _header(model: Model, width: int, now: float) -> Line:
    info = model.model or {}
    about: list[Span] = [("Tokenglass", "bold")]
    if info:
        about.append((f"  {one_line(info['name'])}", ""))
        sizes = f"  {one_line(info['architecture'])} · {info['n_slots']} × {info['n_ctx']:,} tokens"
        about.append((sizes, "dim"))
    if not model.connected:
        mark, style, state = "○", "attention", f"waiting for the app… {now - model.since_t:.0f} s"
    else:
        mark, style = STATES.get(model.engine, ("○", "dim"))
        state = f"{model.engine} {model.loading * 100:.0f} %" if model.loading is not None else model.engine
        if model.engine == "ready" and model.running:
            mark, style, state = "●", "accent", "generating"
    return spread(about, [(f"{mark} ", style), (state, "" if model.connected else style)], width)


def _clients(model: Model, width: int) -> Line:
    line: list[Span] = [(f"{'clients':8}", "dim")]
    used = 8
    clients = list(model.clients.values())
    for place, client in enumerate(clients):
        name, note, style = clip(one_line(client["name"]), 24), *_reading(client)
        more = columns(name) + len(note) + 4
        rest = f"+{len(clients) - place} more"
        if used + more > width - (len(rest) if place + 1 < len(clients) else 0):
            line.append((rest, "dim"))
            break
        line += [("● " if style == "good" else "▲ ", style), (name, ""), (note, "dim"), ("  ", "")]
        used += more
    return line


def _reading(client: dict[str, Any]) -> tuple[str, str]:
    """How well a client reads: what to say of it, and in which style."""
    rate, backlog, cuts = (client.get(name) or 0 for name in ("bytes_per_s", "backlog_bytes", "cuts"))
    behind = backlog >= BEHIND_BYTES
    parts = [
        f"{_bytes(rate)}/s" if rate else "",
        f"{_bytes(backlog)} behind" if behind else "",
        f"cut {cuts}×" if cuts else "",
    ]
    note = " · ".join(filter(None, parts))
    return f" {note}" if note else "", "attention" if behind else "good"


def _footer(model: Model, width: int, now: float) -> Line:
    left: list[Span] = []
    notice = model.notice
    if notice is not None and now - notice.t < (NOTICE_S if notice.level == "info" else 10 * NOTICE_S):
        style = {"warning": "attention", "error": "error"}.get(notice.level, "dim")
        left = [(notice.text, style if now - notice.t < FRESH_S or notice.level != "info" else "dim")]
    return spread(left, [("space", ""), (" hold  ", "dim"), ("q", ""), (" quit", "dim")], width)


# ---- what is being written


def _generations(model: Model, width: int, height: int, now: float) -> list[Line]:
    running = list(model.running.values())
    if not running:
        return _last(model, width, height)
    most = max(1, height // 2)
    shown = running if len(running) <= most else running[: most - 1]
    lines: list[Line] = []
    share, rest = divmod(height - (len(shown) < len(running)), max(1, len(shown)))
    for place, generation in enumerate(shown):
        lines += _card(generation, width, share + (place < rest), now)
    if len(shown) < len(running):
        lines.append([(f"  and {len(running) - len(shown)} more", "dim")])
    return lines[:height]


def _last(model: Model, width: int, height: int) -> list[Line]:
    """Where nothing runs, the last answer stays to be read."""
    if model.ended:
        return _card(model.ended[-1], width, height, 0.0)
    nothing: list[Line] = [[(f"  {NOTHING}", "dim")]]
    return nothing[:height]


def _card(generation: Watched, width: int, height: int, now: float) -> list[Line]:
    """One generation on exactly so many lines: its head, what was asked, the end of the text."""
    mark, style = MARKS.get(generation.state, ("■", "dim"))
    head: list[Span] = [
        (f"{mark} ", style),
        (clip(generation.client, max(8, width // 3)), "bold"),
        (f"  {generation.origin}" if generation.origin != generation.client else "", "dim"),
    ]
    lines: list[Line] = [spread(head, [(_figures(generation, now), "dim")], width)]
    blank = 1 if height >= 5 else 0
    if height - blank >= 3 and generation.input:
        lines.append([("  › ", "dim"), (clip(generation.input, width - 4), "dim")])
    room = height - len(lines) - blank
    text = generation.flow.tail(room, width - 3)
    if generation.state in ("running", "paused", "prompt", "queued") and text:
        last, kind = text[-1]
        lines += [[("  ", ""), (each, KINDS[kind])] for each, kind in text[:-1]]
        lines.append([("  ", ""), (last, KINDS[kind]), ("▌", MARKS[generation.state][1])])
    else:
        if text and not text[-1][0]:
            text = generation.flow.tail(room + 1, width - 3)[:-1]
        lines += [[("  ", ""), (each, KINDS[kind])] for each, kind in text]
    return [*lines, *[[]] * (height - len(lines))][:height]


def _figures(generation: Watched, now: float) -> str:
    if generation.ended is not None:
        return " · ".join(_ledger(generation))
    if generation.state == "queued":
        return "waits for a slot"
    if generation.state == "prompt":
        return f"reads the prompt, {generation.prompt_done:,} of {generation.prompt_total:,}"
    parts = [f"{generation.tokens:,} tok"]
    if generation.state == "paused":
        parts.append("paused")
    elif generation.state == "lost":
        parts.append("its end was missed")
    elif (rate := generation.rate.value(now)) is not None:
        parts.append(f"{figure(rate)} tok/s")
    return " · ".join(parts)


# ---- what has ended


def _ledger(generation: Watched) -> list[str]:
    """What was measured: tokens, speed, first token, and why it ended where that isn't the usual way."""
    if generation.ended is None:
        return ["its end was missed"]
    timings = generation.ended["timings"]
    parts = [f"{generation.tokens:,} tok"]
    if timings["tokens_per_second"] is not None:
        parts.append(f"{figure(timings['tokens_per_second'])} tok/s")
    if timings["ttft_ms"] is not None:
        parts.append(f"first {figure(timings['ttft_ms'])} ms")
    if generation.state == "error" and generation.ended["error"]:
        parts.append(str(generation.ended["error"]["code"]))
    elif generation.state != "stop":
        parts.append(REASONS.get(generation.state, generation.state))
    return parts


def _lines_for_ended(model: Model, left: int) -> int:
    """Lines for what has ended: a quarter, and only what is there; the last one is shown whole otherwise."""
    there = len(model.ended) - (not model.running)
    return 0 if left < 8 else max(0, min(there, MAX_ENDED, left // 4))


def _ended(model: Model, width: int, lines: int) -> list[Line]:
    """One line each, the latest first."""
    if lines <= 0:
        return []
    found = list(model.ended)[:-1] if not model.running else list(model.ended)
    name = min(20, max(8, width // 6))
    shown: list[Line] = []
    for generation in reversed(found[-lines:]):
        mark, style = MARKS.get(generation.state, ("■", "dim"))
        client = clip(generation.client, name)
        pad = " " * (name - columns(client))
        left: list[Span] = [(f"{mark} ", style), (f"{generation.clock}  ", "dim"), (client + pad, "")]
        figures = _aligned(generation, width) if width >= 70 else _ledger(generation)[0]
        room = width - sum(columns(text) for text, _ in left) - len(figures) - 4
        if room > 8:
            left.append((f"  {clip(generation.input, room)}", "dim"))
        shown.append(spread(left, [(figures, "dim")], width))
    return shown


def _aligned(generation: Watched, width: int) -> str:
    """The figures in columns, as many as there is room for beside what was asked."""
    if generation.ended is None:
        return "its end was missed"
    timings = generation.ended["timings"]
    why = "" if generation.state == "stop" else REASONS.get(generation.state, generation.state)
    first = f"  first {figure(timings['ttft_ms']):>5} ms" if width >= 96 else ""
    return f"{why}  {generation.tokens:>6,} tok  {figure(timings['tokens_per_second']):>6} tok/s{first}"


def _bytes(number: float) -> str:
    """`12 KB`."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
