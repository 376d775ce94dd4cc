"""What a model's header says about its memory: weights of each layer, cache and state, widths of its graph.

Follows llama.cpp: llama-hparams.cpp (cache and state), llama-model.cpp (which tensors belong where).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.gguf import GgufLayout

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_INPUT = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_RECURRENT = ("ssm_", "time_mix_", "shortconv.", "linear_attn")
_NO_CACHE = frozenset(
    (
        "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert",
        "modern-bert", "gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1",
    )
)  # fmt: skip
"""Architectures that see a text at once and keep nothing of it."""
_NO_OUTPUT = _NO_CACHE - {"dream", "llada", "llada-moe", "rnd1"}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes that follow from the header alone. Bytes, but for widths, which count values of a token."""

    architecture: str
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    layers: tuple[int, ...]
    """Weights of each layer; 0 for those that guess ahead, which aren't loaded."""
    experts: int
    """Of these, weights of experts, of which few work for a token."""
    input: int
    """Token embeddings and what else stays on the CPU."""
    output: int
    """What computes logits; in a model that has it from the token embeddings, these."""
    tied: int
    """Of the output, what are the token embeddings: held a second time only on another device than these."""
    k_widths: tuple[int, ...]
    """Keys in each layer's KV cache, values a cell; 0: the layer has none."""
    v_widths: tuple[int, ...]
    states: tuple[int, ...]
    """Recurrent state of each layer and sequence, in bytes."""
    attention_width: int
    """Values a token in a graph's attention: the query twice, key and value."""
    feed_forward_width: int
    state_width: int
    """The same of a recurrent layer."""
    n_masks: int
    """Attention masks of a step: one more where some layers see only a window."""
    experts_used: int = 0
    """Experts that work for each token, 0 in a dense model."""
    has_logits: bool = True
    embedding: bool = False
    """Was made for embeddings: whole inputs at once."""

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def weights(self) -> int:
        return sum(self.layers) + self.input + self.output - self.tied


def shape_of(layout: GgufLayout) -> ModelShape | None:
    """The shape of a model; None where the header tells too little to judge it."""
    n_all, n_embd = layout.number("block_count"), layout.number("embedding_length")
    if n_all < 1 or n_all > 4096 or n_embd < 1 or not layout.tensors:
        return None
    n_loaded = max(1, n_all - layout.number("nextn_predict_layers"))
    layers, experts = [0] * n_all, 0
    recurrent, attentive = [False] * n_all, [False] * n_all
    place = {"input": 0, "output": 0}
    own_output = False
    for tensor in layout.tensors:
        match = _BLOCK.fullmatch(tensor.name)
        if match is None:
            place["input" if tensor.name.startswith(_INPUT) else "output"] += tensor.size_bytes
            own_output |= tensor.name == "output.weight"
            continue
        layer, part = int(match[1]), match[2]
        if layer >= n_loaded:
            continue
        layers[layer] += tensor.size_bytes
        experts += tensor.size_bytes if "_exps" in part else 0
        recurrent[layer] |= part.startswith(_RECURRENT)
        attentive[layer] |= part.startswith(("attn_k", "attn_qkv", "attn_q.", "attn_v"))
    has_logits = layout.architecture not in _NO_OUTPUT
    tied = 0
    if has_logits and not own_output:
        tied = next((t.size_bytes for t in layout.tensors if t.name == "token_embd.weight"), 0)
    k_widths, v_widths = _cache_widths(layout, n_all, recurrent, attentive)
    attention, feed_forward, state = _graph_widths(layout, n_all, n_embd)
    return ModelShape(
        architecture=layout.architecture,
        n_ctx_train=layout.number("context_length"),
        n_vocab=layout.n_vocab or layout.number("vocab_size"),
        n_embd=n_embd,
        layers=tuple(layers),
        experts=experts,
        input=place["input"],
        output=place["output"] + tied,
        tied=tied,
        k_widths=k_widths,
        v_widths=v_widths,
        states=tuple(_state(layout, n_embd) if has else 0 for has in recurrent),
        attention_width=attention if any(k_widths) or layout.architecture in _NO_CACHE else 0,
        feed_forward_width=feed_forward,
        state_width=state if any(recurrent) else 0,
        n_masks=2 if layout.number("attention.sliding_window") else 1,
        experts_used=layout.number("expert_used_count") if experts else 0,
        has_logits=has_logits,
        embedding=not has_logits
        or bool(layout.number("pooling_type"))
        or layout.facts.get("attention.causal") is False,
    )


