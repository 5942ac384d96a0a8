"""Forks this process: as ``os.fork`` does, and into a control group of version 2 in the same step.

To move a process into such a group afterwards (write to ``cgroup.procs``) takes a lock of the whole machine, for which
the kernel waits until every processor has been elsewhere once (RCU): 10 ms, now and then 100. A child that begins in
its group (clone3(2), CLONE_INTO_CGROUP, Linux 5.7) waits for nobody; nor does one that moves itself, a thread alone,
in version 1 (``tasks``, since Linux 5.5).

Only a process that has never had more than one thread is forked so: else the C library and the interpreter have locks
and lists to put right in the child, which ``os.fork`` has them do. (setresuid(2) waited for ever in a child for which
the C library had a thread on its list that was not there.) Standard library only.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import struct
import sys
from collections.abc import Sequence
from typing import Final

CLONE3: Final = 435
"""The number of clone3(2), on all machines of 64 bits."""
CLEAR_SIGHAND: Final = 0x1_0000_0000
"""CLONE_CLEAR_SIGHAND: no handler of ours is in the child, from its first instruction on."""
INTO_CGROUP: Final = 0x2_0000_0000
_ARGUMENTS: Final = struct.Struct("11Q")
"""struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
cgroup."""
_NUMBER: Final = ctypes.c_long(CLONE3)
_SIZE: Final = ctypes.c_size_t(_ARGUMENTS.size)
# PyDLL: the lock of the interpreter is held, in both processes, when the call returns.
_syscall: Final = ctypes.PyDLL(None).syscall
try:
    _single_threaded = ctypes.c_char.in_dll(ctypes.PyDLL(None), "__libc_single_threaded")
except ValueError:  # a C library that does not say (glibc does since 2.32)
    _single_threaded = ctypes.c_char(0)
PROCS: Final = "cgroup.procs"
TASKS: Final = "tasks"


def fork(group: int = -1) -> tuple[int, bool]:
    """Fork. Returns the child's pid, 0 in the child; and whether the child began in the group and without handlers of
    signals: it did not where the kernel, or a filter of system calls, does not let it.

    Args:
        group: a descriptor of the directory of a control group of version 2; -1 for none.

    Raises:
        OSError: there are no more processes.
    """
    if sys.maxsize > 2**32 and _single_threaded.value != b"\0":
        into = INTO_CGROUP if group >= 0 else 0
        arguments = _ARGUMENTS.pack(CLEAR_SIGHAND | into, 0, 0, 0, signal.SIGCHLD, *[0] * 5, max(group, 0))
        pid: int = _syscall(_NUMBER, arguments, _SIZE)
        if pid >= 0:
            return pid, True
    return os.fork(), False  # if that cannot be done either, it says why


def ways_into(entrances: Sequence[str]) -> tuple[int, list[str], list[str]]:
    """How a child comes into control groups, whose ``cgroup.procs`` these are: the directory of the one to be forked
    into, open, or -1; the file for it, if it could not be; and the files for the others. Into files "0" is written."""
    group, instead, files = -1, list[str](), list[str]()  # there is one hierarchy of version 2 (cgroups(7))
    for entrance in entrances:
        directory = entrance.removesuffix(PROCS)
        if _of_version_1(os.path.dirname(directory.rstrip("/"))):  # noqa: PTH120 # pathlib is large
            files.append(directory + TASKS)
            continue
        assert group < 0
        try:
            group, instead = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), [entrance]
        except OSError:  # the child meets it too, and says so
            files.append(entrance)
    return group, instead, files


@functools.lru_cache(maxsize=64)
def _of_version_1(room: str) -> bool:
    return os.path.exists(f"{room}/{TASKS}")  # noqa: PTH110 # the same
