"""How jobs a second and the age of a line grow with running jobs and with followers: a table, and a plot of it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from tests.benchmarks.job_client_peer import JobClientPeer
from tests.benchmarks.measurements import AT_ONCE, CLOCK_COMMAND, TRUE, LineAges
from tests.benchmarks.servers import Serving, jobd
from tests.support.pki import TestPki

QUIET: Final = ("/bin/sleep", "100000")
SECONDS: Final = 1200.0
MESSAGES: Final = 400.0
"""Lines a second that all followers together are to get: more would measure the client."""
PLOT: Final = Path(__file__).parents[2] / "docs" / "growth.svg"


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does."""

    running: tuple[int, ...] = (0, 10, 100, 1000)
    followers: tuple[int, ...] = (1, 10, 100)
    jobs: int = 320
    lines: int = 200


QUICK: Final = Plan(running=(0, 5), followers=(1, 3), jobs=16, lines=10)


@dataclass
class Found:
    """A point for each number of running jobs, and of followers.

    Attributes:
        rates: jobs a second, sixteen at once.
        ages: milliseconds, p50 and p99 of a line's.
        shared: the same, by the number of followers of one job.
        beside: jobs a second, sixteen at once, by the number of those who follow a job that writes lines meanwhile.
    """

    rates: dict[int, float] = field(default_factory=dict)
    ages: dict[int, tuple[float, float]] = field(default_factory=dict)
    shared: dict[int, tuple[float, float]] = field(default_factory=dict)
    beside: dict[int, float] = field(default_factory=dict)


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, print the table, and draw it (a whole run only, where matplotlib is installed).

    Raises:
        IncorrectRunError: a run was not correct.
    """
    plan = QUICK if quick else Plan()
    print(f"\n{plan}\n")
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name:
        scratch = Path(name)
        pki = TestPki.make(scratch / "pki")
        with jobd(pki, scratch, scratch, "--slots", "5000", "--grace", "0") as server:
            found = trio.run(_measure, pki, server, plan)
            begin = time.perf_counter()
        ended = time.perf_counter() - begin
    print("| beside so many running jobs | jobs/s, 16 at once | line p50, ms | line p99, ms |\n|---|---|---|---|")
    for count, rate in found.rates.items():
        p50, p99 = found.ages[count]
        print(f"| {count} | {rate:.0f} | {p50:.2f} | {p99:.2f} |")
    print(
        "\n| beside so many followers of one job | jobs/s, 16 at once | line p50, ms | line p99, ms |"
        "\n|---|---|---|---|"
    )
    for count, (p50, p99) in found.shared.items():
        print(f"| {count} | {found.beside[count]:.0f} | {p50:.2f} | {p99:.2f} |")
    print(f"\nSIGTERM, beside {max(plan.running)} running jobs, until all have ended and are recorded: {ended:.1f} s")
    if not quick:
        _draw(found)


async def _measure(pki: TestPki, server: Serving, plan: Plan) -> Found:
    found = Found()
    with trio.fail_after(SECONDS):
        async with JobClient.connect(server.address, **pki.credentials("alice")) as client:
            await _jobs(client, AT_ONCE)
            for count in plan.followers:
                found.shared[count] = await _lines(client, plan.lines, count)
                found.beside[count] = await _jobs_beside(client, plan.jobs, count)
            there = 0
            for count in plan.running:
                await _start_quiet(client, count - there)
                there = count
                begin = time.perf_counter()
                await _jobs(client, plan.jobs)
                found.rates[count] = plan.jobs / (time.perf_counter() - begin)
                found.ages[count] = await _lines(client, plan.lines, 1)
    return found


async def _jobs_beside(client: JobClient, jobs: int, followers: int) -> float:
    """Jobs a second, while so many follow one that writes lines, as fast as in :func:`_lines`."""
    peer = JobClientPeer(client)
    job_id = await peer.start([*CLOCK_COMMAND, "1000000", str(_interval(followers))])
    ages = [LineAges() for _ in range(followers)]
    async with trio.open_nursery() as nursery:
        for each in ages:
            nursery.start_soon(peer.stream, job_id, each.read)
        while not all(each.some for each in ages):
            await trio.sleep(0.01)
        begin = time.perf_counter()
        await _jobs(client, jobs)
        seconds = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    await client.stop(job_id, grace=0)
    return jobs / seconds


def _interval(followers: int) -> float:
    return max(0.01, followers / MESSAGES)


async def _start_quiet(client: JobClient, count: int) -> None:
    for _ in range(count):
        await client.start(QUIET)


async def _jobs(client: JobClient, count: int) -> None:
    async def some() -> None:
        for _ in range(count // AT_ONCE):
            await JobClientPeer(client).run(TRUE)

    await JobClientPeer(client).side_by_side([some] * AT_ONCE)


async def _lines(client: JobClient, lines: int, followers: int) -> tuple[float, float]:
    """The median and the last hundredth of all lines' ages, of all followers."""
    peer = JobClientPeer(client)
    job_id = await peer.start([*CLOCK_COMMAND, str(lines), str(_interval(followers))])
    ages = [LineAges() for _ in range(followers)]
    await peer.side_by_side([partial(peer.stream, job_id, each.read) for each in ages])
    every = sorted(age for each in ages for age in each.all_of(lines))
    return every[len(every) // 2], every[len(every) * 99 // 100]


def _draw(found: Found) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("\nno plot: matplotlib is not installed")
        return
    pyplot.rcParams["svg.hashsalt"] = "jobd"  # the same figures make the same file
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.plot(list(found.rates), list(found.rates.values()), "o-", label="running jobs")
    left.plot(list(found.beside), list(found.beside.values()), "s--", label="followers of one job")
    left.set(xscale="symlog", xlabel="so many beside", ylabel="jobs/s, 16 at once", ylim=(0, None))
    left.legend()
    for axes, points, what in ((middle, found.ages, "running jobs"), (right, found.shared, "followers of one job")):
        axes.plot(list(points), [p50 for p50, _ in points.values()], "o-", label="p50")
        axes.plot(list(points), [p99 for _, p99 in points.values()], "s--", label="p99")
        axes.set(xscale="symlog", xlabel=what, ylabel="age of a line, ms", ylim=(0, None))
        axes.legend()
    figure.savefig(PLOT, metadata={"Date": None})
    print(f"\ndrawn: {PLOT.name}")
