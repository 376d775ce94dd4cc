"""llama.cpp through the low-level API of llama-cpp-python: the only module that imports it.

Imported in the worker process alone, since importing it loads native libraries. The API and its
rules: llama.h in the llama.cpp repository.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib

from engine.backend import Batch, LoadProgress, Sampled, Sampler, SamplerSpec
from engine.errors import TokenglassError
from engine.gguf import read_header
from engine.types import ModelInfo, SamplingParams, WorkerConfig

__all__ = ["LlamaBackend", "LlamaSampler", "lib", "load"]

DEFAULT_CTX = 4096
PENALTY_LAST_N = 64
_SPM = 1  # llama_vocab_type: SentencePiece BPE
_LOG_INFO, _LOG_ERROR, _LOG_CONTINUED = 2, 4, 5  # ggml_log_level
_log_level = 0

_errors: deque[str] = deque(maxlen=8)
"""llama.cpp's last error lines, to tell why a load failed."""


@lib.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    global _log_level
    if level != _LOG_CONTINUED:
        _log_level = level
    if _log_level < _LOG_INFO:
        return
    line = text.decode("utf-8", "replace")
    sys.stderr.write(line)
    if level == _LOG_ERROR:
        _errors.append(line.strip())


class LlamaSampler:
    """A sampler chain in llama.cpp's usual order: bias, penalties, top-k, top-p, min-p, temperature, draw."""

    def __init__(
        self, spec: SamplerSpec, n_vocab: int, prompt: Sequence[int], completion: Sequence[int], n_drawn: int
    ) -> None:
        self.n_logprobs = spec.n_logprobs
        self.n_drawn = n_drawn
        self._build(spec.params, spec.seed, n_vocab)
        for token in [*prompt[-PENALTY_LAST_N:], *completion][-PENALTY_LAST_N:]:
            self.accept(token)

    def _build(self, params: SamplingParams, seed: int, n_vocab: int) -> None:
        self.chain = chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())

        def add(sampler: Any) -> None:
            lib.llama_sampler_chain_add(chain, sampler)

        if params.logit_bias:
            biases = (lib.llama_logit_bias * len(params.logit_bias))(
                *((token, bias) for token, bias in params.logit_bias.items() if token < n_vocab)
            )
            add(lib.llama_sampler_init_logit_bias(n_vocab, len(biases), biases))
        self._penalizes = (
            params.repeat_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        )
        if self._penalizes:
            add(
                lib.llama_sampler_init_penalties(
                    n_vocab,
                    PENALTY_LAST_N,
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            )
        if params.temperature == 0:
            add(lib.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            add(lib.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            add(lib.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            add(lib.llama_sampler_init_min_p(params.min_p, 1))
        add(lib.llama_sampler_init_temp(params.temperature))
        add(lib.llama_sampler_init_dist(seed))

    def allows(self, token: int) -> bool:
        return token >= 0

    def accept(self, token: int) -> None:
        if self._penalizes:
            lib.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        lib.llama_sampler_free(self.chain)


class LlamaBackend:
    """One model and one context; see `engine.backend.Backend`."""

    def __init__(self, model: Any, context: Any, info: ModelInfo, n_batch: int) -> None:
        self.info = info
        self._model = model
        self._context = context
        self._vocab = lib.llama_model_get_vocab(model)
        self._memory = lib.llama_get_memory(context)
        self._n_vocab = lib.llama_vocab_n_tokens(self._vocab)
        template = lib.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._token_text(lib.llama_vocab_bos(self._vocab))
        self.eos_text = self._token_text(lib.llama_vocab_eos(self._vocab))
        self._spellable = self._spellable_characters()
        self._piece_buffer = ctypes.create_string_buffer(512)
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
        return LlamaSampler(spec, self._n_vocab, prompt, completion, n_drawn)

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
        token = lib.llama_sampler_sample(sampler.chain, self._context, index)
        sampler.n_drawn += 1
        logits = lib.llama_get_logits_ith(self._context, index)
        chosen = logits[token]
        if not -1e30 < chosen < 1e30:  # NaN compares false as well
            raise TokenglassError(
                "invalid_output",
                "the model computed values that are not numbers",
                hint="the model file may be damaged; load it again or download it again",
            )
        if sampler.n_logprobs is None:
            return Sampled(token)
        values = np.ctypeslib.as_array(logits, (self._n_vocab,))
        highest = float(values.max())
        total = highest + float(np.log(np.exp(values - highest).sum()))
        top: tuple[tuple[int, float], ...] = ()
        if sampler.n_logprobs > 0:
            n = min(sampler.n_logprobs, self._n_vocab)
            likeliest = np.argpartition(values, -n)[-n:]
            likeliest = likeliest[np.argsort(values[likeliest])[::-1]]
            top = tuple((int(i), float(values[i]) - total) for i in likeliest)
        return Sampled(token, chosen - total, top)

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


def load(config: WorkerConfig, progress: LoadProgress) -> LlamaBackend:
    """Load weights and make the context. Raises TokenglassError with what to tell the user."""
    began = time.monotonic()
    path = Path(config.model_path)
    header = read_header(path)
    lib.llama_log_set(_log, ctypes.c_void_p(0))
    _load_plugins()
    lib.llama_backend_init()
    devices, has_gpu = _devices()
    model_params = lib.llama_model_default_params()
    wanted = config.n_gpu_layers if config.n_gpu_layers >= 0 else header.n_layers + 1
    model_params.n_gpu_layers = n_gpu_layers = wanted if has_gpu else 0
    callback = lib.llama_progress_callback(lambda done, _: progress(done))
    model_params.progress_callback = callback
    model = lib.llama_model_load_from_file(os.fsencode(path), model_params)
    if not model:
        raise _load_error(header.architecture)
    n_ctx_train = lib.llama_model_n_ctx_train(model)
    n_ctx = config.n_ctx or min(n_ctx_train or DEFAULT_CTX, DEFAULT_CTX)
    n_threads = config.n_threads or max(1, len(_usable_cores()) - 1)
    params = lib.llama_context_default_params()
    params.n_seq_max = config.n_slots
    params.n_ctx = n_ctx * config.n_slots
    params.kv_unified = True  # sequences share cells, so that prefixes are copied for nothing
    params.n_batch = params.n_ubatch = config.n_batch
    params.n_threads = params.n_threads_batch = n_threads
    params.swa_full = True  # a window cache can't give back an old prefix
    params.no_perf = True
    context = lib.llama_init_from_model(model, params)
    if not context:
        lib.llama_model_free(model)
        raise TokenglassError(
            "out_of_memory",
            f"there is not enough memory for {config.n_slots} contexts of {n_ctx} tokens",
            hint="choose a smaller --ctx or --parallel",
        )
    info = ModelInfo(
        id=config.model_id,
        name=header.name,
        architecture=header.architecture,
        size_bytes=header.size_bytes,
        n_params=lib.llama_model_n_params(model),
        n_vocab=lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)),
        n_ctx_train=n_ctx_train,
        n_ctx=min(n_ctx, lib.llama_n_ctx_seq(context)),
        n_slots=config.n_slots,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        devices=devices,
        has_chat_template=header.has_chat_template,
        n_kv=n_ctx * config.n_slots,
        n_batch=config.n_batch,
        n_ubatch=config.n_batch,
        n_threads_batch=n_threads,
        recurrent=lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model),
        n_embd=lib.llama_model_n_embd(model),
        load_ms=(time.monotonic() - began) * 1000,
    )
    return LlamaBackend(model, context, info, config.n_batch)


def _load_plugins() -> None:
    """Load compute backends where they are plugins (`GGML_BACKEND_DL`): the best CPU variant, and a GPU's.

    Looked up on the library that is already open: a second copy would have a registry of its own.
    """
    native = lib._lib
    if native.ggml_backend_dev_count() > 0:
        return
    package = Path(llama_cpp.__file__).parent
    native.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    native.ggml_backend_load_all_from_path.restype = None
    for folder in (package / "lib", package.parent / "bin"):
        if any(folder.glob("*ggml-cpu*")):
            native.ggml_backend_load_all_from_path(os.fsencode(folder))
            return


def _devices() -> tuple[list[str], bool]:
    """Descriptions of the compute devices, and whether one is a GPU."""
    native = lib._lib
    native.ggml_backend_dev_count.restype = ctypes.c_size_t
    native.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    native.ggml_backend_dev_get.restype = ctypes.c_void_p
    native.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    native.ggml_backend_dev_description.restype = ctypes.c_char_p
    names = []
    for i in range(native.ggml_backend_dev_count()):
        description = native.ggml_backend_dev_description(native.ggml_backend_dev_get(i))
        names.append(description.decode("utf-8", "replace") if description else "unknown")
    return names, bool(lib.llama_supports_gpu_offload())


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _load_error(architecture: str) -> TokenglassError:
    reason = (
        next((line for line in reversed(_errors) if "error" in line.lower()), "") or "no reason was given"
    )
    if "unknown model architecture" in reason or "unknown pre-tokenizer" in reason:
        return TokenglassError(
            "model_unsupported",
            f"this version of llama.cpp doesn't know the model's kind ({architecture})",
            hint="look for a newer Tokenglass, or another model",
        )
    if "alloc" in reason or "memory" in reason:
        return TokenglassError("out_of_memory", "there is not enough memory for this model's weights")
    return TokenglassError("load_failed", f"the model can't be loaded: {reason}")
