"""Finds how far a log goes when its writer has ended, however it ended. Nothing here changes a file.

What stands on disk is believed as far as something vouches for it. After a kill the files are as the writer left them:
bytes after the last mark belong to the last run, since a new run begins with its entry. After a power cut any part of
either file may be missing; then only a run counts whose end and sum stand in the entry after it, and the log is cut
there.
"""

from __future__ import annotations

import os
import threading
import zlib
from dataclasses import dataclass
from typing import Final

from jobd.output.files import Segment
from jobd.output.record import END, ENTRY, GAP, Entry

PIECE: Final = 256 * 1024


class _Scratch(threading.local):
    """Where a thread reads what it only sums up. (New memory would cost more than the sum.)"""

    def __init__(self) -> None:
        self.piece = memoryview(bytearray(PIECE))


_scratch: Final = _Scratch()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a writer goes on in a segment.

    Attributes:
        entries: how many entries of the index stay (the mark at its end is not one of them).
        end: the offset after the last byte that stays.
        time: of the last entry.
        run: the entry that the last bytes belong to, and ``sum`` theirs.
        gap: bytes that are missing at the end, and of which no entry tells yet.
        dropped: bytes that are missing, those of ``gap`` included.
        cut: bytes that were recorded and do not stay; they are in ``gap`` too.
        torn: the index ended in something that is no entry.
    """

    entries: int
    end: int
    time: int
    run: Entry | None
    sum: int
    gap: int
    dropped: int
    cut: int
    torn: bool


def find(segment: Segment, *, power_cut: bool) -> Place:
    """How far the segment goes.

    Raises:
        OSError: it cannot be read.
    """
    size = os.fstat(segment.index).st_size
    entries = segment.entries(0, segment.entry_count)
    whole = len(entries) * ENTRY.size
    end = segment.start + segment.size
    seen = max(end, entries[-1].offset if entries else 0)
    # More than half an entry after the last whole one, or bytes that are missing: no kill does that.
    if power_cut or size > whole + ENTRY.size or seen > end or (not entries and end > segment.start):
        end = _vouched(segment, entries, end)
    mark = last = entries.pop() if entries and entries[-1].kind == END else None
    while entries and entries[-1].kind != GAP and entries[-1].offset >= end:
        last = entries.pop()  # its bytes never came
    run = entries[-1] if entries and entries[-1].kind != GAP else None
    gap = seen - end + (mark.dropped if mark else 0)
    return Place(
        entries=len(entries),
        end=end,
        time=max((entry.time for entry in (*entries[-1:], mark) if entry), default=0),
        run=run,
        sum=_sum(segment, run, last, end) if run else 0,
        gap=gap,
        dropped=gap + sum(entry.dropped for entry in entries),
        cut=seen - end,
        torn=size > whole,
    )


def _vouched(segment: Segment, entries: list[Entry], data_end: int) -> int:
    """The end of the last run whose sum is right; entries after it are taken off the list."""
    while entries:
        last, before = entries[-1], entries[-2].offset if len(entries) > 1 else segment.start
        if last.offset <= data_end and checksum(segment, before, last.offset)[1] == last.sum:
            return last.offset
        entries.pop()
    return segment.start


def _sum(segment: Segment, run: Entry, following: Entry | None, end: int) -> int:
    """The sum of the last run. What was noted of it is not asked of the disk again: damage has to show later."""
    if following is None or following.offset > end:
        return checksum(segment, run.offset, end)[1]
    return checksum(segment, following.offset, end, following.sum)[1]


def checksum(segment: Segment, start: int, end: int, sum_: int = 0) -> tuple[int, int]:
    """How many of these recorded bytes there are, and their CRC-32, going on from ``sum_``."""
    piece, position = _scratch.piece, start
    while position < end:
        size = os.preadv(segment.data, [piece[: end - position]], position - segment.start)
        if not size:
            break
        sum_ = zlib.crc32(piece[:size], sum_)
        position += size
    return position - start, sum_
