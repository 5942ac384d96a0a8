"""What a worker does about a job after it was away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobd.pools.etcd.codec import encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Claim, JobState, Phase
from jobd.pools.etcd.rejoin import Local, Todo, todo
from jobd.pools.etcd.steps import Found, Intent
from jobd.pools.etcd.transaction import KeyValue
from tests.support.pool_steps import JOB

KEYS = Keys("p")
INTENT = Intent("n1", "w1", "u1")
NO_INTENT = replace(INTENT, id="")
MINE = Claim(worker="w1", uid="u1", epoch=1, intent="n1")
OTHERS = replace(MINE, uid="u2")


def job(phase: Phase, *, worker: str = "w1", attempt: int = 0) -> Found:
    state = JobState(phase=phase, worker=worker, uid="u" + worker[1:], attempt=attempt)
    return Found(JOB, KeyValue(KEYS.state(JOB), encode(state), 1, 2), state)


CLAIMED, ASSIGNED = job(Phase.CLAIMED), job(Phase.ASSIGNED)
CASES = [
    # what etcd says of the job, and of the claim; what is known here; what there is to do
    (ASSIGNED, None, Local.UNKNOWN, Todo.CLAIM),
    (ASSIGNED, None, Local.INTENDED, Todo.CLAIM),
    (ASSIGNED, None, Local.UNCERTAIN, Todo.DROP),
    (CLAIMED, MINE, Local.INTENDED, Todo.START),
    (CLAIMED, MINE, Local.UNCERTAIN, Todo.LOSE),
    (CLAIMED, MINE, Local.UNKNOWN, Todo.LOSE),
    (CLAIMED, MINE, Local.RUNS, Todo.TELL),
    (CLAIMED, MINE, Local.ENDED, Todo.REPORT),
    (job(Phase.PENDING), None, Local.INTENDED, Todo.DROP),
    (job(Phase.ASSIGNED, worker="w2"), None, Local.INTENDED, Todo.DROP),
    (job(Phase.CLAIMED, worker="w2"), OTHERS, Local.INTENDED, Todo.DROP),
    (job(Phase.CLAIMED, worker="w2"), OTHERS, Local.UNKNOWN, Todo.NOTHING),
    (CLAIMED, replace(MINE, intent="n0"), Local.INTENDED, Todo.DROP),
    (job(Phase.ENDED), MINE, Local.RUNS, Todo.END),
    (job(Phase.ENDED), MINE, Local.ENDED, Todo.SETTLE),
    (job(Phase.ENDED), MINE, Local.UNKNOWN, Todo.SETTLE),
    (job(Phase.ENDED), None, Local.INTENDED, Todo.DROP),
    (job(Phase.ASSIGNED, attempt=1), MINE, Local.RUNS, Todo.END),
    (job(Phase.ASSIGNED, attempt=1), MINE, Local.ENDED, Todo.DROP),
    (job(Phase.PENDING), None, Local.RUNS, Todo.REASSERT),
    (job(Phase.ASSIGNED, worker="w2"), None, Local.ENDED, Todo.REASSERT),
    (job(Phase.CLAIMED, worker="w2"), OTHERS, Local.RUNS, Todo.KEEP),
    (None, None, Local.RUNS, Todo.KEEP),
    (None, None, Local.INTENDED, Todo.DROP),
    (None, None, Local.ENDED, Todo.NOTHING),
]


@pytest.mark.parametrize(("found", "claim", "local", "expected"), CASES)
def test_what_there_is_to_do(found: Found | None, claim: Claim | None, local: Local, expected: Todo) -> None:
    """By what etcd and the worker's own store say."""
    intent = NO_INTENT if local is Local.UNKNOWN else INTENT
    assert todo(found, claim, intent, local, 0) is expected


def test_a_job_is_started_only_with_a_claim() -> None:
    """Which names the intent that the worker has, and of which it is certain that nothing was started with it."""
    jobs = [None, *(job(phase, worker=w, attempt=n) for phase in Phase for w in ("w1", "w2") for n in (0, 1))]
    for found in jobs:
        for claim in (None, MINE, OTHERS, replace(MINE, intent="n0")):
            for local in Local:
                if todo(found, claim, NO_INTENT if local is Local.UNKNOWN else INTENT, local, 0) is Todo.START:
                    assert found is not None
                    assert not found.ended
                    assert (found.state.attempt, claim, local) == (0, MINE, Local.INTENDED)
