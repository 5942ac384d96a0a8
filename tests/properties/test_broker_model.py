"""The broker's records under any sequence of starts, stops, crashes, resends and time-outs, against a small model.

Everything is real but three things, which the test decides instead: what a process does and when (``launcher.py``),
when the store's thread does its next operations (``server.py``), and the time. So each sequence gives the same every
time, and a failure is printed as the shortest one that shows it. What must be true is in ``model.py``.

``JOBD_MODEL_EXAMPLES`` makes it longer, with other sequences each time.
"""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from jobd.worker.supervisor import Stop as HowToStop
from tests.properties.launcher import Script
from tests.properties.machine import ALL, Machine
from tests.properties.model import Request
from tests.properties.server import KEPT, in_this_thread, temporary_root

EXAMPLES: Final = int(os.environ.get("JOBD_MODEL_EXAMPLES", "0"))
LONGEST_GRACE: Final = 100.0
IGNORABLE: Final = (signal.SIGTERM, signal.SIGUSR1)


class Step(Protocol):
    """Something that happens."""

    async def do(self, machine: Machine) -> None: ...


@dataclass(frozen=True)
class Nothing:
    """What a step that does not matter becomes in the shortest sequence."""

    async def do(self, machine: Machine) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Start:
    """A new request; alone, its answer is known beforehand."""

    named: bool
    launch: str
    ignores: tuple[int, ...]
    alone: bool

    async def do(self, machine: Machine) -> None:
        number = len(machine.model.requests)
        script = Script(f"tag-{number}", self.launch, self.ignores)
        request = Request(script.spec(), "alice", f"request-{number}" if self.named else "")
        await send(machine, request, alone=self.alone)


@dataclass(frozen=True)
class Burst:
    """Several new requests come together, with so many operations of the store done after each."""

    count: int
    committed: int

    async def do(self, machine: Machine) -> None:
        for _ in range(self.count):
            await Start(named=True, launch="prompt", ignores=(), alone=False).do(machine)
            await machine.let_run(self.committed)


@dataclass(frozen=True)
class Resend:
    """A request comes again, as it was or not."""

    which: int
    change: str
    alone: bool

    async def do(self, machine: Machine) -> None:
        named = [request for request in machine.model.requests if request.request_id]
        if named:
            request = named[self.which % len(named)]
            if self.change == "principal":
                request = replace(request, by="bob")
            elif self.change == "body":
                request = replace(request, spec=replace(request.spec, cwd="/elsewhere"))
            await send(machine, request, alone=self.alone)


async def send(machine: Machine, request: Request, *, alone: bool) -> None:
    machine.model.requests.append(request)
    if alone:
        await machine.quiet()
        await machine.start_alone(request)
    else:
        machine.start(request)


@dataclass(frozen=True)
class GiveUp:
    """A caller does not wait any longer: it cancels, or its deadline has passed."""

    which: int

    async def do(self, machine: Machine) -> None:
        if machine.calls:
            machine.calls[self.which % len(machine.calls)].scope.cancel()


@dataclass(frozen=True)
class Proceed:
    """A slow launch comes to its end."""

    which: int

    async def do(self, machine: Machine) -> None:
        if children := machine.world.unlaunched:
            machine.world.launcher.proceed(children[self.which % len(children)])


@dataclass(frozen=True)
class Exit:
    """A process ends by itself; the status is as waitpid(2) gives it."""

    which: int
    status: int

    async def do(self, machine: Machine) -> None:
        if children := machine.world.running:
            machine.world.launcher.exit(children[self.which % len(children)], self.status)


@dataclass(frozen=True)
class Stop:
    """Somebody stops a job."""

    which: int
    grace: float | None

    async def do(self, machine: Machine) -> None:
        if (job_id := machine.job(self.which)) and job_id not in machine.model.gone:
            machine.model.ending.add(job_id)
            machine.call("stop", job_id, jobs=(job_id,), how=HowToStop("carol", self.grace))


