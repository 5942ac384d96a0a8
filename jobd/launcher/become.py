"""The last steps of a process before it executes a job's program, and the kernel's calls for them.

They are taken in two places: in the child that the launcher forks (``children.py``), and, when the job is to be in a
sandbox, inside of that. There this file is the whole program, of which nothing is left but the job.

Standard library only, and nothing of this project: inside a sandbox there may be none of it.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

REPORT = 3
"""The descriptor over which a child tells how far it came; nothing more comes over it once it has executed."""
SPEC = 4
"""In a sandbox: the descriptor of a memfd with what is to be executed, and how."""
INSIDE = b"inside"
"""Said over REPORT by the process in the sandbox that is to be the job; it goes on when it is answered."""

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITIES_3 = 0x20080522
IOPRIO_WHO_PROCESS = 1
IO_PRIORITIES = (0, 3 << 13, 2 << 13 | 4)
"""What ioprio_set(2) takes for each class of the contract: the kernel's class, and in it the level."""
SYSCALLS = {"x86_64": {"capset": 126, "ioprio_set": 251}, "aarch64": {"capset": 91, "ioprio_set": 30}}
"""Calls that the C library has no function for (capset(2) is libcap's)."""
NOTHING = (0, 0, 0, 0, 0)
"""The arguments of prctl(2) that a call does without."""
CHANGEABLE = [int(each) for each in signal.valid_signals() if each not in (signal.SIGKILL, signal.SIGSTOP)]
"""The signals that can be caught."""
DEFAULT, IGNORE = int(signal.SIG_DFL), int(signal.SIG_IGN)


def kernel() -> Callable[..., int]:
    """``call(name, *numbers)`` for prctl(2), and what is in SYSCALLS. To be had before a fork: it loads a library.

    The calls raise OSError; ENOSYS where the number of the call is not known.
    """
    import ctypes  # it takes a while, and most that run inside a sandbox do without
    import errno  # the same

    # PyDLL: the interpreter, of which there is one thread in a child, need not be let go for such a call.
    libc = ctypes.PyDLL(None, use_errno=True)
    prctl = libc.prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    numbers = SYSCALLS.get(os.uname().machine, {}) if sys.maxsize > 2**32 else {}

    def call(name: str, *arguments: int | bytes) -> int:
        if name == "prctl":
            result = prctl(*arguments, *NOTHING[len(arguments) :])
        elif name in numbers:
            words = [each if isinstance(each, bytes) else ctypes.c_ulong(each) for each in arguments]
            result = libc.syscall(ctypes.c_long(numbers[name]), *words)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(result)

    return call


def forgo_privileges(call: Callable[..., int]) -> None:
    """No program that is executed from now on gains anything by that."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities(call: Callable[..., int]) -> None:
    """Have none from now on, and none to be had by executing a program."""
    for number in range(64):
        try:
            if call("prctl", PR_CAPBSET_READ, number):
                call("prctl", PR_CAPBSET_DROP, number)
        except OSError:  # the kernel has no more; or we have none, and who gains none has nothing of the bounding set
            break
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = CAPABILITIES_3.to_bytes(4, sys.byteorder) + bytes(4), bytes(24)
    call("capset", header, nothing)


def set_io_priority(call: Callable[..., int], priority: int) -> None:
    """The turn at a disk of this process and its children (ioprio_set(2))."""
    call("ioprio_set", IOPRIO_WHO_PROCESS, 0, priority)


set_handler = getattr(signal.signal, "__wrapped__", signal.signal)
"""Without the enumerations around it: a forked child copies each page of memory that it uses, and they are many."""


def handle_signals(how: int, which: Iterable[int]) -> None:
    """Let these signals be handled so (DEFAULT, IGNORE)."""
    for signum in which:
        set_handler(signum, how)


def make_room(limits: dict[int, tuple[int, int]]) -> None:
    """Raise what is lower than these limits, as only root can, and lower nothing yet."""
    import resource  # as below

    for number, (_, hard) in limits.items():
        soft, before = resource.getrlimit(number)
        if before != resource.RLIM_INFINITY and (hard > before or hard == resource.RLIM_INFINITY):
            set_limits({number: (soft, hard)})


def set_limits(limits: dict[int, tuple[int, int]]) -> None:
    """Only at the end: what we have open ourselves may be beyond them."""
    import resource  # not before it is needed: inside a sandbox every import takes its time

    for number, limit in limits.items():
        try:
            resource.setrlimit(number, limit)
        except ValueError as exc:  # EPERM, as Python tells it: only root may raise a hard limit
            import errno

            raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from exc


def inside(spec: dict[str, Any]) -> NoReturn:
    """The process in a sandbox that is to be the job: become it, or tell why not."""
    stage = "isolate"
    try:
        os.set_inheritable(REPORT, False)
        os.write(REPORT, INSIDE)
        if not os.read(REPORT, 16):
            os._exit(127)  # whoever would be told of our end is gone
        # Whoever made the sandbox is to be deaf to signals, and we were, until now.
        handle_signals(DEFAULT, CHANGEABLE)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # These import something, for which there may soon be no descriptor.
        os.get_exec_path(spec["env"])
        call = kernel() if spec["drop_capabilities"] else None
        stage = "limits"
        set_limits({int(number): (soft, hard) for number, (soft, hard) in spec["limits"].items()})
        if call:
            stage = "capabilities"
            drop_capabilities(call)
        stage = "cwd"
        os.chdir(spec["cwd"])
        stage = "exec"
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 # no shell is what we want
    except OSError as exc:
        os.write(REPORT, f"{stage} {exc.errno}".encode())
    except BaseException:  # noqa: BLE001 # a traceback would be the job's output
        os.write(REPORT, f"{stage} 0".encode())
    finally:
        os._exit(127)
