"""Jobs without control groups: their processes are looked for in /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from jobd.limits.capacity import capacity
from jobd.limits.processes import ProcessStat, look, look_together, parents_first, send_directly
from jobd.worker.containment import Limits, Member, Send, Usage

ROUNDS: Final = 100
"""Rounds of killing before what is left is taken for unkillable."""


UNREADABLE: Final = (
    "a process that leaves the session, loses its parent, and takes on the mark of another job is not found, whatever "
    "its environment: jobd runs without privileges, and cannot read that of other users"
)


class Walk:
    """A :class:`jobd.worker.containment.Containment` that needs nothing of the machine."""

    name = "none"
    proof = "/proc"
    weaknesses: Sequence[str] = (
        "a process that leaves the session, loses its parent, clears its environment and has the right to raise its "
        "limits (root), or takes on the mark of another job, is not found",
        "a process that forks faster than /proc can be read may escape",
        "memory, processors and number of processes are neither limited nor counted",
    )
    limits: frozenset[str] = frozenset()
    prompt = False

    def __init__(self, problems: Sequence[str] = ()) -> None:
        """
        Args:
            problems: why it is not control groups, where those were looked for.
        """
        self.weaknesses = (*self.weaknesses, *problems)
        self.send: Send = send_directly
        self.capacity = capacity()

    def give_to(self, uid: int, gid: int) -> Sequence[str]:
        """Nothing has to be made; what somebody else's process has in its environment is not to be read."""
        self.weaknesses = (*self.weaknesses, UNREADABLE)
        return ()

    def create(self, job_id: str, limits: Limits) -> WalkedJob:
        """Nothing has to be made."""
        return WalkedJob(job_id, self._send)

    def find(self, job_id: str, pid: int) -> WalkedJob:
        """The job that began with this process."""
        job = WalkedJob(job_id, self._send)
        job.began_with(pid)
        return job

    def _send(self, job_id: str, targets: Sequence[tuple[int, int]], signum: int) -> None:
        self.send(job_id, targets, signum)

    def looking(self) -> AbstractAsyncContextManager[None]:
        """As of the protocol."""
        return look_together()

    def close(self) -> None:
        """Nothing was made."""

    def sweep(self, jobs: frozenset[str]) -> int:
        """Nothing is left behind."""
        return 0


class WalkedJob:
    """One job, as :class:`jobd.worker.containment.Container`.

    To it belong the processes of its session and group, those that have its mark, those that were found to belong to it
    before, and the children of all of these.
    """

    entrances: Sequence[str] = ()

    def __init__(self, job_id: str, send: Send = send_directly) -> None:
        self._id = job_id
        self._send = send
        self._pid = 0
        self._first_ended_at: int | None = None
        self._known: set[tuple[int, int]] = set()

    def began_with(self, pid: int) -> None:
        """The job's first process is there."""
        self._pid = pid

    def first_ended(self) -> None:
        """That process was reaped."""
        self._first_ended_at = time.monotonic_ns()

    def members(self) -> list[Member]:
        return [
            Member(stat.pid, stat.parent, stat.command, bool(self._pid) and stat.session != self._pid)
            for stat in self._find()
        ]

    def _find(self) -> list[ProcessStat]:
        now = look()
        # Whoever has its number in a look that began later is somebody else.
        ended = self._first_ended_at is not None and now.begun > self._first_ended_at
        known = {pid for pid, started in self._known if pid in now.by_pid and now.by_pid[pid].started == started}
        # Nobody gets the number while a session or group has it; a live process that has it leads others by now.
        ours = self._pid > 0 and not (ended and self._pid in now.by_pid)
        family = now.family(self._pid) if ours else set[int]()
        # A jobd that is itself the job of another one has that one's marks, and is no part of this job.
        found = now.with_descendants((known | family | now.marked(self._id)) - {os.getpid()})
        self._known = {(stat.pid, stat.started) for stat in found}
        return found

    def signal(self, signum: int) -> None:
        self._send(self._id, parents_first(self._find(), self._pid), signum)

    def kill(self, but: Collection[int] = ()) -> None:
        """As of the protocol.

        Args:
            but: the pids of those that are dead already, though the first look may be older than that.
        """
        before: set[tuple[int, int]] = set()
        for _ in range(ROUNDS):
            self.signal(signal.SIGKILL)
            found = {(pid, started) for pid, started in self._known if pid not in but}
            if found <= before:  # nobody new since the last round
                return
            before |= found

    def is_empty(self) -> bool:
        return not self._find()

    def usage(self) -> Usage:
        return Usage()

    def usage_of_all(self) -> Usage:
        return Usage()

    def remove(self) -> None:
        """Nothing was made."""

    def remove_at_once(self) -> bool:
        return True
