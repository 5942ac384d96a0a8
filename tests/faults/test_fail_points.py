"""A kill at every named step of start, output, exit, stop, retention and migration: nothing is lost, nothing is double.

The steps are those of :mod:`tests.faults.failpoints`. Each scenario below goes through some of them, once for each
point, on a few daemons side by side; it fails when a point was not reached.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
import trio

from api.attachment import Attachment
from api.client import JobClient
from api.errors import FailedPreconditionError, InputCutError, NotFoundError
from api.messages import Job, JobState, OutputSource, Terminal, Verdict
from jobd.storage.schema import MIGRATIONS
from jobd.storage.sqlite import open_store
from jobd.worker.job import Ended
from tests.compatibility.test_old_stores import FIRST
from tests.compatibility.test_old_stores import HERE as COMPATIBILITY
from tests.faults import failpoints
from tests.faults.failpoints import Point, Points, both
from tests.faults.killed_jobd import KilledJobd, killed_jobd
from tests.support.accounts import needs_root
from tests.support.daemon import holder_of, is_alive
from tests.support.jobs import processes_with
from tests.support.pki import TestPki

SECONDS: Final = 60
EACH: Final = 12
"""Points that one daemon goes through; there are as many daemons side by side as that takes."""

# ---- which scenario goes through which points

START = [
    *both("Store.insert", "sqlite.SqliteStore._commit", "sqlite._in_savepoint", "sqlite._tell"),
    *both("Launcher.launch", "sent launch", "heard launched", "Journal.note"),
]
QUEUED = [
    *both("Store.insert", "Launcher.launch", "sent launch", "heard launched", "Journal.note", passing=2),
    *both("Journal.commit", passing=2),  # the first one is the end of the job before it
]
START_FAILED = both("heard failed", "OutputLog.finish", "Journal.commit")
OUTPUT = [
    *both("OutputLog.take", "writer.LogWriter._add", "writer.LogWriter._move", "writer.LogWriter._mark"),
    *both("writer.LogWriter._roll", "files._make_index", "files._make_data"),
]
SEALED = both("writer.LogWriter._seal")
BEYOND_THE_LIMIT = both("writer.LogWriter._drop", "writer.LogWriter._mark", "writer.LogWriter._add")
EXIT = [
    Point("Process.exited", "after"),
    *both("heard exited", "Pipe.close", "OutputLog.finish", "Journal.commit"),
    *both("sqlite.SqliteStore._commit", "sqlite._in_savepoint", "sqlite._tell"),
    *both("Process.release", "sent release"),
]
ADOPTED = [
    *both("sent keep", "sent ready", "heard job", "Launcher.take_adopted"),
    *both("OutputLog.resume", "writer.LogWriter._go_on"),
    Point("Process.exited", "before"),
]
LEAVING = both("heard leave", "OutputLog.leave")
STOP = [
    *both("Journal.note", "sqlite.SqliteStore._commit", "Journal.settle", "Process.signal"),
    *both("heard exited", "Journal.commit"),
]
KILL = both("Process.kill", "sent signal")
STOP_WAITING = both("Journal.commit", "sqlite.SqliteStore._commit")
DELETE = both("Store.delete", "Archive.delete", "files._delete_file", "Store.deleted", "sqlite.SqliteStore._commit")
SIGNAL = both("Journal.note", "Journal.settle", "Process.signal", "heard exited")
STDIN = both("Stdin.write", "Stdin.close", "sent close_stdin")
TERMINAL = both("Process.carry", "relay.Relay._move", "relay.Relay.close", "Stdin.resize")
TAKEN_OVER = both("sent elsewhere")
FIRST_START = both("schema._make", "sent ready")
CONFINED = both("sent allow", "sent signal_pids", "heard signalled")
LOST = both("Archive.recover")
LOST_RECORDED = both("Journal.commit")


def test_every_step_of_the_code_has_its_points() -> None:
    """Or a reason for having none. A new method of a port, function of the log or of the store, or message to or from
    the launcher is to be added to one of the two tables."""
    found = failpoints.steps_of_code()
    known = {*failpoints.STEPS, *failpoints.EXEMPT}
    assert found - known == set(), "steps without a fail point: add them to STEPS (and a scenario) or to EXEMPT"
    assert known - found == set(), "steps that the code no longer has"
    assert not {*failpoints.STEPS} & {*failpoints.EXEMPT}
    assert failpoints.ports_of_code() == set(failpoints.PORTS)


def test_every_point_is_in_a_scenario() -> None:
    """Before and after each step."""
    scenarios = [START, QUEUED, START_FAILED, OUTPUT, SEALED, BEYOND_THE_LIMIT, EXIT, ADOPTED, LEAVING, STOP, KILL]
    scenarios += [SIGNAL, STOP_WAITING, DELETE, STDIN, TERMINAL, TAKEN_OVER, FIRST_START, CONFINED, LOST, LOST_RECORDED]
    reached = {(point.step, point.when) for point in itertools.chain(*scenarios)}
    wanted = {(point.step, point.when) for point in both(*failpoints.STEPS)}
    assert wanted - reached == set()


# ---- the job that most of them run

PIECES: Final = 12
SCRIPT: Final = """
echo x >> "$MARK"
piece() {
    i=$1
    while [ "$i" -lt "$2" ]; do
        printf '%04999d\\n' "$i"
        printf '%02999d\\n' "$i" >&2
        i=$((i + 1))
    done
}
piece 0 6
until [ -e "$GATE" ]; do sleep 0.01; done
piece 6 12
exit 7
"""
"""It leaves a mark, writes to both streams, waits at the gate, writes more, and exits with a code."""


def written(first: int = 0) -> dict[OutputSource, bytes]:
    """What it writes, from a piece on."""
    return {
        OutputSource.STDOUT: b"".join(b"%04999d\n" % i for i in range(first, PIECES)),
        OutputSource.STDERR: b"".join(b"%02999d\n" % i for i in range(first, PIECES)),
    }


SIZE: Final = sum(len(data) for data in written().values())


@dataclass
class Run:
    """One job of a scenario, for one point.

    Attributes:
        reads: what each follower got, and the verdict.
    """

    client: JobClient
    jobd: KilledJobd
    point: Point
    directory: Path
    reads: list[tuple[dict[OutputSource, bytes], Verdict]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.point)

    @property
    def gate(self) -> Path:
        return self.directory / "gate"

    @property
    def mark(self) -> Path:
        return self.directory / "mark"

    def arm(self) -> None:
        self.jobd.points.arm(self.point)

    async def start(self, script: str = SCRIPT) -> Job:
        env = {"GATE": str(self.gate), "MARK": str(self.mark)}
        return await self.client.start(["sh", "-c", script], name=self.name, env=env)

    async def follow(self, job_id: str) -> None:
        """All of the job's output, without a gap or an overlap."""
        got = {OutputSource.STDOUT: bytearray(), OutputSource.STDERR: bytearray()}
        end = 0
        async with self.client.stream(job_id) as output:
            async for chunk in output:
                assert chunk.offset == end, self.name
                end += len(chunk.data)
                got[OutputSource(chunk.source)] += chunk.data
        assert output.verdict is not None
        assert output.verdict.end_offset == end, self.name
        self.reads.append(({source: bytes(data) for source, data in got.items()}, output.verdict))

    async def until_recorded(self, job_id: str, size: int) -> None:
        """Until so much of the output is recorded."""
        while (await self.client.query(job_id)).output_bytes < size:
            pass

    async def see_through(self, job: Job) -> None:
        """Let the job go on to its end; everything about it is as it would be without a kill."""
        self.gate.touch()
        [ended] = await self.client.wait(job.id)
        await self.follow(job.id)
        assert (ended.state, ended.exit_code, ended.reason) == (JobState.FAILED, 7, "EXITED"), self.name
        assert (ended.output_bytes, ended.dropped_bytes) == (SIZE, 0), self.name
        assert self.mark.read_text() == "x\n", f"{self.name}: it did not run exactly once"
        await self.is_the_only_one(job)

    async def is_the_only_one(self, job: Job) -> None:
        """No other was made of the same request."""
        assert [each.id async for each in self.client.list() if each.spec.name == self.name] == [job.id], self.name

    def followers_have_it_all(self) -> None:
        for got, verdict in self.reads:
            assert got == written(), f"{self.name}: {[len(data) for data in got.values()]}"
            assert (verdict.state, verdict.exit_code, verdict.dropped_bytes) == (JobState.FAILED, 7, 0), self.name


