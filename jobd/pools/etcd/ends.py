"""The way of a job from its worker, and the ends that it can have: steps as in :mod:`jobd.pools.etcd.steps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobd.pools.etcd.codec import encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Assignment, Claim, Ended, Phase
from jobd.pools.etcd.steps import Found, Intent, Verdict
from jobd.pools.etcd.transaction import Delete, Get, KeyValue, Outcome, Put, Step, Txn, absent, created, unchanged


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job has ended.

    Attributes:
        at: when, in nanoseconds since the epoch.
        job: all of it but its spec (:func:`jobd.pools.etcd.orders.end_facts`).
        principal, request_id: as in its order.
        lost: nobody knows how.
        retries: how often it may be run again when it is lost.
    """

    at: int
    job: Mapping[str, Any]
    principal: str
    request_id: str = ""
    lost: bool = False
    retries: int = 0

    def again(self, job: Found) -> bool:
        """It is lost, and is to be run again."""
        return self.lost and job.state.attempt < self.retries

    def steps(self, keys: Keys, job: Found) -> tuple[Step, ...]:
        """The job has ended so; it has its place in the order in which records leave."""
        left = Ended(
            principal=self.principal,
            request_id=self.request_id,
            attempts=job.state.attempt,
            worker=job.state.worker,
        )
        return (
            job.changed(phase=Phase.ENDED, unreachable=0, job=self.job),
            Put(keys.ended(job.id, self.at), encode(left)),
            Delete(keys.private(job.id)),
        )


# ---- what the worker says


def report(keys: Keys, job: Found, claim: KeyValue, ending: Ending | None) -> Txn:
    """What the worker that has claimed a job says of it: that it is here (again), or how it has ended. It needs the
    claim, and no session.

    Args:
        ending: None while it runs.
    """
    if ending is None:
        steps: tuple[Step, ...] = (job.changed(unreachable=0),)
    elif ending.again(job):
        steps = job.pending_again(keys, attempt=job.state.attempt + 1)
    else:
        steps = (*ending.steps(keys, job), Delete(keys.assigned(job.state.worker, job.id)))
    return Txn((created(claim), unchanged(job.at)), steps, (Get(job.at.key),))


def reported(keys: Keys, outcome: Outcome, job: Found) -> Verdict:
    """OVER: the job has ended, or is at another attempt, by this report or without it.

    Raises:
        PoolDataError: the job's key holds something else.
    """
    if outcome.held:
        return Verdict.DONE
    found = outcome.found[0]
    if found is None:
        return Verdict.OVER
    now = Found.of(keys, found)
    return Verdict.OVER if now.ended or now.state.attempt != job.state.attempt else Verdict.AGAIN


def give_back(keys: Keys, job: Found) -> Txn:
    """A job that is assigned and not claimed waits again: its worker is drained, or has no slot after all."""
    claim = keys.claim(job.id, job.state.attempt)
    return Txn((unchanged(job.at), absent(claim)), job.pending_again(keys))


def settle(keys: Keys, worker: str, job: Found) -> Txn:
    """The worker has nothing more to do for a job that has ended."""
    return Txn((unchanged(job.at),), (Delete(keys.assigned(worker, job.id)),))


def reassert(keys: Keys, job: Found, frozen: KeyValue, session: KeyValue, intent: Intent) -> Txn:
    """A claim that etcd has forgotten, since it was restored: the worker has the job. Only while the pool is frozen."""
    at = keys.claim(job.id, job.state.attempt)
    made = Claim(worker=intent.worker, uid=intent.uid, epoch=session.created, intent=intent.id)
    steps: list[Step] = [
        Put(at, encode(made)),
        job.changed(phase=Phase.CLAIMED, worker=intent.worker, uid=intent.uid, unreachable=0),
        Put(keys.assigned(intent.worker, job.id), encode(Assignment(attempt=job.state.attempt))),
        Delete(keys.queued(job.id)),
    ]
    if job.state.worker not in ("", intent.worker):
        steps.append(Delete(keys.assigned(job.state.worker, job.id)))
    return Txn((created(frozen), created(session), unchanged(job.at), absent(at)), tuple(steps), (Get(at),))


# ---- what brokers do without the worker


def gone(keys: Keys, job: Found, now: int) -> Txn:
    """The worker has no session any more. A job that it has not claimed waits again; one that it has is where it was,
    and unreachable: whether it runs cannot be known, and nobody else gets it."""
    session = absent(keys.session(job.state.worker))
    if job.state.phase == Phase.CLAIMED:
        return Txn((session, unchanged(job.at)), (job.changed(unreachable=now),))
    claim = keys.claim(job.id, job.state.attempt)
    return Txn((session, unchanged(job.at), absent(claim)), job.pending_again(keys))


def stop(keys: Keys, job: Found, ending: Ending) -> Txn:
    """End a job that nobody has claimed; it never runs."""
    waits = job.state.phase == Phase.PENDING
    at = keys.queued(job.id) if waits else keys.assigned(job.state.worker, job.id)
    claim = keys.claim(job.id, job.state.attempt)
    return Txn((unchanged(job.at), absent(claim)), (*ending.steps(keys, job), Delete(at)))


def forget(keys: Keys, job: Found, ending: Ending) -> Txn:
    """An operator says that the worker of a job will not come back: it is lost. If it comes back it ends the job; for
    that its ``a/`` key stays, until the record leaves."""
    steps = job.pending_again(keys, attempt=job.state.attempt + 1) if ending.again(job) else ending.steps(keys, job)
    return Txn((absent(keys.session(job.state.worker)), unchanged(job.at)), steps)
