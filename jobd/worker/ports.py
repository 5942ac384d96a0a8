"""What the worker library needs of the outside, and does not know who gives.

Implemented by ``jobd.launcher`` (Launcher, Process), ``jobd.output`` (OutputStore, OutputLog) and ``jobd.broker``
(Journal). They meet in ``jobd.daemon``, and in tests.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from jobd.worker.containment import Containment, Member, Usage
from jobd.worker.isolation import Means
from jobd.worker.job import Job, JobSpec
from jobd.worker.stdin import Stdin

Buffer = bytes | bytearray | memoryview


class Source(enum.IntEnum):
    """Which of a job's two streams; numbered as in the contract."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True)
class Record:
    """Bytes that a job wrote.

    Attributes:
        offset: of the first byte, counted over both streams together.
        time: nanoseconds since the epoch, when they were read from the pipe.
    """

    offset: int
    source: Source
    time: int
    data: Buffer

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that a job wrote before ``offset``, after what was recorded up to there, and that could not be recorded."""

    offset: int
    dropped: int

    @property
    def end(self) -> int:
        """The offset after it: a gap takes none up."""
        return self.offset


@dataclass(frozen=True, slots=True)
class Start:
    """Where a follower begins: the first that is not None counts; with none, at the first byte.

    Attributes:
        time: nanoseconds since the epoch.
    """

    offset: int | None = None
    tail_bytes: int | None = None
    tail_lines: int | None = None
    time: int | None = None


class Pipe(Protocol):
    """The reading end of one of a job's streams."""

    def fileno(self) -> int:
        """Its descriptor."""

    async def wait_readable(self) -> None:
        """Wait until there are bytes, or the end."""

    def close(self) -> None:
        """Let go of the pipe. A process that goes on writing to it meets SIGPIPE."""


class Process(Protocol):
    """A job's process: the leader of a session and process group of its own."""

    @property
    def pid(self) -> int: ...

    @property
    def main_pid(self) -> int:
        """The pid of the main process. It is another one than :attr:`pid` where that process has made a sandbox for it,
        and waits outside for its end."""

    @property
    def started_at(self) -> int | None:
        """Nanoseconds since the epoch, if whoever made it noted that."""

    def pipe(self, source: Source) -> Pipe: ...

    @property
    def stdin(self) -> Stdin | None:
        """What its stdin is written with; None when nobody can write to it."""

    async def carry(self) -> None:
        """Carry what it writes to its terminal into the pipe of its stdout, until nobody has the terminal open any more
        and the process has ended; at once, if it has none. At no moment is a byte in neither of the two."""

    async def exited(self) -> int | None:
        """Wait until the process is dead and reaped; gives its wait status (waitpid(2)), or None when nobody can tell
        it any more."""

    async def members(self) -> list[Member]:
        """The job's processes that are alive."""

    async def signal(self, signum: int) -> None:
        """Send a signal to every process of the job. Harmless when none is left."""

    def signal_main(self, signum: int) -> None:
        """Send a signal to the main process alone. Harmless when it has ended."""

    async def kill(self) -> None:
        """SIGKILL to every process of the job, those that are forked meanwhile included."""

    async def is_empty(self) -> bool:
        """No process of the job is left alive. Only after :meth:`exited`."""

    async def usage(self) -> Usage:
        """What the job has used."""

    @property
    def proof(self) -> str:
        """How :meth:`is_empty` knows (:attr:`jobd.worker.containment.Containment.proof`)."""

    async def release(self) -> None:
        """How the process ended is recorded durably: whoever remembers it for us may forget it, and what held it
        together may go."""


class Launcher(Protocol):
    """Makes processes."""

    @property
    def identity(self) -> str:
        """Which launcher it is (its boot, a slash, itself); "" when its processes end with this one."""

    @property
    def containment(self) -> Containment:
        """What holds the jobs' processes together."""

    @property
    def means(self) -> Means:
        """What jobs can be isolated with."""

    async def launch(self, job_id: str, spec: JobSpec) -> Process:
        """Start the command, with two pipes (or a terminal), and the stdin that the spec says. Asked again for a job,
        it is the same process.

        Raises:
            LaunchError: it could not be started.
        """

    def take_adopted(self, job_id: str) -> Process | None:
        """The process that was started for a job by a server before this one, if there is one."""

    async def find_outlived(self, job_id: str, pid: int, launcher: str) -> Process | None:
        """What is left of a job whose launcher is gone: nobody has its output any more, nor can tell its exit code.
        None when no process of it is alive, or when that launcher is, and so another jobd has the job. In a block of
        :meth:`jobd.worker.containment.Containment.looking`.

        Args:
            pid: its first process; 0 when that was not recorded any more.
            launcher: the identity of the one that made it.
        """


MOST: Final = 1024 * 1024
"""Bytes that a follower is given at a time."""


Taker = Callable[[Record], bool]
"""Takes a record at once, or not. True: it counts as given. It neither waits nor raises: it runs in the job's turn."""


class Follower(Protocol):
    """One reader of a job's output."""

    @property
    def offset(self) -> int:
        """Of the next byte."""

    async def receive(self, limit: int = MOST, taker: Taker | None = None) -> Sequence[Record | Gap]:
        """Wait for what comes next, in order; an empty sequence is the end. Cancelling loses nothing.

        Args:
            limit: bytes that are wanted at most.
            taker: may be offered what comes next while this waits, in the turn in which it was recorded.
        """

    def at_hand(self, limit: int) -> bool:
        """:meth:`receive` takes a turn of the loop, and waits for nothing."""

    def close(self) -> None:
        """Stop following."""


class OutputLog(Protocol):
    """The record of what one job wrote."""

    @property
    def end(self) -> int:
        """The offset after the last recorded byte."""

    @property
    def dropped(self) -> int:
        """Bytes that could not be recorded."""

    @property
    def over_limit(self) -> trio.Event:
        """Set when the job has written more than is recorded of it."""

    def take_at_once(self, source: Source, pipe: int, size: int) -> bool | None:
        """:meth:`take`, of a pipe with so much in it; None when that is to be waited for."""

    async def take(self, source: Source, pipe: int) -> bool:
        """Record what is in a pipe now; False when the stream has ended. What cannot be recorded is dropped and
        counted, not raised. At no moment is a byte neither in the pipe nor recorded."""

    async def finish(self) -> None:
        """Nothing more comes: make what there is durable, and let followers end."""

    async def resume(self) -> None:
        """Go on with what was recorded of the job before this process."""

    async def leave(self) -> None:
        """Let go without an end: another process will go on."""

    async def follow(self, start: Start) -> Follower:
        """Read from there on, live until :meth:`finish`.

        Raises:
            OffsetBeyondEndError: so much was not recorded.
        """


class OutputStore(Protocol):
    """Where the logs are."""

    def create(self, job_id: str, limit: int) -> OutputLog:
        """The log of a new job, which records so many bytes at the most (0: as many as others)."""


class Journal(Protocol):
    """Told of every change of a job, so that it is known after a crash."""

    def note(self, job: Job) -> None:
        """Record this soon."""

    async def settle(self) -> None:
        """Wait until what was noted before is durable, or cannot be made so now."""

    async def commit(self, job: Job) -> None:
        """Record this durably; returns when it is.

        Raises:
            StoreError: it cannot be; nothing was changed.
        """
