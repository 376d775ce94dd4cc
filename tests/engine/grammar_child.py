"""A process of its own that gives grammars to llama.cpp, so that a test outlives what it tests.

Reads one JSON object {"grammar", "text", "seed", "draw"} a line and answers one a line: {"taken": false}
where llama.cpp rejects the grammar, else whether it takes exactly `text`, and a text that it drew itself.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
import sys
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as lib


class Vocabulary:
    """The tokens of a model, loaded without its weights."""

    def __init__(self, path: str) -> None:
        self._silent = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._silent, ctypes.c_void_p(0))
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self._model = lib.llama_model_load_from_file(path.encode(), params)
        self.pointer = lib.llama_model_get_vocab(self._model)
        self.size = lib.llama_vocab_n_tokens(self.pointer)
        self._entries = (llama_cpp.llama_token_data * self.size)()

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(512)
        n = lib.llama_token_to_piece(self.pointer, token, buffer, 512, 0, True)
        return bytes(buffer.raw[:n])

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self.pointer, token))

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 8))()
        n = lib.llama_tokenize(self.pointer, data, len(data), tokens, len(data) + 8, False, False)
        return list(tokens[:n])

    def allowed(self, sampler: Any, among: list[int] | None = None) -> list[int]:
        """Those of the tokens that the grammar allows next."""
        ids = range(self.size) if among is None else among
        for i, token in enumerate(ids):
            self._entries[i] = llama_cpp.llama_token_data(token, 1.0, 0.0)
        array = llama_cpp.llama_token_data_array(self._entries, len(ids), -1, False)
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        return [entry.id for entry in self._entries[: array.size] if not math.isinf(entry.logit)]


def answer(vocabulary: Vocabulary, request: dict[str, Any]) -> dict[str, Any]:
    def sampler() -> Any:
        return lib.llama_sampler_init_grammar(vocabulary.pointer, request["grammar"].encode(), b"root")

    first = sampler()
    if not first:
        return {"taken": False}
    result: dict[str, Any] = {"taken": True, **draw(vocabulary, first, request)}
    lib.llama_sampler_free(first)
    if request.get("text") is not None:
        second = sampler()
        result["matches"] = matches(vocabulary, second, request["text"])
        lib.llama_sampler_free(second)
    return result


def draw(vocabulary: Vocabulary, sampler: Any, request: dict[str, Any]) -> dict[str, Any]:
    dice = random.Random(request.get("seed", 0))
    text, ended = b"", False
    for _ in range(request.get("draw", 12)):
        allowed = vocabulary.allowed(sampler)
        if not allowed:
            return {"text": text.decode("utf-8", "replace"), "ended": False, "stuck": True}
        token = dice.choice(allowed)
        lib.llama_sampler_accept(sampler, token)
        if vocabulary.is_end(token):
            ended = True
            break
        text += vocabulary.piece(token)
    return {"text": text.decode("utf-8", "replace"), "ended": ended, "stuck": False}


def matches(vocabulary: Vocabulary, sampler: Any, text: str) -> bool:
    for token in vocabulary.tokens(text):
        if not vocabulary.allowed(sampler, [token]):
            return False
        lib.llama_sampler_accept(sampler, token)
    ends = [token for token in range(vocabulary.size) if vocabulary.is_end(token)]
    return bool(vocabulary.allowed(sampler, ends))


def main() -> None:
    vocabulary = Vocabulary(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(vocabulary, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
