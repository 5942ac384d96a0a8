"""Stop: the whole process group, gently, then not; answered when nothing is left."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.worker.errors import JobNotRunningError
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source
from jobd.worker.supervisor import Stop, Timings
from jobd.worker.worker import NoJournal, Worker
from tests.support.daemon import is_alive
from tests.support.jobs import collect, new_mark, processes_with, shell, until_output
from tests.support.patience import patient


async def started(worker: Worker, script: str, ready: bytes = b"ready\n") -> tuple[Job, str]:
    """A job that has said that it is ready, and the mark in the environment of all its processes."""
    mark = new_mark()
    job = await worker.start(shell(script, env={"MARK": mark}))
    await until_output(worker, job.id, ready)
    return job, mark


async def test_stop_ends_a_job_with_sigterm(worker: Worker) -> None:
    """The state says that someone asked, who it was, and how the process took it."""
    job, mark = await started(worker, "echo ready; sleep 60")
    ended = await worker.stop(job.id, Stop(by="alice"))
    assert (ended.state, ended.signal, ended.stopped_by) == (State.STOPPED, signal.SIGTERM, "alice")
    assert ended.reason == Reason.STOPPED_BY_REQUEST
    assert processes_with(mark) == []


async def test_a_job_that_ends_itself_in_the_grace_period_keeps_its_code(worker: Worker) -> None:
    """Stopped, and exited with the code that it chose; what it wrote on the way out is there."""
    job, _ = await started(worker, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    ended = await worker.stop(job.id)
    assert (ended.state, ended.exit_code) == (State.STOPPED, 5)
    assert (await collect(await worker.stream(job.id)))[Source.STDOUT] == b"ready\nbye\n"


async def test_a_job_that_ignores_sigterm_is_killed_after_the_grace_period(worker: Worker) -> None:
    """SIGKILL cannot be ignored."""
    job, mark = await started(worker, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    ended = await worker.stop(job.id, Stop(grace=0.1))
    assert (ended.state, ended.signal) == (State.STOPPED, signal.SIGKILL)
    assert processes_with(mark) == []


async def test_no_grace_is_sigkill_at_once(worker: Worker) -> None:
    """Grace 0 does not even ask."""
    job, _ = await started(worker, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    assert (await worker.stop(job.id, Stop(grace=0))).signal == signal.SIGKILL


@pytest.mark.parametrize(
    "script",
    [
        "sleep 60 & sleep 60 & echo ready; wait",
        "(sleep 60 & (sleep 60 & echo ready; wait); wait)",
        "trap '' TERM; (trap '' TERM; echo ready; while :; do sleep 0.01; done) & wait; wait",
        "sleep 60 & exec >&- 2>&-; sleep 60",
    ],
    ids=["children", "grandchildren", "children that ignore SIGTERM", "closed its output"],
)
async def test_the_whole_group_is_gone_when_stop_answers(worker: Worker, script: str) -> None:
    """Not one process with the job's mark is left anywhere."""
    mark = new_mark()
    job = await worker.start(shell(script, env={"MARK": mark}))
    if "ready" in script:
        await until_output(worker, job.id, b"ready\n")
    await worker.stop(job.id, Stop(grace=0.2))
    assert processes_with(mark) == []


async def test_a_stopped_process_tree_can_be_ended(worker: Worker) -> None:
    """SIGCONT follows SIGTERM, or a process in SIGSTOP would never react to it."""
    job, mark = await started(worker, "trap 'exit 3' TERM; echo ready; while :; do kill -STOP $$; done")
    ended = await worker.stop(job.id)
    assert ended.exit_code == 3
    assert processes_with(mark) == []


async def test_stop_says_so_again(worker: Worker) -> None:
    """Stopping what has ended is not an error; the answer is how it ended."""
    job, _ = await started(worker, "echo ready; sleep 60")
    assert await worker.stop(job.id, Stop(by="alice")) == await worker.stop(job.id, Stop(by="bob"))
    done = await worker.start(JobSpec(("true",)))
    await worker.wait(done.id)
    assert (await worker.stop(done.id)).state is State.SUCCEEDED


