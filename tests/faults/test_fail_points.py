"""A kill at every named step of start, output and exit: nothing is lost, nothing is double.

The steps are those of :mod:`tests.faults.steps`. Each scenario goes through some of them, once for each point, on
a few daemons side by side; it fails when a point was not reached.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
import trio

from api.messages import Job, JobState
from tests.faults import steps
from tests.faults.failpoints import Point, both
from tests.faults.scenarios import (
    ADOPTED,
    BEYOND_THE_LIMIT,
    CONFINED,
    DELETE,
    EXIT,
    FIRST_START,
    KILL,
    LEAVING,
    LOST,
    LOST_RECORDED,
    OUTPUT,
    QUEUED,
    SEALED,
    SECONDS,
    SIGNAL,
    SIZE,
    START,
    START_FAILED,
    STDIN,
    STOP,
    STOP_WAITING,
    TAKEN_OVER,
    TERMINAL,
    Run,
    followed,
    running,
    through,
    until,
    written,
)
from tests.support.daemon import holder_of, is_alive
from tests.support.pki import TestPki


def test_every_step_of_the_code_has_its_points() -> None:
    """Or a reason for having none. A new method of a port, function of the log or of the store, or message to or from
    the launcher is to be added to one of the two tables."""
    found = steps.steps_of_code()
    known = {*steps.STEPS, *steps.EXEMPT}
    assert found - known == set(), "steps without a fail point: add them to STEPS (and a scenario) or to EXEMPT"
    assert known - found == set(), "steps that the code no longer has"
    assert not {*steps.STEPS} & {*steps.EXEMPT}
    assert steps.ports_of_code() == set(steps.PORTS)


def test_every_point_is_in_a_scenario() -> None:
    """Before and after each step."""
    scenarios = [START, QUEUED, START_FAILED, OUTPUT, SEALED, BEYOND_THE_LIMIT, EXIT, ADOPTED, LEAVING, STOP, KILL]
    scenarios += [SIGNAL, STOP_WAITING, DELETE, STDIN, TERMINAL, TAKEN_OVER, FIRST_START, CONFINED, LOST, LOST_RECORDED]
    reached = {(point.step, point.when) for point in itertools.chain(*scenarios)}
    wanted = {(point.step, point.when) for point in both(*steps.STEPS)}
    assert wanted - reached == set()


# ---- start


async def test_a_kill_during_a_start_loses_and_doubles_nothing(pki: TestPki, tmp_path: Path) -> None:
    """The client sends it again; it ran exactly once, whole."""

    async def scenario(run: Run) -> None:
        run.arm()
        await run.see_through(await run.start())
        run.followers_have_it_all()

    await through(pki, tmp_path, START, scenario)


async def test_a_kill_during_a_start_that_the_launcher_has_not_heard_of(pki: TestPki, tmp_path: Path) -> None:
    """It hears of it, and of the kill, at once: the next server asks for the same job again, and it runs once."""
    jobs: list[Job] = []
    with trio.fail_after(SECONDS):
        async with running(pki, tmp_path) as (client, jobd):
            run = Run(client, jobd, Point("sent launch", "after"), tmp_path)

            async def start() -> None:
                jobs.append(await run.start())

            run.arm()
            launcher = holder_of(jobd.state)
            os.kill(launcher, signal.SIGSTOP)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(start)
                    await until(lambda: jobd.points.reached(run.point) and not is_alive(jobd.server_pid()))
                    os.kill(launcher, signal.SIGCONT)
            finally:
                os.kill(launcher, signal.SIGCONT)
            await run.see_through(jobs[0])
    run.followers_have_it_all()


async def test_a_kill_during_the_start_of_a_job_that_waited(pki: TestPki, tmp_path: Path) -> None:
    """It waits again, and runs once, when the one before it has ended."""

    async def scenario(run: Run) -> None:
        run.arm()
        first = await run.client.start(["sh", "-c", f"until test -e {run.gate}; do sleep 0.01; done"])
        second = await run.start()
        await run.see_through(second)
        run.followers_have_it_all()
        [ended] = await run.client.wait(first.id)
        assert ended.state == JobState.SUCCEEDED

    await through(pki, tmp_path, QUEUED, scenario, "--slots", "1")


async def test_a_kill_during_a_start_that_fails(pki: TestPki, tmp_path: Path) -> None:
    """It failed to start, and says why."""

    async def scenario(run: Run) -> None:
        run.arm()
        job = await run.client.start(["/no/such/command"], name=run.name)
        assert (job.state, job.reason) == (JobState.START_FAILED, "COMMAND_NOT_FOUND"), run.name
        await run.is_the_only_one(job)

    await through(pki, tmp_path, START_FAILED, scenario)


# ---- output


@pytest.mark.parametrize("when", ["first", "later"])
async def test_a_kill_while_output_is_recorded(pki: TestPki, tmp_path: Path, when: str) -> None:
    """Of the first bytes of a job, and in the middle of them: a follower gets every byte once, and so does a reader
    afterwards."""

    async def scenario(run: Run) -> None:
        if when == "first":
            run.arm()
        await followed(run, (lambda _: None) if when == "first" else Run.arm)

    await through(pki, tmp_path, OUTPUT + SEALED, scenario)


async def test_a_kill_while_output_is_dropped(pki: TestPki, tmp_path: Path) -> None:
    """What is beyond the limit is missing, and counted; but for the one piece that was read and not counted yet."""
    limit = 40_000

    async def scenario(run: Run) -> None:
        run.arm()
        job = await run.start()
        run.gate.touch()
        [ended] = await run.client.wait(job.id)
        await run.follow(job.id)
        [(got, verdict)] = run.reads
        assert sum(len(data) for data in got.values()) == ended.output_bytes == verdict.end_offset == limit
        assert all(whole.startswith(got[source]) for source, whole in written().items())
        uncounted = run.point == Point("writer.LogWriter._mark", "before")
        assert verdict.dropped_bytes == SIZE - limit or (uncounted and verdict.dropped_bytes < SIZE - limit), run.name
        assert verdict.dropped_bytes == ended.dropped_bytes, run.name

    await through(pki, tmp_path, BEYOND_THE_LIMIT, scenario, "--max-output", str(limit))


# ---- exit


async def test_a_kill_at_the_end_of_a_job(pki: TestPki, tmp_path: Path) -> None:
    """Its code is known, its output whole, and the launcher need not remember it."""

    async def scenario(run: Run) -> None:
        await followed(run, Run.arm)

    await through(pki, tmp_path, EXIT, scenario)
