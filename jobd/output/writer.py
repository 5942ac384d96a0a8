"""Moves what a job writes from its pipes into its log, so that no moment exists in which a byte is in neither."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep
from typing import Final

from jobd.output.budget import Budget
from jobd.output.files import Segment, starts_of, write_all
from jobd.output.place import Place, checksum, find
from jobd.output.reader import Reached
from jobd.output.record import END, ENTRY, GAP, Entry
from jobd.worker.ports import Gap, Record, Source

SEGMENT_SIZE: Final = 64 * 1024 * 1024
RUN_SIZE: Final = 1024 * 1024
"""A run that has grown to this many bytes is ended: what stands in one entry is checked, and searched, as a whole."""
RUN_TIME: Final = 5_000_000
"""Nanoseconds: pieces of one stream that come closer together share an entry, and its time."""
LONG_RUN_TIME: Final = 50_000_000
"""The same, of a run that has many bytes: what comes fast is not cut small."""
TAKE: Final = 1024 * 1024
"""The most bytes that are moved at a time, and in one record: each :meth:`LogWriter.take` has its price (turns of the
loop, a thread, a note in the index), whatever it moves."""
FAST: Final = 64 * 1024
"""So many bytes at a time, and less than there could be, say that the job is writing fast: what it writes in a short"""
PAUSE: Final = 0.001
"""time (seconds) is moved with them."""
ENOUGH: Final = TAKE // 2
"""But when so many are there, it is waited for nothing: the job may be faster than we are."""
FULL: Final = 192 * 1024
"""So many say that its pipe was full: it is made as large as what is moved at a time. (All pipes of a user share what
the system lets it have, so not each is made so large: pipe(7).)"""
ROUNDS: Final = 8
"""Times that so much is moved, as long as the job is writing fast, before the loop hears of it: the way into a thread
and back has its price, too."""
COPY: Final = 256 * 1024
"""The most bytes that are moved by copying, where nothing else can be done: a kill loses them."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the bytes in a pipe.

    Attributes:
        size: bytes that were recorded.
        record: these, if somebody wants them,
        place: and where a reader is behind them.
        gap: what is missing before them, if something is.
        dropped: bytes that were read and could not be recorded.
        error: why not.
        ended: the stream has ended.
    """

    size: int = 0
    record: Record | None = None
    place: Reached | None = None
    gap: Gap | None = None
    dropped: int = 0
    error: str = ""
    ended: bool = False


class _LostError(Exception):
    """Bytes were read from the pipe, and could not be written."""

    def __init__(self, count: int, why: str) -> None:
        super().__init__(why)
        self.count = count


class LogWriter:
    """One for each job; used by one thread at a time.

    Attributes:
        end: the offset after the last recorded byte.
        dropped: bytes that could not be recorded, those of an earlier process included as far as they were noted.
        found: both are known: not yet, when what an earlier process recorded cannot be read.
        awaited: says that somebody waits for what is not kept, and hears of nothing before :meth:`take_on` returns.
    """

    def __init__(
        self, root: Path, job_id: str, *, limit: int, budget: Budget | None = None, segment_size: int = SEGMENT_SIZE
    ) -> None:
        """
        Args:
            limit: bytes of output that are recorded; what comes after them is dropped and counted.
            budget: the same for all jobs together.
        """
        self._limit = limit
        self._budget = budget or Budget()
        self._root = root
        self._job_id = job_id
        self._segment_size = segment_size
        self._segment: Segment | None = None
        self._entries = 0  # whole entries of the segment's index
        self._run: Entry | None = None  # the entry that bytes are added to
        self._sum = 0  # the CRC of the run so far
        self._gap = 0  # dropped bytes that no entry tells of yet
        self._told: Gap | None = None  # of which an entry tells, and nobody was told yet
        self._latest = 0  # the time of the last entry
        self._resuming = False  # there is something to go on from, and that has not succeeded yet
        self._place: Place | None = None
        self._widened: set[int] = set()  # pipes that were found full
        self.end = 0
        self.dropped = 0
        self.found = True
        self.awaited: Callable[[], bool] = lambda: False

    @property
    def untouched(self) -> bool:
        """There is nothing to end: no bytes came since the last end, and none are missing."""
        return self._segment is None and not self._resuming and not self._gap

    @property
    def flowing(self) -> bool:
        """The next bytes go into files that are open."""
        segment = self._segment
        return segment is not None and self.end - segment.start < self._segment_size and not self._resuming

    # ---- going on after a crash

    def resume(self, *, power_cut: bool = False) -> Place | None:
        """Find where an earlier process was when it ended, however it ended, and go on from there.

        Until this has succeeded, :meth:`take` tries it again, and drops what it is given.

        Returns:
            What was found in the last segment; None when there is none.

        Raises:
            OSError: the files cannot be read, or (``end`` and ``dropped`` are known then) not be written.
        """
        if not self._resuming:
            self._resuming, self.found = True, False
        starts = starts_of(self._root, self._job_id)
        if not starts:
            self._resuming, self.found = False, True
            return None
        if not self.found:
            place, dropped = self._find(starts, power_cut=power_cut)
            self._place, self.found = place, True
            self.end, self.dropped, self._gap = place.end, self.dropped + dropped, self._gap + place.gap
        assert self._place is not None
        self._go_on(Segment.reopen(self._root, self._job_id, starts[-1]), self._place)
        return self._place

    def _find(self, starts: list[int], *, power_cut: bool) -> tuple[Place, int]:
        dropped = 0
        for start in starts:
            segment = Segment.read(self._root, self._job_id, start)
            try:
                if start == starts[-1]:
                    place = find(segment, power_cut=power_cut)
                    return place, dropped + place.dropped
                dropped += sum(entry.dropped for entry in segment.entries(0, segment.entry_count))
            finally:
                segment.close()
        raise AssertionError

    def _go_on(self, segment: Segment, place: Place) -> None:
        self._entries, self._run, self._sum, self._latest = place.entries, place.run, place.sum, place.time
        try:
            if segment.size > place.end - segment.start:
                os.ftruncate(segment.data, place.end - segment.start)
            self._mark(segment)
            if segment.entry_count > place.entries:
                os.ftruncate(segment.index, (place.entries + 1) * ENTRY.size)
        except OSError:
            segment.close()
            raise
        self._segment, self._resuming = segment, False

    # ---- taking

    @property
    def over_limit(self) -> bool:
        """More was written than the limit: all of that is recorded, and something is missing."""
        return self.end >= self._limit and self.dropped > 0

    def take_on(self, source: Source, pipe: int, clock: Callable[[], int], wanted: int) -> list[Taken]:
        """:meth:`take`, again and again as long as the job is writing fast, within bounds.

        Args:
            wanted: so many bytes are wanted, and it is not gone on when they are there; 0: what is taken is not kept.
        """
        begun, keep = self.end, wanted > 0
        taken = [self.take(source, pipe, clock(), keep=keep)]
        while taken[-1].size >= FAST and len(taken) < ROUNDS and self._budget.has_room(self.end - begun):
            if self.end - begun >= wanted if keep else self.awaited():
                break
            taken.append(self.take(source, pipe, clock(), keep=keep))
        return taken

    def take(self, source: Source, pipe: int, time: int, *, keep: bool = True, most: int = TAKE) -> Taken:
        """Move what is in the pipe into the log.

        A pipe with nothing in it gives nothing. When the disk does not take the bytes they are dropped and counted:
        the job never waits for it.

        Args:
            keep: what was moved is wanted.
            most: bytes that are moved. With fewer than ``FAST`` it is not waited for more.
        """
        if self.end >= self._limit:
            return self._drop(pipe, most, f"the limit of {self._limit} bytes on the output of a job is reached")
        if self._budget.full:
            why = f"the limit of {self._budget.limit} bytes on the output of all jobs is reached"
            return self._drop(pipe, most, why)
        try:
            if self._resuming:
                self.resume()
            segment = self._prepare(source, time)
            size = self._move(pipe, segment, most)
        except BlockingIOError:
            return Taken()
        except _LostError as exc:
            return self._missed(exc.count, str(exc))
        except OSError as exc:
            return self._drop(pipe, most, exc.strerror or str(exc))
        if not size:
            return Taken(ended=True)
        return self._recorded(segment, source, size, keep=keep)

    def _recorded(self, segment: Segment, source: Source, size: int, *, keep: bool) -> Taken:
        """Bytes were moved into the file: see what they are, and note their end and their sum."""
        assert self._run is not None
        record = None
        try:
            if keep:
                data = os.pread(segment.data, size, self.end - segment.start)
                record = Record(self.end, source, self._run.time, data)
                seen, sum_ = len(data), zlib.crc32(data, self._sum)
            else:
                seen, sum_ = checksum(segment, self.end, self.end + size, self._sum)
            problem = "" if seen == size else "somebody cuts the file"
        except OSError as exc:
            problem = exc.strerror or str(exc)
        if problem:
            return replace(self._missed(size, problem), gap=self.take_gap())
        self._sum = sum_
        self.end += size
        gap = self.take_gap()
        self._mark(segment)
        if size >= FAST:  # in a thread, then: a disk that has enough to do may have us wait for this, too
            segment.write_early(self.end)
        place = Reached(segment.start, self._entries - 1, sum_, self.end, self.end) if keep else None
        return Taken(size, record, place, gap)

    def _prepare(self, source: Source, time: int) -> Segment:
        """See that the last entry of the index is one for bytes of this stream."""
        time = self._latest = max(time, self._latest)  # entries are searched by time: a clock may jump back
        segment = self._segment
        if segment is None or self.end - segment.start >= self._segment_size:
            segment = self._roll(time)
        run = self._run
        fits = run is not None and run.kind == source and self._goes_on(run, time)
        if not fits or self._gap:
            self._add(segment, Entry(source, self.end, time))
        return segment

    def _goes_on(self, run: Entry, time: int) -> bool:
        size = self.end - run.offset
        return size < RUN_SIZE and time - run.time < (RUN_TIME if size < FAST else LONG_RUN_TIME)

    def _add(self, segment: Segment, entry: Entry) -> None:
        """Write an entry, with one for a gap before it if there is one. In one call: a kill leaves both or none."""
        empty = self._run if self._run is not None and self._run.offset == self.end else None
        number = self._entries - bool(empty)  # the entry of a run without bytes is written over
        sum_ = empty.sum if empty else self._sum
        fresh = [Entry(entry.kind, entry.offset, entry.time, entry.dropped, sum_)]
        if self._gap:
            fresh = [Entry(GAP, self.end, entry.time, self._gap, sum_), entry]
        write_all(segment.index, b"".join(each.pack() for each in fresh), number * ENTRY.size)
        self._entries, self._run, self._sum = number + len(fresh), fresh[-1], 0
        if self._gap:
            # One that nobody was told of yet stands at the same offset.
            self._told = Gap(self.end, self._gap + (self._told.dropped if self._told else 0))
            self._gap = 0

    def _mark(self, segment: Segment) -> None:
        """Note how far the last run goes and its sum, and what was dropped after it, where the next entry will stand.

        This is what vouches for the last bytes, should there be no next entry.
        """
        mark = Entry(END, self.end, self._latest, self._gap, self._sum)
        try:
            write_all(segment.index, mark.pack(), self._entries * ENTRY.size)
        except OSError:
            with contextlib.suppress(OSError):  # an old one must not stand there
                os.ftruncate(segment.index, self._entries * ENTRY.size)

    def take_gap(self) -> Gap | None:
        """The gap that was noted since this was asked before, if one was."""
        told, self._told = self._told, None
        return told

    def _move(self, pipe: int, segment: Segment, most: int) -> int:
        where, room = self.end - segment.start, min(most, self._limit - self.end)
        try:
            size = os.splice(pipe, segment.data, room, offset_dst=where, flags=os.SPLICE_F_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        else:
            return size + self._move_more(pipe, segment, size, room)
        # A file system (or a terminal) that cannot splice: a kill between these two calls loses one piece.
        data = os.read(pipe, min(room, COPY))
        try:
            write_all(segment.data, data, where)
        except OSError as exc:
            raise _LostError(len(data), exc.strerror or str(exc)) from exc
        return len(data)

    def _move_more(self, pipe: int, segment: Segment, moved: int, room: int) -> int:
        """What comes in a moment after so many bytes, if those were many, and are worth waiting for more."""
        if not FAST <= moved < room:
            return 0
        if moved >= FULL and pipe not in self._widened:
            self._widened.add(pipe)
            with contextlib.suppress(OSError):  # the user has its share: the pipe stays as it is
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, TAKE)
        if moved >= ENOUGH:
            return 0
        sleep(PAUSE)
        where = self.end - segment.start + moved
        try:
            return os.splice(pipe, segment.data, room - moved, offset_dst=where, flags=os.SPLICE_F_NONBLOCK)
        except OSError:
            return 0  # nothing is there, or what fails will do so again when it is asked for alone

    def _drop(self, pipe: int, most: int, why: str) -> Taken:
        try:
            count = len(os.read(pipe, most))
        except BlockingIOError:
            return Taken()
        return self._missed(count, why) if count else Taken(ended=True)

    def _missed(self, count: int, why: str) -> Taken:
        self._gap += count
        self.dropped += count
        segment = self._segment
        if segment is not None:
            with contextlib.suppress(OSError):  # what was written in vain; the next bytes are written over it
                if segment.size > self.end - segment.start:
                    os.ftruncate(segment.data, self.end - segment.start)
            self._mark(segment)
        return Taken(dropped=count, error=why)

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
            self._add(segment, Entry(END, self.end, max(time, self._latest)))
            os.fdatasync(segment.data)
            os.fdatasync(segment.index)
        finally:
            self.leave()

    def finish(self, time: int) -> None:
        """End the log.

        Raises:
            OSError: the disk failed; what was recorded may not survive a power cut.
        """
        if self._resuming:
            self.resume()
        if self._segment is None and self._gap:
            self._segment = Segment.create(self._root, self._job_id, self.end)
            self._entries = 0
        self._seal(time)

    def leave(self) -> None:
        """Let go of the files as they are."""
        if self._segment is not None:
            self._segment.close()
        self._segment = self._run = None
