"""Jobs that do not run before somebody says so."""

from __future__ import annotations

import time
import uuid

import pytest
import trio

from jobd.broker.broker import Broker
from jobd.worker.errors import JobNotFoundError, StoreError
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import State
from jobd.worker.supervisor import Stop
from tests.support.broker import Make, end_of
from tests.support.patience import patient


def to_hold() -> Job:
    job_id = str(uuid.uuid4())
    return Job(
        job_id,
        JobSpec(("true",)),
        State.PENDING,
        time.time_ns(),
        started_by="alice",
        request_id=f"pool:{job_id}",
        reason=Reason.UNCLAIMED,
    )


async def released(broker: Broker, job: Job) -> Job:
    broker.held.release(job.id)
    return await end_of(broker, job)


async def test_a_job_that_is_held_runs_when_it_is_released(make: Make) -> None:
    """Not before, whatever else runs; to release it twice is to release it."""
    async with make() as broker:
        job = to_hold()
        await broker.held.hold(job)
        other = await broker.start(JobSpec(("true",)), by="bob")
        await end_of(broker, other)
        assert (await broker.query(job.id)).state is State.PENDING
        assert (await released(broker, job)).state is State.SUCCEEDED
        broker.held.release(job.id)
        assert (await broker.query(job.id)).state is State.SUCCEEDED


async def test_it_is_held_over_a_restart(make: Make) -> None:
    """On record, it waits on; whoever decides can still do so."""
    job = to_hold()
    async with make() as broker:
        await broker.held.hold(job)
    async with make() as broker:
        assert await broker.query(job.id) == job
        assert broker.pending == 0
        assert (await released(broker, job)).state is State.SUCCEEDED


async def test_one_that_is_discarded_was_never_there(make: Make) -> None:
    """Now, and after a restart. One that was released is not discarded any more."""
    job, kept = to_hold(), to_hold()
    async with make() as broker:
        await broker.held.hold(job)
        await broker.held.discard(job.id)
        with pytest.raises(JobNotFoundError):
            await broker.query(job.id)
        await broker.held.hold(kept)
        await released(broker, kept)
        await broker.held.discard(kept.id)
    async with make() as broker:
        assert [each.id for _, each in await broker.page(before=2**62, states=(), size=10)] == [kept.id]


async def test_one_that_is_held_can_be_stopped(make: Make) -> None:
    """It then never runs, released or not."""
    async with make() as broker:
        job = to_hold()
        await broker.held.hold(job)
        with trio.fail_after(patient(10)):
            stopped = await broker.stop(job.id, Stop(by="alice"))
        assert (stopped.state, stopped.stopped_by) == (State.STOPPED, "alice")
        broker.held.release(job.id)
        assert await broker.query(job.id) == stopped


async def test_a_stop_is_not_overtaken_by_a_release(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes while a stop is being recorded is late: the job is stopped, and no process of it runs."""
    async with make() as broker:
        job = to_hold()
        await broker.held.hold(job)
        store, begun, go_on = broker.registry._store, trio.Event(), trio.Event()
        commit = store.commit

        async def commit_slowly(what: Job) -> None:
            begun.set()
            await go_on.wait()
            await commit(what)

        monkeypatch.setattr(store, "commit", commit_slowly)
        with trio.fail_after(patient(10)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.stop, job.id, Stop(by="alice"))
                await begun.wait()
                broker.held.release(job.id)
                await broker.held.discard(job.id)
                assert broker.pending == 0
                assert not any(view.jobs for view in broker.workers())
                go_on.set()
        assert (await broker.query(job.id)).state is State.STOPPED


async def test_a_stop_that_cannot_be_recorded_leaves_a_job_held(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits on for whoever decides, and can be stopped again."""
    async with make() as broker:
        job = to_hold()
        await broker.held.hold(job)

        async def fail(what: Job) -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(broker.registry._store, "commit", fail)
            with pytest.raises(StoreError):
                await broker.stop(job.id, Stop(by="alice"))
        assert (await released(broker, job)).state is State.SUCCEEDED
