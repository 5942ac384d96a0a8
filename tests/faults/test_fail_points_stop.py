"""A kill at every named step of a stop, of a signal, and of what deletes a job."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from api.errors import FailedPreconditionError, NotFoundError
from api.messages import Job, JobState
from tests.faults.scenarios import DELETE, KILL, SIGNAL, STOP, STOP_WAITING, Run, through, until
from tests.support.pki import TestPki

# ---- stop


@pytest.mark.parametrize("script", ["exec sleep 1000", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"])
async def test_a_kill_during_a_stop(pki: TestPki, tmp_path: Path, script: str) -> None:
    """It is answered; no process is left; and who asked for it is known."""

    async def scenario(run: Run) -> None:
        job = await run.start(script)
        if "trap" in script:
            await run.until_recorded(job.id, 1)  # it is deaf by now
        run.arm()
        stopped = await run.client.stop(job.id, grace=10 if "trap" not in script else 0.1)
        by = signal.SIGKILL if "trap" in script else signal.SIGTERM
        assert (stopped.state, stopped.stopped_by, stopped.signal) == (JobState.STOPPED, "alice", by), run.name
        assert await run.client.query(job.id) == stopped

    await through(pki, tmp_path, [*STOP, *KILL] if "trap" in script else STOP, scenario)


async def test_a_kill_while_a_signal_is_sent(pki: TestPki, tmp_path: Path) -> None:
    """It ends the job, and whoever sent it is known."""

    async def scenario(run: Run) -> None:
        job = await run.start("exec sleep 1000")
        run.arm()
        with contextlib.suppress(NotFoundError, FailedPreconditionError):  # sent again, it finds the job ended
            await run.client.signal(job.id, signal.SIGINT)
        [ended] = await run.client.wait(job.id)
        assert (ended.state, ended.stopped_by, ended.signal) == (JobState.STOPPED, "alice", signal.SIGINT), run.name

    await through(pki, tmp_path, SIGNAL, scenario)


async def test_a_kill_during_the_stop_of_a_job_that_waits(pki: TestPki, tmp_path: Path) -> None:
    """It never runs."""

    async def scenario(run: Run) -> None:
        first = await run.client.start(["sleep", "1000"])
        second = await run.start()
        run.arm()
        stopped = await run.client.stop(second.id)
        assert (stopped.state, stopped.stopped_by, stopped.pid) == (JobState.STOPPED, "alice", 0), run.name
        await run.client.stop(first.id, grace=0)
        assert not run.mark.exists()

    await through(pki, tmp_path, STOP_WAITING, scenario, "--slots", "1")


# ---- retention


async def test_a_kill_during_a_delete(pki: TestPki, tmp_path: Path) -> None:
    """Record, request_id and files are gone in the end, whichever of them were gone by then."""

    async def scenario(run: Run) -> None:
        job = await ended_job(run)
        run.arm()
        with contextlib.suppress(NotFoundError):  # sent again, it finds the job gone
            await run.client.delete(job.id)
        await gone(run, job)

    await through(pki, tmp_path, DELETE, scenario)


async def test_a_kill_while_old_jobs_are_deleted(pki: TestPki, tmp_path: Path) -> None:
    """As when somebody asks for it."""

    async def scenario(run: Run) -> None:
        job = await ended_job(run)
        run.arm()
        run.jobd.kill_server()  # the next one looks at what has to go when it starts
        await gone(run, job)

    await through(pki, tmp_path, DELETE, scenario, "--keep-jobs", "0")


async def ended_job(run: Run) -> Job:
    job = await run.start()
    await run.see_through(job)
    assert len(files_of(run, job)) >= 4  # two segments
    return job


async def gone(run: Run, job: Job) -> None:
    """Wait until nothing of the job is left; as long as its record is there, its output is."""
    await until(lambda: run.jobd.points.reached(run.point))
    await until(lambda: not files_of(run, job))
    with pytest.raises(NotFoundError):
        await run.client.query(job.id)


def files_of(run: Run, job: Job) -> list[Path]:
    return list((run.jobd.state / "output").glob(f"*/{job.id}*"))
