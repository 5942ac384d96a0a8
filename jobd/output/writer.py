"""Moves what a job writes from its pipes into its log, so that no moment exists in which a byte is in neither."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobd.output.files import Segment, starts_of
from jobd.output.record import END, ENTRY, GAP, Entry
from jobd.worker.ports import Gap, Record, Source

SEGMENT_SIZE: Final = 64 * 1024 * 1024
RUN_SIZE: Final = 1024 * 1024
"""A run that has grown to this many bytes is ended: what stands in one entry is checked, and searched, as a whole."""
RUN_TIME: Final = 5_000_000
"""Nanoseconds: pieces of one stream that come closer together share an entry, and its time."""
TAKE: Final = 256 * 1024
"""The most bytes that are moved at a time."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the bytes in a pipe.

    Attributes:
        record: what was recorded, if something was.
        gap: what is missing before it, if something is.
        dropped: bytes that were read and could not be recorded.
        error: why not.
        ended: the stream has ended.
    """

    record: Record | None = None
    gap: Gap | None = None
    dropped: int = 0
    error: str = ""
    ended: bool = False


class LogWriter:
    """One for each job; used by one thread at a time.

    Attributes:
        end: the offset after the last recorded byte.
        dropped: bytes that could not be recorded, those of an earlier process included as far as they were noted.
    """

    def __init__(self, root: Path, job_id: str, *, limit: int, segment_size: int = SEGMENT_SIZE) -> None:
        """
        Args:
            limit: bytes of output that are recorded; what comes after them is dropped and counted.
        """
        self._limit = limit
        self._root = root
        self._job_id = job_id
        self._segment_size = segment_size
        self._segment: Segment | None = None
        self._entries = 0  # whole entries of the segment's index
        self._run: Entry | None = None  # the entry that bytes are added to
        self._sum = 0  # the CRC of the run so far
        self._gap = 0  # dropped bytes that no entry tells of yet
        self._told: Gap | None = None  # of which an entry tells, and nobody was told yet
        self.end = 0
        self.dropped = 0

    # ---- going on after a crash

    def resume(self) -> None:
        """Find where an earlier process was when it ended, however it ended.

        Raises:
            OSError: the files cannot be read.
        """
        for start in starts_of(self._root, self._job_id):
            self.leave()
            self._segment = Segment.reopen(self._root, self._job_id, start)
            self._resume_segment(self._segment)

    def _resume_segment(self, segment: Segment) -> None:
        entries = segment.entries(0, segment.entry_count)
        self.end = segment.start + segment.size
        # An entry whose bytes never came, and one for the end, is written over.
        while entries and (entries[-1].kind == END or (entries[-1].kind != GAP and entries[-1].offset >= self.end)):
            entries.pop()
        os.ftruncate(segment.index, len(entries) * ENTRY.size)
        self._entries = len(entries)
        self.dropped += sum(entry.dropped for entry in entries)
        self._run, self._sum = None, 0
        if entries and entries[-1].kind != GAP:
            self._sum = _checksum(segment, entries[-1].offset, self.end)

    # ---- taking

    def take(self, source: Source, pipe: int, time: int) -> Taken:
        """Move what is in the pipe (not more than one piece of it) into the log.

        A pipe with nothing in it gives nothing. When the disk does not take the bytes they are dropped and counted:
        the job never waits for it.
        """
        if self.end >= self._limit:
            return self._drop(pipe, f"the limit of {self._limit} bytes on the output of a job is reached")
        try:
            segment = self._prepare(source, time)
            size = self._move(pipe, segment)
        except BlockingIOError:
            return Taken()
        except OSError as exc:
            return self._drop(pipe, exc.strerror or str(exc))
        if not size:
            return Taken(ended=True)
        data = os.pread(segment.data, size, self.end - segment.start)
        assert self._run is not None
        record = Record(self.end, source, self._run.time, data)
        self._sum = zlib.crc32(data, self._sum)
        self.end = record.end
        return Taken(record=record, gap=self.take_gap())

    def _prepare(self, source: Source, time: int) -> Segment:
        """See that the last entry of the index is one for bytes of this stream."""
        segment = self._segment
        if segment is None or self.end - segment.start >= self._segment_size:
            segment = self._roll(time)
        if self._gap:
            self._note_gap(segment, time)
        run = self._run
        fits = (
            run is not None and run.kind == source and time - run.time < RUN_TIME and self.end - run.offset < RUN_SIZE
        )
        if not fits:
            self._begin(segment, Entry(source, self.end, time, 0, self._sum))
        return segment

    def _note_gap(self, segment: Segment, time: int) -> None:
        if self._run is not None and self._run.offset == self.end:
            self._entries -= 1  # as in _begin
            self._sum = self._run.sum
        self._add(segment, Entry(GAP, self.end, time, self._gap, self._sum))
        self._told = Gap(self.end, self._gap)
        self._run, self._sum, self._gap = None, 0, 0

    def take_gap(self) -> Gap | None:
        """The gap that was noted since this was asked before, if one was."""
        told, self._told = self._told, None
        return told

    def _begin(self, segment: Segment, entry: Entry) -> None:
        if self._run is not None and self._run.offset == self.end:
            self._entries -= 1  # the last run has no bytes: its entry is written over
            entry = Entry(entry.kind, entry.offset, entry.time, 0, self._run.sum)
        self._add(segment, entry)
        self._run, self._sum = entry, 0

    def _add(self, segment: Segment, entry: Entry) -> None:
        _write_all(segment.index, entry.pack(), self._entries * ENTRY.size)
        self._entries += 1

    def _move(self, pipe: int, segment: Segment) -> int:
        where, room = self.end - segment.start, min(TAKE, self._limit - self.end)
        try:
            return os.splice(pipe, segment.data, room, offset_dst=where, flags=os.SPLICE_F_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        # A file system (or a terminal) that cannot splice: a kill between these two calls loses one piece.
        data = os.read(pipe, room)
        _write_all(segment.data, data, where)
        return len(data)

    def _drop(self, pipe: int, why: str) -> Taken:
        try:
            count = len(os.read(pipe, TAKE))
        except BlockingIOError:
            return Taken()
        self._gap += count
        self.dropped += count
        return Taken(dropped=count, error=why if count else "", ended=not count)

    # ---- segments

    def _roll(self, time: int) -> Segment:
        created = Segment.create(self._root, self._job_id, self.end)
        with contextlib.suppress(OSError):  # a disk that fails here tells again at the end
            self._seal(time)
        self._segment, self._entries, self._run, self._sum = created, 0, None, 0
        return created

    def _seal(self, time: int) -> None:
        """Write the sum of the last run, make the segment durable, and let go of it."""
        segment = self._segment
        if segment is None:
            return
        try:
            if self._gap:
                self._note_gap(segment, time)
            self._add(segment, Entry(END, self.end, time, 0, self._sum))
            os.fdatasync(segment.data)
            os.fdatasync(segment.index)
        finally:
            self.leave()

    def finish(self, time: int) -> None:
        """End the log.

        Raises:
            OSError: the disk failed; what was recorded may not survive a power cut.
        """
        if self._segment is None and self._gap:
            self._segment = Segment.create(self._root, self._job_id, self.end)
            self._entries = 0
        self._seal(time)

    def leave(self) -> None:
        """Let go of the files as they are."""
        if self._segment is not None:
            self._segment.close()
        self._segment = self._run = None


def _checksum(segment: Segment, start: int, end: int) -> int:
    sum_, position = 0, start
    while position < end:
        data = os.pread(segment.data, min(TAKE, end - position), position - segment.start)
        if not data:
            break
        sum_ = zlib.crc32(data, sum_)
        position += len(data)
    return sum_


def _write_all(fd: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written
