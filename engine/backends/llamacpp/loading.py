"""Loads a model and makes its context."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from engine import fit, machine
from engine.backend import LoadProgress, OffloadError
from engine.backends.llamacpp.backend import LlamaBackend
from engine.backends.llamacpp.embedder import set_up_for_embeddings
from engine.backends.llamacpp.library import (
    buffers,
    devices,
    gpus,
    last_error,
    lib,
    load_plugins,
    start_log,
)
from engine.errors import TokenglassError
from engine.gguf import header_of_model, read_layout
from engine.shape import shape_of
from engine.types import ModelInfo, WorkerConfig


def load(config: WorkerConfig, progress: LoadProgress) -> LlamaBackend:
    """Load weights and make the context. Raises TokenglassError with what to tell the user."""
    start_log()
    load_plugins()
    lib.llama_backend_init()
    placed = _place(config)
    try:
        return _load(placed, progress)
    except TokenglassError as error:
        if error.code == "out_of_memory" and placed.n_gpu_layers > 0 and config.n_gpu_layers < 0:
            raise OffloadError(error, placed.n_gpu_layers) from None
        raise


def _place(config: WorkerConfig) -> WorkerConfig:
    """Settle which layers go to which GPU: as the app planned it, where that is left open."""
    places = gpus() if lib.llama_supports_gpu_offload() else []
    if not places:
        return config.model_copy(update={"n_gpu_layers": 0, "tensor_split": []})
    if config.n_gpu_layers >= 0:
        return config
    path, at_most = Path(config.model_path), config.plan.at_most
    shape = shape_of(read_layout(path))
    if shape is None:  # the header tells too little: let llama.cpp try
        n, split = (header_of_model(path).n_layers or 10_000) + 1, list[float]()
        n = n if at_most is None else min(n, at_most)
    else:
        sizes = fit.sizes_of(config, shape.n_ctx_train, embedding=shape.embedding)
        n, split = fit.layers_for(shape, sizes, places, config.plan)
    print(f"layers on GPUs: {n}, shares {split}, of {[place.name for place in places]}", file=sys.stderr)
    return config.model_copy(update={"n_gpu_layers": n, "tensor_split": split})


def _load(config: WorkerConfig, progress: LoadProgress) -> LlamaBackend:
    began = time.monotonic()
    header = header_of_model(Path(config.model_path))
    device_names, _ = devices()
    n_gpu_layers = config.n_gpu_layers
    model = _load_model(config, n_gpu_layers, progress, header.architecture)
    try:
        embedding = _gives_embeddings(model, header.architecture)
        n_ctx_train = lib.llama_model_n_ctx_train(model)
        sizes = fit.sizes_of(config, n_ctx_train)
        choice = machine.choose(
            machine.this_machine(),
            n_threads=config.n_threads,
            n_threads_batch=config.n_threads_batch,
            n_batch=config.n_batch,
            n_ubatch=config.n_ubatch,
            n_slots=config.n_slots,
            on_gpu=n_gpu_layers > header.n_layers,
        )
        params = lib.llama_context_default_params()
        params.n_seq_max = config.n_slots
        params.n_ctx = sizes.n_kv
        params.n_batch = choice.n_batch
        params.n_ubatch = choice.n_ubatch
        params.n_outputs_max = min(sizes.n_outputs, choice.n_ubatch)  # llama.cpp would reserve logits for all
        params.n_threads = choice.n_threads
        params.n_threads_batch = choice.n_threads_batch
        # In one cache for all, attention goes over everybody's cells: measured 1.2 times as long beside three
        # filled slots, up to 1.5 times in mixed batches. So it is shared only where cells are short.
        params.kv_unified = sizes.kv_unified
        params.swa_full = True  # a window cache can't give back an old prefix
        params.no_perf = True
        n_ctx = sizes.n_ctx
        if embedding:
            n_ctx = min(n_ctx, n_ctx_train or n_ctx)  # where positions are learned there are no more
            pools = _metadata(model, f"{header.architecture}.pooling_type") not in ("", "0")
            set_up_for_embeddings(params, n_ctx, mean=not pools)
        context = lib.llama_init_from_model(model, params)
        if not context:
            raise TokenglassError(
                "out_of_memory",
                f"there is not enough memory for a KV cache of {params.n_ctx} tokens",
                hint="choose a smaller --ctx or --parallel",
            )
    except TokenglassError:
        lib.llama_model_free(model)
        raise
    n_kv = lib.llama_n_ctx(context)
    info = ModelInfo(
        id=config.model_id,
        name=header.name,
        architecture=header.architecture,
        size_bytes=header.size_bytes,
        n_params=lib.llama_model_n_params(model),
        n_vocab=lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)),
        n_ctx_train=n_ctx_train,
        n_ctx=min(n_ctx, n_kv),
        n_slots=config.n_slots,
        n_threads=choice.n_threads,
        n_gpu_layers=n_gpu_layers,
        devices=device_names,
        has_chat_template=header.has_chat_template,
        n_kv=n_kv,
        kv_unified=sizes.kv_unified,
        n_batch=lib.llama_n_batch(context),
        n_ubatch=lib.llama_n_ubatch(context),
        n_threads_batch=choice.n_threads_batch,
        tensor_split=config.tensor_split,
        buffers=buffers(),
        recurrent=lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model),
        embedding=embedding,
        n_embd=lib.llama_model_n_embd_out(model),
        load_ms=(time.monotonic() - began) * 1000,
    )
    return LlamaBackend(model, context, info)


def _load_model(config: WorkerConfig, n_gpu_layers: int, progress: LoadProgress, architecture: str) -> Any:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    stopped = False

    def on_progress(done: float, _: ctypes.c_void_p) -> bool:
        nonlocal stopped
        stopped = not progress(done)
        return not stopped

    callback = lib.llama_progress_callback(on_progress)
    params.progress_callback = callback
    n_devices = lib.llama_max_devices()
    split = (ctypes.c_float * n_devices)(*config.tensor_split[:n_devices])
    if config.tensor_split:
        params.tensor_split = split
    model = lib.llama_model_load_from_file(os.fsencode(config.model_path), params)
    if stopped:
        if model:
            lib.llama_model_free(model)
        raise TokenglassError("load_cancelled", "the load was stopped")
    if not model:
        raise _load_error(architecture)
    return model


def _gives_embeddings(model: Any, architecture: str) -> bool:
    """Whether the model was made for embeddings: it pools, or every token sees all others.

    Raises TokenglassError `model_unsupported` for kinds that neither generate here nor embed.
    """
    pooling = _metadata(model, f"{architecture}.pooling_type")
    if pooling == str(lib.LLAMA_POOLING_TYPE_RANK):
        raise TokenglassError("model_unsupported", "this model ranks texts; it generates and embeds none")
    if lib.llama_model_has_encoder(model) and lib.llama_model_has_decoder(model):
        raise TokenglassError("model_unsupported", "models with encoder and decoder are not supported")
    if lib.llama_model_has_encoder(model):
        return True
    return pooling not in ("", "0") or _metadata(model, f"{architecture}.attention.causal") == "false"


def _metadata(model: Any, key: str) -> str:
    """A value of the model's metadata as llama.cpp prints it; empty where there is none."""
    buffer = ctypes.create_string_buffer(64)
    n = lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if n >= 0 else ""


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
