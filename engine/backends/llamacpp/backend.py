"""One model and one context of llama.cpp behind `engine.backend.Backend`. The rules of its API: llama.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.backend import Batch, Sampled, Sampler, SamplerSpec
from engine.backends.llamacpp.candidates import Logits
from engine.backends.llamacpp.library import lib
from engine.backends.llamacpp.sampler import LlamaSampler, Vocab
from engine.errors import TokenglassError
from engine.types import ModelInfo

_SPM = 1  # llama_vocab_type: SentencePiece BPE
_logits_address = lib._lib["llama_get_logits_ith"]  # an own prototype: a plain address is made fastest
_logits_address.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_logits_address.restype = ctypes.c_void_p


class LlamaBackend:
    """One model and one context; see `engine.backend.Backend`."""

    def __init__(self, model: Any, context: Any, info: ModelInfo, n_batch: int) -> None:
        self.info = info
        self._model = model
        self._context = context
        self._vocab = lib.llama_model_get_vocab(model)
        self._sampling = Vocab(self._vocab)
        self._memory = lib.llama_get_memory(context)
        self._n_vocab = lib.llama_vocab_n_tokens(self._vocab)
        template = lib.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._token_text(lib.llama_vocab_bos(self._vocab))
        self.eos_text = self._token_text(lib.llama_vocab_eos(self._vocab))
        self._spellable = self._spellable_characters()
        self._piece_buffer = ctypes.create_string_buffer(512)
        self._rows: dict[int, Logits] = {}
        """Views by address; making one takes longer than reading it."""
        # one batch for all steps: arrays that take whole slices, and fixed pointers into them
        self._tokens = (ctypes.c_int32 * n_batch)()
        self._positions = (ctypes.c_int32 * n_batch)()
        self._sequences = (ctypes.c_int32 * n_batch)()
        self._wants = (ctypes.c_int8 * n_batch)()
        ones = (ctypes.c_int32 * n_batch)(*([1] * n_batch))
        address, width = ctypes.addressof(self._sequences), ctypes.sizeof(ctypes.c_int32)
        pointer = ctypes.POINTER(ctypes.c_int32)
        pointers = (pointer * n_batch)(*(ctypes.cast(address + i * width, pointer) for i in range(n_batch)))
        self._batch = lib.llama_batch(0, self._tokens, None, self._positions, ones, pointers, self._wants)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if self._spellable is not None and (missing := set(text) - self._spellable):
            shown = " ".join(sorted(missing)[:10])
            raise TokenglassError(
                "invalid_prompt",
                f"this model's vocabulary has no way to write: {shown}",
                hint="use other characters, or another model",
            )
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * size)()
            n = lib.llama_tokenize(self._vocab, data, len(data), tokens, size, add_special, parse_special)
            if n >= 0:
                return tokens[:n]
            if -n <= size:
                raise TokenglassError("invalid_prompt", "the prompt is too long to be tokenized")
            size = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        buffer = self._piece_buffer
        n = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            self._piece_buffer = buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, -n, 0, special)
        return buffer.raw[:n]

    def is_eog(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def new_sampler(
        self, spec: SamplerSpec, prompt: Sequence[int], completion: Sequence[int] = (), n_drawn: int = 0
    ) -> LlamaSampler:
        return LlamaSampler(spec, self._sampling, prompt, completion, n_drawn)

    def decode(self, batch: Batch) -> None:
        n = len(batch.tokens)
        self._tokens[:n] = batch.tokens  # type: ignore[assignment]  # ctypes arrays take plain ints
        self._positions[:n] = batch.positions  # type: ignore[assignment]
        self._sequences[:n] = batch.sequences  # type: ignore[assignment]
        self._wants[:n] = batch.wants_logits  # type: ignore[assignment]
        self._batch.n_tokens = n
        code = lib.llama_decode(self._context, self._batch)
        if code == 1:
            raise TokenglassError("context_overflow", "no free cell is left in the KV cache")
        if code != 0:
            raise TokenglassError(
                "internal", f"llama_decode failed with code {code}; the engine log says more"
            )
        lib.llama_synchronize(self._context)

    def sample(self, sampler: Sampler, index: int) -> Sampled:
        assert isinstance(sampler, LlamaSampler)
        logits = self._row(index)
        token = sampler.choose(logits)
        if sampler.n_logprobs is None:
            return Sampled(token)
        highest = float(logits.max())
        total = highest + float(np.log(np.exp(logits - highest).sum()))
        top: tuple[tuple[int, float], ...] = ()
        if sampler.n_logprobs > 0:
            n = min(sampler.n_logprobs, self._n_vocab)
            likeliest = np.argpartition(logits, -n)[-n:]
            likeliest = likeliest[np.argsort(logits[likeliest])[::-1]]
            top = tuple((int(i), float(logits[i]) - total) for i in likeliest)
        return Sampled(token, float(logits[token]) - total, top)

    def _row(self, index: int) -> Logits:
        """The logits of a batch entry, in llama.cpp's own memory."""
        address = _logits_address(self._context, index)
        if address is None:
            raise TokenglassError("internal", f"batch entry {index} has no logits")
        row = self._rows.get(address)
        if row is None:
            data = (ctypes.c_float * self._n_vocab).from_address(address)
            row = self._rows[address] = np.frombuffer(data, np.float32)
        return row

    def keep(self, sequence: int, n_tokens: int) -> int:
        memory = self._memory
        # a recurrent state can't be cut, and may say so only by where it stands afterwards
        if (
            n_tokens > 0
            and lib.llama_memory_seq_rm(memory, sequence, n_tokens, -1)
            and lib.llama_memory_seq_pos_max(memory, sequence) == n_tokens - 1
        ):
            return n_tokens
        lib.llama_memory_seq_rm(memory, sequence, -1, -1)
        return 0

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        memory = self._memory
        if self.info.recurrent and lib.llama_memory_seq_pos_max(memory, source) != n_tokens - 1:
            return 0  # a state holds all its tokens or none
        lib.llama_memory_seq_cp(memory, source, target, 0, n_tokens)
        return n_tokens

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        raise TokenglassError("bad_state", f"this model gives no embeddings ({len(inputs)} asked)")

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text = lib.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    def _spellable_characters(self) -> frozenset[str] | None:
        """The only characters a SentencePiece vocabulary without byte tokens can write; None: any.

        llama.cpp throws a C++ exception at any other, which would end the process.
        """
        if lib.llama_vocab_type(self._vocab) != _SPM:
            return None
        texts = {self._token_text(token) for token in range(self._n_vocab)}
        if all(f"<0x{byte:02X}>" in texts for byte in range(256)):
            return None
        return frozenset({text for text in texts if len(text) == 1} | ({" "} if "▁" in texts else set()))
