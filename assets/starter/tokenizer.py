"""Trains the tokenizer (SentencePiece BPE, byte fallback); turns conversations into ids and weights."""

from __future__ import annotations

import random
from pathlib import Path

import sentencepiece as spm
from corpus import dialogue
from corpus.dsl import Message

HERE = Path(__file__).resolve().parent
MODEL = HERE / "tokenizer.model"
VOCAB = 2048
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
END = "<|end|>"
USER_DEFINED = ["<tool_call>", "</tool_call>", "```"]
WEIGHT_REST = 0.1  # weight in the loss of what the model reads but doesn't say


def train(samples: int = 60000, seed: int = 7) -> None:
    """Writes tokenizer.model from a sample of the corpus."""
    rng = random.Random(seed)

    def lines() -> object:
        for _ in range(samples):
            for m in dialogue.conversation(rng):
                yield from (x for x in m["content"].split("\n") if x)

    with MODEL.open("wb") as out:
        spm.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=out,
            model_type="bpe",
            vocab_size=VOCAB,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            control_symbols=ROLES,
            user_defined_symbols=USER_DEFINED,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            eos_piece=END,
            character_coverage=1.0,
            num_threads=1,
            allow_whitespace_only_pieces=True,
            minloglevel=2,
        )


class Tokenizer:
    """Ids of texts and of whole conversations, as the chat template in the GGUF makes them."""

    def __init__(self) -> None:
        self.sp = spm.SentencePieceProcessor(model_file=str(MODEL))
        self.roles = {r[2:-2]: self.sp.piece_to_id(r) for r in ROLES}
        self.end = self.sp.piece_to_id(END)

    def render(self, messages: list[Message]) -> tuple[list[int], list[float]]:
        """Ids, and for each the weight of predicting it."""
        ids: list[int] = []
        weights: list[float] = []
        for m in messages:
            own = 1.0 if m["role"] == "assistant" else WEIGHT_REST
            text = self.sp.encode(m["content"])
            ids += [self.roles[m["role"]], *text, self.end]
            weights += [WEIGHT_REST, *([own] * len(text)), own]
        return ids, weights


if __name__ == "__main__":
    if MODEL.exists():
        print(f"{MODEL.name} is there already; delete it to train another")
    else:
        train()
