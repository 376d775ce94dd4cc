"""Model files with a true header and no weights worth reading: any shape, a few kilobytes on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

F32 = gguf.GGMLQuantizationType.F32
Q8_0 = gguf.GGMLQuantizationType.Q8_0

Tensors = list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]


def write(
    path: Path, architecture: str, facts: Mapping[str, Any], tensors: Tensors, n_vocab: int = 500
) -> Path:
    """Write a header; the weights are a hole in the file, which reads as zeros."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in facts.items():
        name = key if key.startswith("split.") else f"{architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif key.startswith("split."):
            writer.add_uint16(name, value)
        else:
            writer.add_uint32(name, value)
    if n_vocab:
        writer.add_uint32(f"{architecture}.vocab_size", n_vocab)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(n_vocab - 3))])
        writer.add_token_scores([0.0] * n_vocab)
        writer.add_token_types([2, 3, 3, *([1] * (n_vocab - 3))])
        writer.add_token_type_count(2)
    size = 0
    for name, shape, kind in tensors:
        rows = tuple(reversed(shape))
        if kind is F32:
            n_bytes = 4 * int(np.prod(rows))
            writer.add_tensor_info(name, rows, np.dtype(np.float32), n_bytes)
        else:
            packed = gguf.quant_shape_to_byte_shape(rows, kind)
            n_bytes = int(np.prod(packed))
            writer.add_tensor_info(name, packed, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    file.truncate(-(-file.tell() // 32) * 32 + size)
    writer.close()
    return path


def attention(layer: int, n_embd: int, q: int, kv: int) -> Tensors:
    block = f"blk.{layer}."
    return [
        (block + "attn_norm.weight", (n_embd,), F32),
        (block + "attn_q.weight", (n_embd, q), Q8_0),
        (block + "attn_k.weight", (n_embd, kv), Q8_0),
        (block + "attn_v.weight", (n_embd, kv), Q8_0),
        (block + "attn_output.weight", (q, n_embd), Q8_0),
    ]


def feed_forward(layer: int, n_embd: int, n_ff: int) -> Tensors:
    block = f"blk.{layer}."
    return [
        (block + "ffn_norm.weight", (n_embd,), F32),
        (block + "ffn_gate.weight", (n_embd, n_ff), Q8_0),
        (block + "ffn_up.weight", (n_embd, n_ff), Q8_0),
        (block + "ffn_down.weight", (n_ff, n_embd), Q8_0),
    ]


def experts(layer: int, n_embd: int, n_ff: int, n: int) -> Tensors:
    block = f"blk.{layer}."
    return [
        (block + "ffn_norm.weight", (n_embd,), F32),
        (block + "ffn_gate_inp.weight", (n_embd, n), F32),
        (block + "ffn_gate_exps.weight", (n_embd, n_ff, n), Q8_0),
        (block + "ffn_up_exps.weight", (n_embd, n_ff, n), Q8_0),
        (block + "ffn_down_exps.weight", (n_ff, n_embd, n), Q8_0),
    ]


def llama(
    path: Path,
    *,
    architecture: str = "llama",
    n_layers: int = 4,
    n_embd: int = 512,
    n_ff: int = 1408,
    n_head: int = 8,
    n_head_kv: int = 4,
    n_vocab: int = 4000,
    n_ctx: int = 32768,
    n_experts: int = 0,
    tied: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A transformer: dense, or with experts of which two work for a token."""
    head = n_embd // n_head
    facts = common(n_layers, n_embd, n_ff, n_ctx) | {
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "rope.dimension_count": head,
    }
    tensors: Tensors = [
        ("token_embd.weight", (n_embd, n_vocab), Q8_0),
        ("output_norm.weight", (n_embd,), F32),
    ]
    if not tied:
        tensors.append(("output.weight", (n_embd, n_vocab), Q8_0))
    for layer in range(n_layers):
        tensors += attention(layer, n_embd, n_head * head, n_head_kv * head)
        if n_experts:
            tensors += experts(layer, n_embd, n_ff, n_experts)
        else:
            tensors += feed_forward(layer, n_embd, n_ff)
        if architecture == "gemma3":
            block = f"blk.{layer}."
            tensors += [
                (block + f"{name}.weight", (n_embd,), F32)
                for name in ("post_attention_norm", "post_ffw_norm")
            ]
            tensors += [(block + f"{name}.weight", (head,), F32) for name in ("attn_q_norm", "attn_k_norm")]
    if n_experts:
        facts |= {"expert_count": n_experts, "expert_used_count": 2}
    return write(path, architecture, facts | dict(extra or {}), tensors, n_vocab)


def mamba(
    path: Path, *, n_layers: int = 4, n_embd: int = 512, n_state: int = 16, n_vocab: int = 2000
) -> Path:
    """A recurrent model: no KV cache, a state for each sequence."""
    inner, rank = 2 * n_embd, 32
    facts = common(n_layers, n_embd, 0, 1 << 20) | {
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": n_state,
        "ssm.time_step_rank": rank,
    }
    tensors: Tensors = [
        ("token_embd.weight", (n_embd, n_vocab), Q8_0),
        ("output_norm.weight", (n_embd,), F32),
    ]
    for layer in range(n_layers):
        block = f"blk.{layer}."
        tensors += [
            (block + "attn_norm.weight", (n_embd,), F32),
            (block + "ssm_in.weight", (n_embd, 2 * inner), Q8_0),
            (block + "ssm_conv1d.weight", (4, inner), F32),
            (block + "ssm_conv1d.bias", (inner,), F32),
            (block + "ssm_x.weight", (inner, rank + 2 * n_state), Q8_0),
            (block + "ssm_dt.weight", (rank, inner), F32),
            (block + "ssm_dt.bias", (inner,), F32),
            (block + "ssm_a", (n_state, inner), F32),
            (block + "ssm_d", (inner,), F32),
            (block + "ssm_out.weight", (inner, n_embd), Q8_0),
        ]
    return write(path, "mamba", facts, tensors, n_vocab)


def lfm2(
    path: Path,
    *,
    n_layers: int = 6,
    n_embd: int = 1024,
    n_ff: int = 4608,
    with_attention: Sequence[int] = (2, 4),
) -> Path:
    """A hybrid: short convolutions with a state, and attention with a cache in some layers."""
    n_head, n_head_kv, n_vocab = 16, 8, 2000
    head = n_embd // n_head
    facts = common(n_layers, n_embd, n_ff, 32768) | {
        "attention.head_count": n_head,
        "attention.head_count_kv": [n_head_kv if i in with_attention else 0 for i in range(n_layers)],
        "shortconv.l_cache": 3,
    }
    tensors: Tensors = [
        ("token_embd.weight", (n_embd, n_vocab), Q8_0),
        ("token_embd_norm.weight", (n_embd,), F32),
    ]
    for layer in range(n_layers):
        block = f"blk.{layer}."
        tensors += feed_forward(layer, n_embd, n_ff)
        if layer in with_attention:
            tensors += attention(layer, n_embd, n_embd, n_head_kv * head)
            tensors += [(block + f"{name}.weight", (head,), F32) for name in ("attn_q_norm", "attn_k_norm")]
        else:
            tensors += [
                (block + "attn_norm.weight", (n_embd,), F32),
                (block + "shortconv.conv.weight", (3, n_embd), F32),
                (block + "shortconv.in_proj.weight", (n_embd, 3 * n_embd), Q8_0),
                (block + "shortconv.out_proj.weight", (n_embd, n_embd), Q8_0),
            ]
    return write(path, "lfm2", facts, tensors, n_vocab)


def deepseek2(
    path: Path, *, n_layers: int = 3, n_embd: int = 1024, n_head: int = 16, n_experts: int = 16
) -> Path:
    """Latent attention (MLA): one short vector a token; experts beside a dense layer."""
    latent, rope, nope, v, n_vocab, rank, n_ff, n_ff_exp = 512, 64, 128, 128, 2000, 768, 4096, 512
    facts = common(n_layers, n_embd, n_ff, 32768) | {
        "attention.head_count": n_head,
        "attention.head_count_kv": 1,
        "rope.dimension_count": rope,
        "attention.key_length": latent + rope,
        "attention.value_length": latent,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": v,
        "attention.q_lora_rank": rank,
        "attention.kv_lora_rank": latent,
        "leading_dense_block_count": 1,
        "expert_count": n_experts,
        "expert_used_count": 4,
        "expert_feed_forward_length": n_ff_exp,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
        "expert_gating_func": 2,
    }
    tensors: Tensors = [
        ("token_embd.weight", (n_embd, n_vocab), Q8_0),
        ("output_norm.weight", (n_embd,), F32),
    ]
    tensors.append(("output.weight", (n_embd, n_vocab), Q8_0))
    for layer in range(n_layers):
        block = f"blk.{layer}."
        tensors += [
            (block + "attn_norm.weight", (n_embd,), F32),
            (block + "attn_q_a_norm.weight", (rank,), F32),
            (block + "attn_kv_a_norm.weight", (latent,), F32),
            (block + "attn_q_a.weight", (n_embd, rank), Q8_0),
            (block + "attn_q_b.weight", (rank, n_head * (nope + rope)), Q8_0),
            (block + "attn_kv_a_mqa.weight", (n_embd, latent + rope), Q8_0),
            (block + "attn_k_b.weight", (nope, latent, n_head), Q8_0),
            (block + "attn_v_b.weight", (latent, v, n_head), Q8_0),
            (block + "attn_output.weight", (n_head * v, n_embd), Q8_0),
        ]
        if layer == 0:
            tensors += feed_forward(layer, n_embd, n_ff)
            continue
        tensors += experts(layer, n_embd, n_ff_exp, n_experts)
        tensors += [
            (block + "exp_probs_b.bias", (n_experts,), F32),
            (block + "ffn_gate_shexp.weight", (n_embd, n_ff_exp), Q8_0),
            (block + "ffn_up_shexp.weight", (n_embd, n_ff_exp), Q8_0),
            (block + "ffn_down_shexp.weight", (n_ff_exp, n_embd), Q8_0),
        ]
    return write(path, "deepseek2", facts, tensors, n_vocab)


def bert(path: Path, *, n_layers: int = 3, n_embd: int = 384, n_ff: int = 1536, n_vocab: int = 3000) -> Path:
    """An embedding model: no cache, no logits."""
    facts = common(n_layers, n_embd, n_ff, 512) | {
        "attention.head_count": 12,
        "attention.layer_norm_epsilon": 1e-12,
        "pooling_type": 1,
    }
    tensors: Tensors = [
        ("token_embd.weight", (n_embd, n_vocab), Q8_0),
        ("position_embd.weight", (n_embd, 512), F32),
        ("token_types.weight", (n_embd, 2), F32),
        ("token_embd_norm.weight", (n_embd,), F32),
        ("token_embd_norm.bias", (n_embd,), F32),
    ]
    for layer in range(n_layers):
        block = f"blk.{layer}."
        for part in ("q", "k", "v", "output"):
            tensors.append((f"{block}attn_{part}.weight", (n_embd, n_embd), Q8_0))
        tensors += [
            (block + "ffn_up.weight", (n_embd, n_ff), Q8_0),
            (block + "ffn_down.weight", (n_ff, n_embd), Q8_0),
        ]
        for part in ("attn_output_norm", "layer_output_norm"):
            tensors += [(f"{block}{part}.{what}", (n_embd,), F32) for what in ("weight", "bias")]
    return write(path, "bert", facts, tensors, n_vocab)


def common(n_layers: int, n_embd: int, n_ff: int, n_ctx: int) -> dict[str, Any]:
    return {
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": n_layers,
        "feed_forward_length": n_ff,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
