"""What the machine has of what limits are about."""

from __future__ import annotations

import os
from pathlib import Path

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
