"""A pool of machines as a broker of it knows it, whoever keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State


@dataclass(frozen=True, slots=True)
class Placed:
    """A job of the pool, and who has it.

    Attributes:
        job: what the pool knows of it. What it does while it runs is its worker's to say.
        worker: the worker that has claimed it; "" while nobody has.
        address: where that is reached.
        unreachable: its worker is gone: whether the job runs cannot be known.
    """

    job: Job
    worker: str = ""
    address: str = ""
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A machine of the pool.

    Attributes:
        taken: jobs that it has, or is to have.
        there: it was heard of a moment ago. Of one that is gone, only name, address and version are known.
    """

    name: str
    address: str
    version: str
    taken: int
    there: bool
    drained: bool
    slots: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    containment: str = ""
    limits: tuple[str, ...] = ()
    isolation: tuple[str, ...] = ()


class Pool(Protocol):
    """What the brokers of a pool know and do together. Each method raises PoolUnavailableError when it cannot be had
    now, and what is said of references in :class:`jobd.broker.broker.Broker`."""

    async def start(self, spec: JobSpec, *, by: str, roles: Collection[str], request_id: str) -> Job:
        """Record a job; some broker gives it to a worker.

        Raises:
            InvalidSpecError: the spec cannot be accepted.
            RequestIdReusedError: the request_id stands for another request.
        """

    async def find(self, reference: str) -> Placed:
        """A job, as it is now."""

    async def claimed(self, reference: str) -> Placed:
        """A job, when some worker has it, or it has ended."""

    async def wait(self, references: Sequence[str], *, any_of_them: bool) -> list[Job]:
        """Wait until all of the jobs (or any) have ended; all of them as they are then."""

    async def page(self, *, before: int, states: Collection[State], size: int) -> list[tuple[int, Placed]]:
        """A page of the list of jobs, newest first, each with its place. That a worker has a job says STARTING, and is
        found under RUNNING too."""

    async def stop_unclaimed(self, placed: Placed, by: str) -> Job | None:
        """End a job that no worker has; None when some worker has it by now, or it has ended."""

    async def forget(self, reference: str, by: str) -> Job:
        """Give up a job whose worker is gone for good.

        Raises:
            WorkerIsThereError: it is not.
        """

    async def delete(self, placed: Placed) -> None:
        """Forget a job that has ended. Its output is its worker's to delete, before.

        Raises:
            JobNotEndedError: it has not.
        """


class Machines(Protocol):
    """The machines of a pool. Each method raises PoolUnavailableError when it cannot be had now."""

    def members(self) -> list[Member]:
        """The machines, those that are gone among them."""

    async def gone(self, worker: str) -> None:
        """Wait until a worker is not heard of any more."""

    @property
    def pending(self) -> int:
        """How many jobs wait for a worker."""

    async def drain(self, worker: str, by: str) -> None:
        """Give a worker no further jobs.

        Raises:
            NoSuchWorkerError: the pool knows none of that name.
        """

    async def undrain(self, worker: str) -> None:
        """Give it jobs again.

        Raises:
            NoSuchWorkerError: the pool knows none of that name.
        """
