"""Records of jobs that have ended leave."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from structlog.typing import EventDict

from jobd.pools.etcd import ends, housekeeping
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.housekeeping import YOUNGEST, KeepRecords
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.sweeper import Sweeper
from jobd.pools.etcd.transaction import KeyValue, Put, Txn
from tests.support.memory_etcd import MAX_STEPS, check
from tests.support.pool_steps import JOB, Pool, ending

KEYS = Keys("p")
HOUR = 3600 * 10**9


def ended(*hours: int) -> list[KeyValue]:
    """Jobs that ended so many hours after the beginning."""
    return [KeyValue(KEYS.ended(f"{JOB[:-2]}{n:02}", at * HOUR), b"{}", n, n) for n, at in enumerate(hours)]


def test_records_leave_by_age_and_by_count() -> None:
    """Those that ended first, first."""
    all_of_them = ended(1, 2, 3, 4, 5)
    keep = KeepRecords(seconds=1e9, jobs=100)
    now = 6 * HOUR
    assert housekeeping.to_leave(KEYS, all_of_them, 5, keep, now) == []
    assert housekeeping.to_leave(KEYS, all_of_them, 5, replace(keep, jobs=3), now) == all_of_them[:2]
    assert housekeeping.to_leave(KEYS, all_of_them, 5, replace(keep, seconds=2.5 * 3600), now) == all_of_them[:3]


def test_the_youngest_stay_whatever_the_count() -> None:
    """So long that nothing that was sent for them is still on its way."""
    just = [KeyValue(KEYS.ended(JOB, HOUR), b"{}", 1, 1)]
    late = HOUR + int(YOUNGEST * 1e9)
    assert housekeeping.to_leave(KEYS, just, 9, KeepRecords(0, 0), late) == []
    assert housekeeping.to_leave(KEYS, just, 9, KeepRecords(0, 0), late + 1) == just


async def test_nothing_of_a_job_is_left(pool: Pool) -> None:
    """Its request, spec, state, claim and end; and what a worker that never came back did not settle. What is another
    pool's stays."""
    await pool.running()
    pool.etcd.expire(7)
    await pool.take(ends.forget(pool.keys, await pool.found(), ending("lost", lost=True)))
    first = await pool.etcd.page(pool.keys.ends)
    await pool.etcd.txn(Txn((), (Put(b"/p2/j/" + JOB.encode(), b""),)))
    assert (await pool.take(housekeeping.leave(pool.keys, first.found))).held
    assert set(pool.etcd.kvs) == {pool.keys.member("w1"), b"/p2/j/" + JOB.encode()}
    assert not (await pool.take(housekeeping.leave(pool.keys, first.found))).held, "another broker was first"


def test_a_transaction_takes_as_many_as_etcd_does() -> None:
    """Also when each was run again as often as can be."""
    value = b'{"principal":"p","request_id":"%d","attempts":10,"worker":"w"}'
    many = [replace(each, value=value % each.created) for each in ended(*range(housekeeping.TOGETHER))]
    txn = housekeeping.leave(KEYS, many)
    check(txn)
    assert len(txn.then) <= MAX_STEPS


def test_a_record_that_says_it_was_run_without_end_is_refused() -> None:
    """Whoever wrote it, it is not gone through."""
    (one,) = ended(1)
    with pytest.raises(PoolDataError, match="no job is run again 1000000000000 times"):
        housekeeping.leave(KEYS, [replace(one, value=b'{"attempts":1000000000000}')])


async def test_records_leave_past_one_that_is_damaged(
    pool: Pool, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """It is named, and stays."""
    damaged = pool.keys.ends + b"0"
    await pool.running()
    await pool.take(ends.report(pool.keys, await pool.found(), await pool.at(pool.keys.claim(JOB)), ending()))
    await pool.etcd.txn(Txn((), (Put(damaged, b""),)))
    client = cast(Client, pool.etcd)
    await Sweeper(client, Mirror(client, pool.keys), 0, 0).sweep()
    assert [each.key for each in (await pool.etcd.page(pool.keys.ends)).found] == [damaged]
    assert not await pool.has(pool.keys.state(JOB))
    assert [each["log_level"] for each in log_guard if each["log_level"] == "error"] == ["error"]
