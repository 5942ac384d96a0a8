"""What is left of a job whose launcher is gone, and who is not that."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from typing import Final

import pytest

from jobd.launcher.outlived import OutlivedProcess, find_outlived
from jobd.launcher.procfs import has_ended
from jobd.limits.walk import Walk
from jobd.worker.containment import MARK_VARIABLE
from tests.support.containers import until
from tests.support.jobs import processes_with

NOBODY: Final = 2**31 - 1


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no job's."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def job() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A job's id, and a process that has its mark, and this process above it."""
    job_id = str(uuid.uuid4())
    with subprocess.Popen(
        ["sleep", "1000"], env={**os.environ, MARK_VARIABLE: job_id}, start_new_session=True
    ) as process:
        until(lambda: bool(processes_with(f"{MARK_VARIABLE}={job_id}")))  # while it executes, it has no environment
        yield job_id, process
        process.kill()


@pytest.fixture
def two() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A job's id, and its process, which has a child."""
    job_id, command = str(uuid.uuid4()), ["sh", "-c", "sleep 1000 & echo $!; wait"]
    with subprocess.Popen(
        command, env={**os.environ, MARK_VARIABLE: job_id}, start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield job_id, process
        process.kill()


async def find(job_id: str, pid: int, launcher: str) -> OutlivedProcess | None:
    containment = Walk()
    async with containment.looking():
        return await find_outlived(containment, job_id, pid, launcher)


async def test_a_job_whose_launcher_is_alive_is_left_alone(job: tuple[str, subprocess.Popen[bytes]]) -> None:
    """A jobd that begins with a copy of another's state directory has that one's jobs on record, and has no business
    with them."""
    job_id, process = job
    assert await find(job_id, process.pid, f"boot/{os.getpid()}.1") is None
    found = await find(job_id, process.pid, f"boot/{NOBODY}.1")
    assert found
    found.signal_main(signal.SIGTERM)
    await found.exited()
    assert await found.is_empty()
    found.close()
    assert process.wait() == -signal.SIGTERM


async def test_what_has_the_number_of_the_first_process_is_not_taken_for_it(
    job: tuple[str, subprocess.Popen[bytes]], other: subprocess.Popen[bytes]
) -> None:
    """Of a job whose first process has ended, others are left: whoever has the number by now is sent nothing."""
    job_id, process = job
    found = await find(job_id, other.pid, "")
    assert found
    found.signal_main(signal.SIGKILL)
    await found.exited()
    await found.kill()
    assert process.wait() == -signal.SIGKILL
    assert await found.is_empty()
    assert other.poll() is None


async def test_one_whose_first_process_was_not_recorded_any_more_is_found(
    two: tuple[str, subprocess.Popen[bytes]],
) -> None:
    """Launcher and server were killed while it was being started: it is the one that no other of the job has made."""
    job_id, first = two
    found = await find(job_id, 0, f"boot/{NOBODY}.1")
    assert found
    assert found.pid == first.pid
    assert len(await found.members()) == 2
    await found.kill()
    first.wait()
    found.close()


def test_who_has_ended_is_seen_whoever_reaps_it(other: subprocess.Popen[bytes]) -> None:
    """Its number can be another one's from then on: nothing is sent to its group."""
    pidfd = os.pidfd_open(other.pid)
    try:
        assert not has_ended(pidfd)
        other.kill()
        other.wait()
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    assert has_ended(-1)
