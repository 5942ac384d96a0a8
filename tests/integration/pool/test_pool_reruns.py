"""Jobs that are run again when they are lost, because whoever started them asked for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import AbortedError
from api.messages import Job, JobState
from tests.support.jobs import processes_with
from tests.support.pool import Pool
from tests.support.pool_programs import Programs
from tests.support.refusals import stdout_of

LIVES = "echo run $(($(wc -l < {marks}) + 1)) | tee -a {marks}; exec sleep 1000"
"""A job that tells of each of its runs, and stays."""


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    path = tmp_path / "marks"
    path.touch()
    return path


async def lives(client: JobClient, marks: Path, orphans: list[str], *, retry_lost: int) -> Job:
    """Such a job, which has said that it runs."""
    job = await client.start(["sh", "-c", LIVES.format(marks=marks)], retry_lost=retry_lost)
    orphans.append(job.id)
    await says(client, job, "run 1")
    return job


async def says(client: JobClient, job: Job, what: str) -> None:
    """Wait until it says so."""
    async with client.stream(job.id) as output:
        assert (await anext(output)).data == f"{what}\n".encode()


async def test_a_job_of_a_machine_that_was_rebooted_is_run_again(
    pool: Pool, programs: Programs, orphans: list[str], marks: Path
) -> None:
    """As often as was asked for, on the same machine if it is the only one; then it is lost. A stream of one run does
    not go on with what the next one writes."""
    await pool.start("m1", worker=False)
    await trio.to_thread.run_sync(lambda: programs.start("w1"))
    async with pool.client("m1") as client:
        job = await lives(client, marks, orphans, retry_lost=1)
        async with client.stream(job.id) as output:
            await anext(output)
            await trio.to_thread.run_sync(programs.crash, "w1")
            await trio.to_thread.run_sync(lambda: programs.start("w1"))
            with pytest.raises(AbortedError, match="run of job") as aborted:
                await anext(output)
            assert aborted.value.reason == "RUN_LOST"
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"run 2\n"
            async with client.stream(job.id, offset=4) as rest:
                assert (await anext(rest)).data == b"2\n"
            again = await client.query(job.id)
            assert (again.id, again.state, again.attempt, again.worker) == (job.id, JobState.RUNNING, 1, "w1")
            await trio.to_thread.run_sync(programs.crash, "w1")
            await trio.to_thread.run_sync(lambda: programs.start("w1"))
            with pytest.raises(StopAsyncIteration):
                await anext(output)
            assert output.verdict is not None
            assert output.verdict.state == JobState.LOST
        [lost] = await client.wait(job.id)
        assert (lost.state, lost.attempt) == (JobState.LOST, 1)
        assert await stdout_of(client, job.id) == b"run 2\n"
        assert marks.read_text() == "run 1\nrun 2\n"


async def test_a_job_that_an_operator_gives_up_is_run_elsewhere_and_can_then_run_twice(
    pool: Pool, programs: Programs, orphans: list[str], marks: Path
) -> None:
    """That is what was asked for. The machine that was given up ends its own run when it is back."""
    await pool.start("m1", worker=False)
    w1 = await trio.to_thread.run_sync(lambda: programs.start("w1"))
    async with pool.client("m1") as client:
        job = await lives(client, marks, orphans, retry_lost=1)
        first = (await client.query(job.id)).pid
        server = await trio.to_thread.run_sync(w1.server_pid)
        os.kill(server, signal.SIGSTOP)
        while (await client.query(job.id)).reason != "UNREACHABLE":
            await trio.sleep(0.05)
        forgotten = await client.forget(job.id)
        assert (forgotten.state, forgotten.attempt) == (JobState.PENDING, 1)
        await pool.start("m2")
        await says(client, job, "run 2")
        again = await client.query(job.id)
        assert (again.state, again.worker) == (JobState.RUNNING, "m2")
        assert first in processes_with(job.id)
        os.kill(server, signal.SIGCONT)
        while first in processes_with(job.id):
            await trio.sleep(0.05)
        # Here both machines are one: what has the job's mark is the same job to both, and may have been ended already.
        stopped = await client.stop(job.id)
        assert (stopped.attempt, stopped.worker) == (1, "m2")
        assert stopped.state in (JobState.KILLED, JobState.STOPPED)
        assert marks.read_text() == "run 1\nrun 2\n"
