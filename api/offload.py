"""What a worker is told to put on GPUs: the app's plan, and less after a death for lack of their memory."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from engine.types import ModelInfo, Plan, WorkerConfig

logger = logging.getLogger(__name__)

Planner = Callable[[WorkerConfig], Awaitable[Plan]]

PLAN_S = 3.0
"""How long a driver has to say what memory is free; then the worker plans itself."""
N_TRIES = 2
"""Deaths that lead to fewer layers; the last one leaves them all to the CPU."""
_GPU_FULL = re.compile(
    r"out of memory|OutOf(Device)?Memory|OUT_OF_(DEVICE_)?MEMORY|ALLOC_FAILED|resource allocation failed"
    r"|failed to allocate \S+ buffer|Device memory allocation of size",
    re.IGNORECASE,
)
"""What CUDA, cuBLAS, ROCm, Vulkan, SYCL and Metal say before llama.cpp aborts."""


class Offload:
    """The plans of one model's workers, from the first on."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.reset()

    def reset(self) -> None:
        """Another model, or the same with other sizes, begins."""
        self._n_gpu_layers = -1
        self._at_most: int | None = None
        self._tries = 0

    async def planned(self, config: WorkerConfig) -> WorkerConfig:
        """The configuration for a worker that is about to start."""
        if config.n_gpu_layers >= 0:
            self._n_gpu_layers = 0  # what the user asks for isn't changed
            return config
        try:
            plan = await asyncio.wait_for(self._planner(config), PLAN_S)
        except Exception:
            logger.exception("the app has no plan for the GPUs; the worker makes one")
            plan = Plan()
        plan = plan.model_copy(update={"at_most": self._at_most})
        self._n_gpu_layers = plan.n_gpu_layers
        return config.model_copy(update={"plan": plan})

    def loaded(self, info: ModelInfo, config: WorkerConfig) -> None:
        """What the worker has done with it."""
        if config.n_gpu_layers >= 0:
            return
        if info.n_gpu_layers < self._n_gpu_layers:
            self._at_most = info.n_gpu_layers  # the next one needn't find that out again
        self._n_gpu_layers = info.n_gpu_layers

    def died(self, log_tail: str) -> str | None:
        """Where a worker died for lack of a GPU's memory: plan for less, and tell it; None: it did not."""
        n, last = self._n_gpu_layers, self._at_most
        if 0 in (n, last) or self._tries == N_TRIES or not _GPU_FULL.search(log_tail):
            return None
        n = n if last is None else min(n, last)
        self._tries += 1
        # -1: nobody knows how many it tried
        self._at_most = n // 2 if n > 0 and self._tries < N_TRIES else 0
        there = f"{n} layers" if n > 0 else "its layers"
        rest = f"{self._at_most} from now on" if self._at_most else "the CPU takes them all from now on"
        return f"the engine ended for lack of a GPU's memory, with {there} on it; {rest}"
