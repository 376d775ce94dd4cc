"""Reads what the header of a GGUF file says, without llama.cpp and without reading the weights.

Format: the GGUF specification in the ggml repository (docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import math
import re
import stat
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from engine.errors import TokenglassError

MAX_ENTRIES = 1 << 20
MAX_STRING = 64 << 20
KEEP_ARRAY = 1024
"""Longer arrays (vocabularies) are skipped; only their length is known. One number a layer is kept."""

T = TypeVar("T")

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9

# ggml type id: name, weights in a block, bytes of a block (ggml.h, ggml-common.h)
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}  # fmt: skip

# general.file_type (llama.h, enum llama_ftype)
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a model file says of itself. Counts are 0 and texts empty where it says nothing."""

    architecture: str
    name: str
    n_params: int
    n_vocab: int
    n_ctx_train: int
    n_layers: int
    quantization: str
    chat_template: str | None
    size_bytes: int
    """Of the whole model, all parts of a split one together."""

    @property
    def has_chat_template(self) -> bool:
        return self.chat_template is not None


class Tensor(NamedTuple):
    """One tensor as the header lists it."""

    name: str
    shape: tuple[int, ...]
    """The first dimension is the one that lies together."""
    kind: str
    """ggml's name of its type, `type N` where this file knows none."""
    size_bytes: int

    @property
    def n_values(self) -> int:
        return math.prod(list(self.shape))


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """All that a model's header says of its shape, the parts of a split one together."""

    architecture: str
    facts: Mapping[str, Any]
    """The architecture's own keys without its name: `attention.head_count` and so on."""
    tensors: tuple[Tensor, ...]
    n_vocab: int

    def number(self, key: str, default: int = 0) -> int:
        """One number; of a list with one for each layer the largest."""
        value = self.facts.get(key)
        if isinstance(value, list):
            return max((_number(entry) for entry in value), default=default)
        return _number(value, default)

    def per_layer(self, key: str, n_layers: int, default: int = 0) -> list[int]:
        """One number for each layer, whether the header gives one for all or a list."""
        value = self.facts.get(key)
        if isinstance(value, list):
            return [_number(value[i]) if i < len(value) else default for i in range(n_layers)]
        return [_number(value, default)] * n_layers


class _DamagedError(Exception):
    pass


@lru_cache(maxsize=1)
def header_of_model(path: Path) -> GgufHeader:
    """As `read_header`, for a process that has one model and asks more than once."""
    return read_header(path)


def read_header(path: Path) -> GgufHeader:
    """Read and check a model's header; a few milliseconds, up to some 100 with a large vocabulary.

    Raises TokenglassError `not_found` where there is no such file, `model_damaged` where it isn't a
    whole GGUF model, `storage` where it can't be read.
    """
    return _read(path, lambda reader: reader.header())


def read_layout(path: Path) -> GgufLayout:
    """Read the shape of a model, of all parts of a split one. Raises as `read_header` does."""
    layout, parts = _read(path, lambda reader: reader.layout())
    tensors = list(layout.tensors)
    for part in parts[1:]:
        tensors.extend(_read(part, lambda reader: reader.layout())[0].tensors)
    return GgufLayout(layout.architecture, layout.facts, tuple(tensors), layout.n_vocab)


def _read(path: Path, look: Callable[[_Reader], T]) -> T:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _DamagedError("not a regular file")
        with path.open("rb") as file:
            return look(_Reader(file, status.st_size, path))
    except FileNotFoundError:
        raise TokenglassError("not_found", f"there is no file {path}") from None
    except _DamagedError as error:
        raise TokenglassError(
            "model_damaged",
            f"{path.name} can't be loaded: {error}",
            hint="download it again, a Git LFS pointer with `git lfs pull`, or choose another file",
        ) from None
    except OSError as error:
        raise TokenglassError("storage", f"{path.name} can't be read: {error.strerror or error}") from None


