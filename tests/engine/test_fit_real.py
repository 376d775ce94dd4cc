"""engine.fit against llama.cpp itself: what is told before a load is what llama.cpp then allocates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import fit
from engine.backends.llamacpp import load
from engine.fit import Device, Use
from engine.gguf import read_layout
from engine.shape import shape_of
from engine.types import ModelInfo, WorkerConfig
from tests.engine import shapes

CPU = Device(name="CPU", kind="cpu", memory_total=1 << 40, memory_free=1 << 40)
CONFIGS: tuple[dict[str, int], ...] = (
    {"n_ctx": 2048, "n_slots": 4},
    {"n_ctx": 8192, "n_slots": 1, "n_ubatch": 128},
)


def both(path: Path, config: dict[str, int]) -> tuple[Use, ModelInfo]:
    """What is estimated and what a load tells."""
    wanted = WorkerConfig(model_id="m", model_path=str(path), n_threads=1, n_gpu_layers=0, **config)
    backend = load(wanted, lambda _: True)
    try:
        info = backend.info
    finally:
        backend.close()
    shape = shape_of(read_layout(path))
    assert shape is not None
    sizes = fit.sizes_of(wanted, shape.n_ctx_train, embedding=shape.embedding)
    return fit.demand(shape, sizes, [CPU], 0)[0], info


def agree(path: Path, config: dict[str, int], tolerance: float) -> None:
    told, info = both(path, config)

    def took(*kinds: str) -> int:
        return sum(size for name, size in info.buffers.items() if name.endswith(kinds))

    # llama.cpp prints hundredths of a MiB
    assert told.weights == pytest.approx(took("_Mapped model"), rel=0.005, abs=6000)
    assert told.kv_cache == pytest.approx(took(" KV"), rel=0.001, abs=6000)
    assert told.state == pytest.approx(took(" RS"), rel=0.001, abs=6000)
    assert told.compute == pytest.approx(took(" compute", " output"), rel=tolerance, abs=50_000)


Make = Callable[[Path], Path]
MAKES: dict[str, tuple[Make, float]] = {
    "dense": (shapes.llama, 0.01),
    "large vocabulary, tied": (partial(shapes.llama, n_vocab=32_000, tied=True), 0.01),
    "wide feed-forward": (partial(shapes.llama, n_embd=1024, n_ff=8192, n_layers=2), 0.01),
    "multi-head": (partial(shapes.llama, n_embd=1024, n_ff=2048, n_head=16, n_head_kv=16, n_layers=2), 0.12),
    "experts": (partial(shapes.llama, n_experts=8, n_layers=2), 0.15),
    "sliding window": (
        partial(shapes.llama, architecture="gemma3", extra={"attention.sliding_window": 512}, n_layers=6),
        0.05,
    ),
    "recurrent": (shapes.mamba, 0.05),
    "hybrid": (shapes.lfm2, 0.12),
    "embeddings": (shapes.bert, 0.15),
    "latent attention": (partial(shapes.deepseek2, n_head=32), 0.1),
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("name", MAKES)
def test_synthetic_shapes(tmp_path: Path, name: str, config: dict[str, int]) -> None:
    make, tolerance = MAKES[name]
    agree(make(tmp_path / "m.gguf"), config, tolerance)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
def test_the_starter(starter_model: Path, config: dict[str, int]) -> None:
    agree(starter_model, config, 0.01)


@pytest.mark.parametrize(
    "name", ["stories260K-f32.gguf", "tinystories-656k-q8_0.gguf", "tiny-rwkv7-834K-f32.gguf"]
)
def test_models_from_elsewhere(shared_models: Path, name: str) -> None:
    for config in CONFIGS:
        agree(shared_models / name, config, 0.05)


def test_cells_of_the_cache_can_be_fewer(starter_model: Path) -> None:
    few: dict[str, Any] = {"n_ctx": 1024, "n_slots": 4, "n_kv": 1500}
    told, info = both(starter_model, few)
    assert info.n_kv == 1536
    assert info.buffers["CPU KV"] == told.kv_cache
