"""All jobs of a worker are told that it is to end, each as itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
from structlog.typing import EventDict

from jobd.launcher.local import LocalLauncher
from jobd.limits.processes import look_together
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.worker.containment import Receipt
from jobd.worker.job import Job, JobCell, JobSpec, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.supervisor import Supervisor, Timings
from jobd.worker.worker import Worker
from tests.support.jobs import new_mark, processes_with, shell
from tests.support.patience import patient

SLEEP = JobSpec(("sleep", "60"))
SECONDS = patient(20)


def worker_in(nursery: trio.Nursery, directory: Path) -> Worker:
    """One whose jobs end soon."""
    return Worker(nursery, LocalLauncher(Walk()), LogStore(directory), timings=Timings(1.0, 0.3, 5.0))


async def test_what_is_logged_names_the_job_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the job was begun by another's end, which made its slot free."""
    named: list[tuple[str, object]] = []
    record = Supervisor._record_found

    async def look_who_is_named(self: Supervisor, found: Receipt) -> None:
        named.append((self.cell.job.id, structlog.contextvars.get_contextvars().get("job")))
        await record(self, found)

    monkeypatch.setattr(Supervisor, "_record_found", look_who_is_named)
    async with trio.open_nursery() as nursery:
        worker = worker_in(nursery, tmp_path)
        with structlog.contextvars.bound_contextvars(job="one that ended", trace_id="its"):
            jobs = [await worker.start(SLEEP) for _ in range(2)]
        nursery.cancel_scope.cancel()
    assert sorted(named) == sorted((job.id, job.id) for job in jobs)


async def test_one_that_cannot_be_told_keeps_no_other_from_it(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor from ending: the worker waits for all."""
    tell: Callable[[Supervisor], None] = Supervisor.leave_or_end
    failed: list[Supervisor] = []

    def fail_first(self: Supervisor) -> None:
        if not failed:
            failed.append(self)
            raise RuntimeError("its nursery is closed")
        tell(self)

    monkeypatch.setattr(Supervisor, "leave_or_end", fail_first)
    async with trio.open_nursery() as nursery:
        worker = worker_in(nursery, tmp_path)
        supervisors = [worker._supervisors[(await worker.start(SLEEP)).id] for _ in range(3)]
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()  # all that can be are told
            for each in supervisors:
                if each not in failed:
                    assert (await each.cell.ended()).reason == Reason.WORKER_SHUT_DOWN
            tell(failed[0])
    assert [(each["event"], each["job"]) for each in log_guard if each["log_level"] == "error"] == [
        ("a job cannot be told that its worker ends", failed[0].cell.job.id)
    ]


async def test_one_that_begins_as_the_last_one_ends_is_told(tmp_path: Path) -> None:
    """The task that told the others goes, and has not gone yet."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            worker = worker_in(nursery, tmp_path)
            await worker.start(SLEEP)
            assert worker._watch
            worker._watch.cancel()
            cell = JobCell(Job("id", SLEEP, State.PENDING, 1).moved(Event.ASSIGNED, worker="local"))
            launched = trio.Event()
            worker.begin(cell, launched)
            await launched.wait()
            nursery.cancel_scope.cancel()
    assert cell.job.reason == Reason.WORKER_SHUT_DOWN


async def test_who_was_begun_in_a_shared_look_looks_again_after_it(tmp_path: Path) -> None:
    """As the supervisors of jobs that have outlived their launcher are, and those of the jobs that get their slots. So
    what such a job leaves behind is seen."""
    mark = new_mark()
    async with trio.open_nursery() as nursery:
        worker = worker_in(nursery, tmp_path)
        async with look_together():
            job = await worker.start(shell("setsid sleep 20 >/dev/null 2>&1 & sleep 0.3", env={"MARK": mark}))
        await worker.wait(job.id)
        assert processes_with(mark) == []
        nursery.cancel_scope.cancel()
