"""A neighbour that means well: Query after Query over a connection of its own, in a process of its own.

python -m tests.hostile.neighbour SERVER CERT KEY CA JOB: for each line on stdin, a line of JSON about the calls since
the line before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Final, TextIO

import trio

from api.client import JobClient
from api.errors import JobdError
from tests.support.daemon import ROOT
from tests.support.pki import TestPki

PAUSE: Final = 0.002


@dataclass(frozen=True)
class Latencies:
    """Of the neighbour's calls, in milliseconds.

    Attributes:
        failed: calls that were not answered as they should be.
    """

    calls: int
    p50: float
    p99: float
    failed: int


class Neighbour:
    """The process, as whoever started it sees it."""

    def __init__(self, process: Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def report(self) -> Latencies:
        """Its calls since the last report."""
        print(file=self._stdin, flush=True)
        return Latencies(**json.loads(self._stdout.readline()))


@contextmanager
def neighbour(pki: TestPki, server: str, job_id: str) -> Iterator[Neighbour]:
    """One that asks for this job, until the end of the block."""
    files = [str(path) for path in pki.credentials("alice").values()]
    command = [sys.executable, "-m", "tests.hostile.neighbour", server, *files, job_id]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as process:
        made = Neighbour(process)
        made.report()
        try:
            yield made
        finally:
            process.kill()


class _Calls:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.failed = 0

    async def ask(self, client: JobClient, job_id: str) -> None:
        while True:
            begun = time.perf_counter()
            try:
                await client.query(job_id)
            except JobdError:
                self.failed += 1
            self.times.append((time.perf_counter() - begun) * 1000)
            await trio.sleep(PAUSE)

    def report(self) -> dict[str, float]:
        times, self.times = sorted(self.times) or [0.0], []
        failed, self.failed = self.failed, 0
        return {
            "calls": len(times),
            "p50": round(times[len(times) // 2], 2),
            "p99": round(times[len(times) * 99 // 100], 2),
            "failed": failed,
        }


async def main(server: str, cert: str, key: str, ca: str, job_id: str, lines: TextIO) -> None:
    calls = _Calls()
    async with (
        JobClient.connect(server, cert=cert, key=key, ca=ca, retry_for=0) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(calls.ask, client, job_id)
        while await trio.to_thread.run_sync(lines.readline, abandon_on_cancel=True):
            print(json.dumps(calls.report()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:6], sys.stdin)
