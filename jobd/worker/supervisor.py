"""One job, from launch to the end of its record.

The order at the end is the promise of the whole service: the process is dead and reaped → its output is drained (in
bounded time) → its group is empty → the output is durable → the end is in the journal → the end is published, and
whoever remembered the process for us may forget it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog
import trio

from jobd.worker.containment import Receipt, Usage
from jobd.worker.ending import Ending, StopMode
from jobd.worker.errors import JobNotRunningError, LaunchError, StopFailedError
from jobd.worker.job import Job, JobCell, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.ports import Journal, Launcher, OutputLog, Process, Source
from jobd.worker.reader import Reader
from jobd.worker.stdin import StdinDesk
from jobd.worker.unsupervised import close_pipes, contained, end_processes, how_it_was_left
from jobd.worker.words import how_it_ended

log = structlog.get_logger(__name__)

HELD_BACK: Final = 2.0
"""Seconds that the record of an end may take before the job says that it is waited for."""
RECORDING: Final = 1.0
"""Seconds that a stop or a signal waits for its record: a disk that fails must not keep a job alive."""
STOPS: Final = {Reason.TIMED_OUT: Event.RAN_TOO_LONG, Reason.OUTPUT_LIMIT: Event.WROTE_TOO_MUCH}
"""The events of a job that was stopped, where they are of their own."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a supervisor waits, in seconds.

    Attributes:
        grace: from SIGTERM to SIGKILL, when the stop does not say.
        drain: after the process is dead, for others that still hold its pipes open.
        kill: after SIGKILL, until a group that is still there is given up (and honestly said to be there).
    """

    grace: float = 10.0
    drain: float = 5.0
    kill: float = 10.0


@dataclass(frozen=True, slots=True)
class Stop:
    """How a job is to end.

    Attributes:
        by: who asks.
        grace: seconds until SIGKILL; the worker's default when None.
        signal: the polite one.
        mode: who gets that.
    """

    by: str = ""
    grace: float | None = None
    signal: int = signal.SIGTERM
    mode: StopMode = StopMode.GROUP


class Supervisor:
    """Runs one job. ``run`` is its life, in the nursery of the worker."""

    def __init__(
        self,
        cell: JobCell,
        output: OutputLog,
        launcher: Launcher,
        journal: Journal,
        timings: Timings,
        *,
        ends_with_worker: Callable[[], bool] = lambda: True,
        incomplete: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        Args:
            ends_with_worker: asked when the worker is to end: is the job to be ended, or left to run for
                whoever takes it up next?
            incomplete: why the output lacks its end already.
        """
        self._ends_with_worker = ends_with_worker
        self.cell = cell
        self.output = output
        self._launcher = launcher
        self._journal = journal
        self._timings = timings
        self._clock = clock
        self._ending = Ending(timings.kill, clock, self._record_found, cell.job.receipt)
        self._process: Process | None = None
        self._life = trio.CancelScope(shield=True)
        self.desk: StdinDesk | None = None  # those who write to its stdin come there
        self._decided = (
            False  # how the job ended is decided, and on its way to the journal: nothing changes it any more
        )
        self._reading = False  # the pipes have their readers, which close them
        self._incomplete = incomplete  # why the output may lack its end

    # ---- what others ask for

    def stop(self, how: Stop, reason: Reason = Reason.STOPPED_BY_REQUEST) -> None:
        """Ask for the end of the job. Asked again, it can only come sooner."""
        job, grace = self.cell.job, self._timings.grace if how.grace is None else how.grace
        now = self._clock()
        if not self._decided:  # recorded, for a supervisor that comes after this one
            if not job.stopping:
                asked = {"stopping": True, "stopped_by": how.by, "reason": reason, "stop_mode": how.mode}
                job = replace(job, **asked, stop_signal=how.signal, stop_asked_at=now, stop_grace=grace)  # type: ignore[arg-type] # field names are checked by replace()
            elif grace < _remaining(job.stop_grace, job.stop_asked_at, now):
                job = replace(job, stop_asked_at=now, stop_grace=grace)
            self._note(job)
        self._ending.want(grace, how.signal, how.mode)

    async def signal(self, signum: int, *, by: str) -> None:
        """Send a signal to all of the job's processes.

        Raises:
            JobNotRunningError: there is none.
        """
        job = self.cell.job
        if self._process is None or job.state.terminal:
            raise JobNotRunningError(job.id, job.state)
        if not self._decided:
            others = [each for each in job.signals if each[0] != signum]
            self._note(replace(job, signals=(*others, (signum, by))))
            with trio.CancelScope(shield=True):  # what is noted is sent, though whoever asked gives up
                await self._settle()
        if self.cell.job.state.terminal:
            raise JobNotRunningError(job.id, self.cell.job.state)
        await self._process.signal(signum)

    async def _record_found(self, found: Receipt) -> None:
        if not self._decided:
            self._note(replace(self.cell.job, receipt=found))
        await self._settle()

    async def _settle(self) -> None:
        """A wish is durable before its signal is sent: after a crash in between, the end would else look like one that
        nobody asked for."""
        with contained("a change of a job could not be made durable", self.cell.job.id), trio.move_on_after(RECORDING):
            await self._journal.settle()

    async def usage(self) -> Usage | None:
        """What the job has used so far; None when it has no process."""
        return self.cell.job.usage or (await self._process.usage() if self._process else None)

    # ---- the life of the job

    async def run(self, *, launched: Callable[[], None], adopted: Process | None = None) -> None:
        """Launch (or adopt), supervise, and publish the end.

        That it is cancelled is told by :meth:`leave_or_end`. An error that nobody expected is not raised: it costs this
        job, and no other.

        Args:
            launched: called once, when the process runs or could not be started.
            adopted: the job's process, when it runs already.
        """
        with self._life:
            try:
                await self._run(launched, adopted)
            except Exception as exc:  # noqa: BLE001 # whatever it is, the other jobs and the server go on
                await self._fail(exc)
                launched()
        if self._life.cancelled_caught:
            with trio.CancelScope(shield=True):
                await self.output.leave()

    def leave_or_end(self) -> None:
        """The worker is to end: so is the job, and its end is waited for; or it is left to run, if it can be."""
        if not self._ends_with_worker():
            self._life.cancel()
        elif not self.cell.job.state.terminal:
            self.stop(Stop(), Reason.WORKER_SHUT_DOWN)

    async def _run(self, launched: Callable[[], None], adopted: Process | None) -> None:
        try:
            process = adopted or await self._launcher.launch(self.cell.job.id, self.cell.job.spec)
        except LaunchError as exc:
            await self.output.finish()
            await self._end(Event.LAUNCH_FAILED, reason=exc.reason, message=str(exc))
            launched()
            return
        self._process = process
        self.desk = StdinDesk(self.cell.job.id, process.stdin) if process.stdin else None
        if adopted:
            await self.output.resume()
        if self.cell.job.state is State.STARTING:
            started_at = process.started_at or self._clock()
            self._note(self.cell.job.moved(Event.LAUNCHED, pid=process.pid, started_at=started_at))
        if self._incomplete:
            self._note(replace(self.cell.job, message=self._incomplete))
        launched()
        if self.cell.job.stopping:  # it was asked for before this process, and time has gone on meanwhile
            grace = _remaining(self.cell.job.stop_grace, self.cell.job.stop_asked_at, self._clock())
            self._ending.want(grace, self.cell.job.stop_signal, StopMode(self.cell.job.stop_mode))
        status = await self._supervise(process)
        await self.output.finish()
        usage, receipt = await process.usage(), await self._ending.receipt(process)
        await self._end_with(status, usage=usage, receipt=receipt)

    async def _supervise(self, process: Process) -> int | None:
        """The nursery that owns the process and its reader tasks. Returns the wait status, if anybody knows it."""
        readers = [Reader(self.output, source, process.pipe(source)) for source in Source]
        self._reading = True
        try:
            async with trio.open_nursery() as nursery:
                self._ending.watch(nursery, process)
                if self.cell.job.spec.limits.timeout:
                    nursery.start_soon(self._time_out)
                if self.cell.job.spec.limits.stop_at_output:
                    nursery.start_soon(self._stop_at_output)
                if process.stdin and process.stdin.terminal:
                    nursery.start_soon(process.carry)
                for reader in readers:
                    nursery.start_soon(reader.run)
                status = await process.exited()
                await self._drain(readers)
                await self._ending.clear(process, self._timings.grace)
                if process.stdin and process.stdin.terminal:
                    await self._drain(readers)  # what is in the terminal yet: it ends now, if nobody escaped with it
                for reader in readers:
                    await reader.halt()
                for reader in readers:
                    # With the group gone, only a process that left it can still hold a pipe: that is not waited for.
                    if not await reader.finish():
                        self._incomplete = "a process that left the job's group still held its output open"
                self._ending.watch_no_more()
                nursery.cancel_scope.cancel()
        finally:
            self._ending.watch_no_more()
            for reader in readers:
                reader.close()
        return status

    async def _time_out(self) -> None:
        """Stop the job when it has run for as long as it may, whatever servers have been there meanwhile."""
        job = self.cell.job
        await trio.sleep(_remaining(job.spec.limits.timeout, job.started_at, self._clock()))
        self.stop(Stop(), Reason.TIMED_OUT)

    async def _stop_at_output(self) -> None:
        """Stop the job when it has written more than it may."""
        await self.output.over_limit.wait()
        self.stop(Stop(), Reason.OUTPUT_LIMIT)

    async def _drain(self, readers: list[Reader]) -> None:
        """Wait for the end of both streams; whoever holds them open after a while is told to end as well."""
        if not all(reader.at_end.is_set() for reader in readers):  # most often they are, by now
            with trio.move_on_after(self._timings.drain):
                for reader in readers:
                    await reader.at_end.wait()

    @property
    def survived(self) -> bool:
        """Processes of the job were still there when we gave up."""
        return self._ending.survived

    # ---- the end

    async def _end_with(self, status: int | None, *, usage: Usage, receipt: Receipt | None) -> None:
        job = self.cell.job
        known = {"usage": usage, "receipt": receipt}
        if status is None:
            why = "the launcher ended before the job did, and nobody can tell how the job ended"
            why = f"{why}; it had been told to end ({job.reason})" if job.stopping else why
            why = f"{why}; {self._incomplete}" if self._incomplete else why
            await self._end(Event.UNTRACEABLE, reason=Reason.LAUNCHER_LOST, message=why, **known)
            return
        by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        stopped_by, sent = job.stopped_by, dict(job.signals)
        if job.stopping:
            reason = Reason(job.reason or Reason.STOPPED_BY_REQUEST)
            event = STOPS.get(reason, Event.ENDED_ON_REQUEST)
        elif job.spec.limits.stop_at_output and self.output.over_limit.is_set():  # it ended before it was told to
            event, reason = Event.WROTE_TOO_MUCH, Reason.OUTPUT_LIMIT
        elif by_signal in sent:
            event, reason, stopped_by = Event.ENDED_ON_REQUEST, Reason.STOPPED_BY_REQUEST, sent[by_signal]
        elif by_signal == signal.SIGKILL and usage.out_of_memory:
            event, reason = Event.USED_TOO_MUCH, Reason.OUT_OF_MEMORY
        elif by_signal is not None:
            event, reason = Event.SIGNALLED, Reason.SIGNALLED
        else:
            event = Event.EXITED_NONZERO if os.WEXITSTATUS(status) else Event.EXITED_ZERO
            reason = Reason.EXITED
        message = how_it_ended(status, reason, stopped_by, job.spec.limits, self.output.end, usage.memory_peak)
        if usage.out_of_memory and reason is not Reason.OUT_OF_MEMORY:
            message = f"{message}; the kernel ended {usage.out_of_memory} of its processes for using too much memory"
        if self._incomplete:
            message = f"{message}; {self._incomplete}"
        await self._end(event, reason=reason, message=message, wait_status=status, stopped_by=stopped_by, **known)

    async def _end(self, event: Event, **changes: object) -> None:
        self._decided = True
        ended = self.cell.job.moved(
            event,
            stopping=False,
            ended_at=self._clock(),
            output_bytes=self.output.end,
            dropped_bytes=self.output.dropped,
            **changes,
        )
        self.cell.recorded = False
        with contained("the end of a job could not be recorded", ended.id):
            await self._record(ended)
            self.cell.recorded = True
        self.cell.set(ended)
        if self._process and self.cell.recorded:  # else it is remembered for the server that comes after this one
            with contained("a process that has ended cannot be released", ended.id):
                await self._process.release()

    async def _record(self, ended: Job) -> None:
        """Raises what the journal raises, as it is."""
        with trio.move_on_after(HELD_BACK):
            await self._journal.commit(ended)
            return
        self.cell.set(replace(self.cell.job, message="it has ended, and how is told when that can be recorded"))
        await self._journal.commit(ended)

    def _note(self, job: Job) -> None:
        with contained("a change of a job could not be noted", job.id):
            self._journal.note(job)
        self.cell.set(job)

    async def _fail(self, exc: Exception) -> None:
        """End the job without the help of what failed: its processes, its log and its record, as far as can be."""
        job, process = self.cell.job, self._process
        log.error("the supervision of a job failed", job=job.id, pid=job.pid, state=job.state, exc_info=exc)
        if job.state.terminal:
            return
        status, gone = None, True
        if process:
            if not self._reading:
                close_pipes(job.id, process)
            status, gone = await end_processes(job.id, process, grace=self._timings.grace, kill=self._timings.kill)
            self._ending.survived = not gone
        with contained("the output of a job cannot be finished", job.id):
            await self.output.finish()
        left = how_it_was_left(process, status, gone=gone)
        why = f"jobd failed while it supervised the job, as its log says; {left}; the output may lack its end"
        known = {"wait_status": status, "receipt": None}
        await self._end(Event.UNTRACEABLE, reason=Reason.SUPERVISOR_FAILED, message=why, **known)

    async def ended(self) -> Job:
        """Wait for the end.

        Raises:
            StopFailedError: it came, but processes of the job are still there.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_given_up, nursery.cancel_scope)
            await self.cell.ended()
            nursery.cancel_scope.cancel()
        if self.survived:
            job = self.cell.job
            raise StopFailedError(f"processes of job {job.id} did not exit after SIGKILL; it ends when they do")
        return self.cell.job

    async def _cancel_when_given_up(self, scope: trio.CancelScope) -> None:
        await self._ending.given_up.wait()
        scope.cancel()


def _remaining(seconds: float, since: int | None, now: int) -> float:
    """What is left of a time that began then, whatever the clock has done since."""
    return 0.0 if since is None else min(max(0.0, seconds - (now - since) / 1e9), seconds)