class SlowJournal(NoJournal):
    """Remembers what it is told, and takes its time for the end of a job."""

    def __init__(self) -> None:
        self.told: list[Job] = []
        self.writing = trio.Event()
        self.written = trio.Event()

    def note(self, job: Job) -> None:
        self.told.append(job)

    async def commit(self, job: Job) -> None:
        self.told.append(job)
        self.writing.set()
        await self.written.wait()


async def test_a_stop_or_signal_that_comes_while_the_end_is_recorded_changes_nothing(tmp_path: Path) -> None:
    """The end is the last thing that is recorded of a job, and whoever asked is told of it."""
    journal = SlowJournal()
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path), journal=journal)
        job = await worker.start(shell("exit 3"))
        await journal.writing.wait()
        ends: list[Job] = []

        async def stop() -> None:
            ends.append(await worker.stop(job.id, Stop(by="alice")))

        async with trio.open_nursery() as stopping:
            stopping.start_soon(stop)
            await worker.signal(job.id, signal.SIGUSR1, by="alice")
            await trio.testing.wait_all_tasks_blocked()
            journal.written.set()
        nursery.cancel_scope.cancel()
    assert [(ended.state, ended.exit_code) for ended in (ends[0], journal.told[-1])] == [(State.FAILED, 3)] * 2


async def test_a_second_stop_makes_the_end_come_sooner(worker: Worker) -> None:
    """Whoever is patient gets the answer too."""
    job, _ = await started(worker, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    ends: list[Job] = []

    async def unhurried() -> None:
        ends.append(await worker.stop(job.id, Stop(by="alice", grace=3600)))

    with trio.fail_after(patient(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unhurried)
            await trio.testing.wait_all_tasks_blocked()
            assert worker.query(job.id).stopping
            ends.append(await worker.stop(job.id, Stop(by="bob", grace=0)))
    assert ends[0] == ends[1]
    assert ends[0].stopped_by == "alice"


async def test_what_a_finished_job_leaves_in_its_group_is_ended(worker: Worker) -> None:
    """A job is over when its process is; nothing of its group outlives it unseen."""
    mark = new_mark()
    job = await worker.start(shell("sleep 60 >/dev/null 2>&1 & echo done", env={"MARK": mark}))
    ended = await worker.wait(job.id)
    assert (ended.state, ended.exit_code) == (State.SUCCEEDED, 0)
    assert processes_with(mark) == []


async def test_a_background_child_may_finish_writing(tmp_path: Path) -> None:
    """For the drain period, output of the group still counts after the process itself has ended."""
    timings = Timings(grace=5.0, drain=patient(60), kill=5.0)
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path), timings=timings)
        job = await worker.start(shell("(sleep 0.1; echo late) & echo early"))
        ended = await worker.wait(job.id)
        assert (await collect(await worker.stream(job.id)))[Source.STDOUT] == b"early\nlate\n"
    assert ended.state is State.SUCCEEDED


async def test_a_process_that_left_the_session_is_ended_with_the_job(worker: Worker, tmp_path: Path) -> None:
    """After the drain period; the receipt has it."""
    free = tmp_path / "free"
    leaves = f"setsid sh -c 'echo $$ >&2; echo $$ > {free}; exec sleep 60'"
    it_sleeps = f"grep -qs sleep /proc/$(cat {free} 2> /dev/null)/comm"
    job = await worker.start(shell(f"{leaves} & until {it_sleeps}; do sleep 0.01; done; echo early"))
    with trio.fail_after(patient(10)):
        ended = await worker.wait(job.id)
    got = await collect(await worker.stream(job.id))
    assert ended.state is State.SUCCEEDED
    assert ended.receipt is not None
    [escaped] = ended.receipt.processes
    assert escaped.member.pid == int(got[Source.STDERR])
    assert (escaped.member.command, escaped.member.left_session, escaped.signal) == ("sleep", True, signal.SIGTERM)
    assert (ended.receipt.empty, ended.receipt.proof) == (True, "/proc")


