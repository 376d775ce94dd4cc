"""How many threads, and how large a batch, for a machine and a model. The choice is a pure function.

Two rules were measured: one busy core more than there are makes decoding many times slower, since threads
wait for one another in a spin; and a second thread on the same physical core adds little to arithmetic that
already fills its units.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

N_BATCH = 512
_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor as this process may use it."""

    logical: int
    """Hardware threads that we may run on."""
    physical: int
    """Cores that they belong to."""
    quota: float | None = None
    """Cores' worth of time that a container grants; None: no limit."""

    @property
    def cores(self) -> int:
        """How many threads can really compute side by side."""
        granted = math.inf if self.quota is None else max(1, math.floor(self.quota))
        return int(min(self.physical, self.logical, granted))


@dataclass(frozen=True, slots=True)
class Choice:
    """Of the parameters whose names these are in llama.cpp."""

    n_threads: int
    n_threads_batch: int
    n_batch: int
    n_ubatch: int


def choose(
    machine: Machine,
    *,
    n_threads: int = 0,
    n_threads_batch: int = 0,
    n_batch: int = 0,
    n_ubatch: int = 0,
    n_slots: int = 1,
    on_gpu: bool = False,
) -> Choice:
    """Settle what is 0. One core is left to the window, where there is more than one.

    A model that lies wholly on a GPU needs few threads and takes larger micro-batches well; prompts use as
    many threads as single tokens do, since the window has to stay alive meanwhile too.
    """
    spare = max(1, machine.cores - 1)
    threads = n_threads or (min(spare, 4) if on_gpu else spare)
    batch = max(n_batch or (2 * N_BATCH if on_gpu else N_BATCH), n_slots)  # a token of each slot in a step
    ubatch = min(n_ubatch or N_BATCH, batch)
    return Choice(threads, n_threads_batch or threads, batch, ubatch)


def this_machine() -> Machine:
    """What this process may use: its affinity, its cgroup's quota, cores rather than hyper-threads."""
    if hasattr(os, "sched_getaffinity"):
        mine = sorted(os.sched_getaffinity(0))
    else:
        mine = list(range(os.cpu_count() or 1))
    return Machine(len(mine), _physical(mine), _quota())


def _physical(cpus: list[int]) -> int:
    """Cores among these hardware threads."""
    if sys.platform != "linux":
        try:
            import psutil

            return min(psutil.cpu_count(logical=False) or len(cpus), len(cpus))
        except ImportError:
            return len(cpus)
    cores = set()
    for cpu in cpus:
        place = _TOPOLOGY / f"cpu{cpu}" / "topology"
        try:
            package = (place / "physical_package_id").read_text().strip()
            cores.add((package, (place / "core_id").read_text().strip()))
        except OSError:
            return len(cpus)
    return len(cores)


def _quota(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The tightest CPU limit from this process's cgroup up to the root; None where there is none."""
    limits = []
    for folder in _groups(root, membership):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                limits.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            pass
        try:  # version 1
            quota = (folder / "cpu.cfs_quota_us").read_text()
            if int(quota) > 0:
                limits.append(int(quota) / int((folder / "cpu.cfs_period_us").read_text()))
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return min(limits, default=None)


def _groups(root: Path, membership: Path) -> list[Path]:
    """Folders of the cgroups that this process is in, version 2 and the `cpu` one of version 1."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return [root]
    folders = [root, root / "cpu"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        while path.strip("/"):
            folders.append(base / path.strip("/"))
            path = path.rpartition("/")[0]
    return folders
