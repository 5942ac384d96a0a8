"""Reads a job's log from an offset on."""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobd.output.files import Segment, read_file, starts_of
from jobd.output.record import END, GAP, Entry
from jobd.worker.errors import OutputDamagedError
from jobd.worker.ports import Buffer, Gap, Record, Source

BATCH: Final = 1024 * 1024
"""Bytes that are read at a time, and the most in one record."""
ENOUGH: Final = BATCH // 2
"""Bytes after which what is read ends with a run, if one does: one large record, and not a small one besides."""
ENTRIES: Final = 512


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a reader has come.

    Attributes:
        segment: the start of the segment that the last byte is in.
        number: of the entry that it belongs to.
        sum: the CRC of that entry's run up to ``summed_to``.
        next: the offset after it.
    """

    segment: int = -1
    number: int = 0
    sum: int = 0
    summed_to: int = -1
    next: int = -1


class LogReader:
    """One for each follower; used by one thread at a time.

    Attributes:
        behind_gap: something is missing right before what was read last.
    """

    def __init__(self, root: Path, job_id: str) -> None:
        self._root = root
        self._job_id = job_id
        self._segment: Segment | None = None
        self.opened = 0
        self._number = 0  # these four are as in Reached
        self._sum = 0
        self._summed_to = -1
        self._next = -1
        self._skipped = Reached()
        self._counted_in = -1  # the start of the segment that ``_number`` is of
        self._missing: list[Gap] = []  # before the first byte of a segment, and not told yet
        self.behind_gap = False
        self._fresh = self._behind = False  # the place was looked for; a gap stands right before it
        self._memory_tells = True  # the file system says what is in memory

    def read(self, offset: int, end: int, size: int = BATCH, ahead: int = 0) -> list[Record | Gap]:
        """What comes next from ``offset``, which is before ``end``, the end of what is recorded now.

        Args:
            size: bytes that are wanted at most; no more than BATCH are given.
            ahead: that are read instead, if nothing is missing between them, before them and behind them.

        Raises:
            OutputDamagedError: what should be there is not, or is not what was written.
            OSError: the files cannot be read.
        """
        return self._read(self._at(offset), offset, end, size, ahead, now=False)

    def read_now(self, offset: int, end: int, size: int = BATCH, ahead: int = 0) -> list[Record | Gap] | None:
        """As :meth:`read`, when nobody has to wait for a disk: out of memory, and of files that are open. Else None."""
        segment = self._segment
        if not self._memory_tells or segment is None or not self._goes_on(segment, offset):
            return None
        try:
            return self._read(segment, offset, end, size, ahead, now=True)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            self._memory_tells = False
            return None

    @property
    def place(self) -> Reached:
        """How far it has come."""
        start = self._segment.start if self._segment else -1
        return Reached(start, self._number, self._sum, self._summed_to, self._next)

    def skip_to(self, place: Reached) -> None:
        """Another reader of the same log has read up to there, or its writer has written."""
        self._skipped, self._counted_in = place, place.segment
        self._number, self._sum, self._summed_to, self._next = place.number, place.sum, place.summed_to, place.next

    def _read(self, segment: Segment, offset: int, end: int, size: int, ahead: int, *, now: bool) -> list[Record | Gap]:
        size = min(size, BATCH, end - offset)
        ahead = min(ahead, BATCH, end - offset)
        entries = segment.entries(self._number, ENTRIES, until=offset + max(size, ahead), now=now)
        if not entries or entries[0].offset > offset:
            raise OutputDamagedError(self._job_id, offset)
        known = entries[0].kind == GAP
        missing = known or (self._fresh and (self._behind or self._missing))
        if ahead > size and not missing and all(e.kind != GAP or e.offset > offset + ahead for e in entries):
            size = ahead
        end = offset + size
        if size > ENOUGH:
            end = min(end, next((entry.offset for entry in entries if entry.offset - offset >= ENOUGH), end))
        data = memoryview(read_file(segment.data, end - offset, offset - segment.start, now=now))
        records = self._records(entries, data, offset)
        if not records or records[-1].end <= offset:
            raise OutputDamagedError(self._job_id, offset)
        fresh, self._fresh = self._fresh, False
        self.behind_gap = known or (fresh and self._behind)
        if fresh and self._missing:
            records, self._missing = [*self._missing, *records], []
        self._next = records[-1].end
        return records

    def _records(self, entries: list[Entry], data: Buffer, offset: int) -> list[Record | Gap]:
        limit = offset + len(data)
        whole = len(entries) < ENTRIES  # these are all the entries that there are
        records: list[Record | Gap] = []
        position = offset
        for number, entry in enumerate(entries):
            following = entries[number + 1] if number + 1 < len(entries) else None
            if following is None and not whole:
                break  # where this run ends stands in an entry that was not read yet
            if position >= limit and (entry.kind != GAP or entry.offset > limit):
                break
            self._number += bool(number)
            stop = min(limit, following.offset if following else limit)
            if entry.kind == GAP and (number or offset != self._next):
                records.append(Gap(entry.offset, entry.dropped))
            elif entry.kind not in (GAP, END) and stop > position:
                piece = data[position - offset : stop - offset]
                records.append(Record(position, Source(entry.kind), entry.time, piece))
                self._check(entry, following, position, piece)
                position = stop
        return records

    def _check(self, entry: Entry, following: Entry | None, position: int, piece: Buffer) -> None:
        """Hold a run that was read from its first byte to its last against the sum that the next entry has."""
        if position == entry.offset:
            self._sum = zlib.crc32(piece)
        elif position == self._summed_to:
            self._sum = zlib.crc32(piece, self._sum)
        else:
            return
        self._summed_to = position + len(piece)
        if following and self._summed_to == following.offset and self._sum != following.sum:
            raise OutputDamagedError(self._job_id, entry.offset)

    # ---- finding the place

    def _at(self, offset: int) -> Segment:
        """The segment that has the offset, with ``_number`` at the entry that does."""
        segment = self._segment
        if segment is not None and self._goes_on(segment, offset):
            return segment
        starts = [start for start in starts_of(self._root, self._job_id) if start <= offset]
        if not starts:
            raise OutputDamagedError(self._job_id, offset)
        if segment is None or segment.start != starts[-1]:
            self.close()
            self.opened += 1
            segment = self._segment = Segment.read(self._root, self._job_id, starts[-1])
        self._fresh, self._missing = True, []
        if (segment.start, offset) == (self._skipped.segment, self._skipped.next):
            self._behind = False
        elif offset == segment.start:
            self._begin(segment, starts[-2:-1])
        else:
            self._number = _search(segment, offset)
            last = segment.entries(max(self._number - 1, 0), 2)
            self._behind = last[0].kind == GAP and last[-1].offset == offset if last else False
        self._counted_in = segment.start
        return segment

    def _begin(self, segment: Segment, before: list[int]) -> None:
        """At the first byte of a segment: a gap there stands at the end of the one before, or in front."""
        told = (self._counted_in, self._number)
        self._number = _search(segment, segment.start)
        gaps = [(segment.start, number, entry) for number, entry in enumerate(segment.entries(0, self._number))]
        for start in before:
            with_end = Segment.read(self._root, self._job_id, start)
            try:
                number = _search(with_end, segment.start - 1)
                found = with_end.entries(number + 1, ENTRIES)
            finally:
                with_end.close()
            gaps[:0] = [(start, number + 1 + index, entry) for index, entry in enumerate(found)]
        gaps = [each for each in gaps if each[2].kind == GAP]
        self._behind = bool(gaps)
        if segment.start in (0, self._next):  # who begins here otherwise did not ask for what was before
            self._missing = [Gap(e.offset, e.dropped) for start, number, e in gaps if (start, number) > told]

    def _goes_on(self, segment: Segment, offset: int) -> bool:
        """The bytes come after those that were read last, out of the same segment."""
        return offset == self._next and offset < segment.start + segment.size

    # ---- finding where to begin

    def at_time(self, time: int, end: int) -> int:
        """The offset of the first run that began at this time or later; ``end`` when there is none."""
        for start in starts_of(self._root, self._job_id):
            segment = Segment.read(self._root, self._job_id, start)
            try:
                number = _first_since(segment, time)
                found = segment.entries(number, 1)
            finally:
                segment.close()
            if found and found[0].kind != END:
                return min(found[0].offset, end)
        return end

    def at_lines(self, count: int, end: int) -> int:
        """The offset of the last ``count`` lines before ``end``; a last line that has no newline counts as one."""
        if count <= 0:
            return end
        newlines, position = 0, end
        for start in reversed(starts_of(self._root, self._job_id)):
            segment = Segment.read(self._root, self._job_id, start)
            try:
                while position > start:
                    block = max(start, position - BATCH)
                    data = os.pread(segment.data, position - block, block - start)
                    if position == end:
                        data = data.removesuffix(b"\n")
                    found = data.count(b"\n")
                    if newlines + found >= count:
                        return block + _nth_last_newline(data, count - newlines) + 1
                    newlines, position = newlines + found, block
            finally:
                segment.close()
        return 0

    def close(self) -> None:
        """Let go of the files."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None


def _search(segment: Segment, offset: int) -> int:
    """The number of the last entry that begins at or before the offset (entries are sorted by it)."""
    low, high = 0, segment.entry_count
    while high - low > 1:
        middle = (low + high) // 2
        [*entry] = segment.entries(middle, 1)
        if entry and entry[0].offset <= offset:
            low = middle
        else:
            high = middle
    return low


def _first_since(segment: Segment, time: int) -> int:
    """The number of the first entry that began at this time or later (entries are sorted by it, if the clock is)."""
    low, high = 0, segment.entry_count
    while low < high:
        middle = (low + high) // 2
        [*entry] = segment.entries(middle, 1)
        if entry and entry[0].time < time:
            low = middle + 1
        else:
            high = middle
    return low


def _nth_last_newline(data: bytes, count: int) -> int:
    position = len(data)
    for _ in range(count):
        position = data.rindex(b"\n", 0, position)
    return position
