"""Every tree alone, in every kind of containment, ended in every way: ``nox -s matrix [-- --seed N]``; minutes.

After the answer no process of the job exists, the receipt says so, and the state is that of the end. When the server is
killed meanwhile, the moment is a random one; the seed is printed. Ends with 1 at what is not true.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.errors import FailedPreconditionError
from api.messages import Job, JobState, Limits
from tests.faults.trees import (
    BOMB,
    KINDS,
    PROOFS,
    PYTHON,
    TREES,
    WITH_A_CHILD,
    can_be,
    can_freeze,
    held_by,
    ice,
    left_of,
    processes_of,
    start_script,
)
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobs import new_mark
from tests.support.patience import patient
from tests.support.pki import TestPki

ENDS: Final = ("stop", "stop, server killed", "timeout", "timeout, server killed")
BOTH: Final = ("stop, both killed", "timeout, both killed")
"""Launcher and server at once; a next jobd ends what is left."""
FORK_BOMB: Final = "fork bomb"
FROZEN: Final = ("frozen", "frozen child")
SCRIPTS: Final = {**TREES, FORK_BOMB: f"{PYTHON} '{BOMB}'"}
GRACE: Final = 0.3
TIMEOUT: Final = max(1.0, patient(0.4))
"""Seconds; a tree is to be as it is meant to be before they are over."""


@dataclass(frozen=True)
class Bench:
    """A jobd, a client, and a place for what the trees need."""

    jobd: JobdProgram
    client: JobClient
    room: Path
    rng: random.Random

    async def kill_soon(self) -> None:
        """Kill the server at a moment at which the end is wanted, or is about to be."""
        await trio.sleep(self.rng.uniform(0, GRACE))
        await trio.to_thread.run_sync(self.jobd.kill_server)

    async def start(self, tree: str, how: str, mark: str) -> Job:
        """Start a tree that is to end so."""
        timeout = timedelta(seconds=TIMEOUT) if how.startswith("timeout") else timedelta(0)
        limits = Limits(timeout=timeout, **({"processes": 50, "nice": 19} if tree == FORK_BOMB else {}))
        return await start_script(self.client, SCRIPTS[tree], self.room, limits, mark)

    async def end_with_both(self, job: Job, how: str) -> None:
        """Kill launcher and server when its end is on record, or is about to be."""
        async with trio.open_nursery() as nursery:
            if how.startswith("stop"):
                nursery.start_soon(partial(self.client.stop, job.id, grace=GRACE))
                while not (there := await self.client.query(job.id)).stopping and not there.ended_at:
                    await trio.sleep(0.001)
            else:
                await trio.sleep(TIMEOUT - GRACE / 2)
            await trio.sleep(self.rng.uniform(0, GRACE))
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self.jobd.crash)

    async def end(self, tree: str, how: str, mark: str) -> Job:
        """Start a tree and have it ended; gives the job that the answer was about."""
        kind, _, killed = how.partition(", ")
        job = await self.start(tree, how, mark)
        async with trio.open_nursery() as nursery:
            if killed:
                if kind == "timeout":
                    await trio.sleep(TIMEOUT - GRACE / 2)
                nursery.start_soon(self.kill_soon)
            if kind == "stop":
                await self.client.stop(job.id, grace=GRACE)
            else:
                await self.client.wait(job.id)
        return await self.client.query(job.id)

    async def end_frozen(self, tree: str, how: str, mark: str) -> Job:
        """As :meth:`end`, with a process that no kill reaches, and only a while after it has been said to be there."""
        kind, _, killed = how.partition(", ")
        limits = Limits(timeout=timedelta(seconds=TIMEOUT) if kind == "timeout" else timedelta(0))
        async with ice() as frozen:
            job = await start_script(self.client, WITH_A_CHILD, self.room, limits, mark)
            [child] = set(processes_of(job)) - {job.pid}
            stuck = child if "child" in tree else job.pid
            await frozen.freeze(stuck)
            async with trio.open_nursery() as nursery:
                if killed:
                    nursery.start_soon(self.kill_soon)
                if kind == "stop":
                    await self._fail_to_stop(job)
            while not (there := await self.client.query(job.id)).stopping:
                await trio.sleep(0.05)
            while left_of(mark) != {stuck}:
                await trio.sleep(0.05)
            await trio.sleep(2)  # nothing is to be said to have ended meanwhile
            there = await self.client.query(job.id)
            if there.state != JobState.RUNNING:
                raise AssertionError(f"it is {there.state} while its process is there")
            frozen.thaw()
        await self.client.wait(job.id)
        return await self.client.query(job.id)

    async def _fail_to_stop(self, job: Job) -> None:
        try:
            await self.client.stop(job.id, grace=GRACE)
        except FailedPreconditionError as exc:
            if exc.reason == "STOP_FAILED":
                return
        raise AssertionError("a stop has not failed whose process is there")


def problem(job: Job, kind: str, how: str, mark: str) -> str:
    """What is not as it should be; "" if all is."""
    wanted = JobState.STOPPED if how.startswith("stop") else JobState.TIMED_OUT
    receipt = job.stop_receipt
    if left := {*left_of(mark), *processes_of(job)}:
        return f"processes are left: {sorted(left)}"
    if how in BOTH and job.reason == "LAUNCHER_LOST" and receipt is None:
        return ""  # the last of it ended while nobody was there
    if job.state != wanted and not (how in BOTH and job.reason == "LAUNCHER_LOST"):
        return f"it is {job.state}: {job.message}"
    if receipt is None or not receipt.empty or not receipt.found:
        return f"its receipt says {receipt}"
    if receipt.proof != PROOFS.get(kind, receipt.proof):
        return f"its emptiness was proved by {receipt.proof}"
    return ""


async def run_kind(pki: TestPki, directory: Path, kind: str, rng: random.Random) -> int:
    """A row for each tree; returns how many ends were not as they should be."""
    wrong, trees = 0, list(SCRIPTS)
    async with benched(pki, directory, kind, rng) as bench:
        _, limits = await held_by(bench.client)
        if "processes" not in limits:
            print(f"matrix: {kind:10} {FORK_BOMB:24} left out: nobody limits its processes here", flush=True)
            trees.remove(FORK_BOMB)
        if not can_freeze():
            print(f"matrix: {kind:10} {FROZEN[0]:24} left out: needs root and the freezer of version 1", flush=True)
        for tree, how in product([*trees, *(FROZEN if can_freeze() else ())], ENDS):
            mark = new_mark()
            end = bench.end_frozen(tree, how, mark) if tree in FROZEN else bench.end(tree, how, mark)
            wrong += await row(end, kind, tree, how, mark)
    for tree, how in product(trees, BOTH):
        mark = new_mark()
        wrong += await row(end_with_both(pki, directory, kind, rng, tree, how, mark), kind, tree, how, mark)
    return wrong


@asynccontextmanager
async def benched(pki: TestPki, directory: Path, kind: str, rng: random.Random) -> AsyncIterator[Bench]:
    """A jobd that goes on where the last one in this directory has ended."""
    flags = ("--containment", kind, "--grace", str(GRACE), "--log-level", "warning")
    with jobd_program(pki, directory / "state", *flags) as jobd:
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=patient(60)) as client:
            yield Bench(jobd, client, directory, rng)


async def end_with_both(
    pki: TestPki, directory: Path, kind: str, rng: random.Random, tree: str, how: str, mark: str
) -> Job:
    """Start a tree under a jobd that is killed with its launcher; gives the job as the next jobd has seen it end."""
    async with benched(pki, directory, kind, rng) as bench:
        job = await bench.start(tree, how, mark)
        await bench.end_with_both(job, how)
    async with benched(pki, directory, kind, rng) as bench:
        await bench.client.wait(job.id)
        return await bench.client.query(job.id)


async def row(end: Awaitable[Job], kind: str, tree: str, how: str, mark: str) -> bool:
    """Print one; whether it is not as it should be."""
    begun = time.monotonic()
    with trio.fail_after(patient(120)):
        found = problem(await end, kind, how, mark)
    said = f"NOT TRUE: {found}" if found else f"nobody is left ({time.monotonic() - begun:.1f} s)"
    print(f"matrix: {kind:10} {tree:24} {how:24} {said}", flush=True)
    return bool(found)


async def run(seed: int, kinds: list[str]) -> int:
    """All kinds that can be had here."""
    wrong = 0
    for kind in kinds:
        if not can_be(kind):
            print(f"matrix: {kind:10} left out: no control groups can be made for it here", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="jobd-matrix-") as name:
            wrong += await run_kind(TestPki.make(Path(name) / "pki"), Path(name), kind, random.Random(seed))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    arguments = parser.parse_args()
    print(f"matrix: seed {arguments.seed}", flush=True)
    wrong = trio.run(run, arguments.seed, arguments.kind or list(KINDS))
    sys.exit(f"matrix: {wrong} ends were not as they should be" if wrong else 0)


if __name__ == "__main__":
    main()
