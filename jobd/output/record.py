"""The form of a record on disk: a header of 32 bytes, then the bytes.

    crc     u32   CRC-32 (zlib) of the rest of the header and the bytes
    length  u32   of the bytes
    offset  u64   of the first byte, over both streams together
    time    u64   nanoseconds since the epoch
    source  u8    1 stdout, 2 stderr
    7 bytes of zero

All little-endian. A record that is not whole, or whose sum is wrong, ends the log: what follows is a torn tail.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from jobd.worker.ports import Record, Source

HEADER: Final = struct.Struct("<IIQQB7x")
_CRC: Final = struct.Struct("<I")
_SOURCES: Final = frozenset(Source)
MAX_DATA: Final = 1024 * 1024
"""The most bytes in one record; a length beyond it is damage."""


def pack(record: Record) -> list[bytes]:
    """The record as it stands on disk, in two pieces."""
    header = HEADER.pack(0, len(record.data), record.offset, record.time, record.source)
    crc = zlib.crc32(record.data, zlib.crc32(header[_CRC.size :]))
    return [_CRC.pack(crc) + header[_CRC.size :], record.data]


def unpack_all(buffer: bytes) -> tuple[list[Record], int]:
    """Every whole, undamaged record at the front of a buffer, and the number of bytes that they take."""
    records: list[Record] = []
    position = 0
    view = memoryview(buffer)
    while len(buffer) - position >= HEADER.size:
        crc, length, offset, time, source = HEADER.unpack_from(buffer, position)
        end = position + HEADER.size + length
        if length > MAX_DATA or source not in _SOURCES or len(buffer) < end:
            break
        if zlib.crc32(view[position + _CRC.size : end]) != crc:
            break
        records.append(Record(offset, Source(source), time, bytes(view[position + HEADER.size : end])))
        position = end
    return records, position
