"""What the machine has of what limits are about: nobody can use more of it, so whoever asks for more is mistaken."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from jobd.worker.containment import Limits

PROC: Final = Path("/proc/sys")


def capacity(proc: Path = PROC) -> Limits:
    """The most of each limit that means anything here; 0 where there is no such number, or it cannot be read.

    Memory is what is built in, without swap, which no job gets on top of its limit; processors are those that the
    kernel has, whichever of them jobd itself may run on.
    """
    return Limits(
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        cpus=float(os.cpu_count() or 0),
        processes=_number(proc / "kernel" / "pid_max"),
        open_files=_number(proc / "fs" / "nr_open"),
    )


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
