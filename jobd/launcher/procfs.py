"""What /proc says of processes (proc(5))."""

from __future__ import annotations

import os

_DEAD = frozenset({b"Z", b"X"})


def group_has_members(pgid: int) -> bool:
    """Some process of the group is alive. Zombies, which only wait to be reaped by whoever has them, do not count.

    Blocks for as long as it takes to read one small file for each process of the machine.
    """
    return any(_is_live_member(entry, pgid) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208 # the names are enough


def _is_live_member(pid: str, pgid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
            stat = file.read()
    except OSError:
        return False  # it has gone meanwhile
    # The command, in parentheses, can hold anything; what follows the last one is: state ppid pgrp …
    state, _, group, *_ = stat[stat.rfind(b")") + 2 :].split(None, 3)
    return int(group) == pgid and state not in _DEAD
