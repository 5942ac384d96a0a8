"""How many jobs of one principal run or wait at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from api.errors import ResourceExhaustedError
from jobd.broker.admission import Policy
from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.quota import Quota, QuotaPolicy
from jobd.service.errors import rpc_error
from jobd.storage.sqlite import SqliteStore, open_store
from jobd.worker.errors import RequestIdReusedError, StoreError, TooManyJobsError
from jobd.worker.job import Job, JobSpec
from jobd.worker.supervisor import Stop, Timings
from tests.support.broker import SLEEP, Make, end_of

TWO = Policy(quota=QuotaPolicy(Quota(jobs=2), {"carol": Quota(jobs=3)}, {"reader": Quota(jobs=1)}))
NOW = Stop(by="alice", grace=0)


async def test_a_principal_has_so_many_jobs_that_run_or_wait(make: Make) -> None:
    """Both count; nobody else's do; what ends, or is stopped before it ran, makes room."""
    async with make(slots=1, policy=TWO) as broker:
        running = await broker.start(SLEEP, by="alice")
        waiting = await broker.start(SLEEP, by="alice")
        with pytest.raises(TooManyJobsError, match="at most 2 jobs of alice may run or wait"):
            await broker.start(SLEEP, by="alice")
        others = await broker.start(SLEEP, by="bob")
        await broker.stop(waiting.id, NOW)
        third = await broker.start(SLEEP, by="alice")
        with pytest.raises(TooManyJobsError):
            await broker.start(SLEEP, by="alice")
        await broker.stop(running.id, NOW)
        fourth = await broker.start(SLEEP, by="alice")
        for job in (others, third, fourth):
            await broker.stop(job.id, NOW)
        assert not broker.registry._counts


async def test_a_principal_and_a_role_can_have_another_number(make: Make) -> None:
    """As their table says."""
    async with make(policy=TWO) as broker:
        for _ in range(3):
            await broker.start(SLEEP, by="carol")
        with pytest.raises(TooManyJobsError):
            await broker.start(SLEEP, by="carol")
        await broker.start(SLEEP, by="both", roles=["reader", "writer"])
        with pytest.raises(TooManyJobsError):
            await broker.start(SLEEP, by="both", roles=["reader", "writer"])


async def test_jobs_that_come_at_the_same_time_count_before_they_are_recorded(make: Make) -> None:
    """However many ask at once, so many are taken and no more."""
    async with make(policy=TWO) as broker:
        refused: list[TooManyJobsError] = []

        async def start() -> None:
            try:
                await broker.start(SLEEP, by="alice")
            except TooManyJobsError as exc:
                refused.append(exc)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(start)
        assert len(refused) == 6
        assert len(await broker.page(before=0, states=(), size=10)) == 2


async def test_a_start_that_is_sent_again_is_answered_with_its_job(make: Make) -> None:
    """A client that got no answer learns of its last job, and is not told that it has too many."""
    async with make(policy=TWO) as broker:
        await broker.start(SLEEP, by="alice")
        job = await broker.start(SLEEP, by="alice", request_id="r")
        assert (await broker.start(SLEEP, by="alice", request_id="r")).id == job.id
        with pytest.raises(RequestIdReusedError):
            await broker.start(JobSpec(("true",)), by="alice", request_id="r")
        with pytest.raises(TooManyJobsError):
            await broker.start(SLEEP, by="alice", request_id="s")


async def test_jobs_count_after_a_restart(make: Make) -> None:
    """Those that wait again; those that are lost do not."""
    async with make(slots=1, policy=TWO) as broker:
        await broker.start(SLEEP, by="alice")
        waits = await broker.start(SLEEP, by="alice")
        broker.refuse_new(StoreError("the end"))
    async with make(slots=1, policy=TWO) as broker:
        assert broker.registry.count_of("alice") == 1
        await broker.start(SLEEP, by="alice")
        with pytest.raises(TooManyJobsError):
            await broker.start(SLEEP, by="alice")
        await broker.stop(waits.id, NOW)


class FailingStore:
    """A store that can be told to fail."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.fails = False

    async def insert(self, job: Job) -> Job:
        if self.fails:
            raise StoreError("the disk is full")
        return await self._store.insert(job)

    async def commit(self, job: Job) -> None:
        if self.fails:
            raise StoreError("the disk is full")
        await self._store.commit(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_what_could_not_be_recorded_does_not_count(tmp_path: Path, errors_expected: list[Any]) -> None:
    """Neither a job that was refused for it, nor one that has ended, though that is not written down."""
    async with open_store(tmp_path / "jobs") as real:
        store = FailingStore(real)
        journal, logs = PatientJournal(store), LogStore(tmp_path / "output")
        pool = open_local_pool(LocalLauncher(Walk()), logs, journal, count=1, slots=2, timings=Timings(2.0, 0.3, 5.0))
        async with pool as workers, open_broker(workers, store, journal, logs, policy=TWO) as broker:
            ends = [await broker.start(JobSpec(("true",)), by="alice")]
            await end_of(broker, ends[0])
            await trio.testing.wait_all_tasks_blocked()
            store.fails = True
            for _ in range(5):
                with pytest.raises(StoreError):
                    await broker.start(SLEEP, by="alice")
            assert broker.registry.count_of("alice") == 0
            store.fails = False
            job = await broker.start(SLEEP, by="alice")
            store.fails = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(broker.stop, job.id, NOW))
                await trio.testing.wait_all_tasks_blocked(0.1)
                journal.hurry()
            assert broker.registry.count_of("alice") == 0
            store.fails = False
    assert {entry["event"] for entry in errors_expected} <= {"the end of a job could not be recorded"}


def test_too_many_jobs_are_resource_exhausted() -> None:
    """Without a time: nobody knows when one ends."""
    error = rpc_error(TooManyJobsError("alice", 5))
    assert isinstance(error, ResourceExhaustedError)
    assert (error.reason, error.retry_after) == ("TOO_MANY_JOBS", None)
