"""Checks that llama.cpp cuts rendered conversations into the very tokens the model was trained on."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from corpus import dialogue
from corpus.dsl import Message
from runtime import Starter
from tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\tTabs\t and\r\nlines\n",
    "Grüße, 東京 🙂 Ωμέγα",
    "a\u00a0b\u200bc",
    "x" * 300,
    "```python\nprint(1)\n```",
    "0123456789 1.5e-3",
    '<tool_call>{"name": "clock"}</tool_call>',
    "\u2581under\u2581",
    "e\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "ﬁ ½ ²",
    "   ",
    "end ",
    " start",
]


def random_text(rng: random.Random) -> str:
    alphabet = "abcdefghij ABC 0123 .,;:!?()[]{}<>|\"'`~@#$%^&*-_=+/\\\n\t äöüßéñ—–…€漢字かな🙂🚀"
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 80)))


def schema(line: str) -> dict[str, Any]:
    """The OpenAI form of a tool as the corpus writes it: `name(arg, arg): description`."""
    head, _, description = line.partition(": ")
    name, _, arguments = head.rstrip(")").partition("(")
    names = [a for a in arguments.split(", ") if a]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {n: {"type": "string"} for n in names}},
        },
    }


def as_request(messages: list[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """A corpus conversation as a client would send it: tools apart, calls as structures."""
    tools = None
    out: list[dict[str, Any]] = []
    for m in messages:
        text = m["content"]
        if m["role"] == "system" and "Tools:\n" in text:
            system, _, lines = text.partition("Tools:\n")
            tools = [schema(x) for x in lines.split("\n")]
            if system.strip():
                out.append({"role": "system", "content": system[:-2]})
        elif m["role"] == "assistant" and text.startswith("<tool_call>"):
            call = json.loads(text[11:-12])
            out.append(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
                        }
                    ],
                }
            )
        else:
            out.append(dict(m))
    return out, tools


def main() -> int:
    starter, tok = Starter(Path(sys.argv[1])), Tokenizer()
    rng = random.Random(99)
    samples: list[list[Message]] = [dialogue.conversation(rng, tool_share=0.3) for _ in range(4000)]
    samples += [[{"role": "user", "content": t}] for t in TEXTS + [random_text(rng) for _ in range(4000)]]
    bad = tokens = 0
    for messages in samples:
        request, tools = as_request(messages)
        got = starter.tokenize(starter.render(request, tools))
        want = tok.render(messages)[0] + [tok.roles["assistant"]]
        tokens += len(want)
        if got != want:
            bad += 1
            if bad <= 5:
                print(
                    "differs:",
                    messages,
                    starter.render(request, tools),
                    [tok.sp.id_to_piece(i) for i in want],
                    [tok.sp.id_to_piece(i) for i in got],
                    sep="\n  ",
                )
    print(f"{len(samples)} conversations, {tokens} tokens, {bad} differ")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
