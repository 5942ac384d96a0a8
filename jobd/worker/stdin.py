"""A job's stdin: where it comes from, and the one who is attached to it.

One attachment of a job at a time. What it has written is in the pipe (or in the terminal), which the launcher holds
open too; so an attachment that ends, and a server that is killed, are not the end of stdin. Nothing is queued here:
whoever writes waits for the job.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from jobd.worker.errors import (
    AlreadyAttachedError,
    AttachmentTakenOverError,
    NoTerminalError,
    StdinClosedError,
    StdinIsTerminalError,
)

MAX_SIDE: Final = 4096
"""Rows, or columns, of a terminal."""
MAX_TERM: Final = 64
DEFAULT_TERM: Final = "xterm"


class StdinMode(enum.StrEnum):
    """Where a job's stdin comes from, when it is no terminal."""

    NONE = "none"
    PIPE = "pipe"


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The size of a terminal."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal that a job is to have.

    Attributes:
        term: the value of TERM; "" for the default.
    """

    rows: int
    columns: int
    term: str = ""


class Stdin(Protocol):
    """The writing side of a job's stdin, or the near side of its terminal."""

    @property
    def terminal(self) -> bool: ...

    @property
    def closed(self) -> bool:
        """It was closed, by whichever server."""

    def write(self, data: memoryview) -> int:
        """Write as much as there is room for; returns how much that was.

        Raises:
            BlockingIOError: there is no room now.
            BrokenPipeError: the job has closed its end.
        """

    async def wait_writable(self) -> None:
        """Wait until there is room, or the job has closed its end."""

    async def close(self) -> None:
        """No more comes, whatever becomes of this process; returns when that is certain."""

    def resize(self, size: WindowSize) -> None:
        """Set the size of the terminal; its foreground processes get SIGWINCH if it changes."""


@dataclass(frozen=True, slots=True)
class Attacher:
    """Who attaches.

    Attributes:
        by: the principal.
        name: of the attachment; the same one again is the same attachment, gone on with. "" for none.
    """

    by: str
    name: str = ""


class StdinDesk:
    """Where those who attach to one job come to: it lets one in at a time."""

    def __init__(self, job_id: str, stdin: Stdin) -> None:
        self._job_id = job_id
        self.stdin = stdin
        self._present: Attachment | None = None

    def attach(self, who: Attacher, *, take_over: bool = False) -> Attachment:
        """Let somebody in.

        Raises:
            AlreadyAttachedError: somebody else is.
        """
        present = self._present
        if present is not None:
            again = bool(who.name) and who == present.who
            if not (take_over or again):
                raise AlreadyAttachedError(self._job_id, present.who.by)
            present.lose(who.by)
        self._present = Attachment(self, who)
        return self._present

    def leave(self, attachment: Attachment) -> None:
        """It has ended; the job goes on."""
        if self._present is attachment:
            self._present = None


class Attachment:
    """Made by :meth:`StdinDesk.attach`.

    Attributes:
        lost: set when somebody else has taken over.
        refused: the job has closed its end: what is written is dropped.
    """

    def __init__(self, desk: StdinDesk, who: Attacher) -> None:
        self._desk = desk
        self._stdin = desk.stdin
        self.who = who
        self.lost = trio.Event()
        self.refused = False
        self._taken_by = ""

    @property
    def terminal(self) -> bool:
        return self._stdin.terminal

    @property
    def closed(self) -> bool:
        """Stdin was closed, by this attachment or one before it."""
        return self._stdin.closed

    async def write(self, data: memoryview) -> int:
        """Write some of the data; waits until there is room. Cancelling loses nothing. Returns how much was written,
        which is all of it when the job has closed its end (:attr:`refused`): it is dropped.

        Raises:
            StdinClosedError: stdin was closed.
            AttachmentTakenOverError: somebody else has taken over.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self.check()
            if self._stdin.closed:
                raise StdinClosedError
            try:
                return len(data) if self.refused else self._stdin.write(data)
            except BlockingIOError:
                await self._stdin.wait_writable()
            except BrokenPipeError:
                self.refused = True

    async def close(self) -> None:
        """No more comes. Closed again, it is closed already.

        Raises:
            StdinIsTerminalError: a terminal has no such end.
            AttachmentTakenOverError: somebody else has taken over.
        """
        self.check()
        if self.terminal:
            raise StdinIsTerminalError
        if not self._stdin.closed:
            await self._stdin.close()

    def resize(self, size: WindowSize) -> None:
        """Set the size of the terminal.

        Raises:
            NoTerminalError: the job has none.
            AttachmentTakenOverError: somebody else has taken over.
        """
        self.check()
        if not self.terminal:
            raise NoTerminalError
        self._stdin.resize(size)

    def check(self) -> None:
        """See that it goes on.

        Raises:
            AttachmentTakenOverError: somebody else has taken over.
        """
        if self.lost.is_set():
            raise AttachmentTakenOverError(self._taken_by)

    def lose(self, by: str) -> None:
        """Somebody else takes over."""
        self._taken_by = by
        self.lost.set()

    def detach(self) -> None:
        """End it. The job goes on, and its stdin stays as it is."""
        self._desk.leave(self)
