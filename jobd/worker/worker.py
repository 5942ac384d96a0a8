"""A worker: a number of jobs, each under its supervisor."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final

import structlog
import trio

from jobd.worker.containment import Containment, Usage
from jobd.worker.errors import JobEndedError, JobNotFoundError
from jobd.worker.isolation import Means
from jobd.worker.job import Job, JobCell, JobSpec
from jobd.worker.lifecycle import Event, State
from jobd.worker.ports import Follower, Journal, Launcher, OutputStore, Process, Start
from jobd.worker.stdin import Attacher, Attachment
from jobd.worker.supervisor import Stop, Supervisor, Timings
from jobd.worker.unsupervised import contained

BEGINNING: Final = Start()
AS_USUAL: Final = Stop()
OUTLIVED: Final = "jobd was killed while it ran, and what it has written since is lost"


class NoJournal:
    """The journal of a worker whose jobs need not be known after a crash."""

    def note(self, job: Job) -> None:
        """Record nothing."""

    async def settle(self) -> None:
        """Nothing is awaited."""
        await trio.lowlevel.checkpoint()

    async def commit(self, job: Job) -> None:
        """Record nothing."""
        await trio.lowlevel.checkpoint()


class Worker:
    """Runs jobs on this machine. The nursery it is given owns their supervisors: when that is cancelled, the jobs are
    ended, or left to the launcher if ``ends_jobs`` says so then and the launcher outlives this process.

    Attributes:
        name: how the worker is called in the pool.
        slots: how many jobs whoever hands them out should let it have at a time.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        launcher: Launcher,
        outputs: OutputStore,
        *,
        name: str = "local",
        slots: int = 1,
        journal: Journal | None = None,
        timings: Timings | None = None,
        ends_jobs: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self.slots = slots
        self._nursery = nursery
        self._launcher = launcher
        self._outputs = outputs
        self._journal: Journal = journal or NoJournal()
        self._timings = timings or Timings()
        self._ends_jobs = ends_jobs
        self._clock = clock
        self._supervisors: dict[str, Supervisor] = {}
        self._running: set[Supervisor] = set()
        self._watch: trio.CancelScope | None = None  # of the task that sees the nursery cancelled

    @property
    def jobs(self) -> list[Job]:
        """The jobs that the worker knows, those that ended and were not forgotten included."""
        return [supervisor.cell.job for supervisor in self._supervisors.values()]

    async def start(self, spec: JobSpec, *, started_by: str = "") -> Job:
        """Make a job of a spec and start it; returns when its process runs, or could not be started.

        Raises:
            InvalidSpecError: the spec cannot be given to the kernel at all.
        """
        spec.check()
        job = Job(str(uuid.uuid4()), spec, State.PENDING, self._clock(), started_by=started_by)
        cell = JobCell(job.moved(Event.ASSIGNED, worker=self.name, launcher=self.launcher))
        launched = trio.Event()
        self.begin(cell, launched)
        await launched.wait()
        return cell.job

    @property
    def containment(self) -> Containment:
        """What holds the jobs' processes together."""
        return self._launcher.containment

    @property
    def means(self) -> Means:
        """What jobs can be isolated with."""
        return self._launcher.means

    @property
    def launcher(self) -> str:
        """Which launcher makes this worker's processes."""
        return self._launcher.identity

    def begin(self, cell: JobCell, launched: trio.Event) -> None:
        """Take a job that is starting. The event is set when its process runs, or could not be started."""
        self._supervise(cell, None, launched)

    def adopt(self, cell: JobCell) -> trio.Event | None:
        """Take up a job whose process was started before this one, as :meth:`begin`; None when there is no such
        process."""
        process = self._launcher.take_adopted(cell.job.id)
        return self._supervise(cell, process, trio.Event()) if process else None

    async def adopt_outlived(self, cell: JobCell) -> trio.Event | None:
        """As :meth:`adopt`, of a job whose launcher and server were killed together: it can be waited for and ended,
        but what it writes is lost. In a block of :meth:`jobd.worker.containment.Containment.looking`."""
        process = await self._launcher.find_outlived(cell.job.id, cell.job.pid, cell.job.launcher)
        return self._supervise(cell, process, trio.Event(), outlived=True) if process else None

    def _supervise(
        self, cell: JobCell, adopted: Process | None, launched: trio.Event, *, outlived: bool = False
    ) -> trio.Event:
        supervisor = self._supervisors[cell.job.id] = Supervisor(
            cell,
            self._outputs.create(cell.job.id, cell.job.spec.limits.output),
            self._launcher,
            self._journal,
            self._timings,
            ends_with_worker=self._ends_jobs,
            incomplete=OUTLIVED if outlived else "",
            clock=self._clock,
        )

        async def run() -> None:
            # Whoever made a slot free may have been in another trace.
            _name_in_log(cell.job)
            try:
                await supervisor.run(launched=launched.set, adopted=adopted)
            finally:
                self._running.discard(supervisor)
                if self._watch and not self._running:
                    self._watch.cancel()

        self._running.add(supervisor)
        self._nursery.start_soon(run)
        if self._watch is None or self._watch.cancel_called:
            self._watch = trio.CancelScope()
            self._nursery.start_soon(self._when_cancelled, self._watch)
        return launched

    async def _when_cancelled(self, watch: trio.CancelScope) -> None:
        """Tell all supervisors when the nursery is cancelled: one task for them all, while there are any."""
        with watch:
            try:
                await trio.sleep_forever()
            finally:
                if self._watch is watch:
                    self._watch = None
                if not watch.cancel_called:
                    for supervisor in list(self._running):
                        _name_in_log(supervisor.cell.job)  # what begins here logs as the job's own does
                        with contained("a job cannot be told that its worker ends", supervisor.cell.job.id):
                            supervisor.leave_or_end()

    def query(self, job_id: str) -> Job:
        """The job as it is now; while it runs, with the output recorded so far."""
        return self._supervisor(job_id).cell.job

    async def usage(self, job_id: str) -> Usage | None:
        """What the job has used so far; None when it has no process."""
        return await self._supervisor(job_id).usage()

    def progress(self, job_id: str) -> tuple[int, int]:
        """Bytes of output recorded, and dropped, so far."""
        output = self._supervisor(job_id).output
        return output.end, output.dropped

    async def stop(self, job_id: str, how: Stop = AS_USUAL) -> Job:
        """End a job: SIGTERM to its processes, SIGKILL after the grace period; returns when no process is left.

        A job that has ended is returned as it is. Asked twice, the sooner of the two ends holds.

        Raises:
            StopFailedError: processes are still there after SIGKILL.
        """
        supervisor = self._supervisor(job_id)
        if not supervisor.cell.job.state.terminal:
            supervisor.stop(how)
        return await supervisor.ended()

    async def signal(self, job_id: str, signum: int, *, by: str = "") -> Job:
        """Send a signal to a job's processes. If it is what ends the job, the job counts as stopped.

        Raises:
            JobNotRunningError: there is no process to send it to.
        """
        supervisor = self._supervisor(job_id)
        await supervisor.signal(signum, by=by)
        return supervisor.cell.job

    async def attach(self, job_id: str, who: Attacher, *, take_over: bool = False) -> Attachment:
        """Let somebody write to a job's stdin. There is no checkpoint after that has begun.

        Raises:
            JobEndedError: it has no process any more.
            AlreadyAttachedError: somebody else is attached.
        """
        supervisor = self._supervisor(job_id)
        job = supervisor.cell.job
        if supervisor.desk is None or job.state.terminal:
            raise JobEndedError(job.id, job.state)
        return supervisor.desk.attach(who, take_over=take_over)

    async def wait(self, job_id: str) -> Job:
        """Wait for the end of a job."""
        return await self._supervisor(job_id).cell.ended()

    async def stream(self, job_id: str, start: Start = BEGINNING) -> Follower:
        """Follow a job's output; it ends when the job has ended and all was given.

        Raises:
            OffsetBeyondEndError: so much was not recorded.
        """
        return await self._supervisor(job_id).output.follow(start)

    def forget(self, job_id: str) -> None:
        """Let go of a job that has ended."""
        if self._supervisor(job_id).cell.job.state.terminal:
            del self._supervisors[job_id]

    def _supervisor(self, job_id: str) -> Supervisor:
        try:
            return self._supervisors[job_id]
        except KeyError:
            raise JobNotFoundError(job_id) from None


def _name_in_log(job: Job) -> None:
    """From here on, in this context."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(job=job.id)
    if job.spec.traceparent:
        structlog.contextvars.bind_contextvars(trace_id=job.spec.traceparent.split("-")[1])
