"""A pool of three machines next to one alone: what a job costs there, what handing calls on costs, and how long it
takes until a dead machine is noticed. Real programs on loopback, one etcd with its data in memory, and sessions that
last as long as they do elsewhere.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import JobState
from jobd.pools.etcd import session as sessions
from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.codec import encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.orders import end_facts, order_of
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import Ended, Phase
from jobd.pools.etcd.records import JobState as State
from jobd.pools.etcd.transaction import Put, Txn
from jobd.worker.job import Job as Known
from jobd.worker.job import JobSpec
from jobd.worker.lifecycle import State as Standing
from tests.benchmarks.correct import check
from tests.benchmarks.measurements import AT_ONCE, MIB, TRUE
from tests.benchmarks.servers import Serving, jobd, memory_of
from tests.support.daemon import JobdProgram
from tests.support.etcd import Cluster, cluster
from tests.support.jobs import processes_with
from tests.support.pki import TestPki
from tests.support.pool_programs import Programs, programs

MACHINES: Final = ("m1", "m2", "m3")
FAR: Final = "m2"
"""Whose jobs are looked at through another machine, too."""
LONG: Final = 8.0 * sessions.TTL
"""Seconds after which what has not happened never will."""


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does."""

    rounds: int = 5
    jobs: int = 160
    starts: int = 40
    mebibytes: int = 128
    finished: int = 10_000


QUICK: Final = Plan(rounds=1, jobs=16, starts=3, mebibytes=4, finished=200)


@dataclass
class Run:
    """One pool, one machine alone, and what was found: values by row."""

    plan: Plan
    pki: TestPki
    pool: Programs
    alone: Serving
    etcd: Cluster
    found: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def all(self) -> dict[str, list[float]]:
        """Measure everything; what was found."""
        trio.run(self._measure)
        return self.found

    async def _measure(self) -> None:
        """Everything, the machine alone and the pool in turns."""
        async with AsyncExitStack() as stack:
            open_ = stack.enter_async_context
            who = self.pki.credentials("alice")
            alone = await open_(JobClient.connect(self.alone.address, **who))
            brokers = [
                await open_(JobClient.connect(self.pool.servers(name), **who, retry_for=60.0)) for name in MACHINES
            ]
            etcd = await open_(open_client(self.etcd.etcd))
            for _ in range(self.plan.rounds):
                await self._jobs("one machine alone", [alone])
                before = (await etcd.page(b"jobd-bench", size=1)).revision
                await self._jobs("three brokers", brokers)
                jobs = self.plan.jobs // AT_ONCE * AT_ONCE
                written = (await etcd.page(b"jobd-bench", size=1)).revision - before
                self.found["etcd: transactions a job that write"].append(written / jobs)
                await self._starts("one machine alone", alone)
                await self._starts("a pool", brokers[0])
                await self._output(dict(zip(MACHINES, brokers, strict=True)))
            await self._memory(etcd)
            await self._dead(brokers[0])

    async def _jobs(self, whose: str, clients: list[JobClient]) -> None:
        each = self.plan.jobs // AT_ONCE

        async def some(client: JobClient) -> None:
            for _ in range(each):
                (job,) = await client.wait((await client.start(TRUE)).id)
                check(job.state == JobState.SUCCEEDED, f"a job ended as {job}")

        begin = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(some, clients[number % len(clients)])
        rate = each * AT_ONCE / (time.perf_counter() - begin)
        self.found[f"jobs/s, {AT_ONCE} at once: {whose}"].append(rate)

    async def _starts(self, whose: str, client: JobClient) -> None:
        answered, ended = [], []
        for _ in range(self.plan.starts):
            begin = time.perf_counter()
            job = await client.start(TRUE)
            answered.append(time.perf_counter() - begin)
            (job,) = await client.wait(job.id)
            ended.append(time.perf_counter() - begin)
            check(job.state == JobState.SUCCEEDED, f"a job ended as {job}")
        self.found[f"Start is answered, ms: {whose}"].append(statistics.median(answered) * 1e3)
        self.found[f"Start until the end is known, ms: {whose}"].append(statistics.median(ended) * 1e3)

    async def _output(self, brokers: dict[str, JobClient]) -> None:
        """A job's output from the machine that has it, and through another one."""
        written = self.plan.mebibytes * MIB
        command = ["head", "-c", str(written), "/dev/zero"]
        job = await brokers[FAR].start(command, worker_labels={"name": FAR})
        (job,) = await brokers[FAR].wait(job.id)
        check(job.output_bytes == written, f"a job wrote {job.output_bytes} bytes")
        for whose, name in (("from its machine", FAR), ("through another", "m1")):
            first, begin, got = 0.0, time.perf_counter(), 0
            async with brokers[name].stream(job.id) as output:
                async for chunk in output:
                    first = first or time.perf_counter() - begin
                    got += len(chunk.data)
            check(got == written, f"{got} bytes came of {written}")
            took = time.perf_counter() - begin
            self.found[f"Stream's first byte, ms: {whose}"].append(first * 1e3)
            self.found[f"Stream, MiB/s: {whose}"].append(self.plan.mebibytes / took)
        await brokers[FAR].delete(job.id)

    async def _memory(self, etcd: Client) -> None:
        """Of a broker, before and after it hears of many jobs that have ended."""
        broker = await trio.to_thread.run_sync(lambda: self.pool.start("m4", worker=False))
        async with JobClient.connect(broker.server, **self.pki.credentials("alice"), retry_for=60.0) as client:
            await client.workers()
            before = await trio.to_thread.run_sync(_memory_of, broker)
            keys, limit = Keys(self.pool.of.prefix), trio.CapacityLimiter(32)

            async def put(number: int) -> None:
                async with limit:
                    await etcd.txn(Txn((), ended_job(keys, number)))

            async with trio.open_nursery() as nursery:
                for number in range(self.plan.finished):
                    nursery.start_soon(put, number)
            last = known(self.plan.finished - 1).id
            check((await client.query(last)).state == JobState.SUCCEEDED, "the last job is not there")
            row = f"a broker's memory with {self.plan.finished} finished jobs, more, MiB"
            self.found[row].append(await trio.to_thread.run_sync(_memory_of, broker) - before)
            check(len([job async for job in client.list(page_size=1000)]) >= self.plan.finished, "not all are listed")
            row += ": when it has listed them"
            self.found[row].append(await trio.to_thread.run_sync(_memory_of, broker) - before)
        await trio.to_thread.run_sync(self.pool.end, "m4")

    async def _dead(self, client: JobClient) -> None:
        """The machine that has one job, and was given another, dies."""
        had = await client.start(["sh", "-c", "echo ready; exec sleep 1000"], worker_labels={"name": "m3"})
        async with client.stream(had.id) as output:
            await anext(output)
        os.kill(await trio.to_thread.run_sync(self.pool.running["m3"].server_pid), signal.SIGSTOP)
        for name in ("m1", "m2"):
            await client.drain(name)
        given = await client.start(TRUE)
        with trio.fail_after(LONG):
            while "given to m3" not in (await client.query(given.id)).message:
                await trio.sleep(0.02)
        for name in ("m1", "m2"):
            await client.undrain(name)
        begin = time.perf_counter()
        await trio.to_thread.run_sync(self.pool.crash, "m3")

        async def until(what: str, reached: Callable[[], Awaitable[bool]]) -> None:
            while not await reached():
                await trio.sleep(0.05)
            self.found[what].append(time.perf_counter() - begin)

        async def unreachable() -> bool:
            return (await client.query(had.id)).reason == "UNREACHABLE"

        async def placed_again() -> bool:
            (job,) = await client.wait(given.id)
            return job.worker in ("m1", "m2")

        lease = f"(a lease lasts {sessions.TTL})"
        try:
            with trio.fail_after(LONG):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(until, f"a dead machine's job is unreachable after, s {lease}", unreachable)
                    row = f"a job that it was given has run elsewhere after, s {lease}"
                    nursery.start_soon(until, row, placed_again)
        finally:
            for pid in processes_with(had.id):  # nobody is left who would
                os.kill(pid, signal.SIGKILL)


