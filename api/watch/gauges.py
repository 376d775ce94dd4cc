"""The figures at the top of the picture: speed, latency, KV cache, machine, and clients' own series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.watch.cells import clip, columns
from api.watch.model import Model
from api.watch.terminal import Line, Span

BLOCKS = "▁▂▃▄▅▆▇█"
TWO_COLUMNS = 72
"""From this width on two gauges stand side by side."""
LABEL, VALUE = 6, 10
MAX_OWN = 4
"""Clients' own series that are shown, the ones told last."""
MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Gauge:
    label: str
    value: str
    style: str
    values: Sequence[float | None] = ()
    """For a sparkline, of which the last ones are shown."""
    from_zero: bool = True
    """Whether its lowest step stands for zero, or for the least value shown."""
    share: float | None = None
    """For a bar, 0 to 1."""
    note: str = ""


def gauges(model: Model, width: int, now: float) -> list[Line]:
    """Every gauge, two to a line where there is room."""
    found = _gauges(model, now, width)
    if width < TWO_COLUMNS:
        return [_drawn(gauge, width) for gauge in found]
    half = (width - 3) // 2
    lines: list[Line] = []
    for place in range(0, len(found), 2):
        left, *right = (_drawn(gauge, half) for gauge in found[place : place + 2])
        pad = half - sum(columns(text) for text, _ in left)
        lines.append([*left, (" " * (pad + 3), ""), *(right[0] if right else ())])
    return lines


def _gauges(model: Model, now: float, width: int) -> list[Gauge]:
    rate, quantiles, step, system = model.rate(now), model.pace.quantiles(now), model.step, model.system
    found = [
        Gauge("tok/s", figure(rate), "accent", model.pace.rates(now, width)),
        Gauge(
            "ITL",
            f"{figure(quantiles[0] * 1000)} ms" if quantiles else "–",
            "accent",
            model.pace.gaps(now, width),
            note=f"p99 {figure(quantiles[1] * 1000)} ms" if quantiles else "",
        ),
    ]
    if step is not None and step["kv_total"]:
        used, total = step["kv_used"], step["kv_total"]
        note = f"{used:,} of {total:,}"
        found.append(Gauge("KV", f"{100 * used / total:.0f} %", "tool", share=used / total, note=note))
    else:
        found.append(Gauge("KV", "–", "tool", share=0.0))
    found.append(_slots(model))
    if system is not None:
        cpu = system["cpu_percent"]
        note = f"app {system['app_cpu_percent']:.0f} · engine {system['worker_cpu_percent']:.0f}"
        found.append(Gauge("CPU", f"{cpu:.0f} %", "good", share=cpu / 100, note=note))
        note = f"of {system['ram_total'] / GIB:,.0f} · engine {system['worker_rss'] / MIB:,.0f} MiB"
        found.append(_memory("RAM", system["ram_used"], system["ram_total"], note))
        for gpu in system["gpus"]:
            found += _gpu(gpu)
    for name, series in list(model.series.items())[-MAX_OWN:]:
        value = f"{figure(series.values[-1])} {series.unit}".strip()
        found.append(Gauge(name, value, "good", series.values, from_zero=False))
    return found


def _slots(model: Model) -> Gauge:
    """How many generations are in the batch, of how many can be."""
    if model.model is None:
        return Gauge("slots", "–", "accent", share=0.0)
    total = model.model["n_slots"]
    busy = sum(each.state in ("running", "prompt", "paused") for each in model.running.values())
    waiting = len(model.running) - busy
    note = f"{waiting} waiting" if waiting else ""
    return Gauge("slots", f"{busy} of {total}", "accent", share=busy / total, note=note)


def _memory(label: str, used: float | None, total: float | None, note: str) -> Gauge:
    if not used or not total:
        return Gauge(label, "–", "good", note=note)
    return Gauge(label, f"{used / GIB:.1f} GiB", "good", share=used / total, note=note)


def _gpu(gpu: dict[str, float | None]) -> list[Gauge]:
    warm = [
        f"{value:.0f} {unit}"
        for value, unit in ((gpu["temperature_c"], "°C"), (gpu["power_w"], "W"))
        if value is not None
    ]
    load = gpu["load_percent"]
    share = None if load is None else load / 100
    return [
        Gauge("GPU", "–" if load is None else f"{load:.0f} %", "good", share=share, note=" ".join(warm)),
        _memory("VRAM", gpu["memory_used"], gpu["memory_total"], ""),
    ]


def _drawn(gauge: Gauge, width: int) -> list[Span]:
    """Label, figure, and what is left for a bar or a line, with the note behind where there is room."""
    label = clip(gauge.label, LABEL)
    value = clip(gauge.value, max(VALUE, 0))
    line: list[Span] = [
        (label + " " * (LABEL - columns(label)) + " ", "dim"),
        (" " * (VALUE - columns(value)) + value, f"bold {gauge.style}" if gauge.value != "–" else "dim"),
        ("  ", ""),
    ]
    room = width - LABEL - VALUE - 3
    note = gauge.note if room - len(gauge.note) >= 12 else ""
    room -= len(note) + 1 if note else 0
    if room > 2:
        line += _bar(gauge.share, room, gauge.style) if gauge.share is not None else _spark(gauge, room)
    if note:
        line.append((f" {note}", "dim"))
    return line


def _bar(share: float, width: int, style: str) -> list[Span]:
    full = min(width, max(0, round(share * width), 1 if share > 0 else 0))
    return [("━" * full, style), ("─" * (width - full), "dim")]


def _spark(gauge: Gauge, width: int) -> list[Span]:
    """The last values, one a column; nothing where there is none."""
    values = [*[None] * width, *gauge.values][-width:]
    known = [value for value in values if value is not None]
    low = min(known, default=0.0)
    low = min(low, 0.0) if gauge.from_zero else low
    span = (max(known, default=0.0) - low) or 1.0
    steps = (None if value is None else int((value - low) / span * 7.999) for value in values)
    shown = "".join(" " if step is None else BLOCKS[min(7, max(0, step))] for step in steps)
    return [(shown, gauge.style)]


def figure(number: float | None) -> str:
    """For people: `2,961`, `12.3`, `0.61`, an en dash for nothing."""
    if number is None:
        return "–"
    size = abs(number)
    return f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"
