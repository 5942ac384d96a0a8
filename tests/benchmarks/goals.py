"""How near the machine's limit we are: each number next to what it is measured by, with the goal for the ratio."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import programs, servers
from tests.benchmarks.comparison import run_client
from tests.benchmarks.measurements import MIB, Plan
from tests.benchmarks.references import blocking, ssh
from tests.interop.stubs import ROOT, generate
from tests.support.pki import TestPki

FULL: Final = Plan(rounds=5, mebibytes=512)
QUICK: Final = Plan(rounds=1, jobs=5, jobs_at_once=32, calls=64, mebibytes=20, lines=20)


@dataclass(frozen=True)
class Goal:
    """A ratio that we want.

    Attributes:
        value, reference: names of figures.
        ratio: of the first to the second, at least.
        at_most: it is to be no more than that, instead.
    """

    value: str
    reference: str
    ratio: float
    at_most: bool = False

    def judge(self, ratio: float) -> str:
        """In words."""
        met = ratio <= self.ratio if self.at_most else ratio >= self.ratio
        return f"{'≤' if self.at_most else '≥'} {self.ratio:g}: {'met' if met else 'NOT met'}"


GOALS: Final = (
    Goal("stream, MiB/s: jobcli", "stream, MiB/s: ssh", 1.5),
    Goal("stream, MiB/s: grpc.aio client", "stream, MiB/s: ssh", 1.25),
    Goal("stream, MiB/s: jobcli", "stream, MiB/s: blocking loop", 0.8),
    Goal("ten followers, MiB/s: own client", "TLS alone, MiB/s", 0.8),
    Goal("ten followers, MiB/s: grpc.aio client", "ten followers, MiB/s: grpc.aio runner", 2.2),
    Goal("jobs/s, 1 at a time: jobd", "jobs/s, 1 at a time: grpc.aio runner", 1.2),
    Goal("jobs/s, 16 at once: jobd", "jobs/s, 16 at once: grpc.aio runner", 1.6),
    Goal("Check calls/s, 16 at once: jobd", "Check calls/s, 16 at once: purerpc as it is", 3.0),
    Goal("cold run of true, ms: jobcli", "cold run of true, ms: ssh", 1.0, at_most=True),
    Goal("line p50, ms: jobcli", "line p50, ms: ssh", 1.6, at_most=True),
    Goal("line p99, ms: jobcli", "line p99, ms: ssh", 1.5, at_most=True),
    Goal("server's time, ms/MiB: jobd", "server's time, ms/MiB: grpc.aio runner", 0.5, at_most=True),
)

Figures = dict[str, float]


@dataclass(frozen=True)
class Place:
    """Everything that is measured, running.

    Attributes:
        jobcli: the command line up to the verb.
        ssh: its client's command line; empty where there is none.
    """

    plan: Plan
    pki: TestPki
    stubs: Path
    jobd: servers.Serving
    runner: servers.Serving
    purerpc: servers.Serving
    loop: servers.Serving
    jobcli: list[str]
    ssh: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """For jobcli."""
        files = {f"JOBCLI_{name.upper()}": str(path) for name, path in self.pki.credentials("alice").items()}
        return {**os.environ, **files, "JOBCLI_SERVER": self.jobd.address, "PYTHONPATH": str(ROOT)}

    def client(self, peer: str, server: servers.Serving, measurement: str) -> Figures:
        """What a client process measured."""
        files = [str(path) for path in self.pki.credentials("alice").values()]
        plan = json.dumps(dataclasses.asdict(self.plan))
        return run_client(measurement, [peer, measurement, plan, str(self.stubs), server.address, *files])


@contextmanager
def _place(plan: Plan, scratch: Path) -> Iterator[Place]:
    pki, stubs = TestPki.make(scratch / "pki"), generate(scratch / "stubs")
    (scratch / "loop").mkdir()
    with (
        servers.jobd(pki, stubs, scratch) as jobd,
        servers.reference(pki, stubs, scratch) as runner,
        servers.purerpc(pki, stubs, scratch) as purerpc,
        servers.blocking(pki, scratch / "loop") as loop,
    ):
        place = Place(plan, pki, stubs, jobd, runner, purerpc, loop, [sys.executable, "-m", "jobcli"], [])
        if why := ssh.why_not():
            print(f"without ssh: {why}\n")
            yield place
        else:
            with ssh.serving(scratch / "ssh") as command:
                yield dataclasses.replace(place, ssh=command)


# ---- the figures, each a step of a round


def _streams(place: Place) -> Figures:
    size = place.plan.mebibytes * MIB
    head = ["head", "-c", str(size), "/dev/zero"]
    found = {
        "stream, MiB/s: jobcli": programs.stream([*place.jobcli, "run", "--", *head], size, place.environment),
        "stream, MiB/s: blocking loop": _loop(place, size, through_file=True),
        "TLS alone, MiB/s": _loop(place, size, through_file=False),
    }
    if place.ssh:
        found["stream, MiB/s: ssh"] = programs.stream([*place.ssh, *head], size)
    return found


def _loop(place: Place, size: int, *, through_file: bool) -> float:
    files = place.pki.credentials("alice")
    return blocking.receive(
        place.loop.address, files["cert"], files["key"], files["ca"], size, through_file=through_file
    )


def _streams_of_clients(place: Place) -> Figures:
    found: Figures = {}
    size = place.plan.mebibytes
    for name, server in (("jobd", place.jobd), ("grpc.aio runner", place.runner)):
        before = server.processor_time()
        rate = place.client("grpc_aio_peer", server, "stream")["stream, MiB/s"]
        found[f"server's time, ms/MiB: {name}"] = (server.processor_time() - before) / size * 1e3
        found[f"stream, MiB/s: {'grpc.aio client' if server is place.jobd else name}"] = rate
    return found


def _followers(place: Place) -> Figures:
    label = "ten followers, MiB/s"
    return {
        f"{label}: own client": place.client("job_client_peer", place.jobd, "followers")[label],
        f"{label}: grpc.aio client": place.client("grpc_aio_peer", place.jobd, "followers")[label],
        f"{label}: grpc.aio runner": place.client("grpc_aio_peer", place.runner, "followers")[label],
    }


def _jobs(place: Place) -> Figures:
    found: Figures = {}
    for name, server in (("jobd", place.jobd), ("grpc.aio runner", place.runner)):
        for measurement in ("jobs_one_by_one", "jobs_at_once"):
            for label, value in place.client("grpc_aio_peer", server, measurement).items():
                found[f"{label}: {name}"] = value
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
        "jobcli": ([*place.jobcli, "run", "--"], place.environment)
    }
    if place.ssh:
        commands["ssh"] = (place.ssh, None)
    found: Figures = {}
    for name, (command, environment) in commands.items():
        ages = programs.latencies(command, place.plan.lines, place.plan.interval, environment)
        found[f"line p50, ms: {name}"] = ages[len(ages) // 2]
        found[f"line p99, ms: {name}"] = ages[len(ages) * 99 // 100]
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
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name, _place(plan, Path(name)) as place:
        for number in range(plan.rounds):
            turn = number % len(STEPS)
            for step in STEPS[turn:] + STEPS[:turn]:
                for label, value in step(place).items():
                    figures[label].append(value)
    _print(figures)


def _print(figures: dict[str, list[float]]) -> None:
    print("| | median | min to max |\n|---|---|---|")
    for label in sorted(figures):
        values = figures[label]
        print(f"| {label} | {statistics.median(values):.4g} | {min(values):.4g} to {max(values):.4g} |")
    print("\n| goal | ratio | |\n|---|---|---|")
    for goal in GOALS:
        if goal.value in figures and goal.reference in figures:
            ratio = statistics.median(figures[goal.value]) / statistics.median(figures[goal.reference])
            print(f"| {goal.value} to {goal.reference} | {ratio:.2f} | {goal.judge(ratio)} |")
