"""Whole conversations, mixed from all the parts of the corpus."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus import (
    code,
    commands,
    echo,
    formats,
    more,
    numbers,
    product,
    settings_topics,
    smalltalk,
    stories,
    sums,
    tools,
    unknown,
)
from corpus.dsl import Message, Topic, expand, sloppy

ASK: dict[str, list[str]] = {
    "what": [
        "what is $N", "what is $N", "what's $N", "whats $N", "what are $N", "what does $N mean", "what does $N do", "explain $N", "explain $N to me", "[can|could|would] you explain $N [to me|]?", "define $N", "$N", "$N?", "what is $N for", "what is meant by $N",
        "tell me about $N", "[i don't understand|i do not get|i dont understand] $N", "meaning of $N", "the meaning of $N", "what exactly is $N", "please explain $N", "[can|could] you tell me what $N is?", "do you know what $N is?", "what do you mean by $N", "give me a definition of $N",
        "i [want|would like|need] to know what $N is", "how would you explain $N?", "describe $N", "what do people mean by $N", "what should i know about $N", "$N meaning", "$N explained", "$N, what is that?", "i see $N, what is it?", "what does it mean when it says $N", "can you describe $N", "what is this $N",
        "i read about $N, what is it", "help me understand $N", "[who|what] or what is $N", "what kind of thing is $N", "what is $N in tokenglass", "what is $N in a language model", "what does $N tell me", "what does $N stand for", "how does $N work", "in simple words, what is $N", "what does $N show", "the window shows $N, what does that mean",
        "and what is $N", "what about $N", "i heard of $N, what does it mean", "what is $N used for", "why is there $N", "explain to me what $N is", "what is the purpose of $N", "briefly, what is $N", "define $N in one sentence", "so $N means what", "what's the point of $N", "wondering what $N is", "could you define $N",
        "[give me|i want|can i have|could you give me|please give me] [a quick|an|a short|a brief] [intro|introduction|overview|explanation|summary] [to|of] $N", "what is the idea behind $N", "introduce $N", "what does $N [refer to|describe|measure|control]", "[what|which] role does $N play", "what's $N [about|all about|good for]", "$N - what is it?", "$N, please explain", "what do i need to know about $N",
    ],
    "good": [
        "what is a good $N", "what is a good value for $N", "what is a normal $N", "which $N is good", "what value should $N have", "[recommended|typical|usual|good|best|sensible] [value for|] $N", "how high should $N be", "what $N do you recommend", "is there a good value for $N?", "what should i set $N to", "what $N should i use", "good $N?",
        "how much $N is normal", "what is the best value for $N", "what is the default for $N", "which value of $N is sensible", "what is a reasonable $N", "how big should $N be", "what's a typical $N", "suggest a value for $N", "what would be a good $N",
        "my $N is [5|8|12|30|50|120|300|900|2000|3 s|40 ms|350 ms|0.5|1.2], is that [good|ok|bad|normal|slow|too much|fine]?", "is [5|10|20|40|0.8|300 ms|2 s|100|2048] a good $N?", "$N is [7|15|60|250 ms|1.5 s|0.9], [is that|is this|] [good|ok|normal|bad]?", "when is $N [good|too high|too low]",
    ],
    "improve": [
        "how [do|can] i [change|set|adjust|improve|use|control|configure] $N", "how to [set|change|adjust|improve|use] $N", "can i [change|set|adjust] $N?", "[set|change|adjust] $N", "what can i do about $N", "how do i make $N better", "[how do i|how to] get a better $N", "where can i change $N", "how is $N set", "what influences $N", "is it possible to change $N", "how do i lower $N", "how do i tune $N", "what affects $N",
        "[reduce|lower|raise|increase|decrease] $N", "how [can|do] i [reduce|lower|raise|increase|decrease|shorten] $N", "why is [my|the|] $N so [high|low|bad|slow|long]", "my $N is [bad|too high|too low|slow], what can i do", "tips for a better $N",
    ],
    "where": ["where [is|can i see|do i see|do i find|can i find] $N", "where is $N shown", "where does it show $N", "how do i see $N", "where in the window is $N", "which place shows $N", "where do i look for $N", "show me where $N is", "where does $N appear", "i can't find $N"],
    "why": ["why is $N important", "why does $N matter", "why do i need $N", "why should i care about $N", "what is $N good for", "what's the use of $N", "why do we need $N", "why is $N useful", "why would i use $N", "what is the advantage of $N", "does $N matter"],
    "simple": ["explain $N [like i'm five|like i am 5|simply|in simple words|in plain english|to a child|to a beginner|with an example|in easy words|for dummies]", "eli5 $N", "give me an [example|analogy|image|comparison] for $N", "what is $N in simple words", "what is $N like", "$N for beginners", "make $N easy to understand", "a simple explanation of $N"],
    "up": ["what happens [if|when] i [raise|increase|turn up|lower|change] $N", "what does a [high|higher|low|lower] $N do", "what if $N is [too high|high|low|higher|very high]", "what is the effect of $N", "what does a high $N mean", "what happens with a [high|higher|low] $N", "should i raise $N", "what changes with $N", "what does increasing $N do"],
    "short": ["what is $N [in one sentence|in a few words|in short|briefly|, short answer]", "$N in one sentence", "$N in short", "[briefly|short|quickly]: what is $N", "short definition of $N", "sum up $N in one sentence"],
}
FOLLOW: dict[str, list[str]] = {
    "good": ["[and|so|ok,|] what is a good value [for it|for that|]?", "what is [good|normal|typical|a normal value|the best value|a sensible value|a good one]?", "which value do you recommend?", "[and|] what should [it be|i use|i set it to|i choose]?", "how high should it be?", "and what would be normal?", "what do you recommend?", "recommended value?", "which is best?", "is there a default?", "what's a good number?"],
    "improve": ["[and|so|ok,|] how [do|can] i [change|set|improve|adjust|use] [it|that]?", "how to change that", "can i change it?", "how do i set it?", "can it be improved?", "what can i do about it?", "how do i make it better?", "how do i do that?", "how can i get it lower?", "show me how", "how is it set?"],
    "where": ["[and|] where [do|can] i [see|find] [it|that]?", "where is it shown?", "where is that?", "where is it in the window?", "where do i look?", "and where is it?", "how do i see it?"],
    "why": ["[and|] why [is that important|does that matter|is it useful|do i need it|should i care]?", "what is it good for?", "why?", "why is that?", "so what?", "what's the use?", "is it important?", "what is the point?"],
    "simple": ["[can you|please|] explain [it|that] [more simply|in simple words|like i'm five|simpler|with an example]", "simpler please", "[an|give me an|do you have an|for] example?", "i don't get it", "that's too complicated", "eli5", "i still don't understand", "in easy words?", "say it simply", "give me an analogy", "i don't understand"],
    "up": ["[and|] what [if|happens when] [it is|it's] [higher|too high|lower]?", "what if i raise it?", "what does a high value do?", "what happens if it is high?", "and a higher one?", "what if i set it to 2?"],
    "short": ["[shorter|short|brief|briefly|in short|in one sentence|tldr|tl;dr|in a few words] [please|]", "make it shorter", "too long", "[can you|please] say that [shorter|in one sentence|in fewer words|more briefly]?", "that was too long", "just one sentence", "summarize that", "sum it up", "shorten that", "give me the short version", "shorter pls"],
}
MORE = ["tell me more", "more", "go on", "more about that [please|]", "[and|] what else?", "can you tell me more?", "more details [please|]", "continue", "explain further", "anything else about it?"]
BARE = {"what", "short"}

PAIRS = [
    ("prefill", "decode|decoding", "Prefill reads the prompt, many tokens at once; decoding writes the answer, one token after another."),
    ("ttft|time to first token", "itl|inter-token latency", "TTFT is the wait until the first token; ITL is the time between one token and the next."),
    ("top-k|top k", "top-p|top p", "Top-k keeps a fixed number of the best tokens; top-p keeps as many as are needed to reach a total probability of p."),
    ("top-p|top p", "min-p|min p", "Top-p keeps the best tokens that add up to p; min-p keeps all tokens that are likely enough compared with the best one."),
    ("tokenglass serve|serve", "tokenglass|the window|tokenglass with a window", "`tokenglass` opens the window; `tokenglass serve` is the same app without a window, for scripts and servers."),
    ("tokenglass chat|chat", "tokenglass watch|watch", "`tokenglass chat` asks the model in the terminal; `tokenglass watch` only follows what others generate, with the metrics."),
    ("tokenglass bench|bench", "tokenglass selftest|selftest", "`tokenglass bench` measures the speed and the app's cost; `tokenglass selftest` checks that everything works."),
    ("temperature", "top-p|top p|top-k", "Temperature makes all tokens more or less equal in probability; top-p and top-k cut the unlikely ones off."),
    ("a token|tokens", "a word|words", "A token is a piece of text, often a part of a word: 100 tokens are about 75 English words."),
    ("q4_k_m|q4", "q8_0|q8", "Q4_K_M uses about 4 to 5 bits per weight and is smaller and faster; Q8_0 uses 8 bits and is nearly lossless."),
    ("the context|context", "the kv cache|kv cache", "The context is the text that the model can see; the KV cache is the memory that holds its keys and values."),
    ("the starter model|you|the starter", "a bigger model|other models|a big model", "I have about three million parameters and know little; a bigger model has billions and knows far more, but needs more memory."),
    ("a slot|slots", "a batch|batches", "A slot is the place of one generation; a batch is all the tokens that the engine computes in one step."),
    ("cpu", "gpu", "The CPU runs a model on any machine; a GPU does it much faster, if the layers fit into its memory."),
    ("generation.delta", "generation.finished", "generation.delta carries new tokens; generation.finished ends the answer with its usage and timings."),
    ("the token for the server|the access token", "a token of text|a text token", "The access token is the secret for clients; a token of text is a small piece of an answer."),
    ("p50", "p99", "p50 is the typical value, which half stay below; p99 is the slow outlier, which 99 of 100 stay below."),
    ("training", "inference", "Training teaches a model from text; inference runs the finished model to get an answer."),
]
PAIR_ASK = ["what is the difference between $A and $B", "difference between $A and $B", "$A or $B, what is the difference?", "$A vs $B", "how does $A differ from $B", "what's the difference of $A and $B", "compare $A and $B", "are $A and $B the same?", "is $A the same as $B?", "$A versus $B", "what distinguishes $A from $B", "explain the difference between $A and $B"]

SYSTEMS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful, friendly assistant.", "Answer briefly.", "You are Tokenglass Starter.", "You are the assistant of Tokenglass.", "Be kind and short.", "You are a helpful assistant. Answer in one or two sentences.",
    "You answer questions about Tokenglass.", "You are a friendly guide.", "Reply in simple English.", "You are an AI assistant running locally.", "Be concise.", "You are a careful assistant. Say so when you don't know something.", "Keep your answers short.", "You are a polite assistant.", "Help the user as well as you can.",
    "You are a storyteller.", "You are good at sums.", "Use markdown.", "You are a coding assistant.", "Answer the question.", "You are a chatbot.", "Please answer honestly.", "The user is a beginner. Explain simply.", "You are a helpful assistant for a desktop app.", "You help people with their computer.", "Speak like a good friend.",
]

SMALL = smalltalk.TOPICS + more.SMALL
KNOW = product.TOPICS + commands.TOPICS + numbers.TOPICS + settings_topics.TOPICS + more.KNOW
TOPICS: list[Topic] = SMALL + KNOW
ASPECT_WEIGHT = {"what": 6.0, "plain": 6.0, "good": 2.0, "improve": 2.0, "where": 1.2, "why": 1.2, "simple": 1.0, "up": 2.0, "short": 0.8}


HOWTO = [
    "how do i ", "how can i ", "how to ", "i want to ", "i would like to ", "i'd like to ", "is it possible to ", "can i ", "show me how to ", "tell me how to ", "what is the way to ", "help me ", "how does one ", "how would i ", "how could i ",
    "please explain how to ", "i need to ", "what do i have to do to ", "how am i supposed to ", "is there a way to ", "i don't know how to ", "what's the best way to ", "could you tell me how to ", "what must i do to ", "steps to ", "how should i ", "i am trying to ", "any way to ", "do you know how to ", "is there a button to ",
]
CAN = ["can i ", "is it possible to ", "could i ", "am i able to ", "is there a way to ", "may i ", "would i be able to ", "do you know if i can ", "tell me if i can "]
SAME = {
    "answer": ["reply", "response", "output", "text"], "answers": ["replies", "responses", "outputs"], "window": ["app", "gui", "screen", "program"], "change": ["switch", "modify", "alter", "adjust"], "stop": ["halt", "abort", "end", "kill"],
    "conversation": ["chat", "thread", "discussion"], "conversations": ["chats", "threads", "discussions"], "chat": ["conversation"], "fast": ["quick", "speedy"], "faster": ["quicker", "more quickly"], "big": ["large", "huge"], "bigger": ["larger", "stronger", "more powerful", "smarter"],
    "delete": ["remove", "erase"], "saved": ["kept", "stored"], "see": ["view", "look at", "check"], "load": ["open", "use", "run"], "script": ["program", "python script", "code"], "computer": ["machine", "pc", "laptop"], "machine": ["computer", "pc", "laptop"],
    "show": ["display", "tell", "say"], "shown": ["displayed", "written"], "mean": ["stand for", "tell me", "say"], "plots": ["graphs", "charts", "curves", "diagrams"], "plot": ["graph", "chart", "curve"], "message": ["prompt", "question", "text"], "messages": ["prompts", "texts", "chats"],
    "address": ["url", "link", "endpoint"], "connect": ["hook up", "attach", "get in"], "start": ["launch", "begin", "run"], "private": ["secret", "confidential"], "find": ["see", "get", "locate"], "setting": ["option", "parameter", "knob"], "good": ["sensible", "decent", "reasonable", "fine"],
    "explain": ["describe", "clarify"], "tell": ["show", "explain to"], "important": ["relevant", "interesting"], "difference": ["distinction"], "crashes": ["dies", "breaks"], "terminal": ["shell", "console", "command line"], "slow": ["sluggish", "laggy"], "file": ["document"], "model": ["llm", "ai", "language model"],
    "number": ["figure", "value"], "numbers": ["figures", "values"], "happens": ["goes on", "is the result"], "like": ["love", "enjoy"], "funny": ["amusing", "silly"], "joke": ["joke", "pun"], "friend": ["buddy", "pal"], "need": ["require", "want"], "use": ["try", "work with", "employ"], "get": ["obtain", "have", "find"],
}


def reword(text: str, rng: random.Random) -> str:
    """Another way to ask the same: another opening, or a word of like meaning."""
    low = text.lower()
    if rng.random() < 0.5:
        for openings, others in ((("how do i ", "how can i ", "how to "), HOWTO), (("can i ",), CAN)):
            for o in openings:
                if low.startswith(o):
                    return rng.choice(others) + text[len(o) :]
    if rng.random() < 0.3:
        words = text.split(" ")
        places = [i for i, w in enumerate(words) if w.strip("?,.!").lower() in SAME]
        if places:
            i = rng.choice(places)
            bare = words[i].strip("?,.!")
            words[i] = words[i].replace(bare, rng.choice(SAME[bare.lower()]))
            return " ".join(words)
    return text


def answer(topic: Topic, aspect: str, rng: random.Random) -> str:
    return expand(rng.choice(topic.answers[aspect]), rng) if "{" not in topic.answers[aspect][0] else rng.choice(topic.answers[aspect])


def name_of(topic: Topic, rng: random.Random) -> str:
    return topic.names[min(int(rng.random() * rng.random() * len(topic.names) * 1.6), len(topic.names) - 1)]


AGAIN = {
    "joke": ["another joke", "[one more|another|a better|a different] joke [please|]", "haha, another one", "that was good, one more", "do you have another one?", "a funnier one"],
    "riddle": ["another riddle", "one more riddle", "i know that one, another", "a harder one"],
    "poem": ["another poem", "one more poem [please|]", "write another one"],
}


def topic_turns(topic: Topic, rng: random.Random) -> list[tuple[str, str]]:
    """A question about a topic, perhaps with questions that follow from it."""
    aspects = [a for a in topic.answers if topic.questions.get(a) or (topic.names and a in ASK)]
    aspect = rng.choices(aspects, [ASPECT_WEIGHT.get(a, 1.0) for a in aspects])[0]
    own = topic.questions.get(aspect, [])
    if own and (not topic.names or aspect not in ASK or rng.random() < 0.5):
        # A pattern counts by its length, so that a long list of wordings isn't starved by a short one.
        text = rng.choices(own, [max(4, p.count("|")) for p in own])[0]
    else:
        text = rng.choice(ASK[aspect]).replace("$N", name_of(topic, rng))
    said = answer(topic, aspect, rng)
    text = expand(text, rng)
    if "$PERSON" in text:
        person = rng.choice(smalltalk.PERSONS)
        if rng.random() < 0.3:
            person = unknown.made_up(rng, 2).capitalize()
        text, said = text.replace("$PERSON", person), said.replace("$PERSON", person)
    out = [(sloppy(reword(text, rng), rng), said)]
    if topic.key == "myname" and rng.random() < 0.5:
        ask = rng.choice(smalltalk.ASK_NAME)
        out.append((sloppy(expand(ask, rng), rng), f"Your name is {person}."))
    if topic.key in AGAIN and rng.random() < 0.5:
        other = rng.choice([x for x in topic.answers["plain"] if x != said])
        out.append((sloppy(expand(rng.choice(stories.MORE + AGAIN[topic.key]), rng), rng, dress=False), other))
    used = {aspect}
    while rng.random() < 0.5:
        left = [a for a in topic.answers if a in FOLLOW and a not in used]
        if not left:
            break
        nxt = rng.choice(left)
        used.add(nxt)
        ask = MORE if nxt in ("why", "good", "where") and rng.random() < 0.2 else FOLLOW[nxt]
        out.append((sloppy(expand(rng.choice(ask), rng), rng, dress=False), answer(topic, nxt, rng)))
    return out


def pair_turns(rng: random.Random) -> list[tuple[str, str]]:
    a, b, said = rng.choice(PAIRS)
    a, b = rng.choice(a.split("|")), rng.choice(b.split("|"))
    if rng.random() < 0.5:
        a, b = b, a
    return [(sloppy(rng.choice(PAIR_ASK).replace("$A", a).replace("$B", b), rng), said)]


def known(rng: random.Random) -> list[tuple[str, str]]:
    return topic_turns(rng.choices(KNOW, [t.weight for t in KNOW])[0], rng)


def small(rng: random.Random) -> list[tuple[str, str]]:
    return topic_turns(rng.choices(SMALL, [t.weight for t in SMALL])[0], rng)


PARTS = {
    "known": (known, 42.0), "small": (small, 13.0), "pairs": (pair_turns, 2.5), "stories": (stories.turns, 5.0), "sums": (sums.turns, 20.0), "lists": (formats.list_turns, 16.0),
    "tables": (formats.table_turns, 8.0), "json": (formats.json_turns, 8.0), "code": (code.turns, 5.5), "unknown": (unknown.turns, 15.0), "echo": (echo.turns, 2.0), "clockless": (tools.no_tool_turns, 1.0),
}


# The second, short stage gives more room to what the first one learned least.
TUNE = {"known": 25.0, "small": 22.0, "stories": 14.0, "sums": 9.0, "unknown": 8.0, "lists": 16.0, "tables": 9.0, "json": 9.0, "code": 6.0}


def tune() -> None:
    """Changes the mix for the second stage."""
    for name, weight in TUNE.items():
        PARTS[name] = (PARTS[name][0], weight)


def group(rng: random.Random) -> list[tuple[str, str]]:
    """Turns that belong together."""
    part = rng.choices(list(PARTS), [w for _, w in PARTS.values()])[0]
    return PARTS[part][0](rng)


def conversation(rng: random.Random, tool_share: float = 0.18) -> list[Message]:
    """The beginning of a conversation; `group` gives its further turns."""
    system = rng.choice(SYSTEMS) if rng.random() < 0.25 else ""
    if rng.random() < tool_share:
        return tools.conversation(rng, system, group(rng))
    out: list[Message] = [{"role": "system", "content": system}] if system else []
    return out + as_messages(group(rng))


def as_messages(turns: list[tuple[str, str]]) -> list[Message]:
    out: list[Message] = []
    for q, a in turns:
        out += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    return out
