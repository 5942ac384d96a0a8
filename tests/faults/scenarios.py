"""The scenarios of the fail points: which points each goes through, the job that most of them run, and how it is seen
to be as it would be without a kill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import Job, JobState, OutputSource, Verdict
from tests.faults.failpoints import Point, both
from tests.faults.killed_jobd import KilledJobd, killed_jobd
from tests.support.jobs import processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)
EACH: Final = 12
"""Points that one daemon goes through; there are as many daemons side by side as that takes."""

# ---- which scenario goes through which points

START = [
    *both("Store.insert", "sqlite.SqliteStore._commit", "sqlite._outcome", "sqlite._tell"),
    *both("Launcher.launch", "sent launch", "heard launched", "Journal.note"),
]
QUEUED = [
    *both("Store.insert", "Launcher.launch", "sent launch", "heard launched", "Journal.note", passing=2),
    *both("Journal.commit", passing=2),  # the first one is the end of the job before it
]
START_FAILED = both("heard failed", "OutputLog.finish", "Journal.commit")
OUTPUT = [
    *both(
        "OutputLog.take",
        "OutputLog.take_at_once",
        "writer.LogWriter._add",
        "writer.LogWriter._move",
        "writer.LogWriter._mark",
    ),
    *both("writer.LogWriter._move_more"),
    *both("writer.LogWriter._roll", "files._make_index", "files._make_data"),
]
SEALED = both("writer.LogWriter._seal")
BEYOND_THE_LIMIT = both("writer.LogWriter._drop", "writer.LogWriter._mark", "writer.LogWriter._add")
EXIT = [
    Point("Process.exited", "after"),
    *both("heard exited", "Pipe.close", "OutputLog.finish", "Journal.commit"),
    *both("sqlite.SqliteStore._commit", "sqlite._outcome", "sqlite._tell"),
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
FIRST_START = both("schema._make", "sent saying", "sent ready")
CONFINED = both("sent allow", "sent signal_pids", "heard signalled")
LOST = both("Archive.recover")
LOST_RECORDED = both("Journal.commit")


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
                with trio.move_on_after(patient(10)):  # the last steps come after the end is told
                    await until(partial(jobd.points.reached, point))
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
