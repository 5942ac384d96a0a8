"""Processes of a job whose parent has ended: they become the launcher's, which reaps them, and stay their job's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from tests.support.daemon import children_of, is_alive, jobd_program
from tests.support.jobs import processes_called, until_called
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(60)
Own = Callable[[], str]
SHOWS_NOTHING = "env -i setsid sh -c 'env -i setsid sleep {0} & exit'; echo ready; exec sleep {0}"
"""It has left the session, lost its parent and cleared its environment."""


@pytest.fixture
def own_seconds() -> Iterator[Own]:
    """How long to sleep, as nobody else does: the only thing by which the test finds who does."""
    given: list[str] = []

    def give() -> str:
        given.append(f"1000.{os.getpid()}{time.monotonic_ns()}")
        return given[-1]

    yield give
    for pid in (pid for each in given for pid in processes_called(each)):  # of a test that failed
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("anew", [False, True], ids=["", "executed anew meanwhile"])
async def test_an_orphan_is_the_launcher_s_and_is_reaped(
    pki: TestPki, tmp_path: Path, own_seconds: Own, anew: bool
) -> None:
    """Not the machine's first process's, which may take its time; over an upgrade, too."""
    seconds = own_seconds()
    with jobd_program(pki, tmp_path / "state", "--containment", "none") as jobd, trio.fail_after(SECONDS):
        if anew:
            command = [sys.executable, "-m", "jobd", "upgrade", "--state", str(jobd.state)]
            await trio.to_thread.run_sync(lambda: subprocess.run(command, check=True, capture_output=True))
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            script = f"sh -c 'sleep {seconds} & exit'; echo ready; exec sleep 1000"
            job = await client.start(["sh", "-c", script])
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == b"ready\n"
            await until_called(["sleep"], lambda: processes_called(seconds))  # no shell with these words is left
            [orphan] = processes_called(seconds)
            assert orphan in children_of(jobd.launcher)
            os.kill(orphan, signal.SIGKILL)
            while Path(f"/proc/{orphan}").exists():
                await trio.sleep(0.01)
            assert (await client.stop(job.id)).state is JobState.STOPPED


@pytest.mark.parametrize("killed", [False, True], ids=["", "server killed meanwhile"])
@pytest.mark.parametrize("kind", ["auto", "none"])
async def test_a_process_that_shows_nothing_is_found(
    pki: TestPki, tmp_path: Path, own_seconds: Own, kind: str, killed: bool
) -> None:
    """No session, no parent, no environment: its limits tell. The other job's is left alone."""
    ours, other = own_seconds(), own_seconds()
    with jobd_program(pki, tmp_path / "state", "--containment", kind) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            jobs = [await client.start(["sh", "-c", SHOWS_NOTHING.format(each)]) for each in (ours, other)]
            for job in jobs:
                async with client.stream(job.id) as output:
                    assert (await anext(output)).data == b"ready\n"
            # What left the session may not have become a sleep yet when the job says that it is ready.
            await until_called(["sleep"] * 4, lambda: processes_called(ours) + processes_called(other))
            if killed:
                await trio.to_thread.run_sync(jobd.kill_server)
            stopped = await client.stop(jobs[0].id)
            assert stopped.stop_receipt is not None
            assert {(each.command, each.left_session) for each in stopped.stop_receipt.processes} == {
                ("sleep", False),
                ("sleep", True),
            }
            assert processes_called(ours) == []
            assert len(processes_called(other)) == 2
            assert all(map(is_alive, processes_called(other)))


async def test_what_a_job_leaves_behind_is_ended_though_it_shows_nothing(
    pki: TestPki, tmp_path: Path, own_seconds: Own
) -> None:
    """A job that ends by itself leaves nobody either."""
    seconds = own_seconds()
    flags = ("--containment", "none", "--drain", "0.2", "--grace", "0.5")
    with jobd_program(pki, tmp_path / "state", *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            script = f"env -i setsid sh -c 'env -i setsid sleep {seconds} > /dev/null 2>&1 & exit'"
            job = await client.start(["sh", "-c", script])
            [ended] = await client.wait(job.id)
            assert ended.state is JobState.SUCCEEDED
            assert processes_called(seconds) == []
