"""What is measured, the same for every peer; in a run that was not correct, nothing is."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from tests.benchmarks.correct import check
from tests.benchmarks.payload import MIB, digest, have_memory, kept, written_by

AT_ONCE: Final = 16
FOLLOWERS: Final = 10
TRUE: Final = ("/bin/true",)
CLOCK: Final = """
import sys, time
lines, interval = int(sys.argv[1]), float(sys.argv[2])
begin = time.monotonic()
for line in range(lines):
    time.sleep(max(0.0, begin + line * interval - time.monotonic()))
    print(time.monotonic_ns(), flush=True)
"""
"""Prints the machine's monotonic clock, which is one for all processes, at a steady pace."""
CLOCK_COMMAND: Final = (sys.executable, "-S", "-c", CLOCK)


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does.

    Attributes:
        payload: the file that jobs write; it has so many ``mebibytes``.
    """

    rounds: int = 5
    jobs: int = 60
    jobs_at_once: int = 320
    calls: int = 1600
    mebibytes: int = 256
    lines: int = 250
    interval: float = 0.01
    payload: str = ""


QUICK: Final = Plan(rounds=1, jobs=5, jobs_at_once=32, calls=64, mebibytes=8, lines=20)


def worked(measurement: str, plan: Plan) -> int:
    """MiB or jobs of a client's whole run, of its warming up too: what the server's time of it was for."""
    kind = {"jobs_one_by_one": "jobs", "jobs_at_once": "jobs_at_once"}.get(measurement, "mebibytes")
    return int(getattr(plan, kind) + getattr(QUICK, kind))


class Peer(Protocol):
    """A connected client."""

    async def run(self, argv: Sequence[str]) -> None:
        """Start a job and Wait for its end, which is exit code 0."""

    async def job(self, argv: Sequence[str]) -> str:
        """Run a job to its end, as :meth:`run`; its id."""

    async def query(self, job_id: str) -> None:
        """Query a job, which is the one that was asked for."""

    async def check(self) -> None:
        """A health check, whose answer is SERVING."""

    async def start(self, argv: Sequence[str]) -> str:
        """Start a job; its id."""

    async def stream(self, job_id: str, on_data: Callable[[bytes], None]) -> None:
        """Stream a job to its verdict, which is exit code 0 and as many bytes as came."""

    async def side_by_side(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Run the functions concurrently."""


class LineAges:
    """How old the lines of a CLOCK are when they come, in milliseconds."""

    def __init__(self) -> None:
        self._ages: list[float] = []
        self._unfinished = b""

    def read(self, data: bytes) -> None:
        """Some bytes have come."""
        now = time.monotonic_ns()
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._ages += [(now - int(line)) / 1e6 for line in lines]

    @property
    def some(self) -> bool:
        """A line has come."""
        return bool(self._ages)

    def all_of(self, count: int) -> list[float]:
        """In the order of their coming.

        Raises:
            IncorrectRunError: not so many came, or not whole.
        """
        check(len(self._ages) == count and not self._unfinished, f"{len(self._ages)} lines came of {count}")
        return self._ages


async def jobs_one_by_one(peer: Peer, plan: Plan) -> dict[str, float]:
    """Jobs a second, each started when the one before has ended."""
    begin = time.perf_counter()
    await _run_jobs(peer, plan.jobs)
    return {"jobs/s, 1 at a time": plan.jobs / (time.perf_counter() - begin)}


async def jobs_at_once(peer: Peer, plan: Plan) -> dict[str, float]:
    """Jobs a second, sixteen at a time over one connection."""
    each, rest = divmod(plan.jobs_at_once, AT_ONCE)
    check(not rest, f"jobs_at_once is not a multiple of {AT_ONCE}")
    begin = time.perf_counter()
    await peer.side_by_side([partial(_run_jobs, peer, each)] * AT_ONCE)
    return {f"jobs/s, {AT_ONCE} at once": plan.jobs_at_once / (time.perf_counter() - begin)}


async def _run_jobs(peer: Peer, count: int) -> None:
    for _ in range(count):
        await peer.run(TRUE)


async def calls_one_by_one(peer: Peer, plan: Plan) -> dict[str, float]:
    """Milliseconds from a Query to its answer, on an idle connection."""
    job_id = await peer.job(TRUE)
    times = []
    for _ in range(plan.calls // 4):
        begin = time.perf_counter()
        await peer.query(job_id)
        times.append((time.perf_counter() - begin) * 1e3)
    return {"Query p50, ms": _percentile(sorted(times), 50)}


async def calls_at_once(peer: Peer, plan: Plan) -> dict[str, float]:
    """Queries a second, sixteen at a time over one connection."""
    job_id = await peer.job(TRUE)

    async def calls() -> None:
        for _ in range(plan.calls // AT_ONCE):
            await peer.query(job_id)

    begin = time.perf_counter()
    await peer.side_by_side([calls] * AT_ONCE)
    return {f"Query calls/s, {AT_ONCE} at once": plan.calls / (time.perf_counter() - begin)}


async def checks_at_once(peer: Peer, plan: Plan) -> dict[str, float]:
    """Health checks a second, sixteen at a time over one connection: what a call costs that does nothing."""

    async def calls() -> None:
        for _ in range(plan.calls // AT_ONCE):
            await peer.check()

    begin = time.perf_counter()
    await peer.side_by_side([calls] * AT_ONCE)
    return {f"Check calls/s, {AT_ONCE} at once": plan.calls / (time.perf_counter() - begin)}


async def stream(peer: Peer, plan: Plan) -> dict[str, float]:
    """MiB a second from one job that writes as fast as it can to one follower, from Start to verdict."""
    size = plan.mebibytes * MIB
    with kept(size) as came:
        have_memory(size)
        begin = time.perf_counter()
        await peer.stream(await peer.start(written_by(plan.payload, size)), came.take)
        seconds = time.perf_counter() - begin
        came.judge(digest(plan.payload, size), "a follower")
    return {"stream, MiB/s": plan.mebibytes / seconds}


async def followers(peer: Peer, plan: Plan) -> dict[str, float]:
    """MiB a second, the sum of ten followers of one job over one connection, from Start to the last verdict."""
    size = plan.mebibytes * MIB // FOLLOWERS
    with ExitStack() as stack:
        each = [stack.enter_context(kept(size)) for _ in range(FOLLOWERS)]
        have_memory(size)
        begin = time.perf_counter()
        job_id = await peer.start(written_by(plan.payload, size))
        await peer.side_by_side([partial(peer.stream, job_id, came.take) for came in each])
        seconds = time.perf_counter() - begin
        expected = digest(plan.payload, size)
        for came in each:
            came.judge(expected, "one of the followers")
    return {"ten followers, MiB/s": size * FOLLOWERS / MIB / seconds}


async def latency(peer: Peer, plan: Plan) -> dict[str, float]:
    """Milliseconds from the moment at which a job writes a line until the client has it."""
    lines = LineAges()
    await peer.stream(await peer.start([*CLOCK_COMMAND, str(plan.lines), str(plan.interval)]), lines.read)
    ages = sorted(lines.all_of(plan.lines))
    return {"line latency p50, ms": _percentile(ages, 50), "line latency p99, ms": _percentile(ages, 99)}


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


Measurement = Callable[[Peer, Plan], Awaitable[dict[str, float]]]
MEASUREMENTS: Final[dict[str, Measurement]] = {
    function.__name__: function
    for function in (
        *(jobs_one_by_one, jobs_at_once, calls_one_by_one, calls_at_once, checks_at_once),
        *(stream, followers, latency),
    )
}
