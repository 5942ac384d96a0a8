"""Every attack against a real jobd, beside a neighbour that means well: ``nox -s hostile [-- --only WORDS]``; minutes.

Prints a table. Ends with 1 when an answer was not as it should be, a neighbour's call failed, or memory was not given
back. The latencies are for people to judge: attackers, neighbour and server share the machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from tests.faults.chaos import memory_of
from tests.hostile.attacks import ATTACKS
from tests.hostile.neighbour import Latencies, Neighbour, neighbour
from tests.hostile.sieges import SIEGES, Siege, Site, again_and_again
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.pki import TestPki

GROWTH: Final = 48 * 1024
"""KiB that a server may have more afterwards: what its allocator keeps."""
HEAD: Final = (
    "attack",
    "answer",
    "p50 without",
    "beside, ms",
    "p99 without",
    "beside, ms",
    "memory before",
    "at most",
    "after, MiB",
)


class Row:
    """What came of one."""

    def __init__(self, siege: Siege, answer: str, quiet: Latencies, beside: Latencies, memory: Sequence[int]) -> None:
        self.siege, self.answer, self.quiet, self.beside, self.memory = siege, answer, quiet, beside, memory

    def cells(self) -> list[str]:
        times = (self.quiet.p50, self.beside.p50, self.quiet.p99, self.beside.p99)
        shown = self.answer if len(self.answer) < 70 else self.answer[:69] + "…"
        memory = [f"{kib / 1024:.1f}" for kib in self.memory]
        return [self.siege.name, shown, *(f"{each:.1f}" for each in times), *memory]

    def wrong(self) -> list[str]:
        found = []
        # A connection that is closed under a flood can take the GOAWAY with it, as TCP has it (RFC 9293, 3.10.7.1).
        if not self.answer.startswith(self.siege.answer) and not (
            self.siege.answer.startswith("GOAWAY") and self.answer.startswith("closed")
        ):
            found.append(f"the answer is {self.answer}, and not {self.siege.answer}")
        if self.beside.failed or self.quiet.failed:
            found.append(f"{self.beside.failed + self.quiet.failed} calls of the neighbour failed")
        if self.memory[-1] - self.memory[0] > GROWTH:
            found.append("memory was not given back")
        return found


def besiege(siege: Siege, site: Site, jobd: JobdProgram, beside: Neighbour, seconds: float) -> Row:
    """One of them, after as long without it."""
    pid = jobd.server_pid()
    beside.report()
    time.sleep(seconds)
    quiet, before = beside.report(), memory_of(pid)
    most = before
    site.over.clear()
    with ThreadPoolExecutor(1) as attacker:
        answer = attacker.submit(siege.run, site)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
            most = max(most, memory_of(pid))
        during = beside.report()
        site.over.set()
        said = answer.result()
    time.sleep(0.3)
    return Row(siege, said, quiet, during, (before, most, memory_of(pid)))


async def much_output(server: str, pki: TestPki) -> str:
    async with JobClient.connect(server, **pki.credentials("alice")) as client:
        job = await client.start(["head", "-c", "20000000", "/dev/zero"])
        await client.wait(job.id)
        return job.id


def run(only: str, seconds: float) -> int:
    """All of them whose name has these words; how many were not as they should be."""
    chosen = [each for each in (*SIEGES, *map(again_and_again, ATTACKS)) if only in each.name]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="jobd-hostile-") as name:
        pki = TestPki.make(Path(name) / "pki")
        with jobd_program(pki, Path(name) / "state") as jobd:
            job = trio.run(much_output, jobd.server, pki)
            site = Site(jobd.server, pki, job, threading.Event())
            with neighbour(pki, jobd.server, job) as beside:
                for siege in chosen:
                    rows.append(besiege(siege, site, jobd, beside, seconds))
                    print(f"hostile: {' | '.join(rows[-1].cells())}", flush=True)
    table = [list(HEAD), ["---"] * len(HEAD), *(row.cells() for row in rows)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    wrong = [(row.siege.name, what) for row in rows for what in row.wrong()]
    for attack, what in wrong:
        print(f"hostile: NOT AS IT SHOULD BE: {attack}: {what}")
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--only", default="", help="those whose name has these words")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each, and as long without it")
    arguments = parser.parse_args()
    sys.exit(run(arguments.only, arguments.seconds) > 0)


if __name__ == "__main__":
    main()
