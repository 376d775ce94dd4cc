"""The machine that is measured on: what it is, whether others keep it busy, and CPU time of a process."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

BUSY_PERCENT = 8.0
STEAL_PERCENT = 2.0


class Machine:
    """Looks at the start, and at the end says what the run was disturbed by."""

    def __init__(self) -> None:
        self.load_average = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
        self.busy_percent: float = psutil.cpu_percent(0.5)
        self._times = psutil.cpu_times()

    def about(self) -> dict[str, Any]:
        return {
            "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
            "cpu": cpu_name(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_average_before": self.load_average,
            "busy_percent_before": self.busy_percent,
            "steal_percent": self._steal(),
        }

    def _steal(self) -> float | None:
        """Share of the time since the start in which the host ran others on our cores."""
        now = psutil.cpu_times()
        if not hasattr(now, "steal"):
            return None
        passed = sum(now[:8]) - sum(self._times[:8])  # guest times are part of user times
        return round(100 * (now.steal - self._times.steal) / passed, 2) if passed > 0 else 0.0

    def warnings(self) -> list[str]:
        """What makes the figures doubtful."""
        out = []
        if self.busy_percent > BUSY_PERCENT:
            out.append(f"the machine was {self.busy_percent:.0f} % busy before: the figures are doubtful")
        if (steal := self._steal()) is not None and steal > STEAL_PERCENT:
            out.append(f"the host took {steal:.1f} % of the cores' time: the figures are doubtful")
        return out


def cpu_name() -> str:
    """As the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process's threads that live, finer than the clock tick of 10 ms where it can be had."""
    try:
        nanoseconds = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
        if nanoseconds:
            return nanoseconds / 1e9
    except (OSError, ValueError, IndexError):
        pass
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
