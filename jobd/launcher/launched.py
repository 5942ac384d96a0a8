"""A child of the launcher, as the server sees it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from functools import partial
from typing import Any, Protocol

import trio

from jobd.launcher.contained import ContainedProcess
from jobd.launcher.pipe import FdPipe
from jobd.launcher.procfs import signal_group
from jobd.launcher.relay import Relay, writing_end
from jobd.launcher.stdin import FdStdin
from jobd.worker.containment import Container, Containment
from jobd.worker.ports import Pipe, Source


class Link(Protocol):
    """What carries wishes to the launcher (:class:`jobd.launcher.link.LauncherLink`)."""

    containment: Containment
    gone: trio.Event

    confined: bool

    def signal(self, job_id: str, signum: int, *, main: bool = False) -> None:
        """Send a signal to a job's process group, or to its main process alone."""

    async def close_stdin(self, job_id: str) -> None:
        """Have the launcher let go of a job's stdin."""

    def forget(self, job_id: str) -> None:
        """The job's exit is recorded: the launcher need not remember it."""


class LaunchedProcess(ContainedProcess):
    """A child of the launcher, as a :class:`jobd.worker.ports.Process`."""

    def __init__(self, link: Link, facts: dict[str, Any], fds: list[int], container: Container | None = None) -> None:
        """
        Args:
            container: that was made for it, unless an earlier server did that.
        """
        self._link = link
        self._id: str = facts["id"]
        pid: int = facts["pid"]
        super().__init__(link.containment, container or link.containment.find(self._id, pid), pid)
        self.main_pid = facts.get("main", self.pid)  # an older launcher does not say
        self.started_at: int | None = facts["started_at"]
        self._status: int | None = facts["status"]
        # With no descriptor left for this process, the kernel cuts off those that come with a message.
        out, err, *more = (*fds, -1, -1, -1, -1)[:4]
        self._pidfd, near = more if self._status is None else (-1, more[0])
        self._pipes = {source: FdPipe(fd) for source, fd in ((Source.STDOUT, out), (Source.STDERR, err)) if fd >= 0}
        # One that was started by an older launcher has none.
        self._kind: str = facts.get("stdin", "none")
        self.stdin: FdStdin | None = None
        if self._kind in ("pipe", "closed", "terminal"):
            terminal = self._kind == "terminal"
            self.stdin = FdStdin(near, terminal=terminal, tell_closed=partial(link.close_stdin, self._id))
        self._relay: Relay | None = None
        if self._kind == "terminal" and out >= 0 and near >= 0:
            with contextlib.suppress(OSError):  # carry() tells
                self._relay = Relay(near, writing_end(out))
        self._taken: set[Source] = set()
        self._ended = trio.Event()
        if self._status is not None:
            self._first_ended()
            self._ended.set()

    def pipe(self, source: Source) -> Pipe:
        """Its pipe.

        Raises:
            OSError: it did not arrive here.
        """
        if source not in self._pipes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._taken.add(source)
        return self._pipes[source]

    async def carry(self) -> None:
        """As the port has it.

        Raises:
            OSError: the terminal did not arrive here, or there is no descriptor for its relay.
        """
        if self._relay:
            await self._relay.carry(self._ended)
        elif self._kind == "terminal":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def take_status(self, status: int) -> None:
        self._status = status
        self._first_ended()
        self._ended.set()

    async def outlive_launcher(self) -> None:
        """Nobody will tell the exit code any more: wait for the end itself."""
        if self._pidfd >= 0 and not self._ended.is_set():
            with contextlib.suppress(trio.ClosedResourceError):  # it was released
                await trio.lowlevel.wait_readable(self._pidfd)
        self._first_ended()
        self._ended.set()

    async def exited(self) -> int | None:
        await self._ended.wait()
        return self._status

    def signal_main(self, signum: int) -> None:
        if self._link.confined and not self._link.gone.is_set():
            self._link.signal(self._id, signum, main=True)
        elif self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def _signal_group(self, signum: int) -> None:
        if self._link.gone.is_set():
            signal_group(self.pid, signum, leader_reaped=self._ended.is_set())
        else:
            self._link.signal(self._id, signum)

    async def release(self) -> None:
        await super().release()
        self._let_go()
        self._link.forget(self._id)

    def _let_go(self) -> None:
        """Close all but the pipes."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._relay:
            self._relay.close()
        if self.stdin:
            self.stdin.let_go()

    def close(self) -> None:
        """Let go of the descriptors that no supervisor has taken."""
        self._let_go()
        for source in self._pipes.keys() - self._taken:
            os.close(self._pipes[source].fileno())
