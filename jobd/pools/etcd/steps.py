"""The way of a job to its worker: each step is one transaction, made of what was read before.

Whoever sends one may die, or never hear what became of it, and another may be faster: so each step compares what it
rests on, and is worth nothing once that has changed. In doubt it is sent again as it is: a second time changes nothing,
and its answer is as good as the first one's.

No step rests on a lease. That a job runs at most once rests on its claim: made once, by whoever has written down
durably that it will run it, and there for as long as the job is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Assignment, Claim, JobState, Order, Phase, Queued, Request
from jobd.pools.etcd.transaction import (
    Delete,
    Get,
    KeyValue,
    Outcome,
    Put,
    Step,
    Txn,
    absent,
    created,
    unchanged,
)


class Verdict(enum.Enum):
    """What became of a step."""

    DONE = "it is so now, by this transaction or by an earlier sending of it"
    OVER = "it will never be done: somebody else was first, or there is nothing left to do"
    AGAIN = "nothing was done: read again, and decide anew"


@dataclass(frozen=True, slots=True)
class Found:
    """A job as it was read."""

    id: str
    at: KeyValue
    state: JobState

    @classmethod
    def of(cls, keys: Keys, at: KeyValue) -> Found:
        """The job of a ``j/`` key.

        Raises:
            PoolDataError: it holds something else.
        """
        return cls(keys.job_of(at.key), at, decode(JobState, at.key, at.value))

    @property
    def order(self) -> int:
        """Its place among all jobs."""
        return self.at.created

    @property
    def ended(self) -> bool:
        return self.state.phase == Phase.ENDED

    @property
    def claimed(self) -> bool:
        """Some worker has it, or it has ended."""
        return self.state.phase in (Phase.CLAIMED, Phase.ENDED)

    def changed(self, **changes: Any) -> Put:
        """Its state with changes."""
        return Put(self.at.key, encode(replace(self.state, **changes)))

    def pending_again(self, keys: Keys, **changes: Any) -> tuple[Step, ...]:
        """The steps that take it from its worker, back to its place among those that wait."""
        state = self.changed(phase=Phase.PENDING, worker="", uid="", unreachable=0, **changes)
        again = Put(keys.queued(self.id), encode(Queued(order=self.order)))
        return (state, again, Delete(keys.assigned(self.state.worker, self.id)))


def done(outcome: Outcome) -> Verdict:
    """What became of a step of which nothing else has to be known: what is read next says everything."""
    return Verdict.DONE if outcome.held else Verdict.AGAIN


def place_of(queued: KeyValue) -> int:
    """The place of a job that waits, among all jobs.

    Raises:
        PoolDataError: the key holds something else.
    """
    return decode(Queued, queued.key, queued.value).order or queued.created


# ---- submit


def submit(keys: Keys, job: str, order: Order, hash_: str, private: bytes = b"") -> Txn:
    """A new job.

    Args:
        hash_: of what was asked for.
        private: as :meth:`jobd.pools.etcd.private.Seal.split` gave it.
    """
    then: list[Step] = [
        Put(keys.spec(job), encode(order)),
        Put(keys.state(job), encode(JobState(phase=Phase.PENDING, by=order.principal))),
        Put(keys.queued(job), encode(Queued())),
    ]
    if private:
        then.append(Put(keys.private(job), private))
    if not order.request_id:
        return Txn((absent(keys.state(job)),), tuple(then), (Get(keys.state(job)),))
    request = keys.request(order.principal, order.request_id)
    then.append(Put(request, encode(Request(job=job, hash=hash_))))
    return Txn((absent(request), absent(keys.state(job))), tuple(then), (Get(request),))


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of :func:`submit`.

    Attributes:
        job: the one that the request is now.
        same: what was asked for is the same, as far as the hash can tell (secrets are not in it).
    """

    job: str
    same: bool = True


def submitted(outcome: Outcome, job: str, order: Order, hash_: str) -> Submitted:
    """
    Raises:
        PoolDataError: the request's key holds something else.
    """
    if outcome.held or not order.request_id:
        return Submitted(job)
    found = outcome.found[0]
    if found is None:  # the job is there without its request, which was deleted between two sendings
        return Submitted(job)
    request = decode(Request, found.key, found.value)
    return Submitted(request.job, request.job == job or request.hash == hash_)


# ---- place


def place(keys: Keys, job: Found, queued: KeyValue, session: KeyValue, uid: str) -> Txn:
    """Give a job that waits to a worker that has this session."""
    worker = keys.worker_of(session.key)
    attempt = job.state.attempt
    return Txn(
        (
            created(session),
            absent(keys.drain(worker)),
            absent(keys.frozen),
            unchanged(job.at),
            created(queued),
            absent(keys.claim(job.id, attempt)),
        ),
        (
            job.changed(phase=Phase.ASSIGNED, worker=worker, uid=uid),
            Put(keys.assigned(worker, job.id), encode(Assignment(attempt=attempt))),
            Delete(queued.key),
        ),
    )


# ---- claim


@dataclass(frozen=True, slots=True)
class Intent:
    """What a worker has written down durably before it claims a job.

    Attributes:
        id: made up for it.
    """

    id: str
    worker: str
    uid: str

    def mine(self, found: KeyValue) -> bool:
        """The claim is that of this intent.

        Raises:
            PoolDataError: it is no claim.
        """
        claim = decode(Claim, found.key, found.value)
        return (claim.uid, claim.intent) == (self.uid, self.id)


def claim(keys: Keys, job: Found, assigned: KeyValue, session: KeyValue, intent: Intent, *, last: bool = True) -> Txn:
    """Take a job that is assigned to this worker, in this session. The intent is on the disk.

    Args:
        last: it is not to be run again when it is lost, so nobody needs what is private any more.
    """
    attempt, worker = job.state.attempt, intent.worker
    made = Claim(worker=worker, uid=intent.uid, epoch=session.created, intent=intent.id)
    at = keys.claim(job.id, attempt)
    private = (Delete(keys.private(job.id)),) if last else ()
    return Txn(
        (created(session), created(assigned), absent(at), absent(keys.drain(worker)), absent(keys.frozen)),
        (Put(at, encode(made)), job.changed(phase=Phase.CLAIMED, uid=intent.uid), *private),
        (Get(at), Get(assigned.key)),
    )


def claimed(outcome: Outcome, assigned: KeyValue, intent: Intent) -> Verdict:
    """DONE: it may be started. OVER: the intent can be dropped. AGAIN: the intent stays; a sending of the claim may
    still be on its way, and come true as long as the job is assigned."""
    if outcome.held:
        return Verdict.DONE
    found, still = outcome.found
    if found is not None:
        return Verdict.DONE if intent.mine(found) else Verdict.OVER
    return Verdict.AGAIN if still is not None and still.created == assigned.created else Verdict.OVER
