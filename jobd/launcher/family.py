"""Who descends from this process, and signals that reach nobody else.

The launcher is the parent of all jobs, and of all their orphans (``orphans.py``), so whatever a job starts descends
from it, and what does not is no job's.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

ROUNDS: Final = 100
PAUSE: Final = 0.002
"""Seconds between two looks at those who are being ended."""
LOOKS: Final = 100
"""At who a process descends from, until two of them in a row see the same."""
DEEPEST: Final = 100_000
"""Steps up to an ancestor; a tree that is deeper, or changes all the time, is not followed."""


def signal_descendants(pids: Iterable[tuple[int, int]], signum: int, *, but: int | None) -> list[tuple[int, int]]:
    """Send a signal to those of these processes (pid, and start in ticks since boot) that descend from this one.

    Args:
        but: a child of ours that is not meant, nor are its own.

    Returns:
        Those that live, and do not descend from it.
    """
    strangers = []
    for pid, started in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if _is_ours(pid, started, but):
                    signal.pidfd_send_signal(pidfd, signum)
                elif (there := _stat(pid)) and there[1] == started:
                    strangers.append((pid, started))
            finally:
                os.close(pidfd)
    return strangers


def signal_marked(pids: Iterable[tuple[int, int]], signum: int, mark: int) -> list[tuple[int, int]]:
    """The same for those that bear a mark (:func:`jobd.worker.containment.mark_of`), whoever they descend from: what
    has outlived its launcher. Returns those that live, and do not bear it. A mark that this process has itself is
    that of another jobd's job."""
    if _mark_of(os.getpid()) == mark:
        return list(pids)
    strangers = []
    for pid, started in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                marked, there = _mark_of(pid) == mark, _stat(pid)
                if there and there[1] == started:
                    if marked:
                        signal.pidfd_send_signal(pidfd, signum)
                    else:
                        strangers.append((pid, started))
            finally:
                os.close(pidfd)
    return strangers


def _mark_of(pid: int) -> int | None:
    """The limit that is nobody's but a job's (jobd.worker.containment.MARK_LIMIT)."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:  # noqa: PTH123 # pathlib is large, and this is all it would do
            words = file.read().partition(b"\nMax file locks")[2].split(None, 2)
    except OSError:
        return None
    return int(words[1]) if len(words) > 2 and words[1].isdigit() else None


def end_those_of(uid: int) -> bool:
    """SIGKILL to all that descend from this process and are this user's, until none is left; False when some are."""
    for _ in range(ROUNDS):
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_live_and_of(pid, uid)]  # noqa: PTH208 # the names are enough
        left = [pid for pid in left if _ancestry(pid, None) != []]
        if not left:
            return True
        signal_descendants([(pid, started(pid) or 0) for pid in left], signal.SIGKILL, but=None)
        time.sleep(PAUSE)
    return False


def _is_live_and_of(pid: int, uid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
            facts = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except OSError:
        return False
    return facts[b"State"].split()[0] not in (b"Z", b"X") and int(facts[b"Uid"].split()[0]) == uid


def _is_ours(pid: int, started: int, but: int | None) -> bool:
    """While somebody holds a pidfd, made before: else the number could mean another one by the time of the signal."""
    before = None
    for _ in range(LOOKS):
        found = _ancestry(pid, but)
        if found == []:
            return False
        # A parent that ended between two steps, and whose number was another's by then, is no parent at the next look.
        if found and found == before:
            return found[0] == (pid, started)
        before = found
    return False


def _ancestry(pid: int, but: int | None) -> list[tuple[int, int]] | None:
    """From a process up to a child of ours: each one's pid and start; [] when it is not below us, None when one of them
    ended meanwhile, as parents do that were sent the same signal just before: then it has another parent by now."""
    found: list[tuple[int, int]] = []
    while len(found) < DEEPEST:
        there = _stat(pid)
        if there is None:
            return None if found else []
        if pid == but:
            return []
        found.append((pid, there[1]))
        if there[0] == os.getpid():
            return found
        if there[0] <= 1:
            return []
        pid = there[0]
    return []


def is_above(number: int, pid: int) -> bool:
    """A process that is called so, where it is itself, has this one below it."""
    for _ in range(LOOKS):
        above: int | None = pid
        while above and above > 1:
            there = _stat(above)
            above = there[0] if there else None
            if above and _own_number(above) == number:
                return True
        if above is not None or _stat(pid) is None:
            return False
    return False  # those above it end all the time: that is no launcher


def _own_number(pid: int) -> int:
    """In its own namespace of processes."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 # pathlib is large, and this is all it would do
            return int(file.read().partition(b"\nNSpid:")[2].partition(b"\n")[0].split()[-1])
    except (OSError, IndexError):
        return pid


def started(pid: int) -> int | None:
    """When it began, in ticks since boot; None when it is not there."""
    there = _stat(pid)
    return there[1] if there else None


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent, and start."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # thousands of times: no Path objects
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19])
