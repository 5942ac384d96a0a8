"""A store that cannot be written for a while: nothing is given up, nothing is told that a crash would take back."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from jobd.broker.broker import Broker
from jobd.broker.journal import PATIENCE, PatientJournal
from jobd.broker.recovery import open_broker
from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.storage.sqlite import SqliteStore, open_store
from jobd.worker.errors import StoreError
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.supervisor import Stop, Timings
from tests.support.jobs import shell
from tests.support.patience import patient

SLEEP: Final = JobSpec(("sleep", "60"))


class FullStore:
    """A store on a disk that is full while ``full`` is True: it can be read.

    Attributes:
        refused: the jobs of which something could not be recorded.
        full_for: if not empty, only what is about these jobs finds the disk full.
    """

    def __init__(self, store: SqliteStore, *, full: bool = False) -> None:
        self._store = store
        self.full = full
        self.full_for: set[str] = set()
        self.refused: set[str] = set()

    async def insert(self, job: Job) -> Job:
        self._see(job)
        return await self._store.insert(job)

    async def commit(self, job: Job) -> None:
        self._see(job)
        await self._store.commit(job)

    def note(self, job: Job) -> None:
        if not self.full:
            self._store.note(job)

    def _see(self, job: Job) -> None:
        if self.full and (not self.full_for or job.id in self.full_for):
            self.refused.add(job.id)
            raise StoreError("database or disk is full")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@asynccontextmanager
async def made(root: Path, *, full: bool = False) -> AsyncIterator[tuple[Broker, FullStore]]:
    """A broker with one slot over such a store; what comes after a restart, when it is made again."""
    async with open_store(root / "jobs") as sqlite:
        store = FullStore(sqlite, full=full)
        journal, logs = PatientJournal(store), LogStore(root / "output")
        pool = open_local_pool(LocalLauncher(Walk()), logs, journal, count=1, slots=1, timings=Timings(1.0, 0.3, 5.0))
        async with pool as workers, open_broker(workers, store, journal, logs) as broker:
            try:
                yield broker, store
            finally:
                store.full = False


async def commits(journal: PatientJournal, job: Job, done: list[Job]) -> None:
    await journal.commit(job)
    done.append(job)


async def test_patience_has_no_end_while_the_daemon_lives(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """An hour later it is recorded, and only then does commit return."""
    job = Job(str(uuid.uuid4()), SLEEP, State.RUNNING, 1)
    async with open_store(tmp_path / "jobs") as sqlite:
        await sqlite.insert(job)
        store = FullStore(sqlite, full=True)
        done: list[Job] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits, PatientJournal(store), job, done)
            await trio.sleep(3600)
            assert done == []
            store.full = False
        assert done == [job]


async def test_an_orderly_end_has_less_patience(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A full disk does not keep the daemon from ending."""
    job = Job(str(uuid.uuid4()), SLEEP, State.RUNNING, 1)
    async with open_store(tmp_path / "jobs") as store:
        journal = PatientJournal(FullStore(store, full=True))
        journal.hurry()
        with trio.fail_after(2 * PATIENCE), pytest.raises(StoreError):
            await journal.commit(job)


async def test_a_job_that_waits_does_not_run_before_that_is_recorded(tmp_path: Path) -> None:
    """Or a crash could let it run twice."""
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with trio.fail_after(patient(20)):
        async with made(tmp_path) as (broker, store):
            await broker.start(shell(f"until test -e {gate}; do sleep 0.01; done"), by="alice")
            waiting = await broker.start(JobSpec(("touch", str(mark))), by="alice")
            store.full, store.full_for = True, {waiting.id}
            gate.touch()
            while not store.refused:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert not mark.exists()
            store.full = False
            await broker.wait([waiting.id], any_of_them=False)
            assert mark.exists()


async def test_a_waiting_job_that_cannot_be_stopped_now_waits_on(tmp_path: Path) -> None:
    """In its place; whoever asked is told, and can ask again."""
    async with made(tmp_path) as (broker, store):
        await broker.start(SLEEP, by="alice")
        waiting = [await broker.start(SLEEP, by="alice") for _ in range(3)]
        store.full = True
        with pytest.raises(StoreError):
            await broker.stop(waiting[1].id, Stop(by="alice", grace=0))
        assert (await broker.query(waiting[1].id)).state is State.PENDING
        assert [entry.cell.job.id for entry in broker._queue] == [job.id for job in waiting]
        store.full = False
        assert (await broker.stop(waiting[1].id, Stop(by="alice", grace=0))).state is State.STOPPED


async def test_lost_jobs_are_known_though_that_cannot_be_recorded(tmp_path: Path) -> None:
    """The broker comes up and says so; it is recorded when there is room."""
    lost = Job(str(uuid.uuid4()), SLEEP, State.RUNNING, 1, worker="local", pid=1)
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(lost)
    with trio.fail_after(patient(20)):
        async with made(tmp_path, full=True) as (broker, full):
            assert (await broker.query(lost.id[:8])).state is State.LOST
            assert [job.state for _, job in await broker.page(before=0, states=(), size=10)] == [State.LOST]
            assert await states_of(full, lost) == [State.RUNNING]
            full.full = False
            while await states_of(full, lost) != [State.LOST]:
                await trio.sleep(0.01)


async def states_of(store: FullStore, job: Job) -> Sequence[State]:
    return [each.state for each in await store.starting_with(job.id)]
