"""What is kept of jobs that have ended, and for how long.

A job is deleted whole: its record, then its output. With the record goes a note into the store that the output is to
go; so what a crash, or a disk that failed, left in between is deleted later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
import trio

from jobd.broker.ports import Archive, Pressure, Store
from jobd.worker.errors import StoreError
from jobd.worker.job import Ended

log = structlog.get_logger(__name__)

INTERVAL: Final = 60.0
BATCH: Final = 500
"""Jobs that are looked at, and may be deleted, at a time."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How much is kept. The job that ended first goes first.

    Attributes:
        seconds: since a job's end.
        jobs: that have ended.
        output: bytes, of all jobs together: what jobs that run have recorded leaves less for those that have ended.
    """

    seconds: float
    jobs: int
    output: int


def to_delete(ended: Sequence[Ended], count: int, size: int, keep: Keep, now: int) -> list[Ended]:
    """Which of the jobs that ended first have to go.

    Args:
        ended: the first of them, in the order of their ends.
        count, size: how many there are in all, and the bytes of their output.
        now: nanoseconds since the epoch.
    """
    going = []
    for job in ended:
        if not (count > keep.jobs or size > keep.output or now - job.ended_at > keep.seconds * 1e9):
            break
        going.append(job)
        count -= 1
        size -= job.output_bytes
    return going


class Retention:
    """Enforces :class:`Keep`, now and then."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        keep: Keep,
        pressure: Pressure,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._pressure = pressure
        self._store = store
        self._archive = archive
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.finish_deletions()
                while await self.enforce() == BATCH:
                    pass
            except StoreError as exc:
                log.error("old jobs could not be deleted", error=str(exc))
                await trio.sleep(INTERVAL)
                continue
            with trio.move_on_after(INTERVAL):
                await self._pressure.pressed()

    async def enforce(self) -> int:
        """Delete what has to go, up to a batch; returns how many jobs that were."""
        ended = await self._store.ended(BATCH)
        count, size = await self._store.totals()
        keep = replace(self._keep, output=max(0, self._keep.output - self._pressure.live))
        going = to_delete(ended, count, size, keep, self._clock())
        for job in going:
            await self._store.delete(job.id)
            await self._delete_output(job.id)
        if going:
            log.info("old jobs deleted", jobs=len(going), output_bytes=sum(job.output_bytes for job in going))
        self._pressure.settle(size - sum(job.output_bytes for job in going))
        return len(going)

    async def finish_deletions(self) -> None:
        """Delete what is left of jobs whose record is gone."""
        for job_id in await self._store.deletions():
            await self._delete_output(job_id)

    async def _delete_output(self, job_id: str) -> None:
        try:
            await self._archive.delete(job_id)
        except OSError as exc:
            log.error("output of a deleted job is still there", job=job_id, error=exc.strerror)
        else:
            self._store.deleted(job_id)
