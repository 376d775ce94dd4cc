"""One model and one context of llama.cpp behind `engine.backend.Backend`. The rules of its API: llama.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.backend import Batch, Sampled, Sampler, SamplerSpec
from engine.backends.llamacpp.candidates import Logits, likeliest
from engine.backends.llamacpp.embedder import N_SEQUENCES, Embedder, set_up_for_embeddings
from engine.backends.llamacpp.library import lib
from engine.backends.llamacpp.sampler import LlamaSampler, Vocab
from engine.errors import TokenglassError
from engine.types import ModelInfo

EMBEDDING_CTX = 2048
"""The longest input that a model which isn't made for embeddings takes, where its context isn't shorter."""
_SPM = 1  # llama_vocab_type: SentencePiece BPE
_logits_address = lib._lib["llama_get_logits_ith"]  # an own prototype: a plain address is made fastest
_logits_address.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_logits_address.restype = ctypes.c_void_p


class LlamaBackend:
    """One model and one context; see `engine.backend.Backend`."""

    def __init__(self, model: Any, context: Any, info: ModelInfo) -> None:
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
        self._embedder = Embedder(model, context, info.n_ctx) if info.embedding else None
        self._embedding_context: Any = None
        # one batch for all steps: arrays that take whole slices, and fixed pointers into them
        n_batch = info.n_batch
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
        if self.info.embedding:
            raise TokenglassError(
                "bad_state",
                "this model gives embeddings and writes no text",
                hint="load another model for chats",
            )
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
            ids = likeliest(logits, n)
            ids = ids[np.argsort(-logits[ids], kind="stable")][:n]  # of level ones the first, as greedy does
            top = tuple((int(i), float(logits[i]) - total) for i in ids)
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
        if self.info.embedding:
            return 0
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
        if n_tokens <= 0:
            return 0
        if self.info.recurrent and lib.llama_memory_seq_pos_max(memory, source) != n_tokens - 1:
            return 0  # a state holds all its tokens or none
        if self.info.kv_unified:
            lib.llama_memory_seq_cp(memory, source, target, 0, n_tokens)
            return n_tokens
        lib.llama_memory_seq_cp(memory, source, target, -1, -1)  # between separate parts only the whole
        return self.keep(target, n_tokens)

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """Embedding models pool as they were trained to.

        Of others these are the mean hidden states of the last layer, computed in a context of its own that is
        made at the first call: good enough to tell texts apart, but nothing that the model was trained for.
        """
        if self._embedder is None:
            n_tokens = min(self.info.n_ctx, EMBEDDING_CTX)
            self._embedder = Embedder(self._model, self._make_embedding_context(n_tokens), n_tokens)
        return self._embedder.embed(inputs)

    def _make_embedding_context(self, n_tokens: int) -> Any:
        info = self.info
        params = lib.llama_context_default_params()
        n_sequences = 1 if info.recurrent else N_SEQUENCES  # each has a state, and states are large
        set_up_for_embeddings(params, n_tokens, mean=True, n_sequences=n_sequences)
        params.n_threads, params.n_threads_batch = info.n_threads, info.n_threads_batch
        params.kv_unified = True
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise TokenglassError(
                "out_of_memory",
                "there is not enough memory for embeddings beside the model's context",
                hint="load an embedding model, or this one with a smaller --ctx",
            )
        self._embedding_context = context
        return context

    def close(self) -> None:
        if self._embedder:
            self._embedder.close()
        for context in (self._embedding_context, self._context):
            if context:
                lib.llama_free(context)
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
