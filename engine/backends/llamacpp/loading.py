"""Loads a model and makes its context."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.backend import LoadProgress
from engine.backends.llamacpp.backend import LlamaBackend
from engine.backends.llamacpp.library import devices, last_error, lib, load_plugins, start_log
from engine.errors import TokenglassError
from engine.gguf import read_header
from engine.types import ModelInfo, WorkerConfig

DEFAULT_CTX = 4096


def load(config: WorkerConfig, progress: LoadProgress) -> LlamaBackend:
    """Load weights and make the context. Raises TokenglassError with what to tell the user."""
    began = time.monotonic()
    path = Path(config.model_path)
    header = read_header(path)
    start_log()
    load_plugins()
    lib.llama_backend_init()
    device_names, has_gpu = devices()
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
        devices=device_names,
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


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _load_error(architecture: str) -> TokenglassError:
    reason = last_error() or "no reason was given"
    if "unknown model architecture" in reason or "unknown pre-tokenizer" in reason:
        return TokenglassError(
            "model_unsupported",
            f"this version of llama.cpp doesn't know the model's kind ({architecture})",
            hint="look for a newer Tokenglass, or another model",
        )
    if "alloc" in reason or "memory" in reason:
        return TokenglassError("out_of_memory", "there is not enough memory for this model's weights")
    return TokenglassError("load_failed", f"the model can't be loaded: {reason}")
