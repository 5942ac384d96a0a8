"""Jobs that are on record, and that do not run before somebody says so.

In a pool, a machine writes down durably that it will run a job, before it claims it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from jobd.broker.ports import Store
from jobd.broker.registry import Entry, Registry
from jobd.worker.job import Job, JobCell, JobSpec, Reason


class HeldJobs:
    """Of one broker. A job that is held stays so over a restart; it can be looked at, and stopped, as others can.

    Whoever ends or forgets one takes it out first, before anything is waited for: so of two (a stop, and the claim that
    comes true meanwhile) only one has it.
    """

    def __init__(self, registry: Registry, store: Store, enqueue: Callable[[Entry], None]) -> None:
        self._registry = registry
        self._store = store
        self._enqueue = enqueue

    async def hold(self, job: Job) -> JobCell:
        """Record a job durably that is not to run before :meth:`release`, whatever happens meanwhile.

        Args:
            job: pending, for the reason UNCLAIMED, with a request_id that no other has.

        Raises:
            StoreError: it could not be recorded.
        """
        assert job.reason == Reason.UNCLAIMED
        entry = self._registry.add(Entry(JobCell(job), recorded=True, held=True))
        try:
            with trio.CancelScope(shield=True):
                recorded = await self._store.insert(job)
            assert recorded.id == job.id
        except BaseException:  # whatever went wrong, the id goes back
            self._registry.remove(job.id)
            raise
        return entry.cell

    def release(self, job_id: str, spec: JobSpec | None = None) -> None:
        """Let a job wait for a worker, like any other. One that is not held (any more) is let be.

        Args:
            spec: what it is to run, if that is not what was said when it was held.
        """
        entry = self._registry.known(job_id)
        if entry and entry.held:
            entry.held = False
            if spec:
                entry.cell.set(replace(entry.cell.job, spec=spec))
            self._enqueue(entry)

    async def end(self, ended: Job) -> None:
        """End a job before it ran. One that is not held (any more) is let be.

        Raises:
            StoreError: that could not be recorded, and it is held still.
        """
        entry = self._registry.known(ended.id)
        if entry and entry.held:
            with trio.CancelScope(shield=True), self._taken(entry):
                await self._store.commit(ended)  # not held back: nothing runs, and whoever asked can ask again
                entry.cell.set(ended)
                self._registry.remove(ended.id)

    async def discard(self, job_id: str) -> None:
        """Forget a job: somebody else has it, or nobody wants it any more. One that is not held is let be.

        Raises:
            StoreError: it could not be forgotten, and is held still.
        """
        entry = self._registry.known(job_id)
        if entry and entry.held:
            with trio.CancelScope(shield=True), self._taken(entry):
                await self._store.delete(job_id)
                self._registry.remove(job_id)
            self._store.deleted(job_id)  # it has no output

    @staticmethod
    @contextmanager
    def _taken(entry: Entry) -> Iterator[None]:
        """Nobody else has the job meanwhile; it is held again if that fails."""
        entry.held = False
        try:
            yield
        except BaseException:  # whatever went wrong, it is as it was
            entry.held = True
            raise
