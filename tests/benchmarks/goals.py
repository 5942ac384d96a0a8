"""How near the machine's limit we are: each number next to what it is measured by, with the goal for the ratio, and the
floor: the least that does the same (``references.bare``, and others), in the same run."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks import programs, servers
from tests.benchmarks.correct import IncorrectRunError
from tests.benchmarks.measurements import AT_ONCE, Plan, worked
from tests.benchmarks.payload import written_by
from tests.benchmarks.place import Figures, Place, place_of
from tests.benchmarks.references import blocking, task_spooler
from tests.interop.stubs import ROOT

FULL: Final = Plan(rounds=5, mebibytes=512)
Rounds = dict[str, list[float]]
"""Figures by name, a value for each round."""
QUICK: Final = Plan(rounds=1, jobs=5, jobs_at_once=32, calls=64, mebibytes=20, lines=20)


@dataclass(frozen=True)
class Goal:
    """A ratio that we want.

    Attributes:
        value, reference: names of figures.
        ratio: of the first to the second, at least.
        floor: what the least that does the same takes, or manages.
        at_most: it is to be no more than that, instead.
    """

    value: str
    reference: str
    ratio: float
    floor: str = ""
    at_most: bool = False

    def judge(self, ratio: float) -> str:
        """In words."""
        met = ratio <= self.ratio if self.at_most else ratio >= self.ratio
        return f"{'≤' if self.at_most else '≥'} {self.ratio:g}: {'met' if met else 'NOT met'}"

    def row(self, figures: Rounds) -> str:
        """Of the table."""
        ratio = _ratio(figures, self.value, self.reference)
        of_floor = " | | "
        if self.floor in figures:
            against = _ratio(figures, self.floor, self.reference), _ratio(figures, self.value, self.floor)
            of_floor = f"{self.floor} | {against[0]:.2f} | {against[1]:.2f}"
        return f"| {self.value} to {self.reference} | {ratio:.2f} | {self.judge(ratio)} | {of_floor} |"


def _ratio(figures: Rounds, value: str, reference: str) -> float:
    """The median of the rounds' own ratios: a machine can be twice as fast in one round as in the next, for both."""
    return statistics.median(a / b for a, b in zip(figures[value], figures[reference], strict=True))


STREAM, TEN, LINE, TIME = "stream, MiB/s", "ten followers, MiB/s", "line", "server's time, ms/MiB"
GOALS: Final = (
    Goal(f"{STREAM}: jobcli", f"{STREAM}: ssh", 1.5, f"{STREAM}: bare"),
    Goal(f"{STREAM}: grpc.aio client", f"{STREAM}: ssh", 1.25, f"{STREAM}: grpc.aio client, framed"),
    Goal(f"{STREAM}: jobcli", f"{STREAM}: blocking loop", 0.8, f"{STREAM}: bare"),
    Goal(f"{TEN}: own client", "TLS alone, MiB/s", 0.8, f"{TEN}: own client, canned"),
    Goal(f"{TEN}: grpc.aio client", f"{TEN}: grpc.aio runner", 2.2, f"{TEN}: grpc.aio client, canned"),
    Goal("jobs/s, 1 at a time: jobd", "jobs/s, 1 at a time: grpc.aio runner", 1.2, "jobs/s, 1 at a time: framed"),
    Goal("jobs/s, 16 at once: jobd", "jobs/s, 16 at once: grpc.aio runner", 1.6, "jobs/s, 16 at once: framed"),
    Goal("Check calls/s, 16 at once: jobd", "Check calls/s, 16 at once: purerpc as it is", 3.0),
    Goal(
        *("cold run of true, ms: jobcli", "cold run of true, ms: ssh", 1.0),
        floor="cold run of true, ms: python, its modules alone",
        at_most=True,
    ),
    Goal("line p50, ms: jobcli", "line p50, ms: ssh", 1.6, "line p50, ms: framed", at_most=True),
    Goal("line p99, ms: jobcli", "line p99, ms: ssh", 1.5, "line p99, ms: framed", at_most=True),
    Goal(f"{TIME}: jobd", f"{TIME}: grpc.aio runner", 0.5, f"{TIME}: bare", at_most=True),
)


# ---- the figures, each a step of a round


def _streams(place: Place) -> Figures:
    head = written_by(place.plan.payload, place.size)
    stream = partial(programs.stream, size=place.size, came=place.came, expected=place.digest)
    before = place.bare.processor_time()
    found = {f"{STREAM}: bare": stream([*place.bare_client("run"), *head], environment=place.environment)}
    found[f"{TIME}: bare"] = (place.bare.processor_time() - before) / place.plan.mebibytes * 1e3
    place.clear()
    found[f"{STREAM}: jobcli"] = stream([*place.jobcli, "run", "--", *head], environment=place.environment)
    place.clear()
    if place.ssh:
        found[f"{STREAM}: ssh"] = stream([*place.ssh, *head])
    receive = partial(blocking.receive, place.loop.address, *place.files, place.size, place.came)
    found[f"{STREAM}: blocking loop"] = receive(place.digest, place.plan.payload)
    found["TLS alone, MiB/s"] = receive(blocking.memory_digest(place.size))
    before = place.bare.processor_time()
    found["TLS alone, MiB/s: bare"] = _bare(place, "memory", place.plan.mebibytes)
    found[f"TLS alone, {TIME}: bare"] = (place.bare.processor_time() - before) / place.plan.mebibytes * 1e3
    return found


