"""Batches of conversations made on the fly; seed, step and progress alone decide what it holds."""

from __future__ import annotations

import random

import torch
from corpus import dialogue, echo, sums
from tokenizer import Tokenizer
from torch import Tensor

SHORT = 32
# Row length in tokens, and the share of the steps that use it: first mostly beginnings, which teach what a
# question asks for, at the least cost; later mostly whole conversations.
EARLY = [(SHORT, 0.55), (112, 0.22), (320, 0.16), (1024, 0.07)]
LATE = [(SHORT, 0.30), (112, 0.36), (320, 0.24), (1024, 0.10)]
EARLY_PART = 0.6  # of the training
DRILL_SHARE = 0.35  # of the short rows
ECHO_SHARE = 0.12


def drill(tok: Tokenizer, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
    """Answers to sums one after another; only the results count, as the sums are random."""
    ids: list[int] = []
    weights: list[float] = []
    while True:
        text = tok.sp.encode(sums.bare(rng))
        if len(ids) + len(text) + 2 > length:
            return ids, weights
        equals = text.index(tok.sp.piece_to_id("▁="))
        ids += [tok.roles["assistant"], *text, tok.end]
        weights += [0.0, *(0.0 if i <= equals else 1.0 for i in range(len(text))), 1.0]


def start(tok: Tokenizer, rng: random.Random) -> tuple[list[int], list[float]]:
    """The beginning of a conversation, cut: which answer it will be is decided in its first words."""
    roll = rng.random()
    if roll < DRILL_SHARE:
        return drill(tok, rng, SHORT)
    if roll < DRILL_SHARE + ECHO_SHARE:
        messages = dialogue.as_messages(echo.turns(rng))
    else:
        messages = dialogue.conversation(rng, tool_share=0.04)
    ids, weights = tok.render(messages)
    return ids[:SHORT], weights[:SHORT]


def row(tok: Tokenizer, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
    """One conversation that fills a row of at most `length` tokens."""
    while True:
        ids, weights = tok.render(dialogue.conversation(rng))
        if len(ids) <= length:
            break
    misses = 0
    while misses < 3 and len(ids) < length - 12:
        more, w = tok.render(dialogue.as_messages(dialogue.group(rng)))
        if len(ids) + len(more) <= length:
            ids, weights = ids + more, weights + w
        else:
            misses += 1
    return ids, weights


def batch(
    tok: Tokenizer, seed: int, step: int, tokens: int, progress: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and weights, each [rows, length]; about `tokens` places in all."""
    rng = random.Random(f"{seed}/{step}")
    buckets = EARLY if progress < EARLY_PART else LATE
    length = rng.choices([b for b, _ in buckets], [w for _, w in buckets])[0]
    count = max(2, tokens // length)
    rows = [start(tok, rng) if length == SHORT else row(tok, rng, length) for _ in range(count)]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), tok.end)
    weights = torch.zeros((len(rows), width))
    for i, (x, w) in enumerate(rows):
        ids[i, : len(x)] = torch.tensor(x)
        weights[i, : len(w)] = torch.tensor(w)
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]
