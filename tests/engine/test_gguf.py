"""engine.gguf: whole files are described, anything else gives one clear message."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.gguf import _TYPES, GgufHeader, read_header, read_layout


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def small_gguf(
    *, architecture: str = "llama", extra: bytes = b"", n_extra: int = 0, weights: int = 32
) -> bytes:
    """A GGUF v3 file with one F32 tensor."""
    entries = string("general.architecture") + struct.pack("<I", 8) + string(architecture) + extra
    tensor = string("token_embd.weight") + struct.pack("<IQIQ", 1, weights, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1 + n_extra) + entries + tensor
    return head + bytes(-len(head) % 32) + bytes(4 * weights)


def number(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def header_of(tmp_path: Path, data: bytes, name: str = "small.gguf") -> GgufHeader:
    path = tmp_path / name
    path.write_bytes(data)
    return read_header(path)


def test_a_whole_file_is_described(tmp_path: Path) -> None:
    extra = (
        number("llama.context_length", 512) + number("general.file_type", 7) + number("llama.block_count", 3)
    )
    header = header_of(tmp_path, small_gguf(extra=extra, n_extra=3))
    assert header.architecture == "llama"
    assert header.name == "small"
    assert (header.n_ctx_train, header.n_layers, header.n_params) == (512, 3, 32)
    assert header.quantization == "Q8_0"
    assert not header.has_chat_template


def test_the_starter(starter_model: Path) -> None:
    header = read_header(starter_model)
    assert header.architecture == "llama"
    assert header.n_ctx_train >= 1024
    assert header.size_bytes <= 12_000_000
    assert header.has_chat_template


def test_real_files_from_elsewhere(shared_models: Path) -> None:
    header = read_header(shared_models / "tinystories-656k-q8_0.gguf")
    assert (header.architecture, header.n_vocab, header.quantization) == ("llama", 2048, "Q8_0")
    assert read_header(shared_models / "tiny-rwkv7-834K-f32.gguf").architecture == "rwkv7"


@pytest.mark.parametrize(
    ("name", "says"),
    (
        ("lfs-pointer-Llama-68M-Chat-v1-Q2_K.gguf", "Git LFS pointer"),
        ("truncated-in-header-stories260K.gguf", "cut short within its header"),
        ("truncated-stories260K-f32.gguf", "cut short"),
        ("dummy.gguf", "no architecture"),
        ("dummy-00002-of-00002.gguf", "load the first one"),
    ),
)
def test_bad_files_from_elsewhere(shared_models: Path, name: str, says: str) -> None:
    with pytest.raises(TokenglassError, match=says) as caught:
        read_header(shared_models.parent / "bad_gguf" / name)
    assert caught.value.code == "model_damaged"


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for path in (fifo, empty, tmp_path, Path(os.devnull)):
        with pytest.raises(TokenglassError) as caught:
            read_header(path)
        assert caught.value.code == "model_damaged"
    with pytest.raises(TokenglassError) as caught:
        read_header(tmp_path / "missing.gguf")
    assert caught.value.code == "not_found"


def test_a_part_of_a_split_model_needs_its_sibling(tmp_path: Path) -> None:
    data = small_gguf(extra=number("split.count", 2) + number("split.no", 0), n_extra=2)
    with pytest.raises(TokenglassError, match="part 2 of 2 is missing"):
        header_of(tmp_path, data, "big-00001-of-00002.gguf")
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(data)
    assert header_of(tmp_path, data, "big-00001-of-00002.gguf").size_bytes == 2 * len(data)


def test_block_sizes_are_those_of_ggml() -> None:
    for kind, (name, block, block_bytes) in _TYPES.items():
        if kind in (9, 41, 42):  # intermediate, never in a file; newer than this package
            continue
        known = gguf.GGMLQuantizationType(kind)
        assert (known.name, *gguf.GGML_QUANT_SIZES[known]) == (name, block, block_bytes)


def test_the_layout_has_what_the_header_summarizes(starter_model: Path) -> None:
    layout, header = read_layout(starter_model), read_header(starter_model)
    assert sum(tensor.n_values for tensor in layout.tensors) == header.n_params
    assert layout.number("block_count") == header.n_layers
    assert layout.n_vocab == header.n_vocab


def test_lists_with_a_number_for_each_layer_are_kept(tmp_path: Path) -> None:
    values = [i % 5 for i in range(100)]
    listed = string("llama.attention.head_count_kv") + struct.pack("<IIQ", 9, 4, len(values))
    listed += struct.pack("<100I", *values)
    path = tmp_path / "m.gguf"
    path.write_bytes(small_gguf(extra=listed + number("llama.attention.head_count", 7), n_extra=2))
    layout = read_layout(path)
    assert layout.per_layer("attention.head_count_kv", 100) == values
    assert layout.per_layer("attention.head_count", 3) == [7, 7, 7]
    assert (layout.number("attention.head_count_kv"), layout.number("missing", 4)) == (4, 4)


def test_a_type_that_is_not_known_is_measured_by_its_place(tmp_path: Path) -> None:
    data = small_gguf(weights=64).replace(
        struct.pack("<IQIQ", 1, 64, 0, 0), struct.pack("<IQIQ", 1, 64, 99, 0)
    )
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    (tensor,) = read_layout(path).tensors
    assert (tensor.kind, tensor.size_bytes) == ("type 99", 256)


@given(
    cut=st.integers(0, 250), flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6)
)
def test_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(small_gguf(extra=number("llama.context_length", 512), n_extra=1))
    for place, value in flips:
        if place < len(data):
            data[place] = value
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(bytes(data[: len(data) - cut]))
    code = "fine"
    try:
        read_header(path)
        read_layout(path)
    except TokenglassError as error:
        code = error.code
    assert code in ("fine", "model_damaged")