def _cache_widths(
    layout: GgufLayout, n_layers: int, recurrent: list[bool], attentive: list[bool]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys and values of a cell in each layer."""
    if layout.architecture in _NO_CACHE:
        return (0,) * n_layers, (0,) * n_layers
    heads = layout.per_layer("attention.head_count", n_layers)
    kv_heads = (
        layout.per_layer("attention.head_count_kv", n_layers)
        if "attention.head_count_kv" in layout.facts
        else heads
    )
    k_length, v_length = _head_lengths(layout)
    k_window = layout.number("attention.key_length_swa", k_length)
    v_window = layout.number("attention.value_length_swa", v_length)
    windowed = layout.facts.get("attention.sliding_window_pattern")
    latent = bool(layout.number("attention.key_length_mla") and layout.number("attention.value_length_mla"))
    index = layout.number("attention.indexer.key_length")  # sparse attention keeps a small key beside
    shared = layout.number("attention.shared_kv_layers")
    from_start = 20 if layout.architecture == "gemma3n" else n_layers - shared
    hybrid = any(recurrent)
    keys, values = [], []
    for layer in range(n_layers):
        cached = layer < from_start and (attentive[layer] if hybrid else True)
        in_window = isinstance(windowed, list) and layer < len(windowed) and bool(windowed[layer])
        n = kv_heads[layer] if cached else 0
        keys.append(n * (k_window if in_window else k_length) + (index if n else 0))
        values.append(0 if latent else n * (v_window if in_window else v_length))
    return tuple(keys), tuple(values)


def _head_lengths(layout: GgufLayout) -> tuple[int, int]:
    n_head = max(1, layout.number("attention.head_count"))
    usual = layout.number("embedding_length") // n_head
    return layout.number("attention.key_length", usual), layout.number("attention.value_length", usual)


def _state(layout: GgufLayout, n_embd: int) -> int:
    """Bytes of one layer's recurrent state for one sequence; llama.cpp keeps it in F32."""
    n_head = layout.number("attention.head_count")
    kernel = layout.number("ssm.conv_kernel")
    if head := layout.number("wkv.head_size"):
        return 4 * (layout.number("token_shift_count", 2) * n_embd + n_embd * head)
    if cache := layout.number("shortconv.l_cache"):
        return 4 * n_embd * (cache - 1)
    if head := layout.number("kda.head_dim"):
        return 4 * (3 * (kernel - 1 if kernel else 3) * n_head * head + head * head * n_head)
    inner, size = layout.number("ssm.inner_size"), layout.number("ssm.state_size")
    groups = layout.number("ssm.group_count")
    return 4 * ((kernel - 1 if kernel else 0) * (inner + 2 * groups * size) + inner * size)


def _graph_widths(layout: GgufLayout, n_layers: int, n_embd: int) -> tuple[int, int, int]:
    """Values a token that the widest part of a graph holds at once: attention, feed-forward, state."""
    n_head, kv_heads = layout.number("attention.head_count"), layout.number("attention.head_count_kv")
    k_length, v_length = _head_lengths(layout)
    if latent := layout.number("attention.key_length_mla"):
        # keys stay compressed: each head's query is as long as the latent vector
        attention = 2 * n_head * k_length + n_head * (latent + layout.number("rope.dimension_count"))
    else:
        attention = n_head * (k_length + v_length) + (kv_heads or n_head) * (k_length + v_length)
    gated = any(".ffn_gate" in t.name for t in layout.tensors) or layout.architecture.startswith("phi3")
    dense = max(layout.per_layer("feed_forward_length", n_layers), default=0)
    per_width = 3 if gated else 1  # without a gate the activation takes its input's place
    feed_forward = per_width * dense
    used = layout.number("expert_used_count")
    if used and any("_exps" in t.name for t in layout.tensors):
        width = layout.number("expert_feed_forward_length") or dense
        sparse = used * max(per_width * width, width + n_embd, 2 * n_embd) + 2 * n_embd
        feed_forward = max(sparse, feed_forward if layout.number("leading_dense_block_count") else 0)
    if layout.number("wkv.head_size"):
        state = 18 * n_embd
    else:
        state = max(11 * layout.number("ssm.inner_size") // 2, 6 * n_embd)
    return attention, feed_forward, state
