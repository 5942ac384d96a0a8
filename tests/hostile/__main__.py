"""Every attack against a real jobd, beside a neighbour that means well: ``nox -s hostile [-- --only WORDS]``; minutes.

Prints a table. Ends with 1 when an answer was not as it should be, or too few of them; when the metrics do not have the
attack; when the neighbour was not served, a call of its failed, or took longer than anything takes; when memory was not
given back; or when something in jobd's log could write to a terminal. The latencies below that are for people to
judge: attackers, neighbour and server share the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from tests.faults.chaos import memory_of
from tests.hostile.all_of_them import ALL
from tests.hostile.neighbour import Neighbour, neighbour
from tests.hostile.row import HEAD, Row
from tests.hostile.siege import Siege, Site
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.metrics import Samples, parse
from tests.support.patience import patient
from tests.support.pki import TestPki

LONGEST: Final = 4096
"""Characters of a line of the log, whatever names clients come with."""
METRICS: Final = "jobd.prom"
LONGER: Final = 4
"""As long, where the neighbour makes a connection for each call, which takes it ten times as long: of a hundred calls
the 99th percentile would be the worst. It stays below the 10 s after which who is slow is sent away."""


def besiege(siege: Siege, site: Site, jobd: JobdProgram, beside: Neighbour, seconds: float) -> Row:
    """One of them, after as long without it."""
    pid, seconds = jobd.server_pid(), seconds * (LONGER if siege.anew else 1)
    beside.report(anew=siege.anew)
    time.sleep(seconds)
    quiet, counts, before = beside.report(anew=siege.anew), metrics(jobd), memory_of(pid)
    most = before
    site.over.clear()
    with ThreadPoolExecutor(1) as attacker:
        answers = attacker.submit(siege.run, site)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
            most = max(most, memory_of(pid))
        during = beside.report()
        site.over.set()
        said = answers.result()
    after = counted(jobd, lambda samples: not siege.expected.uncounted(said, counts, samples))
    return Row(siege.name, siege.expected, said, quiet, during, (before, most, memory_of(pid)), (counts, after))


def metrics(jobd: JobdProgram) -> Samples:
    """As they were a moment ago."""
    return parse((jobd.state.parent / METRICS).read_text())


def counted(jobd: JobdProgram, enough: Callable[[Samples], bool]) -> Samples:
    """The metrics once they have an attack; at the latest when they should have had it long since."""
    until = time.monotonic() + patient(10)
    while True:
        found = metrics(jobd)
        if enough(found) or time.monotonic() > until:
            return found
        time.sleep(0.1)


async def much_output(server: str, pki: TestPki) -> str:
    async with JobClient.connect(server, **pki.credentials("alice")) as client:
        job = await client.start(["head", "-c", "20000000", "/dev/zero"])
        await client.wait(job.id)
        return job.id


def unclean(log: Path) -> list[str]:
    """Lines that are not what a log's lines should be."""
    return [ascii(line[:200]) for line in log.read_text().split("\n")[:-1] if not is_clean(line)]


def is_clean(line: str) -> bool:
    """Short, without anything that moves a cursor, and JSON."""
    try:
        return line.isprintable() and len(line) < LONGEST and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def run(chosen: Sequence[Siege], seconds: float) -> int:
    """These; how much was not as it should be."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="jobd-hostile-") as name:
        pki = TestPki.make(Path(name) / "pki")
        told = ("--metrics-file", str(Path(name) / METRICS), "--metrics-interval", "1")
        with jobd_program(pki, Path(name) / "state", *told) as jobd:
            job = trio.run(much_output, jobd.server, pki)
            site = Site(jobd.server, pki, job, threading.Event(), partial(metrics, jobd))
            with neighbour(pki, jobd.server, job) as beside:
                for siege in chosen:
                    rows.append(besiege(siege, site, jobd, beside, seconds))
                    print(f"hostile: {' | '.join(rows[-1].cells())}", flush=True)
        wrong = [("the log", line) for line in unclean(jobd.log)]
    table = [list(HEAD), ["---"] * len(HEAD), *(row.cells() for row in rows)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    wrong += [(row.name, what) for row in rows for what in row.wrong()]
    for attack, what in wrong:
        print(f"hostile: NOT AS IT SHOULD BE: {attack}: {what}")
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--only", action="append", metavar="WORDS", help="those whose name has these words; repeatable")
    lasting = f"for each, and as long without it; {LONGER} times that where each call takes a connection"
    parser.add_argument("--seconds", type=float, default=2.0, help=lasting)
    arguments = parser.parse_args()
    only = arguments.only or [""]
    for words in only:
        if not any(words in siege.name for siege in ALL):
            parser.error(f"no attack has {words!r} in its name")
    chosen = [siege for siege in ALL if any(words in siege.name for words in only)]
    sys.exit(run(chosen, arguments.seconds) > 0)


if __name__ == "__main__":
    main()
