"""Writes a checkpoint as GGUF (Q8_0): `python export.py run/last.pt starter.gguf`."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from template import TEMPLATE
from tokenizer import Tokenizer

NAMES = {
    "attn_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def write_vocabulary(w: gguf.GGUFWriter, tok: Tokenizer) -> None:
    """The pieces with their scores and kinds, as llama.cpp's "llama" (SentencePiece) tokenizer reads them."""
    sp = tok.sp
    pieces, scores, kinds = [], [], []
    for i in range(sp.get_piece_size()):
        pieces.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        if sp.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif sp.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif sp.is_byte(i):
            kind = gguf.TokenType.BYTE
        elif sp.id_to_piece(i) in ("<tool_call>", "</tool_call>", "```"):
            kind = gguf.TokenType.USER_DEFINED
        else:
            kind = gguf.TokenType.NORMAL
        kinds.append(kind)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(pieces)
    w.add_token_scores(scores)
    w.add_token_types(kinds)
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(tok.end)
    w.add_eot_token_id(tok.end)
    w.add_unk_token_id(sp.unk_id())
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(TEMPLATE)


def export(checkpoint: Path, target: Path) -> None:
    """One GGUF file from one checkpoint; the output matrix is left out, llama.cpp then uses the embedding."""
    state = torch.load(checkpoint, map_location="cpu")
    cfg, net = state["cfg"], state["net"]
    tok = Tokenizer()
    part = target.with_suffix(".part")
    w = gguf.GGUFWriter(part, "llama")
    w.add_name("Tokenglass Starter")
    w.add_basename("Tokenglass-Starter")
    w.add_description(
        "The small built-in model of Tokenglass: explains the app, small talk, tiny stories, small sums."
    )
    w.add_organization("Tokenglass")
    w.add_author("The Tokenglass project")
    w.add_license("MIT")
    w.add_languages(["en"])
    w.add_size_label(f"{sum(t.numel() for t in net.values()) / 1e6:.1f}M")
    w.add_version("1")
    w.add_context_length(cfg["context"])
    w.add_embedding_length(cfg["dim"])
    w.add_block_count(cfg["layers"])
    w.add_feed_forward_length(cfg["ff"])
    w.add_head_count(cfg["heads"])
    w.add_head_count_kv(cfg["kv_heads"])
    w.add_layer_norm_rms_eps(cfg["eps"])
    w.add_rope_dimension_count(cfg["dim"] // cfg["heads"])
    w.add_rope_freq_base(cfg["rope_base"])
    w.add_vocab_size(cfg["vocab"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_vocabulary(w, tok)
    for name, tensor in net.items():
        data = tensor.float().numpy()
        if name == "embed.weight":
            out = "token_embd.weight"
        elif name == "norm.weight":
            out = "output_norm.weight"
        else:
            _, block, part_name, _ = name.split(".")
            out = f"blk.{block}.{NAMES[part_name]}.weight"
        if data.ndim == 2:
            q = quantize(np.ascontiguousarray(data), gguf.GGMLQuantizationType.Q8_0)
            w.add_tensor(out, q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(out, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    part.replace(target)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB, step {state['step']}")


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
