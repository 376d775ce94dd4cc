"""Whether a model fits, before it is loaded: from its shape, what is wanted of it, and the devices' memory.

Arithmetic only. The app's estimate settles how many layers go to which GPU, and its worker does that
(`layers_for`). Weights, KV cache and state are exact; compute buffers follow the widest moment of llama.cpp's
graph; what the runtime itself takes is a guess until a load was measured (`Correction`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from engine.commands import MAX_PROMPT_LOOKUP
from engine.shape import ModelShape
from engine.types import Correction, Kind, Plan, Value, WorkerConfig

MB = 1_000_000
DEFAULT_CTX = 4096
DEFAULT_UBATCH = 512
STEP = 256
"""Contexts are padded to it by llama.cpp, and searched in steps of it."""
PIPELINE_COPIES = 4
"""llama.cpp holds the inputs of so many batches where several GPUs work one after the other."""
OVERHEAD = {"cpu": 70 * MB, "gpu": 500 * MB}
"""What a worker takes before any buffer: interpreter and libraries; a GPU's context and kernels."""
BYTES_A_TOKEN = 300
"""Of the vocabulary: text, score, and the tables over them."""

_COMPUTE_BOUNDS = (0.25, 4.0)
"""Nothing that was learned makes a compute buffer smaller, or larger, than so many times."""
OVERHEAD_BOUNDS = {"cpu": (10 * MB, 1000 * MB), "gpu": (100 * MB, 2000 * MB)}
"""Nothing that was learned makes the overhead less, or more."""

Fits = Literal["yes", "tight", "no"]

_CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
_CACHE_BYTES |= {"q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}


class Device(Value):
    """A place for weights and caches. Bytes."""

    name: str
    kind: Kind
    memory_total: int
    memory_free: int
    """What a load may take now, that of the model it replaces included."""


class Use(Value):
    """Memory on one device. Bytes."""

    device: str
    kind: Kind
    memory_total: int
    memory_free: int
    layers: int
    """How many of the model's layers lie here."""
    weights: int = 0
    kv_cache: int = 0
    state: int = 0
    compute: int = 0
    overhead: int = 0
    total: int = 0


class Estimate(Value):
    """What a model takes with these sizes. Bytes; contexts in tokens per slot."""

    fits: Fits
    """`tight`: it fits, with less than the usual reserve; `no`: some device has too little."""
    n_ctx: int
    n_slots: int
    n_kv: int
    n_ubatch: int
    n_layers: int
    n_gpu_layers: int
    """Of `n_layers` + 1, as llama.cpp counts: the output is one more."""
    tensor_split: list[float]
    """Share of the offloaded layers on each GPU, where there are several."""
    weights: int
    kv_cache: int
    state: int
    compute: int
    overhead: int
    total: int
    devices: list[Use]
    max_ctx: int
    """The largest context that still fits with as many slots, at most what the model was trained for."""
    measured: bool = False
    """Stands on a load of the same model and sizes on this machine."""
    hints: list[str] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is asked of a model."""

    n_ctx: int
    n_slots: int
    n_kv: int
    n_ubatch: int = DEFAULT_UBATCH
    n_outputs: int = 0
    """Tokens of a batch whose logits may be wanted; 0: all."""
    kv_unified: bool = False
    """All slots share one cache, since there are fewer cells than they may fill."""
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"

    def at(self, n_ctx: int, n_slots: int | None = None) -> Sizes:
        """The same with another context, and the cells that it needs."""
        slots = self.n_slots if n_slots is None else n_slots
        return replace(self, n_ctx=n_ctx, n_slots=slots, n_kv=padded(n_ctx * slots))


def padded(n: int) -> int:
    """Cells that llama.cpp makes of so many tokens."""
    return -(-n // STEP) * STEP


def sizes_of(config: WorkerConfig, n_ctx_train: int, *, embedding: bool = False) -> Sizes:
    """The sizes that a configuration means for a model."""
    n_ctx = config.n_ctx or min(n_ctx_train or DEFAULT_CTX, DEFAULT_CTX)
    if embedding:  # whole inputs in one micro-batch, and nothing kept of them
        n_ctx = min(n_ctx, n_ctx_train or n_ctx)
        return Sizes(n_ctx, 1, padded(n_ctx), padded(n_ctx))
    n_ubatch = min(config.n_ubatch or DEFAULT_UBATCH, config.n_batch)
    n_kv = padded(config.n_kv or n_ctx * config.n_slots)
    n_outputs = min(n_ubatch, config.n_slots * (1 + MAX_PROMPT_LOOKUP))
    unified = 0 < config.n_kv < n_ctx * config.n_slots
    return Sizes(n_ctx, config.n_slots, n_kv, n_ubatch, n_outputs, unified)


def estimate(
    shape: ModelShape,
    sizes: Sizes,
    devices: Sequence[Device],
    *,
    n_gpu_layers: int = -1,
    tensor_split: Sequence[float] = (),
    correction: Correction | None = None,
    measured: Mapping[str, Use] | None = None,
) -> Estimate:
    """What a model takes and whether it fits; -1 layers: as many as the GPUs take with their reserve.

    The first device must be the CPU. `measured` is what the same load took before, by device.
    """
    costs = correction or Correction()
    split = list(tensor_split)

    def look(wanted: Sizes) -> tuple[int, list[float], list[Use], Fits]:
        if n_gpu_layers < 0:
            layers, shares = offload(shape, wanted, devices, costs)
        else:
            layers, shares = min(n_gpu_layers, shape.n_layers + 1), split
        uses = demand(shape, wanted, devices, layers, shares, costs)
        return layers, shares, uses, _verdict(uses)

    layers, shares, uses, fits = look(sizes)
    known = measured is not None and _same_places(uses, measured)
    if known and measured is not None:
        plain = demand(shape, sizes, devices, layers, shares)
        took = [_as_measured(use, measured.get(use.device, use)) for use in plain]
        if n_gpu_layers < 0 and any(use.kind == "gpu" and use.total > use.memory_free for use in took):
            costs = _costlier(costs, uses, took)  # so many layers don't fit, whatever was told
            layers, shares, uses, fits = look(sizes)
            known = False
        else:
            uses, fits = took, _verdict(took)
    most = max(shape.n_ctx_train or sizes.n_ctx, STEP)
    max_ctx = _largest(lambda n: look(sizes.at(n))[3] != "no", most)
    if fits != "no":
        max_ctx = max(max_ctx, sizes.n_ctx)
    fewer_slots = 0
    if fits == "no" and sizes.n_slots > 1:
        fewer_slots = next(
            (n for n in range(sizes.n_slots - 1, 0, -1) if look(sizes.at(sizes.n_ctx, n))[3] != "no"), 0
        )
    found = Estimate(
        fits=fits,
        n_ctx=sizes.n_ctx,
        n_slots=sizes.n_slots,
        n_kv=sizes.n_kv,
        n_ubatch=sizes.n_ubatch,
        n_layers=shape.n_layers,
        n_gpu_layers=layers,
        tensor_split=shares,
        weights=sum(use.weights for use in uses),
        kv_cache=sum(use.kv_cache for use in uses),
        state=sum(use.state for use in uses),
        compute=sum(use.compute for use in uses),
        overhead=sum(use.overhead for use in uses),
        total=sum(use.total for use in uses),
        devices=uses,
        max_ctx=max_ctx,
        measured=known,
    )
    fixed = n_gpu_layers > 0
    return found.model_copy(update={"hints": _hints(shape, found, fewer_slots, fixed=fixed)})


def offload(
    shape: ModelShape, sizes: Sizes, devices: Sequence[Device], correction: Correction | None = None
) -> tuple[int, list[float]]:
    """How many layers the GPUs take with their reserve, and each GPU's share where there are several.

    A model that fits on one GPU lies wholly there: passing activations on costs time.
    """
    gpus = [device for device in devices if device.kind == "gpu"]
    correction = correction or Correction()
    everything = shape.n_layers + 1
    if len(gpus) > 1:
        for chosen in sorted(range(len(gpus)), key=lambda i: -gpus[i].memory_free):
            if _pack(shape, sizes, [gpus[chosen]], everything, correction):
                return everything, [1.0 if i == chosen else 0.0 for i in range(len(gpus))]
    if gpus:
        for n in range(everything, 0, -1):
            counts = _pack(shape, sizes, gpus, n, correction)
            if counts:
                return n, [float(count) for count in counts] if len(gpus) > 1 else []
    return 0, []


def layers_for(
    shape: ModelShape, sizes: Sizes, gpus: Sequence[Device], plan: Plan
) -> tuple[int, list[float]]:
    """The layers that a worker gives to the GPUs it finds, and each one's share: what the app planned.

    Where these are other GPUs than the app knows of, the worker plans itself, with what was learned.
    """
    if plan.n_gpu_layers >= 0 and _same_gpus(plan.gpus, gpus):
        n, split = plan.n_gpu_layers, plan.tensor_split
    else:
        n, split = offload(shape, sizes, gpus, plan.correction)
    return n if plan.at_most is None else min(n, plan.at_most), split


def _same_gpus(planned: Mapping[str, int], found: Sequence[Device]) -> bool:
    """By name, order and size: a driver's two ways to tell a card's memory differ by less than a tenth."""
    return list(planned) == [gpu.name for gpu in found] and all(
        abs(planned[gpu.name] - gpu.memory_total) <= gpu.memory_total / 10 for gpu in found
    )


def bounded(correction: Correction) -> Correction:
    """The same within what can be true, whoever wrote it."""
    return Correction(
        compute={kind: _within(x, _COMPUTE_BOUNDS) for kind, x in correction.compute.items()},
        overhead={kind: int(_within(x, OVERHEAD_BOUNDS[kind])) for kind, x in correction.overhead.items()},
    )


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _pack(
    shape: ModelShape, sizes: Sizes, gpus: Sequence[Device], n: int, correction: Correction
) -> list[int] | None:
    """How many of the last `n` layers, output included, each GPU takes in order; None: they don't fit."""
    counts, used = [0] * len(gpus), [0] * len(gpus)
    copies = PIPELINE_COPIES if len(gpus) > 1 and n > shape.n_layers else 1
    gpu = 0
    for layer in range(shape.n_layers + 1 - n, shape.n_layers + 1):
        last = layer == shape.n_layers
        size = shape.output if last else _layer_bytes(shape, sizes, layer)
        while True:
            if gpu == len(gpus):
                return None
            compute = _corrected(_compute(shape, sizes, outputs=last, copies=copies), "gpu", correction)
            room = gpus[gpu].memory_free - reserve(gpus[gpu]) - _overhead("gpu", correction) - compute
            if used[gpu] + size <= room:
                break
            gpu += 1
        counts[gpu] += 1
        used[gpu] += size
    return counts


def demand(
    shape: ModelShape,
    sizes: Sizes,
    devices: Sequence[Device],
    n_gpu_layers: int,
    tensor_split: Sequence[float] = (),
    correction: Correction | None = None,
) -> list[Use]:
    """What each device holds with these layers offloaded, as llama.cpp distributes them."""
    correction = correction or Correction()
    gpus = [i for i, device in enumerate(devices) if device.kind == "gpu"]
    places = _places(shape.n_layers, n_gpu_layers, tensor_split, [devices[i].memory_free for i in gpus])
    at = [gpus[place] if place >= 0 else 0 for place in places]
    copies = PIPELINE_COPIES if len(set(at)) > 1 and 0 not in at else 1
    uses = []
    for i, device in enumerate(devices):
        layers = [layer for layer in range(shape.n_layers) if at[layer] == i]
        outputs = at[-1] == i
        weights = sum(shape.layers[layer] for layer in layers)
        cells = sum(_cache_bytes(shape, sizes, layer) for layer in layers)
        state = sum(shape.states[layer] for layer in layers) * sizes.n_slots
        compute = overhead = 0
        if i == 0:
            weights += shape.input
            overhead = _overhead("cpu", correction) + shape.n_vocab * BYTES_A_TOKEN
        if outputs:
            weights += shape.output - (shape.tied if i == 0 else 0)
        if layers or outputs:
            compute = _compute(shape, sizes, outputs=outputs, layers=bool(layers), copies=copies)
            overhead += 0 if i == 0 else _overhead("gpu", correction)
        elif i == 0:  # embeddings and masks are made here all the same
            compute = 4 * sizes.n_ubatch * shape.n_embd + _masks(shape, sizes)
        if i == 0 and shape.has_logits:
            compute += 4 * shape.n_vocab * sizes.n_slots  # where they are read
        compute = _corrected(compute, device.kind, correction)
        uses.append(
            Use(
                device=device.name,
                kind=device.kind,
                memory_total=device.memory_total,
                memory_free=device.memory_free,
                layers=len(layers),
                weights=weights,
                kv_cache=cells,
                state=state,
                compute=compute,
                overhead=overhead,
                total=weights + cells + state + compute + overhead,
            )
        )
    return uses


def reserve(device: Device) -> int:
    """What a device keeps free for what else happens on it."""
    if device.kind == "gpu":
        return max(300 * MB, device.memory_total // 25)
    return max(300 * MB, device.memory_total // 20)


def _places(n_layers: int, n_gpu_layers: int, split: Sequence[float], free: Sequence[int]) -> list[int]:
    """GPU of each layer, and of the output as the last; -1: on the CPU. As llama.cpp does it."""
    total = n_layers + 1
    count = min(max(n_gpu_layers, 0), total) if free else 0
    shares = list(split) if len(split) == len(free) and sum(split) > 0 else [float(n) for n in free]
    whole = sum(shares) or 1.0
    bounds = [sum(shares[: i + 1]) / whole for i in range(len(shares))]
    places = [-1] * (total - count)
    for i in range(count):
        places.append(next((g for g, bound in enumerate(bounds) if i / count < bound), len(free) - 1))
    return places


def _layer_bytes(shape: ModelShape, sizes: Sizes, layer: int) -> int:
    return shape.layers[layer] + _cache_bytes(shape, sizes, layer) + shape.states[layer] * sizes.n_slots


def _cache_bytes(shape: ModelShape, sizes: Sizes, layer: int) -> int:
    k, v = _CACHE_BYTES[sizes.cache_type_k], _CACHE_BYTES[sizes.cache_type_v]
    return int(sizes.n_kv * (shape.k_widths[layer] * k + shape.v_widths[layer] * v))


def _masks(shape: ModelShape, sizes: Sizes) -> int:
    """Which cells each token of a batch may see, in F16."""
    seen = sizes.n_kv if sizes.kv_unified else sizes.n_kv // sizes.n_slots
    cells = seen if any(shape.k_widths) else sizes.n_ubatch if shape.attention_width else 0
    return 2 * shape.n_masks * cells * sizes.n_ubatch


def _compute(shape: ModelShape, sizes: Sizes, *, outputs: bool, layers: bool = True, copies: int = 1) -> int:
    """The widest moment of a graph: within a layer beside the masks, or at the logits."""
    width = 4 * sizes.n_ubatch
    n_outputs = min(sizes.n_outputs or sizes.n_ubatch, sizes.n_ubatch)
    within = logits = 0
    if layers:
        # a narrow feed-forward part finds room where attention has just been
        beside = 3 if shape.feed_forward_width <= 6 * shape.n_embd else 4
        parts = (
            shape.feed_forward_width + beside * shape.n_embd,
            shape.attention_width + shape.n_embd,
            shape.state_width + 2 * shape.n_embd,
        )
        states = 2 * max(shape.states) * sizes.n_slots  # gathered and scattered
        within = copies * _masks(shape, sizes) + width * max(parts) + states
    if outputs and shape.has_logits:
        logits = 4 * n_outputs * shape.n_vocab + width * 2 * shape.n_embd
    return max(within, logits)


def _corrected(compute: int, kind: Kind, correction: Correction) -> int:
    return round(compute * correction.compute.get(kind, 1.0))


def _overhead(kind: Kind, correction: Correction) -> int:
    return correction.overhead.get(kind, OVERHEAD[kind])


def _verdict(uses: Sequence[Use]) -> Fits:
    fits: Fits = "yes"
    for use in uses:
        if use.kind == "gpu" and not use.total:
            continue
        if use.total > use.memory_free:
            return "no"
        kept = Device(name="", kind=use.kind, memory_total=use.memory_total, memory_free=use.memory_free)
        if use.total > use.memory_free - reserve(kept):
            fits = "tight"
    return fits


def _same_places(uses: Sequence[Use], measured: Mapping[str, Use]) -> bool:
    working = {use.device: use.layers for use in uses if use.total}
    return working == {name: use.layers for name, use in measured.items() if use.total}


def _costlier(costs: Correction, told: Sequence[Use], took: Sequence[Use]) -> Correction:
    """With an overhead on GPUs that makes up for what a load took beyond what was told."""
    beyond = max(b.total - a.total for a, b in zip(told, took, strict=True) if a.kind == "gpu")
    gpu = _overhead("gpu", costs) + max(0, beyond)
    return costs.model_copy(update={"overhead": costs.overhead | {"gpu": gpu}})


def _as_measured(told: Use, known: Use) -> Use:
    """What was measured, as far as it can be true: of weights and caches the estimate is nearly exact."""
    if not told.total:
        return told

    def near(name: str, least: float, most: float) -> int:
        estimated = getattr(told, name)
        return int(_within(getattr(known, name), (least * estimated, most * estimated)))

    parts = {name: near(name, 0.8, 1.25) for name in ("weights", "kv_cache", "state")}
    parts["compute"] = near("compute", *_COMPUTE_BOUNDS)
    least, most = OVERHEAD_BOUNDS[told.kind]
    vocabulary = told.overhead - OVERHEAD[told.kind]
    parts["overhead"] = int(_within(known.overhead, (least, most + vocabulary)))
    return told.model_copy(update=parts | {"total": sum(parts.values())})


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest multiple of `STEP` up to `most`, or `most` itself, that fits; 0: none."""
    if fits(most):
        return most
    low, high = 0, most // STEP + (most % STEP > 0)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * STEP):
            low = middle
        else:
            high = middle
    return low * STEP


def _hints(shape: ModelShape, found: Estimate, fewer_slots: int, *, fixed: bool) -> list[str]:
    """What to do about it, in words."""
    hints = []
    gpus = [use for use in found.devices if use.kind == "gpu"]
    if found.fits == "no":
        if 0 < found.max_ctx < found.n_ctx:
            hints.append(f"a context of {found.max_ctx} tokens fits")
        if fewer_slots:
            slots = "slot" if fewer_slots == 1 else "slots"
            hints.append(f"{fewer_slots} {slots} instead of {found.n_slots} fit")
        if fixed and any(use.total > use.memory_free for use in gpus):
            hints.append("offload fewer layers, or leave their number to the app (auto)")
        if not hints:
            hints.append("choose a smaller model, or one with fewer bits a weight")
    elif found.fits == "tight":
        hints.append("little memory would be left for other programs")
    if gpus and 0 < found.n_gpu_layers <= shape.n_layers:
        hints.append(
            f"{found.n_gpu_layers} of {shape.n_layers + 1} layers go to the GPU; the rest computes on the CPU"
        )
    elif gpus and not found.n_gpu_layers and not fixed:
        hints.append("no layer fits on the GPU; everything computes on the CPU")
    return hints
