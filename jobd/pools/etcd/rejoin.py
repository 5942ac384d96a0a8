"""What a worker does about a job after it was away: a pure function of what etcd and what its own store say of it."""

from __future__ import annotations

import enum
from typing import Final

from jobd.pools.etcd.records import Claim, Phase
from jobd.pools.etcd.steps import Found, Intent


class Local(enum.Enum):
    """What the worker's own store and launcher know of a job."""

    UNKNOWN = "it was never heard of"
    INTENDED = "it was to be claimed, and this launcher was never asked to start it"
    UNCERTAIN = "it was to be claimed, and whether it was started nobody knows: the launcher is another one"
    RUNS = "it runs"
    ENDED = "it has ended, and how is known"


class Todo(enum.Enum):
    """What there is to do."""

    CLAIM = "write the intent down if it is not, and claim it"
    START = "start it: it is claimed, and was never started"
    TELL = "report that it is here"
    REPORT = "report how it ended"
    LOSE = "report that it is lost"
    SETTLE = "it has ended in the pool: let go of the assignment"
    END = "end its processes: it was given up in the pool"
    DROP = "let go of the intent, and of what came of it: it is somebody else's turn, or nobody's"
    REASSERT = "put the claim back, that etcd has forgotten, if the pool is frozen; else as KEEP"
    KEEP = "it runs, and the pool knows nothing of it: let it run, and tell the operator"
    NOTHING = "nothing"


_CLAIMED: Final = {
    Local.UNKNOWN: Todo.LOSE,  # the store was restored from a day before
    Local.INTENDED: Todo.START,
    Local.UNCERTAIN: Todo.LOSE,
    Local.RUNS: Todo.TELL,
    Local.ENDED: Todo.REPORT,
}
_OVER: Final = {
    Local.UNKNOWN: Todo.SETTLE,
    Local.INTENDED: Todo.DROP,
    Local.UNCERTAIN: Todo.DROP,
    Local.RUNS: Todo.END,
    Local.ENDED: Todo.SETTLE,
}
_SUPERSEDED: Final = {
    Local.UNKNOWN: Todo.NOTHING,
    Local.INTENDED: Todo.DROP,
    Local.UNCERTAIN: Todo.DROP,
    Local.RUNS: Todo.END,
    Local.ENDED: Todo.DROP,  # not SETTLE: the assignment that is there may be that of the next attempt
}
_NOT_OURS: Final = {
    Local.UNKNOWN: Todo.NOTHING,
    Local.INTENDED: Todo.DROP,
    Local.UNCERTAIN: Todo.DROP,
    Local.RUNS: Todo.KEEP,
    Local.ENDED: Todo.NOTHING,
}


def todo(job: Found | None, claim: Claim | None, intent: Intent, local: Local, attempt: int) -> Todo:
    """
    Args:
        job: as it is in etcd, read before the claim; None when there is no record of it (any more).
        claim: who has claimed the attempt.
        intent: the one of this worker for that attempt; its id is "" when there is none.
        attempt: which one the worker's store is about; the job's present one if it is about none.
    """
    if claim is not None:
        if claim.uid != intent.uid or intent.id not in ("", claim.intent):
            return _NOT_OURS[local]
        if job is not None and not job.ended and job.state.attempt != attempt:
            return _SUPERSEDED[local]
        return _OVER[local] if job is None or job.ended else _CLAIMED[local]
    if job is None or job.ended or job.state.attempt != attempt:
        return _NOT_OURS[local]
    if local in (Local.RUNS, Local.ENDED):
        return Todo.REASSERT
    assigned = job.state.phase == Phase.ASSIGNED and (job.state.worker, job.state.uid) == (intent.worker, intent.uid)
    if assigned and local is not Local.UNCERTAIN:
        return Todo.CLAIM
    return _NOT_OURS[local]
