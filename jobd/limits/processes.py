"""What /proc says of one process, or of all (proc(5))."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import trio
from trio.lowlevel import RunVar

from jobd.limits.environ import Environments
from jobd.worker.containment import MARK_LIMIT, Member, mark_of

_DEAD: Final = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """As much of ``/proc/PID/stat`` as is of use.

    Attributes:
        started: in ticks since boot; with the pid it names one process for ever.
    """

    pid: int
    command: str
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def alive(self) -> bool:
        return self.state not in _DEAD


def stat_of(pid: int | str) -> ProcessStat | None:
    """The process, or None when there is none (any more)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    # The command, in parentheses, can hold anything, parentheses too.
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 2 :].split()
    parent, group, session = map(int, fields[1:4])
    return ProcessStat(
        int(text[:opening]), text[opening + 1 : closing], fields[0], parent, group, session, int(fields[19])
    )


class Snapshot:
    """Every process that was alive at one moment, to be found by what shows whose it is.

    Attributes:
        begun: when the look at them began (``time.monotonic_ns``).
    """

    def __init__(self) -> None:
        self.begun = time.monotonic_ns()
        self.by_pid = {stat.pid: stat for entry in os.listdir("/proc") if (stat := _alive(entry))}  # noqa: PTH208 # the names are enough
        self._by_family: defaultdict[int, set[int]] = defaultdict(set)  # session or process group
        self._by_parent: defaultdict[int, list[int]] = defaultdict(list)
        self._by_mark: defaultdict[int | bytes, set[int]] = defaultdict(set)
        for pid, stat in self.by_pid.items():
            self._by_family[stat.session].add(pid)
            self._by_family[stat.group].add(pid)
            self._by_parent[stat.parent].append(pid)
            if (mark := _limit_of(pid)) is not None:
                self._by_mark[mark].add(pid)
        for pid, name in _environments.marks([(stat.pid, stat.started) for stat in self.by_pid.values()]):
            self._by_mark[name].add(pid)

    def marked(self, job_id: str) -> set[int]:
        """Those that have a job's mark in their limits or in their environment, wherever they went and whoever their
        parent is now."""
        return self._by_mark.get(mark_of(job_id), set()) | self._by_mark.get(job_id.encode(), set())

    def family(self, pid: int) -> set[int]:
        """Those of the session or process group that began with this process."""
        return self._by_family.get(pid, set())

    def with_descendants(self, pids: set[int]) -> list[ProcessStat]:
        """These, and the children of all of them."""
        found, waiting = set(pids), list(pids)
        while waiting:
            children = [pid for pid in self._by_parent.get(waiting.pop(), ()) if pid not in found]
            found.update(children)
            waiting += children
        return [self.by_pid[pid] for pid in found]


def parents_first(found: Iterable[ProcessStat], first: int) -> list[tuple[int, int]]:
    """The order in which a signal is sent to a job's processes: the job's own, then the older before the younger.

    A shell whose child the signal ended before it came to the shell itself would exit with a code that tells of the
    child, and not be seen as ended by the signal.

    Args:
        first: the pid of the job's own process.
    """
    ordered = sorted(found, key=lambda stat: (stat.pid != first, stat.started, stat.pid))
    return [(stat.pid, stat.started) for stat in ordered]


def send_directly(job_id: str, targets: Sequence[tuple[int, int]], signum: int) -> None:
    """As this process may. A process that has gone is not minded, nor one that it may not signal; who has the number of
    one that has gone is not sent anything."""
    for pid, started in targets:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            pidfd = os.pidfd_open(pid)
            try:
                if (there := stat_of(pid)) is not None and there.started == started:
                    signal.pidfd_send_signal(pidfd, signum)
            finally:
                os.close(pidfd)


_environments: Final = Environments()


@dataclass
class _Block:
    """When its look was asked for. Tasks that were begun in it have it for good, and are not in it for good."""

    asked: int
    over: bool = False


class _Looks:
    """Looks at all processes, each shared by all who had asked for one before it began: many jobs that end at the same
    time cost two, not one each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._asked: ContextVar[_Block | None] = ContextVar("asked", default=None)
        self._turns: RunVar[trio.Lock] = RunVar("turns")

    def look(self) -> Snapshot:
        block = self._asked.get()
        self._asked.set(None)  # of a thread's own context: who looks again wants to see what has changed
        return self._since(time.monotonic_ns() if block is None or block.over else block.asked)

    def _since(self, asked: int) -> Snapshot:
        with self._lock:
            if self._last is None or self._last.begun < asked:
                self._last = Snapshot()
            return self._last

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        asked = time.monotonic_ns()
        try:
            turns = self._turns.get()
        except LookupError:
            turns = trio.Lock()
            self._turns.set(turns)
        async with turns:
            if self._last is None or self._last.begun < asked:
                await trio.to_thread.run_sync(self._since, asked)
        block = _Block(asked)
        token = self._asked.set(block)
        try:
            yield
        finally:
            block.over = True
            self._asked.reset(token)


_looks: Final = _Looks()
look = _looks.look
"""All processes as they are now, or were a moment after this was called. Blocks."""
look_together = _looks.together
"""A block before which such a look was taken, by one of all tasks that want one: the others wait for it without a
thread each. In the block, the first look in a thread need not be another one."""


def _alive(entry: str) -> ProcessStat | None:
    stat = stat_of(entry) if entry.isdigit() else None
    return stat if stat is not None and stat.alive else None


def _limit_of(pid: int) -> int | None:
    """The mark that it has in its limits."""
    try:
        limit = resource.prlimit(pid, MARK_LIMIT)[1]
    except PermissionError:  # somebody else's, or with more rights than we have
        words = _content(f"/proc/{pid}/limits").partition(b"\nMax file locks")[2].split(None, 2)
        limit = int(words[1]) if len(words) > 2 and words[1].isdigit() else resource.RLIM_INFINITY
    except OSError:
        return None
    return None if limit == resource.RLIM_INFINITY else limit


def _content(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
        return file.read()
    return b""


def member_of(pid: int, session: int) -> Member | None:
    """The process as a member of a job that began in this session (0: not known), if it is alive."""
    stat = stat_of(pid)
    if stat is None or not stat.alive:
        return None
    return Member(stat.pid, stat.parent, stat.command, bool(session) and stat.session != session)
