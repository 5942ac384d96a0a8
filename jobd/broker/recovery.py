"""Taking up, at the start, what the store has from before; and the broker's life."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
import trio

from jobd.broker.admission import ANYTHING, Policy
from jobd.broker.broker import MAX_PENDING, Broker, unassigned
from jobd.broker.lost import lost_job, rebooted
from jobd.broker.ports import Archive, Store, Worker
from jobd.broker.registry import Entry
from jobd.worker.errors import StoreError
from jobd.worker.job import Job, JobCell
from jobd.worker.lifecycle import State
from jobd.worker.ports import Journal

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_broker(
    workers: Sequence[Worker],
    store: Store,
    journal: Journal,
    archive: Archive,
    *,
    max_pending: int = MAX_PENDING,
    policy: Policy = ANYTHING,
    clock: Callable[[], int] = time.time_ns,
) -> AsyncIterator[Broker]:
    """A broker that has taken up what the store had. What becomes of the jobs at the end is their workers' business."""
    async with trio.open_nursery() as nursery:
        broker = Broker(nursery, workers, store, journal, archive, max_pending=max_pending, policy=policy, clock=clock)
        await _Recovery(nursery, broker, journal, archive, clock).take_up(await store.live(), workers)
        try:
            yield broker
        finally:
            nursery.cancel_scope.cancel()


class _Recovery:
    def __init__(
        self, nursery: trio.Nursery, broker: Broker, journal: Journal, archive: Archive, clock: Callable[[], int]
    ) -> None:
        self._nursery = nursery
        self._broker = broker
        self._journal = journal
        self._archive = archive
        self._clock = clock

    async def take_up(self, jobs: Sequence[Job], workers: Sequence[Worker]) -> None:
        """What waited waits again, in order. What ran is adopted, if the launcher has it, or if there are processes of
        it that have outlived theirs. What was to be started by this launcher and never reached it waits again too. What
        nobody can trace any more is lost, and says why."""
        by_name = {worker.name: worker for worker in workers}
        untraced = []
        for job in jobs:
            entry = Entry(JobCell(job), recorded=True)
            worker = by_name.get(job.worker) or workers[0]
            if job.state is State.PENDING:
                self._broker.wait_in_turn(job)
            elif (adopted := worker.adopt(entry.cell)) is not None:
                self._broker.take_up(entry, worker, adopted)
            elif job.state is State.STARTING and job.launcher and job.launcher == worker.launcher:
                self._broker.wait_in_turn(unassigned(job))
            else:
                untraced.append((entry, worker))
        await self._take_up_outlived(untraced)
        self._broker.place()

    async def _take_up_outlived(self, untraced: Sequence[tuple[Entry, Worker]]) -> None:
        """Those of which processes are there yet, which end when these do, or are ended. They are looked for together:
        a look is at all processes, and there can be as many of these jobs as there are processes."""
        async with AsyncExitStack() as looking:
            for worker in {worker.name: worker for _, worker in untraced}.values():
                await looking.enter_async_context(worker.containment.looking())
            async with trio.open_nursery() as nursery:
                for entry, worker in untraced:
                    nursery.start_soon(self._take_up_or_lose, entry, worker)

    async def _take_up_or_lose(self, entry: Entry, worker: Worker) -> None:
        job = entry.cell.job
        adopted = None if rebooted(job, worker.launcher) else await worker.adopt_outlived(entry.cell)
        if adopted is None:
            await self._lose(job, worker)
        else:
            log.warning("a job has outlived its launcher", job=job.id, pid=job.pid)
            self._broker.take_up(entry, worker, adopted)

    async def _lose(self, job: Job, worker: Worker) -> None:
        recorded, dropped = await self._archive.recover(job.id)
        lost = lost_job(job, worker.launcher, output=recorded, dropped=dropped, now=self._clock())
        log.warning("a job was lost", job=job.id, pid=job.pid, reason=lost.reason)
        entry = self._broker.registry.add(Entry(JobCell(lost), recorded=True))
        self._nursery.start_soon(self._record_lost, entry)  # a full disk must not keep us from serving

    async def _record_lost(self, entry: Entry) -> None:
        job = entry.cell.job
        try:
            await self._journal.commit(job)
        except StoreError as exc:
            log.error("the end of a job could not be recorded", job=job.id, state=job.state, error=str(exc))
        else:
            self._broker.registry.remove(job.id)
