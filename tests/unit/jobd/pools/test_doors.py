"""Whether a worker of a pool takes new jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import cast

import pytest
import trio
import trio.testing

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.doors import CLOSED, COUNTED, LONGEST, Doors
from jobd.pools.etcd.errors import StoreUnavailableError
from jobd.pools.etcd.records import Session
from jobd.pools.etcd.transaction import KeyValue, Outcome, Put, Txn
from tests.support.memory_etcd import MemoryEtcd
from tests.support.pool_steps import LEASE, Pool


async def accepting(pool: Pool) -> bool:
    up = await pool.at(pool.keys.session("w1"))
    return decode(Session, up.key, up.value).accepting


async def test_a_worker_that_takes_no_jobs_tries_again_after_a_while(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """After a longer one when that was too early, and as at first when it was not. Its session stays the same."""
    pool = Pool()
    await pool.enter()
    before = await pool.at(pool.keys.session("w1"))
    doors = Doors(cast(Client, pool.etcd), pool.keys, "w1")
    nursery.start_soon(doors.run)
    for pause in (CLOSED, 2 * CLOSED):
        await doors.close()
        await doors.close()
        assert not await accepting(pool)
        await trio.sleep(pause - 0.1)
        assert not await accepting(pool)
        await trio.sleep(0.2)
        assert await accepting(pool)
    await trio.sleep(LONGEST + 1)
    await doors.close()
    await trio.sleep(CLOSED + 0.1)
    assert await accepting(pool)
    now = await pool.at(pool.keys.session("w1"))
    assert (now.created, now.lease) == (before.created, before.lease) == (before.created, LEASE)


@dataclass
class Weak(MemoryEtcd):
    """An etcd that does not answer until then, and takes so long to write."""

    away_until: float = 0.0
    slow: float = 0.0

    async def get(self, key: bytes) -> KeyValue | None:
        if trio.current_time() < self.away_until:
            raise StoreUnavailableError("nobody answers")
        return await super().get(key)

    async def txn(self, txn: Txn) -> Outcome:
        await trio.sleep(self.slow)
        return await super().txn(txn)


@pytest.fixture
async def weak() -> Pool:
    """A pool with one worker, whose etcd does not always answer."""
    pool = Pool(etcd=Weak())
    await pool.enter()
    return pool


def away(pool: Pool, seconds: float) -> None:
    assert isinstance(pool.etcd, Weak)
    pool.etcd.away_until = trio.current_time() + seconds


async def test_it_is_said_though_etcd_fails_meanwhile(autojump_clock: trio.testing.MockClock, weak: Pool) -> None:
    """And nothing is, of a session that is gone."""
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    away(weak, 1)
    await doors.close()
    assert not await accepting(weak)
    gone = Doors(cast(Client, weak.etcd), weak.keys, "w2")
    await gone.close()
    assert not await weak.has(weak.keys.session("w2"))


async def test_they_are_opened_however_long_etcd_is_away(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool
) -> None:
    """A worker that nobody gives a job would never find out."""
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    away(weak, 10 * CLOSED)
    await trio.sleep(11 * CLOSED)
    assert await accepting(weak)


async def test_whoever_closes_them_does_not_wait_for_an_etcd_that_is_away(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool
) -> None:
    """There is a job to give back. Nor is it said much later, when nothing may be wrong any more."""
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    away(weak, 10 * CLOSED)
    with trio.fail_after(CLOSED + 0.1):
        await doors.close()
    await trio.sleep(11 * CLOSED)
    assert await accepting(weak)


async def test_they_are_closed_in_a_session_that_was_made_anew(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """That has them open, though they were closed in the one before."""
    pool = Pool()
    await pool.enter()
    doors = Doors(cast(Client, pool.etcd), pool.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    up = await pool.at(pool.keys.session("w1"))
    anew = replace(decode(Session, up.key, up.value), accepting=True)
    await pool.take(Txn((), (Put(up.key, encode(anew), up.lease),)))
    await doors.close()
    assert not await accepting(pool)
    await trio.sleep(CLOSED + 0.1)
    assert await accepting(pool)


@pytest.mark.parametrize("seed", range(6))
async def test_to_close_them_while_they_are_opened_is_not_lost(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool, seed: int
) -> None:
    """They stay closed for their time, and are opened again after it."""
    random.seed(seed)  # how long each waits until it tries again
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    away(weak, CLOSED + 3)
    await trio.sleep(CLOSED + 1)  # they would be open by now
    until = trio.current_time() + 2 * CLOSED
    await doors.close()
    while trio.current_time() < until:
        assert not await accepting(weak)
        await trio.sleep(0.1)
    await trio.sleep(LONGEST)
    assert await accepting(weak)


async def test_what_is_said_last_stays(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool
) -> None:
    """Whoever closes them does not take the session for one that is closed, while it is about to say the contrary."""
    assert isinstance(weak.etcd, Weak)
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    weak.etcd.slow = 1.0
    await trio.sleep(CLOSED + 0.5)
    await doors.close()
    await trio.sleep(1)
    assert not await accepting(weak)


@pytest.mark.parametrize("seed", range(6))
async def test_closed_again_just_before_they_are_opened_they_are_opened_later(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool, seed: int
) -> None:
    """Whichever of both is said first, when etcd is back."""
    random.seed(seed)  # how long each waits until it tries again
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    await trio.sleep(CLOSED - 0.5)
    away(weak, 1)
    await doors.close()
    await trio.sleep(LONGEST)
    assert await accepting(weak)


async def test_what_etcd_takes_late_is_taken_back(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, weak: Pool
) -> None:
    """That they are closed was given up, and comes to stand when they have been opened: nobody would close them again,
    nor find out."""
    doors = Doors(cast(Client, weak.etcd), weak.keys, "w1")
    nursery.start_soon(doors.run)
    await doors.close()
    await trio.sleep(CLOSED + 0.1)
    up = await weak.at(weak.keys.session("w1"))
    late = replace(decode(Session, up.key, up.value), accepting=False)
    await weak.take(Txn((), (Put(up.key, encode(late), up.lease),)))
    await trio.sleep(LONGEST + 1)
    assert await accepting(weak)


async def test_its_own_jobs_are_said_seldom(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """Once when there was no slot for a job, or a while after they began or ended; again in a session that is made
    anew. That the doors are closed stays said meanwhile."""
    pool, own = Pool(), 2
    await pool.enter()
    doors = Doors(cast(Client, pool.etcd), pool.keys, "w1", lambda: own)
    nursery.start_soon(doors.run)

    async def said() -> int:
        up = await pool.at(pool.keys.session("w1"))
        return decode(Session, up.key, up.value).own

    begun = pool.etcd.revision
    for _ in range(100):
        await doors.full()
        assert await said() == 2
    await trio.sleep(3 * LONGEST)
    assert pool.etcd.revision == begun + 1
    await doors.close()
    own = 1
    await doors.full()
    assert await said() == 1
    assert not await accepting(pool)
    own = 0
    await trio.sleep(COUNTED + 0.1)
    assert await said() == 0
    await pool.enter(instance="i2")
    own = 3
    await doors.full()
    assert await said() == 3
