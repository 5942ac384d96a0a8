"""What a broker of a pool answers while what it has heard of etcd is older than what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing
from structlog.typing import EventDict

from jobd.broker.admission import ANYTHING, Policy
from jobd.pools.etcd import ends
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.ends import Ending
from jobd.pools.etcd.errors import StoreFullError, StoreUnavailableError
from jobd.pools.etcd.front import Front
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.orders import end_facts
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.transaction import KeyValue, Outcome, Txn
from jobd.quota import Quota, QuotaPolicy
from jobd.worker.errors import PoolFullError, PoolUnavailableError, TooManyJobsError
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from tests.support.memory_etcd import MemoryEtcd
from tests.support.pool_steps import JOB, Pool, freeze


class Etcd(MemoryEtcd):
    """One that can be away, or full."""

    away = False
    full = False

    async def txn(self, txn: Txn) -> Outcome:
        if self.full:  # etcd does not look at what a transaction would do
            raise StoreFullError("the quota of the etcd at m1 is used up")
        return await super().txn(txn)

    async def get(self, key: bytes) -> KeyValue | None:
        if self.away:
            raise StoreUnavailableError("nobody answers")
        return await super().get(key)


@dataclass
class Broker:
    """A broker, the pool's etcd, and what it hears of that when it is told to."""

    pool: Pool
    etcd: Etcd
    mirror: Mirror
    front: Front

    def hear(self) -> None:
        """All that there is in etcd now."""
        mirror = self.mirror
        for part in mirror._parts:
            part.whole.set()
            for key, at in self.etcd.kvs.items():
                if key.startswith(part.prefix):
                    part.keys[key] = at
                    part._heard(key, part._read(at))
                    part._wake(key)


@pytest.fixture
def broker() -> Broker:
    etcd = Etcd()
    pool = Pool(etcd=etcd)
    mirror = Mirror(cast(Client, etcd), pool.keys)
    made = Broker(pool, etcd, mirror, Front(cast(Client, etcd), mirror, Seal(), policy=ANYTHING, max_pending=9))
    made.hear()
    return made


async def stop(pool: Pool) -> None:
    """Before anybody has claimed the job."""
    job = Job(JOB, JobSpec(("x",)), State.STOPPED, 5, started_by="ann", request_id="r", ended_at=9)
    await pool.take(ends.stop(pool.keys, await pool.found(), Ending(9, end_facts(job), "ann", "r")))


async def test_an_end_that_is_heard_of_while_a_wait_looks_is_not_missed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The job is new to this broker; the only change of it that is to come does so while the wait asks for it."""
    await broker.pool.submit()
    looked = 0

    async def get(key: bytes) -> KeyValue | None:
        nonlocal looked
        found = broker.etcd.kvs.get(key)
        looked += key == broker.pool.keys.state(JOB)
        if looked == 2:  # the first look has found the job, this is the one before waiting
            await stop(broker.pool)
            broker.hear()
        return found

    monkeypatch.setattr(broker.etcd, "get", get)
    with trio.fail_after(10):
        [job] = await broker.front.wait([JOB], any_of_them=False)
    assert job.state is State.STOPPED


async def test_what_a_broker_has_not_heard_yet_it_reads(broker: Broker) -> None:
    """Another broker has ended the job, and said so."""
    await broker.pool.submit()
    broker.hear()
    await stop(broker.pool)
    assert (await broker.front.find(JOB)).job.state is State.STOPPED


async def test_while_etcd_is_away_a_broker_says_what_cannot_be_over(broker: Broker) -> None:
    """Who has a job, who then tells of it; not that it waits, or cannot be reached."""
    await broker.pool.enter()
    await broker.pool.submit()
    broker.hear()
    assert (await broker.front.find(JOB)).job.state is State.PENDING
    broker.etcd.away = True
    with pytest.raises(PoolUnavailableError):
        await broker.front.find(JOB)
    broker.etcd.away = False
    await broker.pool.place()
    await broker.pool.claim()
    broker.hear()
    broker.etcd.away = True
    assert (await broker.front.find(JOB)).worker == "w1"
    broker.etcd.away = False
    broker.etcd.expire(7)
    await broker.pool.take(ends.gone(broker.pool.keys, await broker.pool.found(), 5))
    broker.hear()
    assert (await broker.front.find(JOB)).unreachable
    broker.etcd.away = True
    with pytest.raises(PoolUnavailableError):
        await broker.front.find(JOB)


async def test_a_worker_that_has_come_since_is_known(broker: Broker) -> None:
    """It has a job, and the broker has not heard of it: it is asked for all the same."""
    await broker.pool.running()
    assert (await broker.front.find(JOB)).worker == "w1"
    assert (await broker.front.claimed(JOB)).address == "h:1"


async def test_a_principal_has_so_many_jobs_in_the_pool(broker: Broker) -> None:
    """Not more, whichever broker took them; one that was asked for before is no further one."""
    policy = Policy(quota=QuotaPolicy(everyone=Quota(jobs=2)))
    front = Front(cast(Client, broker.etcd), broker.mirror, Seal(), policy=policy, max_pending=9)

    async def start(by: str, request_id: str) -> Job:
        return await front.start(JobSpec(("x",)), by=by, roles=(), request_id=request_id)

    await broker.pool.submit()  # by ann, at another broker
    broker.hear()
    second = await start("ann", "second")
    with pytest.raises(TooManyJobsError, match="at most 2 jobs of ann"):
        await start("ann", "third")
    assert (await start("ann", "second")).id == second.id
    await start("bob", "first")
    await stop(broker.pool)
    broker.hear()
    await start("ann", "third")


async def test_a_start_says_why_its_job_waits(broker: Broker) -> None:
    """As whoever asks later is told: not that it is about to be placed, when nobody can take it."""

    async def told(**labels: str) -> str:
        job = await broker.front.start(JobSpec(("x",), worker_labels=labels), by="ann", roles=(), request_id="")
        broker.hear()
        assert (await broker.front.find(job.id)).job.message == job.message
        return job.message

    assert await told() == "no worker is there"
    await broker.pool.enter()
    broker.hear()
    assert await told() == "it is about to be placed"
    assert await told(gpu="h100") == "no worker has the label gpu=h100"
    await broker.pool.take(freeze(broker.pool.keys))
    broker.hear()
    assert "frozen" in await told()


async def test_an_etcd_that_is_full_takes_no_new_jobs_and_tells_of_those_that_it_has(
    broker: Broker, log_guard: list[EventDict]
) -> None:
    """Whoever starts one is told to try again, or elsewhere; why is in the log, for whoever can make room."""
    job = await broker.front.start(JobSpec(("x",)), by="ann", roles=(), request_id="r")
    broker.etcd.full = True
    with pytest.raises(PoolFullError):
        await broker.front.start(JobSpec(("x",)), by="ann", roles=(), request_id="s")
    assert [each["error"] for each in log_guard if each["event"] == "etcd cannot be written"] == [
        "the quota of the etcd at m1 is used up"
    ]
    broker.hear()
    assert (await broker.front.find(job.id)).job.state is State.PENDING
    assert broker.mirror.tally.of("ann") == 1
    broker.etcd.full = False
    assert (await broker.front.start(JobSpec(("x",)), by="ann", roles=(), request_id="s")).id != job.id
