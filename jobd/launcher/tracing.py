"""No other process of our user may look into this one. Standard library only."""

from __future__ import annotations

import ctypes
from typing import Final

PR_SET_DUMPABLE: Final = 4


def refuse_tracing() -> None:
    """Deny this process to ptrace(2), and its memory, environment and descriptors in /proc to all but root.

    It leaves no core dump then, either (PR_SET_DUMPABLE in prctl(2)). It holds until the next execve(2): each program
    says it again, as the first thing that it does.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
