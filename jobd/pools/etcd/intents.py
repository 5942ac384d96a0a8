"""How this machine's own store knows that a job is the pool's, and how far it is here."""

from __future__ import annotations

import time
import uuid
from typing import Final

from jobd.pools.etcd.records import Order
from jobd.pools.etcd.rejoin import Local
from jobd.pools.etcd.steps import Found
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import Event, State

MARK: Final = "pool"
"""What the request_id of a job of the pool begins with, in this machine's store; the attempt and the intent follow."""


def request_id_of(attempt: int, intent: str) -> str:
    """How an intent stands in the store of this machine."""
    return f"{MARK}:{attempt}:{intent}"


def intent_of(job: Job | None) -> tuple[int, str] | None:
    """The attempt and the intent of a job in the store; None when it is not the pool's."""
    parts = job.request_id.split(":") if job else []
    if len(parts) != 3 or parts[0] != MARK or not parts[1].isdigit():
        return None
    return int(parts[1]), parts[2]


def intended(found: Found, spec: JobSpec, order: Order) -> Job:
    """A job that this machine will run, if it gets the claim."""
    return Job(
        found.id,
        spec,
        State.PENDING,
        order.created_at,
        started_by=order.principal,
        request_id=request_id_of(found.state.attempt, uuid.uuid4().hex),
        reason=Reason.UNCLAIMED,
        message="the pool has not given it to this machine yet",
        attempt=found.state.attempt,
    )


def local(mine: Job | None) -> Local:
    """What the store knows of a job."""
    if mine is None or intent_of(mine) is None:
        return Local.UNKNOWN
    if mine.state.terminal:
        return Local.ENDED
    return Local.INTENDED if mine.reason == Reason.UNCLAIMED and mine.state is State.PENDING else Local.RUNS


def lost(job: Job) -> Job:
    """A job that was claimed here, and is not known here."""
    return job.moved(
        Event.UNTRACEABLE,
        ended_at=time.time_ns(),
        reason=Reason.DAEMON_LOST,
        message="the worker has claimed the job, and has no record of it: its state was lost, or is an older one",
    )