async def test_an_escaped_process_does_not_keep_the_job_alive(worker: Worker, tmp_path: Path) -> None:
    """One that nothing ties to the job any more (session, parent, environment, the mark in its limits), and that holds
    the pipe, is not waited for beyond the drain period, and that is said. A control group would hold it."""
    free = tmp_path / "free"
    escape = (
        "import os, resource, sys; resource.setrlimit(10, (1, 1)); print(os.getpid(), file=sys.stderr, flush=True); "
        f"open('{free}', 'w').close(); os.execlp('sleep', 'sleep', '60')"
    )
    escaped = f'env -i setsid {sys.executable} -c "{escape}"'
    job = await worker.start(shell(f"{escaped} & until test -e {free}; do sleep 0.01; done; echo early"))
    with trio.fail_after(patient(10)):
        ended = await worker.wait(job.id)
    got = await collect(await worker.stream(job.id))
    os.kill(int(got[Source.STDERR]), signal.SIGKILL)
    assert got[Source.STDOUT] == b"early\n"
    assert "still held its output open" in ended.message


async def test_a_signal_goes_to_the_group(worker: Worker) -> None:
    """The job's own handler decides what it means."""
    job, _ = await started(worker, "trap 'echo caught; exit 4' HUP; echo ready; while :; do sleep 0.01; done")
    await worker.signal(job.id, signal.SIGHUP, by="alice")
    ended = await worker.wait(job.id)
    assert (ended.state, ended.exit_code, ended.stopped_by) == (State.FAILED, 4, "")


async def test_a_job_that_a_sent_signal_ends_counts_as_stopped(worker: Worker) -> None:
    """Killed is for signals that nobody sent through us."""
    job, _ = await started(worker, "echo ready; sleep 60")
    await worker.signal(job.id, signal.SIGUSR1, by="alice")
    ended = await worker.wait(job.id)
    assert (ended.state, ended.signal, ended.stopped_by) == (State.STOPPED, signal.SIGUSR1, "alice")


async def test_a_job_without_a_process_takes_no_signal(worker: Worker) -> None:
    """It is an error that says in which state the job is."""
    job = await worker.start(JobSpec(("true",)))
    await worker.wait(job.id)
    with pytest.raises(JobNotRunningError, match="succeeded"):
        await worker.signal(job.id, signal.SIGHUP)


class Witness(NoJournal):
    """A journal that sees whether a process is alive when what was noted of it is made durable; it may never answer."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self._noted: list[Job] = []
        self.seen: list[tuple[Job, bool]] = []

    def note(self, job: Job) -> None:
        self._noted.append(job)

    async def settle(self) -> None:
        await trio.sleep(0.1)  # a signal that was sent before would have arrived
        self.seen.append((self._noted[-1], is_alive(self._noted[-1].pid)))
        if not self._answers:
            await trio.sleep_forever()


@pytest.mark.parametrize("answers", [True, False])
async def test_a_stop_is_durable_before_its_signal_is_sent(tmp_path: Path, answers: bool) -> None:
    """Else, after a crash in between, the end would look like one that nobody asked for. A store that does not answer
    does not keep the job alive."""
    journal = Witness(answers=answers)
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path), journal=journal)
        job = await worker.start(JobSpec(("sleep", "60")))
        ended = await worker.stop(job.id, Stop(by="alice", grace=0.05))
        nursery.cancel_scope.cancel()
    assert [(noted.stopped_by, alive) for noted, alive in journal.seen] == [("alice", True)]
    # The grace period begins when the signal is sent, however long that took.
    assert (ended.state, ended.signal) == (State.STOPPED, signal.SIGTERM)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_signal_is_durable_before_it_is_sent(tmp_path: Path, answers: bool) -> None:
    """As a stop is."""
    journal = Witness(answers=answers)
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path), journal=journal)
        job = await worker.start(JobSpec(("sleep", "60")))
        await worker.signal(job.id, signal.SIGUSR1, by="alice")
        ended = await worker.wait(job.id)
        nursery.cancel_scope.cancel()
    assert [(noted.signals, alive) for noted, alive in journal.seen] == [(((signal.SIGUSR1, "alice"),), True)]
    assert (ended.state, ended.stopped_by) == (State.STOPPED, "alice")
