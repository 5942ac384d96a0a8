"""What was recorded or read from the disk lately, and summed up, for those followers of the same run of a job that come
to the same place.

Followers that read on from the same byte stay together, since each is given its turn, but for the few MiB that windows
let some of them be ahead: so a few blocks are enough for any number of them. Who may not hold much of a block is given
a copy, since a few bytes would keep all of it alive. Of those that come to a place that nobody has read, one reads, and
the others wait for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

import trio

from api.malloc import give_back_what_is_free
from jobd.output.reader import BATCH, ENOUGH, Reached
from jobd.worker.ports import Gap, Record

KEPT: Final = 8
"""Blocks, of all jobs together; each is no larger than what is read at a time. With ten followers, two are enough for
two of five reads, four for two of three, eight for six of seven."""
SELDOM: Final = 1.0
"""Seconds, at least, between two times that free memory is given back: it may take some milliseconds."""
MUCH: Final = BATCH // 4
"""Who may hold so many bytes is given of a block itself, though it may keep four times as many alive: few can be that
lucky at once (``api.rpc.share``)."""
SOME: Final = BATCH // 16
"""Who may hold so many is given a copy. Who may hold less reads for itself: to read sixteen times as much, and to find
that nobody else wanted it, would cost too much."""


class Attempt:
    """One run of a job, to tell its bytes from those of others: a job that is run again has the same id, and files of
    the same names.

    Attributes:
        deleted: what it wrote is deleted, and what has these names now is another's.
    """

    def __init__(self) -> None:
        self.deleted = False


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of an attempt that stand one after another.

    Attributes:
        place: where in its files a reader is behind it.
    """

    attempt: Attempt
    records: Sequence[Record]
    place: Reached

    @property
    def offset(self) -> int:
        return self.records[0].offset

    @property
    def end(self) -> int:
        return self.records[-1].end

    def between(self, start: int, end: int, *, copied: bool = False) -> list[Record]:
        """What it has from one offset to another.

        Args:
            copied: it is to keep nothing else alive.
        """
        found = [record for record in self.records if record.end > start and record.offset < end]
        for index in {0, len(found) - 1}:
            record = found[index]
            begin, stop = max(start, record.offset), min(end, record.end)
            if stop - begin < len(record.data):
                data = memoryview(record.data)[begin - record.offset : stop - record.offset]
                found[index] = replace(record, offset=begin, data=data)
        return [replace(record, data=bytes(record.data)) for record in found] if copied else found


class Blocks:
    """One for all logs."""

    def __init__(self) -> None:
        self._followers: Counter[Attempt] = Counter()
        self._blocks: deque[Block] = deque(maxlen=KEPT)
        self._reading: dict[tuple[Attempt, int], trio.Event] = {}
        self._much = False  # was in memory, since some was given back
        self._give_back_at = 0.0

    def enter(self, attempt: Attempt) -> None:
        """Somebody follows it."""
        self._followers[attempt] += 1

    def leave(self, attempt: Attempt) -> None:
        """And does no more."""
        self._followers[attempt] -= 1
        if not self._followers[attempt]:
            del self._followers[attempt]
            self._blocks = deque((block for block in self._blocks if block.attempt is not attempt), KEPT)
            if self._much and not self._blocks and (now := monotonic()) >= self._give_back_at:
                self._much, self._give_back_at = False, now + SELDOM
                give_back_what_is_free()

    def held(self, size: int) -> None:
        """So much was read at a time: with a lot of it, memory is to be given back when all have left."""
        self._much |= size >= ENOUGH

    def followers(self, attempt: Attempt) -> int:
        """How many follow it."""
        return self._followers[attempt]

    def find(self, attempt: Attempt, offset: int) -> Block | None:
        """The block that has this byte."""
        for block in reversed(self._blocks):
            if block.attempt is attempt and block.offset <= offset < block.end:
                return block
        return None

    @contextmanager
    def reading(self, attempt: Attempt, offset: int) -> Iterator[None]:
        """In the block somebody reads what comes next from there."""
        done = self._reading.setdefault((attempt, offset), trio.Event())
        try:
            yield
        finally:
            self._reading.pop((attempt, offset), None)
            done.set()

    async def read_by_another(self, attempt: Attempt, offset: int) -> bool:
        """Wait for who reads what comes next from there. False: nobody did; otherwise it may be found now."""
        done = self._reading.get((attempt, offset))
        if done is not None:
            await done.wait()
        return done is not None

    def keep(self, attempt: Attempt, records: Sequence[Record | Gap], place: Reached) -> Block | None:
        """This was recorded or read, and there are others who want it. None where something is missing between the
        bytes: each reads that for itself."""
        bytes_ = [record for record in records if isinstance(record, Record)]
        if len(bytes_) < len(records):
            return None
        self._much = True
        self._blocks.append(Block(attempt, bytes_, place))
        return self._blocks[-1]
