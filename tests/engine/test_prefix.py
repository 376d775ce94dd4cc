"""Where a prompt parts from what a slot holds, and the reason that is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.commands import Generate
from engine.prepared import Prepared
from engine.types import ChatMessage, PrefixBreak, SamplingParams, Tool
from tests.engine.harness import CLOCK_TOOL, Bench, Record

Talk = Sequence[tuple[str, str]]
RIVER: Talk = (("system", "Be brief."), ("user", "the river"))


class Talks:
    """Generations that answer conversations, in the fake model's form."""

    def __init__(self, n_slots: int = 2) -> None:
        self.bench = Bench("fake:tokens=6", n_slots=n_slots)

    def answer(
        self, talk: Talk, *, tools: Sequence[Tool] = (), prompt: str | None = None, trimmed: int = 0
    ) -> Record:
        text = f"<|im_start|>tools\n{len(tools)}<|im_end|>" if tools else ""
        text += "".join(f"<|im_start|>{role}\n{content}<|im_end|>" for role, content in talk[trimmed:])
        return self.run(f"{text}<|im_start|>assistant\n" if prompt is None else prompt, talk, tools)

    def raw(self, prompt: str) -> Record:
        return self.run(prompt, None, ())

    def run(self, prompt: str, talk: Talk | None, tools: Sequence[Tool]) -> Record:
        bench = self.bench
        name = f"g{len(bench.records)}"
        messages = None if talk is None else [ChatMessage(role=r, content=c) for r, c in talk]  # type: ignore[arg-type]
        command = Generate(
            generation_id=name,
            received_t=bench.clock(),
            client_id="c",
            origin="live",
            messages=messages,
            prompt=prompt if talk is None else None,
            tools=list(tools),
            sampling=SamplingParams(seed=1),
        )
        tokens = bench.backend.tokenize(prompt, add_special=True, parse_special=True)
        bench.records[name] = record = Record(command, tokens, seed=1)
        bench.core.add(Prepared(command, tokens))
        bench.run()
        return record

    def broken(self) -> PrefixBreak | None:
        """What was told of the last one."""
        *_, record = self.bench.records.values()
        assert record.started is not None
        return record.started.prefix_break


def common(one: Record, other: Record) -> int:
    pairs = zip([*one.prompt, *one.ids], other.prompt, strict=False)
    return next(i for i, (a, b) in enumerate(pairs) if a != b)


def test_nothing_is_held_at_first() -> None:
    talks = Talks()
    talks.answer(RIVER)
    assert talks.broken() is None


def test_the_next_turn_breaks_nothing() -> None:
    talks = Talks()
    first = talks.answer(RIVER)
    talks.answer((*RIVER, ("assistant", first.text), ("user", "and the stone")))
    assert talks.broken() is None
    talks.answer(RIVER)  # and the first question once more
    assert talks.broken() is None


@pytest.mark.parametrize(
    ("talk", "why", "message"),
    (
        ((("system", "Be long."), ("user", "the river")), "system_prompt", None),
        ((("user", "the river"),), "system_prompt", None),
        ((("system", "Be brief."), ("user", "a letter")), "other_conversation", None),
        ((*RIVER, ("assistant", "something else"), ("user", "why?")), "edited_message", 2),
    ),
)
def test_reasons(talk: Talk, why: str, message: int | None) -> None:
    talks = Talks()
    first = talks.answer(RIVER)
    second = talks.answer(talk)
    broken = talks.broken()
    assert broken is not None
    assert (broken.at, broken.why, broken.message) == (common(first, second), why, message)


def test_an_edited_message() -> None:
    talks = Talks()
    longer = (*RIVER, ("assistant", "one"), ("user", "two"), ("assistant", "three"), ("user", "four"))
    for i, why in ((1, "edited_message"), (3, "edited_message"), (5, "edited_message")):
        talks.answer(longer)
        talks.answer([*longer[:i], ("user", "edited"), *longer[i + 1 :]])
        broken = talks.broken()
        assert broken is not None
        assert (broken.why, broken.message) == (why, i)
        talks = Talks()


def test_other_tools() -> None:
    talks = Talks()
    talks.answer(RIVER, tools=[CLOCK_TOOL])
    talks.answer(RIVER, tools=[CLOCK_TOOL, CLOCK_TOOL])
    broken = talks.broken()
    assert broken is not None
    assert broken.why == "tools"


def test_a_template_that_writes_an_old_answer_otherwise() -> None:
    talks = Talks()
    first = talks.answer(RIVER)
    talks.answer((*RIVER, ("assistant", f" {first.text} "), ("user", "why?")))
    broken = talks.broken()
    assert broken is not None
    assert (broken.at, broken.why) == (first.n_prompt, "template")


def test_oldest_messages_left_out() -> None:
    talks = Talks()
    talk = (("user", "one"), ("assistant", "two"), ("user", "three"))
    talks.answer(talk)
    talks.answer((*talk, ("assistant", "four"), ("user", "five")), trimmed=2)
    broken = talks.broken()
    assert broken is not None
    assert broken.why == "template"


def test_raw_prompts() -> None:
    talks = Talks()
    talks.raw("the river and the stone and the light")
    talks.raw("the river and the stone and the glass")
    broken = talks.broken()
    assert broken is not None
    assert (broken.why, broken.message) == ("edited_message", None)
    talks.raw("a silver window in the morning")
    broken = talks.broken()
    assert broken is not None
    assert broken.why == "other_conversation"
    talks.answer(RIVER)
    broken = talks.broken()
    assert broken is not None
    assert broken.why == "other_conversation"


def test_it_is_told_of_the_best_slot_even_if_another_is_taken() -> None:
    talks = Talks(n_slots=3)
    long = (*RIVER, ("assistant", "one " * 40), ("user", "two"))
    talks.answer(long)
    talks.answer((("system", "Be brief."), ("user", "a letter")))
    broken = talks.broken()
    *_, record = talks.bench.records.values()
    assert record.slot is None
    assert record.started is not None
    assert record.started.slot != 0
    assert broken is not None
    assert broken.why == "other_conversation"


def test_a_branch_has_no_break() -> None:
    talks = Talks()
    talks.bench.add("the river")
    for _ in range(4):
        talks.bench.step()
    (token,) = talks.bench.backend.tokenize(" window", add_special=False, parse_special=False)
    talks.bench.fork("g0", 2, token)
    talks.bench.run()
    assert talks.broken() is None
