"""Whether a worker of a pool takes new jobs."""

from __future__ import annotations

from typing import cast

import trio
import trio.testing

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.doors import CLOSED, LONGEST, Doors
from jobd.pools.etcd.errors import StoreUnavailableError
from jobd.pools.etcd.records import Session
from jobd.pools.etcd.transaction import KeyValue
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


class Weak(MemoryEtcd):
    """An etcd that does not answer some calls."""

    away = 0

    async def get(self, key: bytes) -> KeyValue | None:
        if self.away:
            self.away -= 1
            raise StoreUnavailableError("nobody answers")
        return await super().get(key)


async def test_it_is_said_though_etcd_fails_meanwhile(autojump_clock: trio.testing.MockClock) -> None:
    """And nothing is, of a session that is gone."""
    etcd = Weak()
    pool = Pool(etcd=etcd)
    await pool.enter()
    doors = Doors(cast(Client, etcd), pool.keys, "w1")
    etcd.away = 3
    await doors.close()
    assert not await accepting(pool)
    gone = Doors(cast(Client, pool.etcd), pool.keys, "w2")
    await gone.close()
    assert not await pool.has(pool.keys.session("w2"))
