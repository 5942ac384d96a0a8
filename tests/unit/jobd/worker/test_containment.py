"""When a supervisor itself fails: it costs its own job, which is ended and says so; the other jobs go on."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from jobd.launcher.local import LocalLauncher, LocalProcess
from jobd.limits.walk import Walk
from jobd.output.log import Log, LogStore
from jobd.worker.errors import StopFailedError, StoreError
from jobd.worker.job import Job, JobCell, JobSpec, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.ports import Source
from jobd.worker.supervisor import Timings
from jobd.worker.worker import NoJournal, Worker
from tests.support.jobs import new_mark, processes_with, shell
from tests.support.patience import patient

GRACE = patient(10)
"""Seconds; more than what heeds SIGTERM ever needs."""


class PoisonousLog(Log):
    """Fails in what ``poison`` names."""

    poison: tuple[str, ...] = ()

    def take_at_once(self, source: Source, pipe: int, size: int) -> bool | None:
        return None

    async def take(self, source: Source, pipe: int) -> bool:
        self._fail_in("take")
        return await super().take(source, pipe)

    async def resume(self) -> None:
        self._fail_in("resume")
        await super().resume()

    async def finish(self) -> None:
        self._fail_in("finish")
        await super().finish()

    def _fail_in(self, name: str) -> None:
        if name in self.poison:
            raise OSError(5, f"poison in {name}")


class PoisonousStore(LogStore):
    """Logs of which the next can be made poisonous."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._poison: tuple[str, ...] = ()
        self._directory = root

    def poison_next(self, *names: str) -> None:
        self._poison = names

    def create(self, job_id: str, limit: int = 0) -> Log:
        log = PoisonousLog(self._directory, job_id)
        log.poison, self._poison = self._poison, ()
        return log


class RememberingLauncher(LocalLauncher):
    """Real children; it tells which were released, and has those that are to be adopted."""

    def __init__(self) -> None:
        super().__init__(Walk())
        self.released: list[int] = []
        self.adopted: dict[str, LocalProcess] = {}
        self.failure: Exception | None = None

    async def launch(self, job_id: str, spec: JobSpec) -> LocalProcess:
        if self.failure:
            raise self.failure
        process = await super().launch(job_id, spec)

        async def release() -> None:
            self.released.append(process.pid)

        process.release = release  # type: ignore[method-assign] # to see the call
        return process

    def take_adopted(self, job_id: str) -> LocalProcess | None:
        return self.adopted.pop(job_id, None)


class FailingJournal(NoJournal):
    """Takes notes, and fails in what ``fails`` names."""

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.committed: list[Job] = []

    def note(self, job: Job) -> None:
        if "note" in self.fails:
            raise RuntimeError("poison in note")

    async def commit(self, job: Job) -> None:
        if "commit" in self.fails:
            raise StoreError("the disk is full")
        self.committed.append(job)


class Bench:
    """A worker over parts that can be made to fail."""

    def __init__(self, nursery: trio.Nursery, root: Path, grace: float) -> None:
        timings = Timings(grace=grace, drain=0.3, kill=patient(5))
        self.launcher, self.outputs, self.journal = RememberingLauncher(), PoisonousStore(root), FailingJournal()
        self.worker = Worker(nursery, self.launcher, self.outputs, journal=self.journal, timings=timings)


@asynccontextmanager
async def bench(root: Path, grace: float = GRACE) -> AsyncIterator[Bench]:
    """Whoever is left waiting here fails."""
    with trio.fail_after(patient(30)):
        async with trio.open_nursery() as nursery:
            yield Bench(nursery, root, grace)
            nursery.cancel_scope.cancel()


def starting() -> JobCell:
    job = Job(str(uuid.uuid4()), JobSpec(("adopted",)), State.PENDING, 1)
    return JobCell(job.moved(Event.ASSIGNED, worker="local"))


def errors_of(entries: list[EventDict], job_id: str) -> list[str]:
    """The errors in the log, which all name the job."""
    errors = [entry for entry in entries if entry["log_level"] == "error"]
    assert {entry["job"] for entry in errors} <= {job_id}
    return [entry["event"] for entry in errors]


