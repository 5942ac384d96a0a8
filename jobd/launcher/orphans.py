"""A process whose parent has ended gets another: with this, the launcher and not the machine's first process.

Standard library only.
"""

from __future__ import annotations

import ctypes
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> bool:
    """Be the parent of every descendant that loses its own (prctl(2)), until the end of this process, over an execve(2)
    too. Children do not inherit that. False: this kernel does not know it."""
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
