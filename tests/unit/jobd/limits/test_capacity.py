"""What there is here of what limits are about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobd.limits.capacity import capacity
from jobd.worker.containment import Limits


def test_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    """Memory and processors of the system, the largest pid, and the most open files that a process may have."""
    for name, number in (("kernel/pid_max", 4000), ("fs/nr_open", 5000)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{number}\n")
    found = capacity(tmp_path)
    kibibytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert found.memory == kibibytes * 1024
    assert found == Limits(memory=found.memory, cpus=os.cpu_count() or 0, processes=4000, open_files=5000)


@pytest.mark.parametrize(
    ("files", "least"),
    [
        ({"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max"}, Limits()),
        (
            {"memory.max": "65536", "cpu.max": "2500 100000", "pids.max": "7"},
            Limits(memory=65536, cpus=0.025, processes=7),
        ),
        (
            {"memory.limit_in_bytes": str(2**63 - 4096), "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
            Limits(),
        ),
        (
            {"memory.limit_in_bytes": "65536", "cpu.cfs_quota_us": "2500", "cpu.cfs_period_us": "50000"},
            Limits(memory=65536, cpus=0.05),
        ),
    ],
    ids=["v2, not limited", "v2", "v1, not limited", "v1"],
)
def test_a_container_may_have_less(tmp_path: Path, files: dict[str, str], least: Limits) -> None:
    """What limits jobd's own control group, or one above it, limits its jobs."""
    base = tmp_path / "container" / "jobd"
    base.mkdir(parents=True)
    for group in (base, base.parent):
        (group / "cgroup.procs").touch()
    for name, text in files.items():
        (base.parent / name).write_text(f"{text}\n")
    machine, found = capacity(tmp_path), capacity(tmp_path, [base])
    assert found == Limits(
        memory=least.memory or machine.memory, cpus=least.cpus or machine.cpus, processes=least.processes
    )


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    """Then anything may be asked for."""
    found = capacity(tmp_path)
    assert (found.processes, found.open_files) == (0, 0)
    assert Limits(processes=2**22, open_files=2**20).beyond(found) == []


def test_what_is_beyond_is_named() -> None:
    """As much as there is may be asked for, and what there is no number for."""
    most = Limits(memory=100, cpus=2.0)
    assert Limits(memory=100, cpus=2.0, nice=19).beyond(most) == []
    assert Limits(memory=101, cpus=2.5, nice=19).beyond(most) == [("memory", 101, 100), ("cpus", 2.5, 2.0)]
