"""A pool under faults: ``nox -s chaos -- pool [--jobs N] [--seed N]``. Prints its seed; ends with 1 on anything wrong.

Three members of etcd, five machines, three of them brokers for the clients. Jobs with known outputs, exit codes and
signals, that leave marks in a file outside; some are stopped. Meanwhile servers and whole jobd are killed and stopped
(SIGSTOP), machines are cut off from all others, or reached slowly, and come back, and so are etcd's leader, any member
of it, or two of three killed, stopped and cut off (hosts are network namespaces, where root can make them; else nobody
is cut off). What clients saw, and what the
marks say, is judged by :mod:`tests.support.history`, which knows nothing of the pool.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from api.client import JobClient
from api.errors import NotFoundError, StreamCutError, UnavailableError
from api.messages import Job, JobState
from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.keys import Keys
from jobd.worker.job import Reason
from tests.faults.etcd_faults import HOSTS, EtcdFaults
from tests.faults.pool_jobs import Plan
from tests.support.etcd import Cluster, binaries, cluster, that_may_be_killed, version_of
from tests.support.history import (
    ENDED,
    NEVER_RAN,
    UNKNOWN,
    Lost,
    Mark,
    Operation,
    Seen,
    Stop,
    Stream,
    Submit,
    check,
    write,
)
from tests.support.network import alone, network, what_is_missing
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool_programs import Programs, programs

T = TypeVar("T")

MACHINES: Final = ("m1", "m2", "m3", "m4", "m5")
BROKERS: Final = MACHINES[:3]
SLOTS: Final = 4
AT_ONCE: Final = 32
"""Jobs that are seen to at a time."""
SESSION: Final = 4
"""Seconds that a machine's session lasts without a sign of life."""
MOST_AWAY: Final = 2
"""Machines that are dead or stopped at a time."""
RETRY_FOR: Final = 60.0


