"""The jobs that the broker knows: in memory those that have not ended, or whose end could not be recorded; all others
in the store."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from jobd.broker.ids import FULL, canonical
from jobd.broker.ports import Store, Worker
from jobd.worker.containment import Containment
from jobd.worker.errors import AmbiguousIdError, JobNotFoundError
from jobd.worker.isolation import Means
from jobd.worker.job import Job, JobCell
from jobd.worker.lifecycle import State

_NUMBERS: Final = itertools.count()


@dataclass(eq=False)
class Entry:
    """A job, and the worker that has it, if one does.

    Attributes:
        number: in the order of coming.
        recorded: the job is in the store.
        begun: the worker has taken the job.
        counts: among those that run or wait.
        held: it is on record and waits to be released (``jobd.broker.held``), not for a worker.
    """

    cell: JobCell
    worker: Worker | None = None
    recorded: bool = False
    number: int = field(default_factory=_NUMBERS.__next__)
    begun: trio.Event = field(default_factory=trio.Event)
    counts: bool = False
    held: bool = False

    def present(self) -> Job:
        """The job as it is now; while it runs, with the output recorded so far."""
        job = self.cell.job
        if self.worker and self.begun.is_set() and not job.state.terminal:
            recorded, dropped = self.worker.progress(job.id)
            return replace(job, output_bytes=recorded, dropped_bytes=dropped)
        return job

    async def active_worker(self) -> Worker | None:
        """The worker that has the job now; None when it waits, or has ended (while we waited for the worker, too)."""
        if self.worker is None:
            return None
        await self.begun.wait()
        return None if self.cell.job.state.terminal else self.worker


async def ended(entries: Sequence[Entry], *, any_of_them: bool) -> None:
    """Wait until all of the jobs (or any) have ended."""
    if not any_of_them:
        for entry in entries:
            await entry.cell.ended()
    elif not any(entry.cell.job.state.terminal for entry in entries):
        async with trio.open_nursery() as nursery:

            async def first(entry: Entry) -> None:
                await entry.cell.ended()
                nursery.cancel_scope.cancel()

            for entry in entries:
                nursery.start_soon(first, entry)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker and the jobs it has."""

    name: str
    slots: int
    jobs: list[Job]
    containment: Containment
    means: Means

    @classmethod
    def of(cls, worker: Worker, live: Sequence[Entry]) -> WorkerView:
        """The view of one worker, given all jobs that have not ended."""
        jobs = [entry.present() for entry in live if entry.worker is worker]
        return cls(worker.name, worker.slots, jobs, worker.containment, worker.means)


class Registry:
    """Finds jobs by id, and counts them.

    Attributes:
        accepted: jobs that were new and are on record, of this process.
        ended: those that have ended meanwhile, by state and reason.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[str, Entry] = {}
        self._counts: Counter[str] = Counter()
        self.accepted = 0
        self.ended: Counter[tuple[State, str]] = Counter()

    @property
    def live(self) -> list[Entry]:
        """The jobs that have not ended, and those whose end could not be recorded."""
        return list(self._live.values())

    def add(self, entry: Entry) -> Entry:
        """Know a job that has not ended."""
        self._live[entry.cell.job.id] = entry
        if not entry.cell.job.state.terminal:
            entry.counts = True
            self._counts[entry.cell.job.started_by] += 1
        else:  # it was lost, and we have only just found out
            self.ended[entry.cell.job.state, entry.cell.job.reason] += 1
        return entry

    def remove(self, job_id: str) -> None:
        """The job has ended, or came to nothing: what is known of it is in the store."""
        entry = self._live.pop(job_id, None)
        if entry is not None:
            self.release(entry)

    def release(self, entry: Entry) -> None:
        """The job runs and waits no more, whether or not that could be recorded."""
        if entry.counts:
            entry.counts = False
            job = entry.cell.job
            if job.state.terminal:
                self.ended[job.state, job.reason] += 1
            by = job.started_by
            self._counts[by] -= 1
            if not self._counts[by]:
                del self._counts[by]

    def count_of(self, principal: str) -> int:
        """How many jobs that this principal has started run or wait."""
        return self._counts[principal]

    def known(self, job_id: str) -> Entry | None:
        """The job with this id, if it has not ended."""
        return self._live.get(job_id)

    def entry_of(self, job: Job) -> Entry:
        """The entry for a job that the store gave: the live one, if it has not ended."""
        return self._live.get(job.id) or Entry(JobCell(job))

    def at_once(self, reference: str) -> Entry | None:
        """The job with this id, if nothing has to be waited for; :meth:`find` finds it else, or says why not."""
        wanted = canonical(reference)
        if len(wanted) != FULL:
            return None
        if wanted in self._live:
            return self._live[wanted]
        ended = self._store.lately(wanted)
        return Entry(JobCell(ended)) if ended else None

    async def find(self, reference: str) -> Entry:
        """The job with this id, or with this prefix of one.

        Raises:
            InvalidIdError, JobNotFoundError, AmbiguousIdError: the reference names no job, or more than one.
        """
        wanted = canonical(reference)
        if len(wanted) == FULL and wanted in self._live:
            return self._live[wanted]
        while True:
            found = await self._store.starting_with(wanted)
            if not found:
                raise JobNotFoundError(wanted)
            if len(found) > 1:
                raise AmbiguousIdError(wanted)
            entry = self.entry_of(found[0])
            if entry.cell.job.state.terminal or entry.cell.job.id in self._live:
                return entry
            # It ended between the reading of the row and now: the row says more by now.

    async def page(self, *, before: int, states: Sequence[State], size: int) -> list[tuple[int, Job]]:
        """A page of all jobs, newest first; each with the number that the next page starts below."""
        rows = await self._store.page(before=before, states=states, size=size)
        return [(seq, self.entry_of(job).present()) for seq, job in rows]
