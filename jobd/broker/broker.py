"""The broker: jobs come in, go to workers in order, and are found again by id."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
import trio

from jobd.broker.admission import (
    ANYTHING,
    Policy,
    admitted,
    beyond_quota,
    differences,
    see_to_writing,
)
from jobd.broker.held import HeldJobs
from jobd.broker.placement import Load, choose
from jobd.broker.ports import Archive, Store, Worker
from jobd.broker.registry import Entry, Registry, WorkerView, ended
from jobd.worker.errors import (
    JobNotEndedError,
    JobNotFoundError,
    JobNotRunningError,
    QueueFullError,
    RequestIdReusedError,
    RunLostError,
    StoreError,
    WorkerError,
)
from jobd.worker.job import Job, JobCell, JobSpec, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.policy import Caller
from jobd.worker.ports import Follower, Journal, Start
from jobd.worker.supervisor import Stop

log = structlog.get_logger(__name__)

MAX_PENDING: Final = 10_000
WAITING: Final = "every slot of every worker is taken"


def unassigned(job: Job) -> Job:
    """A job that was to be started and was not, as it waits again."""
    return job.moved(Event.UNASSIGNED, worker="", reason=Reason.NO_FREE_WORKER, message=WAITING)


class Broker:
    """Made by :func:`jobd.broker.recovery.open_broker`.

    Attributes:
        registry: the jobs that it knows.
        held: those that are not to run before somebody says so.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        workers: Sequence[Worker],
        store: Store,
        journal: Journal,
        archive: Archive,
        *,
        max_pending: int = MAX_PENDING,
        policy: Policy = ANYTHING,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._nursery = nursery
        self._workers = {worker.name: worker for worker in workers}
        self._store = store
        self._archive = archive
        self._journal = journal
        self._max_pending = max_pending
        self._policy = policy
        self._clock = clock
        self.registry = Registry(store)
        self._queue: deque[Entry] = deque()
        self.held = HeldJobs(self.registry, store, self._enqueue)
        self._refusal: WorkerError | None = None
        self._taken: dict[str, set[str]] = {worker.name: set() for worker in workers}

    # ---- start

    async def start(self, spec: JobSpec, *, by: str, roles: Collection[str] = (), request_id: str = "") -> Job:
        """Record a job and hand it to a worker, or queue it. Returns when it is recorded and, with a free worker,
        when its process runs or could not be started.

        Raises:
            InvalidSpecError: the spec cannot be accepted.
            QueueFullError, TooManyJobsError: too many jobs wait, or too many of this principal run or wait.
            RequestIdReusedError: the request_id stands for another request.
            StoreError: the job could not be recorded; it does not exist.
            WorkerError: no new jobs are taken (:meth:`refuse_new`).
        """
        caller = Caller(by, roles)
        spec = await admitted(spec, caller, self._policy, list(self._workers.values()))
        # Whoever asked may give up at any moment; a job that is recorded must also be queued.
        with trio.CancelScope(shield=True):
            entry = await self._accept(spec, caller, request_id)
        return await entry.cell.wait_until(lambda job: job.state is not State.STARTING)

    async def _accept(self, spec: JobSpec, caller: Caller, request_id: str) -> Entry:
        job = Job(str(uuid.uuid4()), spec, State.PENDING, self._clock(), started_by=caller.name, request_id=request_id)
        if too_many := beyond_quota(caller, self.registry.count_of(caller.name), self._policy):
            return await self._resent(job, too_many)
        worker = None if self._refusal or self._queue else self._reserve(job.id)
        if worker:
            job = job.moved(Event.ASSIGNED, worker=worker.name, launcher=worker.launcher)
        elif refusal := self._refusal_of_now():
            return await self._resent(job, refusal)
        else:
            job = replace(job, reason=Reason.NO_FREE_WORKER, message=WAITING)
        entry = self.registry.add(Entry(JobCell(job), worker))
        if not worker:
            self._queue.append(entry)  # now, in the order of coming; it is handed out when it is recorded
        try:
            recorded = await self._store.insert(job)
        except BaseException:  # whatever went wrong, the slot, the place and the id go back
            self._drop(entry)
            raise
        if recorded.id != job.id:
            self._drop(entry)
            return await self._again(recorded, job)
        entry.recorded = True
        self.registry.accepted += 1
        if worker:
            self._begin(entry, worker)
        else:
            self.place()
        return entry

    def _refusal_of_now(self) -> WorkerError | None:
        """Why no job can be added to those that wait, if it cannot."""
        if len(self._queue) >= self._max_pending:
            return self._refusal or QueueFullError(self._max_pending)
        return self._refusal

    async def _resent(self, job: Job, refusal: WorkerError) -> Entry:
        """What is refused to a new job is no reason to deny one that is there already."""
        recorded = await self._store.requested(job.request_id) if job.request_id else None
        if recorded is None:
            raise refusal
        return await self._again(recorded, job)

    async def _again(self, recorded: Job, job: Job) -> Entry:
        """A request that came before: the same job, if it is the same request."""
        if differs := await differences(recorded, job):
            raise RequestIdReusedError(job.request_id, recorded.id, ", ".join(differs))
        return await self.registry.find(recorded.id)  # it may have ended since the store was asked

    def _reserve(self, job_id: str) -> Worker | None:
        name = choose([Load(w.name, w.slots, len(self._taken[w.name])) for w in self._workers.values()])
        if name is None:
            return None
        self._taken[name].add(job_id)
        return self._workers[name]

    def _drop(self, entry: Entry) -> None:
        job_id = entry.cell.job.id
        if entry.cell.recorded:
            self.registry.remove(job_id)
        self.registry.release(entry)
        if entry.worker:
            self._taken[entry.worker.name].discard(job_id)
            entry.worker = None
        else:
            self._queue.remove(entry)
        self.place()

    async def _run_queued(self, entry: Entry, worker: Worker) -> None:
        try:
            await self._journal.commit(entry.cell.job)  # the intent is durable before anything runs
        except StoreError:
            self._taken[worker.name].discard(entry.cell.job.id)
            entry.worker = None
            entry.cell.set(unassigned(entry.cell.job))
            self._wait_again(entry)
            return
        except trio.Cancelled:  # it is not begun: whoever comes after us is to find it waiting
            self._journal.note(unassigned(entry.cell.job))
            raise
        self._begin(entry, worker)

    def _wait_again(self, entry: Entry) -> None:
        """Back to its place among those that wait."""
        self._queue.insert(sum(each.number < entry.number for each in self._queue), entry)
        self.place()

    def _begin(self, entry: Entry, worker: Worker) -> None:
        worker.begin(entry.cell, entry.begun)
        entry.cell.when_ended(partial(self._ended, entry, worker))

    def _ended(self, entry: Entry, worker: Worker) -> None:
        worker.forget(entry.cell.job.id)
        if not self._nursery.cancel_scope.cancel_called:  # else nothing more is handed out
            self._drop(entry)

    # ---- look

    async def query(self, reference: str) -> Job:
        """The job as it is now.

        Args:
            reference: an id or a unique prefix of one, here and wherever the word is used.

        Raises:
            InvalidIdError, JobNotFoundError, AmbiguousIdError: the reference names no job, or more than one.
        """
        entry = await self.registry.find(reference)
        job = entry.present()
        if entry.worker and entry.begun.is_set() and not job.state.terminal:
            return replace(job, usage=await entry.worker.usage(job.id))
        return job

    def query_at_once(self, reference: str) -> Job | None:
        """As :meth:`query`; None when something has to be waited for.

        Raises:
            InvalidIdError: the reference names no job.
        """
        entry = self.registry.at_once(reference)
        if entry is None or (entry.worker and entry.begun.is_set() and not entry.cell.job.state.terminal):
            return None
        return entry.present()

    async def page(self, *, before: int, states: Sequence[State], size: int) -> list[tuple[int, Job]]:
        """A page of all jobs, newest first; each with the number that the next page starts below."""
        return await self.registry.page(before=before, states=states, size=size)

    def workers(self) -> list[WorkerView]:
        """The workers with the jobs they have."""
        live = sorted(self.registry.live, key=lambda entry: entry.cell.job.created_at)
        return [WorkerView.of(worker, live) for worker in self._workers.values()]

    @property
    def pending(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._queue)

    # ---- wait, follow, stop

    async def wait(self, references: Sequence[str], *, any_of_them: bool) -> list[Job]:
        """Wait until all of the jobs (or any) have ended; returns all of them as they are then."""
        entries = [await self.registry.find(reference) for reference in references]
        await ended(entries, any_of_them=any_of_them)
        return [entry.present() for entry in entries]

    async def follow(self, reference: str, start: Start, attempt: int | None = None) -> tuple[Follower, JobCell]:
        """Follow a job's output; a job that waits is followed from when it starts.

        Args:
            attempt: the run of the job that is to be followed; None is whichever there is.

        Returns:
            The follower, and the job, to wait for its end with once the follower has ended.

        Raises:
            OffsetBeyondEndError: so much was not recorded.
            RunLostError: the job is at another run.
        """
        entry = await self.registry.find(reference)
        await entry.cell.wait_until(lambda job: job.state is not State.PENDING)
        worker = await entry.active_worker()
        job = entry.present()
        if attempt is not None and attempt != job.attempt:
            raise RunLostError(job.id)
        following = worker.stream(job.id, start) if worker else self._archive.follow(job, start)
        try:
            return await following, entry.cell
        except JobNotFoundError as exc:  # deleted meanwhile
            if job.runs_again:
                raise RunLostError(job.id) from exc
            raise

    async def writable(self, reference: str, *, by: str, roles: Collection[str] = ()) -> Entry:
        """The job, for :func:`jobd.broker.attach.attach` by this caller.

        Raises:
            ForbiddenUserError: it runs as somebody whom the caller may run no jobs as.
        """
        entry = await self.registry.find(reference)
        await see_to_writing(entry.cell.job, Caller(by, roles), self._policy)
        return entry

    async def stop(self, reference: str, how: Stop) -> Job:
        """End a job; returns when no process of it is left. One that has ended is returned as it is.

        Raises:
            StopFailedError: processes are still there after SIGKILL.
            StoreError: it waits, and that it is to end could not be recorded: it waits on.
        """
        entry = await self.registry.find(reference)
        if entry.held:
            await self.held.end(self._stopped(entry.cell.job, how.by))
        elif entry in self._queue:
            self._queue.remove(entry)  # meanwhile it must not be handed out
            with trio.CancelScope(shield=True):
                await self._end_pending(entry, how.by)
        elif (worker := await entry.active_worker()) is not None:
            return await worker.stop(entry.cell.job.id, how)
        return await entry.cell.ended()

    async def signal(self, reference: str, signum: int, *, by: str) -> Job:
        """Send a signal to a job's processes.

        Raises:
            JobNotRunningError: there is no process to send it to.
        """
        entry = await self.registry.find(reference)
        if (worker := await entry.active_worker()) is not None:
            return await worker.signal(entry.cell.job.id, signum, by=by)
        job = entry.present()
        raise JobNotRunningError(job.id, job.state)

    async def delete(self, reference: str) -> None:
        """Forget a job that has ended: its record, its request_id and its output.

        Raises:
            JobNotEndedError: it has not ended.
        """
        job = (await self.registry.find(reference)).present()
        if not job.state.terminal:
            raise JobNotEndedError(job.id, job.state)
        with trio.CancelScope(shield=True):  # both; after a crash the store knows which output is still to go
            await self._store.delete(job.id)
            self.registry.remove(job.id)
            await self._archive.delete(job.id)
        self._store.deleted(job.id)

    def _stopped(self, job: Job, by: str) -> Job:
        return job.moved(
            Event.ENDED_ON_REQUEST,
            stopped_by=by,
            ended_at=self._clock(),
            reason=Reason.STOPPED_BY_REQUEST,
            message=f"stopped by {by} before it ran",
        )

    async def _end_pending(self, entry: Entry, by: str) -> None:
        ended = self._stopped(entry.cell.job, by)
        try:
            await self._store.commit(ended)  # not held back: nothing runs, and whoever asked can ask again
        except StoreError:
            self._wait_again(entry)
            raise
        entry.cell.set(ended)
        self.registry.remove(ended.id)

    # ---- before an end

    def refuse_new(self, why: WorkerError) -> None:
        """Take no new jobs, and start none of those that wait (they stay recorded as waiting)."""
        self._refusal = why

    async def wait_until_idle(self) -> None:
        """Wait until every job that was started has ended."""
        for entry in self.registry.live:
            if entry.worker:
                await entry.cell.ended()

    # ---- jobs that are on record already

    def wait_in_turn(self, job: Job) -> JobCell:
        """Let a job that is in the store wait for a worker, behind those that wait already (:meth:`place`)."""
        entry = self.registry.add(Entry(JobCell(job), recorded=True, held=job.reason == Reason.UNCLAIMED))
        if not entry.held:
            self._queue.append(entry)
        return entry.cell

    def _enqueue(self, entry: Entry) -> None:
        entry.cell.set(replace(entry.cell.job, reason=Reason.NO_FREE_WORKER, message=WAITING))
        self._queue.append(entry)
        self.place()

    def take_up(self, entry: Entry, worker: Worker, launched: trio.Event) -> None:
        """Know a job that a worker has, and see it out."""
        self.registry.add(entry)
        entry.worker = worker
        self._taken[worker.name].add(entry.cell.job.id)
        entry.begun = launched
        entry.cell.when_ended(partial(self._ended, entry, worker))

    def place(self) -> None:
        """Hand out queued jobs, first come first served, as long as a worker is free."""
        while not self._refusal and self._queue and self._queue[0].recorded:
            worker = self._reserve(self._queue[0].cell.job.id)
            if worker is None:
                return
            entry = self._queue.popleft()
            entry.worker = worker
            given = {"worker": worker.name, "launcher": worker.launcher, "reason": "", "message": ""}
            entry.cell.set(entry.cell.job.moved(Event.ASSIGNED, **given))
            self._nursery.start_soon(self._run_queued, entry, worker)