class _Reader:
    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._size = size
        self._path = path

    def header(self) -> GgufHeader:
        facts, tensors = self._parse()
        weights: Counter[str] = Counter()
        for tensor in tensors:
            weights[tensor.kind] += tensor.n_values
        return self._summary(facts, weights.total(), weights.most_common(1)[0][0] if weights else "")

    def layout(self) -> tuple[GgufLayout, list[Path]]:
        """The shape as this file alone tells it, and all files of the model."""
        facts, tensors = self._parse()
        architecture = _text(facts.get("general.architecture"))
        number, count = _number(facts.get("split.no")), _number(facts.get("split.count"))
        tokens = facts.get("tokenizer.ggml.tokens")
        prefix = f"{architecture}."
        layout = GgufLayout(
            architecture,
            {key.removeprefix(prefix): value for key, value in facts.items() if key.startswith(prefix)},
            tuple(tensors),
            len(tokens) if isinstance(tokens, range | list) else 0,
        )
        if number == 0 and not architecture:
            raise _DamagedError("its header names no architecture")
        return layout, self._parts(0, count) if count > 1 and number == 0 else [self._path]

    def _parse(self) -> tuple[dict[str, Any], list[Tensor]]:
        if self._size < 24:
            raise _DamagedError("the file is empty or much too short")
        magic = self._file.read(4)
        if magic != b"GGUF":
            if magic == b"vers":
                raise _DamagedError("it is a Git LFS pointer, not the model itself")
            raise _DamagedError("this is not a GGUF file")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise _DamagedError(f"GGUF version {version} is not supported")
        n_tensors, n_entries = self._scalar("<Q"), self._scalar("<Q")
        if n_tensors > MAX_ENTRIES or n_entries > MAX_ENTRIES:
            raise _DamagedError("its header is damaged")
        facts: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._string()
            facts[key] = self._value(self._scalar("<I"))
        return facts, self._tensors(n_tensors, _number(facts.get("general.alignment")) or 32)

    def _summary(self, facts: dict[str, Any], n_params: int, quantization: str) -> GgufHeader:
        size, parts = self._size, _number(facts.get("split.count"))
        if parts > 1:
            size = sum(part.stat().st_size for part in self._parts(_number(facts.get("split.no")), parts))
        architecture = _text(facts.get("general.architecture"))
        if not architecture:
            raise _DamagedError("its header names no architecture")
        if parts <= 1 and not n_params:
            raise _DamagedError("it holds no weights")
        template = facts.get("tokenizer.chat_template")
        tokens = facts.get("tokenizer.ggml.tokens")
        return GgufHeader(
            architecture=architecture,
            name=_text(facts.get("general.name")) or self._path.stem,
            n_params=n_params,
            n_vocab=len(tokens) if isinstance(tokens, range | list) else 0,
            n_ctx_train=_number(facts.get(f"{architecture}.context_length")),
            n_layers=_number(facts.get(f"{architecture}.block_count")),
            quantization=_FILE_TYPES.get(_number(facts.get("general.file_type"), -1)) or quantization,
            chat_template=template if isinstance(template, str) else None,
            size_bytes=size,
        )

    def _parts(self, number: int, parts: int) -> list[Path]:
        """All parts must lie beside the first, as llama.cpp wants them named."""
        match = re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.gguf", self._path.name)
        if match is None:
            raise _DamagedError(f"it is part {number + 1} of {parts}, but is not named so")
        if number != 0:
            first = f"{match[1]}-00001-of-{parts:05d}.gguf"
            raise _DamagedError(f"it is part {number + 1} of {parts}; load the first one, {first}")
        files = []
        for part in range(1, parts + 1):
            sibling = self._path.with_name(f"{match[1]}-{part:05d}-of-{parts:05d}.gguf")
            if not sibling.is_file():
                raise _DamagedError(f"part {part} of {parts} is missing ({sibling.name})")
            files.append(sibling)
        return files

    def _tensors(self, n_tensors: int, alignment: int) -> list[Tensor]:
        """All tensors; checks that the file holds them wholly."""
        tensors: list[Tensor] = []
        offsets: list[int] = []
        end = 0
        for _ in range(n_tensors):
            tensor_name = self._string()
            n_dims = self._scalar("<I")
            if n_dims > 8:
                raise _DamagedError("its header is damaged")
            shape = tuple(self._scalar("<Q") for _ in range(n_dims))
            kind, offset = self._scalar("<I"), self._scalar("<Q")
            name, block, block_bytes = _TYPES.get(kind, (f"type {kind}", 1, 0))
            size = -(-math.prod(shape) // block) * block_bytes
            tensors.append(Tensor(tensor_name, shape, name, size))
            offsets.append(offset)
            end = max(end, offset + size)
        start = -(-self._file.tell() // alignment) * alignment if alignment < 1 << 20 else 0
        if start + end > self._size:
            missing = (start + end - self._size) / 1e6
            raise _DamagedError(f"the file is cut short ({missing:.1f} MB are missing)")
        for i, tensor in enumerate(tensors):
            if not tensor.size_bytes and tensor.n_values:  # a type that isn't known here
                following = min((o for o in offsets if o > offsets[i]), default=self._size - start)
                tensors[i] = tensor._replace(size_bytes=max(0, following - offsets[i]))
        return tensors

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, length = self._scalar("<I"), self._scalar("<Q")
            if length > self._size:
                raise _DamagedError("its header is damaged")
            if element in _SCALARS:
                form = _SCALARS[element]
                if length > KEEP_ARRAY:
                    self._skip(length * struct.calcsize(form))
                    return range(length)
                return [self._scalar(form) for _ in range(length)]
            if element == _STRING:
                for _ in range(length):
                    self._skip(self._scalar("<Q"))
                return range(length)
            raise _DamagedError("its header is damaged")
        if kind not in _SCALARS:
            raise _DamagedError("its header is damaged")
        return self._scalar(_SCALARS[kind])

    def _scalar(self, form: str) -> Any:
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def _string(self) -> str:
        length = self._scalar("<Q")
        if length > MAX_STRING:
            raise _DamagedError("its header is damaged")
        return self._read(length).decode("utf-8", "replace")

    def _read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise _DamagedError("the file is cut short within its header")
        return data

    def _skip(self, length: int) -> None:
        if length > self._size:
            raise _DamagedError("its header is damaged")
        self._file.seek(length, 1)


def _number(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
