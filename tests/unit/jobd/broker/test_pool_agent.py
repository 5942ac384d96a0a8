"""A worker of a pool: a real broker, and an etcd in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
from structlog.typing import EventDict

from jobd.broker.admission import ANYTHING
from jobd.broker.broker import Broker
from jobd.pools.etcd import steps
from jobd.pools.etcd.agent import Agent
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.errors import StoreFullError, StoreUnavailableError
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import JobState, Order, Phase, Queued, Session
from jobd.pools.etcd.transaction import Delete, Outcome, Put, Txn
from jobd.pools.etcd.watch import Listed
from jobd.worker.errors import StoreError
from jobd.worker.facts import spec_facts
from jobd.worker.job import Job, JobSpec
from jobd.worker.supervisor import Stop
from tests.support.broker import Make
from tests.support.patience import patient
from tests.support.pool_steps import JOB, Pool, thaw

OTHER = f"{JOB[:-1]}2"
SLEEPS = JobSpec(("sleep", "1000"))


async def assign(pool: Pool, job: str, facts: Mapping[str, Any]) -> None:
    """A job that w1 is to run."""
    one = replace(pool, job=job)
    await one.submit(request_id=job, job=job)
    order = Order(spec=facts, principal="ann", created_at=5, request_id=job)
    await pool.etcd.txn(Txn((), (Put(pool.keys.spec(job), encode(order)),)))
    await one.place()


@asynccontextmanager
async def agent_of(pool: Pool, broker: Broker, name: str = "w1") -> AsyncIterator[None]:
    """It hears of what becomes of etcd at once."""
    client = cast(Client, pool.etcd)
    mirror, told = Mirror(client, pool.keys), 0
    up = await pool.at(pool.keys.session("w1"))
    agent = Agent(
        client,
        mirror,
        broker,
        broker.registry._store,
        Seal(),
        name=name,
        uid="uid-w1",
        epoch=lambda: up.created,
        policy=ANYTHING,
        workers=list(broker._workers.values()),
    )

    async def hear() -> None:
        nonlocal told
        while True:
            if told != pool.etcd.revision:
                told = pool.etcd.revision
                for part in mirror._parts:
                    page = await pool.etcd.page(part.prefix)
                    part._list(Listed(page.found, page.revision, first=True, last=True))
                mirror._tell()
            await trio.sleep(0.005)

    with trio.fail_after(patient(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            nursery.start_soon(agent.run)
            yield
            nursery.cancel_scope.cancel()


async def phase_of(pool: Pool, job: str, wanted: str) -> steps.Found:
    """The job, when it has come so far."""
    while (found := await replace(pool, job=job).found()).state.phase != wanted:
        await trio.sleep(0.005)
    return found


async def test_what_nobody_could_foresee_about_one_job_ends_no_other(
    make: Make, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """Nor the server: somebody has written a spec that none of ours ever was."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, {**spec_facts(SLEEPS), "env": 7})
    await assign(pool, OTHER, spec_facts(JobSpec(("true",))))
    async with make() as broker, agent_of(pool, broker):
        assert (await phase_of(pool, OTHER, "ended")).state.job["state"] == "succeeded"
        while not any(each["log_level"] == "error" for each in log_guard):
            await trio.sleep(0.005)
    assert {each["job"] for each in log_guard if each["log_level"] == "error"} == {JOB}