async def through(
    pki: TestPki,
    directory: Path,
    points: Iterable[Point],
    scenario: Callable[[Run], Awaitable[None]],
    *flags: str,
) -> None:
    """Go through a scenario once for each point. Afterwards the launcher holds no descriptor more than before."""
    points = list(points)
    daemons = -(-len(points) // EACH)

    async def some(number: int) -> None:
        mine = directory / f"jobd-{number}"
        mine.mkdir()
        async with running(pki, mine, *flags) as (client, jobd):
            before = jobd.descriptors()
            for count, point in enumerate(points[number::daemons]):
                run = Run(client, jobd, point, mine / str(count))
                run.directory.mkdir()
                await scenario(run)
                assert jobd.points.reached(point), f"{point} was not reached"
                assert processes_with(str(run.mark)) == [], f"{point}: a process is left"
            await until(lambda: jobd.descriptors() <= before)
        log = (mine / "log").read_text()
        assert '"level": "error"' not in log, log
        assert "Traceback" not in log, log

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for number in range(daemons):
                nursery.start_soon(some, number)


@asynccontextmanager
async def running(pki: TestPki, directory: Path, *flags: str):  # type: ignore[no-untyped-def] # a client and its jobd
    program = killed_jobd(pki, directory, *flags)
    jobd = await trio.to_thread.run_sync(program.__enter__)
    try:
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            await client.workers()
            yield client, jobd
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(program.__exit__, None, None, None)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


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


async def followed(run: Run, halfway: Callable[[Run], None]) -> None:
    """A job with a follower, to its end; ``halfway`` is called when half of the output is recorded."""
    job = await run.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.follow, job.id)
        await run.until_recorded(job.id, SIZE // 2)
        halfway(run)
        await run.see_through(job)
    run.followers_have_it_all()
    assert len(run.reads) == 2


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
    """There was nothing to lose, and the next start begins anew; whoever waits to be told that it listens is told."""
    points = Points(tmp_path / "points")
    with trio.fail_after(SECONDS):
        for point in FIRST_START[:-1]:
            await dies_at_its_start(pki, tmp_path, points, point)
        points.arm(FIRST_START[-1])  # by then it serves, and is started again
        async with running(pki, tmp_path) as (client, _):
            job = await client.start(["true"])
            [ended] = await client.wait(job.id)
            await until(lambda: points.reached(FIRST_START[-1]))
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
    """Launcher and server were killed, and then each server that was to say so: the job is lost, its output is not."""
    with trio.fail_after(SECONDS):
        async with running(pki, tmp_path) as (client, jobd):
            run = Run(client, jobd, LOST[0], tmp_path)
            job = await run.start()
            await run.until_recorded(job.id, SIZE // 2)
            jobd.crash()
        points = jobd.points
        for point in LOST:
            await dies_at_its_start(pki, tmp_path, points, point)
        for point in LOST_RECORDED:  # that is not waited for: it may serve by then
            points.arm(point)
        while not all(points.reached(point) for point in LOST_RECORDED):
            with killed_jobd(pki, tmp_path) as again:
                await until(lambda: again.process.poll() is not None or points.reached(LOST_RECORDED[-1]))
        run.gate.touch()
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


# ---- stdin and terminals

INPUT: Final = b"".join(b"%0999d\n" % number for number in range(20))


async def test_a_kill_while_stdin_is_written(pki: TestPki, tmp_path: Path) -> None:
    """The job reads every byte once, and the end. Whoever writes goes on by itself, or is told how many bytes may or
    may not have come; and those did, or did not, as the moment of the kill says."""

    async def scenario(run: Run) -> None:
        job = await run.client.start(["cat"], attachable=True, name=run.name)
        run.arm()
        certain = 0
        while True:
            output, cut = await attached(run, job, INPUT[certain:])
            if cut is None:
                break
            assert run.point.step == "Stdin.write", run.name
            assert 0 < cut.uncertain <= len(INPUT) - cut.accepted
            certain += cut.accepted + (1000 if run.point.when == "after" else 0)
        assert output == INPUT, run.name
        [ended] = await run.client.wait(job.id)
        assert (ended.state, ended.exit_code) == (JobState.SUCCEEDED, 0), run.name

    await through(pki, tmp_path, STDIN, scenario)


async def attached(run: Run, job: Job, data: bytes) -> tuple[bytes, InputCutError | None]:
    """Write all of it to the job's stdin, a thousand bytes at a time, and close it; what the job wrote, or why not."""
    output, cut = b"", None
    async with run.client.attach(job.id) as attachment, trio.open_nursery() as nursery:

        async def feed() -> None:
            with contextlib.suppress(trio.ClosedResourceError):
                for start in range(0, len(data), 1000):
                    await attachment.send(data[start : start + 1000])
                    await accepted(attachment, start + 1000)
                await attachment.close_stdin()

        nursery.start_soon(feed)
        try:
            async for chunk in attachment:
                output += chunk.data
        except InputCutError as exc:
            cut = exc
            nursery.cancel_scope.cancel()
    return output, cut


async def accepted(attachment: Attachment, count: int) -> None:
    while attachment.accepted < count:
        await trio.sleep(0.001)


TERMINAL_SCRIPT: Final = """
stty -opost
i=0
while [ "$i" -lt 12 ]; do
    printf '%04999d\\n' "$i"
    printf '%02999d\\n' "$i" >&2
    i=$((i + 1))
    [ "$i" != 6 ] || until [ "$(stty size)" = "40 132" ]; do sleep 0.01; done
done
exit 7
"""
"""It writes to its terminal, waits until that has another size, writes more, and exits with a code."""


async def test_a_kill_while_a_terminal_is_carried(pki: TestPki, tmp_path: Path) -> None:
    """Every byte that the job wrote to it is recorded, once and in order; and it gets its size."""

    async def scenario(run: Run) -> None:
        run.arm()
        job = await run.client.start(["sh", "-c", TERMINAL_SCRIPT], terminal=Terminal(24, 80), name=run.name)
        output = b""
        async with run.client.attach(job.id) as attachment:
            await attachment.resize(40, 132)
            async for chunk in attachment:
                output += chunk.data
        assert output == b"".join(b"%04999d\n%02999d\n" % (i, i) for i in range(PIECES)), run.name
        assert attachment.verdict is not None
        assert (attachment.verdict.state, attachment.verdict.exit_code) == (JobState.FAILED, 7), run.name

    await through(pki, tmp_path, TERMINAL, scenario)


# ---- stop


@pytest.mark.parametrize("script", ["exec sleep 1000", "trap '' TERM; while :; do sleep 0.01; done"])
async def test_a_kill_during_a_stop(pki: TestPki, tmp_path: Path, script: str) -> None:
    """It is answered; no process is left; and who asked for it is known."""

    async def scenario(run: Run) -> None:
        job = await run.start(script)
        run.arm()
        stopped = await run.client.stop(job.id, grace=1 if "trap" not in script else 0.1)
        by = signal.SIGKILL if "trap" in script else signal.SIGTERM
        assert (stopped.state, stopped.stopped_by, stopped.signal) == (JobState.STOPPED, "alice", by), run.name
        assert await run.client.query(job.id) == stopped

    await through(pki, tmp_path, [*STOP, *KILL] if "trap" in script else STOP, scenario)


@needs_root
async def test_a_kill_of_a_server_without_privileges(pki: TestPki) -> None:
    """Before it gives them up or after: the next one does; and the job, which is another user's, is stopped, whole."""

    async def scenario(run: Run) -> None:
        job = await run.start("trap '' TERM; sleep 1000")
        for each in ("armed", "reached"):  # the points are reached as daemon
            (run.jobd.points.directory / each).chmod(0o777)
        run.arm()
        if run.point.step == "sent allow":
            run.jobd.kill_server()
            await until(lambda: run.jobd.points.reached(run.point))
        stopped = await run.client.stop(job.id, grace=0.1)
        assert (stopped.state, stopped.stopped_by, stopped.signal) == (JobState.STOPPED, "alice", signal.SIGKILL)

    with tempfile.TemporaryDirectory(prefix="jobd-test-") as name:
        Path(name).chmod(0o755)
        flags = ("--user", "daemon", "--job-user", "nobody", "--containment", "none")
        await through(pki, Path(name), CONFINED, scenario, *flags)


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


# ---- migration

MIGRATE: Final = r"""
import os, shutil, signal, sys
from pathlib import Path
from jobd.storage import schema

old, directory = Path(sys.argv[1]), Path(sys.argv[2])
prepare = schema._prepare

def killed_at(number, path):
    statements = []
    def count(statement):
        if len(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        statements.append(statement)
    def traced(connection):
        connection.set_trace_callback(count)
        prepare(connection)
        connection.set_trace_callback(None)
    schema._prepare = traced
    schema.open_database(path).close()
    return statements

whole = shutil.copy(old, directory / "whole")
statements = killed_at(-1, whole)
print(*[" ".join(each.split()) for each in statements], sep="\n")
for number in range(len(statements)):
    path = shutil.copy(old, directory / str(number))
    pid = os.fork()
    if pid == 0:
        killed_at(number, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""
"""Opens the store for every statement that brings it to the present version, and is killed before that one."""


@pytest.mark.parametrize("old", sorted(COMPATIBILITY.glob("jobs-v*.sqlite3")), ids=lambda path: path.stem)
async def test_a_kill_at_any_statement_of_a_migration_loses_nothing(tmp_path: Path, old: Path) -> None:
    """The next server finds what the first one would have."""
    run = subprocess.run(
        [sys.executable, "-c", MIGRATE, old, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        cwd=COMPATIBILITY.parents[1],
    )
    statements = run.stdout.splitlines()
    assert statements.count("COMMIT;") == len(MIGRATIONS) - int(old.stem.rpartition("v")[2]), statements
    for number in range(len(statements)):
        async with open_store(tmp_path / str(number)) as store:
            assert await store.get(FIRST.id) == FIRST
            assert [job.id[:8] for job in await store.live()] == ["00000002"]
            assert await store.ended(10) == [Ended(FIRST.id, FIRST.ended_at or 0, 3)]
        assert dump_of(tmp_path / str(number)) == dump_of(tmp_path / "whole")


def dump_of(path: Path) -> list[str]:
    """The database as text, its version included."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
