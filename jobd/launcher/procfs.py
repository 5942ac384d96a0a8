"""What /proc says of processes (proc(5)), and signals that reach only those they are meant for.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

_DEAD = frozenset({b"Z", b"X"})


def group_has_members(pgid: int) -> bool:
    """Some process of the group, whose leader was reaped, is alive. Zombies, which only wait to be reaped by whoever
    has them, do not count; and a group with a live leader is somebody else's (:func:`signal_group`).

    Blocks for as long as it takes to read one small file for each process of the machine.
    """
    return not is_led(pgid) and any(True for _ in members_of_group(pgid))


def signal_group(pgid: int, signum: int, *, leader_reaped: bool) -> None:
    """Send a signal to a job's process group; harmless when nothing of it is left.

    While the leader is a child of ours that was not reaped, its number cannot mean anything else. Later, the
    members that are left keep it from being reused; but once there are none, a new process may get the number. So a
    group with a live leader is then somebody else's.
    """
    if leader_reaped and is_led(pgid):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signum)


def has_ended(pidfd: int) -> bool:
    """The process has, reaped or not. One that we have let go of (-1) has."""
    if pidfd < 0:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def is_led(pgid: int) -> bool:
    """The process whose number it has is alive, and a member of it."""
    return _is_live_member(str(pgid), pgid)


def members_of_group(pgid: int) -> Iterator[int]:
    """Its live members. Reads one small file for each process of the machine, unless the group is not there at all."""
    with contextlib.suppress(PermissionError):
        try:
            os.killpg(pgid, 0)
        except ProcessLookupError:
            return
    for entry in os.listdir("/proc"):  # noqa: PTH208 # the names are enough
        if entry.isdigit() and _is_live_member(entry, pgid):
            yield int(entry)


def _is_live_member(pid: str, pgid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
            stat = file.read()
    except OSError:
        return False  # it has gone meanwhile
    # The command, in parentheses, can hold anything; what follows the last one is: state ppid pgrp …
    state, _, group, *_ = stat[stat.rfind(b")") + 2 :].split(None, 3)
    return int(group) == pgid and state not in _DEAD
