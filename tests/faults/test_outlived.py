"""Launcher and server killed together: what is left of jobs is found at the next start, and is in nobody's way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import Job, JobState, Limits
from tests.faults.trees import left_of, running, start_script, start_tree
from tests.support.accounts import needs_root, room
from tests.support.daemon import until_dead
from tests.support.jobs import new_mark
from tests.support.pki import TestPki

LATE = "wait; echo late; sleep 1000"
SURVIVES = f"trap '' PIPE; setsid sleep 1000 & echo ready; {LATE}"
LOST_SINCE = "what it has written since is lost"


AS = ("--user", "daemon", "--job-user", "nobody")
QUICK = ("--grace", "0.3")
KINDS = [
    pytest.param(("auto",), id="auto"),
    pytest.param(("none",), id="none"),
    pytest.param(("auto", *AS), id="auto, without privileges", marks=needs_root),
    pytest.param(("none", *AS), id="none, without privileges", marks=needs_root),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the state is, and what jobs need; whoever they are may write there."""
    with room() as directory:
        directory.chmod(0o1777)
        yield directory


async def until_stopping(client: JobClient, job: Job) -> None:
    """Wait until the wish that it ends is on record."""
    while not (await client.query(job.id)).stopping:
        await trio.sleep(0.01)
    await client.start(["true"])  # which is on record when it is answered, and later than that


@pytest.mark.parametrize("flags", KINDS)
async def test_what_outlives_launcher_and_server_is_supervised_again(
    pki: TestPki, place: Path, flags: Sequence[str]
) -> None:
    """A job is not over while a process of it is there. It goes on, can be stopped, and has its limits; a stop that was
    on record goes on; and what is left of one whose first process has ended is ended, as ever."""
    marks = {name: new_mark() for name in ("stays", "stopping", "timeout", "headless", "gone")}
    late = Limits(timeout=timedelta(seconds=1000))
    async with running(pki, place, *flags, *QUICK) as (jobd, client):
        jobs = {
            "stays": await start_script(client, SURVIVES, place, mark=marks["stays"]),
            "stopping": await start_tree(client, "ignores SIGTERM", place, mark=marks["stopping"]),
            "timeout": await start_tree(client, "left all behind", place, late, mark=marks["timeout"]),
            "headless": await start_tree(client, "double fork", place, mark=marks["headless"]),
            "gone": await start_tree(client, "deep", place, mark=marks["gone"]),
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.stop, jobs["stopping"].id, grace=1000))
            await until_stopping(client, jobs["stopping"])
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(jobd.crash)
    os.kill(jobs["headless"].pid, signal.SIGKILL)
    until_dead(jobs["headless"].pid)
    while left := left_of(marks["gone"]):  # who loses a child may end by itself, or have forked another one
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert left_of(marks["headless"])
    async with running(pki, place, *flags, *QUICK) as (jobd, client):
        asked = await client.query(jobs["stopping"].id)
        assert (asked.state, asked.stopping, asked.stopped_by) == (JobState.RUNNING, True, "alice")
        await client.stop(asked.id, grace=0)
        for name in ("headless", "stopping", "gone"):
            [ended] = await client.wait(jobs[name].id)
            assert (ended.state, ended.reason, ended.exit_code) == (JobState.LOST, "LAUNCHER_LOST", None)
            assert (LOST_SINCE in ended.message) == (name != "gone")
            assert not left_of(marks[name])
        assert (await client.query(jobs["stopping"].id)).stop_receipt.empty
        there = await client.query(jobs["stays"].id)
        assert (there.state, there.pid, LOST_SINCE in there.message) == (JobState.RUNNING, jobs["stays"].pid, True)
        stopped = await client.stop(there.id, grace=1000)
        assert (stopped.state, stopped.stopped_by) == (JobState.LOST, "alice")
        assert "told to end (STOPPED_BY_REQUEST)" in stopped.message
        receipt = stopped.stop_receipt
        assert (receipt.empty, receipt.found, {each.signal for each in receipt.processes}) == (True, 2, {15})
        async with client.stream(there.id) as output:
            assert b"".join([chunk.data async for chunk in output]) == b"ready\n"
        assert not left_of(marks["stays"])
        assert (await client.query(jobs["timeout"].id)).state == JobState.RUNNING
        # Also where the server may not signal it.
        limited = await client.stop(jobs["timeout"].id, main_only=True, grace=1000)
        assert limited.stop_receipt.empty
        assert not left_of(marks["timeout"])
