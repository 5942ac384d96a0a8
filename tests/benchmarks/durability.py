"""What durability costs, and how long a kill is felt: each number next to a reference that was measured beside it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from api import methods
from api.client import JobClient
from api.messages import JobState, ListRequest
from tests.benchmarks import servers
from tests.benchmarks.correct import check
from tests.benchmarks.measurements import AT_ONCE, CLOCK
from tests.benchmarks.servers import memory_of
from tests.interop.stubs import ROOT
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.pki import TestPki
from tests.support.records import make_store

SECONDS: Final = 120.0
INTERVAL: Final = 0.002
"""Seconds between two lines of the job whose follower is watched."""
LINES_BEFORE: Final = 50
"""That must have come before the kill: the stream flows live."""
ECHO: Final = ("/bin/echo", "done")
MODES: Final = ("durable", "unsynced", "in-memory")
QUIET: Final = ("/bin/sleep", "100000")
THIRD_PARTY: Final = "import trio, structlog, betterproto, purerpc, cryptography.x509"
GOAL_BASE, GOAL_EACH = 15.0, 10.0
"""MiB for a launcher without jobs, KiB for each job."""


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does."""

    rounds: int = 5
    kills: int = 3
    adopted: int = 500
    ended: tuple[int, ...] = (10_000, 100_000)
    jobs: int = 60
    jobs_at_once: int = 320
    running: tuple[int, ...] = (0, 100, 1000)


QUICK: Final = Plan(rounds=1, kills=1, adopted=20, ended=(100,), jobs=5, jobs_at_once=32, running=(0, 10))


@dataclass
class Results:
    """All values of each row, and the row that it is held against."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    references: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, value: float, against: str = "") -> None:
        self.values[label].append(value)
        if against:
            self.references[label] = against

    def print_table(self) -> None:
        """Medians, their spread, and each as a ratio to its reference."""
        print(f"{'':61} | {'median':>9} | {'min to max':>20} | ratio")
        for label, values in self.values.items():
            median = statistics.median(values)
            against = self.references.get(label)
            ratio = f"{median / statistics.median(self.values[against]):.2f} of: {against}" if against else ""
            print(f"{label:61} | {median:9.2f} | {f'{min(values):.2f} to {max(values):.2f}':>20} | {ratio}")


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the table.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    plan = QUICK if quick else Plan()
    plan = dataclasses.replace(plan, rounds=rounds or plan.rounds)
    print(f"\n{plan}\n")
    results = Results()
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name:
        scratch = Path(name)
        pki = TestPki.make(scratch / "pki")
        stores = {count: make_store(scratch / f"{count}", count) for count in plan.ended}
        for _ in range(plan.rounds):
            for measurement in (programs, first_byte, adoption, partial(start_up, stores), cost, launcher_memory):
                with tempfile.TemporaryDirectory(dir=scratch) as own:
                    measurement(pki, Path(own), plan, results)
    results.print_table()


# ---- from a kill to the next byte


def programs(pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """What no restart can do without: the interpreter, other people's modules, and ours."""
    for _ in range(plan.kills):
        for what, code in (
            ("python -c pass, ms", "pass"),
            ("python, other people's modules, ms", THIRD_PARTY),
            (SERVER_MODULES, "import jobd.server"),
        ):
            begin = time.perf_counter()
            # os._exit: the end of an interpreter is no part of a start.
            subprocess.run([sys.executable, "-c", f"{code}; import os; os._exit(0)"], cwd=ROOT, check=True)
            results.add(what, _milliseconds(begin))


SERVER_MODULES: Final = "python, all modules of the server, ms"


