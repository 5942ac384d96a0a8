"""Memory that was freed is used again, for the programs that move much of it (not for those who use the library).

glibc gives the end of its heap back to the system once that is twice the largest piece, and what it fetches again comes
as pages that are cleared one by one, each with a fault (mallopt(3)): for a stream of megabytes that costs more than to
read them, and where the memory is a hypervisor's, more than to encrypt them.
"""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
KEPT: Final = 3 * 1024 * 1024
"""Bytes at the end of a heap that stay."""


def keep_what_is_freed() -> None:
    """For all of the process, from now on; nothing, where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, KEPT)
