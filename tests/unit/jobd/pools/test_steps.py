"""The way of a job to its worker. (What all orders of all steps come to is searched in tests/properties/pool.)"""

from __future__ import annotations

import pytest

from api.errors import UnavailableError
from jobd.pools.etcd import ends, membership, steps
from jobd.pools.etcd.records import Phase
from jobd.pools.etcd.steps import Submitted, Verdict
from tests.support.memory_etcd import Fate
from tests.support.pool_steps import JOB, LEASE, Pool, ending, freeze

OTHER = JOB[:-1] + "2"


async def test_a_job_takes_four_writes(pool: Pool) -> None:
    """Submit, place, claim and its end; nothing else is written on the way of a job that meets no trouble."""
    await pool.enter()
    before = pool.etcd.revision
    await pool.submit()
    assert await pool.place() is Verdict.DONE
    assert await pool.claim() is Verdict.DONE
    claim = await pool.at(pool.keys.claim(JOB))
    outcome = await pool.take(ends.report(pool.keys, await pool.found(), claim, ending()))
    assert ends.reported(pool.keys, outcome, await pool.found()) is Verdict.DONE
    assert pool.etcd.revision - before == 4
    left = {key.split(b"/")[2] for key in pool.etcd.kvs}
    assert left == {b"m", b"up", b"req", b"spec", b"j", b"c", b"e"}


async def test_a_request_is_one_job(pool: Pool) -> None:
    """Sent again, to whichever broker, it is the same; another one with its id is told so."""
    assert await pool.submit() == Submitted(JOB)
    assert await pool.submit(job=OTHER) == Submitted(JOB, same=True)
    assert await pool.submit(job=OTHER, hash_="other") == Submitted(JOB, same=False)
    assert not await pool.has(pool.keys.state(OTHER))


@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("request_id", ["", "r"])
async def test_a_submit_in_doubt_is_sent_again(pool: Pool, fate: Fate, request_id: str) -> None:
    """Then there is one job, whatever became of the first sending, and it is queued once."""
    pool.etcd.doubts.append(fate)
    with pytest.raises(UnavailableError):
        await pool.submit(request_id=request_id)
    assert await pool.submit(request_id=request_id) == Submitted(JOB)
    pool.etcd.arrive()
    page = await pool.etcd.page(pool.keys.everything)
    assert sum(at.key.startswith(pool.keys.states) for at in page.found) == 1
    assert (await pool.at(pool.keys.state(JOB))).created == (await pool.at(pool.keys.state(JOB))).modified


@pytest.mark.parametrize("fate", Fate)
async def test_a_claim_in_doubt_is_sent_again(pool: Pool, fate: Fate) -> None:
    """By who has written its intent down; the second answer is as good as the first would have been."""
    await pool.enter()
    await pool.submit()
    await pool.place()
    pool.etcd.doubts.append(fate)
    with pytest.raises(UnavailableError):
        await pool.claim()
    assert await pool.claim() is Verdict.DONE
    pool.etcd.arrive()
    assert pool.intent().mine(await pool.at(pool.keys.claim(JOB)))


async def test_a_claim_of_another_intent_is_not_ones_own(pool: Pool) -> None:
    """Not of another machine, nor of a copy of this one, which has its name and identity."""
    await pool.enter()
    await pool.submit()
    await pool.place()
    assert await pool.claim(id_="n1") is Verdict.DONE
    assert await pool.claim(id_="n2") is Verdict.OVER


async def test_of_two_places_one_is_done(pool: Pool) -> None:
    """Two brokers have read the same."""
    await pool.enter("w1")
    await pool.enter("w2", lease=8)
    pool.etcd.grant(8)
    await pool.submit()
    first, second = await pool.place_txn("w1"), await pool.place_txn("w2")
    assert steps.done(await pool.take(first)) is Verdict.DONE
    assert steps.done(await pool.take(second)) is Verdict.AGAIN
    assert not await pool.has(pool.keys.assigned("w2", JOB))


@pytest.mark.parametrize("trouble", ["session", "drain", "freeze", "stop"])
async def test_nothing_is_placed_or_claimed_when_it_should_not_be(pool: Pool, trouble: str) -> None:
    """What was read before has changed meanwhile."""

    async def happens() -> None:
        match trouble:
            case "session":
                pool.etcd.expire(LEASE)
            case "drain":
                await pool.take(membership.drain(pool.keys, await pool.at(pool.keys.member("w1")), "ann", 1))
            case "freeze":
                await pool.take(freeze(pool.keys))
            case "stop":
                await pool.take(ends.stop(pool.keys, await pool.found(), ending("stopped")))

    await pool.enter()
    await pool.submit()
    place = await pool.place_txn()
    kvs = pool.etcd.kvs
    await happens()
    assert steps.done(await pool.take(place)) is Verdict.AGAIN
    pool.etcd.kvs = kvs
    pool.etcd.grant(LEASE)
    assert steps.done(await pool.take(place)) is Verdict.DONE
    claim, assigned = await pool.claim_txn()
    await happens()
    verdict = steps.claimed(await pool.take(claim), assigned, pool.intent())
    assert verdict is (Verdict.OVER if trouble == "stop" else Verdict.AGAIN)
    assert not await pool.has(pool.keys.claim(JOB))


async def test_what_is_private_is_there_until_the_claim(pool: Pool) -> None:
    """Unless the job may be run again: then until its end."""
    await pool.enter()
    await pool.submit()
    await pool.place()
    assigned, session = await pool.at(pool.keys.assigned("w1", JOB)), await pool.at(pool.keys.session("w1"))
    found = await pool.found()
    kept = steps.claim(pool.keys, found, assigned, session, pool.intent(), last=False)
    assert pool.keys.private(JOB) not in {step.key for step in kept.then}
    assert await pool.has(pool.keys.private(JOB))
    await pool.claim()
    assert not await pool.has(pool.keys.private(JOB))


async def test_a_job_that_waits_again_has_its_old_place(pool: Pool) -> None:
    """Behind those that came before it, and before those that came after."""
    await pool.enter()
    await pool.submit()
    order = (await pool.found()).order
    await pool.place()
    await pool.take(ends.give_back(pool.keys, await pool.found()))
    found, queued = await pool.found(), await pool.at(pool.keys.queued(JOB))
    assert found.state.phase == Phase.PENDING
    assert steps.place_of(queued) == order < queued.created