@dataclass(frozen=True)
class Signal:
    """Somebody sends a signal to a job."""

    which: int

    async def do(self, machine: Machine) -> None:
        if (job_id := machine.job(self.which)) and job_id not in machine.model.gone:
            machine.model.ending.add(job_id)
            machine.call("signal", job_id, signal.SIGUSR1, jobs=(job_id,), by="carol")


@dataclass(frozen=True)
class Wait:
    """Somebody waits for two jobs, or one of them."""

    which: tuple[int, int]
    any_of_them: bool

    async def do(self, machine: Machine) -> None:
        ids = [job_id for number in self.which if (job_id := machine.job(number))]
        if ids and not machine.model.gone & set(ids):
            about = "wait for any" if self.any_of_them else "wait for all"
            machine.call(about, ids, jobs=tuple(ids), any_of_them=self.any_of_them)


@dataclass(frozen=True)
class Delete:
    """Somebody deletes a job."""

    which: int

    async def do(self, machine: Machine) -> None:
        if job_id := machine.job(self.which):
            machine.model.deleting.add(job_id)
            machine.call("delete", job_id, jobs=(job_id,))


@dataclass(frozen=True)
class Retain:
    """Retention looks after old jobs, of which few are kept."""

    async def do(self, machine: Machine) -> None:
        await machine.let_run(ALL)
        ended = [job for job in machine.model.see_rows() if job.state.terminal]
        await machine.retain()
        kept = [job for job in machine.model.see_rows() if job.state.terminal]
        newest = sorted(ended, key=lambda job: job.ended_at or 0)[-KEPT:]
        assert {job.id for job in kept} == {job.id for job in newest}, "the wrong jobs are kept"


@dataclass(frozen=True)
class PassTime:
    """Nothing happens for a while."""

    seconds: float

    async def do(self, machine: Machine) -> None:
        await machine.pass_time(self.seconds)


@dataclass(frozen=True)
class Crash:
    """A kill of the server, of launcher and server, or of the machine, when so many of the operations that the store
    was asked for were done."""

    what: str
    committed: int

    async def do(self, machine: Machine) -> None:
        await machine.crash(self.committed, self.what)


@dataclass(frozen=True)
class Leave:
    """An orderly end, which ends the jobs or leaves them to the next server."""

    ends_jobs: bool

    async def do(self, machine: Machine) -> None:
        await machine.leave(ends_jobs=self.ends_jobs)


WHICH: Final = st.integers(0, 9)
BEGINNINGS: Final = st.one_of(
    st.builds(
        Start,
        named=st.booleans(),
        launch=st.sampled_from(["prompt", "prompt", "prompt", "slow", "fails"]),
        ignores=st.sampled_from([(), (), IGNORABLE]),
        alone=st.booleans(),
    ),
    st.builds(Resend, WHICH, st.sampled_from(["", "", "principal", "body"]), st.booleans()),
    st.builds(Burst, st.integers(2, 5), st.integers(0, 1)),
)
ENDINGS: Final = st.one_of(
    st.builds(Exit, WHICH, st.sampled_from([0, 3 << 8, 255 << 8, signal.SIGKILL, signal.SIGSEGV])),
    st.builds(Stop, WHICH, st.sampled_from([None, 0, 2.0, LONGEST_GRACE])),
    st.builds(Signal, WHICH),
)
OTHERS: Final = st.one_of(
    st.builds(GiveUp, WHICH),
    st.builds(Proceed, WHICH),
    st.builds(Wait, st.tuples(WHICH, WHICH), st.booleans()),
    st.builds(Delete, WHICH),
    st.builds(Retain),
    st.builds(PassTime, st.sampled_from([0.5, 6.0])),
)
FAULTS: Final = st.one_of(
    st.builds(Crash, st.sampled_from(["server", "server", "launcher", "machine"]), st.integers(0, 6)),
    st.builds(Leave, st.booleans()),
)
WEIGHTS: Final = ((st.builds(Nothing), 1), (BEGINNINGS, 5), (ENDINGS, 4), (OTHERS, 3), (FAULTS, 2))
STEPS: Final = st.sampled_from([kind for kind, weight in WEIGHTS for _ in range(weight)]).flatmap(lambda kind: kind)
THEN: Final = st.sampled_from([None, None, None, 0, 0, 1, 2])
"""After a step: everything goes on until it is quiet (None), or with so many operations of the store done."""


