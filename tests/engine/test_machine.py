"""engine.machine: threads and batches for any machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import machine
from engine.machine import Choice, Machine, choose


@pytest.mark.parametrize(
    ("fake", "threads"),
    [
        (Machine(1, 1), 1),
        (Machine(2, 2), 1),
        (Machine(2, 1), 1),  # one core with two hardware threads
        (Machine(4, 4), 3),
        (Machine(8, 8), 7),
        (Machine(16, 8), 7),  # cores rather than hyper-threads
        (Machine(8, 8, quota=2.5), 1),  # a container's share
        (Machine(8, 8, quota=0.5), 1),
        (Machine(64, 32, quota=16.0), 15),
        (Machine(3, 8), 3 - 1),  # affinity to three threads of a large machine
    ],
)
def test_a_core_is_left_to_the_window(fake: Machine, threads: int) -> None:
    assert choose(fake) == Choice(threads, threads, 512, 512)


def test_what_is_given_stays() -> None:
    assert choose(Machine(2, 2), n_threads=5, n_batch=128, n_ubatch=64) == Choice(5, 5, 128, 64)
    assert choose(Machine(8, 8), n_threads_batch=8) == Choice(7, 8, 512, 512)


def test_a_step_takes_a_token_of_every_slot() -> None:
    assert choose(Machine(2, 2), n_batch=8, n_ubatch=4, n_slots=16) == Choice(1, 1, 16, 4)


def test_a_gpu_needs_few_threads_and_takes_larger_batches() -> None:
    assert choose(Machine(32, 16), on_gpu=True) == Choice(4, 4, 1024, 512)


@given(
    logical=st.integers(1, 256),
    physical=st.integers(1, 256),
    quota=st.none() | st.floats(0.01, 300),
    n_batch=st.integers(0, 4096),
    n_ubatch=st.integers(0, 4096),
    n_slots=st.integers(1, 64),
)
def test_any_machine_gets_sound_numbers(
    logical: int, physical: int, quota: float | None, n_batch: int, n_ubatch: int, n_slots: int
) -> None:
    fake = Machine(logical, physical, quota)
    choice = choose(fake, n_batch=n_batch, n_ubatch=n_ubatch, n_slots=n_slots)
    assert 1 <= choice.n_threads <= max(1, min(logical, physical) - 1)
    if quota is not None:
        assert choice.n_threads <= max(1, quota)
    assert n_slots <= choice.n_batch
    assert 1 <= choice.n_ubatch <= choice.n_batch


def test_this_machine_is_read() -> None:
    here = machine.this_machine()
    assert 1 <= here.physical <= here.logical
    if hasattr(os, "sched_getaffinity"):
        assert here.logical == len(os.sched_getaffinity(0))


def test_the_tightest_quota_above_us_holds(tmp_path: Path) -> None:
    inner = tmp_path / "app" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "app" / "cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("max 100000\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/app/inner\n")
    assert machine._quota(tmp_path, membership) == 1.5
    (inner / "cpu.max").write_text("50000 100000\n")
    assert machine._quota(tmp_path, membership) == 0.5
    membership.write_text("0::/\n")
    assert machine._quota(tmp_path, membership) is None
    assert machine._quota(tmp_path, tmp_path / "missing") is None


def test_the_older_cgroups_are_understood(tmp_path: Path) -> None:
    group = tmp_path / "cpu" / "docker"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/docker\n3:cpu,cpuacct:/docker\n")
    assert machine._quota(tmp_path, membership) == 3.0
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine._quota(tmp_path, membership) is None