@dataclass
class Chaos:
    """One run.

    Attributes:
        launchers: whose pid is which machine's, of all times.
        kills_etcd: its members may be killed.
        faults: what was done, how often.
        done: jobs that have ended.
    """

    rng: random.Random
    pool: Programs
    etcd: Cluster
    marks: Path
    kills_etcd: bool = True
    history: list[Operation] = field(default_factory=list)
    launchers: dict[int, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    done: int = 0
    away: set[str] = field(default_factory=set)

    # ---- clients

    async def clients(self, plans: list[Plan]) -> None:
        """See each job to its end, and look at it in between."""
        limit = trio.CapacityLimiter(AT_ONCE)
        orders = [self.rng.sample(BROKERS, len(BROKERS)) for _ in range(6)]
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self.client(*order)) for order in orders]
            async with trio.open_nursery() as nursery:
                for plan in plans:
                    await limit.acquire_on_behalf_of(plan)
                    nursery.start_soon(self._one, plan, self.rng.sample(clients, 3), limit)

    def client(self, *brokers: str) -> AbstractAsyncContextManager[JobClient]:
        """Of these brokers, the first of which is asked first."""
        who = self.pool.of.pki.credentials("alice")
        return JobClient.connect(self.pool.servers(*brokers), **who, retry_for=RETRY_FOR)

    async def _one(self, plan: Plan, clients: list[JobClient], limit: trio.CapacityLimiter) -> None:
        try:
            first, second, third = clients
            job = await self._submit(plan, first)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look, second, job)
                nursery.start_soon(self._stream, plan, third, job)
                if plan.stopped is not None:
                    await trio.sleep(plan.stopped)
                    nursery.start_soon(self._stop, first, job)
                began = time.time()
                self.see(began, (await again(lambda: second.wait(job)))[0])
            await self.query(third, job)
            self.done += 1
        finally:
            limit.release_on_behalf_of(plan)

    async def _submit(self, plan: Plan, client: JobClient) -> str:
        while True:
            began, answer = time.time(), UNKNOWN
            try:
                answer = (await client.start(plan.argv(self.marks), request_id=plan.request)).id
            except UnavailableError:
                self.faults["Starts that were not answered"] += 1
            finally:
                self.history.append(Submit(began=began, ended=time.time(), request=plan.request, job=answer))
            if answer != UNKNOWN:
                return answer

    async def _look(self, client: JobClient, job: str) -> None:
        for _ in range(3):
            await trio.sleep(self.rng.uniform(0, 2))
            await self.query(client, job)

    async def _stop(self, client: JobClient, job: str) -> None:
        began = time.time()
        stopped = await again(lambda: client.stop(job, grace=0))
        self.history.append(Stop(began=began, ended=time.time(), job=job, answer=state_of(stopped)))

    async def _stream(self, plan: Plan, client: JobClient, job: str) -> None:
        """Read it whole, over all interruptions, from where it was."""
        sum_, offset = hashlib.sha256(), 0

        async def read() -> tuple[JobState, int]:
            nonlocal offset
            async with client.stream(job, offset=offset) as output:
                async for chunk in output:
                    assert chunk.offset == offset, f"{job}: byte {offset} was expected, and came {chunk.offset}"
                    offset += len(chunk.data)
                    sum_.update(chunk.data)
            assert output.verdict is not None
            return JobState(output.verdict.state), output.verdict.dropped_bytes

        state, dropped = await again(read)
        if state in (JobState.SUCCEEDED, JobState.FAILED, JobState.KILLED):
            read_ = Stream(at=time.time(), job=job, digest=sum_.hexdigest(), expected=plan.digest, dropped=dropped)
            self.history.append(read_)

    async def query(self, client: JobClient, job: str, *, final: bool = False) -> None:
        """Look at a job."""
        began = time.time()
        try:
            self.see(began, await again(lambda: client.query(job)), final=final)
        except NotFoundError:
            self.history.append(Seen(at=time.time(), job=job, state="missing", final=final))

    def see(self, began: float, job: Job, *, final: bool = False) -> None:
        """Write down what was shown of a job. An end was known when it was answered; that there was none may have
        been so at any time since it was asked."""
        outcome = ""
        if job.state in (JobState.SUCCEEDED, JobState.FAILED):
            outcome = f"exit {job.exit_code}"
        elif job.state == JobState.KILLED:
            outcome = f"signal {job.signal}"
        state = state_of(job)
        at = time.time() if state in ENDED | NEVER_RAN else began
        self.history.append(Seen(at=at, job=job.id, state=state, outcome=outcome, final=final))

    # ---- faults of machines

    async def machines(self) -> None:
        """Kill and stop machines, until cancelled; then all are there again."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.rng.uniform(0.3, 2))
                there = [name for name in MACHINES if name not in self.away]
                if len(self.away) < MOST_AWAY and there:
                    name = self.rng.choice(there)
                    self.away.add(name)
                    nursery.start_soon(self._fault, name)

    async def _fault(self, name: str) -> None:
        faults = [self._kill_server, self._kill_server, self._crash, self._pause, self._pause_both]
        fault = self.rng.choice([*faults, *([self._cut, self._cut, self._slow] if self.pool.network else [])])
        self.faults[f"machines: {fault.__name__.strip('_')}"] += 1
        with trio.CancelScope(shield=True):
            await fault(name)
        self.away.discard(name)

    async def _kill_server(self, name: str) -> None:
        await trio.to_thread.run_sync(self.pool.running[name].kill_server)
        await trio.to_thread.run_sync(self.pool.running[name].server_pid)

    async def _crash(self, name: str) -> None:
        outlived = self.rng.random() < 0.5
        await trio.to_thread.run_sync(partial(self.pool.crash, name, outlived=outlived))
        self.history.append(Lost(at=time.time(), machine=name))
        await trio.sleep(self.rng.choice((0, self.rng.uniform(0, 3 * SESSION))))
        await self.start(name)

    def etcd_faults(self) -> EtcdFaults:
        """Those of etcd, which are counted with the others."""
        return EtcdFaults(self.rng, self.etcd, self.faults, kills=self.kills_etcd, network=self.pool.network)

    async def start(self, name: str) -> None:
        """Start a machine, for the first time or again."""
        jobd = await trio.to_thread.run_sync(lambda: self.pool.start(name, slots=SLOTS))
        self.launchers[jobd.launcher] = name

    async def _cut(self, name: str) -> None:
        assert self.pool.network is not None
        await trio.to_thread.run_sync(self.pool.network.cut, name)
        await trio.sleep(self.rng.choice((self.rng.uniform(0, 2), self.rng.uniform(0, 3 * SESSION))))
        await trio.to_thread.run_sync(self.pool.network.heal, name)

    async def _slow(self, name: str) -> None:
        assert self.pool.network is not None
        await trio.to_thread.run_sync(self.pool.network.slow, name)
        await trio.sleep(self.rng.uniform(0, 3 * SESSION))
        await trio.to_thread.run_sync(self.pool.network.quick, name)

    async def _pause(self, name: str) -> None:
        await self._stopped([await trio.to_thread.run_sync(self.pool.running[name].server_pid)])

    async def _pause_both(self, name: str) -> None:
        jobd = self.pool.running[name]
        await self._stopped([jobd.launcher, await trio.to_thread.run_sync(jobd.server_pid)])

    async def _stopped(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await trio.sleep(self.rng.choice((self.rng.uniform(0, 2), self.rng.uniform(0, 3 * SESSION))))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    # ---- the end

    async def tell(self, jobs: int, over: trio.CancelScope) -> None:
        """Say how far it is, until it is done."""
        while self.done < jobs:
            await trio.sleep(10)
            print(f"chaos: {self.done} of {jobs} jobs; away: {sorted(self.away)}; {dict(self.faults)}", flush=True)
        over.cancel()

    async def look_at_all(self) -> None:
        """After everybody has come back: each job, as each broker shows it; and nothing is left over in etcd."""
        jobs = {each.job for each in self.history if isinstance(each, Submit) and each.job != UNKNOWN}
        for broker in BROKERS:
            async with self.client(broker) as client:
                for job in jobs:
                    await self.query(client, job, final=True)
        keys = Keys(self.pool.of.prefix)
        async with open_client(self.etcd.etcd) as client_of_etcd:
            for prefix in (keys.queue, keys.assignments()):
                with trio.move_on_after(patient(30)):
                    while (await client_of_etcd.page(prefix, size=1)).found:
                        await trio.sleep(0.1)
                left = [each.key.decode() for each in (await client_of_etcd.page(prefix)).found]
                if left:
                    sys.exit(f"chaos: NOT TRUE: nothing is left in etcd; there is {left}")

    def read_marks(self) -> None:
        """What the jobs' processes have left."""
        for line in self.marks.read_text().splitlines():
            at, request, what, launcher = line.split()
            machine = self.launchers.get(int(launcher), "")
            mark = Mark(at=float(at), request=request, what=what.replace("_", " "), machine=machine)
            self.history.append(mark)