# Those that found something once are played each time.
NEW: Final = Start(named=True, launch="prompt", ignores=(), alone=False)
STOPPED_WHILE_IT_ENDS: Final[list[tuple[Step, int | None]]] = [(NEW, None), (Exit(0, 3 << 8), 0), (Stop(0, None), None)]
OVERTAKEN: Final[list[tuple[Step, int | None]]] = [(NEW, None), (Exit(0, 0), 0), (NEW, 1), (NEW, None)]

STUBBORN: Final = Start(named=True, launch="prompt", ignores=IGNORABLE, alone=False)
STOPPED_BEFORE_A_CRASH: Final[list[tuple[Step, int | None]]] = [
    (STUBBORN, None),
    (Stop(0, 2.0), None),
    (Crash("server", 6), None),
]


async def play(
    directory: Path, clock: MockClock, settings_: tuple[int, int, int], steps: list[tuple[Step, int | None]]
) -> None:
    """Do the steps, and then see that everything comes to its end."""
    workers, slots, max_pending = settings_
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery, clock, directory, workers=workers, slots=slots, max_pending=max_pending)
        try:
            await machine.begin()
            for step, then in steps:
                await step.do(machine)
                if then is None:
                    await machine.quiet()
                else:
                    await machine.let_run(then)
            await come_to_an_end(machine)
        finally:
            machine.server.crash(0)  # where a failure leaves it, nobody would answer it any more
            await wait_all_tasks_blocked()
            machine.server.link.abandon()
            machine.world.launcher.close()
            machine.model.close()


async def come_to_an_end(machine: Machine) -> None:
    """Each stop is carried out. Each process ends in its time: then each job has ended, no call waits, and a restart
    changes nothing."""
    await machine.pass_time(LONGEST_GRACE)
    assert not any(job.stopping for job in machine.model.see_rows()), "a job outlives its grace period"
    await machine.quiet()
    while children := [*machine.world.unlaunched, *machine.world.running]:
        if children[0].executed:
            machine.world.launcher.exit(children[0], 7 << 8)
        else:
            machine.world.launcher.proceed(children[0])
        await machine.quiet()
    ended = machine.model.see_rows()
    assert all(job.state.terminal for job in ended), "a job never ends"
    assert not machine.calls
    assert not machine.world.launcher.children
    await machine.leave(ends_jobs=True)
    assert machine.model.see_rows() == ended
    machine.server.leave(ends_jobs=True)
    await machine.let_run(ALL)


@settings(
    max_examples=EXAMPLES or 120,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    settings_=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 3)),
    steps=st.lists(st.tuples(STEPS, THEN), min_size=15, max_size=40),
    order=st.random_module(),
)
@example(settings_=(1, 1, 3), steps=STOPPED_WHILE_IT_ENDS, order=None)
@example(settings_=(1, 1, 3), steps=OVERTAKEN, order=None)
@example(settings_=(1, 1, 3), steps=STOPPED_BEFORE_A_CRASH, order=None)
@example(settings_=(1, 1, 1), steps=[(Burst(5, 0), None)], order=None)
def test_records_are_true_whatever_happens(
    settings_: tuple[int, int, int], steps: list[tuple[Step, int | None]], order: object
) -> None:
    """No job is lost, doubled, overtaken or run twice; what ended stays as it was; no exit code is made up; a Start
    sent again is the same job; and everything comes to its end."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=temporary_root()) as name:
        patch.setattr(trio.to_thread, "run_sync", in_this_thread())
        clock = MockClock()
        trio.run(play, Path(name), clock, settings_, steps, clock=clock)
