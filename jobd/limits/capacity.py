"""What there is here of what limits are about: nobody can use more of it, so whoever asks for more is mistaken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from jobd.worker.containment import Limits

PROC: Final = Path("/proc/sys")


def capacity(proc: Path = PROC, groups: Sequence[Path] = ()) -> Limits:
    """The most of each limit that means anything here; 0 where there is no such number, or it cannot be read.

    Memory is what is built in, without swap, which no job gets on top of its limit; processors are those that the
    kernel has, whichever of them jobd itself may run on. A container, or a unit of systemd, may have less of each.

    Args:
        groups: the control groups, one of each hierarchy, below which jobs are.
    """
    memory = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    cpus = [float(os.cpu_count() or 0)]
    processes = [_number(proc / "kernel" / "pid_max")]
    for group in (each for base in groups for each in _and_those_above(base)):
        memory += [_number(group / "memory.max"), _number(group / "memory.limit_in_bytes")]
        cpus += [_share(group / "cpu.max"), _share(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")]
        processes.append(_number(group / "pids.max"))
    return Limits(
        memory=int(_least(memory)),
        cpus=_least(cpus),
        processes=int(_least(processes)),
        open_files=_number(proc / "fs" / "nr_open"),
    )


def _and_those_above(group: Path) -> Iterator[Path]:
    """As far as they can be seen."""
    while (group / "cgroup.procs").exists():
        yield group
        group = group.parent


def _share(*files: Path) -> float:
    """Of processors' time: what it is, and out of how much; 0 where it is all of it ("max", or -1)."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, " ".join(file.read_text() for file in files).split())
        return max(0.0, quota / period)
    return 0.0


def _least(numbers: Sequence[float]) -> float:
    return min(filter(None, numbers), default=0)


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
