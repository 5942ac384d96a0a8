"""What a broker of the pool answers: jobs come in at any broker, and are found again at any other.

Nothing is kept here that etcd has not. What a job does while it runs is its worker's to say: calls about that go there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import structlog
import trio

from jobd.broker.admission import Policy, admitted, beyond_quota
from jobd.broker.ids import FULL, canonical
from jobd.broker.pooled import Placed
from jobd.pools.etcd import ends, housekeeping, records, steps
from jobd.pools.etcd.asking import TRIES, Asking, see_that_it_is_known
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.ends import Ending
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.orders import end_facts, hash_of, job_from, order_of
from jobd.pools.etcd.placement import SOON, Wish
from jobd.pools.etcd.placer import Placer
from jobd.pools.etcd.pool_errors import PoolDataError, PoolNameError
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import Order, Phase
from jobd.pools.etcd.steps import Found, Submitted, Verdict
from jobd.worker.errors import (
    AmbiguousIdError,
    JobNotEndedError,
    JobNotFoundError,
    PoolUnavailableError,
    QueueFullError,
    RequestIdReusedError,
    WorkerError,
    WorkerIsThereError,
)
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.policy import Caller
from jobd.worker.secret import matches

log = structlog.get_logger(__name__)

ORDERS: Final = 16 * 1024 * 1024
"""Bytes of orders that are remembered, as they are in etcd."""


class Front:
    """Made for one client of etcd and its mirror."""

    def __init__(
        self,
        client: Client,
        mirror: Mirror,
        seal: Seal,
        *,
        policy: Policy,
        max_pending: int,
    ) -> None:
        self._client = client
        self._etcd = Asking(client, mirror)
        self._mirror = mirror
        self._seal = seal
        self._policy = policy
        self._max_pending = max_pending
        self._orders: dict[str, tuple[Order, int]] = {}
        self._remembered = 0
        self.placer = Placer(client, mirror, self.order)

    async def order(self, job_id: str) -> Order | None:
        """What a job is to run; None when there is no such job (any more)."""
        if job_id in self._orders:
            return self._orders[job_id][0]
        at = self._mirror.at.spec(job_id)
        found = await self._client.get(at)
        if found is None:
            return None
        order = decode(Order, at, found.value)
        self._forget_order(job_id)
        self._orders[job_id], self._remembered = (order, len(found.value)), self._remembered + len(found.value)
        while self._remembered > ORDERS:
            self._forget_order(next(iter(self._orders)))
        return order

    def _forget_order(self, job_id: str) -> None:
        _, size = self._orders.pop(job_id, (None, 0))
        self._remembered -= size

    # ---- start

    async def start(self, spec: JobSpec, *, by: str, roles: Collection[str], request_id: str) -> Job:
        """Record a job in the pool; some broker places it. Returns when it is recorded.

        Raises:
            InvalidSpecError: the spec cannot be accepted.
            RequestIdReusedError: the request_id stands for another request.
            QueueFullError: too many jobs wait.
            TooManyJobsError: they have too many already.
            PoolUnavailableError: it could not be recorded, or nobody knows; the same request may be sent again.
        """
        # What this machine can hold says nothing of the others, and whom jobs run as that ask for nobody is for the
        # machine to say that runs them.
        admitted_spec = await admitted(spec, Caller(by, roles), self._policy, (), pooled=True)
        admitted_spec = replace(admitted_spec, user=spec.user)
        await self._see_that_there_is_room(Caller(by, roles), request_id)
        job = Job(str(uuid.uuid4()), admitted_spec, State.PENDING, time.time_ns(), started_by=by, request_id=request_id)
        order, private = order_of(self._mirror.at, job, self._seal, roles=roles)
        hash_ = hash_of(spec)
        self._mirror.tally.brought(job.id, by)
        try:
            outcome = await self._etcd.sent(steps.submit(self._mirror.at, job.id, order, hash_, private))
        except BaseException:  # if it was recorded all the same, that will be heard
            self._mirror.tally.refused(job.id)
            raise
        became = steps.submitted(outcome, job.id, order, hash_)
        if became.job != job.id:
            self._mirror.tally.refused(job.id)
            return await self._again(became, spec, request_id)
        self.placer.soon()
        why = self.placer.why_with(Wish.of(order)) if self._mirror.is_whole else SOON
        return replace(job, reason=Reason.NO_FREE_WORKER, message=why)

    async def _see_that_there_is_room(self, caller: Caller, request_id: str) -> None:
        wrong: WorkerError | None = beyond_quota(caller, self._mirror.tally.of(caller.name), self._policy)
        if len(self._mirror.queue.keys) >= self._max_pending:
            wrong = QueueFullError(self._max_pending)
        if wrong is None:
            return
        if not request_id or await self._etcd.read(self._mirror.at.request(caller.name, request_id)) is None:
            raise wrong  # what is there already is no further job

    async def _again(self, became: Submitted, spec: JobSpec, request_id: str) -> Job:
        """A request that came before: the same job, if it is the same request."""
        job = (await self.find(became.job)).job
        if not became.same:
            raise RequestIdReusedError(request_id, job.id, "spec")
        if spec.secret_env and not await trio.to_thread.run_sync(matches, spec.secret_env, job.spec.secret_digest):
            raise RequestIdReusedError(request_id, job.id, "secret_env")
        return job

    # ---- look

    async def find(self, reference: str) -> Placed:
        """The job with this id, or with this prefix of one.

        Raises:
            InvalidIdError, JobNotFoundError, AmbiguousIdError: the reference names no job, or more than one.
            PoolUnavailableError: etcd cannot be asked.
        """
        return await self._placed(await self._found(reference))

    async def _found(self, reference: str) -> Found:
        at = self._mirror.at
        wanted = canonical(reference)
        see_that_it_is_known(self._mirror)
        ids = [wanted]
        if len(wanted) < FULL:
            ids = [at.job_of(each.key) for each in self._mirror.jobs.below(at.states + wanted.encode())]
            if len(ids) > 1:
                raise AmbiguousIdError(wanted)
            if not ids:
                raise JobNotFoundError(wanted)
        known = self._mirror.jobs.keys.get(at.state(ids[0]))
        try:  # another broker may have told of it, or of its end, just now
            state = await self._etcd.read(at.state(ids[0]))
        except PoolUnavailableError:
            # Of one that a worker has, that worker tells; and an end never changes. All else may be over.
            found = Found.of(at, known) if known else None
            if found is None or not found.claimed or found.state.unreachable:
                raise
            return found
        if state is None:
            raise JobNotFoundError(ids[0])
        return Found.of(at, state)

    async def _placed(self, found: Found) -> Placed:
        try:
            order = await self.order(found.id)
        except EtcdError as exc:
            raise PoolUnavailableError from exc
        if order is None:
            raise JobNotFoundError(found.id)
        job = job_from(self._mirror.at, found, order)
        if found.ended:
            return Placed(job, *await self._where(job.worker))
        if found.state.phase == Phase.PENDING:
            why = await self.placer.why(found.id)
            return Placed(replace(job, reason=Reason.NO_FREE_WORKER, message=why))
        if found.state.phase == Phase.ASSIGNED:
            why = f"given to {found.state.worker}, which has not taken it yet"
            if self._mirror.frozen:
                why += "; nothing is taken while the pool is frozen"
            return Placed(replace(job, message=why))
        if found.state.unreachable:
            why = f"its worker {found.state.worker} cannot be reached; whether the job runs is not known"
            job = replace(job, reason=Reason.UNREACHABLE, message=why)
        worker = found.state.worker
        return Placed(job, worker, (await self._where(worker))[1], unreachable=bool(found.state.unreachable))

    async def _where(self, worker: str) -> tuple[str, str]:
        try:
            at = self._mirror.at.member(worker)
        except PoolNameError:
            return "", ""  # it ended before anybody had it
        # It may have come, and taken the job, before that was heard here.
        member = self._mirror.members.keys.get(at) or await self._etcd.read(at)
        return (worker, decode(records.Member, at, member.value).address) if member else ("", "")

    async def claimed(self, reference: str) -> Placed:
        """The job, when somebody has it, or it has ended."""
        found = await self._found(reference)
        while not found.claimed:
            found = await self._after(found)
        return await self._placed(found)

    async def _after(self, found: Found) -> Found:
        """The job as it is after the next change of it.

        Raises:
            JobNotFoundError: it was deleted.
        """
        jobs = self._mirror.jobs
        while (now := jobs.keys.get(found.at.key)) is None or now.modified <= found.at.modified:
            if now is None and jobs.whole.is_set():  # it was deleted, or we have not heard of it yet
                now = await self._etcd.read(found.at.key)
                if now is None:
                    raise JobNotFoundError(found.id)
                if now.modified > found.at.modified:
                    break
                if found.at.key in jobs.keys:
                    continue  # that was heard of while we asked
            await jobs.changed(found.at.key)
        return Found.of(self._mirror.at, now)

    async def wait(self, references: Sequence[str], *, any_of_them: bool) -> list[Job]:
        """Wait until all of the jobs (or any) have ended; all of them as they are then."""
        found = [await self._found(reference) for reference in references]

        async def ended(index: int) -> None:
            while not found[index].ended:
                found[index] = await self._after(found[index])
            if any_of_them:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index in range(len(found)):
                nursery.start_soon(ended, index)
        return [(await self._placed(each)).job for each in found]

    async def page(self, *, before: int, states: Collection[State], size: int) -> list[tuple[int, Placed]]:
        """A page of the list of jobs, newest first, each with its place. What a job does while it runs is not in it;
        of a state other than a terminal one, STARTING stands for all that a worker has."""
        at = self._mirror.at
        see_that_it_is_known(self._mirror)
        rows: list[tuple[int, Placed]] = []
        for state in sorted(self._mirror.jobs.keys.values(), key=lambda each: -each.created):
            if before and state.created >= before:
                continue
            found = Found.of(at, state)
            if states and not _may_be(found, states):
                continue
            try:
                rows.append((state.created, await self._placed(found)))
            except JobNotFoundError:
                continue
            except PoolDataError as exc:  # whoever asks for it is told; the others are listed
                log.error("a job of the pool cannot be listed", job=found.id, error=str(exc))
                continue
            if len(rows) == size:
                break
        return rows

    # ---- change

    async def stop_unclaimed(self, placed: Placed, by: str) -> Job | None:
        """End a job that nobody has claimed; None when somebody has meanwhile.

        Raises:
            PoolUnavailableError: etcd cannot be written.
        """
        for _ in range(TRIES):
            found = await self._fresh(placed.job.id)
            if found.claimed:
                return None
            job = replace(placed.job, reason="", message="").moved(
                Event.ENDED_ON_REQUEST,
                stopped_by=by,
                ended_at=time.time_ns(),
                reason=Reason.STOPPED_BY_REQUEST,
                message=f"stopped by {by} before it ran",
                worker="",
            )
            outcome = await self._etcd.sent(ends.stop(self._mirror.at, found, self._ending(job)))
            if steps.done(outcome) is Verdict.DONE:
                return job
        raise PoolUnavailableError

    async def _fresh(self, job_id: str) -> Found:
        state = await self._etcd.read(self._mirror.at.state(job_id))
        if state is None:
            raise JobNotFoundError(job_id)
        return Found.of(self._mirror.at, state)

    @staticmethod
    def _ending(job: Job, *, lost: bool = False) -> Ending:
        ended = job.ended_at or 0
        return Ending(ended, end_facts(job), job.started_by, job.request_id, lost=lost, retries=job.spec.retry_lost)

    async def forget(self, reference: str, by: str) -> Job:
        """Give up a job whose worker is gone for good: it is lost.

        Raises:
            WorkerIsThereError: its worker is there, or nobody has the job.
            PoolUnavailableError: etcd cannot be written.
        """
        for _ in range(TRIES):
            found = await self._fresh((await self._found(reference)).id)
            placed = await self._placed(found)
            if found.ended:
                return placed.job
            there = await self._etcd.read(self._mirror.at.session(found.state.worker)) if found.state.worker else None
            if found.state.phase != Phase.CLAIMED or there is not None:
                raise WorkerIsThereError(found.id, found.state.worker)
            job = placed.job.moved(
                Event.UNTRACEABLE,
                ended_at=time.time_ns(),
                reason=Reason.FORGOTTEN,
                message=f"{by} has given it up: its worker {found.state.worker} is gone",
            )
            outcome = await self._etcd.sent(ends.forget(self._mirror.at, found, self._ending(job, lost=True)))
            if steps.done(outcome) is Verdict.DONE:
                return (await self.find(found.id)).job if job.runs_again else job
        raise PoolUnavailableError

    async def delete(self, placed: Placed) -> None:
        """Forget a job that has ended; its output is its worker's to delete, before.

        Raises:
            JobNotEndedError: it has not ended.
            PoolUnavailableError: etcd cannot be written.
        """
        job = placed.job
        if not job.state.terminal:
            raise JobNotEndedError(job.id, job.state)
        ended = await self._etcd.read(self._mirror.at.ended(job.id, job.ended_at or 0))
        if ended is not None:
            await self._etcd.sent(housekeeping.leave(self._mirror.at, [ended]))
        self._forget_order(job.id)


def _may_be(found: Found, states: Collection[State]) -> bool:
    """A job that a worker has can be in any state that is not terminal, as far as is known here."""
    if found.ended:
        return found.state.job.get("state") in states
    if found.state.phase == Phase.PENDING:
        return State.PENDING in states
    return bool({State.STARTING, State.RUNNING} & set(states))
