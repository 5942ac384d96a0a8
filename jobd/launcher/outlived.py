"""A job that has outlived the launcher that made it: found by its mark or in its control group, without its pipes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import structlog
import trio

from jobd.launcher import family
from jobd.launcher.contained import ContainedProcess, group_is_empty
from jobd.launcher.pipe import FdPipe
from jobd.launcher.procfs import has_ended, signal_group
from jobd.worker.containment import Container, Containment
from jobd.worker.ports import Pipe, Source

log = structlog.get_logger(__name__)

Ask = Callable[[Sequence[tuple[int, int]], int], object]
"""Has somebody who may send a signal to processes, each named by its pid and its start; does not wait for it."""


def nobody_asked(targets: Sequence[tuple[int, int]], signum: int) -> None:
    """There is nobody who may what we may not."""


async def find_outlived(
    containment: Containment, job_id: str, pid: int, launcher: str, ask: Ask = nobody_asked
) -> OutlivedProcess | None:
    """What is left of a job; None when nothing is, or when its launcher is alive and has it: that of another jobd, of
    whose state directory ours is a copy. In a block of :meth:`Containment.looking`.

    Args:
        pid: the job's first process; 0 when that was not recorded any more.
        launcher: the identity of the one that made it; "" when that cannot have it any more.
        ask: for the signals that this process may not send.
    """
    # Nobody has waited for the first process: its number, and that of its session, can be somebody else's by now.
    container = containment.find(job_id, 0)
    parents = {member.pid: member.parent for member in await trio.to_thread.run_sync(container.members)}
    if not parents:
        return None
    if (number := _number_of(launcher)) and await trio.to_thread.run_sync(_descend, parents, number):
        log.warning("a job is another jobd's, and left alone", job=job_id, pid=pid, launcher=number)
        return None
    first = pid or min(parents, key=lambda each: (parents[each] in parents, each))
    pidfd = _opened(first) if first in parents else -1
    if pidfd < 0:
        return OutlivedProcess(containment, container, first, -1, ask)
    try:
        async with containment.looking():  # at who is there while we have that: those who look for many jobs look once
            there = await trio.to_thread.run_sync(container.members)
    except BaseException:
        os.close(pidfd)
        raise
    if first not in {member.pid for member in there}:  # it had ended before that
        os.close(pidfd)
        pidfd = -1
    return OutlivedProcess(containment, container, first, pidfd, ask)


def _number_of(launcher: str) -> int:
    number = launcher.partition("/")[2].partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _descend(pids: Iterable[int], launcher: int) -> bool:
    """From who called itself by this number. What outlives its launcher has those above it that were there before."""
    return any(family.is_above(launcher, pid) for pid in pids)


def _opened(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.pidfd_open(pid)
    return -1


class OutlivedProcess(ContainedProcess):
    """As a :class:`jobd.worker.ports.Process` whose output and input nobody has any more, nor its exit code."""

    started_at: int | None = None
    stdin = None

    def __init__(self, containment: Containment, container: Container, pid: int, pidfd: int, ask: Ask) -> None:
        """
        Args:
            pidfd: of the first process; -1 when that has ended, and others are left.
        """
        super().__init__(containment, container, pid)
        self._pidfd = pidfd
        self._ask = ask
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
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
            except ProcessLookupError:
                pass
            except PermissionError:  # we have given up our privileges
                self._ask([(self.pid, family.started(self.pid) or 0)], signum)

    def _signal_group(self, signum: int) -> None:
        if self._is_known:  # whoever has reaped it did so at once: we may not have heard of its end yet
            signal_group(self.pid, signum, leader_reaped=self._has_ended or has_ended(self._pidfd))

    async def release(self) -> None:
        await super().release()
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