def _bare(place: Place, *what: str | int) -> float:
    """A figure of the bare program's."""
    command = [*place.bare_client(str(what[0])), *map(str, what[1:])]
    done = subprocess.run(command, cwd=ROOT, env=place.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IncorrectRunError(f"bare, {what}: {done.stderr}")
    return float(done.stdout)


def _streams_of_clients(place: Place) -> Figures:
    found: Figures = {}
    servers_ = {"jobd": place.jobd, "grpc.aio runner": place.runner, "canned": place.canned, "framed": place.framed}
    for name, server in servers_.items():
        label = {"jobd": "grpc.aio client", "grpc.aio runner": name}.get(name, f"grpc.aio client, {name}")
        before = server.processor_time()
        found[f"{STREAM}: {label}"] = place.client("grpc_aio_peer", server, "stream")[STREAM]
        found[f"{TIME}: {name}"] = (server.processor_time() - before) / worked("stream", place.plan) * 1e3
        place.clear()
    return found


def _followers(place: Place) -> Figures:
    found: Figures = {}
    size = worked("followers", place.plan)
    for label, peer, server in (
        ("own client", "job_client_peer", place.jobd),
        ("own client, canned", "job_client_peer", place.canned),
        ("grpc.aio client", "grpc_aio_peer", place.jobd),
        ("grpc.aio client, canned", "grpc_aio_peer", place.canned),
        ("grpc.aio runner", "grpc_aio_peer", place.runner),
    ):
        before = server.processor_time()
        found[f"{TEN}: {label}"] = place.client(peer, server, "followers")[TEN]
        found[f"ten followers, {TIME}: {label}"] = (server.processor_time() - before) / size * 1e3
        place.clear()
    return found


def _jobs(place: Place) -> Figures:
    plan = place.plan
    return {
        **_jobs_of(place, "1 at a time", "jobs_one_by_one", plan.jobs, 1),
        **_jobs_of(place, f"{AT_ONCE} at once", "jobs_at_once", plan.jobs_at_once, AT_ONCE),
    }


def _jobs_of(place: Place, kind: str, measurement: str, count: int, at_once: int) -> Figures:
    label = f"jobs/s, {kind}"
    found: Figures = {}

    def note(name: str, server: servers.Serving, jobs: int, measure: Callable[[], float]) -> None:
        before = server.processor_time()
        found[f"{label}: {name}"] = measure()
        found[f"server's time, ms a job, {kind}: {name}"] = (server.processor_time() - before) / jobs * 1e3

    for name, server in (("jobd", place.jobd), ("grpc.aio runner", place.runner), ("framed", place.framed)):
        client = partial(place.client, "grpc_aio_peer", server, measurement)
        note(name, server, worked(measurement, place.plan) + 1, lambda client=client: client()[label])
    for name, what in (("bare", "jobs"), ("bare, held", "held")):  # each client runs one before the clock does
        note(name, place.bare, count + at_once, partial(_bare, place, what, count, at_once))
    if task_spooler.program():
        found[f"{label}: task-spooler"] = task_spooler.jobs(place.scratch, count, at_once)
    return found


def _calls(place: Place) -> Figures:
    found: Figures = {}
    for name, server in (("jobd", place.jobd), ("purerpc as it is", place.purerpc)):
        for label, value in place.client("grpc_aio_peer:bare", server, "checks_at_once").items():
            found[f"{label}: {name}"] = value
    return found


def _cold(place: Place) -> Figures:
    found = {"cold run of true, ms: jobcli": programs.run([*place.jobcli, "run", "--", "/bin/true"], place.environment)}
    if place.ssh:
        found["cold run of true, ms: ssh"] = programs.run([*place.ssh, "/bin/true"])
    found["cold run of true, ms: python, its modules alone"] = programs.run(
        [sys.executable, "-c", "import trio, betterproto, purerpc"], place.environment
    )
    return found


def _lines(place: Place) -> Figures:
    commands: dict[str, tuple[list[str], dict[str, str] | None]] = {
        "jobcli": ([*place.jobcli, "run", "--"], place.environment),
        "framed": (place.framed_client(), place.environment),
        "bare": (place.bare_client("run"), place.environment),
        "bare, nothing recorded": (place.bare_client("relay"), place.environment),
    }
    if place.ssh:
        commands["ssh"] = (place.ssh, None)
    found: Figures = {}
    for name, (command, environment) in commands.items():
        ages = programs.latencies(command, place.plan.lines, place.plan.interval, environment)
        found[f"{LINE} p50, ms: {name}"] = ages[len(ages) // 2]
        found[f"{LINE} p99, ms: {name}"] = ages[len(ages) * 99 // 100]
    return found


STEPS: Final[tuple[Callable[[Place], Figures], ...]] = (
    *(_streams, _streams_of_clients, _followers, _jobs, _calls, _cold, _lines),
)


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the figures and the goals.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    plan = QUICK if quick else FULL
    plan = dataclasses.replace(plan, rounds=rounds or plan.rounds)
    print(f"\n{plan}\n")
    if not task_spooler.program():
        print("without task-spooler: it is not installed\n")
    figures: Rounds = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name, place_of(plan, Path(name)) as place:
        for number in range(plan.rounds):
            turn = number % len(STEPS)
            for step in STEPS[turn:] + STEPS[:turn]:
                for label, value in step(place).items():
                    figures[label].append(value)
    _print(figures)


def _print(figures: Rounds) -> None:
    print("| | median | min to max |\n|---|---|---|")
    for label in sorted(figures):
        values = figures[label]
        print(f"| {label} | {statistics.median(values):.4g} | {min(values):.4g} to {max(values):.4g} |")
    print("\n| goal | ratio | | its floor | the floor's ratio | of the floor |\n|---|---|---|---|---|---|")
    for goal in GOALS:
        if goal.value in figures and goal.reference in figures:
            print(goal.row(figures))
