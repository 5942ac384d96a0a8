"""A process and what holds it together, as far as that is the same whoever forked it."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import abstractmethod

import trio

from jobd.launcher.environment import remove_container
from jobd.launcher.procfs import group_has_members
from jobd.launcher.together import in_turn
from jobd.worker.containment import Container, Containment, Member, Usage


class ContainedProcess:
    """The part of :class:`jobd.worker.ports.Process` that is about all of a job's processes.

    A job that was started before there was a container for it (by an older jobd) has its process group only.
    """

    pid: int
    main_pid: int

    def __init__(self, containment: Containment, container: Container, pid: int) -> None:
        self._containment = containment
        self._container = container
        self.pid = self.main_pid = pid
        self._used: Usage | None = None  # what it used in all, once it is empty
        container.began_with(pid)

    def _first_ended(self) -> None:
        """The process itself was reaped; others of the job may be left."""
        self._container.first_ended()

    @abstractmethod
    def _signal_group(self, signum: int) -> None:
        """Send a signal to the process group that the job began with."""

    @property
    def proof(self) -> str:
        return self._containment.proof

    async def members(self) -> list[Member]:
        async with self._containment.looking():
            return await trio.to_thread.run_sync(self._container.members)

    async def signal(self, signum: int) -> None:
        with contextlib.suppress(OSError):  # no descriptors to look with: the group is known without
            if await self.members():
                async with self._containment.looking():
                    await trio.to_thread.run_sync(self._container.signal, signum)
                return
        self._signal_group(signum)

    async def kill(self) -> None:
        with contextlib.suppress(OSError):
            async with self._containment.looking():
                await trio.to_thread.run_sync(self._container.kill)
        self._signal_group(signal.SIGKILL)

    async def is_empty(self) -> bool:
        try:
            return await in_turn(self._look, prompt=self._containment.prompt) and await group_is_empty(self.pid)
        except OSError:
            return False  # what cannot be seen is not called empty

    def _look(self) -> bool:
        if not self._container.is_empty():
            return False
        self._used = self._container.usage_of_all()  # nothing more is used from here on
        return True

    async def usage(self) -> Usage:
        if self._used:
            return self._used
        return await trio.to_thread.run_sync(self._container.usage)

    async def release(self) -> None:
        await remove_container(self._containment, self._container)


async def group_is_empty(pgid: int) -> bool:
    """No process of the group, whose leader was reaped, is left alive."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        await trio.lowlevel.checkpoint()
        return True
    except PermissionError:
        pass  # members that we may not signal are members
    # kill(2) counts zombies too, and those may wait long for an init that takes its time.
    return not await trio.to_thread.run_sync(group_has_members, pgid)
