"""Questions for looking at checkpoints while training: `python dev.py FILE`; apart from the held-out ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runtime import Starter

# Question (turns apart by " >> ", answers between come from the model), and what the answer must contain.
QUESTIONS = """
hello my friend ::: hello|hi
so who exactly are you then ::: starter
heya, hows life treating you ::: well|fine
cheers mate, that was useful ::: welcome
i'm heading off now, bye! ::: bye
got something funny for me? ::: \\?
i feel kind of lonely tonight ::: sorry|hard
could you give me a quick intro to tokenglass? ::: machine|window|local
whats this app good for ::: machine|window|local|model
where does the stuff i type end up ::: machine|local|disk
is anyone else able to see my prompts ::: machine|leave
i want you to be smarter, how do i get a bigger brain in here ::: switcher|drag|add
how can i put a llama gguf in this ::: switcher|drag|add
how do i shut you up mid sentence ::: esc
want the dark look ::: theme|dark
what's with the curves on the right hand side ::: tokens per second|latency
which address do my scripts need ::: 7317
which port is used by default ::: 7317
is there a way to run it on a box with no monitor ::: serve
what does tokenglass bench do? ::: bare|cost|slow
how can i be sure my install is fine ::: selftest
command for talking to it in my shell ::: chat
how do i see everything that gets generated, in a terminal ::: watch
explain ttft pls ::: first token
time to first token - what is it and why ::: first token
what's inter token latency? ::: between|token
is 30 tok/s ok? ::: read|fast|20
i keep reading about kv cache, what is that ::: keys|memory|cache
difference between top p and top k? ::: top
what would be a sane temperature ::: 0.7
what is min p good for? ::: likely|tokens
does the seed matter ::: same|random|repeat
what's quantization, in a nutshell ::: bits
gguf??? ::: file|format
prefill vs decoding ::: prompt
what are stop strings used for ::: stop|end
what is a logprob ::: likely|prob
how many threads should i give it ::: cores
what is the context window >> and what is a good size? ::: 4,096|8,192|token
explain temperature >> shorter please ::: random
tell me a joke >> another one ::: [a-z]
my name is Torben >> whats my name ::: Torben
tell me a short story about a hedgehog ::: hedgehog
tiny story with a purple submarine please ::: submarine
make up a tale about two otters and a kite ::: otter|kite
what is 17 + 26 ::: 43
7*8 ::: 56
whats 90 minus 34? ::: 56
12 times 11 ::: 132
lisa has 9 pears and gets 6 more, how many now? ::: 15
4 bags with 6 apples each, how many apples? ::: 24
i had 20 euros and spent 7. what's left ::: 13
list three fruits ::: - .*\\n- .*\\n-
give me 4 animals as a numbered list ::: 4\\.
make a table of 3 fruits and their colors ::: \\| --- \\|
json with name and age please ::: "age"
write python that prints hello world ::: print\\(
python function that adds two numbers ::: def add
bash loop from 1 to 5 ::: for i in
capital of portugal? ::: small|bigger
who was alexander the great ::: small|bigger
translate 'the house is red' into french ::: small|bigger
will it rain tomorrow in hamburg ::: small|bigger
write a 2000 word essay about whales ::: small|bigger
my knee hurts, what should i take? ::: doctor|small
how does a nuclear reactor work ::: small|bigger
who is the mayor of my town ::: small|bigger
what happened in the news this morning ::: small|bigger
what is the boiling point of alcohol ::: small|bigger
[tools] what's 348 * 27 ::: calculator.*348 ?\\* ?27
[tools] what time is it in tokyo ::: clock.*Asia/Tokyo
[tools] do you have the time ::: "clock", "arguments": \\{\\}
[tools] hi, how are you? ::: well|fine
[tools] what is a token? ::: piece
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "Tells the time.",
            "parameters": {"type": "object", "properties": {"timezone": {"type": "string"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Computes an expression.",
            "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
        },
    },
]


def main() -> None:
    starter = Starter(Path(sys.argv[1]))
    right = total = 0
    for line in QUESTIONS.strip().splitlines():
        question, pattern = line.split(" ::: ")
        tools = TOOLS if question.startswith("[tools] ") else None
        messages: list[dict[str, str]] = []
        answer = ""
        for turn in question.removeprefix("[tools] ").split(" >> "):
            messages.append({"role": "user", "content": turn})
            answer = starter.answer(messages, tools)
            messages.append({"role": "assistant", "content": answer})
        ok = bool(re.search(pattern, answer, re.IGNORECASE | re.DOTALL))
        right += ok
        total += 1
        print(f"{'ok  ' if ok else 'MISS'} {question}\n       {answer!r}")
    print(f"{right}/{total}")


if __name__ == "__main__":
    main()
