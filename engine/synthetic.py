"""Models of any shape with random weights, for measuring speed: what they say means nothing.

A llama of the wanted size, a vocabulary that can spell any text, and weights drawn in the wanted
quantization itself, scaled so that all that is computed stays finite and the text doesn't end early.
Needs numpy, which is imported when a file is written.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import string
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from engine import ggufwrite
from engine.errors import TokenglassError
from engine.ggufwrite import TENSOR_TYPES, Tensor, Value

if TYPE_CHECKING:
    import numpy as np

QUANTIZATIONS = tuple(TENSOR_TYPES)
RECIPE = 1
"""Raised when the same shape gets another content; part of the file's name."""

N_CTX = 32_768
N_SPECIAL = 3 + 256  # unknown, begin, end; then every byte
EOS = 2
MIN_VOCAB, MAX_VOCAB = 400, 1_000_000
USUAL_VOCAB, SMALL_VOCAB = 32_000, 4096
SMALL_MODEL = 10_000_000
"""Below it the usual vocabulary would be most of the model."""
MIN_PARAMS, MAX_PARAMS = 500_000, 10**12
DISK_RESERVE = 256 << 20

_ALPHABET = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation
_SPACE = "▁"
_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}  # general.file_type (llama.h, enum llama_ftype)
_CHUNK = 1 << 22  # weights drawn at once


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a llama; names as in `--synthetic dim=512,layers=8,…`."""

    dim: int
    layers: int
    heads: int
    ff: int
    vocab: int
    kv_heads: int

    @property
    def n_params(self) -> int:
        """Weights in all; input and output share the embedding."""
        d, kv = self.dim, self.dim // self.heads * self.kv_heads
        return self.vocab * d + self.layers * (2 * d * d + 2 * d * kv + 3 * d * self.ff + 2 * d) + d


def parse(text: str, vocab: int | None = None) -> Shape:
    """Read `15M`, `1.5B`, or `dim=512,layers=8,heads=8,ff=1536,vocab=32000,kv_heads=8`.

    Of the dimensions only dim and layers are needed. Raises TokenglassError `invalid_argument`.
    """
    if "=" in text:
        shape = _from_dimensions(text, vocab)
    else:
        size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMbB])", text.strip())
        if size is None:
            raise _wrong(f"{text[:60]!r} is no size of a model")
        n_params = round(float(size[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[size[2].lower()])
        if not MIN_PARAMS <= n_params <= MAX_PARAMS:
            raise _wrong(f"a synthetic model has {_words(MIN_PARAMS)} to {_words(MAX_PARAMS)} weights")
        shape = fitting(n_params, vocab or (SMALL_VOCAB if n_params < SMALL_MODEL else USUAL_VOCAB))
    _check(shape)
    return shape


def fitting(n_params: int, vocab: int) -> Shape:
    """The shape of about that many weights whose proportions are nearest to those of real models.

    Raises TokenglassError `invalid_argument` where the vocabulary alone is more than that.
    """
    head = 32 if n_params < SMALL_MODEL else 64
    step = head if n_params < 10 * SMALL_MODEL else 2 * head if n_params < 100 * SMALL_MODEL else 4 * head
    aspect = min(128.0, max(16.0, 32 * (n_params / 1e7) ** 0.28))  # dim over layers grows with the size
    best: tuple[float, Shape] | None = None
    for dim in range(step, 32_768 + 1, step):
        if vocab * dim > n_params:
            break
        ff = max(32, round(dim * 8 / 3 / 32) * 32)
        heads = dim // head
        kv_heads = heads // 4 if n_params >= 80 * SMALL_MODEL and heads % 4 == 0 else heads
        one = Shape(dim, 1, heads, ff, vocab, kv_heads)
        layer = one.n_params - vocab * dim - dim
        shape = Shape(dim, max(1, round((n_params - vocab * dim) / layer)), heads, ff, vocab, kv_heads)
        off = 20 * abs(math.log(shape.n_params / n_params)) + abs(math.log(dim / shape.layers / aspect))
        if best is None or off < best[0]:
            best = off, shape
    if best is None or abs(math.log(best[1].n_params / n_params)) > 0.2:
        raise _wrong(f"no model of {_words(n_params)} weights has a vocabulary of {vocab}", "give --vocab")
    return best[1]


def _from_dimensions(text: str, vocab: int | None) -> Shape:
    known = {field.name for field in fields(Shape)}
    values: dict[str, int] = {} if vocab is None else {"vocab": vocab}
    for part in text.split(","):
        key, _, number = part.partition("=")
        if key.strip() not in known or not number.strip().isascii() or not number.strip().isdecimal():
            raise _wrong(f"{part[:60]!r} is no dimension of a model")
        values[key.strip()] = int(number)
    if not values.get("dim") or not values.get("layers"):
        raise _wrong("dim and layers are needed")
    dim = values["dim"]
    heads = values.setdefault("heads", max(1, dim // 64))
    return Shape(
        dim=dim,
        layers=values["layers"],
        heads=heads,
        ff=values.get("ff", max(32, round(dim * 8 / 3 / 32) * 32)),
        vocab=values.get("vocab", USUAL_VOCAB),
        kv_heads=values.get("kv_heads", heads),
    )


def _check(shape: Shape) -> None:
    """Raise where llama.cpp could not take it."""
    if not MIN_VOCAB <= shape.vocab <= MAX_VOCAB:
        raise _wrong(f"a vocabulary has {MIN_VOCAB} to {MAX_VOCAB:,} tokens")
    if not (1 <= shape.layers <= 512 and 1 <= shape.heads <= 512 and 1 <= shape.kv_heads <= shape.heads):
        raise _wrong("layers and heads are 1 to 512, kv_heads at most heads")
    if shape.dim % 32 or shape.ff % 32 or not (32 <= shape.dim <= 65_536 and 32 <= shape.ff <= 1 << 20):
        raise _wrong("dim and ff are multiples of 32")
    if shape.dim % shape.heads or shape.dim // shape.heads % 2 or shape.heads % shape.kv_heads:
        raise _wrong("heads must divide dim into even parts, and kv_heads must divide heads")
    if shape.dim // shape.heads * shape.kv_heads % 32:
        raise _wrong("a head's length times kv_heads is a multiple of 32")
    if shape.n_params > MAX_PARAMS:
        raise _wrong(f"a synthetic model has at most {_words(MAX_PARAMS)} weights")


def provide(
    folder: Path,
    text: str,
    quantization: str = "Q8_0",
    vocab: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Path:
    """The file of such a model in `folder`, written if it isn't there yet.

    Raises TokenglassError `invalid_argument` for a nonsensical shape, `storage` where the disk is too full.
    """
    shape = parse(text, vocab)
    if quantization not in QUANTIZATIONS:
        raise _wrong(f"{quantization[:40]!r} is none of {', '.join(QUANTIZATIONS)}")
    digest = hashlib.sha256(repr((RECIPE, shape)).encode()).hexdigest()[:8]
    name = f"synthetic-{_words(shape.n_params)}-{quantization}-v{shape.vocab}-{digest}"
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    tensors = list(_tensors(shape, quantization))
    needed = sum(tensor.size_bytes for tensor in tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed + DISK_RESERVE:
            raise TokenglassError(
                "storage",
                f"the model would take {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left",
                hint="choose a smaller one, or another disk with --home",
            )
        ggufwrite.write(path, _metadata(shape, quantization, name), tensors, progress)
    except OSError as error:
        reason = error.strerror or error
        raise TokenglassError("storage", f"the synthetic model can't be written: {reason}") from None
    return path


def _metadata(shape: Shape, quantization: str, name: str) -> dict[str, Value]:
    head = shape.dim // shape.heads
    tokens = vocabulary(shape.vocab)
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": _FILE_TYPES[quantization],
        "llama.context_length": N_CTX,
        "llama.embedding_length": shape.dim,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.ff,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head,
        "llama.vocab_size": shape.vocab,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * N_SPECIAL + [-float(i) for i in range(len(tokens) - N_SPECIAL)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - N_SPECIAL),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": _TEMPLATE,
    }


def vocabulary(n: int) -> list[str]:
    """`n` tokens for a SentencePiece tokenizer: bytes, characters, then ever longer joins of former ones.

    Every piece is two former ones joined, so the tokenizer's merging finds it. Always the same list.
    """
    random = Random(n)
    pieces = dict.fromkeys([_SPACE, *_ALPHABET])
    starts = [_SPACE + letter for letter in string.ascii_lowercase]
    pieces.update(dict.fromkeys(starts))
    grown = [*starts, *string.ascii_lowercase]
    wanted = n - N_SPECIAL
    while len(pieces) < wanted:
        piece = random.choice(grown) + random.choice(string.ascii_lowercase)
        if piece not in pieces and len(piece) <= 6:  # real ones have some four characters
            pieces[piece] = None
            grown.append(piece)
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *list(pieces)[:wanted]]


def _tensors(shape: Shape, quantization: str) -> Iterator[Tensor]:
    """Everything a llama has. The larger what the layers add, the less the text repeats its last token."""
    d, kv, ff = shape.dim, shape.dim // shape.heads * shape.kv_heads, shape.ff

    def matrix(name: str, n_in: int, n_out: int, scale: float) -> Tensor:
        return Tensor(
            name, (n_in, n_out), quantization, partial(_draw, name, n_in * n_out, quantization, scale)
        )

    def ones(name: str) -> Tensor:
        return Tensor(name, (d,), "F32", partial(_ones, d))

    yield matrix("token_embd.weight", d, shape.vocab, 0.05)
    yield ones("output_norm.weight")
    for i in range(shape.layers):
        yield ones(f"blk.{i}.attn_norm.weight")
        yield matrix(f"blk.{i}.attn_q.weight", d, d, d**-0.5)
        yield matrix(f"blk.{i}.attn_k.weight", d, kv, d**-0.5)
        yield matrix(f"blk.{i}.attn_v.weight", d, kv, d**-0.5)
        yield matrix(f"blk.{i}.attn_output.weight", d, d, d**-0.5)
        yield ones(f"blk.{i}.ffn_norm.weight")
        yield matrix(f"blk.{i}.ffn_gate.weight", d, ff, d**-0.5)
        yield matrix(f"blk.{i}.ffn_up.weight", d, ff, d**-0.5)
        yield matrix(f"blk.{i}.ffn_down.weight", ff, d, ff**-0.5)


def _ones(n: int) -> Iterator[bytes]:
    import numpy as np

    yield np.ones(n, dtype="<f4").tobytes()


def _draw(name: str, n: int, quantization: str, scale: float) -> Iterator[bytes]:
    """Random weights of standard deviation `scale`, in pieces; the same for the same name.

    Quantized ones are drawn as the whole numbers that a block holds, evenly spread, with one scale for all
    blocks: no slower to compute with than weights that were quantized from a normal distribution.
    """
    import numpy as np

    random = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        if quantization == "Q8_0":
            yield _q8_0(random, count // 32, scale)
        elif quantization == "Q4_0":
            yield _q4_0(random, count // 32, scale)
        else:
            values = random.standard_normal(count, dtype=np.float32) * np.float32(scale)
            yield values.astype("<f2" if quantization == "F16" else "<f4").tobytes()


def _q8_0(random: np.random.Generator, n_blocks: int, scale: float) -> bytes:
    """Blocks of a half-precision factor and 32 numbers from -127 to 127."""
    import numpy as np

    blocks = np.empty(n_blocks, dtype=np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    blocks["d"] = scale / (127 / 3**0.5)
    blocks["q"] = random.integers(-127, 127, (n_blocks, 32), dtype=np.int8, endpoint=True)
    return blocks.tobytes()


def _q4_0(random: np.random.Generator, n_blocks: int, scale: float) -> bytes:
    """Blocks of a half-precision factor and 32 numbers from 0 to 15, which count from -8 on.

    The factor's sign alternates at random, so that the numbers' uneven ends leave no bias.
    """
    import numpy as np

    blocks = np.empty(n_blocks, dtype=np.dtype([("d", "<f2"), ("q", "u1", 16)]))
    factor = scale / (16 / 12**0.5)
    blocks["d"] = np.where(random.integers(0, 2, n_blocks, dtype=np.uint8) == 1, factor, -factor)
    blocks["q"] = random.integers(0, 256, (n_blocks, 16), dtype=np.uint8)
    return blocks.tobytes()


def _words(n: int) -> str:
    """A count as people write it: 15M, 1.1B."""
    for unit, letter in ((1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1000, "K")):
        if n >= unit:
            value = n / unit
            return f"{value:.1f}".removesuffix(".0") + letter if value < 10 else f"{value:.0f}{letter}"
    return str(n)


def describe(shape: Shape) -> str:
    """One line about it, for people."""
    dims = ", ".join(f"{key} {value}" for key, value in asdict(shape).items())
    return f"{_words(shape.n_params)} random weights ({dims})"


def _wrong(message: str, hint: str = "") -> TokenglassError:
    return TokenglassError(
        "invalid_argument",
        f"--synthetic: {message}",
        hint=hint or "give a size as 15M or 1B, or dimensions as dim=512,layers=8",
    )
