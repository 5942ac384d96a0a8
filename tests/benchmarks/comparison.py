"""jobd next to a reference, in one run, as medians of interleaved rounds."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import payload, servers
from tests.benchmarks.correct import IncorrectRunError
from tests.benchmarks.measurements import MEASUREMENTS, QUICK, Plan
from tests.interop.stubs import ROOT, generate
from tests.support.pki import TestPki

Results = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Contender:
    """A server with a client."""

    name: str
    server: Callable[[TestPki, Path, Path], AbstractContextManager[servers.Serving]]
    peer: str


CONTENDERS: Final = (
    Contender("jobd + JobClient", servers.jobd, "job_client_peer"),
    Contender("jobd + grpc.aio", servers.jobd, "grpc_aio_peer"),
    Contender("reference + grpc.aio", servers.reference, "grpc_aio_peer"),
)
REFERENCE: Final = CONTENDERS[-1].name


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the table.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    plan = QUICK if quick else Plan()
    plan = dataclasses.replace(plan, rounds=rounds or plan.rounds)
    print(f"\n{plan}")
    print("jobd records jobs and output on disk and logs every call; the reference keeps output in memory only\n")
    print_table(measure(plan))


def measure(plan: Plan) -> Results:
    """All rounds. Within a round every contender has its turn, in another order each time, with a new server.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    results: Results = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name:
        scratch = Path(name)
        pki, stubs = TestPki.make(scratch / "pki"), generate(scratch / "stubs")
        plan = dataclasses.replace(plan, payload=str(payload.make(scratch / "payload", plan.mebibytes)))
        for number in range(plan.rounds):
            turn = number % len(CONTENDERS)
            for contender in CONTENDERS[turn:] + CONTENDERS[:turn]:
                with tempfile.TemporaryDirectory(dir=scratch) as own:
                    for label, value in run_contender(contender, plan, pki, stubs, Path(own)).items():
                        results[label][contender.name].append(value)
    return results


def run_contender(contender: Contender, plan: Plan, pki: TestPki, stubs: Path, scratch: Path) -> dict[str, float]:
    """One server, and a client process for each measurement."""
    found: dict[str, float] = {}
    files = [str(path) for path in pki.credentials("alice").values()]
    with contender.server(pki, stubs, scratch) as server:
        for measurement in MEASUREMENTS:
            what = [
                contender.peer,
                measurement,
                json.dumps(dataclasses.asdict(plan)),
                str(stubs),
                server.address,
                *files,
            ]
            found |= run_client(f"{contender.name}, {measurement}", what)
    return found


def run_client(title: str, arguments: list[str]) -> dict[str, float]:
    """What the client measured.

    Raises:
        IncorrectRunError: it ended with an error, or not at all.
    """
    command = [sys.executable, "-m", "tests.benchmarks.client", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired as exc:
        raise IncorrectRunError(f"{title}: no end within {exc.timeout:g} s") from exc
    if done.returncode:
        raise IncorrectRunError(f"{title}: {done.stderr}")
    values: dict[str, float] = json.loads(done.stdout)
    return values


def print_table(results: Results) -> None:
    """Medians, their spread, and the ratio to the reference."""
    names = [contender.name for contender in CONTENDERS]
    print(" | ".join([f"{'median (min to max)':24}", *(f"{name:27}" for name in names), "jobd / reference"]))
    for label, by_name in results.items():
        medians = {name: statistics.median(by_name[name]) for name in names}
        cells = [f"{medians[n]:9.2f} ({min(by_name[n]):.2f} to {max(by_name[n]):.2f})" for n in names]
        ratios = ", ".join(f"{medians[name] / medians[REFERENCE]:.2f}" for name in names if name != REFERENCE)
        print(" | ".join([f"{label:24}", *(f"{cell:27}" for cell in cells), ratios]))
    print("\nlatency: less is better; all else: more is better. Two ratios: with JobClient, with grpc.aio")
