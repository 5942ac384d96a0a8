"""What a hostile neighbour costs others: how long the daemon's answers, and a well-behaved job, take beside it."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import JobState, Limits
from tests.benchmarks.correct import IncorrectRunError
from tests.benchmarks.servers import jobd
from tests.faults.trees import BOMB, held_by
from tests.support.pki import TestPki

SECONDS: Final = 600.0
HOG: Final = "x = []\nwhile True: x.append(bytearray(1 << 20))"
NEIGHBOURS: Final[dict[str, tuple[str, Limits]]] = {
    "nobody": ("", Limits()),
    "a fork bomb, 50 processes, weight 1": (BOMB, Limits(processes=50, cpu_weight=1)),
    "a memory hog of 64 MiB, again and again": (HOG, Limits(memory_bytes=64 << 20, cpu_weight=1)),
    "a flood of output": ("while True: print('y' * 1000)", Limits(output_bytes=1 << 20, cpu_weight=1)),
}
"""What runs beside, as Python, and its limits."""
WELL_BEHAVED: Final = ("sh", "-c", "for i in 1 2 3 4 5; do sleep 0.02; echo $i; done")


@dataclass
class Found:
    """Milliseconds of each answer, and of each well-behaved job."""

    answers: list[float] = field(default_factory=list)
    jobs: list[float] = field(default_factory=list)


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the table.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name:
        scratch = Path(name)
        pki = TestPki.make(scratch / "pki")
        with jobd(pki, scratch, scratch, "--grace", "0", "--slots", "50") as server:
            found = trio.run(_measure, pki, server.address, 5 if quick else 200, rounds or (1 if quick else 3))
    print("\n| beside | Query p50, ms | p99, ms | p99 to that beside nobody | a small job, ms |\n|---|---|---|---|---|")
    usual = _p99(found["nobody"].answers) if found else 0
    for name, each in found.items():
        p50, p99 = statistics.median(each.answers), _p99(each.answers)
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {p99 / usual:.2f} | {statistics.median(each.jobs):.0f} |")


def _p99(times: list[float]) -> float:
    return sorted(times)[-1 - len(times) // 100]


async def _measure(pki: TestPki, address: str, answers: int, rounds: int) -> dict[str, Found]:
    with trio.fail_after(SECONDS):
        async with JobClient.connect(address, **pki.credentials("alice")) as client:
            _, limits = await held_by(client)
            if not {"processes", "memory_bytes", "cpu_weight"} <= limits:
                print("\nbeside: left out: nobody limits processes, memory and processors here")
                return {}
            found = {name: Found() for name in NEIGHBOURS}
            for _ in range(rounds):
                for name, (script, limited) in NEIGHBOURS.items():
                    async with _beside(client, script, limited):
                        await _look(client, found[name], answers)
            return found


@asynccontextmanager
async def _beside(client: JobClient, script: str, limits: Limits) -> AsyncIterator[None]:
    """A job that runs as long as the block, again when it has ended."""

    async def again() -> None:
        while script:
            job = await client.start([sys.executable, "-c", script], limits=limits)
            await client.wait(job.id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(again)
        yield
        nursery.cancel_scope.cancel()
    async for job in client.list():
        if job.ended_at is None:
            ended = await client.stop(job.id, grace=0)
            if ended.stop_receipt is None or not ended.stop_receipt.empty:
                raise IncorrectRunError(f"a stop left something: {ended.stop_receipt}")


async def _look(client: JobClient, found: Found, answers: int) -> None:
    begun = time.perf_counter()
    job = await client.start(WELL_BEHAVED)
    async with client.stream(job.id) as output:
        text = b"".join([chunk.data async for chunk in output])
    if text != b"1\n2\n3\n4\n5\n" or output.verdict is None or output.verdict.state != JobState.SUCCEEDED:
        raise IncorrectRunError(f"a job beside it wrote {text!r} and ended as {output.verdict}")
    found.jobs.append(1000 * (time.perf_counter() - begun))
    for _ in range(answers):
        begun = time.perf_counter()
        await client.query(job.id)
        found.answers.append(1000 * (time.perf_counter() - begun))
        await trio.sleep(0.005)
