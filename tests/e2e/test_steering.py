"""One answer of the starter model with a hand on it, from the first token to the last.

Read it from top to bottom: pause, step, update, rewind, inject, fork and resume, as a script sends them, and
what the stream says to each. `pytest -s tests/e2e/test_steering.py` prints the recorded run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.client import LiveClient
from engine.errors import TokenglassError
from tests.api.harness import run
from tests.e2e.harness import serve

Frame = dict[str, Any]


class Story:
    """Sends commands and collects, for each generation, what its events leave of its text."""

    def __init__(self, client: LiveClient) -> None:
        self.client = client
        self.texts: dict[str, str] = {}
        self.tokens: dict[str, list[Frame]] = {}
        self._events = client.events()

    async def do(self, command: str, **arguments: Any) -> Frame:
        result = await self.client.request(command, **arguments)
        print(f"→ {command} {json.dumps(arguments)}\n← {json.dumps(result)}")
        return result

    async def until(self, name: str, generation_id: str) -> Frame:
        """Take events in until this one of this generation."""
        async for event in self._events:
            self._fold(event)
            if event["type"] == name and event["generation_id"] == generation_id:
                print(f"  {name} at {event.get('at_token', len(self.tokens.get(generation_id, [])))}")
                return event
        raise AssertionError(f"the stream ended before {name}")

    def _fold(self, event: Frame) -> None:
        key = event.get("generation_id", "")
        match event["type"]:
            case "generation.delta":
                self.texts[key] = self.texts.get(key, "") + event["text"]
                known = self.tokens.setdefault(key, [])
                for token in event["tokens"]:
                    assert token["index"] == len(known), "indices are whole"
                    known.append(token)
            case "generation.rewound":
                self.texts[key] = event["text"]
                del self.tokens[key][event["at_token"] :]
            case "generation.forked":
                branch = event["branch_id"]
                self.texts[branch] = event["text"]
                self.tokens[branch] = self.tokens[key][: event["at_token"]]
            case _:
                pass


async def held_answer(story: Story) -> str:
    """Ask and hold the answer; again where it was over before the hand got there: this model is quick."""
    asked = [{"role": "user", "content": "Tell me a story about a lighthouse"}]
    while True:
        started = await story.do(
            "generate", messages=asked, sampling={"temperature": 0}, max_tokens=300, logprobs=3
        )
        generation_id = str(started["generation_id"])
        try:
            await story.do("pause", generation_id=generation_id)
        except TokenglassError as error:
            if error.code != "bad_state":
                raise
        else:
            return generation_id


def test_an_answer_with_a_hand_on_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        with serve(tmp_path / "home", "starter") as app:
            async with LiveClient.discover(app.home, name="story") as client:
                await client.request("subscribe", events=["generation.*"])
                await tell(Story(client))

    run(scenario())


async def tell(story: Story) -> None:
    texts, tokens = story.texts, story.tokens

    # The answer is held, and all that it has written is taken back.
    answer = await held_answer(story)
    await story.until("generation.paused", answer)
    if texts.get(answer):
        await story.do("rewind", generation_id=answer, tokens=len(tokens[answer]))
        await story.until("generation.rewound", answer)
        assert texts[answer] == ""

    # Token by token.
    await story.do("step", generation_id=answer, tokens=6)
    held = await story.until("generation.paused", answer)
    assert held["at_token"] == len(tokens[answer]) == 6
    six = texts[answer]
    print(f"    {six!r}")

    # Take two back. At temperature 0 the same two come again.
    rewound = await story.do("rewind", generation_id=answer, tokens=2)
    assert rewound["at_token"] == 4
    await story.until("generation.rewound", answer)
    assert six.startswith(texts[answer])
    await story.do("step", generation_id=answer, tokens=2)
    await story.until("generation.paused", answer)
    assert texts[answer] == six

    # Put words into its mouth: they are delivered as tokens like any other, marked.
    await story.do("inject", generation_id=answer, text=" But the sea was purple.")
    await story.do("step", generation_id=answer)
    await story.until("generation.paused", answer)
    assert texts[answer].startswith(six + " But the sea was purple.")
    print(f"    {texts[answer]!r}")
    injected = [token for token in tokens[answer] if token.get("injected")]
    assert "".join(token["text"] for token in injected) == " But the sea was purple."

    # What may come from now on is chosen otherwise.
    updated = await story.do("update", generation_id=answer, sampling={"temperature": 1.0, "top_k": 3})
    assert updated["sampling"]["top_k"] == 3
    await story.until("generation.updated", answer)

    # A branch at the fourth token, with the second likeliest in its place; the source stays as it is.
    other = tokens[answer][3]["top"][1]
    forked = await story.do("fork", generation_id=answer, at_token=3, token_id=other["id"])
    branch = forked["generation_id"]
    before = texts[answer]
    ended = await story.until("generation.finished", branch)
    print(f"    branch: {ended['text']!r}")
    kept = "".join(token["text"] for token in tokens[answer][:3])
    assert ended["text"].startswith(kept + other["text"])
    assert [token["index"] for token in tokens[branch]] == list(range(ended["usage"]["completion_tokens"]))
    assert texts[answer] == before

    # And on, to the end.
    await story.do("resume", generation_id=answer)
    finished = await story.until("generation.finished", answer)
    print(f"    answer: {finished['text']!r}")
    assert finished["text"] == texts[answer]
    assert finished["finish_reason"] in ("stop", "length")
    assert finished["usage"]["completion_tokens"] == len(tokens[answer]) <= 300
    with pytest.raises(TokenglassError) as gone:
        await story.do("pause", generation_id=answer)
    assert gone.value.code == "bad_state"
