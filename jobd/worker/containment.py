"""What holds a job's processes together, so that all of them can be found, limited, counted and ended.

Implemented by ``jobd.limits``; used by the supervisor through :class:`jobd.worker.ports.Process`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import Final, Protocol

CONTAINED: Final = ("memory", "cpus", "cpu_weight", "processes")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use; 0 means no limit of its own.

    Attributes:
        memory: bytes, of all its processes together; beyond it the kernel kills them (swap does not count on top).
        cpus: how many processors' time all its processes may take together, as 1.5.
        cpu_weight: its share when processors are scarce, 1 to 10,000; 100 is what others have.
        processes: how many processes and threads there may be at a time.
        timeout: seconds that it may run.
        output: bytes that are recorded.
        stop_at_output: the job is ended when it writes more; otherwise that is dropped.
        open_files, core: RLIMIT_NOFILE and RLIMIT_CORE (getrlimit(2)).
        nice: 0 to 19 (nice(2)).
        io_class: as in the contract: 1 idle, 2 best effort (ioprio_set(2)).
    """

    memory: int = 0
    cpus: float = 0.0
    cpu_weight: int = 0
    processes: int = 0
    timeout: float = 0.0
    output: int = 0
    open_files: int = 0
    core: int = 0
    nice: int = 0
    io_class: int = 0
    stop_at_output: bool = False

    @property
    def contained(self) -> frozenset[str]:
        """The names of those that it takes a containment to hold."""
        return frozenset(name for name in CONTAINED if getattr(self, name)) if self != NO_LIMITS else frozenset()

    def beyond(self, most: Limits) -> list[tuple[str, float, float]]:
        """Those that are more than they may be (0: anything): the name, what it is, and what it may be at the most."""
        if self == NO_LIMITS or most == NO_LIMITS:
            return []
        pairs = [(each.name, getattr(self, each.name), getattr(most, each.name)) for each in fields(self)]
        return [(name, wanted, highest) for name, wanted, highest in pairs if 0 < highest < wanted]


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a job.

    Attributes:
        command: its name (proc(5), comm); it can be anything that the job chose.
        left_session: it had left the session that the job began in.
    """

    pid: int
    parent: int
    command: str
    left_session: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used so far; None where nobody counts.

    Attributes:
        cpu: nanoseconds of processor time.
        memory_peak: bytes, at the most.
        read, written: bytes from and to block devices.
        processes: processes and threads, now.
        processes_peak: at the most.
        out_of_memory: processes that the kernel killed because the job's memory limit was reached.
    """

    cpu: int | None = None
    memory_peak: int | None = None
    read: int | None = None
    written: int | None = None
    processes: int | None = None
    processes_peak: int | None = None
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process that was there when its job was to end.

    Attributes:
        signal: the last one that it was sent before it was gone; 0 when there was none, or it is still there.
    """

    member: Member
    signal: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was there when a job was to end, what ended it, and how it is known that nothing is left.

    Attributes:
        processes: the first ones found, not more than :data:`MAX_RECEIPT`.
        found: how many there were.
        took: nanoseconds from the first signal until no process was left.
        empty: none is left.
        proof: as :attr:`Containment.proof`.
        begun_at: when the first signal was sent, in nanoseconds since the epoch.
    """

    processes: tuple[Stopped, ...]
    found: int
    took: int
    empty: bool
    proof: str
    begun_at: int = 0


MAX_RECEIPT: Final = 100
MARK_VARIABLE: Final = "JOBD_JOB_ID"
"""Each process of a job has the job's id in its environment, unless it cleared that."""
MARK_LIMIT: Final = 10
"""RLIMIT_LOCKS: it has limited nothing since Linux 2.4.25, every fork and execve hands it on, and to raise it takes
CAP_SYS_RESOURCE. So each process of a job has :func:`mark_of` as this limit, whatever else it got rid of."""


def mark_of(job_id: str) -> int:
    """A number that stands for a job; two jobs have different ones."""
    return int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest(), "big") >> 2


Send = Callable[[str, Sequence[tuple[int, int]], int], None]
"""Sends a signal to processes of a job, each named by its pid and its start (in ticks since boot). Called in a
thread."""


class Container(Protocol):
    """What holds one job's processes. Everything here may block for a moment: call it in a thread."""

    @property
    def entrances(self) -> Sequence[str]:
        """Files into which the job's first process writes "0" before it executes its program."""

    def began_with(self, pid: int) -> None:
        """The job's first process is there."""

    def first_ended(self) -> None:
        """That process was reaped: from now on its number can be somebody else's."""

    def members(self) -> list[Member]:
        """The processes that are alive. Zombies are not."""

    def signal(self, signum: int) -> None:
        """Send a signal to each of them."""

    def kill(self) -> None:
        """SIGKILL to all of them; those that are forked meanwhile are not forgotten."""

    def is_empty(self) -> bool:
        """No process is alive."""

    def usage(self) -> Usage:
        """What was used."""

    def usage_of_all(self) -> Usage:
        """The same, when it is empty."""

    def remove(self) -> None:
        """Leave nothing behind. Only when it is empty."""

    def remove_at_once(self) -> bool:
        """:meth:`remove`, unless the job has made so much that it may take long; whether nothing is left."""


class Containment(Protocol):
    """Makes containers.

    Attributes:
        prompt: to make a container, to see whether it is empty and what was used in it, and to remove it at once, are a
            few system calls each, that wait for nobody, whatever the job has done.
    """

    prompt: bool

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def proof(self) -> str:
        """How emptiness is proved, for the stop receipt."""

    @property
    def weaknesses(self) -> Sequence[str]:
        """What it cannot do that the best one can, for people; none for that one."""

    @property
    def limits(self) -> frozenset[str]:
        """The names of the limits (:class:`Limits`) that it can hold."""

    @property
    def capacity(self) -> Limits:
        """What the machine has for us: the most that each limit may be; 0 where that is not known."""

    send: Send
    """How signals are sent."""

    def looking(self) -> AbstractAsyncContextManager[None]:
        """A block in which members of a container may be asked for, or killed: what many jobs need for that is done for
        all of them at once, before."""

    def give_to(self, uid: int, gid: int) -> Sequence[str]:
        """Let a user make containers, who has no privileges: the directories in which there will be the jobs' own.

        Raises:
            OSError: it cannot be done.
        """

    def create(self, job_id: str, limits: Limits) -> Container:
        """Make the container of a new job. Asked again, it is the same.

        Raises:
            OSError: it cannot be made.
        """

    def find(self, job_id: str, pid: int) -> Container:
        """The container of a job that was started before; ``pid`` is its first process."""

    def close(self) -> None:
        """Leave nothing behind, if no job is left."""

    def sweep(self, jobs: frozenset[str]) -> int:
        """Remove the empty containers of all jobs but these, which somebody left; returns how many."""
