"""How a broker of a pool finds out that a worker is gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import trio
import trio.testing

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.errors import StoreUnavailableError
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.roster import AGAIN, Roster
from jobd.pools.etcd.transaction import KeyValue
from tests.support.memory_etcd import MemoryEtcd
from tests.support.pool_steps import LEASE, Pool


@dataclass
class Etcd(MemoryEtcd):
    """One that can be away; it counts who asks."""

    away: bool = False
    asked: list[bytes] = field(default_factory=list)

    async def get(self, key: bytes) -> KeyValue | None:
        self.asked.append(key)
        if self.away:
            raise StoreUnavailableError("nobody answers")
        return await super().get(key)


async def test_of_a_worker_that_was_not_heard_of_etcd_is_asked_until_it_answers(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Once in a while, and not all the time: nothing more may be heard of it."""
    etcd = Etcd(away=True)
    pool = Pool(etcd=etcd)
    roster = Roster(cast(Client, etcd), Mirror(cast(Client, etcd), pool.keys))
    over = trio.Event()

    async def wait() -> None:
        await roster.gone("w1")
        over.set()

    nursery.start_soon(wait)
    await trio.sleep(9.5 * AGAIN)
    assert (etcd.asked, over.is_set()) == ([pool.keys.session("w1")] * 10, False)
    etcd.away = False
    with trio.fail_after(AGAIN):
        await over.wait()


async def test_a_worker_that_came_and_went_unheard_is_gone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Its session was there when etcd was asked, and is not in what is heard, neither before nor after."""
    etcd = Etcd()
    pool = Pool(etcd=etcd)
    await pool.enter()
    roster = Roster(cast(Client, etcd), Mirror(cast(Client, etcd), pool.keys))
    over = trio.Event()

    async def wait() -> None:
        await roster.gone("w1")
        over.set()

    nursery.start_soon(wait)
    await trio.sleep(AGAIN / 2)
    assert not over.is_set()
    etcd.expire(LEASE)
    with trio.fail_after(2 * AGAIN):
        await over.wait()
