"""A neighbour that means well: Query after Query over a connection of its own, in a process of its own.

python -m tests.hostile.neighbour SERVER CERT KEY CA JOB: for each line on stdin, a line of JSON about the calls since
the line before. From a line "anew" on it makes a connection for each call, as jobcli does; else it has one for all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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

    def report(self, *, anew: bool = False) -> Latencies:
        """Its calls since the last report.

        Args:
            anew: the next ones are to have a connection each.
        """
        print("anew" if anew else "", file=self._stdin, flush=True)
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
    def __init__(self, credentials: Mapping[str, str], server: str, job_id: str) -> None:
        self._connect = partial(JobClient.connect, server, **credentials)
        self._job_id = job_id
        self.times: list[float] = []
        self.failed = 0
        self.anew = False
        self._begun: float | None = None

    async def ask(self, client: JobClient) -> None:
        while True:
            self._begun = time.perf_counter()
            try:
                if self.anew:
                    async with self._connect() as fresh:
                        job = await fresh.query(self._job_id)
                else:
                    job = await client.query(self._job_id)
                self.failed += job.id != self._job_id
            except JobdError:
                self.failed += 1
            self.times.append(self._passed())
            self._begun = None
            await trio.sleep(PAUSE)

    def _passed(self) -> float:
        """Milliseconds since the call was made."""
        return 0.0 if self._begun is None else (time.perf_counter() - self._begun) * 1000

    def report(self) -> dict[str, float]:
        answered, self.times = len(self.times), [*self.times, self._passed()]
        times, self.times = sorted(self.times), []
        failed, self.failed = self.failed, 0
        return {
            "calls": answered,
            "p50": round(times[len(times) // 2], 2),
            "p99": round(times[len(times) * 99 // 100], 2),
            "failed": failed,
        }


async def main(server: str, cert: str, key: str, ca: str, job_id: str, lines: TextIO) -> None:
    credentials = {"cert": cert, "key": key, "ca": ca}
    calls = _Calls(credentials, server, job_id)
    async with JobClient.connect(server, **credentials, retry_for=0) as client, trio.open_nursery() as nursery:
        nursery.start_soon(calls.ask, client)
        while line := await trio.to_thread.run_sync(lines.readline, abandon_on_cancel=True):
            print(json.dumps(calls.report()), flush=True)
            calls.anew = line == "anew\n"
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:6], sys.stdin)
