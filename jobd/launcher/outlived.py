"""A job that has outlived the launcher that made it: found by its mark or in its control group, without its pipes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from jobd.launcher.contained import ContainedProcess, group_is_empty
from jobd.launcher.pipe import FdPipe
from jobd.launcher.procfs import signal_group
from jobd.worker.containment import Container, Containment
from jobd.worker.ports import Pipe, Source


async def find_outlived(containment: Containment, job_id: str, pid: int) -> OutlivedProcess | None:
    """What is left of a job; None when nothing is. In a block of :meth:`Containment.looking`.

    Args:
        pid: the job's first process; 0 when that was not recorded any more.
    """
    return await trio.to_thread.run_sync(_find, containment, job_id, pid)


def _find(containment: Containment, job_id: str, pid: int) -> OutlivedProcess | None:
    # Nobody has waited for the first process: its number, and that of its session, can be somebody else's by now.
    container = containment.find(job_id, 0)
    members = {member.pid: member for member in container.members()}
    if not members:
        return None
    first = pid or min(member.pid for member in members.values() if member.parent not in members)
    pidfd = -1
    if first in members:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(first)
    if pidfd >= 0 and first not in {member.pid for member in container.members()}:  # it had ended before that
        os.close(pidfd)
        pidfd = -1
    return OutlivedProcess(containment, container, first, pidfd)


class OutlivedProcess(ContainedProcess):
    """As a :class:`jobd.worker.ports.Process` whose output and input nobody has any more, nor its exit code."""

    started_at: int | None = None
    stdin = None

    def __init__(self, containment: Containment, container: Container, pid: int, pidfd: int) -> None:
        """
        Args:
            pidfd: of the first process; -1 when that has ended, and others are left.
        """
        super().__init__(containment, container, pid)
        self._pidfd = pidfd
        self._is_known = pidfd >= 0
        self._has_ended = False
        if not self._is_known:
            container.began_with(0)

    def pipe(self, source: Source) -> Pipe:
        """One at its end: what the job writes goes nowhere, since the pipe itself is gone.

        Raises:
            OSError: there is no descriptor for it.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.close(writing)
        return FdPipe(reading)

    async def carry(self) -> None:
        """Its terminal is gone."""
        await trio.lowlevel.checkpoint()

    async def exited(self) -> None:
        """Wait for the end, of which nobody can tell how it was."""
        if self._pidfd >= 0:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            await trio.lowlevel.checkpoint()
        if not self._has_ended:
            self._has_ended = True
            self._first_ended()

    async def is_empty(self) -> bool:
        """As the port has it. A jobd that was started elsewhere has other control groups than the job: those are not
        all that is looked at."""
        try:
            if await self.members() or not await trio.to_thread.run_sync(self._look):
                return False
        except OSError:
            return False  # what cannot be seen is not called empty
        return not self._is_known or await group_is_empty(self.pid)

    def signal_main(self, signum: int) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def _signal_group(self, signum: int) -> None:
        if self._is_known:
            signal_group(self.pid, signum, leader_reaped=self._has_ended)

    async def release(self) -> None:
        await super().release()
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
