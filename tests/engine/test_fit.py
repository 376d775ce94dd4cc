"""engine.shape and engine.fit: the header gives the sizes, and the sizes a sound answer for any devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import fit
from engine.fit import Device, Estimate, Sizes
from engine.gguf import read_layout
from engine.shape import ModelShape, shape_of
from engine.types import Correction, Plan, WorkerConfig
from tests.engine import shapes

GB = 1_000_000_000

CPU = Device(name="CPU", kind="cpu", memory_total=16 * GB, memory_free=12 * GB)


def gpu(total: float, free: float | None = None, name: str = "GPU 0") -> Device:
    return Device(
        name=name,
        kind="gpu",
        memory_total=int(total * GB),
        memory_free=int((total - 0.4 if free is None else free) * GB),
    )


MACHINES = {
    "CPU only": [CPU],
    "one 8 GB": [CPU, gpu(8)],
    "one 24 GB": [CPU, gpu(24)],
    "2 x 12 GB": [CPU, gpu(12), gpu(12, name="GPU 1")],
    "tiny": [Device(name="CPU", kind="cpu", memory_total=2 * GB, memory_free=GB), gpu(1)],
}


def dense(billions: float, n_layers: int = 32, bytes_a_weight: float = 0.56, **more: object) -> ModelShape:
    """A model such as Llama 3 8B in Q4_K: GQA with 8 of 32 heads, a vocabulary of 128,000."""
    n_embd, n_vocab = 4096, 128_000
    outer = int(n_embd * n_vocab * bytes_a_weight)
    layer = int((billions * 1e9 * bytes_a_weight - 2 * outer) / n_layers)
    values: dict[str, object] = {
        "architecture": "llama",
        "n_ctx_train": 131_072,
        "n_vocab": n_vocab,
        "n_embd": n_embd,
        "layers": (layer,) * n_layers,
        "experts": 0,
        "input": outer,
        "output": outer,
        "tied": 0,
        "k_widths": (1024,) * n_layers,
        "v_widths": (1024,) * n_layers,
        "states": (0,) * n_layers,
        "attention_width": 10_240,
        "feed_forward_width": 3 * 14_336,
        "state_width": 0,
        "n_masks": 1,
    }
    return ModelShape(**(values | more))  # type: ignore[arg-type]


def asked(n_ctx: int = 4096, n_slots: int = 4) -> Sizes:
    return Sizes(n_ctx, n_slots, fit.padded(n_ctx * n_slots))


def shape_from(path: Path) -> ModelShape:
    shape = shape_of(read_layout(path))
    assert shape is not None
    return shape


# ---- what the header tells


def test_weights_are_the_files_tensors(starter_model: Path) -> None:
    shape = shape_from(starter_model)
    layout = read_layout(starter_model)
    assert shape.weights == sum(tensor.size_bytes for tensor in layout.tensors)
    assert shape.weights < starter_model.stat().st_size


def test_grouped_query_attention_keeps_fewer_keys(tmp_path: Path) -> None:
    shape = shape_from(shapes.llama(tmp_path / "m.gguf", n_embd=512, n_head=8, n_head_kv=2))
    assert shape.k_widths == shape.v_widths == (128,) * 4
    assert fit.demand(shape, asked(1024, 1), [CPU], 0)[0].kv_cache == 1024 * 4 * 2 * 128 * 2


def test_tied_embeddings_count_once_on_the_cpu_and_twice_beside_a_gpu(tmp_path: Path) -> None:
    shape = shape_from(shapes.llama(tmp_path / "m.gguf", tied=True))
    on_cpu = fit.demand(shape, asked(), [CPU], 0)
    split = fit.demand(shape, asked(), [CPU, gpu(8)], 99)
    assert sum(use.weights for use in split) - on_cpu[0].weights == shape.output - 512 * 4  # without the norm
    assert split[0].weights == shape.input


def test_latent_attention_keeps_one_short_vector(tmp_path: Path) -> None:
    shape = shape_from(shapes.deepseek2(tmp_path / "m.gguf"))
    assert shape.k_widths == (576,) * 3
    assert shape.v_widths == (0,) * 3


def test_experts_count_as_weights_and_work_a_few_at_a_time(tmp_path: Path) -> None:
    shape = shape_from(shapes.llama(tmp_path / "m.gguf", n_experts=8))
    assert shape.experts_used == 2
    assert shape.experts == 4 * 3 * 8 * (512 * 1408 * 34 // 32)
    assert shape.experts < shape.weights
    assert shape.feed_forward_width < 8 * 3 * 1408


def test_recurrent_models_have_a_state_for_each_slot_and_no_cache(tmp_path: Path) -> None:
    shape = shape_from(shapes.mamba(tmp_path / "m.gguf"))
    assert not any(shape.k_widths)
    assert shape.states == (4 * (3 * 1024 + 16 * 1024),) * 4
    few, many = (fit.demand(shape, asked(4096, n), [CPU], 0)[0] for n in (1, 8))
    assert (few.kv_cache, many.kv_cache) == (0, 0)
    assert many.state == 8 * few.state
    assert fit.demand(shape, asked(100_000, 1), [CPU], 0)[0].total == few.total


def test_hybrids_have_a_cache_only_where_they_attend(tmp_path: Path) -> None:
    shape = shape_from(shapes.lfm2(tmp_path / "m.gguf"))
    assert [bool(width) for width in shape.k_widths] == [False, False, True, False, True, False]
    assert [bool(state) for state in shape.states] == [True, True, False, True, False, True]


def test_windowed_layers_keep_the_whole_context(tmp_path: Path) -> None:
    plain = shape_from(shapes.llama(tmp_path / "a.gguf"))
    path = shapes.llama(tmp_path / "b.gguf", architecture="gemma3", extra={"attention.sliding_window": 512})
    windowed = shape_from(path)
    assert windowed.k_widths == plain.k_widths
    assert windowed.n_masks == 2


def test_embedding_models_have_neither_cache_nor_logits(tmp_path: Path) -> None:
    shape = shape_from(shapes.bert(tmp_path / "m.gguf"))
    use = fit.demand(shape, asked(512, 4), [CPU], 0)[0]
    assert (use.kv_cache, use.state, shape.has_logits, shape.tied) == (0, 0, False, 0)
    assert shape.weights == sum(t.size_bytes for t in read_layout(tmp_path / "m.gguf").tensors)


def test_parts_of_a_split_model_count_together(tmp_path: Path) -> None:
    whole = shape_from(shapes.llama(tmp_path / "whole.gguf", n_layers=4))
    tensors: shapes.Tensors = [("output_norm.weight", (512,), shapes.F32)]
    tensors += [("output.weight", (512, 4000), shapes.Q8_0)]
    for layer in (2, 3):
        tensors += shapes.attention(layer, 512, 512, 256) + shapes.feed_forward(layer, 512, 1408)
    second = {"split.no": 1, "split.count": 2, "split.tensors.count": 39}
    shapes.write(tmp_path / "big-00002-of-00002.gguf", "llama", second, tensors, 0)
    first: shapes.Tensors = [("token_embd.weight", (512, 4000), shapes.Q8_0)]
    for layer in (0, 1):
        first += shapes.attention(layer, 512, 512, 256) + shapes.feed_forward(layer, 512, 1408)
    facts = shapes.common(4, 512, 1408, 32768) | {"attention.head_count": 8, "attention.head_count_kv": 4}
    facts |= {"split.no": 0, "split.count": 2, "split.tensors.count": 39}
    path = shapes.write(tmp_path / "big-00001-of-00002.gguf", "llama", facts, first, 4000)
    assert shape_from(path).layers == whole.layers
    assert shape_from(path).weights == whole.weights


def test_a_header_that_tells_too_little_is_not_judged(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "m.gguf", "llama", {}, [("token_embd.weight", (32, 32), shapes.Q8_0)])
    assert shape_of(read_layout(path)) is None


# ---- where it fits


def look(shape: ModelShape, machine: str, sizes: Sizes | None = None, **more: object) -> Estimate:
    return fit.estimate(shape, sizes or asked(), MACHINES[machine], **more)  # type: ignore[arg-type]


def test_an_8b_model_on_five_machines() -> None:
    shape = dense(8)
    found = {machine: look(shape, machine) for machine in MACHINES}
    assert {machine: (e.fits, e.n_gpu_layers) for machine, e in found.items()} == {
        "CPU only": ("yes", 0),
        "one 8 GB": ("yes", 33),
        "one 24 GB": ("yes", 33),
        "2 x 12 GB": ("yes", 33),
        "tiny": ("no", 0),
    }
    assert found["2 x 12 GB"].tensor_split == [1.0, 0.0]  # wholly on one: nothing to pass on
    assert found["tiny"].max_ctx == 0
    smaller, on_cpu = found["tiny"].hints
    assert "choose a smaller model" in smaller
    assert "no layer fits on the GPU" in on_cpu
    larger = look(shape, "one 8 GB", asked(8192, 4))
    assert larger.fits == "yes"
    assert 20 < larger.n_gpu_layers < 33
    assert larger.hints == [f"{larger.n_gpu_layers} of 33 layers go to the GPU; the rest computes on the CPU"]


def test_a_model_for_two_gpus_is_spread_over_both() -> None:
    found = look(dense(24, n_layers=40), "2 x 12 GB")
    assert found.fits == "yes"
    assert found.n_gpu_layers == 41
    assert sum(found.tensor_split) == 41
    assert min(found.tensor_split) > 10
    one, two = found.devices[1:]
    assert one.layers == found.tensor_split[0]
    assert one.layers + two.layers == 40
    assert max(one.total, two.total) < 11 * GB


def test_a_context_that_fits_is_found_and_really_fits() -> None:
    shape = dense(8)
    found = look(shape, "CPU only", asked(131_072, 4))
    assert found.fits == "no"
    assert 0 < found.max_ctx < 131_072
    assert look(shape, "CPU only", asked(found.max_ctx, 4)).fits == "tight"
    assert look(shape, "CPU only", asked(found.max_ctx + 256, 4)).fits == "no"
    assert found.hints[0] == f"a context of {found.max_ctx} tokens fits"


def test_fewer_slots_are_offered() -> None:
    found = look(dense(8), "CPU only", asked(20_000, 8))
    assert found.fits == "no"
    assert any("slots instead of 8 fit" in hint or "slot instead of 8 fit" in hint for hint in found.hints)


def test_a_fixed_number_of_layers_is_not_changed() -> None:
    found = look(dense(24, n_layers=40), "one 8 GB", n_gpu_layers=41)
    assert (found.fits, found.n_gpu_layers) == ("no", 41)
    assert any("fewer layers" in hint for hint in found.hints)
    assert look(dense(8), "one 24 GB", n_gpu_layers=0).devices[1].total == 0


def test_correction_and_measurement_change_the_answer() -> None:
    shape, devices = dense(8), MACHINES["CPU only"]
    plain = fit.estimate(shape, asked(), devices)
    more = fit.estimate(
        shape, asked(), devices, correction=Correction(compute={"cpu": 2.0}, overhead={"cpu": GB})
    )
    assert more.compute == pytest.approx(2 * plain.compute, abs=10)
    assert more.overhead > GB
    assert not more.measured
    more_compute = {"compute": 2 * plain.compute, "overhead": 3 * plain.overhead}
    known = plain.devices[0].model_copy(update=more_compute)
    measured = fit.estimate(shape, asked(), devices, measured={"CPU": known})
    assert measured.measured
    assert measured.total == plain.total + plain.compute + 2 * plain.overhead
    assert measured.total == measured.devices[0].total
    full = [devices[0].model_copy(update={"memory_free": plain.total + 1})]
    assert fit.estimate(shape, asked(), full).fits != "no"
    assert fit.estimate(shape, asked(), full, measured={"CPU": known}).fits == "no"
    elsewhere = known.model_copy(update={"layers": 3})
    assert not fit.estimate(shape, asked(), devices, measured={"CPU": elsewhere}).measured


def test_nothing_learned_goes_beyond_its_bounds() -> None:
    shape, devices = dense(8), MACHINES["one 24 GB"]
    plain = fit.estimate(shape, asked(), devices)
    for wild in (0, 10**14):
        wrong = {"weights": wild, "kv_cache": wild, "state": wild, "compute": wild, "overhead": wild}
        known = {use.device: use.model_copy(update=wrong) for use in plain.devices}
        found = fit.estimate(shape, asked(), devices, measured=known)
        assert found.measured
        assert 0.8 * plain.weights <= found.weights <= 1.25 * plain.weights
        assert 0.24 * plain.compute <= found.compute <= 4 * plain.compute
        assert 110e6 <= found.overhead <= 3.1e9
        assert found.total == sum(use.total for use in found.devices)
    bounded = fit.bounded(
        Correction(compute={"cpu": 1e300, "gpu": -3.0}, overhead={"cpu": -5, "gpu": 10**30})
    )
    assert bounded.compute == {"cpu": 4.0, "gpu": 0.25}
    assert bounded.overhead == {"cpu": 10_000_000, "gpu": 2_000_000_000}
    sane = Correction(compute={"cpu": 1.5}, overhead={"gpu": 400_000_000})
    assert fit.bounded(sane) == sane


def test_layers_that_were_seen_not_to_fit_are_not_planned_again() -> None:
    shape, card = dense(8), gpu(8)
    plain = fit.estimate(shape, asked(), [CPU, card])
    (use,) = plain.devices[1:]
    assert (plain.n_gpu_layers, plain.fits) == (33, "yes")
    took = use.model_copy(update={"overhead": use.overhead + card.memory_free - use.total + 1000})
    known = {plain.devices[0].device: plain.devices[0], card.name: took}
    found = fit.estimate(shape, asked(), [CPU, card], measured=known)
    assert 0 < found.n_gpu_layers < 33
    assert found.fits == "yes"
    assert not found.measured
    assert found.devices[1].total <= card.memory_free - fit.reserve(card)
    # what is asked for is told as it is
    assert fit.estimate(shape, asked(), [CPU, card], n_gpu_layers=33, measured=known).fits == "no"
    # nor is it changed where it fits after all
    roomy = fit.estimate(shape, asked(), [CPU, gpu(24)], measured=known)
    assert (roomy.n_gpu_layers, roomy.measured, roomy.fits) == (33, True, "yes")


def test_a_worker_follows_the_plan_where_it_finds_the_same_gpus() -> None:
    shape, sizes = dense(70, n_layers=80), asked()
    cards = [gpu(12), gpu(24, name="GPU 1")]
    plan = Plan(
        gpus={"GPU 0": 12 * GB, "GPU 1": 24 * GB},
        n_gpu_layers=30,
        tensor_split=[10.0, 20.0],
        correction=Correction(overhead={"gpu": 2 * GB}),
    )
    fuller = [card.model_copy(update={"memory_free": GB}) for card in cards]  # by its own context
    nearly = [cards[0].model_copy(update={"memory_total": int(11.5 * GB)}), cards[1]]
    for same in (cards, fuller, nearly):
        assert fit.layers_for(shape, sizes, same, plan) == (30, [10.0, 20.0])
    own = fit.offload(shape, sizes, cards, plan.correction)
    assert own[0] != 30
    renamed = [cards[0].model_copy(update={"name": "Vulkan0"}), cards[1]]
    for other in ([cards[1], cards[0]], cards[:1], [*cards, gpu(8, name="GPU 2")], renamed):
        assert fit.layers_for(shape, sizes, other, plan) == fit.offload(shape, sizes, other, plan.correction)
    left_open = plan.model_copy(update={"n_gpu_layers": -1})
    assert fit.layers_for(shape, sizes, cards, left_open) == own
    assert own != fit.offload(shape, sizes, cards)  # what was learned counts
    for most, n in ((0, 0), (7, 7), (99, 30)):
        capped = plan.model_copy(update={"at_most": most})
        assert fit.layers_for(shape, sizes, cards, capped) == (n, [10.0, 20.0])


@given(
    billions=st.floats(0.5, 80),
    n_layers=st.integers(1, 80),
    memory=st.lists(st.floats(0.5, 80), max_size=4),
    n_ctx=st.integers(1, 200_000),
    n_slots=st.integers(1, 16),
    factor=st.floats(0.001, 1000),
    overhead=st.integers(-GB, 100 * GB),
)
def test_the_plan_keeps_its_promises(
    billions: float,
    n_layers: int,
    memory: list[float],
    n_ctx: int,
    n_slots: int,
    factor: float,
    overhead: int,
) -> None:
    shape = dense(max(billions, 2), n_layers)
    devices = [CPU, *(gpu(total, name=f"GPU {i}") for i, total in enumerate(memory))]
    learned = Correction(compute={"gpu": factor, "cpu": factor}, overhead={"gpu": overhead})
    learned = fit.bounded(learned)
    found = fit.estimate(shape, asked(n_ctx, n_slots), devices, correction=learned)
    assert sum(use.layers for use in found.devices) == n_layers
    assert found.total == sum(use.total for use in found.devices)
    # nothing is lost between the devices
    assert found.weights == shape.weights
    assert found.kv_cache == fit.demand(shape, asked(n_ctx, n_slots), [CPU], 0)[0].kv_cache
    # what was put on a GPU without being told leaves that GPU its reserve
    for use, device in zip(found.devices[1:], devices[1:], strict=True):
        if use.total:
            assert use.total <= use.memory_free - fit.reserve(device)
    # one layer more, or a context more, would not do
    if 0 < found.max_ctx < shape.n_ctx_train and found.max_ctx >= fit.STEP:
        larger = fit.estimate(shape, asked(found.max_ctx, n_slots), devices, correction=learned)
        assert larger.fits != "no"
    assert found.fits in ("yes", "tight", "no")
    # and the worker does the same
    plan = Plan(
        gpus={card.name: card.memory_total for card in devices[1:]},
        n_gpu_layers=found.n_gpu_layers,
        tensor_split=found.tensor_split,
    )
    split = fit.layers_for(shape, asked(n_ctx, n_slots), devices[1:], plan)
    uses = fit.demand(shape, asked(n_ctx, n_slots), devices, *split, learned)
    assert uses == found.devices


@given(
    n_layers=st.integers(1, 60),
    n=st.integers(0, 70),
    split=st.lists(st.integers(0, 40), min_size=3, max_size=3),
)
def test_layers_go_where_the_split_says(n_layers: int, n: int, split: list[int]) -> None:
    shape = dense(8, n_layers)
    gpus = [gpu(24, name=f"GPU {i}") for i in range(3)]
    uses = fit.demand(shape, asked(), [CPU, *gpus], n, split)
    offloaded = min(n, n_layers + 1)
    assert uses[0].layers == n_layers + 1 - offloaded if offloaded else n_layers
    if sum(split) == offloaded > 0:
        on_gpus = [use.layers for use in uses[1:]]
        last = max(i for i in range(3) if split[i])
        assert on_gpus == [count - (i == last) for i, count in enumerate(split)]


def test_sizes_follow_the_configuration() -> None:
    config = WorkerConfig(model_id="m", model_path="m.gguf", n_slots=3)
    assert fit.sizes_of(config, 2048) == Sizes(2048, 3, 6144, n_outputs=51)
    assert fit.sizes_of(config, 0).n_ctx == fit.sizes_of(config, 100_000).n_ctx == 4096
    given_kv = config.model_copy(update={"n_kv": 3000, "n_ubatch": 64})
    assert fit.sizes_of(given_kv, 2048) == Sizes(2048, 3, 3072, 64, n_outputs=51, kv_unified=True)
    many = config.model_copy(update={"n_slots": 8, "n_ubatch": 64})
    assert fit.sizes_of(many, 2048).n_outputs == 64
