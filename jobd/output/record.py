"""The form of the index: one entry of 40 bytes for each run of bytes of one stream.

The bytes themselves stand in a file of their own, as the job wrote them and nothing else. An entry says where a run
begins; it ends where the next one begins. Behind the last run stands a mark, an entry of kind 4, which is written anew
after each piece until the next entry takes its place.

    check     u32  CRC-32 (zlib) of the rest of the entry
    kind      u8   1 stdout, 2 stderr, 3 gap (bytes that could not be recorded), 4 end of what is recorded
    3 bytes of zero
    offset    u64  of the run's first byte, over both streams together
    time      u64  nanoseconds since the epoch, when the run began
    dropped   u64  of a gap: how many bytes are missing here; of an end: how many, that no gap tells of yet
    sum       u32  CRC-32 of the run *before* this entry
    4 bytes of zero

All little-endian. An entry is written *before* the bytes it stands for, and those are moved from the job's pipe into
the file by one splice(2). Whenever the process is killed, a byte is thus either in the file or still in the pipe, and
the file's length says which. What a power cut leaves counts as far as an entry after it vouches for it (place.py).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from jobd.worker.ports import Buffer, Source

ENTRY: Final = struct.Struct("<IB3xQQQI4x")
_CHECK: Final = struct.Struct("<I")
GAP: Final = 3
END: Final = 4
_KINDS: Final = frozenset({*Source, GAP, END})


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the index; ``sum`` is that of the run before it."""

    kind: int
    offset: int
    time: int
    dropped: int = 0
    sum: int = 0

    def pack(self) -> bytes:
        """The entry as it stands on disk."""
        packed = ENTRY.pack(0, self.kind, self.offset, self.time, self.dropped, self.sum)[_CHECK.size :]
        return _CHECK.pack(zlib.crc32(packed)) + packed


def unpack_all(buffer: Buffer, until: int | None = None) -> list[Entry]:
    """The entries at the front of a buffer, up to the first that is not whole or whose check is wrong.

    Args:
        until: the first entry that begins after this offset is the last one that is wanted.
    """
    entries: list[Entry] = []
    for position in range(0, len(buffer) - ENTRY.size + 1, ENTRY.size):
        check, kind, offset, time, dropped, sum_ = ENTRY.unpack_from(buffer, position)
        if zlib.crc32(buffer[position + _CHECK.size : position + ENTRY.size]) != check or kind not in _KINDS:
            break
        entries.append(Entry(kind, offset, time, dropped, sum_))
        if until is not None and offset > until:
            break
    return entries
