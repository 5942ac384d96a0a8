"""A kill at every named step of servers that take up jobs, or leave them."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from api.messages import JobState
from tests.faults.failpoints import Point, Points
from tests.faults.killed_jobd import killed_jobd
from tests.faults.scenarios import (
    ADOPTED,
    CONFINED,
    EXIT,
    FIRST_START,
    LEAVING,
    LOST,
    LOST_RECORDED,
    OUTPUT,
    SECONDS,
    SIZE,
    START,
    TAKEN_OVER,
    Run,
    followed,
    running,
    through,
    until,
    written,
)
from tests.support.accounts import needs_root, room
from tests.support.daemon import until_dead
from tests.support.pki import TestPki

# ---- a server that takes up jobs, and one that leaves them


async def test_a_kill_of_a_server_that_has_just_begun(pki: TestPki, tmp_path: Path) -> None:
    """The next one takes up what it did not."""

    def kill(run: Run) -> None:
        run.arm()
        run.jobd.kill_server()

    async def scenario(run: Run) -> None:
        await followed(run, kill)

    await through(pki, tmp_path, ADOPTED, scenario)


async def test_a_kill_of_a_server_that_leaves_for_an_upgrade(pki: TestPki, tmp_path: Path) -> None:
    """The upgrade goes on."""

    async def scenario(run: Run) -> None:
        job = await run.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.follow, job.id)
            await run.until_recorded(job.id, SIZE // 2)
            before = run.jobd.log.read_text().count("executed anew")
            run.arm()
            run.jobd.process.send_signal(signal.SIGHUP)
            await until(lambda: run.jobd.log.read_text().count("executed anew") > before)
            await run.see_through(job)
        run.followers_have_it_all()

    await through(pki, tmp_path, LEAVING, scenario)


async def test_a_kill_of_the_very_first_server(pki: TestPki, tmp_path: Path) -> None:
    """Before it says that it listens there was nothing to lose, and the next start begins anew. From then on it is
    started again, and whoever waits to be told that it listens is told: at least once, and the truth."""
    points = Points(tmp_path / "points")
    begins_to_say = FIRST_START.index(Point("sent saying", "after"))
    with trio.fail_after(SECONDS):
        for point in FIRST_START[:begins_to_say]:
            await dies_at_its_start(pki, tmp_path, points, point)
        for point in FIRST_START[begins_to_say:]:
            points.arm(point)
            async with running(pki, tmp_path) as (client, _):
                job = await client.start(["true"])
                [ended] = await client.wait(job.id)
                await until(partial(points.reached, point))
            assert ended.state == JobState.SUCCEEDED


async def test_a_kill_of_a_server_that_finds_another_launcher(pki: TestPki, tmp_path: Path) -> None:
    """An orderly end left a job; who comes in vain changes nothing for the one who comes next."""
    with trio.fail_after(SECONDS):
        async with running(pki, tmp_path, "--no-stop-jobs") as (client, jobd):
            run = Run(client, jobd, TAKEN_OVER[0], tmp_path)
            job = await run.start()
            await run.until_recorded(job.id, SIZE // 2)
        before, after = TAKEN_OVER
        await dies_at_its_start(pki, tmp_path, jobd.points, before)
        jobd.points.arm(after)  # by then the other launcher is told, and serves
        async with running(pki, tmp_path) as (client, jobd):
            assert jobd.points.reached(after), f"{after} was not reached"
            run.client = client
            await run.see_through(job)
    run.followers_have_it_all()


async def test_a_kill_while_what_nobody_can_trace_is_given_up(pki: TestPki, tmp_path: Path) -> None:
    """Launcher and server were killed, and the job; and then each server that was to say so: the job is lost, its
    output is not."""
    with trio.fail_after(SECONDS):
        async with running(pki, tmp_path) as (client, jobd):
            run = Run(client, jobd, LOST[0], tmp_path)
            job = await run.start()
            await run.until_recorded(job.id, SIZE // 2)
            jobd.crash()
        os.kill(job.pid, signal.SIGKILL)
        until_dead(job.pid)
        points = jobd.points
        for point in LOST:
            await dies_at_its_start(pki, tmp_path, points, point)
        for point in LOST_RECORDED:  # that is not waited for: it may serve by then
            points.arm(point)
        while not all(points.reached(point) for point in LOST_RECORDED):
            with killed_jobd(pki, tmp_path) as again:
                await until(lambda: again.process.poll() is not None or points.reached(LOST_RECORDED[-1]))
        async with running(pki, tmp_path) as (client, jobd):
            run.client = client
            [ended] = await client.wait(job.id)
            await run.follow(job.id)
    assert (ended.state, ended.reason, ended.output_bytes) == (JobState.LOST, "LAUNCHER_LOST", SIZE // 2)
    [(got, verdict)] = run.reads
    assert verdict.state == JobState.LOST
    assert {source: len(data) for source, data in got.items()} == {s: len(d) // 2 for s, d in written().items()}


@pytest.mark.parametrize("seed", [1])
async def test_several_kills_in_the_life_of_one_job(pki: TestPki, tmp_path: Path, seed: int) -> None:
    """What one kill leaves, the next one may find half taken up."""
    rng = random.Random(seed)
    points = [*START, *OUTPUT, *EXIT, *ADOPTED]
    kills = 0
    with trio.fail_after(SECONDS):
        async with running(pki, tmp_path) as (client, jobd):
            for number in range(5):
                run = Run(client, jobd, Point(f"life {number}", "before"), tmp_path / str(number))
                run.directory.mkdir()
                armed = [replace(point, passing=rng.randrange(1, 4)) for point in rng.sample(points, 6)]
                for point in armed:
                    jobd.points.arm(point)
                await followed(run, lambda run: run.jobd.kill_server())
                kills += 1 + sum(jobd.points.reached(point) for point in armed)
                jobd.points.disarm()
    assert kills > 10


async def dies_at_its_start(pki: TestPki, directory: Path, points: Points, point: Point) -> None:
    """One whose first server is killed does not begin."""
    points.arm(point)
    with killed_jobd(pki, directory) as dying:
        code = await trio.to_thread.run_sync(dying.process.wait, abandon_on_cancel=True)
    assert code == 128 + signal.SIGKILL
    assert points.reached(point), f"{point} was not reached"


@needs_root
async def test_a_kill_of_a_server_without_privileges(pki: TestPki) -> None:
    """Before it gives them up or after: the next one does; and the job, which is another user's, is stopped, whole."""

    async def scenario(run: Run) -> None:
        job = await run.start("trap '' TERM; echo deaf; exec sleep 1000")
        await run.until_recorded(job.id, len("deaf\n"))
        for each in ("armed", "reached"):  # the points are reached as daemon
            (run.jobd.points.directory / each).chmod(0o777)
        run.arm()
        if run.point.step == "sent allow":
            run.jobd.kill_server()
            await until(lambda: run.jobd.points.reached(run.point))
        stopped = await run.client.stop(job.id, grace=0.1)
        assert (stopped.state, stopped.stopped_by, stopped.signal) == (JobState.STOPPED, "alice", signal.SIGKILL)

    with room() as directory:
        flags = ("--user", "daemon", "--job-user", "nobody", "--containment", "none")
        await through(pki, directory, CONFINED, scenario, *flags)
