"""What /proc says of one process, or of all (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from jobd.worker.containment import Member

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


def member_of(pid: int, session: int) -> Member | None:
    """The process as a member of a job that began in this session (0: not known), if it is alive."""
    stat = stat_of(pid)
    if stat is None or not stat.alive:
        return None
    return Member(stat.pid, stat.parent, stat.command, bool(session) and stat.session != session)
