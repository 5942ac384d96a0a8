"""The writing side of a job's stdin, in the server."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from jobd.launcher.terminal import set_size
from jobd.worker.job import JobSpec
from jobd.worker.stdin import WindowSize

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@contextmanager
def giving(spec: JobSpec) -> Iterator[list[int]]:
    """The descriptor that is to be a job's stdin, if its bytes are given: a file in memory that nobody can change.

    Raises:
        OSError: there is no more memory, or there are no more descriptors.
    """
    if not spec.stdin_data:
        yield []
        return
    memfd = os.memfd_create("jobd-stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(memfd), "wb") as file:
            file.write(spec.stdin_data)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
        reading = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY | os.O_CLOEXEC)  # with a position of its own
    finally:
        os.close(memfd)
    try:
        yield [reading]
    finally:
        os.close(reading)


class FdStdin:
    """A pipe, or a terminal, as a :class:`jobd.worker.stdin.Stdin`.

    Attributes:
        terminal: it is one.
        closed: on purpose; not because the job has ended (:meth:`let_go`).
    """

    def __init__(self, fd: int, *, terminal: bool, tell_closed: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            fd: -1 for a pipe that was closed.
            tell_closed: has whoever else holds it let go of it as well.
        """
        self._fd = fd
        self.closed = fd < 0
        self.terminal = terminal
        self._tell_closed = tell_closed

    def write(self, data: memoryview) -> int:
        if self._fd < 0:
            raise BrokenPipeError
        try:
            return os.write(self._fd, data)
        except OSError as exc:
            if exc.errno == errno.EIO:  # a terminal that nobody has open
                raise BrokenPipeError from exc
            raise

    async def wait_writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except (trio.ClosedResourceError, ValueError):  # it was closed meanwhile; write() tells
            await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        self.closed = True
        self.let_go()
        await self._tell_closed()

    def resize(self, size: WindowSize) -> None:
        if self._fd >= 0:
            set_size(self._fd, size.rows, size.columns)

    def let_go(self) -> None:
        """Close what this process has of it."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1
