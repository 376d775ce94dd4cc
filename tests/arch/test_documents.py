"""The documents speak of what is there: files that exist, limits as the code has them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from api import (
    backpressure,
    bus,
    cleanjson,
    clients,
    exchange,
    generations,
    handshake,
    http,
    outbox,
    protocol,
    pump,
    strangers,
    supervisor,
    toolresults,
    watchdog,
)
from api.bench import latency, machine, parts, samples, transports
from api.openai import wishes
from api.responses import lanes, socket, table
from engine import client, pace, rendering, worker

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "api/PROTOCOL.md",
    "desktop/README.md",
    "engine/README.md",
    "assets/starter/README.md",
    "assets/starter/eval/README.md",
)
OTHERS = frozenset(
    (
        "server.json",
        "settings.json",
        "tokens.json",
        "fit.json",
        "conversations.json",
        "build/setup-times.json",
    )
)
"""Files that the app, the set-up and other programs write."""
_FILE = re.compile(r"[A-Za-z_][\w./-]*(?:\.(?:py|md|json|jsonl|txt|in|sh|spec|html|gguf|toml)|/)")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def ticked(name: str) -> set[str]:
    """What stands between backticks, but in blocks of code."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text(name), flags=re.M | re.S)))


def exists(name: str, document: str) -> bool:
    """From the root, beside the document, in a folder there, or among the tests of its subject."""
    here = (ROOT / document).parent
    places = (ROOT / name, here / name, ROOT / "tests" / name, ROOT / "tests" / here.name / name)
    return any(place.exists() for place in places) or any(here.glob(f"*/{name}"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    named = {name for name in ticked(document) if _FILE.fullmatch(name)}
    links = set(re.findall(r"\]\(([^)#\s]+)\)", text(document)))
    links = {link for link in links if "://" not in link}
    assert named | links
    missing = {name for name in named - OTHERS if not exists(name, document)}
    missing |= {link for link in links if not ((ROOT / document).parent / link).exists()}
    assert not missing


def test_the_architecture_names_modules_of_each_folder() -> None:
    section = text("ARCHITECTURE.md").partition("## Folders")[2].partition("\n## ")[0]
    parts = re.split(r"^- \*\*(\w+)/\*\*", section, flags=re.M)
    folders = dict(zip(parts[1::2], parts[2::2], strict=True))
    wrong = []
    for layer in ("engine", "api", "desktop"):
        names = re.findall(r"`([a-z_/.]+?)(?:\.[A-Z]\w*)?`", folders[layer])
        assert len(names) > 3
        for name in names:
            place = ROOT / layer / name
            if not (place.is_dir() or place.with_name(f"{place.name}.py").is_file()):
                wrong.append(f"{layer}: {name}")
    assert not wrong


@pytest.mark.parametrize("layer", ("engine", "desktop"))
def test_every_file_of_a_folder_has_its_row(layer: str) -> None:
    """Those in folders of their own are spoken of together."""
    told = ticked(f"{layer}/README.md")
    files = {path.name for path in (ROOT / layer).glob("*.py")} - {"__init__.py"}
    assert not files - told


MIB = 1 << 20
SETTINGS = tomllib.loads(text("pyproject.toml"))["tool"]
FIGURES: dict[str, tuple[str, ...]] = {
    "api/PROTOCOL.md": (
        f"| {protocol.MAX_CLIENTS} clients are connected, or {protocol.MAX_OF_TOKEN} with",
        f"kept for {http.KEEP_ALIVE_S:.0f} s, a head up to {http.MAX_HEAD_BYTES >> 10} KiB",
        f"the address {http.MAX_TARGET_BYTES >> 10} KiB, 414",
        f"up to {http.MAX_BODY_BYTES // MIB} MiB (413) within {http.BODY_S:.0f} s (408)",
        f"take bodies up to {http.MAX_STRANGER_BODY_BYTES >> 10} KiB",
        f"A head must come within {handshake.FIRST_HEAD_S:.0f} s",
        f"where there are more than {strangers.MAX_STRANGERS};",
        f"within {clients.REMEMBER_S / 60:.0f} minutes is the same client",
        f"at most {protocol.MAX_MESSAGE_BYTES // MIB} MiB from the client",
        f"up to {protocol.MAX_ID_CHARS:,} characters as JSON",
        f"at most {cleanjson.MAX_DEPTH} deep, at most {cleanjson.MAX_VALUES:,} values",
        f"the last {bus.RING_SIZE:,} are, or as many of them as have {bus.MAX_RING_BYTES // MIB} MiB",
        f"more than {backpressure.MAX_BACKLOG_BYTES // MIB} MiB waited to be read",
        f"or nothing was read for {backpressure.STALL_S:.0f} s although",
        f"after {outbox.PING_S:.0f} s without one the app sends a WebSocket ping",
        f"and waits {outbox.PONG_S:.0f} s more",
        f"{protocol.MAX_UNANSWERED} may be unanswered",
        f"may send {clients.COMMANDS_PER_S:.0f} commands a second in the long run",
        f"long run, {clients.COMMANDS_BURST:.0f} at once",
        f"n × {pump.REST_S * 1000:g} ms ({pump.MAX_REST_S * 1000:.0f} ms at most)",
        f"than {clients.PUBLISH_PER_S:.0f} a second ({clients.PUBLISH_BURST:.0f} at once)",
        f"What is longer than {exchange.MAX_EXPORT_BYTES // MIB} MiB",
        f"1 to {exchange.MAX_CONVERSATIONS:,}, the one used last first",
        f"what it gave, at most {protocol.MAX_TOOL_RESULT:,} characters",
        f"the newest {toolresults.MAX_KEPT} that called are kept, for {toolresults.KEPT_S / 60:.0f}",
        f"and up to {toolresults.MAX_KEPT_CHARS // MIB} MiB of text together",
        f"carry it out within {generations.CANCEL_S:.0f} s",
        f"more than {supervisor.MAX_DEATHS} deaths in {supervisor.DEATH_WINDOW_S:.0f} s",
        f"({watchdog.HANG_S:.0f} s at least, {watchdog.FIRST_STEP_S:.0f} s before its first",
        f"At most {wishes.MAX_CHOICES} choices to a request",
        f"{lanes.MAX_IN_FLIGHT} at a time, {lanes.MAX_NAMED} names in a connection's life",
        f"At most {lanes.MAX_WAITING} requests wait, {lanes.MAX_BYTES // MIB} MiB together",
        f"of {table.MAX_RESPONSES:,} responses and {table.MAX_BYTES // MIB} MiB",
        f"Messages up to {socket.MAX_MESSAGE_BYTES // MIB} MiB",
        f"pinged every {socket.PING_INTERVAL_S:.0f} s and may take {socket.PING_TIMEOUT_S:.0f} s",
    ),
    "BENCHMARKS.md": (
        f"more than {machine.BUSY_PERCENT:.0f} % busy before, or more than {machine.STEAL_PERCENT:.0f} % of",
        f"came in fewer than {samples.MESSAGES} messages",
        f"prompt lookup ({parts.LOOKUP} tokens) on and off",
        f"a prompt of {parts.PROMPTS[0]} and of {parts.PROMPTS[1]:,} tokens",
        f"a conversation of {parts.CONVERSATION:,} tokens and an answer",
        f"then a prompt of {latency.LONG_PROMPT:,} tokens comes in",
        f"one generation at about {latency.PACE:.0f} tokens/s",
        f"one answer of {transports.TOKENS} tokens over",
    ),
    "CONTRIBUTING.md": (f"each test has a time limit of {SETTINGS['pytest']['ini_options']['timeout']} s",),
    "SECURITY.md": (
        f"no token within {handshake.FIRST_HEAD_S:.0f} s goes, and of more than {strangers.MAX_STRANGERS}",
    ),
    "ARCHITECTURE.md": (
        f"in turns of {client.TURN_S * 1000:.0f} ms",
        f"{client.MAX_INBOX} messages wait here, {worker.MAX_WAITING} steps in the worker",
        f"carried out within {generations.CANCEL_S:.0f} s",
        f"within {rendering.TIME_LIMIT_S:.0f} s, {rendering.MEMORY_LIMIT // MIB} MiB",
    ),
    "engine/README.md": (
        f"of {worker.MAX_AT_ONCE} steps at most. With {worker.MAX_WAITING} steps waiting",
        f"up to {pace.SHORT_PROMPT} tokens and {pace.HICCUP_MS:.0f} ms",
        f"{rendering.TIME_LIMIT_S:.0f} s for a rendering or a compilation",
        f"by itself after {rendering.ORPHAN_LIMIT_S:.0f} s in one call",
    ),
}


@pytest.mark.parametrize("document", FIGURES)
def test_limits_are_as_the_documents_say(document: str) -> None:
    words = " ".join(text(document).split())
    assert [figure for figure in FIGURES[document] if figure not in words] == []
