"""One reader of a job's log, whenever it comes.

It reads the disk until it has caught up, then listens to the broadcast; when it lags it reads the disk
again. Between "nothing more on disk" and "listening" there is no await, so nothing can slip through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
import trio

from jobd.output.blocks import MUCH, SOME
from jobd.output.broadcast import Subscription
from jobd.output.reader import BATCH, ENOUGH, LogReader
from jobd.worker.errors import JobNotFoundError, OutputDamagedError
from jobd.worker.ports import MOST, Gap, Record, Taker

if TYPE_CHECKING:
    from jobd.output.log import Log

log = structlog.get_logger(__name__)


class LogFollower:
    """One reader of a log."""

    def __init__(self, log_: Log, reader: LogReader, offset: int) -> None:
        self._log = log_
        self._reader = reader
        self.offset = offset
        self._live: Subscription | None = None
        self._taker: Taker | None = None
        self._closed = False
        log_.blocks.enter(log_.attempt)
        # What a disk without room has no entry of is told at the end, to those who came for all of it.
        self._all = offset == 0
        self._told = 0
        self._heard = 0  # bytes that are missing here, as was heard of live
        self._early = 0  # and as was read from the disk, before it is heard of live
        self._ahead = 0  # the offset after what was read for others, too
        self._crowded = False  # that is not kept until it was given: too many are at places of their own

    async def receive(self, limit: int = MOST, taker: Taker | None = None) -> Sequence[Record | Gap]:
        self._taker = taker
        while True:
            events = await self._receive(limit)
            self._log.reached = max(self._log.reached, self.offset)
            if not events:
                events = self._untold()
            elif self._all and self._told >= self._log.dropped:
                # A gap that was read from the disk while it was being made is not told again live.
                events = [event for event in events if not isinstance(event, Gap)]
                if not events:
                    continue
            self._told += sum(event.dropped for event in events if isinstance(event, Gap))
            return events

    def at_hand(self, limit: int) -> bool:
        """What comes next is in a block that somebody else has read, or recorded."""
        found = limit >= SOME and not self._live and self._log.blocks.find(self._log.attempt, self.offset)
        return bool(found)

    def _untold(self) -> Sequence[Gap]:
        missing = self._log.dropped - self._told
        return [Gap(self.offset, missing)] if self._all and missing > 0 else ()

    async def _receive(self, limit: int) -> Sequence[Record | Gap]:
        while True:
            if self._live:
                records = await self._live.receive(limit, self._take if self._taker else None)
                fresh = [record for record in records if record.offset >= self.offset]
                if fresh and fresh[0].offset == self.offset:
                    fresh, self._early = self._without(fresh, self._early)
                    if not fresh:
                        continue
                    if fresh[-1].end > self.offset:
                        self._heard = self._early = 0
                    self.offset = fresh[-1].end
                    self._heard += self._missing_here(fresh)
                    return fresh
                self._live.close()
                self._live = None
            if self.offset < self._log.end:
                return await self._from_disk(limit)
            if self._log.complete:
                return ()
            self._live = self._log.broadcast.subscribe()

    def _take(self, record: Record | Gap) -> bool:
        """Let it be taken at once, if it is the next one."""
        if isinstance(record, Gap) or record.offset != self.offset or self._taker is None or not self._taker(record):
            return False
        self.offset = record.end
        self._heard = self._early = 0
        self._log.reached = max(self._log.reached, self.offset)
        return True

    def _without(self, records: Sequence[Record | Gap], known: int) -> tuple[list[Record | Gap], int]:
        """Leave out the gaps here that are known already, of so many bytes; how many of these did not come."""
        found: list[Record | Gap] = []
        for each in records:
            if isinstance(each, Gap) and each.offset == self.offset and known > 0:
                if each.dropped > known:  # it has grown since
                    found.append(Gap(each.offset, each.dropped - known))
                known -= each.dropped
            else:
                found.append(each)
        return found, known

    def _missing_here(self, records: Sequence[Record | Gap]) -> int:
        return sum(each.dropped for each in records if isinstance(each, Gap) and each.offset == self.offset)

    async def _from_disk(self, limit: int) -> Sequence[Record | Gap]:
        await trio.lowlevel.checkpoint()
        attempt, blocks = self._log.attempt, self._log.blocks
        shared = limit >= SOME and blocks.followers(attempt) > 1
        block = blocks.find(attempt, self.offset) if limit >= SOME else None
        if block is None and shared and await blocks.read_by_another(attempt, self.offset):
            block = blocks.find(attempt, self.offset)
        if block is None:
            self._crowded |= shared and self.offset < self._ahead
            ahead = BATCH if shared and not self._crowded else limit
            with blocks.reading(attempt, self.offset):
                records = await self._read(limit, ahead)
            size = records[-1].end - self.offset
            blocks.held(size)
            if shared and (size >= ENOUGH or not self._crowded) and not self._reader.behind_gap:
                block = blocks.keep(attempt, records, self._reader.place)
            if block is None:
                found, self._heard = self._without(records, self._heard)[0], 0
                self.offset = records[-1].end
                # What is written down of a gap at the very end, and not told yet, will be: it is not to be told twice.
                here = self.offset == self._log.end
                self._early = self._missing_here(records) - self._log.told_here if here else 0
                return found
            self._ahead = block.end
        elif block.end != self._ahead:  # another has read it
            self._crowded = False
        self._heard = self._early = 0
        cut = block.between(self.offset, self.offset + limit, copied=limit < MUCH)
        self.offset = cut[-1].end
        if self.offset == block.end:
            self._reader.skip_to(block.place)
        return cut

    async def _read(self, size: int, ahead: int) -> Sequence[Record | Gap]:
        """
        Args:
            ahead: bytes that may be given instead, where nothing is missing.

        Raises:
            JobNotFoundError: it was deleted, and is read out of files that may be those of the next attempt.
            OutputDamagedError: it cannot be read, or is not what was recorded.
        """
        opened = self._reader.opened
        try:
            records = self._reader.read_now(self.offset, self._log.end, size, ahead)
            if records is None:
                records = await trio.to_thread.run_sync(self._reader.read, self.offset, self._log.end, size, ahead)
        except (OSError, OutputDamagedError) as exc:
            if self._log.attempt.deleted:
                raise JobNotFoundError(self._log.job_id) from exc
            log.error("recorded output cannot be read", job=self._log.job_id, offset=self.offset, error=str(exc))
            raise OutputDamagedError(self._log.job_id, self.offset) from exc
        if self._log.attempt.deleted and self._reader.opened != opened:
            raise JobNotFoundError(self._log.job_id)
        return records

    def close(self) -> None:
        if self._live:
            self._live.close()
            self._live = None
        self._reader.close()
        if not self._closed:
            self._closed = True
            self._log.blocks.leave(self._log.attempt)