def _memory_of(program: JobdProgram) -> float:
    """MiB of a machine's server."""
    return memory_of(program.server_pid())["PSS"] / 1024


def known(number: int) -> Known:
    """A job that has ended, some time ago."""
    now = time.time_ns()
    return Known(
        f"00000000-0000-4000-8000-{number:012d}",
        JobSpec(("/bin/echo", "a", "few", "words"), name=f"job-{number}", env={"LEVEL": "3"}),
        Standing.SUCCEEDED,
        now,
        started_by="alice",
        request_id=f"request-{number}",
        worker="m1",
        reason="EXITED",
        message="exited with code 0",
        wait_status=0,
        started_at=now,
        ended_at=now,
        output_bytes=12,
    )


def ended_job(keys: Keys, number: int) -> tuple[Put, ...]:
    """What etcd has of it."""
    job = known(number)
    order, _ = order_of(keys, job, Seal())
    state = State(phase=Phase.ENDED, by="alice", worker="m1", job=end_facts(job))
    left = Ended(principal="alice", request_id=job.request_id, worker="m1")
    return (
        Put(keys.spec(job.id), encode(order)),
        Put(keys.state(job.id), encode(state)),
        Put(keys.ended(job.id, job.ended_at or 0), encode(left)),
    )


COMPARED: Final = {
    f"jobs/s, {AT_ONCE} at once: three brokers": f"jobs/s, {AT_ONCE} at once: one machine alone",
    "Start is answered, ms: a pool": "Start is answered, ms: one machine alone",
    "Start until the end is known, ms: a pool": "Start until the end is known, ms: one machine alone",
    "Stream's first byte, ms: through another": "Stream's first byte, ms: from its machine",
    "Stream, MiB/s: through another": "Stream, MiB/s: from its machine",
}
"""Rows, and what each is to be seen next to."""


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the table.

    Raises:
        IncorrectRunError: a job or a stream was not what it should be.
    """
    plan = QUICK if quick else Plan()
    plan = replace(plan, rounds=rounds or plan.rounds)
    print(f"\na pool: {plan}\n")
    with tempfile.TemporaryDirectory(prefix="jobd-pool-bench-") as name, ExitStack() as stack:
        scratch = Path(name)
        pki = TestPki.make(scratch / "pki")
        (scratch / "etcd").mkdir()
        etcd = stack.enter_context(cluster(scratch / "etcd"))
        machines = stack.enter_context(programs(etcd, pki, scratch / "machines", seconds=sessions.TTL))
        for machine in MACHINES:
            machines.start(machine, labels=f"name={machine}")
        alone = stack.enter_context(jobd(pki, scratch, scratch))
        found = Run(plan, pki, machines, alone, etcd).all()
    print("| | median | min to max | ratio |\n|---|---|---|---|")
    for row, values in found.items():
        reference = COMPARED.get(row)
        ratio = f"{statistics.median(values) / statistics.median(found[reference]):.2f}" if reference else ""
        print(f"| {row} | {statistics.median(values):.4g} | {min(values):.4g} to {max(values):.4g} | {ratio} |")
