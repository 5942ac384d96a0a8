"""What is kept of jobs that have ended."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from jobd.broker.retention import Keep, Retention, to_delete
from jobd.output.budget import Budget
from jobd.output.log import LogStore
from jobd.output.writer import TAKE
from jobd.storage.sqlite import open_store
from jobd.worker.job import Ended, Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source, Start
from tests.support.jobs import collect, put
from tests.support.patience import patient

SECOND = 10**9
DELETED = "00000001-0000-4000-8000-000000000000"
UNKNOWN = "00000002-0000-4000-8000-000000000000"
ALL = Keep(seconds=10**6, jobs=10**6, output=10**12)


def ended(count: int, size: int = 10) -> list[Ended]:
    return [Ended(f"job-{number}", number * SECOND, size) for number in range(count)]


def test_within_all_bounds_nothing_goes() -> None:
    """Keeping is the rule."""
    assert to_delete(ended(5), 5, 50, ALL, now=10 * SECOND) == []


def test_each_bound_takes_the_jobs_that_ended_first() -> None:
    """Age, number, and size of output."""
    five = ended(5)
    assert to_delete(five, 5, 50, replace(ALL, seconds=7), now=10 * SECOND) == five[:3]
    assert to_delete(five, 5, 50, replace(ALL, jobs=2), now=10 * SECOND) == five[:3]
    assert to_delete(five, 5, 50, replace(ALL, output=25), now=10 * SECOND) == five[:3]


@given(st.lists(st.integers(0, 100)), st.integers(0, 20), st.integers(0, 500), st.integers(0, 30))
def test_what_is_left_is_within_the_bounds(sizes: list[int], jobs: int, output: int, seconds: int) -> None:
    """And no more goes than has to."""
    all_ = [Ended(str(number), number * SECOND, size) for number, size in enumerate(sizes)]
    keep, now = Keep(seconds, jobs, output), 25 * SECOND
    going = to_delete(all_, len(all_), sum(sizes), keep, now)
    left = all_[len(going) :]
    assert going == all_[: len(going)]

    def within(jobs_: list[Ended]) -> bool:
        young = all(now - job.ended_at <= seconds * SECOND for job in jobs_)
        return len(jobs_) <= jobs and sum(job.output_bytes for job in jobs_) <= output and young

    assert within(left)
    assert not going or not within(all_[len(going) - 1 :])


async def test_a_job_is_deleted_whole(tmp_path: Path) -> None:
    """Record, request_id and output; those that have not ended stay, however old they are."""
    logs = LogStore(tmp_path / "output")
    async with open_store(tmp_path / "jobs") as store:
        for number, state in enumerate([State.RUNNING, State.SUCCEEDED, State.FAILED]):
            job_id = f"0000000{number}-0000-4000-8000-000000000000"
            log = logs.create(job_id)
            await put(log, Source.STDOUT, b"x" * 100)
            await log.finish()
            end = None if state is State.RUNNING else number
            await store.insert(
                Job(job_id, JobSpec(("true",)), state, 1, request_id=str(number), ended_at=end, output_bytes=100)
            )
        assert await Retention(store, logs, replace(ALL, jobs=1), logs.budget, clock=lambda: 5).enforce() == 1
        assert [job.state for _, job in await store.page(before=0, states=(), size=9)] == [State.FAILED, State.RUNNING]
        files = {path.name.split(".")[0][:8] for path in (tmp_path / "output").rglob("*.*")}
        assert files == {"00000000", "00000002"}
        assert await store.deletions() == []


@given(st.lists(st.integers(-(10**19), 10**19)), st.integers(-(10**19), 10**19))
def test_a_clock_that_jumps_back_deletes_nothing_early(ends: list[int], now: int) -> None:
    """A job that ended, by the clock, after now is kept for longer."""
    all_ = [Ended(str(number), at, 1) for number, at in enumerate(sorted(ends))]
    keep = replace(ALL, seconds=7)
    going = to_delete(all_, len(all_), len(all_), keep, now)
    assert all(now - job.ended_at > 7 * SECOND for job in going)


async def test_output_that_a_crash_left_behind_is_deleted_later(tmp_path: Path) -> None:
    """The store knows of it; what it does not know of, because it is not the store of then, is not touched."""
    logs = LogStore(tmp_path / "output")
    async with open_store(tmp_path / "jobs") as store:
        for job in (DELETED, UNKNOWN):
            log = logs.create(job)
            await put(log, Source.STDOUT, b"x")
            await log.finish()
        await store.delete(DELETED)  # and then came a crash
    async with open_store(tmp_path / "jobs") as store:
        assert await store.deletions() == [DELETED]
        await Retention(store, logs, ALL, logs.budget).finish_deletions()
        assert await store.deletions() == []
    assert {path.name[:36] for path in (tmp_path / "output").rglob("*.*")} == {UNKNOWN}


async def test_output_that_cannot_be_deleted_is_tried_again(tmp_path: Path, errors_expected: list[EventDict]) -> None:
    """It holds up nothing else, and the log says so."""
    logs = Stubborn(tmp_path / "output", refuses=1)
    async with open_store(tmp_path / "jobs") as store:
        for number in (1, 2):
            job_id = f"0000000{number}-0000-4000-8000-000000000000"
            await store.insert(Job(job_id, JobSpec(("true",)), State.SUCCEEDED, 1, ended_at=number))
        retention = Retention(store, logs, replace(ALL, jobs=0), logs.budget, clock=lambda: 5)
        assert await retention.enforce() == 2
        assert logs.deleted == ["00000002-0000-4000-8000-000000000000"]
        assert await store.deletions() == ["00000001-0000-4000-8000-000000000000"]
        await retention.finish_deletions()
        assert len(logs.deleted) == 2
        assert await store.deletions() == []


class Stubborn(LogStore):
    """On a disk that refuses some deletions before it deletes."""

    def __init__(self, root: Path, refuses: int) -> None:
        super().__init__(root)
        self._refuses = refuses
        self.deleted: list[str] = []

    async def delete(self, job_id: str) -> None:
        if self._refuses:
            self._refuses -= 1
            raise OSError(errno.EIO, "Input/output error")
        self.deleted.append(job_id)


async def test_output_of_jobs_that_run_takes_the_place_of_what_has_ended(tmp_path: Path) -> None:
    """At once, when together it is more than the bound; and when nothing that has ended is left, it is dropped and
    counted. The job that ended is deleted whole."""
    first, second = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2))
    logs = LogStore(tmp_path / "output", budget=Budget(100_000))
    async with open_store(tmp_path / "jobs") as store, trio.open_nursery() as nursery:
        retention = Retention(store, logs, replace(ALL, output=100_000), logs.budget, clock=lambda: 5)
        log = logs.create(first)
        await put(log, Source.STDOUT, b"x" * 60_000)
        await log.finish()
        await store.insert(Job(first, JobSpec(("true",)), State.SUCCEEDED, 1, ended_at=1, output_bytes=log.end))
        nursery.start_soon(retention.run)
        running = logs.create(second)
        with trio.fail_after(patient(10)):
            await put(running, Source.STDOUT, b"y" * 90_000)
            while await store.get(first) or list((tmp_path / "output").rglob(f"{first}*")):
                await trio.lowlevel.checkpoint()
        await put(running, Source.STDOUT, b"z" * 50_000)
        await put(running, Source.STDERR, b"z" * 50_000)
        await running.finish()
        output = await collect(await logs.get(second, running.end, running.dropped).follow(Start()))
        nursery.cancel_scope.cancel()
    assert 100_000 <= running.end < 100_000 + TAKE
    assert running.end + running.dropped == 190_000
    assert sum(map(len, output.values())) == running.end


def test_what_runs_is_never_deleted_for_what_ended() -> None:
    """And a job that ends makes no room by that alone."""
    budget = Budget(100)
    budget.add(60)
    budget.end(60)
    budget.add(99)
    assert not budget.full
    budget.add(1)
    assert budget.full
    budget.settle(0)
    assert budget.full
    budget.end(100)
    assert (budget.full, budget.ended) == (False, 100)