def first_byte(pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """A client follows a job that writes; the server is killed; the next byte that the job wrote after that comes."""
    for number in range(plan.kills):
        begin = time.perf_counter()
        with jobd_program(pki, scratch / f"{number}" / "state") as jobd:
            results.add("jobd, cold start until it listens, ms", _milliseconds(begin), SERVER_MODULES)
            seconds = trio.run(_kill_and_follow, pki, jobd)
            results.add("SIGKILL of the server → first new byte, ms", seconds * 1000, SERVER_MODULES)


async def _kill_and_follow(pki: TestPki, jobd: JobdProgram) -> float:
    with trio.fail_after(SECONDS):
        async with _client(pki, jobd.server) as client:
            job = await client.start([sys.executable, "-S", "-c", CLOCK, "1000000", str(INTERVAL)])
            killed = dead = 0.0
            expected, lines, unfinished = 0, 0, b""
            async with client.stream(job.id) as output:
                async for piece in output:
                    now = time.monotonic()
                    check(piece.offset == expected, f"a gap at {expected}")
                    expected += len(piece.data)
                    *whole, unfinished = (unfinished + piece.data).split(b"\n")
                    lines += len(whole)
                    if dead and whole and int(whole[-1]) / 1e9 > dead:
                        return now - killed
                    if lines >= LINES_BEFORE and not killed:
                        killed, dead = await _kill(jobd)
    raise AssertionError("the stream has ended")


async def _kill(jobd: JobdProgram) -> tuple[float, float]:
    """When the server was killed, and when it was dead."""
    pid = await trio.to_thread.run_sync(jobd.server_pid)
    pidfd = os.pidfd_open(pid)
    try:
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
        return killed, time.monotonic()
    finally:
        trio.lowlevel.notify_closing(pidfd)
        os.close(pidfd)


# ---- many jobs, many records

NONE: Final = "SIGKILL of the server → List answered, no job, ms"


def adoption(pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """The server is killed while many jobs run; the next one answers that all of them run, with the pids they had."""
    for count in (0, plan.adopted):
        with jobd_program(pki, scratch / f"{count}" / "state", "--slots", "2000", "--grace", "0") as jobd:
            answered, listed = trio.run(_kill_and_ask, pki, jobd, count)
        if not count:
            results.add(NONE, answered * 1000, SERVER_MODULES)
            continue
        results.add(f"SIGKILL of the server → List of {count} answered, ms", answered * 1000, NONE)
        results.add("that List a second time, ms", listed * 1000)
        results.add("the first without what the second took, ms", (answered - listed) * 1000, NONE)


async def _kill_and_ask(pki: TestPki, jobd: JobdProgram, count: int) -> tuple[float, float]:
    """Seconds until everything was answered after a kill, and once more when nothing had happened."""
    with trio.fail_after(SECONDS):
        async with _client(pki, jobd.server) as client:
            await _start_all(client, count)
            before = await _running(client)
            check(len(before) == count, f"{len(before)} jobs run, not {count}")
            killed, _ = await _kill(jobd)
            after = await _running(client)
            answered = time.monotonic()
            again = await _running(client)
            listed = time.monotonic() - answered
            check(before == after == again, "the jobs of the next server are not those of the one before")
            return answered - killed, listed


async def _running(client: JobClient) -> dict[str, int]:
    return {job.id: job.pid async for job in client.list(states=[JobState.RUNNING], page_size=1000)}


async def _start_all(client: JobClient, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for part in range(AT_ONCE):
            nursery.start_soon(_start_some, client, len(range(part, count, AT_ONCE)))


async def _start_some(client: JobClient, count: int) -> None:
    for _ in range(count):
        job = await client.start(QUIET)
        check(job.state == JobState.RUNNING, f"a job is {job.state}: {job.message}")


def start_up(stores: dict[int, Path], pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """From the start of the program until it listens, and until it has answered a List, with jobs that have ended."""
    for count in (0, *stores):
        state = scratch / f"{count}" / "state"
        if count:
            shutil.copytree(stores[count], state)
        begin = time.perf_counter()
        with jobd_program(pki, state) as jobd:
            listening = _milliseconds(begin)
            found = trio.run(_first_page, pki, jobd)
            answered = _milliseconds(begin)
            taken_over = trio.run(_kill_and_list, pki, jobd)
        if count:
            label = f"SIGKILL of the server → List answered, {count:,} ended jobs, ms"
            results.add(label, taken_over * 1000, NONE)
        check(found == min(count, 1), f"{found} jobs were listed of {count}")
        for what, value in (("listens", listening), ("answers List", answered)):
            against = f"start with 0 ended jobs until it {what}, ms" if count else ""
            results.add(f"start with {count:,} ended jobs until it {what}, ms", value, against)


async def _kill_and_list(pki: TestPki, jobd: JobdProgram) -> float:
    killed, _ = await _kill(jobd)
    await _first_page(pki, jobd)
    return time.monotonic() - killed


async def _first_page(pki: TestPki, jobd: JobdProgram) -> int:
    with trio.fail_after(SECONDS):
        async with _client(pki, jobd.server) as client:
            answer = await client._call(methods.LIST, ListRequest(page_size=1))
            return len(answer.jobs)


# ---- the cost of durability


def cost(pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """Jobs a second, each with a line of output, from Start until Wait has answered."""
    begin = time.perf_counter()
    for _ in range(plan.jobs):
        subprocess.run(ECHO, check=True, stdout=subprocess.PIPE)
    bare = "jobs/s, fork and exec alone, 1 at a time"
    results.add(bare, plan.jobs / (time.perf_counter() - begin))
    results.add("write and fdatasync of 4 KiB, ms", statistics.median(_synced_writes(scratch / "synced", plan.jobs)))
    rates = {}
    turn = len(results.values[bare]) % len(MODES)  # each is first, second and last in turn
    for mode in MODES[turn:] + MODES[:turn]:
        with servers.undurable(mode, pki, scratch / mode) as server:
            rates[mode] = trio.run(_run_jobs, pki, server.address, plan)
    for mode in MODES:
        for what, rate in zip(("1 at a time", f"{AT_ONCE} at once"), rates[mode], strict=True):
            against = "" if mode == MODES[0] else f"jobs/s, {MODES[0]}, {what}"
            results.add(f"jobs/s, {mode}, {what}", rate, against or bare)


def _synced_writes(path: Path, count: int) -> list[float]:
    """What this disk takes for the least that can be made durable: everything else is relative to that."""
    milliseconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            milliseconds.append(_milliseconds(begin))
    return milliseconds


async def _run_jobs(pki: TestPki, server: str, plan: Plan) -> tuple[float, float]:
    with trio.fail_after(SECONDS):
        async with _client(pki, server) as client:

            async def some(count: int) -> None:
                for _ in range(count):
                    job = await client.start(ECHO)
                    [ended] = await client.wait(job.id)
                    check(ended.exit_code == 0 and ended.output_bytes == 5, f"a job ended as {ended}")

            await some(3)
            one = await _rate(plan.jobs, partial(some, plan.jobs))

            async def side_by_side() -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(some, plan.jobs_at_once // AT_ONCE)

            return one, await _rate(plan.jobs_at_once, side_by_side)


async def _rate(count: int, function: Callable[[], Awaitable[None]]) -> float:
    begin = time.perf_counter()
    await function()
    return count / (time.perf_counter() - begin)


# ---- the launcher's memory


def launcher_memory(pki: TestPki, scratch: Path, plan: Plan, results: Results) -> None:
    """What the process that stays holds, with so many running jobs (goal: below 15 MiB, and 10 KiB for each)."""
    with jobd_program(pki, scratch / "state", "--slots", "5000", "--grace", "0") as jobd:
        trio.run(_fill, pki, jobd, plan, results)


async def _fill(pki: TestPki, jobd: JobdProgram, plan: Plan, results: Results) -> None:
    launcher = jobd.launcher
    running, empty = 0, {}
    results.add("front, RSS, MiB", memory_of(jobd.process.pid)["RSS"] / 1024)
    with trio.fail_after(SECONDS):
        async with _client(pki, jobd.server) as client:
            for count in plan.running:
                await _start_all(client, count - running)
                running = count
                check(len(await _running(client)) == count, f"not {count} jobs run")
                held = memory_of(launcher)
                empty = empty or held
                results.add(f"launcher, {count} jobs, RSS, MiB", held["RSS"] / 1024, _goal(results, count))
                results.add(f"launcher, {count} jobs, PSS, MiB", held["PSS"] / 1024)
                results.add(f"launcher, {count} jobs, private, MiB", held["private"] / 1024)
                if count:
                    each = (held["private"] - empty["private"]) / count
                    results.add(f"launcher, {count} jobs, private, KiB a job", each)


def _goal(results: Results, count: int) -> str:
    label = f"goal for a launcher with {count} jobs, MiB"
    results.add(label, GOAL_BASE + GOAL_EACH * count / 1024)
    return label


# ---- all of them


def _client(pki: TestPki, server: str):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(server, **pki.credentials("alice"), retry_for=SECONDS)


def _milliseconds(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000
