"""Makes one child process: fork, then exec, and an honest word about what went wrong in between.

Standard library only. The forking process has one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from dataclasses import dataclass
from typing import Final, NoReturn

PIPE_SIZE: Final = 256 * 1024
"""Wanted capacity of a pipe: what a job can write ahead of us. Less is fine (pipe(7) limits it for each user)."""
F_SETPIPE_SZ: Final = 1031
REPORT: Final = 3
UNCHANGEABLE: Final = {signal.SIGKILL, signal.SIGSTOP}
FIRST_IMPOSSIBLE: Final = 2**30
"""A descriptor that no process has; close_range(2) does not mind."""


@dataclass
class Child:
    """A process that was forked and has not said yet whether it could execute its program.

    Attributes:
        out, err: the reading ends of its stdout and stderr.
        report: becomes readable when it has executed (at its end) or could not ("stage errno").
    """

    pid: int
    out: int
    err: int
    report: int

    def failure(self) -> tuple[str, int] | None:
        """Why it could not execute its program (stage, errno), or None when it did. Waits for ``report``."""
        said = os.read(self.report, 64)
        os.close(self.report)
        if not said:
            return None
        stage, _, number = said.decode().partition(" ")
        return stage, int(number)

    def fds(self, executed: bool) -> list[int]:
        """The descriptors that are open."""
        return [self.out, self.err] if executed else [self.out, self.err, self.report]

    def close(self) -> None:
        """Let go of the pipes."""
        os.close(self.out)
        os.close(self.err)


@dataclass(frozen=True, slots=True)
class Program:
    """What a child is to become.

    Attributes:
        enter: files into which it writes "0" first: cgroup.procs of the groups that are to hold it.
        limits: resource limits (getrlimit(2)), by number: soft and hard.
        nice: how much nicer than we are.
        umask: as umask(2).
        identity: user, group and supplementary groups that it runs as; ours when None.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    enter: list[str]
    limits: dict[int, tuple[int, int]]
    nice: int
    umask: int
    identity: tuple[int, int, list[int]] | None


def spawn(program: Program) -> Child:
    """Fork a child that leads a session of its own and executes a program, stdin from /dev/null.

    Raises:
        OSError: there are no more processes or descriptors; nothing is left behind.
    """
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as theirs:

        def pipe() -> tuple[int, int]:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, reading)
            theirs.callback(os.close, writing)
            return reading, writing

        (out, out_job), (err, err_job), (report, reporting) = pipe(), pipe(), pipe()
        _enlarge(out)
        _enlarge(err)
        pid = os.fork()
        if pid == 0:
            _become(program, out_job, err_job, reporting)
        opened.pop_all()
        return Child(pid, out, err, report)


def _enlarge(pipe: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE)


def _give_streams(uid: int, gid: int) -> None:
    """Let them be opened as /dev/stdout and so on by the one that they are for; /dev/null stays everybody's."""
    null = os.stat(os.devnull)  # noqa: PTH116 # pathlib is large, and this is all it would do
    for fd in (0, 1, 2):
        if not os.path.samestat(os.fstat(fd), null):
            os.fchown(fd, uid, gid)


def _become(program: Program, out: int, err: int, report: int) -> NoReturn:
    """In the child: become the program, or tell why not. Never returns, whatever happens."""
    stage = "exec"
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        # Python ignores some, and so may whoever started us (nohup, a shell's &): a program expects them all as usual.
        for signum in signal.valid_signals() - UNCHANGEABLE:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(program.umask)
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(report, REPORT, inheritable=False)
        report = REPORT
        # Whatever we were given ourselves, and whatever a mistake of ours left open, is not for a job to have.
        os.closerange(REPORT + 1, FIRST_IMPOSSIBLE)
        stage = "contain"
        for entrance in program.enter:
            fd = os.open(entrance, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        stage = "limits"
        for number, limit in program.limits.items():  # only now: our own descriptors may be beyond it
            resource.setrlimit(number, limit)
        os.nice(program.nice)
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
