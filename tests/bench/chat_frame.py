"""What a frame of the chat costs while an answer streams, in a short and in a very long conversation.

    python tests/bench/chat_frame.py [--frames 300] [--messages 10 10000]

Prints the 50th and 99th percentile of a frame: taking in the events, laying out, and painting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication

from desktop.chat.pane import ChatPane
from desktop.theme import manager
from tests.desktop.chat.builders import Stream, asked, delta, turns

WORDS = (
    "The **KV cache** keeps `keys` and values. ", "- an item of a list\n", "\n\n", "and so on, ", "a word ",
    "```python\nfor token in prompt:\n    cache.append(token)  # kept\n", "x = 1\n", "```\n\n", "## Head\n\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n",
)  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def measure(app: QApplication, messages: int, frames: int) -> None:
    """Stream an answer of `frames` frames into a conversation of that length, and print what it cost."""
    pane = ChatPane(manager().theme)
    pane.set_engine_state("ready")
    pane.resize(1280, 900)
    pane.show()
    data = turns(messages)
    begin = time.perf_counter()
    pane.show_conversation(data)
    app.processEvents()
    opened = (time.perf_counter() - begin) * 1000
    stream = Stream()
    pane.consume(stream(*asked(parent=data["messages"][-1]["id"])))
    app.processEvents()
    costs = []
    for frame in range(frames):
        events = stream(delta(WORDS[frame * 7 % len(WORDS)]), delta(WORDS[frame * 3 % len(WORDS)]))
        begin = time.perf_counter()
        pane.consume(events)
        app.processEvents()
        costs.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.005)
    begin = time.perf_counter()
    pane.resize(1100, 900)
    app.processEvents()
    resized = (time.perf_counter() - begin) * 1000
    p50, p99 = percentile(costs, 0.5), percentile(costs, 0.99)
    print(
        f"{messages:>6} messages: frame p50 {p50:5.1f} ms, p99 {p99:5.1f} ms, "
        f"worst {max(costs):5.1f} ms; opened in {opened:.0f} ms, resized in {resized:.0f} ms; "
        f"answer {len(pane.model.turns[-1].text):,} characters"
    )
    pane.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--messages", type=int, nargs="+", default=[10, 10_000])
    options = parser.parse_args()
    app = QApplication([])
    for messages in options.messages:
        measure(app, messages, options.frames)


if __name__ == "__main__":
    main()
