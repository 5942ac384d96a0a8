"""What a child is to become, and its last steps before: those between fork and exec.

Each page of memory that a child touches is copied, and there are not cheap: what can be worked out before the
fork is. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Final, NoReturn

from jobd.launcher import become
from jobd.launcher.become import REPORT, SPEC
from jobd.launcher.terminal import take_control

FIRST_IMPOSSIBLE: Final = 2**30
"""A descriptor that no process has; close_range(2) does not mind."""
KERNEL: Final = become.kernel()
INTERPRETER: Final = (os.path.realpath(sys.executable), "-I", "-S", "-B", "-c")  # outside of any environment
ENTRY: Final = f"import os, json; spec = json.load(os.fdopen({SPEC})); exec(spec['source']); inside(spec)"
"""What is executed inside a sandbox first; the rest comes in a memfd, since everybody sees a command."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a child is to become.

    Attributes:
        enter: files into which it writes "0" first: cgroup.procs of the groups that are to hold it.
        limits: resource limits (getrlimit(2)), by number: soft and hard.
        nice: how much nicer than we are.
        umask: as umask(2).
        identity: user, group and supplementary groups that it runs as; ours when None.
        stdin: "none" (/dev/null), "data" (the descriptor ``given``), "pipe" or "terminal".
        size: rows and columns of the terminal.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    enter: list[str]
    limits: dict[int, tuple[int, int]]
    nice: int
    umask: int
    identity: tuple[int, int, list[int]] | None
    io_priority: int = 0
    no_new_privileges: bool = False
    drop_capabilities: bool = False
    sandbox: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    stdin: str = "none"
    size: tuple[int, int] = (0, 0)
    given: int = -1


@dataclass(frozen=True, slots=True)
class Signals:
    """What a child would have of our ways with signals: a program expects all of them as usual.

    Attributes:
        ignored: Python ignores some, and so may whoever started us (nohup, a shell's &). Those that have a handler need
            no mention: the kernel takes that off.
        blocked: there are some.
    """

    ignored: list[int]
    blocked: bool

    @classmethod
    def now(cls) -> Signals:
        """Looked at before the fork, in the thread that does it."""
        ignored = [each for each in become.CHANGEABLE if signal.getsignal(each) == signal.SIG_IGN]
        return cls(ignored, bool(signal.pthread_sigmask(signal.SIG_BLOCK, [])))


def _give_streams(uid: int, gid: int) -> None:
    """Let them be opened as /dev/stdout and so on by the one that they are for; /dev/null stays everybody's."""
    null = os.stat(os.devnull)  # noqa: PTH116 # pathlib is large, and this is all it would do
    for fd in (0, 1, 2):
        if not os.path.samestat(os.fstat(fd), null):
            os.fchown(fd, uid, gid)


def last_steps(
    program: Program,
    streams: tuple[int, int, int],
    report: int,
    spec: int,
    signals: Signals,
    entrances: list[str],
    not_done: list[str] | None,
) -> NoReturn:
    """In the child: become the program, or tell why not. Never returns, whatever happens.

    Args:
        streams: stdin, stdout, stderr.
        report: where to tell.
        spec: with a sandbox, what is left to be done inside; -1 without.
        entrances: files of control groups into which "0" is to be written.
        not_done: more of them, when the fork has neither seen to those nor to the handlers of signals; else None.
    """
    stage = "exec"
    try:
        os.setsid()
        if program.stdin == "terminal":
            take_control(streams[0])
        if not_done is not None:
            signal.set_wakeup_fd(-1)
        become.handle_signals(become.DEFAULT, signals.ignored if not_done is None else become.CHANGEABLE)
        if signals.blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(program.umask)
        report, spec = _arrange_descriptors(*streams, report, spec)
        stage = "contain"
        for entrance in (*(not_done or ()), *entrances):
            fd = os.open(entrance, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        stage = "limits"
        if program.nice:
            os.nice(program.nice)
        if program.io_priority:
            become.set_io_priority(KERNEL, program.io_priority)
        if program.sandbox:
            become.make_room(program.limits)  # only now, as root; they are set inside
        else:
            become.set_limits(program.limits)
        if program.identity:
            uid, gid, groups = program.identity
            stage = "streams"
            _give_streams(uid, gid)
            stage = "groups"
            os.setgroups(groups)
            stage = "group"
            os.setresgid(gid, gid, gid)
            stage = "user"
            os.setresuid(uid, uid, uid)  # the last one: it takes the right to any of this, and all capabilities
        if program.sandbox:
            stage = "isolate"
            _enter_sandbox(program)
        if program.drop_capabilities:
            stage = "capabilities"
            become.drop_capabilities(KERNEL)
        if program.no_new_privileges:
            stage = "privileges"
            become.forgo_privileges(KERNEL)
        stage = "cwd"
        os.chdir(program.cwd)
        stage = "exec"
        os.execvpe(program.argv[0], program.argv, program.env)  # noqa: S606 # no shell is what we want
    except OSError as exc:
        os.write(report, f"{stage} {exc.errno}".encode())
    except BaseException:  # noqa: BLE001 # a child that is no program yet must not run on as a second launcher
        os.write(report, f"{stage} 0".encode())
    finally:
        os._exit(127)


def _arrange_descriptors(stdin: int, out: int, err: int, report: int, spec: int) -> tuple[int, int]:
    """Have those that the program, or the way to it, is to have, under their numbers, and no other."""
    os.dup2(stdin, 0)
    # Those that are moved must not lie where others are moved to.
    report, spec = (
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SPEC + 1) if 0 <= fd <= SPEC else fd for fd in (report, spec)
    )
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(report, REPORT, inheritable=False)
    if spec >= 0:
        os.dup2(spec, SPEC, inheritable=False)
    # Whatever we were given ourselves, and whatever a mistake of ours left open, is not for a job to have.
    os.closerange(SPEC + 1 if spec >= 0 else REPORT + 1, FIRST_IMPOSSIBLE)
    return REPORT, SPEC if spec >= 0 else -1


def _enter_sandbox(program: Program) -> NoReturn:
    """Execute what makes the sandbox. It stays outside, and is deaf to signals: those are for the job."""
    become.handle_signals(become.IGNORE, [each for each in become.CHANGEABLE if each != signal.SIGCHLD])
    if program.no_new_privileges:
        become.forgo_privileges(KERNEL)
    os.set_inheritable(REPORT, True)
    os.set_inheritable(SPEC, True)
    command = [*program.sandbox, *INTERPRETER, ENTRY]
    os.execve(command[0], command, program.outside)  # noqa: S606 # no shell is what we want
