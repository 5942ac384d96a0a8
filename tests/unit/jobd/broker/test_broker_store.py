"""The broker over a store that is slow, or cannot be written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from jobd.broker.broker import Broker
from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.storage.sqlite import SqliteStore, open_store
from jobd.worker.errors import (
    JobNotFoundError,
    StoreError,
)
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source, Start
from jobd.worker.supervisor import Stop, Timings
from tests.support.broker import SLEEP, end_of
from tests.support.jobs import collect, shell
from tests.support.patience import patient


class SlowStore:
    """A store in which a new record takes as long as the test wants, and a changed one fails for as long.

    Attributes:
        fails: asked about a job whose record is to be changed.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.held: trio.Event | None = None
        self.waiting = trio.Event()
        self.fails: Callable[[Job], bool] = lambda _: False

    async def commit(self, job: Job) -> None:
        if self.fails(job):
            raise StoreError("the disk is full")
        await self._store.commit(job)

    async def insert(self, job: Job) -> Job:
        if self.held is not None:
            self.waiting.set()
            await self.held.wait()
        return await self._store.insert(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_job_whose_record_is_on_its_way_is_not_overtaken(tmp_path: Path) -> None:
    """A slot that becomes free meanwhile is for it, not for one that comes later."""
    async with open_store(tmp_path / "jobs") as store:
        slow = SlowStore(store)
        journal, logs = PatientJournal(store), LogStore(tmp_path / "output")
        pool = open_local_pool(LocalLauncher(Walk()), logs, journal, count=1, slots=1, timings=Timings(2.0, 0.3, 5.0))
        async with pool as made, open_broker(made, slow, journal, logs) as broker:
            first = await broker.start(SLEEP, by="alice")
            slow.held = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(broker.start, SLEEP, by="alice", request_id="second"))
                await slow.waiting.wait()
                await broker.stop(first.id, Stop(by="alice", grace=0))
                nursery.start_soon(partial(broker.start, SLEEP, by="alice", request_id="third"))
                await trio.testing.wait_all_tasks_blocked()
                slow.held.set()
            states = {job.request_id: job.state for _, job in await broker.page(before=0, states=(), size=10)}
            assert (states["second"], states["third"]) == (State.RUNNING, State.PENDING)


@pytest.fixture
async def on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Broker, SlowStore]]:
    """A broker with one slot over a store that can be made to fail, and a journal without patience."""
    monkeypatch.setattr("jobd.broker.journal.PATIENCE", 0)
    async with open_store(tmp_path / "jobs") as store:
        slow = SlowStore(store)
        journal, logs = PatientJournal(slow), LogStore(tmp_path / "output")  # type: ignore[arg-type] # what it lacks is the store's
        journal.hurry()
        pool = open_local_pool(LocalLauncher(Walk()), logs, journal, count=1, slots=1, timings=Timings(2.0, 0.3, 5.0))
        async with pool as made, open_broker(made, slow, journal, logs) as broker:  # type: ignore[arg-type] # the same
            yield broker, slow
            slow.fails = lambda _: False


async def test_an_end_that_cannot_be_recorded_is_told_as_it_was(
    on_a_full_disk: tuple[Broker, SlowStore], errors_expected: object
) -> None:
    """By id, by prefix, in the list and to those who wait; its slot is free; and it can be deleted."""
    broker, store = on_a_full_disk
    store.fails = lambda job: job.state.terminal
    job = await broker.start(shell("echo 12345; exit 3"), by="alice", request_id="r1")
    with trio.fail_after(patient(10)):
        [ended] = await broker.wait([job.id], any_of_them=False)
        assert (ended.state, ended.exit_code) == (State.FAILED, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert await broker.query(job.id) == await broker.query(job.id[:13]) == ended
        assert [each for _, each in await broker.page(before=0, states=(), size=10)] == [ended]
        assert await broker.stop(job.id, Stop(by="alice", grace=0)) == ended
        assert (await broker.start(shell("echo 12345; exit 3"), by="alice", request_id="r1")) == ended
        follower, _ = await broker.follow(job.id, Start())
        assert (await collect(follower))[Source.STDOUT] == b"12345\n"
        assert broker.workers()[0].jobs == []
        assert (await broker.start(SLEEP, by="alice")).state is State.RUNNING
        await broker.delete(job.id)
        with pytest.raises(JobNotFoundError):
            await broker.query(job.id)


async def test_a_waiting_job_whose_stop_cannot_be_recorded_waits_on(on_a_full_disk: tuple[Broker, SlowStore]) -> None:
    """At its place: whoever asked is told that nothing was changed."""
    broker, store = on_a_full_disk
    running = await broker.start(SLEEP, by="alice")
    waiting = [await broker.start(JobSpec(("true",)), by="alice") for _ in range(3)]
    store.fails = lambda job: job.id == waiting[1].id
    with pytest.raises(StoreError):
        await broker.stop(waiting[1].id, Stop(by="alice", grace=None))
    assert (broker.pending, (await broker.query(waiting[1].id)).state) == (3, State.PENDING)
    store.fails = lambda _: False
    await broker.stop(running.id, Stop(by="alice", grace=0))
    ends = [await end_of(broker, job) for job in waiting]
    assert [job.state for job in ends] == [State.SUCCEEDED] * 3
    starts = [job.started_at or 0 for job in ends]
    assert starts == sorted(starts)


async def test_a_job_runs_only_when_it_is_recorded_that_it_will(
    on_a_full_disk: tuple[Broker, SlowStore], tmp_path: Path
) -> None:
    """Else a crash could run it a second time. It waits, at its place, for a disk that takes that."""
    broker, store = on_a_full_disk
    running = await broker.start(SLEEP, by="alice")
    waiting = await broker.start(shell(f"echo x >> {tmp_path}/ran"), by="alice")
    tries: list[Job] = []

    def fails(job: Job) -> bool:
        if job.state is State.STARTING:
            tries.append(job)
        return job.state is State.STARTING and len(tries) < 4

    store.fails = fails
    await broker.stop(running.id, Stop(by="alice", grace=0))
    with trio.fail_after(patient(30)):
        assert (await end_of(broker, waiting)).state is State.SUCCEEDED
    assert len(tries) == 4
    assert (tmp_path / "ran").read_text() == "x\n"