async def test_a_worker_says_that_a_job_is_there_where_brokers_can_find_it(make: Make) -> None:
    """Once, when it is back; and not under another name, since brokers would say the contrary, without end."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(SLEEPS))
    async with make() as broker:
        async with agent_of(pool, broker):
            found = await phase_of(pool, JOB, "claimed")
            await pool.etcd.txn(Txn((), (found.changed(unreachable=9),)))
            while (await pool.found()).state.unreachable:
                await trio.sleep(0.005)
        found = await pool.found()
        await pool.etcd.txn(Txn((), (found.changed(unreachable=9),)))
        async with agent_of(pool, broker, name="w2"):
            while not any(part for part in broker.registry.live if part.cell.job.pid):
                await trio.sleep(0.005)
            await broker.stop(JOB, Stop(by="ann"))
            ended = await phase_of(pool, JOB, "ended")
            assert ended.at.modified == found.at.modified + 2, "nothing was written in between"


async def test_an_end_that_etcd_has_not_heard_of_outlives_the_job_s_own_record(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd is away, and retention is not: how the job ended is told all the same."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(SLEEPS))

    async def away(key: bytes) -> None:
        raise StoreUnavailableError("etcd is away")

    async with make() as broker, agent_of(pool, broker):
        await phase_of(pool, JOB, "claimed")
        while not any(each.cell.job.pid for each in broker.registry.live):
            await trio.sleep(0.005)
        with monkeypatch.context() as patched:
            patched.setattr(pool.etcd, "get", away)
            await broker.stop(JOB, Stop(by="ann"))
            await broker.delete(JOB)
        assert (await phase_of(pool, JOB, "ended")).state.job["state"] == "stopped"


async def test_an_end_waits_until_etcd_has_room(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its quota is used up: the job goes on, and its end is told when somebody has made room."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(SLEEPS))

    async def full(txn: Txn) -> Outcome:
        refused.set()
        raise StoreFullError("the quota is used up")

    refused = trio.Event()
    async with make() as broker, agent_of(pool, broker):
        await runs(broker, JOB)
        with monkeypatch.context() as patched:
            patched.setattr(pool.etcd, "txn", full)
            await broker.stop(JOB, Stop(by="ann"))
            await refused.wait()
            assert (await pool.found()).state.phase == "claimed"
        assert (await phase_of(pool, JOB, "ended")).state.job["state"] == "stopped"


async def test_a_machine_that_cannot_record_a_job_gives_it_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that it takes no others for now: somebody else has room on its disk."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(SLEEPS))

    async def full(job: Job) -> Job:
        raise StoreError("no space left on device")

    async with make() as broker:
        monkeypatch.setattr(broker.registry._store, "insert", full)
        async with agent_of(pool, broker):
            found = await phase_of(pool, JOB, "pending")
            assert not await pool.has(pool.keys.assigned("w1", JOB))
            up = await pool.at(pool.keys.session("w1"))
            assert not decode(Session, up.key, up.value).accepting
        assert found.state.worker == ""
        assert not broker.registry.live


async def runs(broker: Broker, job: str) -> None:
    while not any(each.cell.job.id == job and each.cell.job.pid for each in broker.registry.live):
        await trio.sleep(0.005)


async def own_jobs(pool: Pool, count: int) -> None:
    """It has come to that w1 says that it has so many."""
    while decode(Session, b"", (await pool.at(pool.keys.session("w1"))).value).own != count:
        await trio.sleep(0.005)


async def test_jobs_that_the_pool_does_not_know_take_up_slots(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for which they leave no room is given back when it is said how many they are; and when they end, that is
    said too."""
    monkeypatch.setattr("jobd.pools.etcd.doors.COUNTED", 0.01)
    pool = Pool()
    await pool.enter()
    async with make(slots=1) as broker, agent_of(pool, broker):
        unknown = await broker.start(SLEEPS, by="ann")
        await own_jobs(pool, 1)
        await assign(pool, JOB, spec_facts(SLEEPS))
        await phase_of(pool, JOB, "pending")
        await broker.stop(unknown.id, Stop(by="ann"))
        await own_jobs(pool, 0)
        await pool.place()
        await phase_of(pool, JOB, "claimed")
        await own_jobs(pool, 0)


async def test_a_job_is_given_back_when_it_is_said_why_there_is_no_room(make: Make) -> None:
    """And not before, or a broker would give it to us again at once."""
    pool = Pool()
    await pool.enter()
    async with make(slots=1) as broker:
        await broker.start(SLEEPS, by="ann")
        await assign(pool, JOB, spec_facts(SLEEPS))
        given = (await pool.found()).at.modified
        async with agent_of(pool, broker):
            back = await phase_of(pool, JOB, "pending")
            up = await pool.at(pool.keys.session("w1"))
            assert given < up.modified < back.at.modified
            assert decode(Session, up.key, up.value).own == 1


async def test_claims_that_a_restore_took_away_are_put_back(make: Make) -> None:
    """While the pool is frozen: of a job that runs, and of one that has ended, of which nothing reminds us."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(SLEEPS))
    await assign(pool, OTHER, spec_facts(JobSpec(("true",))))
    async with make() as broker, agent_of(pool, broker):
        await phase_of(pool, OTHER, "ended")
        await runs(broker, JOB)
        await pool.etcd.txn(as_before_they_were_taken(pool.keys, JOB, OTHER))
        await phase_of(pool, OTHER, "ended")
        await phase_of(pool, JOB, "claimed")
        assert not (await pool.etcd.page(pool.keys.queue)).found
        await pool.take(thaw(pool.keys))
        await broker.stop(JOB, Stop(by="ann"))
        assert (await phase_of(pool, JOB, "ended")).state.job["state"] == "stopped"


def as_before_they_were_taken(keys: Keys, *jobs: str, frozen: bool = True) -> Txn:
    """What a restore of a day before does to them, and an operator."""
    steps: list[Put | Delete] = [Put(keys.frozen, b"{}")] if frozen else []
    for job in jobs:
        steps.append(Put(keys.state(job), encode(JobState(phase=Phase.PENDING, by="ann"))))
        steps.append(Put(keys.queued(job), encode(Queued())))
        steps += [Delete(keys.claim(job)), Delete(keys.assigned("w1", job))]
    return Txn((), tuple(steps))


async def test_what_ran_is_not_run_again_where_it_is_given_to_the_same_machine(make: Make) -> None:
    """After a restore without a freeze: it claims what it has, and tells how it ended."""
    pool = Pool()
    await pool.enter()
    await assign(pool, JOB, spec_facts(JobSpec(("true",))))
    async with make() as broker, agent_of(pool, broker):
        first = (await phase_of(pool, JOB, "ended")).state.job
        await pool.etcd.txn(as_before_they_were_taken(pool.keys, JOB, frozen=False))
        await pool.place()
        assert (await phase_of(pool, JOB, "ended")).state.job == first
