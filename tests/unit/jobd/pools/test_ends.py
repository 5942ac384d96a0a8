"""The way of a job from its worker, and its ends."""

from __future__ import annotations

import pytest

from jobd.pools.etcd import ends, membership, steps
from jobd.pools.etcd.records import Phase
from jobd.pools.etcd.steps import Verdict
from jobd.pools.etcd.transaction import KeyValue
from tests.support.pool_steps import JOB, LEASE, Pool, ending, freeze, thaw


async def claim_of(pool: Pool) -> KeyValue:
    return await pool.at(pool.keys.claim(JOB))


async def test_a_job_of_a_worker_that_is_gone_waits_again_if_it_was_not_claimed(pool: Pool) -> None:
    """Nobody has begun it."""
    await pool.enter()
    await pool.submit()
    await pool.place()
    gone = ends.gone(pool.keys, await pool.found(), 5)
    assert steps.done(await pool.take(gone)) is Verdict.AGAIN, "it is there"
    pool.etcd.expire(LEASE)
    assert steps.done(await pool.take(gone)) is Verdict.DONE
    assert (await pool.found()).state.phase == Phase.PENDING
    assert not await pool.has(pool.keys.assigned("w1", JOB))


async def test_a_job_that_was_claimed_is_unreachable_and_comes_back(pool: Pool) -> None:
    """It is not placed again. When its worker is there again it says so, and needs no session for it."""
    await pool.running()
    pool.etcd.expire(LEASE)
    assert steps.done(await pool.take(ends.gone(pool.keys, await pool.found(), 5))) is Verdict.DONE
    found = await pool.found()
    assert (found.state.phase, found.state.unreachable) == (Phase.CLAIMED, 5)
    assert not await pool.has(pool.keys.queued(JOB))
    await pool.take(ends.report(pool.keys, found, await claim_of(pool), None))
    assert (await pool.found()).state.unreachable == 0


async def test_the_end_that_comes_first_stays(pool: Pool) -> None:
    """An operator forgot the job, and then it ended; or the other way round."""
    await pool.running()
    pool.etcd.expire(LEASE)
    found = await pool.found()
    report = ends.report(pool.keys, found, await claim_of(pool), ending())
    assert steps.done(await pool.take(ends.forget(pool.keys, found, ending("lost", lost=True)))) is Verdict.DONE
    outcome = await pool.take(report)
    assert ends.reported(pool.keys, outcome, found) is Verdict.OVER
    assert (await pool.found()).state.job == {"state": "lost"}
    assert await pool.has(pool.keys.assigned("w1", JOB)), "so that its worker hears of it"
    await pool.take(ends.settle(pool.keys, "w1", await pool.found()))
    assert not await pool.has(pool.keys.assigned("w1", JOB))


async def test_a_report_is_made_anew_when_the_job_has_changed(pool: Pool) -> None:
    """Meanwhile it was found to be unreachable."""
    await pool.running()
    found = await pool.found()
    report = ends.report(pool.keys, found, await claim_of(pool), ending())
    pool.etcd.expire(LEASE)
    await pool.take(ends.gone(pool.keys, found, 5))
    assert ends.reported(pool.keys, await pool.take(report), found) is Verdict.AGAIN
    again = ends.report(pool.keys, await pool.found(), await claim_of(pool), ending())
    assert ends.reported(pool.keys, await pool.take(again), found) is Verdict.DONE
    assert ends.reported(pool.keys, await pool.take(again), found) is Verdict.OVER, "it is so already"


async def test_a_lost_job_runs_again_only_if_that_was_asked_for(pool: Pool) -> None:
    """Each attempt has a claim of its own; after the last one it is lost."""
    await pool.running()
    lost, first = ending("lost", lost=True, retries=1), await pool.found()
    late = ends.report(pool.keys, first, await claim_of(pool), ending())
    await pool.take(ends.report(pool.keys, await pool.found(), await claim_of(pool), lost))
    found = await pool.found()
    assert (found.state.phase, found.state.attempt) == (Phase.PENDING, 1)
    await pool.place()
    assert await pool.claim(id_="n2") is Verdict.DONE
    second = await pool.at(pool.keys.claim(JOB, 1))
    assert ends.reported(pool.keys, await pool.take(late), first) is Verdict.OVER
    await pool.take(ends.report(pool.keys, await pool.found(), second, lost))
    assert (await pool.found()).ended


@pytest.mark.parametrize("phase", ["pending", "assigned", "claimed"])
async def test_a_stop_ends_what_nobody_has_claimed(pool: Pool, phase: str) -> None:
    """What was claimed is its worker's to stop."""
    await pool.enter()
    await pool.submit()
    if phase != "pending":
        await pool.place()
    stop = ends.stop(pool.keys, await pool.found(), ending("stopped"))
    if phase == "claimed":
        await pool.claim()
    verdict = steps.done(await pool.take(stop))
    assert verdict is (Verdict.AGAIN if phase == "claimed" else Verdict.DONE)
    if verdict is Verdict.DONE:
        gone = [pool.keys.queued(JOB), pool.keys.assigned("w1", JOB), pool.keys.private(JOB)]
        assert not any([await pool.has(key) for key in gone])
        assert (await pool.found()).ended


async def test_a_claim_that_etcd_has_forgotten_is_put_back_while_the_pool_is_frozen(pool: Pool) -> None:
    """After a restore: the job had been claimed, and is in the queue."""
    await pool.enter("w1")
    await pool.enter("w2", lease=8)
    await pool.submit()
    await pool.place("w2")
    await pool.take(freeze(pool.keys))
    frozen, session = await pool.at(pool.keys.frozen), await pool.at(pool.keys.session("w1"))
    found = await pool.found()
    txn = ends.reassert(pool.keys, found, frozen, session, pool.intent())
    await pool.take(thaw(pool.keys))
    assert not (await pool.take(txn)).held
    await pool.take(freeze(pool.keys))
    txn = ends.reassert(pool.keys, found, await pool.at(pool.keys.frozen), session, pool.intent())
    assert (await pool.take(txn)).held
    assert (await pool.found()).state.worker == "w1"
    assert pool.intent().mine(await claim_of(pool))
    assert not await pool.has(pool.keys.assigned("w2", JOB))


async def test_a_report_from_before_a_restore_is_none_of_a_job_that_nobody_has(pool: Pool) -> None:
    """Revisions come a second time: that the job is as it was read proves nothing, that its claim is there does."""
    await pool.enter("w1")
    await pool.enter("w2", lease=8)
    await pool.submit()
    backup = pool.etcd.kvs, pool.etcd.revision
    await pool.place()
    await pool.claim()
    read = await pool.found()
    report = ends.report(pool.keys, read, await claim_of(pool), ending())
    pool.etcd.kvs, pool.etcd.revision = backup
    await pool.take(membership.drain(pool.keys, await pool.at(pool.keys.member("w1")), "ann", 1))
    await pool.place("w2")
    assert (await pool.found()).at.modified == read.at.modified
    assert not (await pool.take(report)).held
    assert (await pool.found()).state.phase == Phase.ASSIGNED
