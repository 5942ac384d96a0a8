"""What /proc says of one process, or of all (proc(5))."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from jobd.worker.containment import MARK_LIMIT, MARK_VARIABLE, Member, mark_of

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


def all_processes() -> Iterator[ProcessStat]:
    """Every process that is alive."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 # the names are enough
        if entry.isdigit() and (stat := stat_of(entry)) is not None and stat.alive:
            yield stat


class Mark:
    """What shows that a process is a job's, wherever it went and whoever its parent is now."""

    def __init__(self, job_id: str) -> None:
        self._variable = f"{MARK_VARIABLE}={job_id}".encode()
        self._limit = mark_of(job_id)
        self._line = b" %d " % self._limit

    def is_on(self, pid: int) -> bool:
        """The process has it in its limits or in its environment."""
        try:
            if resource.prlimit(pid, MARK_LIMIT)[1] == self._limit:
                return True
        except PermissionError:  # somebody else's, or with more rights than we have
            if self._line in _content(f"/proc/{pid}/limits"):
                return True
        except OSError:
            return False
        return self._variable in _content(f"/proc/{pid}/environ").split(b"\0")


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
