"""Batches of conversations, made on the fly; the seed and the step number alone decide what a batch holds."""

from __future__ import annotations

import random

import torch
from corpus import dialogue
from tokenizer import Tokenizer
from torch import Tensor

# Row length in tokens, and the share of the steps that use it.
BUCKETS = [(112, 0.52), (320, 0.38), (1024, 0.10)]


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


def batch(tok: Tokenizer, seed: int, step: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and weights, each [rows, length]; about `tokens` places in all."""
    rng = random.Random(f"{seed}/{step}")
    length = rng.choices([b for b, _ in BUCKETS], [w for _, w in BUCKETS])[0]
    rows = [row(tok, rng, length) for _ in range(max(2, tokens // length))]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), tok.end)
    weights = torch.zeros((len(rows), width))
    for i, (x, w) in enumerate(rows):
        ids[i, : len(x)] = torch.tensor(x)
        weights[i, : len(w)] = torch.tensor(w)
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]
