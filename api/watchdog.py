"""Notices a worker that hangs: that has work, and gives no sign for longer than its model explains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine.events import StepMetrics

LOOK_S = 1.0
PROBE_S = 5.0
"""Silence after which the worker is asked whether it is there: it may have nothing to say (all is paused)."""
HANG_S = 30.0
FIRST_STEP_S = 300.0
"""Patience before any step of the worker is known: the first ones of a large model take their time."""


class HangWatch:
    """Looks once a second while there is work. Loop thread only."""

    def __init__(
        self,
        busy: Callable[[], bool],
        probe: Callable[[], None],
        on_hang: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._busy = busy
        self._probe = probe
        """Asks the worker for a sign, which it gives between two steps."""
        self._on_hang = on_hang
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._looked_t = 0.0
        self._sign_t = 0.0
        self._probed = False
        self._n_batch = 1
        self._longest_s: float | None = None

    def new_worker(self, n_batch: int) -> None:
        """Forget what was known of the former one. `n_batch`: tokens of the largest step."""
        self._n_batch = n_batch
        self._longest_s = None
        self._sign_t = self._clock()

    def sign(self) -> None:
        """The worker has said something."""
        self._sign_t = self._clock()
        self._probed = False

    def step(self, metrics: StepMetrics) -> None:
        """Learn how long a step may take: 20 times this one, or a full batch at half its pace."""
        tokens = max(1, metrics.prefill_tokens + metrics.decode_tokens)
        longest_s = metrics.decode_ms / 1e3 * max(20.0, 2.0 * self._n_batch / tokens)
        self._longest_s = max(self._longest_s or 0.0, longest_s)

    @property
    def patience_s(self) -> float:
        return FIRST_STEP_S if self._longest_s is None else max(HANG_S, self._longest_s)

    def work(self) -> None:
        """The worker has something to do from now on."""
        if self._timer is None:
            self.sign()
            self._looked_t = self._sign_t
            self._again()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._busy():
            return
        self._again()
        now = self._clock()
        if now - self._looked_t > 5 * LOOK_S:
            self.sign()  # this process stood still itself, and its worker perhaps with it
        self._looked_t = now
        silent_s = now - self._sign_t
        if silent_s > self.patience_s:
            self.sign()
            self._on_hang(silent_s)
        elif silent_s > PROBE_S and not self._probed:
            self._probed = True
            self._probe()
