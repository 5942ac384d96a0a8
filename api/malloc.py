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
ARENA_MAX: Final = -8
"""A heap for each thread, as the C library makes it, is a few hundred KiB that nobody else can use; threads that wait
for the interpreter's lock do not wait for the heap's."""
KEPT: Final = 3 * 1024 * 1024
"""Bytes at the end of a heap that stay."""


_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # where the C library is another one, it has none


def give_back_what_is_free() -> None:
    """All of it, also what stands between pieces that are used (malloc_trim(3)): for when much was used, and may not be
    soon again. It takes a fraction of a millisecond; where a hundred thousand pieces lie free between others, ten."""
    if _trim is not None:
        _trim(0)


def keep_what_is_freed() -> None:
    """For all of the process, from now on; nothing, where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, KEPT)
        mallopt(ARENA_MAX, 1)
