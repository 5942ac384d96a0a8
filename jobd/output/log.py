"""The log of one job's output: one writer; any number of followers (``jobd.output.follower``), whenever they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import structlog
import trio

from jobd.output.blocks import KEPT, Attempt, Blocks
from jobd.output.broadcast import Broadcast
from jobd.output.budget import Budget
from jobd.output.disk import SMALL, Disk
from jobd.output.files import delete
from jobd.output.follower import LogFollower
from jobd.output.reader import LogReader
from jobd.output.writer import ENOUGH, TAKE, LogWriter, Taken
from jobd.worker.errors import JobNotFoundError, OffsetBeyondEndError, OutputUnavailableError
from jobd.worker.job import Job
from jobd.worker.ports import Source, Start
from jobd.worker.reader import in_pipe

log = structlog.get_logger(__name__)


NO_LIMIT: Final = 2**63
NEAR: Final = KEPT * TAKE
"""Bytes before the end: who has come so far is likely to want what is recorded next while it is in memory."""
AHEAD: Final = 4 * TAKE
"""Bytes that a thread records for those that are near, before they hear of it."""


class Log:
    """The output of one job, as :class:`jobd.worker.ports.OutputLog`.

    Attributes:
        end: the offset after the last recorded byte.
        dropped: bytes that could not be recorded.
        told_here: bytes that are missing at the end, as those who listen know.
        complete: nothing more will come.
        reached: the offset after the last byte that any follower was given.
        over_limit: set when more was written than is recorded of one job.
    """

    def __init__(
        self,
        root: Path,
        job_id: str,
        *,
        limit: int = NO_LIMIT,
        budget: Budget | None = None,
        blocks: Blocks | None = None,
        disk: Disk | None = None,
        attempt: Attempt | None = None,
        end: int = 0,
        dropped: int = 0,
        complete: bool = False,
        on_complete: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._root = root
        self.job_id = job_id
        self._budget = budget or Budget()
        self._writer = LogWriter(root, job_id, limit=limit, budget=self._budget)
        self._writer.awaited = self._awaited
        self._write_lock = trio.Lock()
        self._on_complete = on_complete
        self._clock = clock
        self.broadcast = Broadcast()
        self.blocks = blocks or Blocks()
        self.attempt = attempt or Attempt()
        self.end = end
        self.dropped = dropped
        self.told_here = 0
        self.complete = complete
        self.reached = 0
        self.over_limit = trio.Event()
        self._failing = False  # what is taken is being dropped
        self._disk = disk or Disk()

    async def resume(self, *, power_cut: bool = False) -> None:
        """Go on with what an earlier process recorded of the job. On a disk that does not allow that now, it is tried
        again with each piece of output, and what cannot be recorded meanwhile is dropped.

        Args:
            power_cut: the machine, and not only a process, may have ended: believe only what is vouched for.
        """
        async with self._write_lock:
            try:
                place = await trio.to_thread.run_sync(partial(self._writer.resume, power_cut=power_cut))
            except OSError as exc:
                log.error("recorded output cannot be gone on with now", job=self.job_id, error=exc.strerror)
            else:
                if place is not None and (place.torn or place.cut):
                    log.warning(
                        "a torn log was cut at its last whole record",
                        job=self.job_id,
                        offset=place.end,
                        bytes_cut=place.cut,
                    )
            self._advance()

    def _advance(self) -> None:
        """The writer is further than before."""
        self._budget.add(self._writer.end - self.end)
        self.told_here = self.told_here if self.end == self._writer.end else 0
        self.end, self.dropped = self._writer.end, self._writer.dropped
        if self._writer.over_limit:
            self.over_limit.set()

    async def take(self, source: Source, pipe: int) -> bool:
        """Record what is in a pipe now. False: the stream has ended.

        When the disk does not take it, it is dropped and counted: the job never waits for the disk to have room.
        """
        at_once = self.take_at_once(source, pipe, in_pipe(pipe))
        if at_once is not None:
            await trio.lowlevel.checkpoint()
            return at_once
        async with self._write_lock:
            near = self.blocks.followers(self.attempt) and self.end - self.reached <= NEAR
            wanted = AHEAD if near else 0
            all_ = await trio.to_thread.run_sync(self._writer.take_on, source, pipe, self._clock, wanted)
            self._advance()
            followed = self.blocks.followers(self.attempt)  # all may have left meanwhile
            for taken in all_:
                if followed and taken.record and taken.place and taken.size >= ENOUGH and not taken.gap:
                    self.blocks.keep(self.attempt, (taken.record,), taken.place)
                self._tell(taken)
            return not all_[-1].ended

    def _awaited(self) -> bool:
        """Somebody has come to the end, as far as it is known, and waits there. (Asked by a thread, which may be told a
        little too late.)"""
        return self.broadcast.readers > 0

    def take_at_once(self, source: Source, pipe: int, size: int) -> bool | None:
        """More may have come since it was asked how much there is: that is left in the pipe."""
        if size > SMALL or not self._writer.flowing or not self._disk.quick or self._write_lock.locked():
            return None
        watch = self._disk.watch()
        taken = self._writer.take(source, pipe, self._clock(), keep=self.broadcast.readers > 0, most=SMALL)
        self._disk.written(watch)
        self._advance()
        self._tell(taken)
        return not taken.ended

    def _tell(self, taken: Taken) -> None:
        """Count what was taken, and give it to those who listen."""
        if taken.error and not self._failing:
            log.warning("output cannot be recorded and is dropped", job=self.job_id, error=taken.error)
        elif taken.size and self._failing:
            log.info("output is recorded again", job=self.job_id, dropped_bytes=self._writer.dropped)
        if taken.error or taken.size:
            self._failing = bool(taken.error)
        self._budget.taken += taken.size
        self._budget.dropped += taken.dropped
        if taken.gap:
            self.told_here += taken.gap.dropped if taken.gap.offset == self.end else 0
            self.broadcast.publish(taken.gap)
        if taken.record:
            self.broadcast.publish(taken.record)
        elif taken.size:
            self.broadcast.leave_behind()

    async def leave(self) -> None:
        """Let go without an end. Followers are not told of one: whoever reads on asks the next process."""
        async with self._write_lock:
            self._writer.leave()

    async def finish(self) -> None:
        async with self._write_lock:
            try:
                if not self._writer.untouched:
                    await trio.to_thread.run_sync(self._writer.finish, self._clock())
            except OSError as exc:
                log.error("output may not survive a power cut", job=self.job_id, error=exc.strerror)
            self._advance()
            self._budget.end(self.end)
            if gap := self._writer.take_gap():
                self.broadcast.publish(gap)
            self.complete = True
            self.broadcast.end()
            self._on_complete()

    async def follow(self, start: Start) -> LogFollower:
        if not self._writer.found:
            raise OutputUnavailableError(self.job_id)
        reader = LogReader(self._root, self.job_id)
        offset = await self._locate(reader, start)
        if self.attempt.deleted:
            raise JobNotFoundError(self.job_id)
        if offset > self.end:
            raise OffsetBeyondEndError(self.job_id, offset, self.end)
        return LogFollower(self, reader, offset)

    async def _locate(self, reader: LogReader, start: Start) -> int:
        if start.offset is not None:
            return start.offset
        if start.tail_bytes is not None:
            return max(0, self.end - start.tail_bytes)
        if start.tail_lines is not None:
            return await trio.to_thread.run_sync(reader.at_lines, start.tail_lines, self.end)
        if start.time is not None:
            return await trio.to_thread.run_sync(reader.at_time, start.time, self.end)
        return 0


class LogStore:
    """The logs of all jobs below one directory."""

    def __init__(self, root: Path, limit: int = NO_LIMIT, budget: Budget | None = None) -> None:
        """
        Args:
            limit: bytes of output that are recorded of each job.
            budget: the same for all jobs together.
        """
        self.budget = budget or Budget()
        self._blocks = Blocks()
        self._disk = Disk()
        # Of each job the last one that somebody follows, or may.
        self._attempts: WeakValueDictionary[str, Attempt] = WeakValueDictionary()
        self._root = root
        self._limit = limit
        self._open: dict[str, Log] = {}

    def create(self, job_id: str, limit: int = 0) -> Log:
        """The log of a new job; it is the one that :meth:`get` gives until it is complete.

        Args:
            limit: bytes, if fewer are to be recorded of this job than of others.
        """
        limit = min(limit or self._limit, self._limit)

        def forget() -> None:
            self._open.pop(job_id, None)

        self._attempts[job_id] = attempt = Attempt()
        self._open[job_id] = created = Log(
            self._root,
            job_id,
            limit=limit,
            budget=self.budget,
            blocks=self._blocks,
            disk=self._disk,
            attempt=attempt,
            on_complete=forget,
        )
        return created

    def get(self, job_id: str, end: int, dropped: int = 0) -> Log:
        """The log of a job: the live one, or that of a job that ended with so many bytes recorded, and dropped."""
        live = self._open.get(job_id)
        if live:
            return live
        attempt = self._attempts.setdefault(job_id, Attempt())
        return Log(self._root, job_id, blocks=self._blocks, attempt=attempt, end=end, dropped=dropped, complete=True)

    async def follow(self, job: Job, start: Start) -> LogFollower:
        """Read the output of a job that has ended."""
        return await self.get(job.id, job.output_bytes, job.dropped_bytes).follow(start)

    async def delete(self, job_id: str) -> None:
        """Delete a job's output, whole."""
        attempt = self._attempts.pop(job_id, None)
        if attempt:
            attempt.deleted = True  # before the first file is gone: who reads one that comes after it knows
        await trio.to_thread.run_sync(delete, self._root, job_id)

    async def recover(self, job_id: str) -> tuple[int, int]:
        """End a log that nobody will write to any more; returns its end, and the bytes known to be missing."""
        log_ = Log(self._root, job_id)
        await log_.resume(power_cut=True)
        await log_.finish()
        return log_.end, log_.dropped
