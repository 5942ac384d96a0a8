"""What the broker needs of workers, of the store and of recorded output, and does not know who gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from jobd.worker.containment import Containment, Usage
from jobd.worker.isolation import Means
from jobd.worker.job import Ended, Job, JobCell
from jobd.worker.lifecycle import State
from jobd.worker.ports import Follower, Journal, Start
from jobd.worker.stdin import Attacher, Attachment
from jobd.worker.supervisor import Stop


class Worker(Protocol):
    """One worker of the pool (:class:`jobd.worker.worker.Worker`, or a stand-in for one elsewhere)."""

    @property
    def name(self) -> str: ...

    @property
    def slots(self) -> int: ...

    @property
    def launcher(self) -> str:
        """Which launcher makes its processes (the machine's boot, a slash, the launcher)."""

    @property
    def containment(self) -> Containment:
        """What holds its jobs' processes together."""

    @property
    def means(self) -> Means:
        """What its jobs can be isolated with."""

    def adopt(self, cell: JobCell) -> trio.Event | None:
        """Take up a job that runs already; the event as for :meth:`begin`: before that, the log of such a job does not
        know how far it goes. None when no process of it is known."""

    async def adopt_outlived(self, cell: JobCell) -> trio.Event | None:
        """As :meth:`adopt`, of a job that has outlived its launcher: its output and its exit code are lost. In a block
        of :meth:`jobd.worker.containment.Containment.looking`."""

    def begin(self, cell: JobCell, launched: trio.Event) -> None:
        """Take a job that is starting; the event is set when its process runs, or could not be started."""

    async def stop(self, job_id: str, how: Stop) -> Job:
        """End a job; returns when no process is left."""

    async def signal(self, job_id: str, signum: int, *, by: str) -> Job:
        """Send a signal to a job's processes."""

    async def attach(self, job_id: str, who: Attacher, *, take_over: bool) -> Attachment:
        """Let somebody write to a job's stdin. There is no checkpoint after that has begun."""

    async def usage(self, job_id: str) -> Usage | None:
        """What the job has used so far."""

    async def stream(self, job_id: str, start: Start) -> Follower:
        """Follow a job's output."""

    def progress(self, job_id: str) -> tuple[int, int]:
        """Bytes of output recorded, and dropped, so far."""

    def forget(self, job_id: str) -> None:
        """Let go of a job that has ended."""


class Store(Journal, Protocol):
    """Where job records are kept."""

    async def insert(self, job: Job) -> Job:
        """Record a new job durably. When its request_id was used before, the job of then is returned."""

    async def requested(self, request_id: str) -> Job | None:
        """The job that a request_id stands for, if it does."""

    def lately(self, job_id: str) -> Job | None:
        """The job with this id, if it has ended and was asked for lately. Never waits."""

    async def starting_with(self, prefix: str) -> list[Job]:
        """At most two of the jobs whose ids begin like this."""

    async def live(self) -> list[Job]:
        """Every job that has not ended, oldest first."""

    async def page(self, *, before: int, states: Sequence[State], size: int) -> list[tuple[int, Job]]:
        """A page of the list of jobs, newest first, each with its sequence number."""

    async def delete(self, job_id: str) -> None:
        """Forget a job, and its request_id with it; remember that its output is to go too (:meth:`deletions`)."""

    async def deletions(self) -> list[str]:
        """Jobs that were forgotten, and whose output may still be there."""

    def deleted(self, job_id: str) -> None:
        """The output of a forgotten job is gone: nothing needs to be remembered of it."""

    async def ended(self, limit: int) -> list[Ended]:
        """Jobs that have ended, the one that ended first foremost."""

    async def totals(self) -> tuple[int, int]:
        """How many jobs have ended, and the bytes of output that they have."""


class Pressure(Protocol):
    """How much output there is, beside that of jobs that have ended."""

    @property
    def live(self) -> int:
        """Bytes that jobs have recorded that run."""

    async def pressed(self) -> None:
        """Wait until some of what has ended should be deleted to make room."""

    def settle(self, ended: int) -> None:
        """So much of jobs that have ended is there now."""


class Archive(Protocol):
    """The recorded output of jobs that have ended."""

    async def follow(self, job: Job, start: Start) -> Follower:
        """Read it."""

    async def recover(self, job_id: str) -> tuple[int, int]:
        """End the log of a job that nobody supervises any more; returns its end, and the bytes known to be missing."""

    async def delete(self, job_id: str) -> None:
        """Delete a job's output, whole."""
