"""What is kept of jobs that have ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jobd.broker.retention import Keep, Retention, to_delete
from jobd.output.log import LogStore
from jobd.storage.sqlite import open_store
from jobd.worker.job import Ended, Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source
from tests.support.jobs import put

SECOND = 10**9
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
        assert await Retention(store, logs, replace(ALL, jobs=1), clock=lambda: 5).enforce() == 1
        assert [job.state for _, job in await store.page(before=0, states=(), size=9)] == [State.FAILED, State.RUNNING]
        files = {path.name.split(".")[0][:8] for path in (tmp_path / "output").rglob("*.*")}
        assert files == {"00000000", "00000002"}


@given(st.lists(st.integers(-(10**19), 10**19)), st.integers(-(10**19), 10**19))
def test_a_clock_that_jumps_back_deletes_nothing_early(ends: list[int], now: int) -> None:
    """A job that ended, by the clock, after now is kept for longer."""
    all_ = [Ended(str(number), at, 1) for number, at in enumerate(sorted(ends))]
    keep = replace(ALL, seconds=7)
    going = to_delete(all_, len(all_), len(all_), keep, now)
    assert all(now - job.ended_at > 7 * SECOND for job in going)