def state_of(job: Job) -> str:
    """In the words of :class:`tests.support.history.Seen`."""
    if job.reason == Reason.UNREACHABLE:
        return "unreachable"
    return JobState(job.state).name.lower()


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Call until it is answered: the client retries by itself, and gives up at some time."""
    while True:
        try:
            return await call()
        except (UnavailableError, StreamCutError) as exc:
            print(f"chaos: once more: {exc}", flush=True)


async def run(arguments: argparse.Namespace, chaos: Chaos) -> None:
    """All of it, but the judgement."""
    plans = [Plan.of(chaos.rng, f"r{number}") for number in range(arguments.jobs)]
    async with trio.open_nursery() as nursery:
        for name in MACHINES:
            nursery.start_soon(chaos.start, name)
    async with trio.open_nursery() as faults:
        if not arguments.calm:
            faults.start_soon(chaos.machines)
            faults.start_soon(chaos.etcd_faults().run)
        with trio.move_on_after(arguments.limit) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chaos.clients, plans)
                nursery.start_soon(chaos.tell, len(plans), nursery.cancel_scope)
        faults.cancel_scope.cancel()
    if scope.cancelled_caught:
        sys.exit(f"chaos: NOT TRUE: {len(plans)} jobs end; {chaos.done} have, after {arguments.limit} s")
    await chaos.look_at_all()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.pool_chaos")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=7200, help="seconds until it is given up")
    parser.add_argument("--calm", action="store_true", help="without any fault")
    parser.add_argument("--directory", type=Path, help="where everything is, and stays")
    arguments = parser.parse_args()
    missing = what_is_missing()
    if not missing:
        alone()
    print(f"chaos: machines are {f'not cut off, which takes {missing}' if missing else 'cut off'}", flush=True)
    print(f"chaos: seed {arguments.seed}", flush=True)
    with ExitStack() as stack:
        directory = arguments.directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobd-chaos-")))
        directory.mkdir(exist_ok=True)
        (directory / "etcd").mkdir(exist_ok=True)
        whole = list(that_may_be_killed().values())
        binary = (whole or list(binaries().values()))[0]
        print(f"chaos: etcd {version_of(binary)}; its members are {'' if whole else 'not '}killed", flush=True)
        hosts = None if missing else stack.enter_context(network([*MACHINES, *HOSTS]))
        etcd = stack.enter_context(
            cluster(directory / "etcd", size=3, binary=binary, hosts=HOSTS if hosts else (), network=hosts)
        )
        pki = TestPki.make(directory / "pki")
        pool = stack.enter_context(programs(etcd, pki, directory, seconds=SESSION, network=hosts))
        chaos = Chaos(random.Random(arguments.seed), pool, etcd, directory / "marks", kills_etcd=bool(whole))
        begun = time.monotonic()
        try:
            trio.run(run, arguments, chaos)
        finally:
            chaos.read_marks()
            write(directory / "history", chaos.history)
            print(f"chaos: {chaos.done} jobs in {time.monotonic() - begun:.0f} s; {dict(sorted(chaos.faults.items()))}")
    wrong = check(chaos.history)
    for each in wrong:
        print(f"chaos: NOT TRUE: {each.about} {each.what}")
    ends = Counter(each.state for each in {each.job: each for each in chaos.history if isinstance(each, Seen)}.values())
    print(f"chaos: ends: {dict(ends)}")
    sys.exit("chaos: something is wrong" if wrong else None)


if __name__ == "__main__":
    main()
