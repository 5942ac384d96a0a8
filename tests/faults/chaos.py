"""A longer run of kills at random moments: ``nox -s chaos [-- --seed N]``. Prints its seed; ends with 1 on any loss.

Two parts. A job that writes random bytes to both streams, with three followers, while the server is killed again and
again: each follower's bytes equal the job's. And many short jobs with known outputs and exit codes, through a client
that retries, during kills: each ran exactly once (it leaves a mark outside), each byte and code is right.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import Job, JobState, OutputSource, Verdict
from tests.faults.test_server_killed import WRITER, read, until_recorded, written
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.pki import TestPki

RETRY_FOR: Final = 120


def check(condition: bool, what: str) -> None:
    """Say what holds, or end the run."""
    if not condition:
        sys.exit(f"chaos: NOT TRUE: {what}")
    print(f"chaos: {what}", flush=True)


def memory_of(pid: int) -> int:
    """Resident memory, in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


async def one_large_job(jobd: JobdProgram, client: JobClient, size: int, kills: int, seed: int) -> None:
    """The first part."""
    rng = random.Random(seed)
    job = await client.start([sys.executable, "-c", WRITER, str(size), str(seed)])
    results: list[tuple[dict[OutputSource, str], Verdict]] = []
    memory: list[int] = []

    async def follow() -> None:
        results.append(await read(client, job.id))

    begun = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(follow)
        for moment in sorted(rng.sample(range(size), kills)):
            await until_recorded(client, job.id, moment)
            server = await trio.to_thread.run_sync(jobd.server_pid)
            memory.append(memory_of(server))
            await trio.to_thread.run_sync(jobd.kill_server)
    seconds = time.monotonic() - begun
    expected = written(size, seed)
    check(all(sums == expected for sums, _ in results), f"3 followers have every byte of {size} through {kills} kills")
    verdicts = {(v.state, v.exit_code, v.dropped_bytes) for _, v in results}
    check(verdicts == {(JobState.SUCCEEDED, 0, 0)}, f"and the right verdict, after {seconds:.1f} s")
    check(max(memory) < 120 * 1024, f"the server's memory was at most {max(memory) // 1024} MiB when it was killed")
    check(memory_of(jobd.launcher) < 20 * 1024, f"the launcher's is {memory_of(jobd.launcher) / 1024:.1f} MiB")


async def many_short_jobs(jobd: JobdProgram, client: JobClient, count: int, seed: int, marks: Path) -> None:
    """The second part."""
    rng = random.Random(seed)
    codes = [rng.randrange(0, 120) for _ in range(count)]
    ended: dict[int, Job] = {}
    limit = trio.CapacityLimiter(8)
    kills = 0

    async def one(number: int) -> None:
        async with limit:
            script = f"echo x >> {marks}/{number}; echo {number}; exit {codes[number]}"
            job = await client.start(["sh", "-c", script])
            [ended[number]] = await client.wait(job.id)

    async def kill() -> None:
        nonlocal kills
        for moment in sorted(rng.choices(range(count), k=count // 10)):
            while len(ended) < moment:  # any moment will do
                await trio.sleep(0.002)
            await trio.sleep(rng.uniform(0, 0.05))
            await trio.to_thread.run_sync(jobd.kill_server)
            kills += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        for number in range(count):
            nursery.start_soon(one, number)
    ran = {number: (marks / str(number)).read_text() for number in range(count)}
    check(set(ran.values()) == {"x\n"}, f"each of {count} jobs ran exactly once, through {kills} kills")
    check([ended[n].exit_code for n in range(count)] == codes, "each exit code is right")
    sizes = [ended[n].output_bytes == len(f"{n}\n") and not ended[n].dropped_bytes for n in range(count)]
    check(all(sizes), "each job's output was recorded whole")


async def run(arguments: argparse.Namespace) -> None:
    """Both parts, on one daemon."""
    with tempfile.TemporaryDirectory(prefix="jobd-chaos-") as name:
        directory = Path(name)
        pki = TestPki.make(directory / "pki")
        marks = directory / "marks"
        marks.mkdir()
        with jobd_program(pki, directory / "state", "--log-level", "warning", "--keepalive", "10") as jobd:
            async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=RETRY_FOR) as client:
                await one_large_job(jobd, client, arguments.size, arguments.kills, arguments.seed)
                await many_short_jobs(jobd, client, arguments.jobs, arguments.seed, marks)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--size", type=int, default=2**30, help="bytes that the large job writes")
    parser.add_argument("--kills", type=int, default=20, help="during the large job")
    parser.add_argument("--jobs", type=int, default=200)
    arguments = parser.parse_args()
    print(f"chaos: seed {arguments.seed}", flush=True)
    trio.run(run, arguments)
    print("chaos: nothing was lost", flush=True)


if __name__ == "__main__":
    main()
