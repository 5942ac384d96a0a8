"""Records of jobs that have ended leave etcd, by age and count: steps as in :mod:`jobd.pools.etcd.steps`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobd.broker.retention import Keep, to_delete
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Ended
from jobd.pools.etcd.transaction import Delete, KeyValue, Txn, created
from jobd.worker.job import MAX_RETRY_LOST
from jobd.worker.job import Ended as EndedJob

YOUNGEST: Final = 600.0
"""Seconds that a record stays whatever the count: no sending of a transaction comes so late that it could bring back a
job that has left."""
TOGETHER: Final = 6
"""Jobs in one transaction: etcd takes 128 steps, and one job may have been run again some times."""


@dataclass(frozen=True, slots=True)
class KeepRecords:
    """How much is kept, as in :class:`jobd.broker.retention.Keep`."""

    seconds: float
    jobs: int


def to_leave(keys: Keys, first: Sequence[KeyValue], count: int, keep: KeepRecords, now: int) -> list[KeyValue]:
    """Which of those that ended first have to leave.

    Args:
        first: of the ``e/`` keys, in their order.
        count: how many of them there are.
        now: nanoseconds since the epoch.
    """
    old = [each for each in first if now - keys.ended_at(each.key) > YOUNGEST * 1e9]
    ended = [EndedJob(keys.job_of(each.key), keys.ended_at(each.key), 0) for each in old]
    going = to_delete(ended, count, 0, Keep(keep.seconds, keep.jobs, sys.maxsize), now)
    return old[: len(going)]


def leave(keys: Keys, ended: Sequence[KeyValue]) -> Txn:
    """All that there is of these jobs (at most :data:`TOGETHER`) goes, or nothing of any.

    Raises:
        PoolDataError: one of the keys holds something else.
    """
    going = dict.fromkeys(key for each in ended for key in _all_of(keys, each))  # etcd takes no key twice
    return Txn(tuple(created(each) for each in ended), tuple(Delete(key) for key in going))


def _all_of(keys: Keys, ended: KeyValue) -> list[bytes]:
    job, left = keys.job_of(ended.key), decode(Ended, ended.key, ended.value)
    going = [ended.key, keys.state(job), keys.spec(job)]
    if left.attempts > MAX_RETRY_LOST:
        raise PoolDataError(ended.key, f"no job is run again {left.attempts} times")
    going += [keys.claim(job, attempt) for attempt in range(left.attempts + 1)]
    if left.request_id:
        going.append(keys.request(left.principal, left.request_id))
    if left.worker:
        going.append(keys.assigned(left.worker, job))
    return going
