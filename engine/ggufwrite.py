"""Writes GGUF files, tensor by tensor, without llama.cpp: what the synthetic models need of the format.

Format: the GGUF specification in the ggml repository (docs/gguf.md), version 3.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Scalar = str | bool | int | float
Value = Scalar | list[str] | list[int] | list[float]

ALIGNMENT = 32

# type: its id in the file (ggml.h), weights in a block, bytes of a block
TENSOR_TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34)}

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file to be; `shape` as ggml counts, the row's length first."""

    name: str
    shape: tuple[int, ...]
    type: str
    """A key of `TENSOR_TYPES`."""
    data: Callable[[], Iterable[bytes]]
    """Called once, when its turn comes; together `size_bytes`."""

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        _, block, block_bytes = TENSOR_TYPES[self.type]
        return self.n_weights // block * block_bytes


def write(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write a whole file under another name and then put it in place, so that no half one is ever found.

    `progress` is told bytes of weights written and to be written. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(_header(metadata, tensors))
            _pad(file)
            _write_weights(file, tensors, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _write_weights(file: BinaryIO, tensors: Sequence[Tensor], progress: Callable[[int, int], None]) -> None:
    total, done = sum(tensor.size_bytes for tensor in tensors), 0
    for tensor in tensors:
        end = done + tensor.size_bytes
        for piece in tensor.data():
            file.write(piece)
            done += len(piece)
            progress(done, total)
        assert done == end, f"{tensor.name} has another size than its shape"
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def _header(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts.append(_string(key))
        parts += _value(value)
    offset = 0
    for tensor in tensors:
        n_dims = len(tensor.shape)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{n_dims}Q", n_dims, *tensor.shape))
        parts.append(struct.pack("<IQ", TENSOR_TYPES[tensor.type][0], offset))
        offset += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
    return b"".join(parts)


def _value(value: Value) -> Iterator[bytes]:
    if isinstance(value, list):
        kind = _INT32 if isinstance(value[0], int) else _kind(value[0])  # token types are signed
        yield struct.pack("<IIQ", _ARRAY, kind, len(value))
        for item in value:
            yield _scalar(kind, item)
    else:
        kind = _kind(value)
        yield struct.pack("<I", kind)
        yield _scalar(kind, value)


def _kind(value: Scalar) -> int:
    if isinstance(value, str):
        return _STRING
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, float):
        return _FLOAT32
    return _UINT32


def _scalar(kind: int, value: Scalar) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