async def test_a_supervisor_that_fails_costs_its_own_job(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict]
) -> None:
    """Its processes are ended, its record says what is known, its process is released; another job goes on."""
    mark = new_mark()
    async with bench(tmp_path) as b:
        other = await b.worker.start(JobSpec(("sleep", "60")))
        b.outputs.poison_next("take")
        job = await b.worker.start(shell("sleep 60 & echo poison; wait", env={"MARK": mark}))
        ended = await b.worker.wait(job.id)
        assert (ended.state, ended.reason) == (State.LOST, Reason.SUPERVISOR_FAILED)
        assert "its process was ended by signal 15" in ended.message
        assert (ended.exit_code, ended.signal) == (None, signal.SIGTERM)
        assert processes_with(mark) == []
        assert b.journal.committed == [ended]
        assert b.launcher.released == [job.pid]
        assert b.worker.query(other.id).state is State.RUNNING
        assert (await b.worker.stop(other.id)).state is State.STOPPED
    assert errors_of(log_guard, job.id) == ["the supervision of a job failed"]


async def test_what_ignores_sigterm_is_killed(tmp_path: Path, errors_expected: object) -> None:
    """As by a stop."""
    mark = new_mark()
    async with bench(tmp_path, grace=0.1) as b:
        b.outputs.poison_next("take")
        # Its pipes are closed meanwhile: a word on stderr is not to be its end.
        script = "trap '' TERM PIPE; echo poison; while :; do sleep 0.01; done"
        job = await b.worker.start(shell(script, env={"MARK": mark}))
        assert (await b.worker.wait(job.id)).signal == signal.SIGKILL
        assert processes_with(mark) == []


async def test_a_log_that_cannot_be_gone_on_with_costs_the_adopted_job(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict]
) -> None:
    """Whoever waits for the job to be taken up is not left waiting."""
    mark = new_mark()
    async with bench(tmp_path) as b:
        cell = starting()
        b.launcher.adopted[cell.job.id] = await b.launcher.launch(
            cell.job.id, JobSpec(("sleep", "60"), env={"MARK": mark})
        )
        b.outputs.poison_next("resume")
        launched = b.worker.adopt(cell)
        assert launched is not None
        with trio.fail_after(patient(20)):
            await launched.wait()
            ended = await cell.ended()
        assert (ended.state, ended.reason, ended.signal) == (State.LOST, Reason.SUPERVISOR_FAILED, signal.SIGTERM)
        assert processes_with(mark) == []
    assert errors_of(log_guard, cell.job.id) == ["the supervision of a job failed"]


async def test_a_launch_that_fails_as_nobody_expected_costs_the_job(tmp_path: Path, errors_expected: object) -> None:
    """Nobody knows whether there is a process, and that is said."""
    async with bench(tmp_path) as b:
        b.launcher.failure = OSError(24, "Too many open files")
        job = await b.worker.start(JobSpec(("true",)))
        assert (job.state, job.reason, job.pid) == (State.LOST, Reason.SUPERVISOR_FAILED, 0)
        assert "whether its process was started is not known" in job.message
        b.launcher.failure = None
        assert (await b.worker.start(JobSpec(("sleep", "60")))).state is State.RUNNING


async def test_everything_that_fails_at_once_costs_one_job(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict]
) -> None:
    """The log, its end, the process's end and the journal: the end is published all the same, and says what may run."""
    async with bench(tmp_path) as b:
        b.outputs.poison_next("take", "finish")
        job = await b.worker.start(JobSpec(("sleep", "60")))
        process = b.worker._supervisors[job.id]._process
        assert isinstance(process, LocalProcess)

        async def no_signal(signum: int) -> None:
            raise RuntimeError("poison in signal")

        process.signal = no_signal  # type: ignore[method-assign] # a fault
        b.journal.fails = {"note", "commit"}
        os.kill(job.pid, signal.SIGKILL)  # the end of its streams is what the log then fails to take
        with trio.fail_after(patient(20)):
            with pytest.raises(StopFailedError):
                await b.worker.stop(job.id)
        ended = await b.worker.wait(job.id)
        assert (ended.state, ended.reason, ended.exit_code) == (State.LOST, Reason.SUPERVISOR_FAILED, None)
        assert f"processes of it may run on: see process group {job.pid}" in ended.message
        assert b.launcher.released == []  # whoever has it tells the next server how it ended
        await process.exited()
    assert len(errors_of(log_guard, job.id)) >= 4


async def test_an_end_that_cannot_be_recorded_is_published_and_not_released(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict]
) -> None:
    """As it was: the code is not made worse by a journal that fails, and the launcher keeps it for the next server."""
    async with bench(tmp_path) as b:
        b.journal.fails = {"commit"}
        job = await b.worker.wait((await b.worker.start(shell("exit 3"))).id)
        assert (job.state, job.exit_code) == (State.FAILED, 3)
        assert b.launcher.released == []
        assert not b.worker._supervisors[job.id].cell.recorded
    assert errors_of(log_guard, job.id) == ["the end of a job could not be recorded"]
