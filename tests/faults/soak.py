"""Many starts and stops in a row: ``nox -s soak [-- --jobs N]``; a minute or two.

Afterwards no control group, process, descriptor or file is left of them: of files, exactly the output that is kept, and
nothing once the jobs are deleted. Ends with 1 if that is not so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from tests.faults.trees import KINDS, can_be
from tests.support.daemon import JobdProgram, children_of, descriptors_of, jobd_program
from tests.support.jobs import processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

AT_ONCE: Final = 10
SCRIPTS: Final = ("exec sleep 1000", "sleep 1000 & sleep 1000 & wait", "setsid sleep 1000 & exec sleep 1000")
PATIENCE: Final = patient(20)
"""Seconds, at most, until what is let go of after the answer has gone: a descriptor of the launcher, a deleted file."""


class NotTrueError(Exception):
    """Something was left."""


async def until(condition: Callable[[], bool], what: str) -> None:
    """See that something holds, soon.

    Raises:
        NotTrueError: it does not.
    """
    with trio.move_on_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)
        return
    raise NotTrueError(what)


def descriptors(*pids: int) -> int:
    """How many these processes have, as far as we may look."""
    return sum(map(descriptors_of, pids))


def groups_of(jobs: set[str]) -> list[Path]:
    """The control groups of jobs. (Not rglob: groups of others come and go meanwhile.)"""
    return [Path(path) for path, _, _ in os.walk("/sys/fs/cgroup") if Path(path).name in jobs]


async def start_and_stop(client: JobClient, count: int, mark: str) -> set[str]:
    """Every way to end, a few at a time; gives the ids."""
    jobs: set[str] = set()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int) -> None:
        async with limit:
            script = f"echo {number}; {SCRIPTS[number % len(SCRIPTS)]}"
            job = await client.start(["sh", "-c", script], env={"MARK": mark})
            jobs.add(job.id)
            await client.stop(job.id, grace=0 if number % 2 else None)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return jobs


async def see_that_nothing_is_left(jobd: JobdProgram, client: JobClient, count: int, mark: str) -> None:
    """Start and stop so many, then look at everything that a job is made of.

    Raises:
        NotTrueError: something is left.
    """
    await start_and_stop(client, AT_ONCE, mark)  # what is made once, by the first ones
    both = (jobd.launcher, await trio.to_thread.run_sync(jobd.server_pid))
    before, children = descriptors(*both), children_of(jobd.launcher)
    jobs = await start_and_stop(client, count, mark)
    await until(lambda: not processes_with(mark), "processes are left")
    await until(lambda: not groups_of(jobs), "control groups are left")
    await until(lambda: descriptors(*both) <= before, f"descriptors are left: {descriptors(*both)}, not {before}")
    await until(lambda: children_of(jobd.launcher) == children, "the launcher has children left")
    async for job in client.list():
        await client.delete(job.id)
    output = jobd.state / "output"
    await until(lambda: not [path for path in output.rglob("*") if path.is_file()], "output of deleted jobs is left")


async def run(count: int) -> None:
    """In each kind of containment that can be had here."""
    for kind in filter(can_be, KINDS):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="jobd-soak-") as name:
            pki = TestPki.make(Path(name) / "pki")
            with jobd_program(pki, Path(name) / "state", "--containment", kind, "--log-level", "warning") as jobd:
                async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
                    await see_that_nothing_is_left(jobd, client, count, f"soak-{kind}")
        print(f"soak: {kind:10} {count} starts and stops left nothing ({time.monotonic() - begun:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--jobs", type=int, default=1000)
    try:
        trio.run(run, parser.parse_args().jobs)
    except* NotTrueError as excs:
        sys.exit(f"soak: NOT TRUE: {excs.exceptions[0]}")


if __name__ == "__main__":
    main()
